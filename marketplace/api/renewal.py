"""A host that waits at its lease's box is there, and one that stops waiting is soon missed.

So each wait gives a metered lease just a little more time than this wait may take: a host that
asks more often is missed sooner.
"""

from __future__ import annotations

from typing import Final

from sqlmodel import Session

from marketplace.api.asks import Ask, held_lease
from marketplace.leases import RenewLease, renew
from marketplace.models import LeaseState
from marketplace.service import Market
from marketplace.wire import WAIT_SECONDS_MAX

SLACK_SECONDS: Final = 20  # a slow host's way back after its wait
SLOWEST_WRITES_SECONDS: Final = 5  # one write in five seconds, not at each message


async def renew_by_waiting(market: Market, ask: Ask) -> None:
    """Renew the lease in the query, if it is metered and its deadline comes near."""
    name = ask.query.get("lease")
    if name is None or not await market.read(lambda session: _is_due(session, ask, name)):
        return
    await market.write(lambda session: _renew(session, ask, name))


def _is_due(session: Session, ask: Ask, name: str) -> bool:
    lease = held_lease(session, ask, name)
    if lease.state is not LeaseState.READY or lease.deadline_ms is None:
        return False
    left = lease.deadline_ms - ask.now
    return 0 < left < (_seconds(ask) - SLOWEST_WRITES_SECONDS) * 1000


def _seconds(ask: Ask) -> int:
    """The wait that was asked for is checked by the route; a longer one counts as the longest."""
    wait = ask.query.get("wait", "0")
    return SLACK_SECONDS + min(int(wait) if wait.isdecimal() else 0, WAIT_SECONDS_MAX)


def _renew(session: Session, ask: Ask, name: str) -> None:
    if _is_due(session, ask, name):
        renew(session, RenewLease(id=name, seconds=_seconds(ask)), ask.now)
