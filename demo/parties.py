"""Starts, watches and ends the demo's processes; each party has a home of its own.

- Every process is started by a public command, in a session of its own, with only the environment
  that it is given, and dies with the demo (PR_SET_PDEATHSIG), however the demo ends.
- A home is a folder of mode 0700. Nobody is given the path of another's.
- `close` ends all that is left: first SIGTERM, then SIGKILL for whole sessions.
- No signal interrupts us between a process's birth and its place in our books (`_unbroken`).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PR_SET_PDEATHSIG: Final = 1
STOP_SECONDS: Final = 15.0  # Ray takes some seconds to go
COMMAND_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.1
LOG_TAIL_BYTES: Final = 2000


class StepError(Exception):
    """A step of the demo failed; the text says which and why."""


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Hold back the signals that end us; they come at the end of this block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """In the child: end with the demo, and hear the signals that its parent holds back."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


@dataclasses.dataclass(kw_only=True)
class Party:
    """A running process and where it writes."""

    role: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def exit(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.process.poll()


class Stage:
    """The folder that holds all homes, and the processes that live in them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="blindhost-demo-")
        self.root = Path(self._folder.name)
        self.parties: dict[str, Party] = {}
        self._commands: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def home(self, role: str) -> Path:
        """The home of a role, made on first use."""
        path = self.root / role
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """What every process gets: where programs are, and nothing of the caller's."""
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "HOME": str(self.home("nobody")),
            "TMPDIR": str(self.home("tmp")),
        }

    def in_front(self, *arguments: str) -> subprocess.Popen[str]:
        """A public command that has the terminal, in our own session; it ends with us."""
        with _unbroken():
            process = subprocess.Popen(
                _resolved(arguments),
                env=self.environment | {"TERM": os.environ.get("TERM", "")},
                text=True,
                preexec_fn=_begin,  # noqa: PLW1509  # the demo has one thread
            )
            self._commands.append(process)
        return process

    def command(self, *arguments: str) -> str:
        """Run a public command to its end and return what it printed."""
        with _unbroken():
            process = subprocess.Popen(
                _resolved(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
                text=True,
                preexec_fn=_begin,  # noqa: PLW1509  # the demo has one thread
            )
            self._commands.append(process)
        output, errors = process.communicate(timeout=COMMAND_SECONDS)
        self._commands.remove(process)
        if process.returncode:
            said = (errors or output)[-LOG_TAIL_BYTES:].strip()
            raise StepError(f"{' '.join(arguments[:3])} exited with {process.returncode}: {said}")
        return output

    def ask(self, *arguments: str) -> Any:
        """Run a public command that prints one JSON value."""
        return json.loads(self.command(*arguments))

    def start(self, role: str, *arguments: str) -> Party:
        """Start a daemon by its public command; its log stands in its own home."""
        log = self.home(role) / "log"
        with log.open("ab") as file, _unbroken():
            process = subprocess.Popen(
                _resolved(arguments),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                preexec_fn=_begin,  # noqa: PLW1509  # the demo has one thread
            )
            party = self.parties[role] = Party(role=role, process=process, log=log)
        return party

    def wait_for(
        self, what: str, ready: Callable[[], Any], *, seconds: float, watch: Sequence[str] = ()
    ) -> Any:
        """Poll until `ready` returns something; a watched process that ends is a failure."""
        deadline = time.monotonic() + seconds
        while True:
            if value := ready():
                return value
            for role in watch:
                if (status := self.parties[role].exit) is not None:
                    tail = self.log_tail(role)
                    raise StepError(f"{what}: {role} ended with {status}: {tail}")
            if time.monotonic() > deadline:
                raise StepError(f"{what}: not within {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def log_tail(self, role: str) -> str:
        """The end of a daemon's log."""
        with contextlib.suppress(OSError):
            return self.parties[role].log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        return ""

    def kill(self, role: str) -> list[int]:
        """SIGKILL a party and everything that it started, at once; returns the pids."""
        pids = [self.parties[role].process.pid, *descendants(self.parties[role].process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.parties[role].process.wait(STOP_SECONDS)
        return pids

    def stop(self, *roles: str) -> None:
        """SIGTERM, then SIGKILL what is left."""
        known = [self.parties[role] for role in roles if role in self.parties]
        left = {pid for party in known for pid in descendants(party.process.pid)}
        for party in known:
            if party.exit is None:
                party.process.terminate()
        for party in known:
            with contextlib.suppress(subprocess.TimeoutExpired):
                party.process.wait(STOP_SECONDS)
            if party.exit is None:
                party.process.kill()
                party.process.wait(STOP_SECONDS)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End every process and remove every file."""
        for process in self._commands:
            process.kill()
            process.communicate()  # reaps it, and closes its pipes
        self._commands.clear()
        self.stop(*reversed(self.parties))
        self._folder.cleanup()


def _resolved(arguments: Sequence[str]) -> list[str]:
    """A command of ours is beside this interpreter; ``python`` is this interpreter."""
    first, *rest = arguments
    if first == "python":
        return [sys.executable, *rest]
    return [str(Path(sys.executable).parent / first), *rest]


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def visible_words(pids: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """What anybody on the machine may read of a process: its arguments and environment."""
    for pid in pids:
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()
