"""Price strategies: what to ask for a GPU-hour now. Pure, but for a script, which is a process.

Rules:
- A strategy is given history up to now and nothing later; it answers an integer of microcredits.
- The floor is not a strategy's to undercut: `ask` raises what it said to the floor, always.
- A strategy is named by the digest of all that decides what it says, a script's bytes included: a
  changed script is another strategy, which was not replayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final

from marketplace.wire_hosts import PastMatch
from provider_agent.errors import AgentError
from trust.encoding import (
    INTEGER_MAX,
    Microcredits,
    Size,
    Struct,
    canonical_json,
    digest,
    labelled_digest,
)

DAY_MS: Final = 86_400_000
RECENT: Final = 20
DAYS_BEFORE: Final = 7
DEMAND_PPM_MAX: Final = 1_500_000
PPM: Final = 1_000_000
SCRIPT_BYTES_MAX: Final = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What a strategy is asked about."""

    now: int
    """Unix milliseconds."""
    floor: int
    idle_ms: int
    """Since the last lease ended, or since history begins."""
    matches: Sequence[PastMatch]
    """Before now, oldest first."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fixed(Struct):
    """Always the same."""

    TAG: ClassVar[str | None] = "fixed"

    ask: Microcredits
    floor: Microcredits


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FloorDemand(Struct):
    """The floor, and above it what demand allows.

    The median price of the last `RECENT` matches stands above the floor by some amount; that amount
    times (matches of the last day ÷ the mean of the seven days before), at most 1.5, is asked for.
    """

    TAG: ClassVar[str | None] = "floor+demand"

    floor: Microcredits


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Script(Struct):
    """A program of the host's: JSON in, an integer out (`scripts.run_script`)."""

    TAG: ClassVar[str | None] = "script"

    path: Annotated[str, Size(least=1, most=4096)]
    sha256: Annotated[bytes, Size(least=32, most=32)]
    """Of the program; another program under the same path is refused."""
    floor: Microcredits


Strategy = Fixed | FloorDemand | Script
RunScript = Callable[[Script, Situation], int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chosen(Struct):
    """The strategy that is live in a home."""

    strategy: Fixed | FloorDemand | Script


def name_of(strategy: Strategy) -> bytes:
    """The digest that a replay is noted under: 32 bytes."""
    value = Chosen(strategy=strategy).to_json()
    return labelled_digest("agent/strategy", canonical_json(value))


def script_of(path: Path, *, floor: int) -> Script:
    """A script as it lies there now. Raises AgentError."""
    return Script(path=str(path.resolve()), sha256=digest(read_script(path)), floor=floor)


def read_script(path: Path) -> bytes:
    """The program. Raises AgentError."""
    try:
        with path.open("rb") as file:
            content = file.read(SCRIPT_BYTES_MAX + 1)
    except OSError as error:
        raise AgentError(f"script {path.name} cannot be read: {error.strerror}") from error
    if len(content) > SCRIPT_BYTES_MAX:
        raise AgentError(f"script {path.name}: over {SCRIPT_BYTES_MAX} bytes")
    return content


def ask(strategy: Strategy, situation: Situation, run_script: RunScript) -> int:
    """What to ask now: what the strategy says, and never less than its floor. Raises AgentError."""
    match strategy:
        case Fixed():
            said = strategy.ask
        case FloorDemand():
            said = _floor_demand(situation)
        case Script():
            said = run_script(strategy, situation)
    return min(max(said, strategy.floor), INTEGER_MAX)


def _floor_demand(situation: Situation) -> int:
    recent = sorted(x.price_microcredits_per_gpu_hour for x in situation.matches[-RECENT:])
    if not recent:
        return situation.floor
    median = recent[len(recent) // 2]
    day = situation.now - DAY_MS
    week = day - DAYS_BEFORE * DAY_MS
    today = sum(1 for each in situation.matches if each.at > day)
    before = sum(1 for each in situation.matches if week < each.at <= day)
    demand = DEMAND_PPM_MAX if not before else today * DAYS_BEFORE * PPM // before
    above = max(0, median - situation.floor)
    return situation.floor + above * min(demand, DEMAND_PPM_MAX) // PPM
