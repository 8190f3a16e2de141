"""A GPU is claimed once, proven before and after, and shut away when anything is unexpected."""

import asyncio
import errno
from pathlib import Path

import pytest

from provider_agent.machines import gpus as gpus_module
from provider_agent.machines.errors import MachineError, MachineRefusedError
from provider_agent.machines.gpu_tool import CcMode
from provider_agent.machines.gpus import Gpus, GpuState
from provider_agent.machines.pci import PciView
from tests.provider_agent.fakes import lease
from tests.provider_agent.machines.doubles import (
    FIRST,
    SECOND,
    FakeGpuAdmin,
    FakeSysfs,
    fake_admin,
    two_cards,
)

ONE, TWO = lease(1), lease(2)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree: FakeSysfs = two_cards(folder / "root")
        self.admin: FakeGpuAdmin = fake_admin()
        self.gpus = self.again()

    def again(self, **changes: object) -> Gpus:
        """As a launcher that has just started finds them."""
        return Gpus(
            self.folder / "claims",
            offered=(FIRST, SECOND),
            pci=PciView(self.folder / "root", **changes),
            admin=self.admin,
        )

    def states(self) -> dict[str, tuple[GpuState, str]]:
        return {each.address: (each.state, each.detail) for each in self.gpus.standings()}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def refusal(bench: Bench, *addresses: str) -> str:
    bench.gpus.claim(ONE, addresses)
    with pytest.raises(MachineError) as refused:
        await bench.gpus.prepare(ONE, addresses)
    return refused.value.code


async def test_a_fit_gpu_is_reset_and_read_again_before_a_lease_and_after_it(bench: Bench) -> None:
    bench.gpus.claim(ONE, (FIRST,))
    await bench.gpus.prepare(ONE, (FIRST,))
    assert bench.admin.resets == [FIRST]
    assert bench.admin.reads[-1] == FIRST
    assert bench.states()[FIRST] == (GpuState.CLAIMED, ONE)
    assert await bench.gpus.release(ONE) == ()
    assert bench.admin.resets == [FIRST, FIRST]
    assert bench.states() == {FIRST: (GpuState.FREE, ""), SECOND: (GpuState.FREE, "")}


async def test_a_second_lease_on_a_gpu_is_refused_even_by_a_launcher_that_starts_again(
    bench: Bench,
) -> None:
    bench.gpus.claim(ONE, (FIRST,))
    with pytest.raises(MachineRefusedError, match="gpu-taken"):
        bench.again().claim(TWO, (SECOND, FIRST))
    assert bench.states()[SECOND] == (GpuState.FREE, "")  # all or none
    bench.gpus.claim(ONE, (FIRST,))  # its own again
    assert bench.states()[FIRST] == (GpuState.CLAIMED, ONE)


def test_a_gpu_that_the_host_does_not_offer_is_refused(bench: Bench) -> None:
    with pytest.raises(MachineRefusedError, match="gpu-not-offered"):
        bench.gpus.claim(ONE, ("0000:99:00.0",))


async def test_a_gpu_that_another_lease_claims_is_not_prepared(bench: Bench) -> None:
    bench.gpus.claim(TWO, (FIRST,))
    with pytest.raises(MachineRefusedError, match="gpu-not-claimed"):
        await bench.gpus.prepare(ONE, (FIRST,))


@pytest.mark.parametrize("driver", ["nvidia", "nouveau", None])
async def test_a_gpu_with_a_driver_of_the_hosts_is_refused(
    bench: Bench, driver: str | None
) -> None:
    bench.tree.bind(FIRST, driver)
    assert await refusal(bench, FIRST) == "gpu-driver"
    assert bench.admin.resets == []


async def test_a_gpu_in_a_group_with_a_stranger_is_refused(bench: Bench) -> None:
    bench.tree.add("0000:42:00.0", group=17, kind="0x010802")
    assert await refusal(bench, FIRST) == "gpu-group"


async def test_bridges_and_its_own_functions_may_share_a_gpus_group(bench: Bench) -> None:
    bench.tree.add("0000:40:01.0", group=17, kind="0x060400")
    bench.tree.add("0000:41:00.1", group=17, kind="0x040300")
    bench.gpus.claim(ONE, (FIRST,))
    await bench.gpus.prepare(ONE, (FIRST,))
    assert bench.admin.resets == [FIRST]


async def test_a_gpu_without_a_group_is_refused(bench: Bench) -> None:
    (bench.tree.devices / FIRST / "iommu_group").unlink()
    assert await refusal(bench, FIRST) == "gpu-group"


async def test_a_gpu_that_fell_off_the_bus_is_refused(bench: Bench) -> None:
    (bench.tree.devices / FIRST).rename(bench.tree.root / "gone")
    assert await refusal(bench, FIRST) == "gpu-absent"


@pytest.mark.parametrize("mode", [CcMode.OFF, CcMode.DEVTOOLS])
async def test_gpus_that_are_not_in_mode_on_are_refused_and_not_reset(
    bench: Bench, mode: CcMode
) -> None:
    bench.admin.modes = dict.fromkeys((FIRST, SECOND), mode)
    assert await refusal(bench, FIRST) == "gpu-mode"
    assert bench.admin.resets == []


async def test_mixed_modes_on_one_host_are_refused_also_when_the_leased_one_is_on(
    bench: Bench,
) -> None:
    bench.admin.modes[SECOND] = CcMode.OFF
    assert await refusal(bench, FIRST) == "gpu-mixed-modes"


async def test_a_gpu_in_a_guests_hands_is_not_touched_while_another_is_prepared(
    bench: Bench,
) -> None:
    bench.gpus.claim(TWO, (SECOND,))
    bench.gpus.claim(ONE, (FIRST,))
    await bench.gpus.prepare(ONE, (FIRST,))
    assert SECOND not in bench.admin.reads


async def test_a_mode_that_was_set_and_waits_for_a_reset_is_found_out_by_the_reset(
    bench: Bench,
) -> None:
    bench.admin.set_mode(FIRST, CcMode.DEVTOOLS)
    assert await refusal(bench, FIRST) == "gpu-mode"
    assert bench.states()[FIRST] == (GpuState.QUARANTINED, "gpu-mode")


async def test_a_reset_that_fails_before_a_lease_is_quarantine(bench: Bench) -> None:
    bench.admin.broken.add(FIRST)
    assert await refusal(bench, FIRST) == "gpu-tool"
    assert bench.states()[FIRST] == (GpuState.QUARANTINED, "gpu-tool")


@pytest.mark.parametrize("trouble", ["reset", "mode", "driver"])
async def test_anything_unexpected_after_a_lease_is_quarantine_that_outlives_the_launcher(
    bench: Bench, trouble: str
) -> None:
    bench.gpus.claim(ONE, (FIRST, SECOND))
    await bench.gpus.prepare(ONE, (FIRST, SECOND))
    if trouble == "reset":
        bench.admin.broken.add(FIRST)
    elif trouble == "mode":
        bench.admin.set_mode(FIRST, CcMode.OFF)
    else:
        bench.tree.bind(FIRST, "nvidia")
    assert await bench.gpus.release(ONE) == (FIRST,)
    bench.gpus = bench.again()
    assert bench.states()[FIRST][0] is GpuState.QUARANTINED
    assert bench.states()[SECOND] == (GpuState.FREE, "")
    with pytest.raises(MachineRefusedError, match="gpu-quarantined"):
        bench.gpus.claim(TWO, (FIRST,))


async def test_a_gpu_that_a_process_still_holds_is_not_reset_and_not_freed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus_module, "HELD_TRIES_MAX", 2)
    monkeypatch.setattr(gpus_module, "HELD_PAUSE_SECONDS", 0.001)
    bench.gpus.claim(ONE, (FIRST,))
    bench.tree.hold(4242, "/dev/vfio/17")
    assert await bench.gpus.release(ONE) == (FIRST,)
    assert bench.admin.resets == []
    assert bench.states()[FIRST] == (GpuState.QUARANTINED, "gpu-held")


async def test_a_gpu_whose_group_the_kernel_calls_busy_is_not_freed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus_module, "HELD_TRIES_MAX", 1)
    asked: list[Path] = []

    def busy(path: Path) -> None:
        asked.append(path)
        raise OSError(errno.EBUSY, "Device or resource busy")

    bench.gpus = bench.again(open_node=busy)
    bench.gpus.claim(ONE, (FIRST,))
    assert await bench.gpus.release(ONE) == (FIRST,)
    assert asked == [bench.tree.root / "dev/vfio/17"]
    assert bench.states()[FIRST] == (GpuState.QUARANTINED, "gpu-held")


async def test_a_gpu_is_freed_once_its_holder_has_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus_module, "HELD_PAUSE_SECONDS", 0.01)
    bench.gpus.claim(ONE, (FIRST,))
    bench.tree.hold(4242, "/dev/vfio/devices/vfio17")
    task = asyncio.create_task(bench.gpus.release(ONE))
    await asyncio.sleep(0.02)
    (bench.tree.root / "proc/4242/fd/9").unlink()
    assert await task == ()
    assert bench.states()[FIRST] == (GpuState.FREE, "")


async def test_a_claim_that_was_cut_off_half_written_is_found_and_given_back(bench: Bench) -> None:
    (bench.folder / "claims" / f"{FIRST}.claim").write_text("")
    assert bench.gpus.claimants() == {""}
    assert await bench.gpus.release("") == ()
    assert bench.states()[FIRST] == (GpuState.FREE, "")


# --- PPCIe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["0x2330\n", "0x9999\n", "junk", None])
async def test_a_card_in_ppcie_mode_is_refused_with_the_reason_and_not_reset(
    bench: Bench, device: str | None
) -> None:
    """A Hopper; and a card that nobody can name is asked as if it were one."""
    if device is not None:
        (bench.tree.devices / FIRST / "device").write_text(device)
    bench.admin.ppcie[FIRST] = True
    bench.admin.modes[FIRST] = CcMode.OFF  # as it reads in this mode: the cause is told first
    bench.gpus.claim(ONE, (FIRST,))
    with pytest.raises(MachineRefusedError, match=r"gpu-ppcie.*--set-ppcie-mode=off"):
        await bench.gpus.prepare(ONE, (FIRST,))
    assert bench.admin.resets == []


async def test_a_blackwell_is_not_asked_for_a_mode_that_it_does_not_have(bench: Bench) -> None:
    (bench.tree.devices / FIRST / "device").write_text("0x2901\n")
    bench.gpus.claim(ONE, (FIRST,))
    await bench.gpus.prepare(ONE, (FIRST,))
    assert bench.admin.ppcie == {}
    assert bench.admin.resets == [FIRST]
