"""Documents, readiness and heads."""

from __future__ import annotations

from sqlmodel import Session

from marketplace import documents, presence, wire
from marketplace.api.asks import Ask, Reply, held_lease, raw, reply
from marketplace.models import Job
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode
from trust.artifacts import LINEAGE_BYTES, Core, Manifest, Origin
from trust.encoding import base64url
from trust.errors import EncodingError
from trust.identity import verify_signed
from trust.jobs import Ready, Terms, UsePolicy
from trust.messages import LogHead


def put_document(session: Session, ask: Ask) -> Reply:
    """Register a signed document under its own digest.

    What a job made comes from its buyer, from the owner of its model, from a custodian that its
    core names, or from the host of a lease of exactly that job and generation.
    """
    wanted = ask.bytes_of("digest", 32)
    registration = documents.verify_document(ask.body, posted_by=ask.identity)
    document = registration.signed.document
    if document.digest != wanted:
        raise EncodingError(f"this is document {document.digest.hex()}, not {wanted.hex()}")
    if isinstance(document, Manifest) and document.core.origin is not None:
        _check_party(session, ask, document.core, document.core.origin)
    result = documents.register(session, registration, ask.now)
    return reply(wire.Stored(digest=wanted, result=result))


def get_document(session: Session, ask: Ask) -> Reply:
    """A signed document by its digest."""
    return raw(documents.find(session, ask.bytes_of("digest", 32)).content)


def get_terms(session: Session, ask: Ask) -> Reply:
    """An owner's newest terms of a lineage."""
    return _newest(session, ask, Terms.LABEL, "owner")


def get_use_policy(session: Session, ask: Ask) -> Reply:
    """A custodian's newest use policy of a lineage."""
    return _newest(session, ask, UsePolicy.LABEL, "custodian")


def post_ready(session: Session, ask: Ask) -> Reply:
    """A custodian is ready for a job."""
    signed = verify_signed(Ready, ask.parse(wire.SignedBody).signed, signer=ask.identity)
    if session.get(Job, base64url(signed.document.job)) is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"no job {signed.document.job.hex()}")
    presence.accept_ready(session, signed, ask.now)
    return reply(wire.Empty())


def post_head(session: Session, ask: Ask) -> Reply:
    """A custodian's newest log head."""
    signed = verify_signed(LogHead, ask.parse(wire.SignedBody).signed, signer=ask.identity)
    presence.accept_head(session, signed)
    return reply(wire.Empty())


def get_head(session: Session, ask: Ask) -> Reply:
    """Anybody may read a head: that is what it is for."""
    return raw(presence.find_head(session, ask.bytes_of("custodian", 32)))


def _newest(session: Session, ask: Ask, kind: str, party: str) -> Reply:
    lineage = ask.bytes_of("lineage", LINEAGE_BYTES)
    return raw(documents.find_newest(session, kind, ask.bytes_of(party, 32), lineage).content)


def _check_party(session: Session, ask: Ask, core: Core, origin: Origin) -> None:
    job = session.get(Job, base64url(origin.job))
    if job is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"no job {origin.job.hex()}")
    if "lease" in ask.query:
        lease = held_lease(session, ask, ask.query["lease"])
        if (lease.job_digest, lease.generation) != (job.digest, origin.generation):
            raise MarketError(ErrorCode.FORBIDDEN, f"{lease.id} is of another job or generation")
    elif base64url(ask.identity) not in (job.buyer, job.owner) and ask.identity not in {
        each.identity for each in core.custodians
    }:
        raise MarketError(ErrorCode.FORBIDDEN, "outputs come from the job's parties and hosts")
