"""A full disk, a lost GPU and a launcher that ends in the middle: what runs goes on or is gone."""

import asyncio
import dataclasses
import errno
from pathlib import Path

import pytest

from provider_agent.commands import launcher
from provider_agent.machines import gpus
from provider_agent.machines.errors import MachineError, MachineExit
from provider_agent.machines.fleet import Fleet
from provider_agent.machines.records import MachineRecord, MachineStage, Records
from provider_agent.machines.spec import Platform
from tests.provider_agent.fakes import lease
from tests.provider_agent.machines.doubles import FIRST, Host, alive
from tests.provider_agent.machines.test_machine_life import SNP_ANSWERS, stage, started, until

OPEN = {"open": ["frames", "blobs"]}


def full_from(monkeypatch: pytest.MonkeyPatch, wanted: MachineStage) -> None:
    """No record of this stage, or a later one, finds room."""
    write, order = Records.write, list(MachineStage)

    def refuse(self: Records, record: MachineRecord) -> None:
        if order.index(record.stage) >= order.index(wanted):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, record)

    monkeypatch.setattr(Records, "write", refuse)


@pytest.mark.parametrize(
    "wanted", [MachineStage.CLAIMED, MachineStage.STARTING, MachineStage.BOOTING]
)
async def test_a_launch_that_can_not_be_put_on_record_does_not_happen(
    host: Host, monkeypatch: pytest.MonkeyPatch, wanted: MachineStage
) -> None:
    full_from(monkeypatch, wanted)
    fleet = host.fleet()
    with pytest.raises(MachineError) as failed:
        await host.launch(fleet)
    assert failed.value.code == "disk"
    assert fleet.view().machines == ()
    assert host.left_over() == []


async def test_a_disk_that_fills_up_does_not_end_what_runs(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_from(monkeypatch, MachineStage.READY)
    fleet = host.fleet()
    await started(host, fleet)
    host.behave(**OPEN, event="guest-shutdown")
    assert (await fleet.wait(lease())).record.exit == MachineExit.ENDED
    await fleet.stop(lease())
    assert host.left_over() == []


async def test_a_gpu_that_falls_off_the_bus_during_a_lease_is_quarantined(tmp_path: Path) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    host.behave(**OPEN, answers=SNP_ANSWERS)
    fleet = host.fleet()
    await started(host, fleet, gpus=(FIRST,))
    host.sysfs.bind(FIRST, None)
    await fleet.stop(lease())
    assert fleet.view().gpus[0].state == "quarantined"
    assert fleet.view().gpus[0].remedy


@pytest.mark.parametrize("silent", [60.0, 0.3])
async def test_a_qemu_that_takes_its_time_to_end_ended_for_the_reason_that_it_gave(
    host: Host, silent: float
) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, silent=silent)
    fleet = host.fleet()
    pid = await started(host, fleet)
    # A guest's terabytes are given back long after the monitor is closed.
    host.behave(**OPEN, event="guest-shutdown", linger=1)
    record = (await fleet.wait(lease())).record
    assert (record.exit, record.reason) == (MachineExit.ENDED, "guest-shutdown")
    assert not alive(pid)
    await fleet.stop(lease())


async def test_a_state_that_no_qemu_has_is_an_end_all_the_same(host: Host) -> None:
    fleet = host.fleet()
    await started(host, fleet)
    host.behave(**OPEN, answers={"query-status": {"status": "\x1b[31m no state " * 9}})
    async with asyncio.timeout(20):
        record = (await fleet.wait(lease())).record
    assert (record.exit, record.reason) == (MachineExit.STOOD_STILL, "state-unknown")
    await fleet.stop(lease())


async def test_a_gpu_that_can_not_be_shut_away_for_want_of_room_stays_claimed_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    host.behave(**OPEN, answers=SNP_ANSWERS)
    fleet = host.fleet()
    await started(host, fleet, gpus=(FIRST,))
    host.admin.broken.add(FIRST)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(gpus, "replace_file", full)
        host.behave(**OPEN, answers=SNP_ANSWERS, event="guest-shutdown")
        record = (await fleet.wait(lease())).record
    assert record.quarantined == (FIRST,)
    assert fleet.view().gpus[0].state == "claimed"
    await fleet.stop(lease())
    assert fleet.view().gpus[0].state == "quarantined"


async def test_a_launcher_that_is_told_to_end_while_it_launches_leaves_nothing(host: Host) -> None:
    host.behave(**OPEN, mute=["query-version"])
    fleet = host.fleet()
    launching = asyncio.create_task(host.launch(fleet))
    await until(lambda: fleet.view().machines and fleet.view().machines[0].pid)
    pid = fleet.view().machines[0].pid
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert not alive(pid or 0)
    assert fleet.view().machines == ()
    assert host.left_over() == []


async def test_a_launcher_that_ends_while_a_guest_resumes_does_not_touch_its_gpu(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    host.behave(**OPEN, answers=SNP_ANSWERS, mute=["cont"])
    fleet: Fleet = host.fleet()
    launching = asyncio.create_task(host.launch(fleet, gpus=(FIRST,)))
    await until(lambda: stage(fleet) is MachineStage.BOOTING)
    pid = fleet.view().machines[0].pid
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await fleet.close()
    assert alive(pid or 0)
    assert host.admin.resets == [FIRST]  # before the lease, and not since
    host.behave(**OPEN, answers=SNP_ANSWERS)
    other = host.fleet()
    await other.adopt()
    await until(lambda: stage(other) is MachineStage.READY)
    await other.stop(lease())
    assert not alive(pid or 0)
    assert other.view().gpus[0].state == "free"


def test_a_launcher_without_its_configuration_or_in_an_open_home_does_not_start(
    tmp_path: Path,
) -> None:
    import argparse
    import os

    parser = argparse.ArgumentParser()
    launcher.add_parser(parser.add_subparsers())
    home = tmp_path / "home"
    arguments = ["launcher", "--config", str(tmp_path / "none"), "--home", str(home)]
    assert launcher.run(parser.parse_args(arguments)) == os.EX_CONFIG
    home.chmod(0o755)
    assert launcher.run(parser.parse_args(arguments)) == os.EX_CONFIG
