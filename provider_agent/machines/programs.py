"""One running program that need not be our child: found by number and start time, held by handle.

Rules:
- A process is named by id *and* start time (clock ticks since boot), so an id that was given away
  again is somebody else. After that, a pidfd alone is used: it cannot become another's.
- Whoever starts one learns its name before it becomes QEMU (`exec_shim`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from provider_agent import unix_sockets
from provider_agent.install.units import VM_PREFIX, vm_properties
from provider_agent.machines.errors import MachineError

SHIM: Final = Path(__file__).with_name("exec_shim.py")
SHIM_SECONDS_MAX: Final = 20.0  # 50 ms; a transient unit on a busy host takes seconds
WORDS_BYTES_MAX: Final = 4096  # the first words of QEMU's standard error


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramName:
    """What a process is called until it has ended, on one boot of one host."""

    pid: int
    started: int
    """Clock ticks since boot."""


def name_of(pid: int) -> ProgramName | None:
    """The name of a process that is alive; None: there is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = content.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):  # it has ended, and nobody has collected it
        return None
    return ProgramName(pid=pid, started=int(fields[19]))


class Program:
    """A running program, held by a handle."""

    def __init__(self, name: ProgramName, handle: int) -> None:
        self.name: Final = name
        self._handle = handle
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(handle, self._note_end)

    @classmethod
    def find(cls, name: ProgramName) -> Program | None:
        """Hold the program so named; None: it has ended."""
        try:
            handle = os.pidfd_open(name.pid)
        except OSError:
            return None
        # After the handle is open: the number cannot change hands between look and hold.
        if name_of(name.pid) != name:
            os.close(handle)
            return None
        return cls(name, handle)

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._ended.is_set()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most so long; whether it has ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    def kill(self) -> None:
        """Send it SIGKILL."""
        if self._handle >= 0 and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def let_go(self) -> None:
        """Give the handle back; the program runs on."""
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _note_end(self) -> None:
        self._ended.set()
        self._loop.remove_reader(self._handle)


class FirstWords:
    """Reads a pipe for as long as it is open, and keeps the first bytes of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = bytearray()
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not (part := os.read(self._descriptor, 1 << 14)):
                self.close()
            self._kept += part[: WORDS_BYTES_MAX - len(self._kept)]

    @property
    def text(self) -> str:
        """What was said, on one line, without control characters."""
        words = self._kept.decode("utf-8", "replace").split()
        return "".join(c for c in " ".join(words) if c.isprintable())

    def close(self) -> None:
        """Read no more."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(kw_only=True, slots=True)
class Started:
    """A program that was just started."""

    program: Program
    words: FirstWords
    child: subprocess.Popen[bytes]
    """What we forked: the program itself, or the command that waits for its unit."""

    def collect(self) -> None:
        """Leave no zombie; called once the program has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(5)
        self.words.close()

    def leave(self) -> None:
        """It runs on without us."""
        self.words.close()
        self.child.returncode = 0  # no complaint at the end about a child that is left behind


class Starter(Protocol):
    """How QEMU becomes a process of its own."""

    async def start(
        self,
        lease: str,
        arguments: tuple[str, ...],
        sockets: tuple[int, ...],
        note: Callable[[ProgramName], None],
    ) -> Started:
        """Start it with these sockets as descriptors 3 and up; `note` is called before it runs."""
        ...


class ChildStarter:
    """Starts QEMU as a child in a session of its own: it outlives a launcher that is killed."""

    async def start(
        self,
        lease: str,  # noqa: ARG002 - a unit is named by it, a child is not
        arguments: tuple[str, ...],
        sockets: tuple[int, ...],
        note: Callable[[ProgramName], None],
    ) -> Started:
        """As `Starter`. Raises MachineError."""
        return await _start((), arguments, sockets, note)


class UnitStarter:
    """Starts QEMU as a transient systemd unit with neither privilege nor network."""

    def __init__(self, *, emulated: bool, cpus: str | None = None) -> None:
        self._emulated, self._cpus = emulated, cpus

    async def start(
        self,
        lease: str,
        arguments: tuple[str, ...],
        sockets: tuple[int, ...],
        note: Callable[[ProgramName], None],
    ) -> Started:
        """As `Starter`. Raises MachineError."""
        prefix = unit_command(lease, emulated=self._emulated, cpus=self._cpus)
        return await _start(prefix, arguments, sockets, note)


def unit_name(lease: str) -> str:
    """The unit of a lease's machine."""
    return f"{VM_PREFIX}{lease}.service"


def unit_command(lease: str, *, emulated: bool, cpus: str | None) -> tuple[str, ...]:
    """``systemd-run`` for one machine. `--pipe` hands our socket over as its standard input."""
    properties = list(vm_properties(emulated=emulated))
    if cpus is not None:
        properties.append(f"AllowedCPUs={cpus}")
    command = ["systemd-run", "--quiet", "--collect", "--pipe", "--unit", unit_name(lease)]
    for each in properties:
        command += ["--property", each]
    return (*command, "--")


async def _start(
    prefix: tuple[str, ...],
    arguments: tuple[str, ...],
    sockets: tuple[int, ...],
    note: Callable[[ProgramName], None],
) -> Started:
    """(1) The shim says its name. (2) That is written down. (3) It becomes the program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    words: FirstWords | None = None
    child: subprocess.Popen[bytes] | None = None
    program: Program | None = None
    try:
        ours.settimeout(0)
        with theirs:
            command = [*prefix, sys.executable, "-I", "-S", "-B", str(SHIM)]
            child = _fork(command, theirs.fileno(), writer)
        os.close(writer)
        writer = -1
        words = FirstWords(reader)
        async with asyncio.timeout(SHIM_SECONDS_MAX):
            name = _parse_name((await unix_sockets.receive(ours)).content)  # (1)
        program = Program.find(name)
        if program is None:
            raise MachineError("start", "ended before it was started")
        note(name)  # (2)
        await unix_sockets.send(ours, json.dumps(arguments).encode(), sockets)  # (3)
    except BaseException as error:
        if words is not None:
            words.close()
        else:
            os.close(reader)
        if program is not None:
            program.let_go()
        if child is not None:
            child.kill()
            child.wait()
        if isinstance(error, OSError | TimeoutError):
            raise MachineError("start", f"no start: {str(error) or 'in time'}") from error
        raise
    finally:
        ours.close()
        if writer >= 0:
            os.close(writer)
    return Started(program=program, words=words, child=child)


def _fork(command: list[str], channel: int, errors: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and shim, or systemd-run before it
        command,
        stdin=channel,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd="/",
        start_new_session=True,  # it outlives us, and an interrupt at the terminal is ours
    )


def _parse_name(content: bytes) -> ProgramName:
    try:
        said = json.loads(content)
        return ProgramName(pid=int(said["pid"]), started=int(said["started"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MachineError("start", "the starter said nothing of use") from error
