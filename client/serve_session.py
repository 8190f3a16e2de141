"""Which enclave serves a job, and how a client comes to believe it.

- A *target* is what one's own documents say: the newest generation order in one's own release log,
  the seat that it shows, one's own appraisal policies. Nothing of it is the market's word.
- `verify_offer` holds an enclave's evidence against a target. Only what it returns is sealed to.
- Pure: boxes, nonces and waiting are `client.serving`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

from client.gateway.ports import UnavailableError
from trust.artifacts import Custodian, Manifest
from trust.custody import common_kind
from trust.errors import RefusedError
from trust.identity import Signed
from trust.jobs import GenerateRecipe, JobManifest
from trust.messages import (
    EvidenceBundle,
    Purpose,
    RequestKey,
    ServeOffer,
    Statement,
    lease_address,
)
from trust.release_checks import (
    KINDS,
    accept_signed,
    appraise,
    check_images,
    check_launch,
    refusing,
    require,
    shown,
)
from trust.release_state import AcceptedReleases, Holdings, Memory
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import AttestationResult
from trust.verifier.roots import RootKind

SESSION_MILLISECONDS_MAX: Final = 3_600_000  # as long as an enclave keeps one request key
SERVED_RANK: Final = 0  # a serve job has one enclave (trust/jobs.py)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The enclave that may serve a job now, by one's own documents."""

    job: Signed[JobManifest]
    generation: int
    lease: str
    signing_key: bytes | None
    """The seat's, as attested to one's own broker. None: one's own shares open no input of this
    job (a base alone), so one's broker was not asked."""
    policies: tuple[AppraisalPolicy, ...]
    """All of these accept the evidence; never empty."""
    kind: RootKind
    market: bytes
    releases: AcceptedReleases | None
    """Images that this home took from a log; None: of none."""

    @property
    def address(self) -> bytes:
        """The enclave's mailbox."""
        return lease_address(self.lease)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """An enclave that a target's checks hold for, and the key that requests are sealed to."""

    target: Target
    statement: bytes
    """Digest."""
    request_key: RequestKey
    chip: bytes | None
    """64 bytes, by the evidence; None if that names no chip."""
    verified_at: int
    """Unix milliseconds."""
    ends_at: int
    """Verified again from then on: Unix milliseconds."""


# --- by one's own documents ----------------------------------------------------------------------


def find_target(
    holdings: Holdings, memory: Memory, job: Signed[JobManifest], entries: Sequence[Custodian]
) -> Target:
    """The target of a serve job.

    `entries` are the custodians of its inputs, by documents that the job names by digest.
    (1) The job is a serve job of one's own, not closed. (2) Its newest generation is ordered.
    (3) Where one's own shares open an input, one's own broker has released to that generation,
    under the lease of the order. (4) Every own lineage in it has a use policy whose appraisal
    policy is here; where there is none of one's own, all that one uses for this kind count.

    Raises UnavailableError for (2) and (3) while they are not there yet, else RefusedError.
    """
    buyer = job.signer == job.document.buyer == holdings.identity
    require(buyer, "job-not-own", "the job is another buyer's")  # (1)
    serves = isinstance(job.document.recipe, GenerateRecipe)
    require(serves, "job-serves-not", f"a {job.document.kind.value} job answers nobody")
    require(job.digest not in memory.closed, "job-closed", "its buyer closed the job")
    orders = memory.orders.get(job.digest, ())
    if not orders:  # (2)
        raise UnavailableError("no generation of this job is ordered yet")
    order = orders[-1].document
    lease = order.leases[SERVED_RANK].lease
    own = [each for each in entries if each.identity == holdings.identity]
    seat = memory.seats.get((job.digest, order.number, SERVED_RANK))
    if own and seat is None:  # (3)
        raise UnavailableError(f"one's own broker released nothing to generation {order.number}")
    if seat is not None:
        text = f"the seat runs under {seat.statement.lease}, ordered is {lease}"
        require(seat.statement.lease == lease, "seat-other-lease", text)
    kind = KINDS[common_kind(entries)]
    return Target(
        job=job,
        generation=order.number,
        lease=lease,
        signing_key=None if seat is None else seat.statement.signing_key,
        policies=_policies(holdings, own, kind),  # (4)
        kind=kind,
        market=holdings.market,
        releases=holdings.releases,
    )


def entries_of(job: JobManifest, manifests: Iterable[bytes]) -> tuple[Custodian, ...]:
    """Custodians of a job's inputs, from signed manifests that anybody carried.

    They prove themselves: each is one that the job names by digest, and all are there.
    """
    found = {m.digest: m for m in (accept_signed(Manifest, d, "manifest") for d in manifests)}
    wanted = {each.artifact for each in job.inputs}
    text = f"{len(found)} manifests, wanted those of the job's {len(wanted)} inputs"
    require(set(found) == wanted, "manifest-other", text)
    cores = [found[artifact].document.core for artifact in sorted(wanted)]
    return tuple(sorted({entry for core in cores for entry in core.custodians}))


def _policies(
    holdings: Holdings, own: Sequence[Custodian], kind: RootKind
) -> tuple[AppraisalPolicy, ...]:
    lineages = {each.lineage for each in own}
    if not lineages:
        lineages = {each for p in holdings.policies for each in p.document.lineages}
    found: dict[bytes, AppraisalPolicy] = {}
    for lineage in sorted(lineages):
        policy = holdings.use_policy(lineage)
        if policy is None:
            raise RefusedError("use-policy-missing", f"no use policy for lineage {shown(lineage)}")
        appraisal = holdings.appraisal_policies.get(policy.appraisal_policy)
        if appraisal is None:
            raise RefusedError("appraisal-policy-missing", "the use policy's is not in this home")
        if own or all(each.kind is kind for each in appraisal.roots):
            found[appraisal.digest] = appraisal
    text = f"this home has no appraisal policy for {kind.value} enclaves"
    require(bool(found), "appraisal-policy-missing", text)
    return tuple(found.values())


# --- by evidence ---------------------------------------------------------------------------------


def verify_offer(
    offer: ServeOffer, target: Target, *, client: bytes, nonce: bytes, now: int
) -> Session:
    """Believe an enclave, or raise RefusedError.

    (1) The statement is for this client, to serve, and answers `nonce`. (2) It names the job,
    lease, generation, rank and number of ranks of the target. (3) The launch document is the one
    that it names, and says the same. (4) Its signing key holds the seat in one's own log. (5) The
    chip's evidence holds under every policy of the target, by roots of its kind, over exactly this
    statement and launch document. (6) The image is one that the job names. (7) The request key is
    signed by that signing key, for this job, generation and rank.

    Left to the caller: that the nonce was fresh and is used no more, and that the request key is
    no older than one seen before. `now` is Unix milliseconds.
    """
    with refusing("evidence"):
        bundle = EvidenceBundle.parse(offer.evidence)
    with refusing("statement"):
        statement = Statement.parse(bundle.statement)
    text = f"made for verifier {shown(statement.verifier)}, this client is {shown(client)}"
    require(statement.verifier == client, "statement-other-verifier", text)  # (1)
    text = f"made for purpose {statement.purpose.value}, wanted serve"
    require(statement.purpose is Purpose.SERVE, "statement-other-purpose", text)
    text = "the statement answers another challenge than this one"
    require(statement.nonce == nonce, "nonce-unknown", text)
    _check_place(statement, target)  # (2)
    check_launch(bundle, statement, target.market)  # (3)
    holds = target.signing_key in (None, statement.signing_key)
    text = f"signing key {shown(statement.signing_key)} does not hold the seat in the own log"
    require(holds, "signing-key-not-the-seats", text)  # (4)
    results = [  # (5)
        _check_evidence(bundle, statement, each, target, now) for each in target.policies
    ]
    ends_at = min(int(each.expires_at.timestamp() * 1000) for each in results)
    return Session(
        target=target,
        statement=statement.digest,
        request_key=_accept_request_key(offer, statement),  # (7)
        chip=results[0].chip_id,
        verified_at=now,
        ends_at=min(ends_at, now + SESSION_MILLISECONDS_MAX),
    )


def _check_place(statement: Statement, target: Target) -> None:
    wanted = {
        "job": target.job.digest,
        "lease": target.lease,
        "generation": target.generation,
        "rank": SERVED_RANK,
        "ranks": target.job.document.enclaves,
    }
    for name, value in wanted.items():
        text = f"the statement's {name} is another than that of the newest order in the own log"
        require(getattr(statement, name) == value, f"statement-other-{name}", text)


def _check_evidence(
    bundle: EvidenceBundle,
    statement: Statement,
    policy: AppraisalPolicy,
    target: Target,
    now: int,
) -> AttestationResult:
    """One policy accepts."""
    result = appraise(bundle, statement, policy, target.releases, now)
    text = f"{result.kind.value} evidence for a {target.kind.value} lineage"
    require(result.kind is target.kind, "kind-other", text)
    check_images(target.job.document, (result,))  # (6)
    return result


def _accept_request_key(offer: ServeOffer, statement: Statement) -> RequestKey:
    signed = accept_signed(RequestKey, offer.request_key, "request-key")
    require(
        signed.signer == statement.signing_key,
        "request-key-not-by-the-enclave",
        f"signed by {shown(signed.signer)}, the enclave is {shown(statement.signing_key)}",
    )
    key = signed.document
    require(
        (key.job, key.generation, key.rank)
        == (statement.job, statement.generation, statement.rank),
        "request-key-other-seat",
        "the request key is of another job, generation or rank",
    )
    return key


def still_holds(session: Session, memory: Memory, now: int) -> bool:
    """Whether a session may be used again: its time is not up, nor its generation or its job."""
    job = session.target.job.digest
    orders = memory.orders.get(job, ())
    newest = bool(orders) and orders[-1].document.number == session.target.generation
    return newest and job not in memory.closed and now < session.ends_at
