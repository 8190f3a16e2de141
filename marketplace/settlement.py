"""Settlement: receipts become amounts, and amounts are posted once.

- A receipt is believed because the market itself verified evidence for the key that signed it
  (`leases.attest`), for this lease, job, generation and rank. No other key settles anything.
- Receipts are cumulative and chained. A gap is fine: the next one says it all. A replay is
  `EXISTS`. Two receipts under one number, or a link to another receipt than the one that stands
  here, are a fork; counts that fall are refused. Each refusal has its own error.
- `metering.billable` says what is due; the difference to what was posted is one transfer of up to
  three legs: host, owner, market. A receipt that adds nothing is stored and posts nothing.
- Amounts are posted *pending*. They mature after the dispute window; what the buyer disputes waits
  until somebody resolves it, and goes back whole if the buyer is right.

One receipt is one transaction: it is stored and posted, or neither.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from marketplace.ids import IdKind, derived_id
from marketplace.jobs import find_job
from marketplace.ledger import (
    CreateTransfer,
    LedgerResult,
    PostHold,
    Posting,
    Refund,
    Share,
    account_id,
    fee_shard,
    open_account,
    post_hold,
    refund,
    transfer,
)
from marketplace.metering import MILLISECONDS_PER_HOUR, Due, Posted, Rates, Reading, billable
from marketplace.models import (
    AccountRole,
    HoldState,
    Job,
    Lease,
    LeaseState,
    OfferTerms,
    Order,
    Settlement,
    SettlementState,
    TransferKind,
)
from marketplace.models import Receipt as ReceiptRow
from marketplace.orders import order_of
from marketplace.postings import find_hold
from marketplace.receipts import (
    OldGenerationError,
    UnknownKeyError,
    WrongLeaseError,
    check_counts,
    check_follows,
)
from trust.encoding import base64url
from trust.errors import RefusedError
from trust.identity import Signed
from trust.jobs import Dispute
from trust.messages import End, Receipt

DISPUTE_MILLISECONDS: Final = 24 * 3_600_000  # design.md §3: default 24 h
MATURE_MAX: Final = 256  # settlements that one sweep matures, so that a transaction stays short

SETTLES: Final = frozenset(
    {
        LeaseState.READY,
        LeaseState.DRAINING,
        LeaseState.PREEMPTED,
        LeaseState.HOST_LOST,
        LeaseState.EXHAUSTED,
        LeaseState.REVOKED,
    }
)
"""A lost lease still takes the receipts that were on their way, until it is closed."""


class SettleResult(enum.StrEnum):
    """What became of a receipt, in order of precedence."""

    EXISTS = "exists"
    NOTHING_DUE = "nothing_due"
    CUT_SHORT = "cut_short"
    SETTLED = "settled"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SettleReceipt:
    """A receipt whose signature holds (`trust.identity.verify_signed` made it)."""

    receipt: Signed[Receipt]
    committed_step: int | None
    """Step of the checkpoint that the receipt calls committed, as far as it is known; None: where
    the run began. The pure rule pays one interval beyond it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The answer to a receipt."""

    result: SettleResult
    settlement: Settlement


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Resolve:
    """Somebody has decided a dispute."""

    receipt: bytes
    """Digest: 32 bytes."""
    for_buyer: bool
    """True: what the receipt posted goes back whole. False: it matures."""


def settle(session: Session, command: SettleReceipt, now: int) -> Settled:
    """Store a receipt, and post what it adds.

    (1) Stored before: the answer that it had. (2) The signing key is the one whose evidence this
    market verified for this very lease. (3) It names the lease's own job, generation and rank, in a
    state in which the lease settles. (4) That generation is the job's newest. (5) Its counts are
    those of such a job, and it follows the newest receipt of its lease. (6) What is due is
    computed. (7) It is stored; (8) it is posted.
    """
    receipt = command.receipt.document
    digest = base64url(command.receipt.digest)
    if session.get(ReceiptRow, digest) is not None:  # (1)
        return Settled(result=SettleResult.EXISTS, settlement=session.get_one(Settlement, digest))
    lease = session.get(Lease, receipt.lease)
    signer = base64url(command.receipt.signer)
    if lease is None or lease.signing_key is None or lease.signing_key != signer:  # (2)
        raise UnknownKeyError(f"key {signer} meters no lease {receipt.lease}")
    named = (base64url(receipt.job), receipt.generation, receipt.rank)
    if named != (lease.job_digest, lease.generation, lease.rank):  # (3)
        raise WrongLeaseError("the receipt names another job, generation or rank than its lease")
    if lease.state not in SETTLES:
        raise WrongLeaseError(f"lease {lease.id} is {lease.state}")
    job = find_job(session, receipt.job)
    if receipt.generation != job.generation:  # (4)
        raise OldGenerationError(f"generation {receipt.generation}, the job's is {job.generation}")
    check_counts(job.meter, receipt)  # (5)
    check_follows(_newest(session, lease), receipt, digest)
    order = order_of(session, job)
    committed = receipt.first_step if command.committed_step is None else command.committed_step
    reading = _reading(receipt, lease, committed, now)
    posted = _posted(session, order, job, lease, now)
    due = billable(_rates(session, job, lease), reading, posted)  # (6)
    session.add(_receipt_row(command.receipt, committed, now))  # (7)
    session.flush()
    settlement = _post(session, order, job, lease, digest, due, now)  # (8)
    if due.cut_short:
        result = SettleResult.CUT_SHORT
    else:
        result = SettleResult.SETTLED if due.total else SettleResult.NOTHING_DUE
    return Settled(result=result, settlement=settlement)


def mature(session: Session, now: int) -> tuple[str, ...]:
    """Make payable what has waited for its dispute window undisputed; return receipts' digests."""
    query = (
        select(Settlement)
        .where(
            col(Settlement.state) == SettlementState.PENDING, col(Settlement.matures_at_ms) <= now
        )
        .order_by(col(Settlement.matures_at_ms), col(Settlement.receipt_digest))
        .limit(MATURE_MAX)
    )
    settlements = session.exec(query).all()
    for settlement in settlements:
        _mature_one(session, settlement, now)
    return tuple(settlement.receipt_digest for settlement in settlements)


def dispute(session: Session, order: Signed[Dispute], now: int) -> SettlementState:
    """Keep what a receipt posted from maturing. Returns its state: DISPUTED.

    (1) The receipt is here. (2) Its job's buyer signed this. (3) The same dispute again changes
    nothing. (4) The window is open still.
    """
    settlement = _settlement(session, order.document.receipt)  # (1)
    job = session.get_one(Job, settlement.job_digest)
    if base64url(order.signer) != job.buyer:  # (2)
        raise RefusedError("wrong-signer", "a receipt is disputed by its job's buyer")
    if settlement.state is SettlementState.DISPUTED:  # (3)
        return settlement.state
    if settlement.state is not SettlementState.PENDING or settlement.matures_at_ms <= now:  # (4)
        raise RefusedError("dispute-too-late", f"the receipt's amount is {settlement.state}")
    settlement.dispute = order.encode()
    _set_state(session, settlement, SettlementState.DISPUTED)
    return settlement.state


def resolve(session: Session, command: Resolve, now: int) -> SettlementState:
    """End a dispute, one way or the other; the same way again changes nothing."""
    settlement = _settlement(session, command.receipt)
    wanted = SettlementState.REFUNDED if command.for_buyer else SettlementState.MATURED
    if settlement.state is wanted and settlement.dispute is not None:
        return wanted
    if settlement.state is not SettlementState.DISPUTED:
        raise RefusedError("not-disputed", f"the receipt's amount is {settlement.state}")
    if not command.for_buyer:
        _mature_one(session, settlement, now)
        return settlement.state
    if settlement.transfer_id is not None:
        reversal = Refund(id=_id(settlement, "refund"), reverses=settlement.transfer_id)
        result = refund(session, reversal, now)
        if result is not LedgerResult.CREATED:
            raise RefusedError(f"refund-{result.value}", "the amount could not be given back")
    _set_state(session, settlement, SettlementState.REFUNDED)
    return settlement.state


def pays_until(session: Session, lease: Lease) -> int | None:
    """Until when the job's hold pays for a lease's whole time; None: its time costs nothing.

    Its time is the most that a served hour can cost the buyer, however many tokens the next receipt
    brings: a host that runs longer may run unpaid. Unix milliseconds.
    """
    assert lease.ready_at_ms is not None  # the meter runs
    job = session.get_one(Job, lease.job_digest)
    hold = find_hold(session, order_of(session, job).hold_id)
    terms = session.get_one(OfferTerms, (lease.offer_id, lease.offer_terms_number))
    price = lease.price * terms.gpus
    if price == 0:
        return None
    paid = _last(session, col(Settlement.lease_id) == lease.id)
    left = hold.reserved - hold.captured - hold.released
    pays_for = left + (0 if paid is None else paid.lease_gross)
    until: int = lease.ready_at_ms + pays_for * MILLISECONDS_PER_HOUR // price
    return until


def settlements_of(session: Session, job: bytes) -> tuple[Settlement, ...]:
    """Every settlement of a job, oldest first."""
    query = select(Settlement).where(col(Settlement.job_digest) == base64url(job))
    return tuple(session.exec(query.order_by(col(Settlement.job_number))).all())


# --- what was here before ------------------------------------------------------------------------


def _newest(session: Session, lease: Lease) -> ReceiptRow | None:
    query = select(ReceiptRow).where(col(ReceiptRow.lease_id) == lease.id)
    return session.exec(query.order_by(col(ReceiptRow.number).desc()).limit(1)).first()


# --- what is due ---------------------------------------------------------------------------------


def _reading(receipt: Receipt, lease: Lease, committed: int, now: int) -> Reading:
    assert lease.ready_at_ms is not None  # it has a signing key
    until = now if lease.metered_until_ms is None else lease.metered_until_ms
    return Reading(
        milliseconds=min(receipt.milliseconds, max(0, until - lease.ready_at_ms)),
        first_step=receipt.first_step,
        step=receipt.step,
        tokens=receipt.tokens,
        committed_step=committed,
        done=receipt.end is End.DONE,
    )


def _rates(session: Session, job: Job, lease: Lease) -> Rates:
    terms = session.get_one(OfferTerms, (lease.offer_id, lease.offer_terms_number))
    return Rates(
        price_per_gpu_hour=lease.price,
        gpus=terms.gpus,
        meter=job.meter,
        ceiling=job.ceiling,
        checkpoint_steps=job.checkpoint_steps,
        royalty_per_job=job.royalty_per_job,
        royalty_per_million_tokens=job.royalty_per_million_tokens,
        fee_ppm=job.fee_ppm,
    )


def _posted(session: Session, order: Order, job: Job, lease: Lease, now: int) -> Posted:
    hold = find_hold(session, order.hold_id)
    available = 0
    if hold.state is HoldState.PLACED and now < hold.expires_at_ms:
        # At most what the job may spend: a larger hold is not placed (`orders.place_order`).
        available = hold.reserved - hold.captured - hold.released
    table = Settlement.metadata.tables["settlement"]
    same_rank = (table.c.job_digest == job.digest, table.c.rank == lease.rank)
    paid_before = session.connection().execute(
        sa.select(sa.func.max(table.c.paid_through_step)).where(
            *same_rank, table.c.generation < lease.generation
        )
    )
    of_job = _last(session, col(Settlement.job_digest) == job.digest)
    of_lease = _last(session, col(Settlement.lease_id) == lease.id)
    return Posted(
        paid_before_step=paid_before.scalar_one() or 0,
        paid_through_step=of_lease.paid_through_step if of_lease else 0,
        lease_gross=of_lease.lease_gross if of_lease else 0,
        lease_fee=of_lease.lease_fee if of_lease else 0,
        lease_tokens=of_lease.lease_tokens if of_lease else 0,
        job_royalty=of_job.job_royalty if of_job else 0,
        job_tokens=of_job.job_tokens if of_job else 0,
        available=available,
    )


def _last(session: Session, condition: sa.ColumnElement[bool]) -> Settlement | None:
    query = select(Settlement).where(condition)
    return session.exec(query.order_by(col(Settlement.job_number).desc()).limit(1)).first()


# --- posting -------------------------------------------------------------------------------------


def _receipt_row(signed: Signed[Receipt], committed: int, now: int) -> ReceiptRow:
    receipt = signed.document
    return ReceiptRow(
        digest=base64url(signed.digest),
        lease_id=receipt.lease,
        job_digest=base64url(receipt.job),
        generation=receipt.generation,
        rank=receipt.rank,
        number=receipt.number,
        before=None if receipt.before is None else base64url(receipt.before),
        document=signed.encode(),
        milliseconds=receipt.milliseconds,
        first_step=receipt.first_step,
        step=receipt.step,
        tokens=receipt.tokens,
        committed_step=committed,
        end=None if receipt.end is None else receipt.end.value,
        received_at_ms=now,
    )


def _post(
    session: Session, order: Order, job: Job, lease: Lease, digest: str, due: Due, now: int
) -> Settlement:
    last = _last(session, col(Settlement.job_digest) == job.digest)
    settlement = Settlement(
        receipt_digest=digest,
        lease_id=lease.id,
        job_digest=job.digest,
        job_number=1 if last is None else last.job_number + 1,
        generation=job.generation,
        rank=lease.rank,
        host_amount=due.host,
        owner_amount=due.owner,
        fee_amount=due.fee,
        lease_gross=due.lease_gross,
        lease_fee=due.lease_fee,
        lease_tokens=due.lease_tokens,
        paid_through_step=due.paid_through_step,
        job_royalty=due.job_royalty,
        job_tokens=due.job_tokens,
        state=SettlementState.PENDING,
        matures_at_ms=now + DISPUTE_MILLISECONDS,
        created_at_ms=now,
    )
    shares = tuple(
        Share(credit=open_account(session, role, party, now), amount=amount)
        for role, party, amount in (
            (AccountRole.HOST_PENDING, lease.host, due.host),
            (AccountRole.OWNER_PENDING, job.owner, due.owner),
            (AccountRole.FEES, fee_shard(lease.id), due.fee),
        )
        if amount
    )
    if shares:
        name = _id(settlement, "settle")
        command = PostHold(id=name, hold=order.hold_id, shares=shares)
        result = post_hold(session, command, now)
        assert result is LedgerResult.CREATED, result  # within what `_posted` found there
        settlement.transfer_id = name
    session.add(settlement)
    session.flush()
    return settlement


def _mature_one(session: Session, settlement: Settlement, now: int) -> None:
    lease = session.get_one(Lease, settlement.lease_id)
    job = session.get_one(Job, settlement.job_digest)
    postings = tuple(
        Posting(
            debit=account_id(pending, party),
            credit=open_account(session, payable, party, now),
            amount=amount,
        )
        for pending, payable, party, amount in (
            (
                AccountRole.HOST_PENDING,
                AccountRole.HOST_PAYABLE,
                lease.host,
                settlement.host_amount,
            ),
            (
                AccountRole.OWNER_PENDING,
                AccountRole.OWNER_PAYABLE,
                job.owner,
                settlement.owner_amount,
            ),
        )
        if amount
    )
    if postings:
        command = CreateTransfer(
            id=_id(settlement, "mature"), kind=TransferKind.MATURE, postings=postings
        )
        result = transfer(session, command, now)
        assert result is LedgerResult.CREATED, result
    _set_state(session, settlement, SettlementState.MATURED)


def _id(settlement: Settlement, purpose: str) -> str:
    return derived_id(
        IdKind.TRANSFER,
        at=settlement.created_at_ms,
        purpose=purpose,
        parts=(settlement.receipt_digest,),
    )


def _settlement(session: Session, receipt: bytes) -> Settlement:
    found = session.get(Settlement, base64url(receipt))
    if found is None:
        raise RefusedError("receipt-unknown", f"no receipt {base64url(receipt)}")
    return found


def _set_state(session: Session, settlement: Settlement, state: SettlementState) -> None:
    settlement.state = state
    session.add(settlement)
    session.flush()
