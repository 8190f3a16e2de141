"""Orders: a bid on a job, with the money for it held from the first moment.

- An order without funds is no order: placing it and placing its hold are one transaction.
- The hold belongs to the order. Leases come and go, and all draw on it; none can draw more than it
  holds, and it is at most what the manifest lets the job spend.
- When an order ends, the rest of its hold goes back. It ends after its last lease has: a receipt of
  a lease that is not closed yet still has something to draw on.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from sqlmodel import Session, col, select

from marketplace.ids import IdKind, check_id, derived_id
from marketplace.jobs import find_job, manifest_of
from marketplace.ledger import LedgerResult, PlaceHold, VoidHold, place_hold, void_hold
from marketplace.models import Job, JobState, Lease, Order, OrderState
from marketplace.transitions import (
    JOB,
    LEASE,
    ORDER,
    Outcome,
    begin,
    check_version,
    move,
)
from trust.encoding import base64url
from trust.errors import RefusedError

SETTLE_MILLISECONDS: Final = 24 * 3_600_000  # how long after its order a hold still pays receipts


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlaceOrder:
    """A buyer's order for a job that is stored. Its three ids are its maker's."""

    id: str
    """ordr_…"""
    hold: str
    """hold_…"""
    transfer: str
    """xfer_…, of the hold's placing."""
    buyer: bytes
    job: bytes
    amount: int
    """Microcredits to hold: at most the manifest's highest spend."""

    def __post_init__(self) -> None:
        check_id(IdKind.ORDER, self.id)
        check_id(IdKind.HOLD, self.hold)
        check_id(IdKind.TRANSFER, self.transfer)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EndOrder:
    """End an order that was read at `version`."""

    id: str
    version: int
    to: OrderState
    """CLOSED or CANCELLED."""
    actor: str
    reason: str


def place_order(session: Session, command: PlaceOrder, now: int) -> Outcome:
    """Hold the money and open the order.

    (1) The same order again is EXISTS; another one under its id is refused. (2) The job is the
    buyer's own and queued. (3) Not more than the job may spend. (4) The hold is placed, or the
    ledger's result is the code of the refusal (*hold-exceeds-balance*: no funds).
    """
    job = find_job(session, command.job)
    manifest = manifest_of(job)
    found = session.get(Order, command.id)
    hold = PlaceHold(
        id=command.transfer,
        hold=command.hold,
        order=command.id,
        buyer=command.buyer,
        amount=command.amount,
        expires_at=manifest.expires_at + SETTLE_MILLISECONDS,
    )
    if found is not None:  # (1)
        same = (found.job_digest, found.hold_id) == (job.digest, command.hold)
        if same and place_hold(session, hold, now) is LedgerResult.EXISTS:
            return Outcome.EXISTS
        raise RefusedError("exists-with-different-terms", f"order {command.id} is another one")
    if base64url(command.buyer) != job.buyer:  # (2)
        raise RefusedError("wrong-buyer", "the job is another buyer's")
    if job.state is not JobState.QUEUED:
        raise RefusedError("job-not-queued", f"the job is {job.state}, wanted queued")
    taken = select(Order.id).where(col(Order.job_digest) == job.digest)
    if session.exec(taken).first() is not None:
        raise RefusedError("job-has-an-order", "the job has an order already")
    if command.amount > job.spend_max:  # (3)
        text = f"{command.amount} microcredits; the manifest allows {job.spend_max}"
        raise RefusedError("exceeds-spend-max", text)
    result = place_hold(session, hold, now)  # (4)
    if result is not LedgerResult.CREATED:
        code = f"hold-{result.value.replace('_', '-').removeprefix('hold-')}"
        raise RefusedError(code, f"no hold of {command.amount} microcredits: {result.value}")
    order = Order(
        id=command.id,
        buyer=job.buyer,
        job_digest=job.digest,
        hold_id=command.hold,
        bid_kind=manifest.bid.kind,
        bid=manifest.bid.price_microcredits_per_gpu_hour,
        gpus=manifest.resources.gpus,
        state=OrderState.OPEN,
        version=1,
        deadline_ms=manifest.expires_at,
        created_at_ms=now,
    )
    begin(session, order, actor=order.buyer, reason="placed, funds held", now=now)
    return Outcome.CREATED


def end_order(session: Session, command: EndOrder, now: int) -> None:
    """End an order and give the rest of its hold back. Raises StaleError.

    Refused while one of its leases has not ended (*order-has-leases*).
    """
    order = find_order(session, command.id)
    check_version(order, command.version)
    _end(session, order, command.to, actor=command.actor, reason=command.reason, now=now)


def reopen_order(session: Session, order: Order, *, actor: str, reason: str, now: int) -> None:
    """Ask for leases again, after some were lost."""
    if order.state is OrderState.LEASED:
        move(
            session,
            order,
            OrderState.OPEN,
            actor=actor,
            reason=reason,
            now=now,
            deadline=order.deadline_ms,
        )


def expire_orders(session: Session, now: int) -> tuple[str, ...]:
    """Expire every order past its deadline whose leases have ended; return their ids."""
    query = select(Order).where(col(Order.deadline_ms) <= now).order_by(col(Order.id))
    ended = []
    for order in session.exec(query).all():
        if not live_leases(session, order):
            reason = "past its deadline"
            _end(session, order, OrderState.EXPIRED, actor="market", reason=reason, now=now)
            ended.append(order.id)
    return tuple(ended)


def open_orders(session: Session, now: int) -> tuple[Order, ...]:
    """Orders that want a match now, oldest first."""
    query = (
        select(Order)
        .join(Job, col(Job.digest) == col(Order.job_digest))
        .where(
            col(Order.state) == OrderState.OPEN,
            col(Order.deadline_ms) > now,
            col(Job.state) == JobState.QUEUED,
        )
        .order_by(col(Order.created_at_ms), col(Order.id))
    )
    return tuple(session.exec(query).all())


def live_leases(session: Session, order: Order) -> tuple[Lease, ...]:
    """Leases of an order that have not ended, lost ones that may still settle included."""
    query = select(Lease).where(col(Lease.order_id) == order.id).order_by(col(Lease.id))
    return tuple(x for x in session.exec(query).all() if not LEASE.is_terminal(x.state))


def find_order(session: Session, name: str) -> Order:
    """The order of this id. Raises RefusedError (code *order-unknown*)."""
    order = session.get(Order, name)
    if order is None:
        raise RefusedError("order-unknown", f"no order {name[:64]}")
    return order


def order_of(session: Session, job: Job) -> Order:
    """The one order of a job. Raises RefusedError (code *order-unknown*)."""
    order = session.exec(select(Order).where(col(Order.job_digest) == job.digest)).first()
    if order is None:
        raise RefusedError("order-unknown", f"job {job.digest} has no order")
    return order


def _end(
    session: Session, order: Order, to: OrderState, *, actor: str, reason: str, now: int
) -> None:
    if not ORDER.is_terminal(to):
        raise RefusedError("no-such-transition", f"{to} is no end of an order")
    if live_leases(session, order):
        raise RefusedError("order-has-leases", f"order {order.id} has leases that have not ended")
    move(session, order, to, actor=actor, reason=reason, now=now)
    transfer = derived_id(
        IdKind.TRANSFER, at=order.created_at_ms, purpose="end-order", parts=(order.id,)
    )
    result = void_hold(session, VoidHold(id=transfer, hold=order.hold_id), now)
    # A hold that expired first has given its rest back already.
    if result not in {LedgerResult.CREATED, LedgerResult.HOLD_EXPIRED}:
        raise RefusedError(f"hold-{result.value}", f"hold {order.hold_id} did not end")
    job = session.get_one(Job, order.job_digest)
    if not JOB.is_terminal(job.state):
        state = JobState.FAILED if to is OrderState.EXPIRED else JobState.CANCELLED
        move(session, job, state, actor=actor, reason=f"its order ended: {reason}", now=now)
