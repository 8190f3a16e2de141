"""QEMU is on record before it runs, is held by a handle, and inherits nothing but its sockets."""

# ruff: noqa: ASYNC220, ASYNC222, ASYNC240 - nothing else runs on a test's loop

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from provider_agent.machines.errors import MachineError
from provider_agent.machines.programs import (
    ChildStarter,
    Program,
    ProgramName,
    name_of,
    unit_command,
)
from tests.provider_agent.fakes import lease
from tests.provider_agent.machines.doubles import alive, make_program

LOOK = """
import json, os, resource, sys
here = os.path.dirname(os.path.abspath(sys.argv[0]))
found = {
    "argv": sys.argv[1:], "env": sorted(os.environ), "pid": os.getpid(),
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "names": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 3, 4)],
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "session": os.getsid(0),
}
open(here + "/found.partial", "w").write(json.dumps(found))
os.rename(here + "/found.partial", here + "/found")
"""


async def test_the_program_gets_its_sockets_as_three_and_up_and_nothing_else(
    tmp_path: Path,
) -> None:
    path = make_program(tmp_path / "program", LOOK)
    secret = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(secret, True)
    one, two = socket.socketpair()
    named: list[ProgramName] = []
    with one, two:
        inodes = [os.fstat(each.fileno()).st_ino for each in (one, two)]
        started = await ChildStarter().start(
            lease(), (str(path), "a", "b c"), (one.fileno(), two.fileno()), named.append
        )
    os.close(secret)
    assert await started.program.wait(10)
    started.program.let_go()
    started.collect()
    found = json.loads((tmp_path / "found").read_text())
    assert found["argv"] == ["a", "b c"]
    assert found["env"] in (["PATH"], ["LC_CTYPE", "PATH"])  # Python's own, in a C locale
    assert [fd for fd in found["fds"] if fd < 64][:5] == [0, 1, 2, 3, 4]
    assert not [fd for fd in found["fds"] if fd > 5]  # 5: the listing itself
    assert found["names"] == ["/dev/null", "/dev/null", *(f"socket:[{n}]" for n in inodes)]
    assert found["core"] == [0, 0]
    assert named == [started.program.name]
    assert found["pid"] == named[0].pid == found["session"]


async def test_nothing_becomes_a_program_whose_name_was_not_written_down(tmp_path: Path) -> None:
    path = make_program(tmp_path / "program", f"open({str(tmp_path / 'ran')!r}, 'w')")
    seen: list[ProgramName] = []
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())

    def full_disk(name: ProgramName) -> None:
        seen.append(name)
        raise OSError(28, "No space left on device")

    with pytest.raises(MachineError, match="No space left"):
        await ChildStarter().start(lease(), (str(path),), (), full_disk)
    assert not alive(seen[0].pid)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    assert not (tmp_path / "ran").exists()


async def test_a_shim_whose_launcher_died_before_it_answered_ends(tmp_path: Path) -> None:
    from provider_agent.machines.programs import SHIM

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        shim = subprocess.Popen([sys.executable, "-I", "-S", "-B", str(SHIM)], stdin=theirs)
    said = json.loads(await asyncio.to_thread(ours.recv, 4096))
    assert said["pid"] == shim.pid
    ours.close()
    assert await asyncio.to_thread(shim.wait, 10) == 75


async def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    started = await ChildStarter().start(lease(), (str(tmp_path / "qemu"),), (), lambda _name: None)
    assert await started.program.wait(10)
    for _ in range(50):
        if started.words.text:
            break
        await asyncio.sleep(0.01)
    assert "No such file" in started.words.text
    started.program.let_go()
    started.collect()


async def test_a_number_that_was_given_to_somebody_else_is_not_taken_for_the_program() -> None:
    mine = name_of(os.getpid())
    assert mine is not None
    assert Program.find(ProgramName(pid=mine.pid, started=mine.started + 1)) is None
    held = Program.find(mine)
    assert held is not None
    held.let_go()


async def test_a_program_that_nobody_collected_counts_as_ended() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    name = name_of(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert name_of(child.pid) is None
    assert name is None or Program.find(name) is None
    child.wait()


def test_a_machines_unit_has_no_privilege_no_network_and_no_core_dump() -> None:
    command = unit_command(lease(), emulated=False, cpus="8-15")
    assert command[-1] == "--"
    assert command[: command.index("--property")] == (
        "systemd-run",
        "--quiet",
        "--collect",
        "--pipe",
        "--unit",
        f"blindhost-vm-{lease()}.service",
    )
    properties = {command[i + 1] for i, word in enumerate(command) if word == "--property"}
    assert {
        "User=blindhost-vm",
        "PrivateNetwork=yes",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "DevicePolicy=closed",
        "LimitCORE=0",
        "LimitMEMLOCK=infinity",
        "Restart=no",
        "AllowedCPUs=8-15",
    } <= properties
