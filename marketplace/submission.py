"""A job from its buyer's signed manifest to an order with its money held: all of it, or nothing.

What the market checks is what money and matching depend on. Whether a share is released is the
custodians' to decide, from documents that they check themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

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
from trust.artifacts import ArtifactKind, Manifest
from trust.custody import output_custodians
from trust.encoding import base64url
from trust.identity import Signed
from trust.jobs import InputRole, JobManifest, Terms


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A manifest whose signature holds, from the party that signed it."""

    manifest: Signed[JobManifest]
    fee_ppm: int


def submit(session: Session, command: Submission, now: int) -> Outcome:
    """Register a job, and hold `spend_max` for it, the owner's flat price included.

    (1) Every input is registered, of the kind that its role says, real and simulated apart.
    (2) The terms are registered, speak for the model's lineage, are the owner's newest of it, and
    allow the recipe. (3) The job is stored. (4) The money is held, under ids that follow from the
    job's digest: the digest is the client-made id, so submitting twice holds once.

    Raises MarketError (NOT_FOUND, OUTDATED, REFUSED, NO_FUNDS), CustodyError, or RefusedError.
    """
    manifest = command.manifest.document
    if session.get(Job, base64url(command.manifest.digest)) is not None:
        return Outcome.EXISTS
    inputs = {
        each.role: documents.load_input_manifest(session, each.artifact) for each in manifest.inputs
    }
    _check_inputs(inputs)  # (1)
    terms = documents.load_terms(session, manifest.terms)  # (2)
    _check_terms(session, terms, inputs[InputRole.MODEL], manifest)
    submit_job(  # (3)
        session,
        SubmitJob(manifest=command.manifest, terms=terms, fee_ppm=command.fee_ppm),
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


def _check_inputs(inputs: Mapping[InputRole, Signed[Manifest]]) -> None:
    for role, manifest in inputs.items():
        wanted = ArtifactKind.WEIGHTS if role is InputRole.MODEL else ArtifactKind.DATASET
        found = manifest.document.core.kind
        if found is not wanted:
            raise MarketError(ErrorCode.REFUSED, f"input {role}: {found.value}, wanted {wanted}")
    output_custodians([each.document.core for each in inputs.values()])


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
    session: Session, terms: Signed[Terms], model: Signed[Manifest], manifest: JobManifest
) -> None:
    document = terms.document
    owners = {each.identity for each in model.document.core.custodians}
    if owners != {document.owner}:
        raise MarketError(ErrorCode.REFUSED, "the terms are not those of the model's custodian")
    for entry in model.document.core.custodians:
        if entry.lineage not in document.lineages:
            raise MarketError(ErrorCode.REFUSED, "the terms do not speak for the model's lineage")
        newest = documents.find_newest(session, Terms.LABEL, document.owner, entry.lineage)
        if newest.digest != base64url(terms.digest):
            raise MarketError(
                ErrorCode.OUTDATED, f"terms {document.number} are not the owner's newest any more"
            )
    allowed = {each.recipe for each in document.recipes}
    if manifest.recipe.TAG not in allowed:
        raise MarketError(
            ErrorCode.REFUSED,
            f"the terms allow {', '.join(sorted(allowed))}, not {manifest.recipe.TAG}",
        )
    if document.price_microcredits_per_job > manifest.spend_max_microcredits:
        raise MarketError(
            ErrorCode.REFUSED,
            f"the owner's price is {document.price_microcredits_per_job}, the job's highest spend"
            f" {manifest.spend_max_microcredits}",
        )
