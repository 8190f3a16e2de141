"""A job from its buyer's signed manifest to an order with its money held: all of it, or nothing.

What the market checks is what money and matching depend on. Whether a share is released is the
custodians' to decide, from documents that they check themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from sqlmodel import Session

from marketplace import documents
from marketplace.ids import IdKind, derived_id
from marketplace.jobs import SubmitJob, manifest_of, submit_job
from marketplace.ledger import balance
from marketplace.models import AccountRole, Job
from marketplace.orders import PlaceOrder, place_order
from marketplace.refusals import MarketError
from marketplace.transitions import Outcome
from marketplace.wire import ErrorCode
from trust.artifacts import ArtifactKind, Core
from trust.custody import output_custodians
from trust.encoding import base64url
from trust.identity import Signed
from trust.jobs import InputRole, JobKind, JobManifest, Terms

_KIND_OF: Final = {
    InputRole.MODEL: ArtifactKind.WEIGHTS,
    InputRole.DATASET: ArtifactKind.DATASET,
    InputRole.HELDOUT: ArtifactKind.DATASET,
    InputRole.ADAPTER: ArtifactKind.ADAPTER,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A manifest whose signature holds, from the party that signed it."""

    manifest: Signed[JobManifest]
    fee_ppm: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _NamedInput:
    """What a manifest names, and what the registry knows of it."""

    role: InputRole
    core: Core


def submit(session: Session, command: Submission, now: int) -> Outcome:
    """Register a job, and hold `spend_max` for it, the owner's flat price included.

    (1) Every input is registered, of the kind that its role says, real and simulated apart; an
    adapter as an enclave signed it that this market attested. (2) The terms are registered, speak
    for the model's lineage, are the owner's newest of it, or those by which an adapter was made
    while their undertaking lasts, and allow the recipe. (3) The job is stored. (4) The money
    is held, under ids that follow from the job's digest: the digest is the client-made id, so
    submitting twice holds once.

    Raises MarketError (NOT_FOUND, OUTDATED, REFUSED, NO_FUNDS), CustodyError, or RefusedError.
    """
    manifest = command.manifest.document
    if session.get(Job, base64url(command.manifest.digest)) is not None:
        return Outcome.EXISTS
    inputs = [
        _NamedInput(
            role=each.role,
            core=documents.load_input_manifest(session, each.artifact).document.core,
        )
        for each in manifest.inputs
    ]
    _check_inputs(inputs)  # (1)
    terms = documents.load_terms(session, manifest.terms)  # (2)
    undertaken = _is_undertaken(session, terms, inputs, now)
    _check_terms(session, terms, inputs, manifest, undertaken=undertaken)
    submit_job(  # (3)
        session,
        SubmitJob(
            manifest=command.manifest, terms=terms, undertaken=undertaken, fee_ppm=command.fee_ppm
        ),
        now,
    )
    job = base64url(command.manifest.digest)
    ids = {
        kind: derived_id(kind, at=manifest.expires_at, purpose="submit", parts=(job,))
        for kind in (IdKind.ORDER, IdKind.HOLD, IdKind.TRANSFER)
    }
    _check_funds(session, manifest)  # (4)
    order = PlaceOrder(
        id=ids[IdKind.ORDER],
        hold=ids[IdKind.HOLD],
        transfer=ids[IdKind.TRANSFER],
        buyer=manifest.buyer,
        job=command.manifest.digest,
        amount=manifest.spend_max_microcredits,
    )
    return place_order(session, order, now)


def custodians_of(session: Session, job: Job) -> tuple[bytes, ...]:
    """The distinct identities whose consent a stored job needs, sorted: 32 bytes each."""
    contents = (documents.find(session, each.artifact).content for each in manifest_of(job).inputs)
    return tuple(sorted({party for each in contents for party in documents.custodians_in(each)}))


def _check_inputs(inputs: Sequence[_NamedInput]) -> None:
    for each in inputs:
        found, wanted = each.core.kind, _KIND_OF[each.role]
        if found is not wanted:
            raise MarketError(
                ErrorCode.REFUSED, f"input {each.role}: {found.value}, wanted {wanted}"
            )
    output_custodians([each.core for each in inputs])


def _is_undertaken(
    session: Session, terms: Signed[Terms], inputs: Sequence[_NamedInput], now: int
) -> bool:
    """Whether an adapter among the inputs was made under these terms, and they undertake it still.

    What was undertaken binds its owner although newer terms say otherwise, or these have expired.
    """
    makers = {each.core.origin.job for each in inputs if each.core.origin is not None}
    jobs = [session.get(Job, base64url(each)) for each in sorted(makers)]
    named = {job.terms_digest for job in jobs if job is not None}
    return base64url(terms.digest) in named and terms.document.undertaking.until > now


def _check_funds(session: Session, manifest: JobManifest) -> None:
    found, wanted = (
        balance(session, AccountRole.BUYER, manifest.buyer),
        manifest.spend_max_microcredits,
    )
    if found < wanted:
        raise MarketError(
            ErrorCode.NO_FUNDS,
            f"this job holds {wanted} microcredits until it ends, and the account has {found}:"
            f" {wanted - found} more are needed. Nothing was stored",
        )


def _check_terms(
    session: Session,
    terms: Signed[Terms],
    inputs: Sequence[_NamedInput],
    manifest: JobManifest,
    *,
    undertaken: bool,
) -> None:
    document = terms.document
    (model,) = (each.core for each in inputs if each.role is InputRole.MODEL)
    owners = {each.identity for each in model.custodians}
    if owners != {document.owner}:
        raise MarketError(ErrorCode.REFUSED, "the terms are not those of the model's custodian")
    for entry in model.custodians:
        if entry.lineage not in document.lineages:
            raise MarketError(ErrorCode.REFUSED, "the terms do not speak for the model's lineage")
        newest = documents.find_newest(session, Terms.LABEL, document.owner, entry.lineage)
        if newest.digest != base64url(terms.digest) and not undertaken:
            raise MarketError(
                ErrorCode.OUTDATED, f"terms {document.number} are not the owner's newest any more"
            )
    allowed = {each.recipe for each in document.recipes}
    if manifest.recipe.TAG not in allowed:
        raise MarketError(
            ErrorCode.REFUSED,
            f"the terms allow {', '.join(sorted(allowed))}, not {manifest.recipe.TAG}",
        )
    serves = manifest.kind is JobKind.SERVE  # which has no flat price
    if not serves and document.price_microcredits_per_job > manifest.spend_max_microcredits:
        raise MarketError(
            ErrorCode.REFUSED,
            f"the owner's price is {document.price_microcredits_per_job}, the job's highest spend"
            f" {manifest.spend_max_microcredits}",
        )
