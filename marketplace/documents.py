"""The registry: signed terms, use policies and manifests, by digest; and the newest of a lineage.

- A document is stored as the bytes that were signed, after its signature was verified. It proves
  itself to everybody; the market's word for it counts for nothing.
- Terms and use policies are numbered. The highest number wins for (signer, lineage); a lower one
  is refused as outdated, and so is another document with the same number. Terms speak for the
  lineages of their owner, and a lineage of somebody else's under one's own name reaches nobody.
- An input's manifest is signed by a custodian in its core. A derived one is signed by an enclave's
  key: the market takes it from the job's parties and hosts, and tells nobody that it is good.
  Which one counts is in the custodians' grants, and what they say is an artifact's id.
- An adapter may be another job's input, so its signer is a key that this market itself attested for
  a lease of the job and generation that its core names as its origin. No other signature over it is
  taken, and none that was taken before is ever handed out as an input's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Final

from sqlmodel import Session, col, select

from marketplace.models import Lease
from marketplace.models_exchange import Document, Newest
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode, StoredResult
from trust.artifacts import ArtifactKind, Core, Manifest
from trust.encoding import base64url
from trust.errors import DocumentError, SignatureError
from trust.identity import IDENTITY_BYTES, SIGNATURE_BYTES, Signed, verify_signed
from trust.jobs import Close, Terms, UsePolicy
from trust.messages import signed_label

DERIVED_PER_JOB_MAX: Final = 4096  # manifests of one job's outputs that one party may register
Registered = Terms | UsePolicy | Manifest
_KINDS: Final[dict[str, type[Registered]]] = {
    Terms.LABEL: Terms,
    UsePolicy.LABEL: UsePolicy,
    Manifest.LABEL: Manifest,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """A signed document of a kind that the registry keeps, verified."""

    signed: Signed[Registered]
    posted_by: bytes
    """Identity of the party that brings it."""


def verify_document(data: bytes, *, posted_by: bytes) -> Registration:
    """Verify a document for the registry. No database is needed, so none is locked meanwhile.

    (1) It is of a kind that the registry keeps. (2) Its signature holds. (3) The signer is the
    party that it speaks for; an input's manifest is signed by a custodian in its core.
    (4) Nothing in it that this version cannot keep: terms that name a screen.

    Raises EncodingError, SignatureError, or MarketError (REFUSED).
    """
    kind = _KINDS.get(signed_label(data))
    if kind is None:  # (1)
        raise DocumentError(f"the registry keeps {', '.join(_KINDS)}, not {signed_label(data)!r}")
    signed = verify_signed(kind, data, signer=None)  # (2)
    document = signed.document
    match document:  # (3)
        case Terms():
            _check_signer(signed, (document.owner,))
            if document.screen is not None:  # (4)
                raise MarketError(
                    ErrorCode.REFUSED, "these terms name a screen, and screening is not built yet"
                )
        case UsePolicy():
            _check_signer(signed, (document.custodian,))
        case Manifest() if document.core.origin is None:
            _check_signer(signed, tuple(each.identity for each in document.core.custodians))
        case _:
            pass  # a derived manifest: an enclave signed it, see `register`
    return Registration(signed=signed, posted_by=posted_by)


def register(session: Session, registration: Registration, now: int) -> StoredResult:
    """Store a verified document. Raises MarketError: OUTDATED, CONFLICT, FULL, REFUSED.

    Left to the caller: whether the party may register what that job made.
    """
    signed, document = registration.signed, registration.signed.document
    key = (base64url(signed.digest), base64url(signed.signer))
    if session.get(Document, key) is not None:
        return StoredResult.EXISTS
    origin = document.core.origin if isinstance(document, Manifest) else None
    if isinstance(document, Manifest) and document.core.kind is ArtifactKind.ADAPTER:
        check_maker(session, document.core, signed.signer)
    row = Document(
        digest=key[0],
        signer=key[1],
        kind=document.LABEL,
        content=signed.encode(),
        job=None if origin is None else base64url(origin.job),
        generation=None if origin is None else origin.generation,
        posted_by=base64url(registration.posted_by),
        at_ms=now,
    )
    if origin is not None:
        _check_share(session, row)
    if isinstance(document, Terms | UsePolicy):
        _replace_newest(session, document, row)
    session.add(row)
    session.flush()
    return StoredResult.CREATED


def store_close(session: Session, close: Signed[Close], now: int) -> None:
    """Keep a buyer's last word on a job, for its custodians. Who may say it: `jobs.close_job`."""
    key = (base64url(close.digest), base64url(close.signer))
    if session.get(Document, key) is None:
        row = Document(
            digest=key[0],
            signer=key[1],
            kind=Close.LABEL,
            content=close.encode(),
            job=base64url(close.document.job),
            posted_by=key[1],
            at_ms=now,
        )
        session.add(row)
        session.flush()


def find_close(session: Session, job: str) -> bytes | None:
    """The first signed `Close` of a job (digest as in the tables); None: it is not closed."""
    query = select(Document.content).where(
        col(Document.job) == job, col(Document.kind) == Close.LABEL
    )
    return session.exec(query.order_by(col(Document.at_ms))).first()


def find(session: Session, sha256: bytes) -> Document:
    """The document of this digest, whoever signed it first. Raises MarketError (NOT_FOUND)."""
    query = select(Document).where(col(Document.digest) == base64url(sha256))
    row = session.exec(query.order_by(col(Document.at_ms), col(Document.signer))).first()
    if row is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"no document {sha256.hex()}")
    return row


def find_newest(session: Session, kind: str, signer: bytes, lineage: bytes) -> Document:
    """The newest numbered document of this signer and lineage. Raises MarketError (NOT_FOUND)."""
    newest = session.get(Newest, (kind, base64url(signer), base64url(lineage)))
    if newest is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"{signer.hex()} has published no {kind} of this")
    return session.get_one(Document, (newest.digest, newest.signer))


def load_terms(session: Session, sha256: bytes) -> Signed[Terms]:
    """Terms by digest. Raises MarketError (NOT_FOUND)."""
    return verify_signed(Terms, _of_kind(session, sha256, Terms.LABEL).content, signer=None)


def load_input_manifest(session: Session, sha256: bytes) -> Signed[Manifest]:
    """An input's manifest by artifact id. Raises MarketError (NOT_FOUND, REFUSED)."""
    return verify_signed(Manifest, find_input(session, sha256), signer=None)


def find_input(session: Session, sha256: bytes) -> bytes:
    """The signed manifest of an input, by artifact id; a derived one as its own enclave signed it.

    Raises MarketError: NOT_FOUND, REFUSED if no enclave of its origin signed it.
    """
    row = _of_kind(session, sha256, Manifest.LABEL)
    if row.job is None:
        return row.content
    makers = select(Lease.signing_key).where(
        col(Lease.job_digest) == row.job,
        col(Lease.generation) == row.generation,
        col(Lease.signing_key).is_not(None),
    )
    query = select(Document.content).where(
        col(Document.digest) == row.digest, col(Document.signer).in_(makers)
    )
    found = session.exec(query.order_by(col(Document.at_ms), col(Document.signer))).first()
    if found is None:
        raise MarketError(
            ErrorCode.REFUSED, f"no enclave of its origin has signed manifest {sha256.hex()}"
        )
    return found


def check_maker(session: Session, core: Core, signer: bytes) -> None:
    """Whether this market attested `signer` for the job and generation that a core names.

    Raises MarketError (REFUSED).
    """
    assert core.origin is not None  # an adapter's core has one: `Core` refuses another
    query = select(Lease.id).where(
        col(Lease.signing_key) == base64url(signer),
        col(Lease.job_digest) == base64url(core.origin.job),
        col(Lease.generation) == core.origin.generation,
    )
    if session.exec(query).first() is None:
        raise MarketError(
            ErrorCode.REFUSED,
            f"{core.kind.value} signed by {signer.hex()}, which is no key that this market attested"
            f" for generation {core.origin.generation} of job {core.origin.job.hex()}",
        )


def custodians_in(manifest: bytes) -> tuple[bytes, ...]:
    """Identities of the custodians in a stored signed manifest, in the core's order."""
    return _custodians_in(manifest)


def _of_kind(session: Session, sha256: bytes, kind: str) -> Document:
    row = find(session, sha256)
    if row.kind != kind:
        raise MarketError(ErrorCode.NOT_FOUND, f"{sha256.hex()} is a {row.kind}, wanted {kind}")
    return row


def _check_signer(signed: Signed[Registered], wanted: tuple[bytes, ...]) -> None:
    if signed.signer not in wanted:
        names = ", ".join(each.hex() for each in wanted)
        raise SignatureError(
            f"{signed.document.LABEL} is signed by {signed.signer.hex()}, wanted {names}"
        )


def _check_share(session: Session, row: Document) -> None:
    query = select(Document.digest).where(
        col(Document.job) == row.job, col(Document.posted_by) == row.posted_by
    )
    if len(session.exec(query.limit(DERIVED_PER_JOB_MAX)).all()) == DERIVED_PER_JOB_MAX:
        raise MarketError(
            ErrorCode.FULL, f"a party registers at most {DERIVED_PER_JOB_MAX} outputs of a job"
        )


def _replace_newest(session: Session, document: Terms | UsePolicy, row: Document) -> None:
    """Every lineage named takes the number, or none does."""
    for lineage in document.lineages:
        name = base64url(lineage)
        newest = session.get(Newest, (row.kind, row.signer, name))
        if newest is None:
            newest = Newest(kind=row.kind, signer=row.signer, lineage=name, number=0, digest="")
        if document.number < newest.number:
            raise MarketError(
                ErrorCode.OUTDATED, f"{row.kind} {document.number}; number {newest.number} is known"
            )
        if document.number == newest.number:
            raise MarketError(
                ErrorCode.CONFLICT, f"{row.kind} {document.number} is another document already"
            )
        newest.number, newest.digest = document.number, row.digest
        session.add(newest)


@functools.lru_cache(maxsize=4096)
def _custodians_in(manifest: bytes) -> tuple[bytes, ...]:
    document = Manifest.parse(manifest[SIGNATURE_BYTES + IDENTITY_BYTES :])
    return tuple(entry.identity for entry in document.core.custodians)
