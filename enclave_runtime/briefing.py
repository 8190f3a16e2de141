"""The agent's briefing: documents that prove themselves, or the enclave does not start.

Nothing is believed because a host sent it. The launch document, which is measured, names the job by
digest; the job names its inputs and the owner's terms by digest; the order is signed by the job's
buyer. What a briefing says besides that (endorsements, manifests of checkpoints) is an offer: a
verifier judges the first, and the custodians' statements choose among the second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.custody import output_custodians
from trust.errors import SessionError
from trust.identity import Signed, verify_signed
from trust.jobs import (
    GenerationOrder,
    InputRole,
    JobManifest,
    LaunchDocument,
    LoraRecipe,
    Terms,
)
from trust.messages import Briefing, Endorsement

_KIND_OF_ROLE: Final = {
    InputRole.MODEL: ArtifactKind.WEIGHTS,
    InputRole.DATASET: ArtifactKind.DATASET,
    InputRole.HELDOUT: ArtifactKind.DATASET,
    InputRole.ADAPTER: ArtifactKind.ADAPTER,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Brief:
    """What a run is about, after every check. Only `check_briefing` makes one."""

    launch: LaunchDocument
    job: Signed[JobManifest]
    order: Signed[GenerationOrder]
    terms: Signed[Terms]
    inputs: tuple[Signed[Manifest], ...]
    """In the job's order."""
    checkpoints: Mapping[bytes, Signed[Manifest]]
    """Artifact id → manifest, as far as the host offers them."""
    endorsements: tuple[Endorsement, ...]
    entries: tuple[Custodian, ...]
    """Custodian entries of the job: the custodians of whatever it makes."""

    @property
    def manifests(self) -> Mapping[InputRole, Manifest]:
        """Of every input that is no adapter: there is one for each role."""
        named = zip(self.job.document.inputs, self.inputs, strict=True)
        return {i.role: m.document for i, m in named if i.role is not InputRole.ADAPTER}

    @property
    def adapters(self) -> tuple[Manifest, ...]:
        """In the job's order: number n of them is n+1 in a batch, and 0 is the base."""
        named = zip(self.job.document.inputs, self.inputs, strict=True)
        return tuple(m.document for i, m in named if i.role is InputRole.ADAPTER)

    @property
    def custodians(self) -> tuple[bytes, ...]:
        """Identities whose grants are wanted, sorted: those that the signed manifests name."""
        return tuple(sorted({entry.identity for entry in self.entries}))

    @property
    def tokens_per_step(self) -> int:
        """Rows a step × length: what is counted for one step, whatever the rows hold."""
        recipe = self.job.document.recipe
        if not isinstance(recipe, LoraRecipe):
            return 0
        return recipe.rows_per_step * self.job.document.length_max

    @property
    def evaluation_tokens(self) -> int:
        """What is counted for one evaluation: every row whole, and its longest reply."""
        evaluation = self.job.document.recipe.evaluation
        if evaluation is None:
            return 0
        return evaluation.rows_max * (self.job.document.length_max + evaluation.reply_tokens_max)


def check_briefing(launch: LaunchDocument, briefing: Briefing) -> Brief:
    """Check a briefing against the measured launch document.

    (1) The job is the launch document's, signed by the buyer that it names. (2) The order is that
    buyer's, for this job and generation, and puts this rank under this lease. (3) The terms are
    those that the job names, signed by their owner. (4) Each manifest is the job's input in its
    place, of the kind that its role wants, signed by its one custodian; an adapter is signed by the
    enclave that made it, whom custodians know, and is of this very model. (5) The terms are about
    the model's lineage. (6) Real and simulated lineages do not meet. (7) Offered checkpoints are
    manifests; whether one is used, the custodians decide.

    Raises SessionError, SignatureError, CustodyError or EncodingError.
    """
    job = verify_signed(JobManifest, briefing.job, signer=None)  # (1)
    if job.digest != launch.job:
        raise SessionError(f"briefing: job {job.digest.hex()}, launched for {launch.job.hex()}")
    if job.signer != job.document.buyer:
        raise SessionError("briefing: the job is not signed by the buyer that it names")
    order = verify_signed(GenerationOrder, briefing.order, signer=job.document.buyer)  # (2)
    _check_order(launch, job.document, order.document)
    terms = verify_signed(Terms, briefing.terms, signer=None)  # (3)
    if terms.digest != job.document.terms:
        raise SessionError(
            f"briefing: terms {terms.digest.hex()}, the job names {job.document.terms.hex()}"
        )
    if terms.signer != terms.document.owner:
        raise SessionError("briefing: the terms are not signed by the owner that they name")
    inputs = _check_manifests(job.document, briefing.manifests)  # (4)
    model = _check_adapters(job.document, inputs)
    if (
        model.identity != terms.document.owner or model.lineage not in terms.document.lineages
    ):  # (5)
        raise SessionError("briefing: the terms are not about the model's lineage")
    entries = output_custodians(m.document.core for m in inputs)  # (6)
    checkpoints = [verify_signed(Manifest, m, signer=None) for m in briefing.checkpoints]  # (7)
    return Brief(
        launch=launch,
        job=job,
        order=order,
        terms=terms,
        inputs=inputs,
        checkpoints={signed.digest: signed for signed in checkpoints},
        endorsements=briefing.endorsements,
        entries=entries,
    )


def _check_order(launch: LaunchDocument, job: JobManifest, order: GenerationOrder) -> None:
    if order.job != launch.job:
        raise SessionError(f"briefing: an order for job {order.job.hex()}")
    if order.number != launch.generation:
        raise SessionError(
            f"briefing: order of generation {order.number}, launched for {launch.generation}"
        )
    if not len(order.leases) == launch.ranks == job.enclaves:
        raise SessionError(
            f"briefing: the order seats {len(order.leases)} ranks, the launch document "
            f"{launch.ranks}, the job {job.enclaves}"
        )
    if order.leases[launch.rank].lease != launch.lease:
        raise SessionError(
            f"briefing: the order gives rank {launch.rank} to {order.leases[launch.rank].lease}, "
            f"launched under {launch.lease}"
        )
    if job.enclaves != 1:
        raise SessionError(f"briefing: {job.enclaves} enclaves; this image runs jobs of one")


def _check_manifests(job: JobManifest, signed: tuple[bytes, ...]) -> tuple[Signed[Manifest], ...]:
    if len(signed) != len(job.inputs):
        raise SessionError(f"briefing: {len(signed)} manifests for {len(job.inputs)} inputs")
    manifests = []
    for wanted, data in zip(job.inputs, signed, strict=True):
        manifest = verify_signed(Manifest, data, signer=None)
        core = manifest.document.core
        if manifest.digest != wanted.artifact:
            raise SessionError(
                f"briefing: {wanted.role.value} is {manifest.digest.hex()}, "
                f"the job names {wanted.artifact.hex()}"
            )
        if core.kind is not _KIND_OF_ROLE[wanted.role]:
            raise SessionError(f"briefing: {wanted.role.value} is of kind {core.kind.value}")
        alone = [entry.identity for entry in core.custodians] == [manifest.signer]
        if not alone and wanted.role is not InputRole.ADAPTER:
            raise SessionError(f"briefing: {wanted.role.value} is not signed by its one custodian")
        manifests.append(manifest)
    return tuple(manifests)


def _check_adapters(job: JobManifest, inputs: tuple[Signed[Manifest], ...]) -> Custodian:
    """The model's custodian entry, once every adapter was made from its lineage, in any epoch."""
    named = list(zip(job.inputs, (m.document.core for m in inputs), strict=True))
    model = next(core.custodians[0] for i, core in named if i.role is InputRole.MODEL)
    for each, core in named:
        made_from = {(entry.identity, entry.lineage) for entry in core.custodians}
        of_this_model = (model.identity, model.lineage) in made_from
        if each.role is InputRole.ADAPTER and not of_this_model:
            raise SessionError("briefing: an adapter that was not made from the model's lineage")
    return model
