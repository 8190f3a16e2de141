"""Starts a program that sees its image, Python, the door and the chip, and can write nowhere.

Rules:
- The program gets a mount, network, PID, IPC and UTS namespace of its own where the system gives
  them; `Isolation` says which it got and what the system said to the others. Whoever starts an
  enclave shows that report; nothing calls an enclave isolated without it.
- The new root is read-only whole: no tmpfs, no /dev/shm, no /tmp. Network is a loopback of its own.
- stdin, stdout and stderr are /dev/null. A traceback may quote what was decrypted, and a pipe to
  the host would be a channel that no list of channels names: what is left is the exit status.
- The chip's key is never in the starter's memory: the starter is a fresh interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from provider_agent.errors import LaunchError
from trust.encoding import Name, Size, Struct, Text, Uint32
from trust.errors import EncodingError

START_SECONDS_MAX: Final = 30  # the starter takes 0.1 s; a machine under load, ten times that
REPORT_BYTES_MAX: Final = 1 << 14
KILL_SECONDS_MAX: Final = 10  # unmapping 100 GB takes seconds

_READABLE: Final = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")
_HERE: Final = str(Path(__file__).resolve().parent.parent)
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from provider_agent.enclosure import main; main()"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation(Struct):
    """What stands between an enclave and its host, as the starter found it."""

    namespaces: Annotated[tuple[Name, ...], Size(least=0, most=8)]
    """Those that the enclave has for itself."""
    refused: Annotated[tuple[Text, ...], Size(least=0, most=8)]
    """``name: what the system said`` for each that it has not."""
    read_only_root: bool
    """Whether no path at all can be written; it needs the mount namespace."""
    uid: Uint32


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What to start, from where, and what it is given."""

    image: Path
    """The image folder; it is run as ``python -I -B IMAGE``."""
    staging: Path
    """An empty folder, for the root to be built on; it stays empty outside."""
    door: tuple[int, int]
    """Listening sockets: messages, blobs. They become descriptors 3 and 4."""
    chip: int
    """A connected socket. It becomes descriptor 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Report:
    pid: int
    isolation: Isolation


class Enclosed:
    """A program that runs in its sandbox."""

    def __init__(self, process: asyncio.subprocess.Process, said: _Report) -> None:
        self._process = process
        self.pid: Final = said.pid
        """Process id of the program itself, on the host."""
        self.isolation: Final = said.isolation
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._handle = os.pidfd_open(said.pid)

    async def wait(self) -> int:
        """Wait for its end: the exit status, or 128 + the signal that killed it."""
        status = await self._process.wait()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return status

    async def kill(self) -> int:
        """Kill it and all that it started, and wait until it is gone."""
        if self._handle is not None:
            # A handle of the process, not its number, which may be another's by now.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        return await asyncio.wait_for(self.wait(), KILL_SECONDS_MAX)


def readable_paths() -> tuple[str, ...]:
    """What of the host's files Python needs: its own prefix, the environment's, and libraries."""
    prefixes = {sys.base_prefix, sys.prefix, sys.exec_prefix, sys.base_exec_prefix}
    wanted = [*sorted(prefixes), *_READABLE]
    return tuple(
        path
        for path in wanted
        if os.path.lexists(path)
        and not any(other != path and Path(path).is_relative_to(other) for other in prefixes)
    )


async def start(program: Program) -> Enclosed:
    """Start a program in a sandbox, and return once it runs, with the report of its walls.

    Raises LaunchError with what the starter said; nothing runs on then.
    """
    reader, writer = os.pipe()
    try:
        process = await _spawn(program, writer)
    finally:
        os.close(writer)
    try:
        said = await _read_report(reader)
        return Enclosed(process, said)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise


async def _spawn(program: Program, report: int) -> asyncio.subprocess.Process:
    spec = {
        "parent": os.getpid(),
        "python": sys.executable,
        "readable": readable_paths(),
        "image": str(program.image),
        "staging": str(program.staging),
        "door": program.door,
        "chip": program.chip,
        "report": report,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-B", "-c", _BOOT, _HERE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(*program.door, program.chip, report),
        env={},
        cwd="/",
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(json.dumps(spec).encode())
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()
    return process


async def _read_report(descriptor: int) -> _Report:
    """Read the starter's report until execve, or the starter's end, closes it."""
    try:
        data = await asyncio.wait_for(_read_to_end(descriptor), START_SECONDS_MAX)
        said: dict[str, Any] = {}
        for line in data.splitlines():
            said |= json.loads(line)
        if "failed" in said or not {"isolation", "pid"} <= set(said):
            raise LaunchError(f"sandbox: {said.get('failed', 'the starter ended before its time')}")
        return _Report(pid=int(said["pid"]), isolation=Isolation.from_json(said["isolation"]))
    except (TimeoutError, ValueError, EncodingError) as error:
        raise LaunchError(f"sandbox: no report from the starter: {error}") from error


async def _read_to_end(descriptor: int) -> bytes:
    stream = asyncio.StreamReader(limit=REPORT_BYTES_MAX)
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            data = await stream.read(REPORT_BYTES_MAX)
            while more := await stream.read(REPORT_BYTES_MAX):
                data += more
                if len(data) > REPORT_BYTES_MAX:
                    raise LaunchError(f"sandbox: report of over {REPORT_BYTES_MAX} bytes")
        finally:
            transport.close()
    return data
