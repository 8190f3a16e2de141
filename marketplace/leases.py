"""Leases: the time-bounded right to one machine, from its claim (`claims.py`) to its end.

- The meter starts when the market has verified evidence for its own challenge (`attest`): the key
  in that statement is the one whose receipts settle. A key that a host names is never believed.
- Every lease that goes on has a deadline. Whoever holds it renews it; one that nobody renews moves
  on as `when_overdue` says: the scheduler asks it at once, and the market's own sweep a minute
  later (`end_overdue`), so no machine and no money is kept because a scheduler is gone.
- A ready lease goes on as long as its enclave is heard, whoever asks for it: the market hears an
  enclave by its receipts, one a minute. A host that starves its enclave of messages loses it.
- A lease's end frees its machine; an end that is the host's fault suspends the offer instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sqlmodel import Session, col, select

from marketplace.jobs import find_job, move_to
from marketplace.models import (
    Job,
    JobState,
    Lease,
    LeaseState,
    OfferState,
    OfferTerms,
    Receipt,
)
from marketplace.offers import find_offer, free_offer
from marketplace.orders import order_of, reopen_order
from marketplace.transitions import JOB, LEASE, check_version, move
from trust.encoding import base64url
from trust.errors import EncodingError, RefusedError
from trust.messages import Purpose, Statement

SCHEDULER_MILLISECONDS: Final = 60_000  # a scheduler that works looks every few seconds
OVERDUE_MAX: Final = 256  # leases that one sweep moves, so that its transaction stays short
LEASE_SECONDS_MAX: Final = 3600  # one renewal; a host that is gone is noticed within the hour
FIRST_RECEIPT_SECONDS: Final = 3600  # brokers grant, and 140 GB come at 50 MB/s
RECEIPT_SECONDS: Final = 300  # four receipts missed, each of which was sent more than once

LIVE: Final = frozenset(
    {
        LeaseState.CLAIMED,
        LeaseState.PROVISIONING,
        LeaseState.ATTESTING,
        LeaseState.READY,
        LeaseState.DRAINING,
    }
)
METERED: Final = frozenset({LeaseState.READY, LeaseState.DRAINING})
AT_FAULT: Final = frozenset(
    {
        LeaseState.PROVISION_FAILED,
        LeaseState.ATTEST_FAILED,
        LeaseState.HOST_LOST,
        LeaseState.REVOKED,
    }
)
"""Ends that are the host's: its offer waits for the host to list it again."""

STATE_SECONDS: Final[Mapping[LeaseState, int]] = {
    LeaseState.CLAIMED: 600,  # both brokers were ready a minute ago: the order comes soon
    LeaseState.PROVISIONING: 900,  # a confidential VM with 8 GPUs boots in under 10 minutes
    LeaseState.ATTESTING: 600,
    LeaseState.READY: 45,  # its host waits at its box, and renews by that (api/renewal.py)
    LeaseState.DRAINING: 900,  # seals and reopens its outputs
    LeaseState.PREEMPTED: 900,  # a last receipt may still be on its way
    LeaseState.HOST_LOST: 900,
    LeaseState.EXHAUSTED: 900,
    LeaseState.REVOKED: 900,
}
WHEN_OVERDUE: Final[Mapping[LeaseState, LeaseState]] = {
    LeaseState.CLAIMED: LeaseState.CLOSED,  # no generation order: not the host's fault
    LeaseState.PROVISIONING: LeaseState.PROVISION_FAILED,
    LeaseState.ATTESTING: LeaseState.ATTEST_FAILED,
    LeaseState.READY: LeaseState.HOST_LOST,
    LeaseState.DRAINING: LeaseState.HOST_LOST,
    LeaseState.PREEMPTED: LeaseState.CLOSED,
    LeaseState.HOST_LOST: LeaseState.CLOSED,
    LeaseState.EXHAUSTED: LeaseState.CLOSED,
    LeaseState.REVOKED: LeaseState.CLOSED,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoveLease:
    """A decision on a lease that was read at `version`."""

    id: str
    version: int
    to: LeaseState
    actor: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AttestLease:
    """The statement in evidence that this market challenged, verified and accepted.

    Left to the caller: `verifier.appraise` over that evidence, with the nonce of this market's own
    challenge, used once. What the statement *names* is checked here.
    """

    statement: Statement
    market: bytes
    """The market's identity: 32 bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RenewLease:
    """Its host says that a lease goes on."""

    id: str
    seconds: int
    """From now; at most `LEASE_SECONDS_MAX`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Requeue:
    """The scheduler's decision to run a job again, made on the job's `version`."""

    job: bytes
    version: int
    actor: str
    reason: str


def move_lease(session: Session, command: MoveLease, now: int) -> None:
    """Apply a decision. Raises StaleError if the lease has changed since it was made."""
    lease = find_lease(session, command.id)
    check_version(lease, command.version)
    if command.to is LeaseState.READY:
        raise RefusedError("not-attested", "a lease is ready by verified evidence alone")
    if command.to is LeaseState.PROVISIONING and lease.generation is None:
        raise RefusedError("no-generation", "the job's buyer has not ordered this generation")
    _move(session, lease, command.to, actor=command.actor, reason=command.reason, now=now)


def attest(session: Session, command: AttestLease, now: int) -> Lease:
    """Start the meter: from now on, receipts under the statement's signing key settle.

    (1) The statement was made for this market, to meter. (2) It names the lease's own job,
    generation and rank. (3) The same key again changes nothing; (4) another key never gets a lease
    that has one.
    """
    statement = command.statement
    if statement.purpose is not Purpose.METER or statement.verifier != command.market:  # (1)
        raise RefusedError("wrong-purpose", "the statement is not for this market's meter")
    lease = find_lease(session, statement.lease)
    named = (base64url(statement.job), statement.generation, statement.rank)
    if named != (lease.job_digest, lease.generation, lease.rank):  # (2)
        raise RefusedError("wrong-lease", "the statement names another job, generation or rank")
    key = base64url(statement.signing_key)
    if lease.signing_key == key:  # (3)
        return lease
    if lease.signing_key is not None:  # (4)
        raise RefusedError("seat-taken", f"lease {lease.id} belongs to another enclave's key")
    taken = select(Lease.id).where(col(Lease.signing_key) == key)
    if session.exec(taken).first() is not None:
        raise RefusedError("key-in-use", "this signing key meters another lease")
    move(
        session,
        lease,
        LeaseState.READY,
        actor="market",
        reason="evidence verified",
        now=now,
        deadline=deadline_in(LeaseState.READY, _terms(session, lease), now),
        signing_key=key,
        ready_at_ms=now,
    )
    job = session.get_one(Job, lease.job_digest)
    if job.state is JobState.STARTING and _all_ready(session, job):
        move_to(
            session, job, JobState.RUNNING, actor="market", reason="all enclaves ready", now=now
        )
    return lease


def renew(session: Session, command: RenewLease, now: int) -> int:
    """Give a ready lease a later deadline; return it. The version stays: nothing was decided.

    (1) The lease is live, and not overdue. (2) Any state but ready has a time of its own, which
    stays: a host that never gets ready, or never ends draining, cannot keep a job by saying that it
    is there. (3) Nor can one whose enclave is not heard: the deadline ends with its silence.
    """
    if not 1 <= command.seconds <= LEASE_SECONDS_MAX:
        raise EncodingError(f"renewal of {command.seconds} s, wanted 1 to {LEASE_SECONDS_MAX}")
    lease = find_lease(session, command.id)
    if lease.state not in LIVE or lease.deadline_ms is None or lease.deadline_ms <= now:  # (1)
        raise RefusedError("lease-ended", f"lease {lease.id} is {lease.state}, or is overdue")
    if lease.state is LeaseState.READY:  # (2)
        ends = min(_terms(session, lease).ends_at_ms, _silent_at(session, lease))  # (3)
        lease.deadline_ms = max(lease.deadline_ms, min(now + command.seconds * 1000, ends))
        session.add(lease)
        session.flush()
    return lease.deadline_ms


def _silent_at(session: Session, lease: Lease) -> int:
    """Until when (Unix milliseconds) a ready lease may be renewed if no receipt comes any more.

    A receipt counts once, at the moment when it was first taken: one that is repeated is stored
    nowhere, and nobody but the enclave makes the next.
    """
    query = select(Receipt.received_at_ms).where(col(Receipt.lease_id) == lease.id)
    heard = session.exec(query.order_by(col(Receipt.number).desc()).limit(1)).first()
    if heard is not None:
        return heard + RECEIPT_SECONDS * 1000
    assert lease.ready_at_ms is not None
    return lease.ready_at_ms + FIRST_RECEIPT_SECONDS * 1000


def when_overdue(state: LeaseState, *, is_over: bool) -> tuple[LeaseState, str]:
    """Where a lease in this state goes when its deadline has passed, and why.

    `is_over`: its last receipt is here, or its job has ended: nothing more is wanted of its host.
    """
    if state is LeaseState.DRAINING and is_over:
        return LeaseState.CLOSED, "drained"
    return WHEN_OVERDUE[state], f"past the deadline of {state.value}"


def end_overdue(session: Session, now: int) -> tuple[str, ...]:
    """Move on every lease that no scheduler has moved on for a minute; return their ids."""
    query = (
        select(Lease)
        .where(col(Lease.deadline_ms) <= now - SCHEDULER_MILLISECONDS)
        .order_by(col(Lease.id))
        .limit(OVERDUE_MAX)
    )
    leases = session.exec(query).all()
    for lease in leases:
        ended = JOB.is_terminal(session.get_one(Job, lease.job_digest).state)
        is_over = ended or has_ended_by_receipt(session, lease)
        to, reason = when_overdue(lease.state, is_over=is_over)
        _move(session, lease, to, actor="market", reason=reason, now=now)
    return tuple(lease.id for lease in leases)


def has_ended_by_receipt(session: Session, lease: Lease) -> bool:
    """Whether a receipt that settled says that this lease's run has ended."""
    query = select(Receipt.digest).where(
        col(Receipt.lease_id) == lease.id, col(Receipt.end).is_not(None)
    )
    return session.exec(query).first() is not None


def requeue(session: Session, command: Requeue, now: int) -> JobState:
    """After a lost lease: the order is open again, and the job waits for the next generation.

    (1) The job has not changed since. (2) No lease of it is live: what still runs is drained first,
    for the next generation replaces every rank. (3) Without a generation left, it is exhausted.
    Returns the job's new state.
    """
    job = find_job(session, command.job)
    check_version(job, command.version)  # (1)
    live = [lease.id for lease in leases_of(session, command.job) if lease.state in LIVE]
    if live:  # (2)
        raise RefusedError("job-has-leases", f"lease {live[0]} is live")
    to = JobState.QUEUED if job.generation < job.generations_max else JobState.EXHAUSTED  # (3)
    move_to(session, job, to, actor=command.actor, reason=command.reason, now=now)
    if to is JobState.QUEUED:
        order = order_of(session, job)
        reopen_order(session, order, actor=command.actor, reason=command.reason, now=now)
    return to


def leases_of(session: Session, job: bytes) -> tuple[Lease, ...]:
    """Every lease of a job, oldest first."""
    query = select(Lease).where(col(Lease.job_digest) == base64url(job))
    return tuple(session.exec(query.order_by(col(Lease.created_at_ms), col(Lease.id))).all())


def find_lease(session: Session, name: str) -> Lease:
    """The lease of this id. Raises RefusedError (code *lease-unknown*)."""
    lease = session.get(Lease, name)
    if lease is None:
        raise RefusedError("lease-unknown", f"no lease {name[:64]}")
    return lease


# --- steps of a move -----------------------------------------------------------------------------


def _move(
    session: Session, lease: Lease, to: LeaseState, *, actor: str, reason: str, now: int
) -> None:
    """Move a lease; stop its meter, free its machine, and ask again, as the move demands."""
    changes = {}
    if lease.state in METERED and to not in METERED:
        changes["metered_until_ms"] = now
    was_live = lease.state in LIVE
    deadline = None if LEASE.is_terminal(to) else deadline_in(to, _terms(session, lease), now)
    move(session, lease, to, actor=actor, reason=reason, now=now, deadline=deadline, **changes)
    if was_live and to not in LIVE:
        after = OfferState.SUSPENDED if to in AT_FAULT else OfferState.LISTED
        offer = find_offer(session, lease.offer_id)
        why = f"{lease.id} is {to}"
        free_offer(session, offer, to=after, actor=actor, reason=why, now=now)


def _terms(session: Session, lease: Lease) -> OfferTerms:
    return session.get_one(OfferTerms, (lease.offer_id, lease.offer_terms_number))


def deadline_in(state: LeaseState, terms: OfferTerms, now: int) -> int:
    """The state's own time; a live lease ends with its offer at the latest."""
    own = now + STATE_SECONDS[state] * 1000
    return max(now + 1, min(own, terms.ends_at_ms)) if state in LIVE else own


def _all_ready(session: Session, job: Job) -> bool:
    ready = select(Lease.id).where(
        col(Lease.job_digest) == job.digest,
        col(Lease.generation) == job.generation,
        col(Lease.state) == LeaseState.READY,
    )
    return len(session.exec(ready).all()) == job.enclaves
