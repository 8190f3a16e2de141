"""Jobs: signed manifests by digest, their generations, and how far they are.

- A job is what its buyer signed. The market stores those bytes, and copies out the numbers that it
  settles by; nobody changes them afterwards.
- A generation exists by its buyer's signed order alone. The market asks for one and makes none: it
  takes the next number, linked to the order before, for leases that it opened for this job.
- Receipts of an older generation do not settle (`marketplace.settlement`).

Refusals are RefusedError with a code; a command that was here before is `Outcome.EXISTS`.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

from sqlmodel import Session, col, select

from marketplace.metering import MILLION
from marketplace.models import GenerationOrder, Job, JobState, Lease, LeaseState, Meter
from marketplace.transitions import JOB, Outcome, begin, change, check_version, move
from trust import jobs as documents
from trust.encoding import base64url
from trust.errors import RefusedError
from trust.identity import IDENTITY_BYTES, SIGNATURE_BYTES, Signed

FEE_PPM_MAX: Final = MILLION

METERS: Final = {
    documents.JobKind.TRAIN: Meter.STEPS,
    documents.JobKind.EVALUATE: Meter.RUN,
    documents.JobKind.SERVE: Meter.TOKENS,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SubmitJob:
    """A buyer's job, and the owner's terms that it names."""

    manifest: Signed[documents.JobManifest]
    terms: Signed[documents.Terms]
    undertaken: bool
    """These terms made an adapter that the job serves: they hold while their undertaking does."""
    fee_ppm: int
    """The market's fee, in parts per million of the host's gross."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoveJob:
    """The scheduler's decision on a job, made on `version`."""

    job: bytes
    version: int
    to: JobState
    actor: str
    reason: str


def submit_job(session: Session, command: SubmitJob, now: int) -> Outcome:
    """Store a job, queued.

    (1) The buyer that the manifest names signed it. (2) Stored before: nothing more to do.
    (3) The terms are those that it names, signed by the owner that they name. (4) Neither has
    expired; of terms by which an adapter was made, the undertaking has not. (5) Nothing in them
    that this market cannot keep.

    Left to the caller: that the terms are the owner's newest, or undertaken.
    """
    manifest, terms = command.manifest.document, command.terms.document
    if command.manifest.signer != manifest.buyer:  # (1)
        raise RefusedError("wrong-signer", "the job is not signed by the buyer that it names")
    digest = base64url(command.manifest.digest)
    if session.get(Job, digest) is not None:  # (2)
        return Outcome.EXISTS
    if command.terms.digest != manifest.terms:  # (3)
        raise RefusedError("wrong-terms", "the terms are not those that the job names")
    if command.terms.signer != terms.owner:
        raise RefusedError("wrong-signer", "the terms are not signed by the owner they name")
    hold_until = terms.undertaking.until if command.undertaken else terms.expires_at
    for name, expires_at in (("job", manifest.expires_at), ("terms", hold_until)):  # (4)
        if expires_at <= now:
            raise RefusedError(f"{name}-expired", f"{name}: expired at {expires_at}, now {now}")
    if terms.screen is not None:  # (5)
        raise RefusedError("screen-not-built", "terms name a screen; screening is not built yet")
    if not 0 <= command.fee_ppm <= FEE_PPM_MAX:
        raise RefusedError("fee-out-of-range", f"fee {command.fee_ppm} ppm, at most {FEE_PPM_MAX}")
    per_job, per_million_tokens = _royalties(manifest, terms)
    job = Job(
        digest=digest,
        buyer=base64url(manifest.buyer),
        owner=base64url(terms.owner),
        manifest=command.manifest.encode(),
        terms_digest=base64url(manifest.terms),
        enclaves=manifest.enclaves,
        checkpoint_steps=manifest.checkpoint_steps,
        generations_max=manifest.generations_max,
        spend_max=manifest.spend_max_microcredits,
        meter=METERS[manifest.kind],
        ceiling=manifest.ceiling_microcredits_per_step,
        royalty_per_job=per_job,
        royalty_per_million_tokens=per_million_tokens,
        fee_ppm=command.fee_ppm,
        state=JobState.QUEUED,
        generation=0,
        version=1,
        deadline_ms=manifest.expires_at,
        created_at_ms=now,
    )
    begin(session, job, actor=job.buyer, reason="submitted", now=now)
    return Outcome.CREATED


def accept_generation(
    session: Session, order: Signed[documents.GenerationOrder], now: int
) -> Outcome:
    """Store a generation order and give its leases their generation; the job is *starting*.

    (1) The job's buyer signed it. (2) Stored before: nothing more to do. (3) Its number is the
    last + 1, within the manifest's highest, and it links to the order before. (4) It has not
    expired. (5) The job waits for one. (6) It names, for every rank, the lease that this market
    claimed for that rank of that job, and that no generation has yet.
    """
    document = order.document
    job = find_job(session, document.job)
    if base64url(order.signer) != job.buyer:  # (1)
        raise RefusedError("wrong-signer", "the generation is not ordered by the job's buyer")
    last = None
    if job.generation:
        last = session.get_one(GenerationOrder, (job.digest, job.generation))
        found = session.get(GenerationOrder, (job.digest, document.number))
        if found is not None and found.digest == base64url(order.digest):  # (2)
            return Outcome.EXISTS
    if document.number != job.generation + 1:  # (3)
        wanted = job.generation + 1
        raise RefusedError("wrong-generation", f"generation {document.number}, wanted {wanted}")
    if document.number > job.generations_max:
        raise RefusedError("generations-used-up", f"the job allows {job.generations_max}")
    before = None if document.before is None else base64url(document.before)
    if before != (None if last is None else last.digest):
        raise RefusedError("wrong-link", "the generation does not link to the order before it")
    if document.expires_at <= now:  # (4)
        raise RefusedError("order-expired", f"expired at {document.expires_at}, now {now}")
    if job.state is not JobState.PLACED:  # (5)
        raise RefusedError("job-not-placed", f"the job is {job.state}, wanted placed")
    leases = _leases_named(session, job, document)  # (6)
    session.add(
        GenerationOrder(
            job_digest=job.digest,
            number=document.number,
            digest=base64url(order.digest),
            before=before,
            document=order.encode(),
            expires_at_ms=document.expires_at,
            created_at_ms=now,
        )
    )
    session.flush()
    for lease in leases:
        change(session, lease, generation=document.number)
    move(
        session,
        job,
        JobState.STARTING,
        actor=job.buyer,
        reason=f"generation {document.number} ordered",
        now=now,
        deadline=job.deadline_ms,
        generation=document.number,
        waiting_for=None,
    )
    return Outcome.CREATED


def _royalties(manifest: documents.JobManifest, terms: documents.Terms) -> tuple[int, int]:
    """Microcredits for the job, once, and for a million tokens: of serving, those undertaken."""
    if manifest.kind is documents.JobKind.SERVE:
        return 0, terms.undertaking.price_microcredits_per_million_tokens
    return terms.price_microcredits_per_job, terms.royalty_microcredits_per_million_tokens


def _leases_named(session: Session, job: Job, document: documents.GenerationOrder) -> list[Lease]:
    if len(document.leases) != job.enclaves:
        text = f"{len(document.leases)} leases for {job.enclaves} enclaves"
        raise RefusedError("wrong-leases", text)
    leases = []
    for named in document.leases:
        lease = session.get(Lease, named.lease)
        wanted = (job.digest, named.rank, LeaseState.CLAIMED, None)
        if lease is None or wanted != (lease.job_digest, lease.rank, lease.state, lease.generation):
            text = f"{named.lease} is no claimed lease of rank {named.rank} of this job"
            raise RefusedError("wrong-leases", text)
        leases.append(lease)
    return leases


def close_job(session: Session, order: Signed[documents.Close], now: int) -> Outcome:
    """The buyer's last word: the job is cancelled. Its leases and order end by the scheduler."""
    job = find_job(session, order.document.job)
    if base64url(order.signer) != job.buyer:
        raise RefusedError("wrong-signer", "the job is not closed by its buyer")
    if JOB.is_terminal(job.state):
        return Outcome.EXISTS
    move(session, job, JobState.CANCELLED, actor=job.buyer, reason="closed by its buyer", now=now)
    return Outcome.CREATED


def move_job(session: Session, command: MoveJob, now: int) -> None:
    """Apply a decision. Raises StaleError if the job has changed since it was made."""
    job = find_job(session, command.job)
    check_version(job, command.version)
    move_to(session, job, command.to, actor=command.actor, reason=command.reason, now=now)


def move_to(
    session: Session, job: Job, to: enum.StrEnum, *, actor: str, reason: str, now: int
) -> None:
    """Move a job, with its manifest's expiry as the deadline of every state that goes on."""
    deadline = None if JOB.is_terminal(to) else deadline_of(job)
    move(session, job, to, actor=actor, reason=reason, now=now, deadline=deadline)


def wait_for(session: Session, job: bytes, whom: str | None) -> None:
    """Say for whom a job waits, for people; None: for nobody."""
    found = find_job(session, job)
    if found.waiting_for != whom:
        change(session, found, waiting_for=whom)


def find_job(session: Session, digest: bytes) -> Job:
    """The job of this digest. Raises RefusedError (code *job-unknown*)."""
    job = session.get(Job, base64url(digest))
    if job is None:
        raise RefusedError("job-unknown", f"no job {base64url(digest)}")
    return job


def manifest_of(job: Job) -> documents.JobManifest:
    """The manifest, from the signed bytes that were verified when they were stored."""
    return documents.JobManifest.parse(job.manifest[SIGNATURE_BYTES + IDENTITY_BYTES :])


def deadline_of(job: Job) -> int:
    """When the manifest expires; a job that has ended keeps that in its manifest alone."""
    return job.deadline_ms if job.deadline_ms is not None else manifest_of(job).expires_at


def generation_orders(session: Session, job: bytes) -> tuple[GenerationOrder, ...]:
    """Every generation of a job, as signed, oldest first."""
    query = select(GenerationOrder).where(col(GenerationOrder.job_digest) == base64url(job))
    return tuple(session.exec(query.order_by(col(GenerationOrder.number))))
