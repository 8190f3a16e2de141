"""What a statement is made of: frozen, integers, microcredits and Unix milliseconds."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 86_400_000


class State(enum.StrEnum):
    """Where an amount is. *Confirmed* is the bank's word, and no ledger here has it."""

    ACCRUED = "accrued"
    """A receipt was carried, and the market has not settled it."""
    MATURING = "maturing"
    DISPUTED = "disputed"
    PAYABLE = "payable"
    SENT = "sent"
    REFUNDED = "refunded"


class Verdict(enum.StrEnum):
    """Whether a line follows from its receipts. All but OK make the exit status say so."""

    OK = "ok"
    DIFFERS = "DIFFERS"
    """The amounts are not those that the rule gives."""
    UNSIGNED = "UNSIGNED"
    """A receipt's signature does not hold under the metered key, or it names another lease."""
    TERMS = "TERMS"
    """Price, GPUs or fee are worse than when the lease was opened."""
    FORKED = "FORKED"
    """The market settled another receipt under a number than this host carried."""
    UNSETTLED = "UNSETTLED"
    """A receipt was carried an hour ago or more, and is not settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An amount in one state."""

    state: State
    amount: int
    matures_at: int | None
    """While it matures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adjustment:
    """What changed an amount after it was posted."""

    reason: str
    amount: int
    """Negative: taken away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One lease on one day, UTC."""

    day: str
    lease: str
    offer: str
    offer_version: int
    gpus: int
    start: int
    """When the lease began to hold the machine on this day."""
    end: int
    wall_ms: int
    billed_ms: int
    """By receipts that settled on this day."""
    why: tuple[str, ...]
    """Why billed and wall time, or time and amount, differ."""
    rate: int
    """Microcredits per GPU-hour."""
    gross: int
    fee: int
    adjustments: tuple[Adjustment, ...]
    parts: tuple[Part, ...]
    expected_host: int
    """What the rule gives the host for these receipts, fee deducted."""
    verdicts: tuple[Verdict, ...]
    """Empty: every amount was computed again and is the same."""
    running_total: int
    """Net of this line and all above."""

    @property
    def net(self) -> int:
        """What the host keeps."""
        return self.gross - self.fee + sum(each.amount for each in self.adjustments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """Time of a day in which no lease held the machine, by what the offer did."""

    day: str
    reason: str
    milliseconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """All of it."""

    lines: tuple[Line, ...]
    idle: tuple[Idle, ...]
    totals: tuple[Part, ...]
    """By state; those that mature have no one time."""

    @property
    def net(self) -> int:
        """Of all lines."""
        return sum(each.net for each in self.lines)

    @property
    def holds(self) -> bool:
        """Whether every line follows from its receipts."""
        return all(not each.verdicts for each in self.lines)


def day_of(at: int) -> str:
    """The UTC day of a moment."""
    return dt.datetime.fromtimestamp(at // 1000, dt.UTC).date().isoformat()


def day_start(day: str) -> int:
    """Its first moment, in Unix milliseconds."""
    date = dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC)
    return int(date.timestamp()) * 1000


def days_between(start: int, end: int) -> list[str]:
    """Every UTC day that the half-open interval touches."""
    first = start - start % DAY_MS
    return [day_of(at) for at in range(first, max(end, start + 1), DAY_MS)]


def overlap(start: int, end: int, day: str) -> int:
    """Milliseconds of an interval that lie on a day."""
    begin = day_start(day)
    return max(0, min(end, begin + DAY_MS) - max(start, begin))
