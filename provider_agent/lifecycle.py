"""Lease → enclave → teardown, decided from a record and facts; resumable at every step.

Rules:
- `decide` is pure: record and facts in, one action out, or none until something changes.
- An enclave is started at most once for a lease. Before the chip is asked, its incarnation is on
  record: a lease that was STARTING under a chip that has died is lost, not started twice, because a
  second enclave would hold other keys than the seat that the first may have been granted.
- A market that does not answer stops nothing that runs, and starts nothing.
- What ran is reported once, torn down, and remembered until the market lists the lease no more.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Final

from marketplace.wire import LeaseEvent, LeaseState, LeaseView
from provider_agent.chip_wire import EnclaveView
from provider_agent.journal import LeaseRecord, Stage

BRIEFING_MS_MAX: Final = 3_600_000  # an hour without a generation order: the machine is wanted back
REPORT_MS_MAX: Final = 86_400_000  # a day without a market: nobody waits for this report

RUN_ENDS: Final = frozenset({0, 3, 4, 5, 6})
"""Exit statuses of a run that came to an end of its own, good or bad: done, stopped, out of budget,
refused, failed. Its last receipt says which; any other status is a machine that broke."""

LIVE: Final = frozenset(
    {
        LeaseState.FUNDED,
        LeaseState.CLAIMED,
        LeaseState.PROVISIONING,
        LeaseState.ATTESTING,
        LeaseState.READY,
        LeaseState.DRAINING,
    }
)


class Market(enum.Enum):
    """What the market says of a lease."""

    UNKNOWN = "unknown"
    """It does not answer."""
    LIVE = "live"
    OVER = "over"
    """It lists the lease as one that has stopped."""
    GONE = "gone"
    """It lists the lease no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is so, as far as the agent can see now."""

    market: Market
    ordered: bool
    """A generation order names the lease, so there is a briefing."""
    incarnation: bytes | None
    """Of the chip; None: it does not answer."""
    enclave: EnclaveView | None
    """What the chip started for this lease."""
    door: str | None = None
    """Why the relay gave the enclave's door up; None: it did not."""


class Step(enum.Enum):
    """What is to be done. All but SERVE end in a record; each can be done again."""

    BRIEF = "brief"
    NOTE_START = "note-start"
    LAUNCH = "launch"
    ADOPT = "adopt"
    REPORT_LAUNCHED = "report-launched"
    SERVE = "serve"
    END = "end"
    STOP = "stop"
    REPORT_END = "report-end"
    TEAR_DOWN = "tear-down"
    FORGET = "forget"


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One step, and the record once it is done; None: no record is left, or none is written."""

    step: Step
    then: LeaseRecord | None = None


def new_record(lease: str, now: int) -> LeaseRecord:
    """The record of a lease that was just seen. `now` is in Unix milliseconds."""
    return LeaseRecord(
        lease=lease, stage=Stage.NEW, since=now, incarnation=None, event=None, reason=None
    )


def market_fact(view: LeaseView | None) -> Market:
    """What a market that answered says of a lease; None: it is not in its list."""
    if view is None:
        return Market.GONE
    return Market.LIVE if view.state in LIVE else Market.OVER


def decide(record: LeaseRecord, facts: Facts, now: int) -> Action | None:
    """The next action for a lease; None: wait. `now` is in Unix milliseconds."""
    match record.stage:
        case Stage.NEW | Stage.BRIEFED | Stage.STARTING:
            return _before_start(record, facts, now)
        case Stage.STARTED | Stage.SERVING:
            return _running(record, facts, now)
        case Stage.ENDED:
            return _ended(record, facts, now)
        case Stage.REPORTED:
            return Action(step=Step.TEAR_DOWN, then=_at(record, Stage.DONE, now))
        case Stage.DONE:
            return Action(step=Step.FORGET) if facts.market is Market.GONE else None


def _before_start(record: LeaseRecord, facts: Facts, now: int) -> Action | None:
    if record.stage is Stage.STARTING and facts.enclave is not None:
        return Action(step=Step.ADOPT, then=_at(record, Stage.STARTED, now))
    if facts.market in (Market.OVER, Market.GONE):
        return _end(record, LeaseEvent.ENDED, "lease-over", now)
    if facts.incarnation is None or facts.market is Market.UNKNOWN:
        return None
    if record.stage is Stage.STARTING and record.incarnation != facts.incarnation:
        return _end(record, LeaseEvent.FAILED, "chip-restarted", now)
    if record.stage is Stage.NEW:
        if facts.ordered:
            return Action(step=Step.BRIEF, then=_at(record, Stage.BRIEFED, now))
        if now - record.since > BRIEFING_MS_MAX:
            return _end(record, LeaseEvent.FAILED, "no-order", now)
        return None
    if record.stage is Stage.BRIEFED:
        starting = dataclasses.replace(record, incarnation=facts.incarnation)
        return Action(step=Step.NOTE_START, then=_at(starting, Stage.STARTING, now))
    return Action(step=Step.LAUNCH, then=_at(record, Stage.STARTED, now))


def _running(record: LeaseRecord, facts: Facts, now: int) -> Action | None:
    if facts.incarnation is None:
        return None
    if facts.enclave is None:
        return _end(record, LeaseEvent.FAILED, "chip-lost", now)
    if (status := facts.enclave.exit) is not None:
        event = LeaseEvent.ENDED if status in RUN_ENDS else LeaseEvent.FAILED
        return _end(record, event, f"exit-{status}", now)
    if facts.market in (Market.OVER, Market.GONE):
        return _end(record, LeaseEvent.ENDED, "lease-over", now)
    if facts.door is not None:
        return _end(record, LeaseEvent.FAILED, "door", now)
    if record.stage is Stage.STARTED and facts.market is Market.LIVE:
        return Action(step=Step.REPORT_LAUNCHED, then=_at(record, Stage.SERVING, now))
    return Action(step=Step.SERVE)


def _ended(record: LeaseRecord, facts: Facts, now: int) -> Action | None:
    if facts.enclave is not None:
        return Action(step=Step.STOP)
    reported = _at(record, Stage.REPORTED, now)
    match facts.market:
        case Market.LIVE | Market.OVER:
            return Action(step=Step.REPORT_END, then=reported)
        case Market.GONE:
            return Action(step=Step.TEAR_DOWN, then=_at(record, Stage.DONE, now))
        case Market.UNKNOWN:
            if now - record.since <= REPORT_MS_MAX:
                return None
            return Action(step=Step.TEAR_DOWN, then=_at(record, Stage.DONE, now))


def end(record: LeaseRecord, event: LeaseEvent, reason: str, now: int) -> Action:
    """End a lease for a reason that only doing something could show."""
    return _end(record, event, reason, now)


def _end(record: LeaseRecord, event: LeaseEvent, reason: str, now: int) -> Action:
    ended = dataclasses.replace(record, event=event, reason=reason)
    return Action(step=Step.END, then=_at(ended, Stage.ENDED, now))


def _at(record: LeaseRecord, stage: Stage, now: int) -> LeaseRecord:
    return dataclasses.replace(record, stage=stage, since=now)
