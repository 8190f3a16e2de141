"""Inputs, use policies and terms: what a job opens, and by whose leave.

- What a party sealed comes from the own registry, or was signed by its one custodian.
- What an enclave made (an adapter) comes from the own log: its maker's key stands there as
  attested for the job and generation that the core names. Whoever relabels a base has no such key.
- A derived artifact's policy is the conjunction of its custodians' policies: each broker answers
  for its own entries, and for nobody else's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from trust.artifacts import CUSTODIANS_MAX, ArtifactKind, Core, Custodian, Manifest
from trust.custody import common_kind
from trust.errors import CustodyError, RefusedError
from trust.identity import Signed
from trust.jobs import InputRole, JobManifest, Terms, UsePolicy
from trust.messages import SCOPES_MAX
from trust.release_checks import accept_signed, check_recipe, require, shown
from trust.release_state import Holdings, Memory
from trust.verifier.policy import AppraisalPolicy

ROLE_KINDS: Final = {
    InputRole.MODEL: ArtifactKind.WEIGHTS,
    InputRole.DATASET: ArtifactKind.DATASET,
    InputRole.HELDOUT: ArtifactKind.DATASET,
    InputRole.ADAPTER: ArtifactKind.ADAPTER,
}


# --- with what -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A job's inputs, checked."""

    cores: tuple[Core, ...]
    """In the job's order."""
    model: Core

    @property
    def owner(self) -> Custodian:
        """The model's one custodian entry."""
        return self.model.custodians[0]

    def own(self, identity: bytes) -> tuple[Core, ...]:
        """Those that don't open without this custodian."""
        return tuple(c for c in self.cores if any(e.identity == identity for e in c.custodians))

    def lineages(self, identity: bytes) -> tuple[bytes, ...]:
        """Lineages that this custodian consents with, distinct, in the job's order."""
        own = (e.lineage for c in self.cores for e in c.custodians if e.identity == identity)
        return tuple(dict.fromkeys(own))


def accept_inputs(
    holdings: Holdings, memory: Memory, job: JobManifest, manifests: Sequence[bytes]
) -> Inputs:
    """The manifests are the job's inputs, each by its custodian or by the enclave that made it.

    (1) There is one for each input, and its digest is the input's id. (2) It is of the kind that
    its role wants. (3) What a party sealed has one custodian, who signed it; what names this
    custodian is in its own registry, so kind, lineage and epoch are the custodian's own words.
    (4) What an enclave made passes `_check_adapter`. (5) Real and simulated don't meet, and there
    are not more custodians and shares than documents hold.
    """
    wanted = len(job.inputs)
    require(len(manifests) == wanted, "inputs-missing", f"{len(manifests)} manifests of {wanted}")
    signed = []
    for each, data in zip(job.inputs, manifests, strict=True):
        manifest = accept_signed(Manifest, data, "manifest")
        text = f"the manifest of {each.role.value} is not the job's"
        require(manifest.digest == each.artifact, "manifest-other", text)  # (1)
        kind = manifest.document.core.kind
        text = f"{each.role.value} is a {kind.value}, wanted {ROLE_KINDS[each.role].value}"
        require(kind is ROLE_KINDS[each.role], "input-kind", text)  # (2)
        if each.role is not InputRole.ADAPTER:
            _check_sealed(holdings, manifest)  # (3)
        signed.append(manifest)
    cores = tuple(each.document.core for each in signed)
    model = next(c for i, c in zip(job.inputs, cores, strict=True) if i.role is InputRole.MODEL)
    inputs = Inputs(cores=cores, model=model)
    for each, manifest in zip(job.inputs, signed, strict=True):
        if each.role is InputRole.ADAPTER:
            _check_adapter(holdings, memory, inputs.owner, manifest)  # (4)
    _check_together(holdings, inputs)  # (5)
    return inputs


def check_custodian(holdings: Holdings, inputs: Inputs) -> None:
    """Something in the job needs this custodian's consent."""
    own = inputs.own(holdings.identity)
    require(bool(own), "not-a-custodian", "no input needs this custodian's consent")


def _check_sealed(holdings: Holdings, manifest: Signed[Manifest]) -> None:
    core = manifest.document.core
    count = len(core.custodians)
    require(count == 1, "input-custodians", f"an input with {count} custodians, wanted 1")
    custodian = core.custodians[0].identity
    require(
        manifest.signer == custodian,
        "manifest-not-by-its-custodian",
        f"signed by {shown(manifest.signer)}, its custodian is {shown(custodian)}",
    )
    registered = custodian != holdings.identity or manifest.digest in holdings.manifests
    text = f"this custodian never sealed {shown(manifest.digest)}"
    require(registered, "manifest-not-registered", text)


def _check_adapter(
    holdings: Holdings, memory: Memory, owner: Custodian, manifest: Signed[Manifest]
) -> None:
    """An adapter of this base that an enclave made, as far as this custodian can know.

    (1) No custodian signed it: what a party sealed is no adapter, whatever it says (attacks.md, 9).
    (2) The model's lineage has custody of it. (3) If it names this custodian, its maker's key
    stands in this log for the core's very job and generation. (4) A maker that this log knows made
    it for exactly that seat's custodians: none was added, and this one not left out.
    """
    core = manifest.document.core
    origin = core.origin
    assert origin is not None  # a core of kind adapter has one (trust/artifacts.py)
    by_party = any(each.identity == manifest.signer for each in core.custodians)
    text = f"signed by its custodian {shown(manifest.signer)}, and not by an enclave"
    require(not by_party, "adapter-relabelled", text)  # (1)
    base = (owner.identity, owner.lineage)
    of_base = any((each.identity, each.lineage) == base for each in core.custodians)
    text = "an adapter that the model's lineage has no custody of"
    require(of_base, "adapter-other-base", text)  # (2)
    seat = memory.made_by(origin.job, origin.generation, manifest.signer)
    names_this = any(each.identity == holdings.identity for each in core.custodians)
    text = f"no enclave of generation {origin.generation} with the key {shown(manifest.signer)}"
    require(seat is not None or not names_this, "adapter-unknown-maker", text)  # (3)
    text = "its custodians are not those of the job that made it"
    same = seat is None or core.custodians == seat.custodians
    require(same, "adapter-other-custodians", text)  # (4)


def _check_together(holdings: Holdings, inputs: Inputs) -> None:
    entries = {entry for core in inputs.cores for entry in core.custodians}
    try:
        common_kind(entries)
    except CustodyError as error:
        raise RefusedError("kinds-mixed", str(error)) from error
    text = f"{len(entries)} custodian entries; at most {CUSTODIANS_MAX}"
    require(len(entries) <= CUSTODIANS_MAX, "inputs-custodians", text)
    # A grant's scopes: each own entry of each core, and each own entry once for output and group.
    own = [e for c in inputs.cores for e in c.custodians if e.identity == holdings.identity]
    scopes = len(own) + 2 * len(set(own))
    text = f"{scopes} shares; a grant has at most {SCOPES_MAX}"
    require(scopes <= SCOPES_MAX, "inputs-shares", text)


# --- by whose leave ------------------------------------------------------------------------------


def accept_policies(
    holdings: Holdings, inputs: Inputs, buyer: bytes
) -> tuple[AppraisalPolicy, ...]:
    """The use policy of every own entry allows this buyer; returns appraisal policies, distinct.

    A dataset opens for its own buyer's jobs and no others, unless its policy names them. Weights
    open for whom the policy names, or for anybody that keeps the terms. An adapter is made of both:
    where no name is given, its model's entry opens for one of its custodians, and no other entry
    for anybody.
    """
    found: dict[bytes, AppraisalPolicy] = {}
    for core in inputs.own(holdings.identity):
        for entry in core.custodians:
            if entry.identity != holdings.identity:
                continue
            policy = holdings.use_policy(entry.lineage)
            if policy is None:
                raise RefusedError("use-policy-missing", f"no use policy for a {core.kind.value}")
            allowed = buyer == holdings.identity or _names_buyer(
                policy, core, entry, inputs.owner, buyer
            )
            text = f"buyer {shown(buyer)} may not use this {core.kind.value}"
            require(allowed, "buyer-not-allowed", text)
            appraisal = holdings.appraisal_policies.get(policy.appraisal_policy)
            if appraisal is None:
                raise RefusedError(
                    "appraisal-policy-missing", "the use policy's is not in this home"
                )
            found[appraisal.digest] = appraisal
    return tuple(found.values())


def _names_buyer(
    policy: UsePolicy, core: Core, entry: Custodian, owner: Custodian, buyer: bytes
) -> bool:
    if policy.jobs_signed_by is not None:
        return buyer in policy.jobs_signed_by
    if core.kind is ArtifactKind.ADAPTER:
        shares_custody = any(each.identity == buyer for each in core.custodians)
        return entry.lineage == owner.lineage and shares_custody
    return core.kind is ArtifactKind.WEIGHTS


def accept_terms(
    holdings: Holdings,
    memory: Memory,
    job: Signed[JobManifest],
    inputs: Inputs,
    data: bytes,
    now: int,
) -> Terms:
    """The terms are the owner's, the job's, honoured now, and the job keeps them.

    (1) The model's custodian signed them, as owner, about this model. (2) They are those that the
    job names. (3) They name no screen. (4) For a new job the owner published them, and they have
    not expired and are, to the owner, its newest; (5) or the owner undertook in them to serve what
    was made under them, for longer than now, and every adapter was. Later generations keep the
    first. (6) The recipe is within them.
    """
    signed = accept_signed(Terms, data, "terms")
    terms, owner = signed.document, inputs.owner
    by_owner = signed.signer == terms.owner == owner.identity
    require(by_owner, "terms-not-by-the-owner", f"signed by {shown(signed.signer)}")  # (1)
    text = "these terms are about other models"
    require(owner.lineage in terms.lineages, "terms-other-model", text)
    require(signed.digest == job.document.terms, "terms-other", "not those that the job names")
    require(terms.screen is None, "terms-screen", "screening does not exist yet")  # (3)
    if job.digest not in memory.terms:
        own = owner.identity == holdings.identity
        text = "this owner never published these terms"
        require(not own or terms.digest in holdings.terms, "terms-not-registered", text)
        if not _undertaken(holdings, memory, inputs, signed, now):  # (5)
            text = f"expired at {terms.expires_at}, it is {now}"
            require(now < terms.expires_at, "terms-expired", text)  # (4)
            if own:
                _check_newest(holdings, terms, owner.lineage)
    check_recipe(job.document, terms)  # (6)
    return terms


def _check_newest(holdings: Holdings, terms: Terms, lineage: bytes) -> None:
    newest = holdings.newest_terms(lineage)
    require(
        newest is not None and newest.digest == terms.digest,
        "terms-not-newest",
        f"terms {terms.number}; a new job needs {newest.number if newest else 'newer'}",
    )


def _undertaken(
    holdings: Holdings, memory: Memory, inputs: Inputs, terms: Signed[Terms], now: int
) -> bool:
    """Every adapter whose training this log knows was made under exactly these terms, and they
    promise to serve it until later than now (attacks.md, 15): new terms are no ransom.

    Every one, and not any: old terms must not serve what was made under new ones.
    """
    origins = [c.origin for c in inputs.own(holdings.identity) if c.origin is not None]
    return (
        bool(origins)
        and now < terms.document.undertaking.until
        and all(memory.terms.get(each.job) == terms.digest for each in origins)
    )
