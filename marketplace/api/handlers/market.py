"""What anybody may know of this market."""

from __future__ import annotations

from sqlmodel import Session

from marketplace import wire
from marketplace.api.asks import Ask, Reply, reply


def get_market(_session: Session, ask: Ask) -> Reply:
    """Identity, fee, and the policy that its meter appraises evidence by."""
    policy = ask.market.meter_policy()
    return reply(
        wire.MarketView(
            identity=ask.market.identity,
            fee_ppm=ask.market.settings.fee_ppm,
            meter_policy=None if policy is None else policy.digest,
            now=ask.now,
        )
    )
