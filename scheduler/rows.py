"""What a round reads: one consistent state of the market's rows, turned into snapshots. No writes.

- Readiness is what custodians signed, by the market's clock. Who they are, the manifests say.
- Reliability and failures are counted from the leases' own history, so anybody can count again.
- The compute class is the manifest's; where that names none, it is the class of the first lease
  that ran, from then on. Where the manifest allows another class, only generation 1 is pinned.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func
from sqlmodel import Session, col, or_, select

from marketplace import jobs, leases, offers, orders, settlement
from marketplace.models import (
    Hold,
    HoldState,
    Job,
    JobState,
    Lease,
    LeaseState,
    Meter,
    Offer,
    OfferState,
    OfferTerms,
    Order,
    Receipt,
    Transition,
)
from marketplace.models_exchange import Readiness
from marketplace.submission import custodians_of
from marketplace.transitions import JOB, LEASE
from scheduler.decisions import wants_machines
from scheduler.matching import reliability_ppm, shard_of
from scheduler.predicates import Available, Failures, Wanted
from scheduler.snapshots import CustodianSnapshot, JobSnapshot, LeaseSnapshot, OrderSnapshot
from trust.encoding import base64url, parse_base64url
from trust.jobs import BidKind, JobManifest
from trust.messages import End

JOBS_MAX: Final = 10_000  # in one round of one shard


def unfinished_jobs(session: Session) -> list[str]:
    """Digests of jobs that have not ended, or that still hold a lease."""
    going = [state for state in JobState if not JOB.is_terminal(state)]
    held = [state for state in LeaseState if not LEASE.is_terminal(state)]
    leased = select(Lease.job_digest).where(col(Lease.state).in_(held))
    query = select(Job.digest).where(or_(col(Job.state).in_(going), col(Job.digest).in_(leased)))
    return list(session.exec(query.order_by(col(Job.digest)).limit(JOBS_MAX)))


def job_shard(job: str, shards: int) -> int:
    """Which of `shards` looks after a job: by its digest, which nobody chooses."""
    return int.from_bytes(parse_base64url(job)[:8], "big") % shards


def load_job(session: Session, name: str) -> JobSnapshot:
    """A job and all that hangs on it."""
    job = session.get_one(Job, name)
    found = session.exec(select(Order).where(col(Order.job_digest) == name)).first()
    serves = job.meter is Meter.TOKENS
    ends = _ends(session, name)
    rows = leases.leases_of(session, parse_base64url(name))
    return JobSnapshot(
        job=name,
        version=job.version,
        state=job.state,
        generation=job.generation,
        generations_max=job.generations_max,
        enclaves=job.enclaves,
        serves=serves,
        deadline=job.deadline_ms,
        waiting_for=job.waiting_for,
        order=None if found is None else _order(session, found),
        leases=tuple(
            LeaseSnapshot(
                lease=row.id,
                version=row.version,
                state=row.state,
                rank=row.rank,
                generation=row.generation,
                since=_since(session, row),
                deadline=row.deadline_ms,
                end=ends.get(row.id),
                paid_until=(
                    settlement.pays_until(session, row)
                    if serves and found is not None and row.state is LeaseState.READY
                    else None
                ),
            )
            for row in rows
        ),
        custodians=_custodians(session, job),
    )


def _order(session: Session, order: Order) -> OrderSnapshot:
    hold = session.get_one(Hold, order.hold_id)
    left = hold.reserved - hold.captured - hold.released
    return OrderSnapshot(
        order=order.id,
        version=order.version,
        state=order.state,
        funded=hold.state is HoldState.PLACED and left > 0,
    )


def _ends(session: Session, job: str) -> dict[str, End]:
    """How each lease ended, by its receipts: a lease's last receipt alone has an end."""
    query = select(Receipt.lease_id, Receipt.end).where(
        col(Receipt.job_digest) == job, col(Receipt.end).is_not(None)
    )
    return {lease: End(end) for lease, end in session.exec(query) if end is not None}


def _since(session: Session, lease: Lease) -> int:
    query = select(func.max(col(Transition.at_ms))).where(col(Transition.subject_id) == lease.id)
    return session.exec(query).one() or lease.created_at_ms


def _custodians(session: Session, job: Job) -> tuple[CustodianSnapshot, ...]:
    """Whose consent the job's inputs need, by their signed manifests."""
    said = select(Readiness.custodian, Readiness.at_ms).where(col(Readiness.job) == job.digest)
    ready = dict(session.exec(said).all())
    roles = {job.owner: "the model owner", job.buyer: "the buyer"}  # one party may be both
    wanted = [base64url(each) for each in custodians_of(session, job)]
    return tuple(
        CustodianSnapshot(
            custodian=each, role=roles.get(each, "a custodian"), ready_at=ready.get(each)
        )
        for each in wanted
    )


# --- matching -----------------------------------------------------------------------------------


def load_wanted(
    session: Session, *, shard: int, shards: int, now: int
) -> list[tuple[JobSnapshot, Wanted]]:
    """Orders of a shard that may be given machines now, and the jobs that they are for."""
    found = []
    for order in orders.open_orders(session, now):
        job = session.get_one(Job, order.job_digest)
        manifest = jobs.manifest_of(job)
        need = manifest.resources
        if shard_of(platform=need.platform, gpu_model=need.gpu_model, shards=shards) != shard:
            continue
        snapshot = load_job(session, job.digest)
        if not wants_machines(snapshot, now):
            continue
        wanted = Wanted(
            order=order.id,
            placed_at=order.created_at_ms,
            ranks=tuple(range(job.enclaves)),
            platform=need.platform,
            gpu_model=need.gpu_model,
            gpus=need.gpus,
            memory_mib=need.memory_mib,
            compute_class=_pinned_class(session, job, manifest),
            lasts_until=now,
            interruptible=manifest.bid.kind is BidKind.INTERRUPTIBLE,
            bid=order.bid,
            failures=_failures(session, job.digest),
        )
        found.append((snapshot, wanted))
    return found


def load_available(session: Session, *, shard: int, shards: int, now: int) -> list[Available]:
    """Machines of a shard, leased ones included: they tell what a job waits for."""
    query = select(Offer, OfferTerms).where(
        col(Offer.state).in_([OfferState.LISTED, OfferState.CLAIMED]),
        col(OfferTerms.offer_id) == col(Offer.id),
        col(OfferTerms.number) == col(Offer.terms_number),
        col(OfferTerms.ends_at_ms) > now,
    )
    reliability = _reliability(session)
    return [
        Available(
            offer=offer.id,
            version=offer.version,
            host=offer.host,
            platform=terms.platform,
            gpu_model=terms.gpu_model,
            gpus=terms.gpus,
            memory_mib=terms.memory_mib,
            compute_class=terms.compute_class,
            ends_at=terms.ends_at_ms,
            ask=terms.ask,
            floor=terms.floor,
            reliability_ppm=reliability.get(offer.host, reliability_ppm(kept=0, failed=0)),
            free=offer.state is OfferState.LISTED,
        )
        for offer, terms in session.exec(query.limit(offers.LISTED_MAX)).all()
        if shard_of(platform=terms.platform, gpu_model=terms.gpu_model, shards=shards) == shard
    ]


def _pinned_class(session: Session, job: Job, manifest: JobManifest) -> str | None:
    if job.generation and manifest.resume_on_other_class:
        return None
    return manifest.compute_class or first_class(session, job.digest)


def first_class(session: Session, job: str) -> str | None:
    """The compute class of the first lease that ran; None: none ever did."""
    query = (
        select(OfferTerms.compute_class)
        .join(
            Lease,
            (col(Lease.offer_id) == col(OfferTerms.offer_id))
            & (col(Lease.offer_terms_number) == col(OfferTerms.number)),
        )
        .where(col(Lease.job_digest) == job, col(Lease.ready_at_ms).is_not(None))
        .order_by(col(Lease.generation), col(Lease.rank))
    )
    return session.exec(query).first()


def _failures(session: Session, job: str) -> tuple[Failures, ...]:
    """Leases of a job that ended by their host's fault, and those whose run was stopped.

    An enclave stops where it was kept from its work: it may go on elsewhere, and where it was
    stopped it would be stopped again. That is nobody's fault on record: for other jobs it counts
    nothing.
    """
    at_fault = select(Transition.subject_id).where(
        col(Transition.to_state).in_([state.value for state in leases.AT_FAULT])
    )
    stopped = select(Receipt.lease_id).where(
        col(Receipt.job_digest) == job, col(Receipt.end) == End.STOPPED.value
    )
    query = (
        select(Lease.host, func.count())
        .where(
            col(Lease.job_digest) == job,
            or_(col(Lease.id).in_(at_fault), col(Lease.id).in_(stopped)),
        )
        .group_by(col(Lease.host))
        .order_by(col(Lease.host))
    )
    return tuple(Failures(host=host, times=times) for host, times in session.exec(query).all())


def _reliability(session: Session) -> dict[str, int]:
    """Reliability of every host that ever had a lease, computed from the leases' history."""
    faults = (
        select(Lease.host, func.count())
        .join(Transition, col(Transition.subject_id) == col(Lease.id))
        .where(col(Transition.to_state).in_([state.value for state in leases.AT_FAULT]))
        .group_by(col(Lease.host))
    )
    failed = dict(session.exec(faults).all())
    ran = (
        select(Lease.host, func.count())
        .where(col(Lease.state) == LeaseState.CLOSED, col(Lease.ready_at_ms).is_not(None))
        .group_by(col(Lease.host))
    )
    lost = (
        select(Lease.host, func.count())
        .join(Transition, col(Transition.subject_id) == col(Lease.id))
        .where(
            col(Lease.state) == LeaseState.CLOSED,
            col(Lease.ready_at_ms).is_not(None),
            col(Transition.to_state).in_([state.value for state in leases.AT_FAULT]),
        )
        .group_by(col(Lease.host))
    )
    kept, wrong = dict(session.exec(ran).all()), dict(session.exec(lost).all())
    return {
        host: reliability_ppm(
            kept=kept.get(host, 0) - wrong.get(host, 0), failed=failed.get(host, 0)
        )
        for host in kept.keys() | failed.keys()
    }
