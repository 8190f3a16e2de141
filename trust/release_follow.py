"""What comes after a seat's grant: follow-ups, reports, receipts; the buyer's orders and closes.

- The holder of a seat signs whatever it asks, under the key that this log shows as attested.
- A follow-up is answered once, and the answer stored: the same question gets the same answer.
- Only the newest generation is heard (rule 2); what an older one asks or reports changes nothing.
- An order exists by its buyer's signature: the market asks for one, and makes none.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from trust.artifacts import ArtifactKind, Core, Manifest
from trust.identity import Signed
from trust.jobs import Close, GenerateRecipe, GenerationOrder, JobManifest, LoraRecipe, RankLease
from trust.messages import (
    Account,
    Allowance,
    CheckpointReport,
    End,
    FollowUp,
    FollowUpKind,
    Receipt,
)
from trust.release_budget import UNBOUNDED, next_allowance
from trust.release_checks import (
    ORDER_LIFE_MILLISECONDS,
    accept_signed,
    check_heads,
    check_heard,
    check_newest_generation,
    check_open,
    check_standing,
    ordered_in_this_incarnation,
    require,
    shown,
)
from trust.release_grant import Opening, derived_openings, seal_grant
from trust.release_inputs import accept_inputs
from trust.release_state import (
    Body,
    Closed,
    FollowedUp,
    Memory,
    Noted,
    Ordered,
    Received,
    Seat,
    State,
)

SERVED_TOKENS: Final = 1 << 16  # what a serve job's receipts count in


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Yes: what to write first, and what to say then."""

    entries: tuple[Body, ...] = ()
    """New log entries, durable before anything below is sent."""
    answer: bytes | None = None
    """A message to the enclave."""
    acknowledge: bytes | None = None
    """Digest of a report to acknowledge, under a log head that covers the entries."""
    order: Signed[GenerationOrder] | None = None
    """To post to the market."""
    close: Signed[Close] | None = None
    """To send to the job's other custodians."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FollowUpAsked:
    """A signed `FollowUp`."""

    signed: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReportHeard:
    """A signed `CheckpointReport`."""

    signed: bytes
    segments_held: bool
    """The blob store has every segment of the checkpoint, by its own answer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptHeard:
    """A signed `Receipt`."""

    signed: bytes
    at: int
    """Unix milliseconds: when a close that follows from it is signed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CloseHeard:
    """A signed `Close`."""

    signed: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrderAsked:
    """The market asks the buyer to order a generation."""

    job: bytes
    number: int
    leases: tuple[RankLease, ...]
    manifests: tuple[bytes, ...]
    """Signed manifests of the job's inputs, in its order."""
    orders: tuple[bytes, ...] = ()
    """Signed orders of this job that the market shows."""


# --- follow-ups ----------------------------------------------------------------------------------


def decide_follow_up(state: State, asked: FollowUpAsked, now: int) -> Decision:
    """Answer a follow-up, once.

    (1) It is to this custodian, by the key that holds the seat, about the granted statement.
    (2) An answered one gets its stored answer; another under its number is refused. (3) Its number
    is the next, the seat is not closed, and the seat's other custodians know of no longer log.
    (4) Its account only grows, within what was granted.
    (5) All but a closing account: the newest generation alone, of a job that is open.
    (6) By kind: more allowance; shares of derived artifacts; the rest given back.
    """
    check_standing(state)
    signed = accept_signed(FollowUp, asked.signed, "follow-up")
    said, memory = signed.document, state.memory
    seat = _check_asker(state, signed)  # (1)
    if said.number <= len(seat.answers):  # (2)
        stored = seat.answers[said.number - 1]
        text = f"number {said.number} was asked before, and was another question"
        require(stored.question == signed.digest, "follow-up-replayed", text)
        return Decision(answer=stored.grant)
    wanted = len(seat.answers) + 1  # (3)
    text = f"number {said.number}, wanted {wanted}"
    require(said.number == wanted, "follow-up-out-of-order", text)
    require(not seat.closed, "seat-closed", "its holder closed its account")
    check_heard(state, seat.custodians)
    _check_account(seat, said.account)  # (4)
    job = memory.jobs[said.job]
    if said.kind is not FollowUpKind.CLOSE:  # (5)
        check_newest_generation(memory, said.job, said.generation)
        check_open(memory, said.job, job, now)
    openings: tuple[Opening, ...] = ()
    allowance = seat.allowance
    if said.kind is FollowUpKind.SHARE:  # (6)
        text = "a question for shares names what to open"
        require(bool(said.artifacts), "follow-up-artifacts", text)
        for data in said.artifacts:
            openings += derived_openings(state.holdings, _accept_derived(memory, seat, data))
    else:
        text = f"{said.kind.value} names no artifacts"
        require(not said.artifacts, "follow-up-artifacts", text)
        allowance = _allowance_after(state, seat, job, said, now)
    grant = seal_grant(
        state.holdings,
        seat.statement,
        openings,
        number=said.number,
        checkpoint=seat.checkpoint,
        allowance=allowance,
        terms=seat.terms,
    )
    entry = FollowedUp(
        job=said.job,
        generation=said.generation,
        rank=said.rank,
        number=said.number,
        question=signed.digest,
        kind=said.kind,
        account=said.account,
        allowance=allowance,
        artifacts=said.artifacts,
        grant=grant,
    )
    return Decision(entries=(entry,), answer=grant)


def _check_asker(state: State, signed: Signed[FollowUp]) -> Seat:
    said = signed.document
    text = f"to custodian {shown(said.custodian)}"
    require(said.custodian == state.holdings.identity, "follow-up-other-custodian", text)
    seat = _seat(state.memory, (said.job, said.generation, said.rank))
    text = f"signed by {shown(signed.signer)}, which holds no such seat"
    require(signed.signer == seat.statement.signing_key, "follow-up-not-by-the-seat", text)
    text = "about another statement than the granted one"
    require(said.nonce == seat.statement.nonce, "follow-up-other-nonce", text)
    return seat


def _seat(memory: Memory, name: tuple[bytes, int, int]) -> Seat:
    seat = memory.seats.get(name)
    text = f"nothing was released for rank {name[2]} of generation {name[1]} of {shown(name[0])}"
    require(seat is not None, "no-seat", text)
    assert seat is not None
    return seat


def _check_account(seat: Seat, account: Account) -> None:
    for name in ("tokens", "steps", "reports"):
        now, before = getattr(account, name), getattr(seat.account, name)
        text = f"{name}: {now} after {before}"
        require(now >= before, "account-went-back", text)
        granted = getattr(seat.allowance, name)
        text = f"{name}: {now} used of {granted}"
        require(granted is None or now <= granted, "account-above-allowance", text)


def _accept_derived(memory: Memory, seat: Seat, data: bytes) -> Core:
    """A derived artifact that this seat may open.

    (1) It says that this job made it, as an adapter or a checkpoint, for all of the job's
    custodians. (2) Its maker's key stands in this log for that very generation: a base model
    relabelled as an adapter was made by nobody. (3) An adapter is the seat's own. (4) A checkpoint
    is not older than the one that this seat's grant stated.
    """
    manifest = accept_signed(Manifest, data, "manifest")
    core = manifest.document.core
    job, generation, _ = seat.name
    origin = core.origin
    require(  # (1)
        origin is not None and origin.job == job,
        "derived-other-job",
        f"a {core.kind.value} that this job did not make",
    )
    assert origin is not None
    text = "its custodians are not those of the job's inputs"
    require(core.custodians == seat.custodians, "derived-other-custodians", text)
    require(  # (2)
        manifest.signer in memory.enclave_keys(job, origin.generation),
        "derived-unknown-maker",
        f"no enclave of generation {origin.generation} with the key {shown(manifest.signer)}",
    )
    own = manifest.signer == seat.statement.signing_key
    if core.kind is ArtifactKind.ADAPTER:  # (3)
        text = "an adapter opens for the enclave that made it"
        require(own and origin.generation == generation, "derived-not-own-output", text)
    elif seat.checkpoint is not None:  # (4)
        known = memory.noted.get(manifest.digest)
        stated = seat.checkpoint
        newer = (
            known.order >= stated.order
            if known is not None
            else origin.generation >= stated.generation
        )
        text = f"older than the stated one of generation {stated.generation}, step {stated.step}"
        require(newer, "checkpoint-older", text)
    return core


def _allowance_after(
    state: State, seat: Seat, job: JobManifest, said: FollowUp, now: int
) -> Allowance:
    if seat.allowance == UNBOUNDED:
        return UNBOUNDED
    used = said.account
    if said.kind is FollowUpKind.CLOSE:
        return Allowance(tokens=used.tokens, steps=used.steps, reports=used.reports)
    granted = seat.allowance
    terms = state.holdings.terms.get(seat.terms)
    require(terms is not None, "terms-not-registered", "the job's terms are not in this home")
    assert terms is not None
    return next_allowance(
        state.memory,
        name=said.job,
        job=job,
        terms=terms.document,
        granted=Account(
            tokens=granted.tokens or 0, steps=granted.steps or 0, reports=granted.reports or 0
        ),
        used=used,
        first_step=0 if seat.checkpoint is None else seat.checkpoint.step,
        now=now,
    )


# --- checkpoint reports --------------------------------------------------------------------------


def decide_report(state: State, heard: ReportHeard, now: int) -> Decision:
    """Remember a checkpoint, and acknowledge it.

    (1) By the key that holds the seat. (2) One that is remembered is acknowledged again. (3) Of the
    newest generation that was released for (rule 2), of an open job, as far as the seat's other
    custodians know too. (4) Its step is above every
    one of this generation's, and above the stated one. (5) The manifest is the same enclave's, a
    checkpoint of this job and generation, for all of the job's custodians. (6) The blob store has
    its every segment: what is stated in grants can be started from.
    """
    check_standing(state)
    signed = accept_signed(CheckpointReport, heard.signed, "report")
    said, memory = signed.document, state.memory
    seat = _seat(memory, (said.job, said.generation, said.rank))
    text = f"signed by {shown(signed.signer)}, which holds no such seat"
    require(signed.signer == seat.statement.signing_key, "report-not-by-the-seat", text)  # (1)
    noted = memory.checkpoints.get(said.job)
    if noted is not None and noted.report == signed.digest:  # (2)
        return Decision(acknowledge=signed.digest)
    check_newest_generation(memory, said.job, said.generation)  # (3)
    check_open(memory, said.job, memory.jobs[said.job], now)
    require(not seat.closed, "seat-closed", "its holder closed its account")
    check_heard(state, seat.custodians)
    _check_step(memory, seat, said)  # (4)
    manifest = accept_signed(Manifest, said.manifest, "manifest")  # (5)
    core = manifest.document.core
    text = "the manifest is not signed by the enclave that reports it"
    require(manifest.signer == signed.signer, "report-other-maker", text)
    origin = core.origin
    require(
        core.kind is ArtifactKind.CHECKPOINT
        and origin is not None
        and (origin.job, origin.generation) == (said.job, said.generation),
        "report-other-origin",
        f"a {core.kind.value} that is no checkpoint of this job and generation",
    )
    text = "its custodians are not those of the job's inputs"
    require(core.custodians == seat.custodians, "derived-other-custodians", text)
    text = "the blob store lacks some of its segments"
    require(heard.segments_held, "segments-missing", text)  # (6)
    return Decision(entries=(Noted(report=heard.signed),), acknowledge=signed.digest)


def _check_step(memory: Memory, seat: Seat, said: CheckpointReport) -> None:
    noted = memory.checkpoints.get(said.job)
    floor = seat.checkpoint.step if seat.checkpoint is not None else 0
    if noted is not None and noted.at.generation == said.generation:
        floor = max(floor, noted.at.step)
        text = "names no report before it; there was one"
        require(said.before is not None, "report-chain-broken", text)
    require(said.step > floor, "report-step-not-above", f"step {said.step}, wanted above {floor}")


# --- receipts ------------------------------------------------------------------------------------


def decide_receipt(state: State, heard: ReceiptHeard) -> Decision:
    """Keep a receipt whose key, chain and counts hold.

    (1) By the key that this log shows as attested for its job, generation and rank, under that
    lease. (2) One that is known changes nothing. (3) It follows: a higher number, linked if it is
    the next; nothing counts back; nothing after the end. (4) Its tokens are its steps × the
    manifest's own rows × length, or, serving, a multiple of 2¹⁶ within what was granted; its world
    is the manifest's. (5) The end of a buyer's own job
    closes it: a finished job cannot be run again.
    """
    check_standing(state)  # or a log that was put back outgrows the one that was lost
    signed = accept_signed(Receipt, heard.signed, "receipt")
    said, memory = signed.document, state.memory
    seat = _seat(memory, (said.job, said.generation, said.rank))
    text = f"signed by {shown(signed.signer)}, which this log does not show as attested"
    require(signed.signer == seat.statement.signing_key, "receipt-not-by-the-seat", text)  # (1)
    text = f"under {said.lease}, granted under {seat.statement.lease}"
    require(said.lease == seat.statement.lease, "receipt-other-lease", text)
    entries: tuple[Body, ...] = ()
    if all(each.digest != signed.digest for each in memory.receipts.get(said.job, ())):  # (2)
        _check_follows(seat, said)  # (3)
        _check_counts(memory.jobs[said.job], seat, said)  # (4)
        entries = (Received(receipt=heard.signed),)
    own = memory.jobs[said.job].buyer == state.holdings.identity
    if not own or said.end is not End.DONE or said.job in memory.closed:
        return Decision(entries=entries)
    close = state.holdings.key.sign(Close(job=said.job, at=heard.at))  # (5)
    return Decision(entries=(*entries, Closed(close=close.encode())), close=close)


def _check_follows(seat: Seat, said: Receipt) -> None:
    last = seat.receipt
    if last is None:
        linked = (said.number == 1) == (said.before is None)
        require(linked, "receipt-chain-broken", f"number {said.number} with a wrong link")
        return
    require(last.end is None, "receipt-after-end", "this enclave's last receipt came before")
    text = f"number {said.number} after {last.number}"
    require(said.number > last.number, "receipt-replayed", text)
    linked = said.before is not None
    if said.number == last.number + 1:
        linked = said.before == last.digest
    require(linked, "receipt-chain-broken", f"number {said.number} with a wrong link")
    require(said.first_step == last.first_step, "receipt-went-back", "another first step")
    for name in ("milliseconds", "step", "tokens"):
        now, before = getattr(said, name), getattr(last, name)
        require(now >= before, "receipt-went-back", f"{name}: {now} after {before}")


def _check_counts(job: JobManifest, seat: Seat, said: Receipt) -> None:
    text = f"{said.world_size} processes, the manifest says {job.world_size}"
    require(said.world_size == job.world_size, "receipt-world-size", text)
    if isinstance(job.recipe, GenerateRecipe):
        _check_served(seat, said)
        return
    rows = job.recipe.rows_per_step if isinstance(job.recipe, LoraRecipe) else 0
    most = (said.step - said.first_step) * rows * job.length_max
    require(said.tokens == most, "receipt-inflated", f"{said.tokens} tokens; its steps make {most}")
    text = f"step {said.step} of {job.steps}"
    require(said.step <= job.steps, "receipt-inflated", text)


def _check_served(seat: Seat, said: Receipt) -> None:
    """A serve job takes no step, and its tokens show in multiples alone (attacks.md, 10)."""
    text = f"steps {said.first_step} to {said.step}; a serve job takes none"
    require(said.step == 0, "receipt-inflated", text)
    units, rest = divmod(said.tokens, SERVED_TOKENS)
    text = f"{said.tokens} tokens, wanted a positive multiple of {SERVED_TOKENS}"
    require(units > 0 and rest == 0, "receipt-inflated", text)
    granted = seat.allowance.tokens
    if granted is None:  # this custodian sets no bound; the owner's log knows it
        return
    most = max(1, -(-granted // SERVED_TOKENS))
    text = f"{said.tokens} tokens; {granted} were granted"
    require(units <= most, "receipt-inflated", text)


# --- the buyer's side ----------------------------------------------------------------------------


def decide_order(state: State, asked: OrderAsked, now: int) -> Decision:
    """Order a generation of an own job.

    (1) The job is this party's own, and open. (2) Orders of it that the market shows and this log
    forgot are taken in if a new incarnation closed them, and else say that this log is behind.
    (3) Leases that the newest order names already get that order again. (4) The number is the last
    plus one, within the job's number of generations. (5) One lease for each rank, none used before.
    (6) The job's other custodians know of no longer log: a restored buyer must not fork its chain.
    """
    check_standing(state)
    memory = state.memory
    job = state.holdings.jobs.get(asked.job)
    require(job is not None, "job-not-own", "only a job's own buyer orders its generations")  # (1)
    assert job is not None
    check_open(memory, asked.job, job.document, now)
    inputs = accept_inputs(state.holdings, memory, job.document, asked.manifests)
    check_heads(state, inputs.cores)  # (6)
    forgotten = _forgotten(state, asked)  # (2)
    known = memory.orders.get(asked.job, ()) + forgotten
    entries: tuple[Body, ...] = tuple(Ordered(order=each.encode()) for each in forgotten)
    last = known[-1] if known else None
    if last is not None and last.document.leases == asked.leases:  # (3)
        return Decision(entries=entries, order=last)
    number = len(known) + 1  # (4)
    text = f"the market asks for {asked.number}, the last plus one is {number}"
    require(asked.number == number, "order-jump", text)
    most = job.document.generations_max
    require(number <= most, "generations-spent", f"generation {number} of {most}")
    _check_leases(job.document, asked, known)  # (5)
    order = state.holdings.key.sign(
        GenerationOrder(
            job=asked.job,
            number=number,
            leases=asked.leases,
            expires_at=min(now + ORDER_LIFE_MILLISECONDS, job.document.expires_at),
            before=None if last is None else last.digest,
        )
    )
    return Decision(entries=(*entries, Ordered(order=order.encode())), order=order)


def _forgotten(state: State, asked: OrderAsked) -> tuple[Signed[GenerationOrder], ...]:
    memory = state.memory
    known = memory.orders.get(asked.job, ())
    found: list[Signed[GenerationOrder]] = []
    before = known[-1].digest if known else None
    for data in asked.orders[len(known) :]:
        order = accept_signed(GenerationOrder, data, "order")
        own = order.signer == state.holdings.identity and order.document.job == asked.job
        require(own, "order-not-by-the-buyer", f"signed by {shown(order.signer)}")
        number = len(known) + len(found) + 1
        linked = (order.document.number, order.document.before) == (number, before)
        require(linked, "order-chain-broken", f"order {order.document.number} does not follow")
        before = order.digest
        found.append(order)
    restored = memory.incarnation > 1 and all(
        _closed_by_incarnation(memory, each) for each in found
    )
    text = "the market shows an order of this key that this log does not know"
    require(not found or restored, "broker-behind", text)
    return tuple(found)


def _closed_by_incarnation(memory: Memory, order: Signed[GenerationOrder]) -> bool:
    return not ordered_in_this_incarnation(memory, order.document)


def _check_leases(
    job: JobManifest, asked: OrderAsked, known: tuple[Signed[GenerationOrder], ...]
) -> None:
    ranks = [each.rank for each in asked.leases]
    text = f"leases for ranks {ranks}; the job has {job.enclaves} enclaves"
    require(ranks == list(range(job.enclaves)), "order-other-ranks", text)
    leases = [each.lease for each in asked.leases]
    used = {each.lease for order in known for each in order.document.leases}
    fresh = len(set(leases)) == len(leases) and not used & set(leases)
    require(fresh, "lease-used-before", "a lease serves one rank of one generation")


def decide_close(state: State, heard: CloseHeard) -> Decision:
    """Remember that a job's buyer closed it."""
    check_standing(state)  # as in `decide_receipt`
    signed = accept_signed(Close, heard.signed, "close")
    name = signed.document.job
    known = state.memory.jobs.get(name)
    own = state.holdings.jobs.get(name)
    job = known if known is not None else own.document if own is not None else None
    require(job is not None, "job-unknown", f"nothing was released for {shown(name)}")
    assert job is not None
    text = f"signed by {shown(signed.signer)}, the buyer is {shown(job.buyer)}"
    require(signed.signer == job.buyer, "close-not-by-the-buyer", text)
    if name in state.memory.closed:
        return Decision()
    return Decision(entries=(Closed(close=heard.signed),))
