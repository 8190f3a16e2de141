"""The custodian's decision, pure: `decide(state, request, now)` gives a `Decision` or a `Refusal`.

- Release is the only way a share leaves a custodian. It follows from documents that this custodian
  can check itself: its own registry, its own log, signatures, evidence; never from who carried
  them, and never from what the market says.
- Every check is a refusal code of its own (trust/release_checks.py; docs/spec/release.md).
- A decision changes nothing. It returns the log entries that whoever calls writes durably *before*
  the answer is sent: then a crash loses an answer, never the memory of it.
- A seat (job, generation, rank) belongs to one key pair. That pair gets the same stored grant as
  often as it asks, and no other pair gets any.
"""

from __future__ import annotations

import dataclasses

from trust.custody import output_custodians
from trust.errors import RefusedError
from trust.hand_over import HandOverAsked, decide_hand_over
from trust.jobs import JobManifest
from trust.messages import (
    EvidenceBundle,
    ReleaseRequest,
    Statement,
)
from trust.release_budget import UNBOUNDED, first_allowance
from trust.release_checks import (
    accept_evidence,
    accept_job,
    accept_orders,
    accept_signed,
    check_above_every_generation,
    check_heads,
    check_images,
    check_launch,
    check_open,
    check_standing,
    check_statement,
    refusing,
    require,
    shown,
)
from trust.release_follow import (
    CloseHeard,
    Decision,
    FollowUpAsked,
    OrderAsked,
    ReceiptHeard,
    ReportHeard,
    decide_close,
    decide_follow_up,
    decide_order,
    decide_receipt,
    decide_report,
)
from trust.release_grant import (
    Opening,
    derived_openings,
    group_openings,
    input_openings,
    output_openings,
    seal_grant,
)
from trust.release_inputs import (
    Inputs,
    accept_inputs,
    accept_policies,
    accept_terms,
    check_custodian,
)
from trust.release_state import Released, Seat, State
from trust.verifier.results import AttestationResult

__all__ = [
    "CloseHeard",
    "Decision",
    "FollowUpAsked",
    "HandOverAsked",
    "OrderAsked",
    "ReceiptHeard",
    "Refusal",
    "ReleaseAsked",
    "ReportHeard",
    "Request",
    "check_ready",
    "decide",
    "statement_of",
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseAsked:
    """An enclave asks for its seat's grant."""

    request: ReleaseRequest
    orders: tuple[bytes, ...] = ()
    """Signed generation orders of the job, by whomever: the chain before the request's."""


Request = (
    ReleaseAsked
    | FollowUpAsked
    | ReportHeard
    | OrderAsked
    | ReceiptHeard
    | CloseHeard
    | HandOverAsked
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """No, and why: a stable word, and a text that holds no secret."""

    code: str
    text: str


def decide(state: State, request: Request, now: int) -> Decision | Refusal:
    """Decide on one request at `now` (Unix milliseconds). Never raises for what a stranger sent."""
    try:
        match request:
            case ReleaseAsked():
                return _decide_release(state, request, now)
            case FollowUpAsked():
                return decide_follow_up(state, request, now)
            case ReportHeard():
                return decide_report(state, request, now)
            case OrderAsked():
                return decide_order(state, request, now)
            case ReceiptHeard():
                return decide_receipt(state, request)
            case CloseHeard():
                return decide_close(state, request)
            case HandOverAsked():
                return decide_hand_over(state, request, now)
    except RefusedError as error:
        return Refusal(code=_code(request, error.code), text=error.text)


def _code(request: Request, code: str) -> str:
    """A refusal of a report or receipt says so: it answers no question that an enclave waits on."""
    prefix = ""
    if isinstance(request, ReportHeard | ReceiptHeard):
        prefix = "report-" if isinstance(request, ReportHeard) else "receipt-"
    return code if code.startswith((prefix, "segments-")) else prefix + code


def statement_of(request: ReleaseRequest) -> tuple[EvidenceBundle, Statement]:
    """The evidence of a request and the statement in it, parsed and not believed.

    Raises RefusedError (``evidence-malformed``).
    """
    with refusing("evidence"):
        bundle = EvidenceBundle.parse(request.evidence)
        return bundle, Statement.parse(bundle.statement)


def _decide_release(state: State, asked: ReleaseAsked, now: int) -> Decision:
    """Release, once for each seat.

    (1) This broker's log is the newest of its custodian's. (2) A seat that this very key pair
    holds gets its stored grant again: it can open nothing more than before. (3) The statement
    answers this verifier's own fresh challenge, for this purpose. (4) The launch document is the
    measured one, and says what the statement says. (5) The job is signed by its buyer and open.
    (6) Its buyer ordered this generation and gave this rank to this lease, (7) above every one
    that was released for. (8) The inputs are the job's, own ones from the own registry.
    (9) The use policies allow this buyer. (10) The terms are the owner's and honoured, and the
    recipe keeps them. (11) Evidence: the hardware signed this statement and launch document, on a
    machine and with an image that each appraisal policy accepts, of the lineages' kind. (12) The
    job names that image. (13) The other custodians know of no longer log. (14) The budget allows
    something. (15) Shares for exactly these scopes, sealed to the statement's key.

    Left to the caller: the nonce is dropped whatever comes out, and the entries are durable before
    the answer is sent.
    """
    check_standing(state)  # (1)
    request, holdings, memory = asked.request, state.holdings, state.memory
    bundle, statement = statement_of(request)
    if stored := _stored_grant(state, statement):  # (2)
        return Decision(answer=stored)
    check_statement(state, statement, now)  # (3)
    check_launch(bundle, statement, holdings.market)  # (4)
    job = accept_job(memory, request.job, statement, now)  # (5)
    orders = accept_orders(memory, job, statement, request.order, asked.orders, now)  # (6)
    check_above_every_generation(memory, statement)  # (7)
    inputs = accept_inputs(holdings, memory, job.document, request.manifests)  # (8)
    check_custodian(holdings, inputs)
    policies = accept_policies(holdings, inputs, job.document.buyer)  # (9)
    terms = accept_terms(holdings, memory, job, inputs, request.terms, now)  # (10)
    lineages = inputs.lineages(holdings.identity)
    results = accept_evidence(  # (11)
        bundle, statement, policies, holdings.releases, lineages, now
    )
    check_images(job.document, results)  # (12)
    check_heads(state, inputs.cores)  # (13)
    noted = memory.checkpoints.get(job.digest)
    stated = None if noted is None else noted.at
    allowance = UNBOUNDED
    if terms.owner == holdings.identity:  # (14)
        allowance = first_allowance(
            memory,
            name=job.digest,
            job=job.document,
            terms=terms,
            first_step=0 if stated is None else stated.step,
            now=now,
        )
    openings = _openings(state, job.document, job.digest, statement, inputs)  # (15)
    grant = seal_grant(
        holdings,
        statement,
        openings,
        number=0,
        checkpoint=stated,
        allowance=allowance,
        terms=terms.digest,
    )
    entry = Released(
        job=request.job,
        orders=tuple(each.encode() for each in orders),
        statement=bundle.statement,
        terms=terms.digest,
        model=inputs.model.custodians[0].lineage,
        policies=tuple(each.policy for each in results),
        verdicts=tuple(each.digest for each in results),
        collateral=_collateral(results),
        chip_id=results[0].chip_id,
        custodians=output_custodians(inputs.cores),
        allowance=allowance,
        checkpoint=stated,
        grant=grant,
    )
    return Decision(entries=(entry,), answer=grant)


def check_ready(
    state: State, job: bytes, documents: tuple[bytes, ...], terms: bytes, now: int
) -> JobManifest:
    """Whether this broker would release for a job, as far as can be said before evidence is there.

    `documents` are the signed job manifest and the signed manifests of its inputs, in its order.
    A broker that would refuse does not say that it is ready: then nothing is leased, and no money
    is spent on it. Raises RefusedError.
    """
    check_standing(state)
    holdings, memory = state.holdings, state.memory
    signed = accept_signed(JobManifest, documents[0], "job")
    text = f"signed by {shown(signed.signer)}"
    require(signed.signer == signed.document.buyer, "job-not-by-its-buyer", text)
    require(signed.digest == job, "job-other", "not the job that was asked about")
    check_open(memory, job, signed.document, now)
    inputs = accept_inputs(holdings, memory, signed.document, documents[1:])
    check_custodian(holdings, inputs)
    accept_policies(holdings, inputs, signed.document.buyer)
    accept_terms(holdings, memory, signed, inputs, terms, now)
    check_heads(state, inputs.cores)
    return signed.document


def _stored_grant(state: State, statement: Statement) -> bytes | None:
    seat: Seat | None = state.memory.seats.get(
        (statement.job, statement.generation, statement.rank)
    )
    if seat is None:
        return None
    held, asking = seat.statement, statement
    same = (held.hpke_key, held.signing_key) == (asking.hpke_key, asking.signing_key)
    return seat.grant if same else None


def _openings(
    state: State, job: JobManifest, name: bytes, statement: Statement, inputs: Inputs
) -> tuple[Opening, ...]:
    """Own inputs; outputs; the group of a job of several; the checkpoint that is stated.

    An adapter among the inputs opens as any derived artifact does: one share for each own entry.
    """
    holdings, generation = state.holdings, statement.generation
    entries = output_custodians(inputs.cores)
    own = inputs.own(holdings.identity)
    openings = input_openings(holdings, [core for core in own if core.origin is None])
    for adapter in (core for core in own if core.origin is not None):
        openings += derived_openings(holdings, adapter)
    openings += output_openings(holdings, entries, name, generation)
    if job.enclaves > 1:
        openings += group_openings(holdings, entries, name, generation)
    noted = state.memory.checkpoints.get(name)
    if noted is not None:
        openings += derived_openings(holdings, noted.core)
    return openings


def _collateral(results: tuple[AttestationResult, ...]) -> tuple[bytes, ...]:
    return tuple(sorted({each.sha256 for result in results for each in result.collateral}))
