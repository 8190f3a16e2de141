"""What a host asks about its own earnings and its own offer. Nothing here changes anything."""

from __future__ import annotations

from typing import Final

from sqlmodel import Session

from marketplace import host_demand, host_view, wire_hosts
from marketplace.api.asks import Ask, Reply, held_lease, reply
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode

KNOWN_MAX: Final = 1 << 31
HOURS_DEFAULT: Final = 7 * 24


def get_host_leases(session: Session, ask: Ask) -> Reply:
    """All leases that the asking host ever had."""
    after = ask.number("after", default=0, most=KNOWN_MAX)
    leases = host_view.host_leases(session, ask.identity, after=after)
    return reply(wire_hosts.HostLeaseList(leases=leases))


def get_lease_settlements(session: Session, ask: Ask) -> Reply:
    """How the receipts of one of its leases were settled."""
    lease = held_lease(session, ask, ask.parts["lease"])
    after = ask.number("after", default=0, most=KNOWN_MAX)
    settled = host_view.lease_settlements(session, lease, after=after)
    return reply(wire_hosts.HostSettlementList(settlements=settled))


def get_offer_demand(session: Session, ask: Ask) -> Reply:
    """Why one of its offers has no leases. Raises MarketError: NOT_FOUND, for another's too."""
    name = ask.parts["offer"]
    offer = host_demand.offer_of(session, name, ask.identity)
    if offer is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"{ask.identity.hex()} has no offer {name[:40]}")
    hours = ask.number("hours", default=HOURS_DEFAULT, most=wire_hosts.DEMAND_HOURS_MAX)
    return reply(host_demand.demand_view(session, offer, hours=hours, now=ask.now))
