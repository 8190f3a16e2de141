"""A real QEMU boots a real kernel: launcher, door, relay, keeper, and the ways in which it ends.

Emulation (TCG) alone: no SNP, no TDX, no GPU. `guest` says how the guest is made.
"""

# ruff: noqa: ASYNC240 - nothing else runs on a test's loop

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from provider_agent import unix_sockets
from provider_agent.cache import BlobCache
from provider_agent.frames import Frame, read_frame
from provider_agent.journal import Journal
from provider_agent.keeper import Keeper
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.errors import MachineExit
from provider_agent.machines.machine import Deadlines
from provider_agent.machines.records import MachineStage
from provider_agent.machines.server import LauncherServer
from provider_agent.market_port import Patience
from provider_agent.relay import Relay, RelayTask
from provider_agent.unix_sockets import Stream
from tests.provider_agent.fakes import FakeMarket, launch_document, lease
from tests.provider_agent.machines.doubles import Host, alive, make_image
from tests.provider_agent.machines.guest.build import INITRD, KERNEL, missing, prepared
from trust.encoding import digest
from trust.messages import lease_address

QEMU = Path(shutil.which("qemu-system-x86_64") or "/nonexistent")
LINE = "console=ttyS0 panic=-1 quiet"
BUYER = b"\x0b" * 32
BOOT_SECONDS = 120.0


def why_not() -> str | None:
    if not QEMU.exists():
        return "no qemu-system-x86_64"
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    version = said.partition("version ")[2].split(".")[0]
    if not version.isdigit() or int(version) < 10:
        return f"QEMU {version}: wanted 10 or newer, older ones crash under load"
    return missing(prepared())


REASON = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=REASON or "the guest is there"),
]


class RealHost(Host):
    """A host with QEMU itself."""

    def __init__(self, folder: Path, *, line: str = LINE) -> None:
        super().__init__(folder)
        self.deadlines = Deadlines(boot=BOOT_SECONDS, look=0.05)
        guest = prepared()
        assert guest is not None
        self.image = make_image(
            folder / "images",
            command_line=line,
            kernel=(guest / KERNEL).read_bytes(),
            initrd=(guest / INITRD).read_bytes(),
        )
        self.qemu = QEMU

    def behave(self, **behaviour: object) -> None:
        """Nobody behaves here: it is the real one."""


@dataclasses.dataclass
class Door:
    """A host's end of both ports, as a relay would have it."""

    folder: Path
    frames: Stream | None = None
    number: int = 0

    async def dial(self) -> None:
        channel = await unix_sockets.dial(self.folder, "messages", kind=socket.SOCK_STREAM)
        self.frames = Stream(channel)

    async def ask(self, payload: bytes) -> bytes:
        await self.order(payload)
        assert self.frames is not None
        async with asyncio.timeout(60):
            frame = await read_frame(self.frames)
        assert frame is not None
        assert frame.peer == BUYER
        return frame.payload

    async def order(self, payload: bytes) -> None:
        assert self.frames is not None
        self.number += 1
        frame = Frame(peer=BUYER, id=self.number.to_bytes(16, "big"), payload=payload)
        await self.frames.sendall(frame.encode())

    def close(self) -> None:
        if self.frames is not None:
            self.frames.close()


@dataclasses.dataclass
class Booted:
    host: RealHost
    fleet: object
    client: MachineLauncher
    door: Door
    pid: int


@contextlib.asynccontextmanager
async def serving(host: RealHost) -> AsyncIterator[tuple[object, MachineLauncher]]:
    fleet = host.fleet()
    await fleet.adopt()
    stop = asyncio.Event()
    server = LauncherServer(fleet, host.config())
    folder = host.folder / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    shape = MachineShape(platform=host.platform, image=host.image, memory_mib=512, vcpus=1, gpus=())
    client = MachineLauncher(
        shape,
        certificates=Certificates(root=bytes(32), endorsements=()),
        path=folder / "sock",
    )
    with unix_sockets.listen(folder, "sock", kind=socket.SOCK_SEQPACKET) as listening:
        task = asyncio.create_task(server.serve(listening, stop))
        try:
            yield fleet, client
        finally:
            for record in fleet.view().machines:
                await fleet.stop(record.lease)
            stop.set()
            await task


@contextlib.asynccontextmanager
async def booted(host: RealHost) -> AsyncIterator[Booted]:
    async with serving(host) as (fleet, client):
        folder = host.folder / "lease-door"
        folder.mkdir(mode=0o700)
        view = await client.launch(launch_document().encode(), folder)
        await until(lambda: stage(fleet) is MachineStage.READY)
        door = Door(folder)
        await door.dial()
        try:
            yield Booted(host, fleet, client, door, view.pid)
        finally:
            door.close()


def stage(fleet: object) -> MachineStage | None:
    records = fleet.view().machines
    return records[0].stage if records else None


async def until(condition: Callable[[], object], seconds: float = BOOT_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a guest boots, and tells nobody here
            await asyncio.sleep(0.02)


async def test_a_guest_boots_opens_its_door_and_answers_at_both_ports(tmp_path: Path) -> None:
    began = time.monotonic()
    async with booted(RealHost(tmp_path)) as here:
        ready = time.monotonic() - began
        assert await here.door.ask(b"E hello") == b"E hello"
        document = base64.b64decode(await here.door.ask(b"L"))
        assert document == launch_document().encode()
        await check_the_process(here)
        large = b"E" + bytes(range(256)) * 3000  # three quarters of the longest frame
        assert await here.door.ask(large) == large
        await here.door.order(b"X")
        ended = await here.client.wait(lease())
        assert ended.exit == MachineExit.ENDED
        assert not alive(here.pid)
        await here.client.stop(lease())
        assert here.host.left_over() == []
    report(f"boot to READY {ready:.2f} s")


async def check_the_process(here: Booted) -> None:
    """QEMU is as new as it has to be, without core dumps and privileges, and filters its calls."""
    assert (await here.client.probe()).qemu_major >= 10
    assert "-no-reboot" in Path(f"/proc/{here.pid}/cmdline").read_text().split("\0")
    limits = Path(f"/proc/{here.pid}/limits").read_text().splitlines()
    assert [line.split()[4] for line in limits if "core file" in line] == ["0"]
    status = Path(f"/proc/{here.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    # Who else comes to the monitor waits, and hears nothing.
    folder = here.host.home / "machines" / lease()
    other = await unix_sockets.dial(folder, "monitor", kind=socket.SOCK_STREAM)
    with other, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(other, 100), 0.5)


async def test_the_relay_serves_blobs_and_messages_of_an_emulated_machine(tmp_path: Path) -> None:
    async with booted(RealHost(tmp_path)) as here:
        here.door.close()
        market = FakeMarket()
        content = os.urandom(1 << 20)
        market.blobs[digest(content)] = content
        relay = Relay(
            RelayTask(lease=lease(), door=here.door.folder, briefing=b"a briefing"),
            market=market,
            cache=BlobCache(tmp_path / "cache", bytes_max=64 << 20),
            patience=Patience(tries_max=3),
        )
        task = asyncio.create_task(relay.run())
        times = 64
        began = time.monotonic()
        ask = b"B" + digest(content) + times.to_bytes(4, "big")
        market.deliver(lease_address(lease()), bytes(15) + b"\x01", ask, BUYER)
        await until(lambda: market.boxes.get(BUYER) or task.done(), 200)
        seconds = time.monotonic() - began
        status, length, fnv = market.boxes[BUYER][0].payload.split()
        assert (status, int(length)) == (b"0", times << 20)
        assert int(fnv, 16) == fnv1a(content)
        other = b"an object of the guest's"
        market.deliver(
            lease_address(lease()), bytes(15) + b"\x02", b"W" + digest(other) + other, BUYER
        )
        await until(lambda: len(market.boxes[BUYER]) == 2 or task.done(), 60)
        assert market.boxes[BUYER][1].payload == b"0"
        assert market.blobs[digest(other)] == other
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    report(f"64 MiB through the blob port {seconds:.2f} s, {64 / seconds:.1f} MiB/s")


async def test_a_keeper_runs_a_whole_lease_on_an_emulated_machine(tmp_path: Path) -> None:
    host = RealHost(tmp_path)
    async with serving(host) as (_, client):
        market = FakeMarket()
        market.open_lease()
        keeper = Keeper(
            journal=Journal(tmp_path / "leases"),
            market=market,
            chip=client,
            cache=BlobCache(tmp_path / "cache", bytes_max=64 << 20),
            clock=lambda: 1_800_000_000_000,
            patience=Patience(tries_max=3),
        )
        try:
            await keeper.round()
            market.deliver(lease_address(lease()), bytes(15) + b"\x01", b"E hello", BUYER)
            await until(lambda: market.boxes.get(BUYER))
            assert market.boxes[BUYER][0].payload == b"E hello"
            market.deliver(lease_address(lease()), bytes(15) + b"\x02", b"X", BUYER)
            for _ in range(200):
                await keeper.round()
                if lease() not in market.views and not keeper.busy:
                    break
                await asyncio.sleep(0.1)
            assert market.reports[lease()] == [("launched", "launched"), ("ended", "exit-0")]
        finally:
            await keeper.close()
        assert host.left_over() == []


async def test_a_guest_that_panics_ends_its_machine_and_is_told_from_one_that_powers_off(
    tmp_path: Path,
) -> None:
    async with booted(RealHost(tmp_path)) as here:
        await here.door.order(b"P")
        assert (await here.client.wait(lease())).exit == MachineExit.RESET
        assert not alive(here.pid)


async def test_a_guest_that_shuts_its_door_is_ended(tmp_path: Path) -> None:
    host = RealHost(tmp_path)
    host.deadlines = dataclasses.replace(host.deadlines, door=1)
    async with booted(host) as here:
        await here.door.order(b"D")
        assert (await here.client.wait(lease())).exit == MachineExit.DOOR
        assert not alive(here.pid)


async def test_a_guest_that_never_opens_its_door_is_ended_at_the_deadline(tmp_path: Path) -> None:
    host = RealHost(tmp_path, line=f"{LINE} blindhost.silent")
    host.deadlines = dataclasses.replace(host.deadlines, boot=8)
    async with serving(host) as (_, client):
        folder = tmp_path / "lease-door"
        folder.mkdir(mode=0o700)
        view = await client.launch(launch_document().encode(), folder)
        assert (await client.wait(lease())).exit == MachineExit.BOOT
        assert not alive(view.pid)


async def test_another_launcher_adopts_a_machine_with_its_door_and_sees_qemu_killed(
    tmp_path: Path,
) -> None:
    async with booted(RealHost(tmp_path)) as here:
        assert await here.door.ask(b"E one") == b"E one"
        await here.fleet.close()  # as a launcher that ends
        here.fleet._machines.clear()
        here.door.close()
        other = here.host.fleet()
        await other.adopt()
        assert stage(other) is MachineStage.READY
        await here.door.dial()
        assert await here.door.ask(b"E two") == b"E two"
        assert other.view().machines[0].pid == here.pid
        os.kill(here.pid, signal.SIGKILL)
        assert (await other.wait(lease())).record.exit == MachineExit.LOST
        await other.stop(lease())
        assert here.host.left_over() == []


def fnv1a(content: bytes) -> int:
    value = 0xCBF29CE484222325
    for each in content:
        value = (value ^ each) * 0x100000001B3 & (1 << 64) - 1
    return value


def report(text: str) -> None:
    """A figure for docs/host/launcher.md; pytest shows it with -s."""
    print(json.dumps({"emulated": text}))  # noqa: T201
