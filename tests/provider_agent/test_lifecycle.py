"""A lease is started at most once, reported once, and leaves nothing, wherever its agent dies."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.wire import LeaseEvent, LeaseState
from provider_agent import journal as journal_module
from provider_agent.cache import BlobCache
from provider_agent.errors import AgentError, RejectedError
from provider_agent.journal import Journal, LeaseRecord, Stage
from provider_agent.keeper import Keeper
from provider_agent.launcher import ChipRefusedError
from provider_agent.lifecycle import BRIEFING_MS_MAX, REPORT_MS_MAX, Facts, Market, Step, decide
from tests.provider_agent.fakes import PATIENCE, WALLS, FakeChip, FakeMarket, lease
from trust.errors import BlindhostError


class KilledError(BaseException):
    """SIGKILL, in-process: nothing catches it, nothing cleans up."""


class FaultyJournal(Journal):
    """Kills the agent just before or just after its n-th write."""

    def __init__(self, folder: Path, *, at: int, after: bool) -> None:
        super().__init__(folder)
        self.left, self.after = at, after

    def write(self, record: LeaseRecord) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KilledError
        super().write(record)
        if self.left == 0:
            raise KilledError


class World:
    def __init__(self, home: Path) -> None:
        self.home, self.market, self.chip, self.now = home, FakeMarket(), FakeChip(), 1_000

    def keeper(self, journal: Journal | None = None) -> Keeper:
        return Keeper(
            journal=journal or self.journal(),
            market=self.market,
            chip=self.chip,
            cache=BlobCache(self.home / "cache", bytes_max=1 << 22),
            clock=lambda: self.now,
            patience=PATIENCE,
        )

    def journal(self) -> Journal:
        return Journal(self.home / "leases")

    async def settle(self, keeper: Keeper, rounds: int = 4) -> None:
        for _ in range(rounds):
            await keeper.round()

    def stages(self) -> list[Stage]:
        return [each.stage for each in self.journal().records()]

    def left_over(self) -> list[Path]:
        return list((self.home / "leases").iterdir())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.chip.crash()


async def test_a_lease_is_launched_reported_served_ended_and_forgotten(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.chip.launched == [name]
    assert world.stages() == [Stage.SERVING]
    world.chip.exit(name, 0)
    await world.settle(keeper, 8)
    assert world.market.reports[name] == [("launched", "launched"), ("ended", "exit-0")]
    assert world.chip.enclaves == {}
    assert world.left_over() == []
    await keeper.close()


WRITES = 9  # new, briefed, starting, started, serving, ended, reported, done: and none after


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, WRITES))
async def test_an_agent_killed_at_any_write_goes_on_where_it_was(
    world: World, at: int, after: bool
) -> None:
    name = world.market.open_lease()
    journal = FaultyJournal(world.home / "leases", at=at, after=after)
    keeper = world.keeper(journal)
    killed = False
    for _ in range(2):  # the second agent is not killed
        try:
            await world.settle(keeper)
            if name in world.chip.enclaves:
                assert world.stages() == [Stage.SERVING]
                world.chip.exit(name, 0)
            await world.settle(keeper, 8)
        except KilledError:
            killed = True
            await keeper.close()
            keeper = world.keeper()
    await keeper.close()
    assert killed
    assert world.chip.launched == [name]
    assert [said for said in world.market.reports[name] if said[0] != "launched"] == [
        ("ended", "exit-0")
    ]
    assert world.chip.enclaves == {}
    assert world.left_over() == []


async def test_a_lease_that_was_starting_under_a_dead_chip_is_not_started_twice(
    world: World,
) -> None:
    name = world.market.open_lease()
    keeper = world.keeper(FaultyJournal(world.home / "leases", at=4, after=False))
    with pytest.raises(KilledError):
        await world.settle(keeper)
    assert world.stages() == [Stage.STARTING]
    assert world.chip.launched == [name]
    world.chip.crash()
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.chip.launched == [name]
    assert world.market.reports[name] == [("failed", "chip-restarted")]


async def test_an_agent_killed_before_the_launch_still_launches(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper(FaultyJournal(world.home / "leases", at=3, after=True))
    with pytest.raises(KilledError):
        await world.settle(keeper)
    assert world.chip.launched == []
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.chip.launched == [name]
    await keeper.close()


async def test_an_enclave_lost_with_its_chip_is_reported(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    world.chip.crash()
    await world.settle(keeper)
    assert world.market.reports[name][-1] == ("failed", "chip-lost")
    assert world.left_over() == []


async def test_nothing_starts_without_a_generation_order(world: World) -> None:
    name = world.market.open_lease(generation=None)
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.chip.launched == []
    world.market.set_lease(name, generation=1)
    await world.settle(keeper)
    assert world.chip.launched == [name]
    await keeper.close()


async def test_a_lease_that_never_gets_an_order_gives_the_machine_back(world: World) -> None:
    name = world.market.open_lease(generation=None)
    keeper = world.keeper()
    await world.settle(keeper)
    world.now += BRIEFING_MS_MAX + 1
    await world.settle(keeper)
    assert world.market.reports[name] == [("failed", "no-order")]


@pytest.mark.parametrize(
    "state", [LeaseState.REVOKED, LeaseState.PREEMPTED, LeaseState.EXHAUSTED, LeaseState.HOST_LOST]
)
async def test_a_lease_that_the_market_ends_is_torn_down(world: World, state: LeaseState) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    world.market.set_lease(name, state=state)
    await world.settle(keeper)
    assert world.chip.enclaves == {}
    assert world.market.reports[name][-1] == ("ended", "lease-over")
    assert world.left_over() == []


async def test_a_market_that_is_away_stops_nothing_and_starts_nothing(world: World) -> None:
    name = world.market.open_lease(1)
    keeper = world.keeper()
    await world.settle(keeper)
    world.market.open_lease(2)
    world.market.away = 1_000
    await world.settle(keeper)
    assert world.chip.launched == [name]
    assert world.chip.enclaves[name].exit is None
    world.market.away = 0
    await world.settle(keeper)
    assert world.chip.launched == [name, lease(2)]
    await keeper.close()


async def test_an_end_is_reported_once_the_market_is_back(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    world.chip.exit(name, 137)
    world.market.away = 1_000
    await world.settle(keeper)
    assert world.stages() == [Stage.ENDED]
    world.market.away = 0
    await world.settle(keeper, 8)
    assert world.market.reports[name][-1] == ("failed", "exit-137")
    assert world.left_over() == []


async def test_a_chip_that_refuses_ends_the_lease_with_its_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(document: bytes, door: Path) -> None:
        raise ChipRefusedError("failed", "no room")

    monkeypatch.setattr(world.chip, "launch", refuse)
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.market.reports[name] == [("failed", "refused-failed")]
    assert world.left_over() == []


async def test_a_report_that_the_market_rejects_does_not_hold_the_machine(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    world.chip.exit(name, 0)
    world.market.rejects["report_lease"] = RejectedError("conflict", "it is closed")
    await world.settle(keeper, 8)
    assert world.stages() == [Stage.DONE]
    assert not keeper.busy
    assert world.chip.launched == [name]


async def test_a_finished_lease_that_the_market_still_lists_is_not_started_again(
    world: World,
) -> None:
    name = world.market.open_lease()
    world.market.drains = True
    keeper = world.keeper()
    await world.settle(keeper)
    world.chip.exit(name, 0)
    await world.settle(keeper, 8)
    assert world.market.views[name].state is LeaseState.DRAINING
    assert world.stages() == [Stage.DONE]
    another = world.keeper()
    await world.settle(another, 8)
    assert world.chip.launched == [name]
    del world.market.views[name]
    await world.settle(another)
    assert world.left_over() == []


async def test_stopping_the_host_ends_every_lease(world: World) -> None:
    names = [world.market.open_lease(1), world.market.open_lease(2)]
    keeper = world.keeper()
    await world.settle(keeper)
    await keeper.stop_all("host-stopped")
    assert world.chip.enclaves == {}
    assert [world.market.reports[name][-1] for name in names] == [("failed", "host-stopped")] * 2


async def test_a_record_that_does_not_parse_is_never_guessed(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    await keeper.close()
    path = world.home / "leases" / name / journal_module.RECORD_FILE
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AgentError, match="does not parse"):
        world.keeper()


async def test_a_half_written_record_leaves_the_one_before(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    await keeper.close()
    path = world.home / "leases" / name / journal_module.RECORD_FILE
    path.with_suffix(".partial").write_bytes(b'{"event":')
    assert world.stages() == [Stage.SERVING]


async def test_a_broken_briefing_ends_the_lease(world: World) -> None:
    name = world.market.open_lease()
    keeper = world.keeper(FaultyJournal(world.home / "leases", at=3, after=True))
    with pytest.raises(KilledError):
        await world.settle(keeper)
    (world.home / "leases" / name / journal_module.BRIEFING_FILE).write_bytes(b"{")
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.market.reports[name] == [("failed", "refused-broken")]


# --- the decision alone --------------------------------------------------------------------------


def _record(stage: Stage) -> LeaseRecord:
    ended = stage in (Stage.ENDED, Stage.REPORTED, Stage.DONE)
    return LeaseRecord(
        lease=lease(),
        stage=stage,
        since=0,
        incarnation=bytes(16) if stage not in (Stage.NEW, Stage.BRIEFED) else None,
        event=LeaseEvent.ENDED if ended else None,
        reason="exit-0" if ended else None,
    )


def _facts(**changes: object) -> Facts:
    facts = Facts(market=Market.LIVE, ordered=True, incarnation=bytes(16), enclave=None)
    return dataclasses.replace(facts, **changes)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("market", list(Market))
def test_without_a_chip_that_answers_nothing_is_launched(stage: Stage, market: Market) -> None:
    action = decide(_record(stage), _facts(market=market, incarnation=None), 1)
    assert action is None or action.step not in (Step.LAUNCH, Step.NOTE_START)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_launch_is_decided_in_one_stage_alone_under_the_chip_on_record(stage: Stage) -> None:
    for incarnation in (bytes(16), b"\x01" * 16, None):
        for market in Market:
            action = decide(_record(stage), _facts(market=market, incarnation=incarnation), 1)
            if action is not None and action.step is Step.LAUNCH:
                assert (stage, incarnation, market) == (Stage.STARTING, bytes(16), Market.LIVE)


def test_a_report_is_given_up_after_a_day_and_the_machine_is_free() -> None:
    facts = _facts(market=Market.UNKNOWN)
    assert decide(_record(Stage.ENDED), facts, REPORT_MS_MAX) is None
    action = decide(_record(Stage.ENDED), facts, REPORT_MS_MAX + 1)
    assert action is not None
    assert action.step is Step.TEAR_DOWN


def test_an_ended_lease_is_stopped_before_anything_else() -> None:
    from provider_agent.chip_wire import EnclaveView

    enclave = EnclaveView(
        lease=lease(),
        pid=1,
        measurement=bytes(48),
        host_data=bytes(32),
        isolation=WALLS,
        exit=None,
    )
    for market in Market:
        action = decide(_record(Stage.ENDED), _facts(market=market, enclave=enclave), 1)
        assert action is not None
        assert action.step is Step.STOP


def test_errors_of_the_agent_are_of_the_one_tree() -> None:
    assert issubclass(AgentError, BlindhostError)
