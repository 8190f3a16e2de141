"""What falls due without anybody asking. Each is one short transaction; each may run again.

The scheduler moves leases and jobs on; here is what moves money, and what is the market's own. A
lease that has been overdue for longer than a scheduler leaves one is ended here too, by the same
rule: whatever its order still holds goes back although no scheduler runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select

from marketplace import heartbeats, leases, mailbox, offers, orders, replies, settlement
from marketplace.ids import IdKind, derived_id
from marketplace.ledger import ExpireHold, expire_hold, expired_holds
from marketplace.models import Hold, Job, JobState, Order, OrderState
from marketplace.service import Market
from marketplace.transitions import JOB, ORDER
from trust.errors import BlindhostError

LOG: Final = logging.getLogger("blindhost.market.sweep")
SWEEP_SECONDS: Final = 1.0  # how late a refund may be; an idle sweep reads a few indexes
ORDERS_MAX: Final = 256  # orders that one sweep ends, so that a transaction stays short

_ENDS_AS: Final = {JobState.CANCELLED: OrderState.CANCELLED}


def end_orders(session: Session, now: int) -> tuple[str, ...]:
    """End the orders of jobs that have ended and hold no lease: the rest of each hold goes back."""
    terminal = [state for state in JobState if JOB.is_terminal(state)]
    query = (
        select(Order, Job)
        .join(Job, col(Job.digest) == col(Order.job_digest))
        .where(
            col(Job.state).in_(terminal),
            col(Order.state).in_([state for state in OrderState if not ORDER.is_terminal(state)]),
        )
        .order_by(col(Order.id))
        .limit(ORDERS_MAX)
    )
    ended = []
    for order, job in session.exec(query).all():
        if orders.live_leases(session, order):
            continue
        command = orders.EndOrder(
            id=order.id,
            version=order.version,
            to=_ENDS_AS.get(job.state, OrderState.CLOSED),
            actor="market",
            reason=f"job {job.state.value}",
        )
        orders.end_order(session, command, now)
        ended.append(order.id)
    return tuple(ended)


def expire_holds(session: Session, now: int) -> tuple[str, ...]:
    """Give back what stands in holds whose time is over."""
    names = expired_holds(session, now)
    for name in names:
        hold = session.get_one(Hold, name)
        transfer = derived_id(
            IdKind.TRANSFER, at=hold.created_at_ms, purpose="expire-hold", parts=(name,)
        )
        expire_hold(session, ExpireHold(id=transfer, hold=name), now)
    return names


def drop_old(session: Session, now: int) -> int:
    """Drop messages and replies that are past their time."""
    return mailbox.sweep(session, now) + replies.forget_old(session, now)


SWEEPS: Final[tuple[Callable[[Session, int], object], ...]] = (
    leases.end_overdue,
    end_orders,
    orders.expire_orders,
    expire_holds,
    settlement.mature,
    heartbeats.pause_silent,
    offers.expire_offers,
    drop_old,
)


async def sweep_once(market: Market) -> None:
    """Every sweep, one after another; one that fails does not stop the others, and comes again."""
    for each in SWEEPS:
        now = market.clock()
        try:
            await market.write(lambda session, each=each, now=now: each(session, now))  # type: ignore[misc]
        except (BlindhostError, SQLAlchemyError) as error:
            LOG.warning("sweep %s: %s", getattr(each, "__name__", "?"), type(error).__name__)


async def sweep_forever(market: Market) -> None:
    """Sweep until cancelled."""
    while True:
        await sweep_once(market)
        await asyncio.sleep(SWEEP_SECONDS)
