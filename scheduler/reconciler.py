"""Rounds over the market's database: load → decide → apply, each action guarded by a version.

- `load_*` reads one consistent state and holds no lock. `decisions.decide` and `matching.match` are
  pure. `apply` is one transaction of marketplace's domain functions, and does nothing if the row
  has another version than the decision was made on: somebody else went first, so this job waits
  for the next round.
- A crash between any two statements leaves the database at a state from which the same decisions
  follow. Nothing is remembered outside it.
- Claims are all or none: a placement of several ranks is one transaction. Their ids follow from
  the order's version, so two schedulers with one idea make one lease.
- Two schedulers at once do no harm; a shard of a dead one is anybody's to take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlmodel import Session

from marketplace import claims, jobs, leases, orders
from marketplace.ids import IdKind, derived_id
from marketplace.models import JobState
from marketplace.store import Store
from marketplace.transitions import StaleError, check_version
from scheduler import decisions
from scheduler.decisions import MoveJob, MoveLease, SayWaiting, say_waiting
from scheduler.matching import Placement, match
from scheduler.rows import (
    job_shard,
    load_available,
    load_job,
    load_wanted,
    unfinished_jobs,
)
from scheduler.snapshots import JobSnapshot
from trust.encoding import parse_base64url
from trust.errors import RefusedError

ACTOR: Final = "scheduler"
ACTIONS_MAX: Final = 64  # for one job in one round: its ranks' leases, and a few of its own


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """One action that was applied, for the log: ids and words, nothing else."""

    job: str
    rule: str
    subject: str
    outcome: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """What one round did."""

    jobs: int
    """Jobs looked at."""
    applied: tuple[Applied, ...]
    stale: int
    """Actions that came second."""
    refused: tuple[Applied, ...]
    """Actions that a domain function refused; `outcome` is its code."""


@dataclasses.dataclass(slots=True)
class _Tally:
    """A report in the making."""

    applied: list[Applied] = dataclasses.field(default_factory=list)
    refused: list[Applied] = dataclasses.field(default_factory=list)
    stale: int = 0

    def report(self, jobs_seen: int) -> RoundReport:
        return RoundReport(
            jobs=jobs_seen,
            applied=tuple(self.applied),
            stale=self.stale,
            refused=tuple(self.refused),
        )


def open_store(database: str) -> Store:
    """The market's database. Raises SchemaError if its schema is not this program's."""
    return Store.open(database)


# --- supervising ---------------------------------------------------------------------------------


def supervise_jobs(store: Store, *, shard: int, shards: int, now: int) -> RoundReport:
    """One round over the jobs of a shard: every job is taken as far as it goes now."""
    with store.reading() as session:
        names = [each for each in unfinished_jobs(session) if job_shard(each, shards) == shard]
    tally = _Tally()
    for name in names:
        for _ in range(ACTIONS_MAX):
            if not _take_a_step(store, name, now, tally):
                break
    return tally.report(len(names))


def _take_a_step(store: Store, name: str, now: int, tally: _Tally) -> bool:
    """Load, decide, apply: one action for one job. False: nothing more to do in this round."""
    with store.reading() as session:
        decision = decisions.decide(load_job(session, name), now)
    if decision is None:
        return False
    action = decision.action
    subject = action.lease if isinstance(action, MoveLease) else action.job
    outcome = "waits" if isinstance(action, SayWaiting) else action.to.value
    done = Applied(job=name, rule=decision.rule.value, subject=subject, outcome=outcome)
    return _commit(store, tally, done, partial(apply, action=action, now=now))


def _commit(store: Store, tally: _Tally, done: Applied, work: Callable[[Session], None]) -> bool:
    """One transaction; whether it went through. What one job is refused stops no other job."""
    try:
        with store.transaction() as session:
            work(session)
    except StaleError:
        tally.stale += 1
        return False
    except RefusedError as error:
        tally.refused.append(dataclasses.replace(done, outcome=error.code))
        return False
    tally.applied.append(done)
    return True


def apply(session: Session, *, action: decisions.Action, now: int) -> None:
    """Apply one action. Raises StaleError if its subject has changed since it was read."""
    match action:
        case MoveLease():
            command = leases.MoveLease(
                id=action.lease,
                version=action.version,
                to=action.to,
                actor=ACTOR,
                reason=action.reason,
            )
            leases.move_lease(session, command, now)
        case MoveJob():
            _move_job(session, action, now)
        case SayWaiting():
            digest = parse_base64url(action.job)
            check_version(jobs.find_job(session, digest), action.version)
            jobs.wait_for(session, digest, action.text)


def _move_job(session: Session, action: MoveJob, now: int) -> None:
    name = parse_base64url(action.job)
    if action.to is JobState.QUEUED:  # its order asks for machines again, in the same commit
        again = leases.Requeue(job=name, version=action.version, actor=ACTOR, reason=action.reason)
        leases.requeue(session, again, now)
        return
    command = jobs.MoveJob(
        job=name, version=action.version, to=action.to, actor=ACTOR, reason=action.reason
    )
    jobs.move_job(session, command, now)


# --- placing -------------------------------------------------------------------------------------


def place_orders(store: Store, *, shard: int, shards: int, now: int) -> RoundReport:
    """One round of matching over the machine kinds of a shard."""
    with store.reading() as session:
        wanted = load_wanted(session, shard=shard, shards=shards, now=now)
        book = load_available(session, shard=shard, shards=shards, now=now) if wanted else []
    by_order = {want.order: snapshot for snapshot, want in wanted}
    result = match((want for _, want in wanted), book)
    tally = _Tally()
    for placement in result.placements:
        job = by_order[placement.order]
        done = Applied(job=job.job, rule="match", subject=placement.order, outcome="placed")
        _commit(store, tally, done, partial(claim_all, job=job, placement=placement, now=now))
    for why in result.unplaced:
        job = by_order[why.order]
        action = say_waiting(job, f"an offer: {why}")
        if action is not None:
            done = Applied(job=job.job, rule="no-offer", subject=why.order, outcome="waits")
            _commit(store, tally, done, partial(apply, action=action, now=now))
    return tally.report(len(wanted))


def claim_all(session: Session, *, job: JobSnapshot, placement: Placement, now: int) -> None:
    """Claim every machine of a placement, or none.

    (1) The job has not changed since it was read: its order moves with it. (2) Each offer is
    claimed at the version that was read. Raises StaleError for each; the transaction ends with it.
    """
    digest = parse_base64url(job.job)
    check_version(jobs.find_job(session, digest), job.version)  # (1)
    order = orders.find_order(session, placement.order)
    assert job.order is not None
    for each in placement.matches:
        command = claims.ClaimOffer(
            id=derived_id(
                IdKind.LEASE,
                at=order.created_at_ms,
                purpose="claim",
                parts=(order.id, str(job.order.version), str(each.rank)),
            ),
            order=order.id,
            rank=each.rank,
            offer=each.offer.offer,
            offer_version=each.offer.version,
            actor=ACTOR,
        )
        result = claims.claim(session, command, now)
        if result is not claims.ClaimResult.CLAIMED:  # (2)
            raise StaleError(f"offer {each.offer.offer}: {result.value}")
