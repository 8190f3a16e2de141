"""Heartbeats: an offer stands while its host says so.

A listed offer that is silent for `wire.HEARTBEAT_SECONDS_MAX` is paused, so that nobody is matched
to a machine that has gone; the next heartbeat lists it again. A leased machine is the lease's
business: it has deadlines of its own.
"""

from __future__ import annotations

from typing import Final

from sqlmodel import Session, col, select

from marketplace.models import Offer, OfferState
from marketplace.models_exchange import Heartbeat
from marketplace.offers import MoveOffer, move_offer
from marketplace.wire import HEARTBEAT_SECONDS_MAX

REASON_SILENT: Final = "no heartbeat"
REASON_BACK: Final = "heartbeat"


def beat(session: Session, offer: str, now: int) -> None:
    """Note that a host spoke for this offer."""
    row = session.get(Heartbeat, offer) or Heartbeat(offer=offer, at_ms=now)
    row.at_ms = now
    session.add(row)
    session.flush()


def pause_silent(session: Session, now: int) -> tuple[str, ...]:
    """Pause listed offers whose hosts are silent; return their ids."""
    before = now - HEARTBEAT_SECONDS_MAX * 1000
    query = (
        select(Offer)
        .join(Heartbeat, col(Heartbeat.offer) == col(Offer.id))
        .where(col(Offer.state) == OfferState.LISTED, col(Heartbeat.at_ms) <= before)
        .order_by(col(Offer.id))
    )
    silent = session.exec(query).all()
    for offer in silent:
        command = MoveOffer(
            id=offer.id,
            version=offer.version,
            to=OfferState.PAUSED,
            actor="market",
            reason=REASON_SILENT,
        )
        move_offer(session, command, now)
    return tuple(offer.id for offer in silent)
