"""The predicates of release: each raises RefusedError with a code of its own.

- They look at documents, holdings and memory, and at nothing else. `trust.release` says in which
  order they are made, and why.
- A code is a stable word for programs, and names the one check that failed. Texts say what was
  found and what was wanted, never a share or a key.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from trust.artifacts import Core, Custodian
from trust.custody import LineageKind, lineage_kind
from trust.encoding import Document, digest
from trust.errors import (
    BlindhostError,
    EvidenceError,
    EvidenceSignatureError,
    RefusedError,
    SignatureError,
)
from trust.identity import Signed, verify_signed
from trust.jobs import (
    GenerateRecipe,
    GenerationOrder,
    JobManifest,
    LaunchDocument,
    LoraRecipe,
    Terms,
)
from trust.messages import EvidenceBundle, Purpose, Statement
from trust.release_state import AcceptedReleases, Memory, Standing, State
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import AttestationResult
from trust.verifier.roots import RootKind

NONCE_AGE_MILLISECONDS_MAX: Final = 300_000  # a large image boots and attests well within
ORDER_LIFE_MILLISECONDS: Final = 3_600_000  # a lease's launch on a slow host, and its repeats
CLOCK_SKEW_MILLISECONDS: Final = 300_000  # between the buyer's clock and the owner's

KINDS: Final = {LineageKind.REAL: RootKind.REAL, LineageKind.SIMULATED: RootKind.SIMULATED}

D = TypeVar("D", bound=Document)


def require(condition: bool, code: str, text: str) -> None:  # noqa: FBT001 - it is the subject
    """Raise RefusedError unless the condition holds."""
    if not condition:
        raise RefusedError(code, text)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what is wrong with a document into the refusal ``<what>-signature|malformed``."""
    try:
        yield
    except RefusedError:
        raise
    except SignatureError as error:
        raise RefusedError(f"{what}-signature", str(error)) from error
    except BlindhostError as error:
        raise RefusedError(f"{what}-malformed", str(error)) from error


def accept_signed(kind: type[D], data: bytes, what: str) -> Signed[D]:
    """Parse and verify a signed document by whomever; its signer is the caller's to judge."""
    with refusing(what):
        return verify_signed(kind, data, signer=None)


def shown(data: bytes) -> str:
    """The beginning of a digest or an identity, for people."""
    return data[:8].hex()


# --- who asks ------------------------------------------------------------------------------------


def check_standing(state: State) -> None:
    """A log that is not the newest of its custodian releases nothing."""
    require(
        state.standing is Standing.CURRENT,
        "broker-behind",
        "this broker's log is older than a head that others hold; a person opens a new incarnation",
    )


def check_heads(state: State, cores: Sequence[Core]) -> None:
    """Each other custodian of the job has said how far it saw this broker's log go."""
    check_heard(state, [entry for core in cores for entry in core.custodians])


def check_heard(state: State, custodians: Iterable[Custodian]) -> None:
    """Each of these custodians but this one has said how far it saw this broker's log go."""
    missing = {each.identity for each in custodians} - {state.holdings.identity} - state.heads_from
    require(
        not missing,
        "heads-wanted",
        f"waiting to hear from custodian {', '.join(map(shown, sorted(missing)))}",
    )


def check_statement(state: State, statement: Statement, now: int) -> None:
    """The statement answers a fresh challenge of this verifier, for this purpose."""
    require(
        statement.verifier == state.holdings.identity,
        "statement-other-verifier",
        f"made for verifier {shown(statement.verifier)}",
    )
    require(
        statement.purpose is Purpose.RELEASE,
        "statement-other-purpose",
        f"made for purpose {statement.purpose.value}, wanted release",
    )
    challenge = state.challenges.get(statement.nonce)
    if challenge is None:
        raise RefusedError("nonce-unknown", "the nonce was never handed out, or was used before")
    require(
        challenge.purpose is Purpose.RELEASE,
        "nonce-other-purpose",
        f"handed out for purpose {challenge.purpose.value}, wanted release",
    )
    age = now - challenge.at
    require(
        0 <= age <= NONCE_AGE_MILLISECONDS_MAX,
        "nonce-stale",
        f"handed out {age} ms ago; at most {NONCE_AGE_MILLISECONDS_MAX}",
    )


def check_launch(bundle: EvidenceBundle, statement: Statement, market: bytes) -> None:
    """The launch document is the statement's, has no unknown field, and says the same."""
    require(
        digest(bundle.launch) == statement.launch,
        "launch-other-digest",
        "the launch document is not the one that the statement names",
    )
    with refusing("launch"):
        launch = LaunchDocument.parse(bundle.launch)
    for name in ("job", "lease", "generation", "rank", "ranks"):
        found, wanted = getattr(launch, name), getattr(statement, name)
        text = f"launched with another {name} than the statement's"
        require(found == wanted, f"launch-{name}", text)
    require(
        launch.market == market,
        "launch-market",
        f"launched to be metered by {shown(launch.market)}, wanted {shown(market)}",
    )


# --- what for ------------------------------------------------------------------------------------


def accept_job(memory: Memory, data: bytes, statement: Statement, now: int) -> Signed[JobManifest]:
    """The job is the statement's, signed by its buyer, and open."""
    job = accept_signed(JobManifest, data, "job")
    require(
        job.signer == job.document.buyer,
        "job-not-by-its-buyer",
        f"signed by {shown(job.signer)}, its buyer is {shown(job.document.buyer)}",
    )
    require(job.digest == statement.job, "job-other", "not the job that the statement names")
    check_open(memory, job.digest, job.document, now)
    require(
        statement.ranks == job.document.enclaves,
        "ranks-other",
        f"{statement.ranks} ranks; the job has {job.document.enclaves} enclaves",
    )
    return job


def check_open(memory: Memory, name: bytes, job: JobManifest, now: int) -> None:
    """Neither closed by its buyer nor expired."""
    require(name not in memory.closed, "job-closed", "its buyer closed the job")
    require(now < job.expires_at, "job-expired", f"expired at {job.expires_at}, it is {now}")


def accept_orders(
    memory: Memory,
    job: Signed[JobManifest],
    statement: Statement,
    data: bytes,
    further: Sequence[bytes],
    now: int,
) -> tuple[Signed[GenerationOrder], ...]:
    """The chain of orders, from those that the log knows to the statement's.

    (1) The buyer signed it, for this job and this generation. (2) It is within the job's number of
    generations and (3) within its time, which began in this incarnation of the broker. (4) It
    gives this rank to this lease. (5) It follows, link by link, on the orders that the log knows.
    Returns the order last, and before it those that were new. Any missing link refuses.
    """
    order = accept_signed(GenerationOrder, data, "order")
    said = order.document
    _check_by_buyer(order, job)  # (1)
    require(
        said.number == statement.generation,
        "order-other-generation",
        f"orders generation {said.number}, the statement says {statement.generation}",
    )
    most = job.document.generations_max
    require(said.number <= most, "generations-spent", f"generation {said.number} of {most}")  # (2)
    _check_order_time(memory, said, now)  # (3)
    require(  # (4)
        len(said.leases) == job.document.enclaves,
        "order-other-ranks",
        f"orders {len(said.leases)} leases for {job.document.enclaves} enclaves",
    )
    lease = said.leases[statement.rank].lease
    require(
        lease == statement.lease,
        "lease-not-the-orders",
        f"rank {statement.rank} runs under {lease}, not under {statement.lease}",
    )
    return _accept_chain(memory, job, order, further)  # (5)


def _check_by_buyer(order: Signed[GenerationOrder], job: Signed[JobManifest]) -> None:
    require(
        order.signer == job.document.buyer,
        "order-not-by-the-buyer",
        f"signed by {shown(order.signer)}, the buyer is {shown(job.document.buyer)}",
    )
    require(order.document.job == job.digest, "order-other-job", "orders another job")


def _check_order_time(memory: Memory, order: GenerationOrder, now: int) -> None:
    latest = now + ORDER_LIFE_MILLISECONDS + CLOCK_SKEW_MILLISECONDS
    require(now < order.expires_at, "order-expired", f"expired at {order.expires_at}, it is {now}")
    require(
        order.expires_at <= latest,
        "order-lives-too-long",
        f"expires at {order.expires_at}; at most {latest}",
    )
    # An order lives for so long at most, so one that ends later was signed after the incarnation
    # was opened: whatever a forgotten part of the log released, it was for an older order.
    require(
        ordered_in_this_incarnation(memory, order),
        "order-before-incarnation",
        f"may have been signed before this broker's incarnation {memory.incarnation} was opened",
    )


def ordered_in_this_incarnation(memory: Memory, order: GenerationOrder) -> bool:
    """Opening a new incarnation closes every generation ordered before it."""
    closed = memory.opened_at + ORDER_LIFE_MILLISECONDS + CLOCK_SKEW_MILLISECONDS
    return memory.incarnation == 1 or order.expires_at > closed


def _accept_chain(
    memory: Memory,
    job: Signed[JobManifest],
    order: Signed[GenerationOrder],
    further: Sequence[bytes],
) -> tuple[Signed[GenerationOrder], ...]:
    known = memory.orders.get(job.digest, ())
    number = order.document.number
    if number <= len(known):
        same = known[number - 1].digest == order.digest
        require(same, "order-forked", f"the log knows another order {number}")
        return (order,)
    chain = [order]
    offered = [accept_signed(GenerationOrder, each, "order") for each in further]
    by_number = {each.document.number: each for each in offered}
    for wanted in range(number - 1, len(known), -1):
        link = by_number.get(wanted)
        if link is None:
            raise RefusedError(
                "order-jump", f"order {number} follows on {len(known)}; {wanted} is missing"
            )
        _check_by_buyer(link, job)
        chain.insert(0, link)
    before = known[-1].digest if known else None
    for link in chain:
        require(
            link.document.before == before,
            "order-chain-broken",
            f"order {link.document.number} does not follow on the one before",
        )
        before = link.digest
    return tuple(chain)


def check_above_every_generation(memory: Memory, statement: Statement) -> None:
    """Rule 1: for one (job, rank), only above every generation that was released for, and once."""
    released = memory.newest.get((statement.job, statement.rank), 0)
    require(
        statement.generation != released,
        "seat-taken",
        f"rank {statement.rank} of generation {released} belongs to another key pair",
    )
    require(
        statement.generation > released
        and statement.generation >= memory.generation(statement.job),
        "generation-not-above",
        f"generation {statement.generation}; released for {memory.generation(statement.job)}",
    )
    pair = (statement.hpke_key, statement.signing_key)
    for seat in memory.seats.values():
        holds = seat.statement.hpke_key in pair or seat.statement.signing_key in pair
        require(not holds, "keys-in-another-seat", "one of these keys holds another seat")


def check_newest_generation(memory: Memory, job: bytes, generation: int) -> None:
    """Rule 2: only the newest generation that was released for is heard."""
    newest = memory.generation(job)
    require(
        generation == newest,
        "generation-superseded",
        f"generation {generation}; only generation {newest} is heard",
    )


# --- what it does --------------------------------------------------------------------------------


def check_recipe(job: JobManifest, terms: Terms) -> None:
    """The job's recipe is one that the terms allow, within its limits."""
    recipe = job.recipe
    allowed = next((each for each in terms.recipes if each.recipe == recipe.TAG), None)
    if allowed is None:
        raise RefusedError("recipe-not-in-terms", f"the terms allow no recipe {recipe.TAG}")
    if isinstance(recipe, LoraRecipe):
        text = f"rank {recipe.rank}; the terms allow {allowed.rank_max}"
        require(recipe.rank <= allowed.rank_max, "recipe-rank", text)
        text = f"{job.steps} steps; the terms allow {allowed.steps_max}"
        require(job.steps <= allowed.steps_max, "recipe-steps", text)
    writes = recipe if isinstance(recipe, GenerateRecipe) else recipe.evaluation
    if writes is not None:
        asked, most = writes.reply_tokens_max, terms.output.reply_tokens_max
        text = f"replies of {asked} tokens; the terms allow {most}"
        require(asked <= most, "recipe-reply-tokens", text)


# --- on what machine -----------------------------------------------------------------------------


def appraise(
    bundle: EvidenceBundle,
    statement: Statement,
    policy: AppraisalPolicy,
    releases: AcceptedReleases | None,
    now: int,
) -> AttestationResult:
    """The hardware signed this statement and launch document, and one policy accepts its machine.

    Raises RefusedError: ``evidence-untrusted``, ``evidence-malformed``, or the check that failed.
    """
    released = None if releases is None else releases.values(policy, now)
    try:
        result = verify_evidence(
            Evidence.of(bundle),
            policy,
            Expected.of(statement),
            now=dt.datetime.fromtimestamp(now / 1000, dt.UTC),
            released=released,
        )
    except EvidenceSignatureError as error:
        raise RefusedError("evidence-untrusted", str(error)) from error
    except (EvidenceError, BlindhostError) as error:
        raise RefusedError("evidence-malformed", str(error)) from error
    result.require()
    return result


def accept_evidence(
    bundle: EvidenceBundle,
    statement: Statement,
    policies: Sequence[AppraisalPolicy],
    releases: AcceptedReleases | None,
    lineages: Sequence[bytes],
    now: int,
) -> tuple[AttestationResult, ...]:
    """Every own lineage's appraisal policy accepts the evidence, and its kind is the root's.

    A lineage is born real or simulated, and is never released under the other's policy.
    """
    results = [appraise(bundle, statement, policy, releases, now) for policy in policies]
    for lineage in lineages:
        wanted = KINDS[lineage_kind(lineage)]
        for result in results:
            require(
                result.kind is wanted,
                "kind-other",
                f"{result.kind.value} evidence for a {wanted.value} lineage",
            )
    return tuple(results)


def check_images(job: JobManifest, results: Sequence[AttestationResult]) -> None:
    """The image is one that the job names: the policy alone is not enough."""
    for result in results:
        require(
            result.measurement in job.images,
            "image-not-in-job",
            f"measurement {result.measurement.hex()[:16]}… is none of the job's images",
        )
