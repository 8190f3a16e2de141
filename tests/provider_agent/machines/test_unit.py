"""A machine's transient unit in a real systemd: sockets arrive, and neither privilege nor network.

The Debian of `nspawn` is booted; a small program stands where QEMU would.
"""

# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs on a test's loop

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider_agent import unix_sockets
from provider_agent.install.units import LAUNCHER_SANDBOX, VM_USER
from provider_agent.machines.programs import SHIM, unit_command, unit_name
from tests.provider_agent.fakes import lease
from tests.provider_agent.install import nspawn
from tests.provider_agent.install.nspawn import Container

REASON = nspawn.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

PROGRAM = """#!/usr/bin/python3 -ISB
import json, os, socket, sys
listener, connected = socket.socket(fileno=3), socket.socket(fileno=4)
listener.setblocking(True)
found = {
    "argv": sys.argv[1:], "uid": os.getuid(), "pid": os.getpid(),
    "links": [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line],
    "status": open("/proc/self/status").read(),
}
for name, call in {
    "inet": lambda: socket.socket(socket.AF_INET),
    "write": lambda: open("/etc/x", "w"),
    "shadow": lambda: open("/etc/shadow"),
}.items():
    try:
        call()
        found[name] = "ok"
    except OSError as error:
        found[name] = error.errno
connected.sendall(json.dumps(found).encode() + b"\\n")
while True:
    channel, _ = listener.accept()
    channel.sendall(b"alive")
    channel.close()
"""


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("unit")
    with nspawn.boot(Path(os.environ[nspawn.VARIABLE]), folder / "root") as booted:
        (booted.root / "opt/exec_shim.py").write_bytes(SHIM.read_bytes())
        (booted.root / "opt/program").write_text(PROGRAM)
        (booted.root / "opt/program").chmod(0o755)
        booted.run("useradd", "--system", "--user-group", VM_USER)
        yield booted


LAUNCHER = "standing-for-the-launcher.service"


def as_the_launcher(*argv: str) -> tuple[str, ...]:
    """In a unit with the launcher's own sandbox."""
    command = ["systemd-run", "--quiet", "--collect", "--pipe", "--unit", LAUNCHER]
    for name, value in LAUNCHER_SANDBOX:
        command += ["--property", f"{name}={value}"]
    return (*command, "--", *argv)


def enter(container: Container, *argv: str) -> list[str]:
    return ["nsenter", "-t", str(container.leader), "-m", "-u", "-i", "-p", "-r", "-w", *argv]


async def test_the_unit_gets_the_sockets_and_outlives_whoever_started_it(
    container: Container, tmp_path: Path
) -> None:
    command = unit_command(lease(), emulated=False, cpus=None)
    shim = ("/usr/bin/python3", "-I", "-S", "-B", "/opt/exec_shim.py")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, (tmp_path / "errors").open("wb") as errors:
        starting = subprocess.Popen(
            enter(container, *as_the_launcher(*command, *shim)),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    tmp_path.chmod(0o700)
    listener = unix_sockets.listen(tmp_path, "door", kind=socket.SOCK_STREAM)
    here, there = socket.socketpair()
    try:
        ours.settimeout(0)
        async with asyncio.timeout(60):
            content = (await unix_sockets.receive(ours)).content
        assert content, (tmp_path / "errors").read_text()
        said = json.loads(content)
        assert container.show(unit_name(lease()), "MainPID") == str(said["pid"])
        arguments = json.dumps(["/opt/program", "-S"]).encode()
        await unix_sockets.send(ours, arguments, (listener.fileno(), there.fileno()))
        there.close()
        here.settimeout(30)
        found = json.loads(await asyncio.to_thread(here.makefile("rb").readline))
        assert found["argv"] == ["-S"]
        assert found["pid"] == said["pid"]
        assert found["uid"] == int(container.run("id", "-u", VM_USER).stdout)
        assert found["links"] == ["lo"]
        assert "NoNewPrivs:\t1" in found["status"]
        assert "CapEff:\t0000000000000000" in found["status"]
        assert (found["inet"], found["write"], found["shadow"]) == (97, 30, 13)
        # The launcher's unit ends, and systemd-run in it: systemd restarts it so after a crash.
        container.run("systemctl", "kill", "--signal=KILL", LAUNCHER)
        await asyncio.to_thread(starting.wait, 20)
        listener.close()
        await asyncio.sleep(0.5)
        async with asyncio.timeout(10):
            channel = await unix_sockets.dial(tmp_path, "door", kind=socket.SOCK_STREAM)
        with channel:
            assert await asyncio.get_running_loop().sock_recv(channel, 5) == b"alive"
        assert container.show(unit_name(lease()), "ActiveState") == "active"
        container.run("systemctl", "kill", "--signal=KILL", unit_name(lease()))
        container.wait(unit_name(lease()), "ActiveState", other_than="active")
        units = container.run("systemctl", "list-units", "--all", "blindhost-vm-*").stdout
        assert "0 loaded units" in units  # collected: nothing is left of it
    finally:
        for each in (ours, here, there, listener):
            each.close()
        if starting.poll() is None:
            starting.kill()
            starting.wait()


async def test_a_unit_whose_launcher_ends_before_it_answers_never_becomes_a_machine(
    container: Container,
) -> None:
    name = unit_name(lease(2))
    command = unit_command(lease(2), emulated=False, cpus=None)
    shim = ("/usr/bin/python3", "-I", "-S", "-B", "/opt/exec_shim.py")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        starting = subprocess.Popen(
            enter(container, *command, *shim),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    ours.settimeout(0)
    async with asyncio.timeout(60):
        assert (await unix_sockets.receive(ours)).content
    ours.close()
    assert await asyncio.to_thread(starting.wait, 30) == 75
    assert container.show(name, "ActiveState") in ("inactive", "")
