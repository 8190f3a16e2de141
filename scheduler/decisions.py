"""What to do for one job, from a snapshot of its rows: pure. `reconciler` loads and applies.

- `decide` names one action, or none: the caller applies it in one transaction of its own, loads
  again, and asks again. So a crash between two actions loses nothing, and what is decided never
  depends on what was decided before.
- The first rule that applies wins; `RULES` is their order, and each rule has a row in the tests.
- Whatever waits has a deadline; a deadline that is over moves its subject on. A host that is
  silent beyond its lease's deadline has lost it; the job is queued again for the next generation.
- A job ends as its enclaves say in receipts that settled: all done is success; a run that failed
  or was refused would do so anywhere, so it ends the job; a run that was stopped goes on elsewhere.
- A serve job has no last step. It ends as its enclave says, or *exhausted* once its hold pays for
  no more of its host's time: nobody serves unpaid.
- No action moves money: the market's process ends the order of a job that has ended.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final

from marketplace.leases import LIVE, WHEN_OVERDUE, when_overdue
from marketplace.models import JobState, LeaseState
from marketplace.presence import READY_MILLISECONDS
from marketplace.transitions import JOB, ORDER
from scheduler.snapshots import CustodianSnapshot, JobSnapshot, LeaseSnapshot
from trust.messages import End

DRAIN_MILLISECONDS: Final = 10_000  # after its last receipt an enclave closes its accounts
DRAIN_SILENT_MILLISECONDS: Final = 60_000  # a last receipt is one message: it comes at once or not
WAITING_CHARACTERS_MAX: Final = 256  # the column's size
PAID_ENDS: Final = frozenset(
    {LeaseState.PREEMPTED, LeaseState.HOST_LOST, LeaseState.EXHAUSTED, LeaseState.REVOKED}
)


# --- actions -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoveLease:
    """Move a lease."""

    lease: str
    version: int
    to: LeaseState
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoveJob:
    """Move the job."""

    job: str
    version: int
    to: JobState
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SayWaiting:
    """Tell people for whom the job waits; None: for nobody."""

    job: str
    version: int
    text: str | None


Action = MoveLease | MoveJob | SayWaiting


class Rule(enum.StrEnum):
    """Why an action was taken, in the order in which rules are asked."""

    JOB_EXPIRED = "job-expired"
    LEASE_OVERDUE = "lease-overdue"
    LEASE_OUTDATED = "lease-outdated"
    GENERATION_ORDERED = "generation-ordered"
    RUN_REPORTED_ITS_END = "run-reported-its-end"
    NO_LAST_RECEIPT = "no-last-receipt"
    LEASE_OF_ENDED_JOB = "lease-of-ended-job"
    MONEY_ENDED = "money-ended"
    RUN_IS_OVER = "run-is-over"
    RANK_IS_GONE = "rank-is-gone"
    GENERATIONS_USED_UP = "generations-used-up"
    CUSTODIAN_IS_AWAY = "custodian-is-away"
    BUYER_MUST_ORDER = "buyer-must-order"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One action, and the rule that wants it."""

    rule: Rule
    action: Action


def decide(job: JobSnapshot, now: int) -> Decision | None:
    """The next thing to do for a job at Unix milliseconds `now`; None: nothing."""
    for rule, ask in RULES.items():
        if (action := ask(job, now)) is not None:
            return Decision(rule=rule, action=action)
    return None


def away(job: JobSnapshot, now: int) -> tuple[CustodianSnapshot, ...]:
    """Custodians that have not said *ready* within the last minute."""
    return tuple(
        each
        for each in job.custodians
        if each.ready_at is None or now - each.ready_at >= READY_MILLISECONDS
    )


def wants_machines(job: JobSnapshot, now: int) -> bool:
    """Whether a matcher may open leases for it: nothing else is to be done first."""
    return (
        job.state is JobState.QUEUED
        and job.order is not None
        and bool(job.custodians)
        and not job.live
        and not away(job, now)
        and decide(job, now) is None
    )


# --- rules ---------------------------------------------------------------------------------------


def _move_job(job: JobSnapshot, to: JobState, reason: str) -> MoveJob:
    return MoveJob(job=job.job, version=job.version, to=to, reason=reason)


def _move_lease(lease: LeaseSnapshot, to: LeaseState, reason: str) -> MoveLease:
    return MoveLease(lease=lease.lease, version=lease.version, to=to, reason=reason)


def say_waiting(job: JobSnapshot, text: str | None) -> SayWaiting | None:
    """Say for whom a job waits; None if that is what it says already."""
    text = text if text is None else text[:WAITING_CHARACTERS_MAX]
    if job.waiting_for == text:
        return None
    return SayWaiting(job=job.job, version=job.version, text=text)


def _ended(job: JobSnapshot) -> bool:
    return JOB.is_terminal(job.state)


def _job_expired(job: JobSnapshot, now: int) -> Action | None:
    if _ended(job) or job.deadline is None or now < job.deadline:
        return None
    return _move_job(job, JobState.FAILED, "manifest expired")


def _lease_overdue(job: JobSnapshot, now: int) -> Action | None:
    for lease in job.leases:
        if lease.deadline is None or now < lease.deadline or lease.state not in WHEN_OVERDUE:
            continue
        is_over = lease.end is not None or _ended(job)
        return _move_lease(lease, *when_overdue(lease.state, is_over=is_over))
    return None


def _lease_outdated(job: JobSnapshot, _now: int) -> Action | None:
    """Receipts of an older generation do not settle, so nothing is left to wait for."""
    for lease in job.leases:
        if lease.state in PAID_ENDS and (lease.generation or 0) < job.generation:
            return _move_lease(lease, LeaseState.CLOSED, f"over after {lease.state.value}")
    return None


def _generation_ordered(job: JobSnapshot, _now: int) -> Action | None:
    if job.state is not JobState.STARTING:
        return None
    for lease in job.run:
        if lease.state is LeaseState.CLAIMED:
            reason = f"generation {job.generation} ordered"
            return _move_lease(lease, LeaseState.PROVISIONING, reason)
    return None


def _run_reported_its_end(job: JobSnapshot, now: int) -> Action | None:
    for lease in job.live:
        if lease.end is None:
            continue
        if lease.state is LeaseState.READY:
            return _move_lease(lease, LeaseState.DRAINING, f"enclave: {lease.end.value}")
        if lease.state is LeaseState.DRAINING and now >= lease.since + DRAIN_MILLISECONDS:
            return _move_lease(lease, LeaseState.CLOSED, "drained")
    return None


def _no_last_receipt(job: JobSnapshot, now: int) -> Action | None:
    """A run that ended without a last receipt: its host's loss, unless somebody else ended it."""
    for lease in job.live:
        silent = now >= lease.since + DRAIN_SILENT_MILLISECONDS
        if lease.state is LeaseState.DRAINING and lease.end is None and silent:
            if _ended(job) or len(job.live) < job.enclaves:
                return _move_lease(lease, LeaseState.CLOSED, "drained")
            return _move_lease(lease, LeaseState.HOST_LOST, "ended without a last receipt")
    return None


def _lease_of_ended_job(job: JobSnapshot, _now: int) -> Action | None:
    return _let_go(job, f"job {job.state.value}") if _ended(job) else None


def _money_ended(job: JobSnapshot, now: int) -> Action | None:
    """Training comes to its last step whoever pays; serving would go on unpaid for ever."""
    if job.order is None:
        return None
    serving = job.serves and job.state is JobState.RUNNING and all(x.end is None for x in job.run)
    if serving and any(x.paid_until is not None and now >= x.paid_until for x in job.run):
        return _move_job(job, JobState.EXHAUSTED, "hold pays for no more time")
    if job.state is not JobState.QUEUED and not serving:
        return None
    if ORDER.is_terminal(job.order.state):
        return _move_job(job, JobState.EXHAUSTED, f"order {job.order.state.value}")
    return None if job.order.funded else _move_job(job, JobState.EXHAUSTED, "hold used up")


def _run_is_over(job: JobSnapshot, _now: int) -> Action | None:
    if job.state not in {JobState.STARTING, JobState.RUNNING}:
        return None
    ends = [each.end for each in job.run]
    if len(ends) == job.enclaves and all(end is End.DONE for end in ends):
        return _move_job(job, JobState.SUCCEEDED, "every enclave is done")
    for end, to in (
        (End.FAILED, JobState.FAILED),
        (End.REFUSED, JobState.FAILED),
        (End.OUT_OF_BUDGET, JobState.EXHAUSTED),
    ):
        if end in ends:
            return _move_job(job, to, f"enclave: {end.value}")
    return None


def _rank_is_gone(job: JobSnapshot, _now: int) -> Action | None:
    """A rank of the run has ended and the job has not: the other ranks go, then it is queued."""
    if job.state not in {JobState.PLACED, JobState.STARTING, JobState.RUNNING}:
        return None
    gone = [each for each in job.run if each.state not in LIVE]
    done = sum(each.end is End.DONE for each in gone) if job.state is not JobState.PLACED else 0
    if len(job.live) + done >= job.enclaves:
        return None
    if job.live:
        return _let_go(job, "another rank is gone")
    reason = f"generation {job.generation} ended before it was done"
    return _move_job(job, JobState.QUEUED, reason)


def _generations_used_up(job: JobSnapshot, _now: int) -> Action | None:
    if job.state is not JobState.QUEUED or job.generation < job.generations_max:
        return None
    return _move_job(job, JobState.EXHAUSTED, f"all {job.generations_max} generations are used")


def _custodian_is_away(job: JobSnapshot, now: int) -> Action | None:
    if job.state is not JobState.QUEUED:
        return None
    names = ", ".join(f"{each.role} {each.custodian}" for each in away(job, now))
    return say_waiting(job, f"key broker of {names}") if names else None


def _buyer_must_order(job: JobSnapshot, _now: int) -> Action | None:
    if job.state is not JobState.PLACED:
        return None
    return say_waiting(job, f"generation order {job.generation + 1} of the buyer")


def _let_go(job: JobSnapshot, reason: str) -> Action | None:
    """Give one machine back; a metered one drains first, so that its last receipt can arrive."""
    for lease in job.live:
        if lease.state is LeaseState.READY:
            return _move_lease(lease, LeaseState.DRAINING, reason)
        if lease.state is not LeaseState.DRAINING:
            return _move_lease(lease, LeaseState.CLOSED, reason)
    return None


RULES: Final[dict[Rule, Callable[[JobSnapshot, int], Action | None]]] = {
    Rule.JOB_EXPIRED: _job_expired,
    Rule.LEASE_OVERDUE: _lease_overdue,
    Rule.LEASE_OUTDATED: _lease_outdated,
    Rule.GENERATION_ORDERED: _generation_ordered,
    Rule.RUN_REPORTED_ITS_END: _run_reported_its_end,
    Rule.NO_LAST_RECEIPT: _no_last_receipt,
    Rule.LEASE_OF_ENDED_JOB: _lease_of_ended_job,
    Rule.MONEY_ENDED: _money_ended,
    Rule.RUN_IS_OVER: _run_is_over,
    Rule.RANK_IS_GONE: _rank_is_gone,
    Rule.GENERATIONS_USED_UP: _generations_used_up,
    Rule.CUSTODIAN_IS_AWAY: _custodian_is_away,
    Rule.BUYER_MUST_ORDER: _buyer_must_order,
}
