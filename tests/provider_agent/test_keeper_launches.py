"""A slow launch holds up its own lease alone; an agent that stops lets machines be."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider_agent import keeper as keeper_module
from provider_agent.__main__ import end
from provider_agent.chip_wire import EnclaveView
from provider_agent.journal import Stage
from provider_agent.launcher import ChipRefusedError
from tests.provider_agent.fakes import FakeChip, lease
from tests.provider_agent.test_lifecycle import World
from tests.provider_agent.test_offers import Scene
from trust.jobs import LaunchDocument

ONE, TWO = lease(1), lease(2)


class SlowChip(FakeChip):
    """Starts the machine of `ONE` at once, and answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.booted = asyncio.Event()
        self.refusal: ChipRefusedError | None = None

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        view = await super().launch(document, door)
        if LaunchDocument.parse(document).lease == ONE:
            await self.booted.wait()
            if self.refusal is not None:
                raise self.refusal
        return view


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(keeper_module, "LAUNCH_LOOK_SECONDS", 0.01)
    found = World(tmp_path)
    found.chip = SlowChip()
    yield found
    found.chip.crash()


def stages(world: World) -> dict[str, Stage]:
    return {each.lease: each.stage for each in world.journal().records()}


async def test_one_slow_machine_keeps_no_other_lease_waiting(world: World) -> None:
    for number in (1, 2):
        world.market.open_lease(number)
    keeper = world.keeper()
    await world.settle(keeper)
    assert stages(world) == {ONE: Stage.STARTING, TWO: Stage.SERVING}
    assert world.market.reports[TWO] == [("launched", "launched")]
    assert ONE not in world.market.reports  # its machine is there, and has not booted
    world.chip.booted.set()
    await world.settle(keeper)
    assert stages(world) == {ONE: Stage.SERVING, TWO: Stage.SERVING}
    assert world.chip.launched == [ONE, TWO]
    await keeper.close()


async def test_a_slow_launch_that_fails_ends_its_lease_with_the_chips_word(world: World) -> None:
    world.market.open_lease(1)
    keeper = world.keeper()
    await world.settle(keeper)
    world.chip.refusal = ChipRefusedError("boot", "no door in time")
    world.chip.booted.set()
    await world.settle(keeper)
    assert world.market.reports[ONE] == [("failed", "refused-boot")]
    assert world.chip.enclaves == {}


async def test_a_lease_that_is_over_before_its_machine_has_booted_leaves_none(
    world: World,
) -> None:
    world.market.open_lease(1)
    keeper = world.keeper()
    await world.settle(keeper)
    del world.market.views[ONE]
    await world.settle(keeper)
    assert stages(world) == {ONE: Stage.STARTING}
    world.chip.booted.set()
    await world.settle(keeper, 8)
    assert world.chip.enclaves == {}
    assert world.chip.launched == [ONE]


async def test_ending_all_waits_for_what_is_being_launched_and_leaves_nothing(
    world: World,
) -> None:
    world.market.open_lease(1)
    keeper = world.keeper()
    await world.settle(keeper)
    stopping = asyncio.create_task(keeper.stop_all("host-stopped"))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    world.chip.booted.set()
    await stopping
    assert world.chip.enclaves == {}
    assert world.market.reports[ONE][-1] == ("failed", "host-stopped")


async def test_an_agent_that_stops_leaves_machines_to_the_next_one(
    world: World, tmp_path: Path
) -> None:
    world.chip.booted.set()
    world.market.open_lease(1)
    keeper, scene = world.keeper(), Scene(tmp_path)
    offer = scene.keeper()
    await offer.round(busy=True)
    await world.settle(keeper)
    await end(keeper, offer, outlive=True)
    assert scene.market.calls[-1] == "withdraw"  # no new lease meanwhile
    assert list(world.chip.enclaves) == [ONE]
    assert world.market.reports[ONE] == [("launched", "launched")]
    another = world.keeper()
    await world.settle(another)
    assert stages(world) == {ONE: Stage.SERVING}
    assert world.chip.launched == [ONE]
    await another.close()


async def test_an_agent_that_stops_while_a_machine_boots_is_followed_by_one_that_adopts_it(
    world: World, tmp_path: Path
) -> None:
    world.market.open_lease(1)
    keeper, scene = world.keeper(), Scene(tmp_path)
    await world.settle(keeper)
    await end(keeper, scene.keeper(), outlive=True)
    another = world.keeper()
    await world.settle(another)
    assert stages(world) == {ONE: Stage.SERVING}
    assert world.chip.launched == [ONE]
    await another.close()


async def test_an_agent_of_a_simulated_chip_ends_its_leases_when_it_stops(
    world: World, tmp_path: Path
) -> None:
    world.chip.booted.set()
    world.market.open_lease(1)
    keeper, scene = world.keeper(), Scene(tmp_path)
    await world.settle(keeper)
    await end(keeper, scene.keeper(), outlive=False)
    assert world.chip.enclaves == {}
    assert world.market.reports[ONE][-1] == ("failed", "host-stopped")
