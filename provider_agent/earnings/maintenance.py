"""Planned windows in which a host takes no lease: announced, drained, held, over.

Rules:
- A plan is one small file in the agent's home, replaced atomically: a command writes it, the agent
  reads it each round, and both may be killed at any time.
- A window that overlaps what a running lease may still take is refused, unless it is to *drain*:
  then no new lease is taken from the plan on, running ones have until the window's start, and what
  runs then is ended. Without drain no lease is ever ended: none is taken from `LEAD_MS` before the
  start, and one that was taken earlier runs on into the window.
- No message asks an enclave for a checkpoint: it makes its own, each `checkpoint_steps`. What it
  did after the last committed one is lost to the host, and done again by whoever resumes the job.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from provider_agent.errors import AgentError
from provider_agent.journal import replace_file
from trust.encoding import (
    Name,
    Size,
    Struct,
    Text,
    Uint53,
    UnixMilliseconds,
    canonical_json,
    parse_json,
)
from trust.errors import EncodingError

PLAN_FILE: Final = "maintenance"
LEAD_MS: Final = 120_000  # two heartbeats: nobody claims an offer whose host is about to close
WINDOWS_MAX: Final = 64
WINDOW_MS_MAX: Final = 30 * 86_400_000
KEPT_MS: Final = 7 * 86_400_000  # a window that is over is shown so long
FILE_BYTES_MAX: Final = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Window(Struct):
    """One planned absence."""

    id: Name
    at: UnixMilliseconds
    """Its start."""
    milliseconds: Uint53
    reason: Text
    drain: bool
    planned_at: UnixMilliseconds

    @property
    def end(self) -> int:
        """Its first moment after."""
        return self.at + self.milliseconds

    @property
    def closes_at(self) -> int:
        """From when on no lease is taken."""
        return self.planned_at if self.drain else max(self.planned_at, self.at - LEAD_MS)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Windows(Struct):
    windows: Annotated[tuple[Window, ...], Size(least=0, most=WINDOWS_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What a running lease may still take of this machine."""

    lease: str
    until: int
    """Unix milliseconds: the earlier of its job's and its offer's end."""


class Phase(enum.StrEnum):
    """What a plan means for the host at one moment."""

    OPEN = "open"
    CLOSING = "closing"
    """No lease is taken; running ones go on."""
    CLOSED = "closed"
    """What still runs is ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Posture:
    """How the host stands now."""

    phase: Phase
    reason: str | None
    """Why no lease is taken; None: one is."""


def posture(windows: Sequence[Window], now: int) -> Posture:
    """How a host stands at `now`, Unix milliseconds. The strictest window counts."""
    for window in windows:
        if window.drain and window.at <= now < window.end:
            return Posture(phase=Phase.CLOSED, reason=f"maintenance {window.id}: {window.reason}")
    for window in windows:
        if window.closes_at <= now < window.end:
            word = "maintenance" if window.at <= now else "closing for maintenance"
            text = f"{word} {window.id}: {window.reason}"
            return Posture(phase=Phase.CLOSING, reason=text)
    return Posture(phase=Phase.OPEN, reason=None)


def check_window(window: Window, others: Sequence[Window], leases: Sequence[Committed]) -> None:
    """Refuse a window that cannot be kept. Raises AgentError.

    (1) It lies ahead, and is not endless. (2) It overlaps no other. (3) It overlaps nothing that a
    running lease may still take, unless it drains.
    """
    if window.at < window.planned_at or not 0 < window.milliseconds <= WINDOW_MS_MAX:  # (1)
        raise AgentError("a window lies ahead, and is longer than nothing and at most 30 days")
    for other in others:  # (2)
        if window.at < other.end and other.at < window.end:
            raise AgentError(f"it overlaps window {other.id}")
    cut = [each for each in leases if each.until > window.at]
    if cut and not window.drain:  # (3)
        names = ", ".join(f"{each.lease} until {each.until}" for each in cut)
        raise AgentError(f"it cuts {len(cut)} leases ({names}); --drain ends them at its start")


class Plan:
    """The windows of one home, in a file."""

    def __init__(self, home: Path) -> None:
        self._file = home / PLAN_FILE

    def windows(self) -> tuple[Window, ...]:
        """By start. Raises AgentError for a file that does not parse: it is never guessed."""
        try:
            with self._file.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
            found = _Windows.from_json(parse_json(content)).windows
        except FileNotFoundError:
            return ()
        except EncodingError as error:
            raise AgentError(f"the maintenance plan does not parse: {error}") from error
        return tuple(sorted(found, key=lambda each: each.at))

    def posture(self, now: int) -> Posture:
        """How the host stands. A plan that cannot be read closes it: somebody planned something."""
        try:
            windows = self.windows()
        except (AgentError, OSError) as error:
            return Posture(phase=Phase.CLOSING, reason=str(error))
        return posture(windows, now)

    def add(self, window: Window, leases: Sequence[Committed]) -> None:
        """Plan a window. Raises AgentError where it cannot be kept."""
        kept = [each for each in self.windows() if each.end + KEPT_MS > window.planned_at]
        ahead = [each for each in kept if each.end > window.planned_at]
        check_window(window, ahead, leases)
        self._store([*kept, window])

    def cancel(self, name: str) -> Window:
        """Take a window back, or end one that has begun. Raises AgentError for an unknown one."""
        windows = self.windows()
        found = [each for each in windows if each.id == name]
        if not found:
            raise AgentError(f"no window {name[:32]}")
        self._store([each for each in windows if each.id != name])
        return found[0]

    def _store(self, windows: Sequence[Window]) -> None:
        content: Any = _Windows(windows=tuple(windows)).to_json()
        replace_file(self._file, canonical_json(content))


def new_id() -> str:
    """A short name for people to type."""
    return secrets.token_hex(4)
