"""A launcher is killed at each stage; the next one takes over what runs, and clears up the rest."""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider_agent import unix_sockets
from provider_agent.machines import wire
from provider_agent.machines.errors import MachineError, MachineExit
from provider_agent.machines.records import MachineRecord, MachineStage, Records, boot_id
from provider_agent.machines.spec import Platform
from tests.provider_agent.fakes import lease
from tests.provider_agent.machines.doubles import FIRST, Host, alive
from tests.provider_agent.machines.test_machine_life import SNP_ANSWERS, stage, started, until

LAUNCHER = (
    "import argparse, sys\n"
    "from provider_agent.commands import launcher\n"
    "parser = argparse.ArgumentParser()\n"
    "launcher.add_parser(parser.add_subparsers())\n"
    "sys.exit(launcher.run(parser.parse_args()))\n"
)


class Service:
    """The real launcher as a process of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.socket = host.folder / "run" / "launcher.sock"
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        config = host.folder / "launcher.json"
        content = host.config().to_json()
        config.write_text(json.dumps(content))
        config.chmod(0o600)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-B", "-c", LAUNCHER, "launcher"),
                *("--config", str(config), "--home", str(host.home)),
                *("--socket", str(self.socket)),
            ],
            cwd=Path(__file__).parents[3],
            env={},
            stderr=subprocess.DEVNULL,
        )

    async def channel(self) -> socket.socket:
        async with asyncio.timeout(20):
            while True:
                try:
                    return await unix_sockets.dial(
                        self.socket.parent, self.socket.name, kind=socket.SOCK_SEQPACKET
                    )
                except OSError:
                    assert self.process.poll() is None
                    await asyncio.sleep(0.02)

    async def ask_to_launch(self) -> socket.socket:
        channel = await self.channel()
        messages, blobs = self.host.door()
        with messages, blobs:
            await unix_sockets.send(
                channel,
                wire.encode_packet(self.host.ask()),
                (messages.fileno(), blobs.fileno()),
            )
        return channel

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def service(host: Host) -> Iterator[Service]:
    service = Service(host)
    yield service
    service.kill()
    for record in Records(host.home / "machines").load():
        if record.pid is not None and alive(record.pid):
            os.kill(record.pid, signal.SIGKILL)


def on_disk(host: Host) -> MachineRecord | None:
    path = host.home / "machines" / lease() / "machine"
    if not path.exists():
        return None
    return MachineRecord.from_json(json.loads(path.read_text()))


def reached(host: Host, wanted: MachineStage) -> bool:
    record = on_disk(host)
    return record is not None and record.stage is wanted and record.pid is not None


OPEN = {"open": ["frames", "blobs"]}


@pytest.mark.parametrize("mute", ["greeting", "query-version", "query-kvm"])
async def test_a_launch_that_was_cut_off_before_the_guest_ran_is_forgotten_and_can_be_done_again(
    host: Host, service: Service, mute: str
) -> None:
    host.behave(**OPEN, mute=[mute])
    with await service.ask_to_launch():
        await until(lambda: reached(host, MachineStage.STARTING))
        service.kill()
    record = on_disk(host)
    assert record is not None
    assert record.pid is not None
    assert alive(record.pid)
    host.behave(**OPEN)
    fleet = host.fleet()
    await fleet.adopt()
    assert not alive(record.pid)
    assert fleet.view().machines == ()
    assert host.left_over() == []
    await started(host, fleet)
    await fleet.stop(lease())


async def test_a_launcher_killed_between_record_and_resume_is_completed_by_the_next(
    host: Host, service: Service
) -> None:
    host.behave(**OPEN, mute=["cont"])
    with await service.ask_to_launch():
        await until(lambda: reached(host, MachineStage.BOOTING))
        service.kill()
    host.behave(**OPEN)
    fleet = host.fleet()
    await fleet.adopt()
    await until(lambda: stage(fleet) is MachineStage.READY)
    await fleet.stop(lease())
    assert host.left_over() == []


@pytest.mark.parametrize("wanted", [MachineStage.BOOTING, MachineStage.READY])
async def test_a_machine_that_runs_is_adopted_and_watched_to_its_end(
    host: Host, service: Service, wanted: MachineStage
) -> None:
    host.behave(**(OPEN if wanted is MachineStage.READY else {}))
    with await service.ask_to_launch():
        await until(lambda: reached(host, wanted))
        service.kill()
    record = on_disk(host)
    assert record is not None
    fleet = host.fleet()
    await fleet.adopt()
    host.behave(**OPEN)
    await until(lambda: stage(fleet) is MachineStage.READY)
    (adopted,) = fleet.view().machines
    assert adopted.pid == record.pid
    assert alive(adopted.pid or 0)
    with pytest.raises(MachineError, match="exists"):
        await host.launch(fleet)
    host.behave(**OPEN, event="guest-shutdown")
    assert (await fleet.wait(lease())).record.exit == MachineExit.ENDED
    await fleet.stop(lease())
    assert host.left_over() == []


async def test_a_launcher_that_is_told_to_end_leaves_machines_running(
    host: Host, service: Service
) -> None:
    host.behave(**OPEN)
    with await service.ask_to_launch():
        await until(lambda: reached(host, MachineStage.READY))
        service.process.terminate()
        assert await asyncio.to_thread(service.process.wait, 20) == 0
    record = on_disk(host)
    assert record is not None
    assert record.stage is MachineStage.READY
    assert alive(record.pid or 0)
    fleet = host.fleet()
    await fleet.adopt()
    await fleet.stop(lease())
    assert not alive(record.pid or 0)


async def test_two_launchers_never_share_a_home(host: Host, service: Service) -> None:
    (await service.channel()).close()
    second = Service(host)
    assert await asyncio.to_thread(second.process.wait, 20) == os.EX_TEMPFAIL


# --- what only a record tells --------------------------------------------------------------------


async def test_a_machine_that_ended_while_nobody_watched_is_lost_and_gives_its_gpu_back(
    tmp_path: Path,
) -> None:
    host, pid = await left_by_a_launcher(tmp_path)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid))
    fleet = host.fleet()
    await fleet.adopt()
    (record,) = fleet.view().machines
    assert (record.exit, record.reason) == (MachineExit.LOST, "lost")
    assert fleet.view().gpus[0].state == "free"
    await fleet.stop(lease())
    assert host.left_over() == []


async def test_after_another_boot_of_the_host_a_machine_is_host_lost_and_its_number_untouched(
    tmp_path: Path,
) -> None:
    host, pid = await left_by_a_launcher(tmp_path)
    fleet = host.fleet(boot=bytes(16))
    await fleet.adopt()
    (record,) = fleet.view().machines
    assert (record.exit, record.reason) == (MachineExit.HOST_LOST, "host-lost")
    assert alive(pid)  # on this boot that number is somebody else's
    assert fleet.view().gpus[0].state == "free"
    assert fleet.view().incarnation == bytes(16)
    os.kill(pid, signal.SIGKILL)


async def test_a_machine_whose_monitor_is_silent_is_not_adopted_but_killed(tmp_path: Path) -> None:
    host, pid = await left_by_a_launcher(tmp_path)
    host.deadlines = dataclasses.replace(host.deadlines, greeting=0.3)
    host.behave(**OPEN, mute=["greeting"])
    await asyncio.sleep(0.3)  # it reads that before its next turn
    fleet = host.fleet()
    await fleet.adopt()
    assert not alive(pid)
    assert fleet.view().machines[0].exit == MachineExit.MONITOR


async def test_an_end_on_record_is_found_again_and_stays_until_it_is_stopped(
    tmp_path: Path,
) -> None:
    host, pid = await left_by_a_launcher(tmp_path)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid))
    await host.fleet().adopt()
    fleet = host.fleet()
    await fleet.adopt()
    assert fleet.view().machines[0].exit == MachineExit.LOST
    with pytest.raises(MachineError, match="exists"):
        await host.launch(fleet)
    await fleet.stop(lease())
    assert host.left_over() == []


async def test_a_claim_of_which_nothing_else_is_left_is_given_back(tmp_path: Path) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    claims = host.claims()
    assert claims is not None
    claims.claim(lease(), (FIRST,))
    fleet = host.fleet()
    await fleet.adopt()
    assert fleet.view().gpus[0].state == "free"
    assert host.admin.resets == [FIRST]


async def test_a_launcher_killed_while_it_proves_a_gpu_leaves_it_to_the_next_one_to_give_back(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    host.behave(**OPEN, answers=SNP_ANSWERS)
    reached_the_card, never = asyncio.Event(), asyncio.Event()

    async def hang(address: str) -> None:
        reached_the_card.set()
        await never.wait()

    host.admin.reset, reset = hang, host.admin.reset  # type: ignore[method-assign]
    launching = asyncio.create_task(host.launch(host.fleet(), gpus=(FIRST,)))
    await asyncio.wait_for(reached_the_card.wait(), 20)
    found = on_disk(host)
    assert found is not None
    assert (found.stage, found.pid) == (MachineStage.CLAIMED, None)
    host.admin.reset = reset  # type: ignore[method-assign]
    fleet = host.fleet()  # as if the first one were dead: its task does nothing more
    await fleet.adopt()
    assert fleet.view().machines == ()
    assert fleet.view().gpus[0].state == "free"
    assert host.admin.resets == [FIRST]
    assert host.left_over() == []
    launching.cancel()
    await asyncio.gather(launching, return_exceptions=True)


async def test_a_broken_record_stops_the_launcher_with_its_name(host: Host) -> None:
    records = Records(host.home / "machines")
    folder = records.folder(lease())
    folder.mkdir()
    (folder / "machine").write_text("{}")
    with pytest.raises(MachineError, match=f"broken-record: {lease()}"):
        await host.fleet().adopt()


async def test_a_record_with_half_a_process_is_none() -> None:
    with pytest.raises(Exception, match="number and a start"):
        MachineRecord(
            lease=lease(),
            platform=Platform.EMULATED,
            stage=MachineStage.READY,
            since=0,
            boot=boot_id(),
            pid=1,
            started=None,
            image=bytes(32),
            measurement=bytes(48),
            host_data=bytes(32),
            memory_mib=1,
            vcpus=1,
            gpus=(),
            quarantined=(),
            exit=None,
            reason=None,
        )


async def left_by_a_launcher(folder: Path) -> tuple[Host, int]:
    """A host whose launcher has let go of a machine with a GPU that runs; QEMU's number."""
    host = Host(folder, platform=Platform.SNP)
    host.behave(**OPEN, answers=SNP_ANSWERS)
    fleet = host.fleet()
    pid = await started(host, fleet, gpus=(FIRST,))
    await fleet.close()
    return host, pid
