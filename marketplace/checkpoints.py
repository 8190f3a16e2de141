"""Checkpoints that enclaves report: what the market needs of them, and no more.

- A report is public and signed by an enclave's key, and it passes through the market's boxes on its
  way to the custodians. The market keeps the signed manifest in it for the next briefing, and the
  step: a receipt names the committed checkpoint by its artifact id alone.
- Only the host of the lease can bring it, for exactly that lease's job, generation and rank.
- It says nothing about what is committed: the custodians remember that, and state it in grants.
  So a host that brings reports of a key of its own gains nothing: metered keys come first in a
  briefing, and a receipt's step is looked up under the receipt's own signer.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from marketplace.models import Lease
from marketplace.models_exchange import Checkpoint
from trust.artifacts import ArtifactKind, Manifest
from trust.encoding import base64url, label_bytes
from trust.errors import BlindhostError, SessionError
from trust.identity import Signed, verify_signed
from trust.messages import CheckpointReport, SignedMessage, parse_message, signed_label

_SIGNED: Final = label_bytes(SignedMessage.LABEL)
REPORTS_PER_LEASE_MAX: Final = 4096  # a run of days, at one checkpoint every few minutes


def find_report(payload: bytes) -> Signed[CheckpointReport] | None:
    """The checkpoint report in a message, its signature verified; None: it is no such message."""
    if not payload.startswith(_SIGNED):  # a frame of serving costs no more than this look
        return None
    try:
        message = parse_message(payload)
        if not isinstance(message, SignedMessage):
            return None
        if signed_label(message.signed) != CheckpointReport.LABEL:
            return None
        return verify_signed(CheckpointReport, message.signed, signer=None)
    except BlindhostError:
        return None  # opaque to us: whoever it is for will say what is wrong with it


def accept_report(
    session: Session, lease: Lease, report: Signed[CheckpointReport], now: int
) -> bool:
    """Remember a reported checkpoint; return whether it is new.

    (1) It is of this lease's job, generation and rank. (2) The manifest in it is signed by the same
    key, (3) is a checkpoint's, and of this job and generation. (4) A lease has a bounded number.
    Raises SessionError, EncodingError or SignatureError.
    """
    document = report.document
    named = (base64url(document.job), document.generation, document.rank)
    if named != (lease.job_digest, lease.generation, lease.rank):  # (1)
        raise SessionError(f"checkpoint report of another job, generation or rank than {lease.id}")
    manifest = verify_signed(Manifest, document.manifest, signer=report.signer)  # (2)
    core = manifest.document.core
    if core.kind is not ArtifactKind.CHECKPOINT or core.origin is None:  # (3)
        raise SessionError(f"the manifest in a checkpoint report is of kind {core.kind.value}")
    if (core.origin.job, core.origin.generation) != (document.job, document.generation):
        raise SessionError("the manifest in a checkpoint report is of another job or generation")
    key = (base64url(manifest.digest), base64url(report.signer))
    if session.get(Checkpoint, key) is not None:
        return False
    count = session.connection().execute(
        sa.select(sa.func.count()).where(col(Checkpoint.lease) == lease.id)
    )
    if count.scalar_one() >= REPORTS_PER_LEASE_MAX:  # (4)
        raise SessionError(f"lease {lease.id} has reported {REPORTS_PER_LEASE_MAX} checkpoints")
    session.add(
        Checkpoint(
            artifact=key[0],
            signer=key[1],
            job=lease.job_digest,
            lease=lease.id,
            generation=document.generation,
            step=document.step,
            manifest=document.manifest,
            at_ms=now,
        )
    )
    session.flush()
    return True


def step_of(session: Session, artifact: bytes, job: bytes) -> int | None:
    """Step of a checkpoint of this job that a *metered* key reported; None: no such report."""
    query = select(Checkpoint.step).where(
        col(Checkpoint.artifact) == base64url(artifact),
        col(Checkpoint.job) == base64url(job),
        col(Checkpoint.signer).in_(_metered_keys(base64url(job))),
    )
    return session.exec(query).first()


def newest_manifests(session: Session, job: str, *, most: int) -> tuple[bytes, ...]:
    """Signed manifests of a job's checkpoints, newest first: those of metered keys before others.

    `job` is the digest as the tables have it.
    """
    metered = col(Checkpoint.signer).in_(_metered_keys(job))
    query = (
        select(Checkpoint.manifest)
        .where(col(Checkpoint.job) == job)
        .order_by(
            metered.desc(),
            col(Checkpoint.generation).desc(),
            col(Checkpoint.step).desc(),
            col(Checkpoint.artifact),
        )
        .limit(most)
    )
    return tuple(session.exec(query).all())


def _metered_keys(job: str) -> Any:
    return sa.select(col(Lease.signing_key)).where(
        col(Lease.job_digest) == job, col(Lease.signing_key).is_not(None)
    )
