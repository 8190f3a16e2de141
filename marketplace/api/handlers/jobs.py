"""Jobs: submit, look, order a generation, close; and what the market asks of its parties."""

from __future__ import annotations

from typing import Final

from sqlmodel import Session, col, select

from marketplace import documents, jobs, presence, settlement, submission, wire
from marketplace.api.asks import Ask, Reply, reply
from marketplace.api.views import job_view, receipt_view
from marketplace.leases import leases_of
from marketplace.models import Job, JobState, Lease, LeaseState, Settlement
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode
from trust.encoding import base64url, parse_base64url
from trust.identity import verify_signed
from trust.jobs import Close, Dispute, GenerationOrder, JobManifest, RankLease

READY_AGAIN_MILLISECONDS: Final = (
    presence.READY_MILLISECONDS // 3
)  # two asks may fail to reach a broker


def post_job(session: Session, ask: Ask) -> Reply:
    """Submit a signed manifest: the order is placed and its money held, or nothing is stored."""
    draft = ask.parse(wire.JobDraft)
    manifest = verify_signed(JobManifest, draft.manifest, signer=ask.identity)
    command = submission.Submission(manifest=manifest, fee_ppm=ask.market.settings.fee_ppm)
    submission.submit(session, command, ask.now)
    return reply(job_view(session, jobs.find_job(session, manifest.digest)))


def get_jobs(session: Session, ask: Ask) -> Reply:
    """The buyer's own, newest first."""
    query = (
        select(Job)
        .where(col(Job.buyer) == base64url(ask.identity))
        .order_by(col(Job.created_at_ms).desc(), col(Job.digest))
        .limit(wire.PAGE_ROWS_MAX)
    )
    return reply(wire.JobList(jobs=tuple(job_view(session, each) for each in session.exec(query))))


def get_job(session: Session, ask: Ask) -> Reply:
    """For its buyer and the custodians of its inputs."""
    return reply(job_view(session, _visible_job(session, ask, hosts=False)))


def get_documents(session: Session, ask: Ask) -> Reply:
    """For its parties and its hosts."""
    job = _visible_job(session, ask, hosts=True)
    digest = parse_base64url(job.digest)
    orders = jobs.generation_orders(session, digest)
    return reply(
        wire.JobDocuments(
            job=job.manifest,
            terms=documents.find(session, parse_base64url(job.terms_digest)).content,
            manifests=input_manifests(session, job),
            orders=tuple(each.document for each in orders),
            close=documents.find_close(session, job.digest),
        )
    )


def post_generation(session: Session, ask: Ask) -> Reply:
    """The buyer orders the next generation, for exactly the leases that the market offered."""
    order = verify_signed(GenerationOrder, ask.parse(wire.SignedBody).signed, signer=ask.identity)
    _check_named(ask, order.document.job)
    jobs.accept_generation(session, order, ask.now)
    return reply(job_view(session, jobs.find_job(session, order.document.job)))


def post_close(session: Session, ask: Ask) -> Reply:
    """The buyer's last word."""
    close = verify_signed(Close, ask.parse(wire.SignedBody).signed, signer=ask.identity)
    _check_named(ask, close.document.job)
    jobs.close_job(session, close, ask.now)
    documents.store_close(session, close, ask.now)
    return reply(job_view(session, jobs.find_job(session, close.document.job)))


def get_receipts(session: Session, ask: Ask) -> Reply:
    """Receipts that settled, for the job's parties and hosts."""
    job = _visible_job(session, ask, hosts=True)
    after = ask.number("after", default=0, most=1 << 31)
    settled = settlement.settlements_of(session, parse_base64url(job.digest))
    page = settled[after : after + wire.PAGE_ROWS_MAX]
    return reply(wire.ReceiptList(receipts=tuple(receipt_view(session, each) for each in page)))


def post_dispute(session: Session, ask: Ask) -> Reply:
    """The buyer contests a receipt; what it posted waits."""
    order = verify_signed(Dispute, ask.parse(wire.SignedBody).signed, signer=ask.identity)
    settlement.dispute(session, order, ask.now)
    row = session.get_one(Settlement, base64url(order.document.receipt))
    return reply(receipt_view(session, row))


def get_asks(session: Session, ask: Ask) -> Reply:
    """Generation orders that are wanted of a buyer, and readiness that is wanted of a custodian."""
    query = (
        select(Job)
        .where(col(Job.state).in_((JobState.QUEUED, JobState.PLACED)))
        .order_by(col(Job.created_at_ms), col(Job.digest))
    )
    asks: list[wire.GenerationAsk | wire.ReadyAsk] = []
    for job in session.exec(query):
        if len(asks) == wire.PAGE_ROWS_MAX:
            break
        if job.state is JobState.QUEUED:
            if _is_missed(session, job, ask):
                asks.append(wire.ReadyAsk(job=parse_base64url(job.digest)))
        elif job.buyer == base64url(ask.identity):
            asks.extend(_generation_ask(session, job))
    return reply(wire.AskList(asks=tuple(asks)))


def input_manifests(session: Session, job: Job) -> tuple[bytes, ...]:
    """Signed manifests of a job's inputs, in the job's order."""
    inputs = jobs.manifest_of(job).inputs
    return tuple(documents.find_input(session, each.artifact) for each in inputs)


def _is_missed(session: Session, job: Job, ask: Ask) -> bool:
    """Whether the market waits for this party's *ready*, or soon will."""
    if ask.identity not in submission.custodians_of(session, job):
        return False
    digest, within = parse_base64url(job.digest), READY_AGAIN_MILLISECONDS
    return ask.identity not in presence.ready_custodians(session, digest, ask.now, within=within)


def _generation_ask(session: Session, job: Job) -> tuple[wire.GenerationAsk, ...]:
    """Ask for the next order, once every rank has a claimed lease that no order names."""
    digest = parse_base64url(job.digest)
    free = {
        lease.rank: lease
        for lease in leases_of(session, digest)
        if lease.state is LeaseState.CLAIMED and lease.generation is None
    }
    if set(free) != set(range(job.enclaves)):
        return ()
    leases = [free[rank] for rank in sorted(free)]
    orders = jobs.generation_orders(session, digest)
    return (
        wire.GenerationAsk(
            job=digest,
            number=job.generation + 1,
            before=parse_base64url(orders[-1].digest) if orders else None,
            leases=tuple(RankLease(rank=each.rank, lease=each.id) for each in leases),
            hosts=tuple(parse_base64url(each.host) for each in leases),
            expires_at=min(each.deadline_ms or 0 for each in leases),
        ),
    )


def _check_named(ask: Ask, job: bytes) -> None:
    if job != ask.bytes_of("digest", 32):
        raise MarketError(ErrorCode.MALFORMED, f"the document is about job {job.hex()}")


def _visible_job(session: Session, ask: Ask, *, hosts: bool) -> Job:
    """The job in the path, if the asker has a part in it. Raises MarketError (NOT_FOUND)."""
    digest = ask.bytes_of("digest", 32)
    job = session.get(Job, base64url(digest))
    if job is not None:
        if ask.identity in (parse_base64url(job.buyer), parse_base64url(job.owner)):
            return job
        if ask.identity in submission.custodians_of(session, job):
            return job
        mine = select(Lease.id).where(
            col(Lease.job_digest) == job.digest, col(Lease.host) == base64url(ask.identity)
        )
        if hosts and session.exec(mine).first() is not None:
            return job
    raise MarketError(
        ErrorCode.NOT_FOUND, f"{ask.identity.hex()} has no part in job {digest.hex()}"
    )
