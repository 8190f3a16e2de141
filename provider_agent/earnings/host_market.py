"""What the host's accounts ask of the market: the routes of wire_hosts.py, page after page."""

from __future__ import annotations

from typing import Final

from marketplace import wire, wire_hosts
from provider_agent.errors import UnavailableError
from provider_agent.market_client import HttpMarket

PAGES_MAX: Final = 500  # 100,000 leases, or receipts of one


class HostMarket(HttpMarket):
    """`HttpMarket`, and what is a host's own. Raises UnavailableError or RejectedError."""

    async def market(self) -> wire.MarketView:
        """The market's fee, and its clock, signed."""
        return await self._typed(wire.MarketView, "GET", wire.target(wire.MARKET))

    async def host_leases(self) -> tuple[wire_hosts.HostLease, ...]:
        """All leases that this host ever had, oldest first."""
        found: list[wire_hosts.HostLease] = []
        for _ in range(PAGES_MAX):
            target = wire.target(wire_hosts.HOST_LEASES, {"after": len(found)})
            page = (await self._typed(wire_hosts.HostLeaseList, "GET", target)).leases
            found.extend(page)
            if len(page) < wire.PAGE_ROWS_MAX:
                return tuple(found)
        raise UnavailableError(f"the market lists leases without end: {len(found)} so far")

    async def settlements(self, lease: str) -> tuple[wire_hosts.HostSettlement, ...]:
        """How each receipt of a lease was settled, in that order."""
        found: list[wire_hosts.HostSettlement] = []
        for _ in range(PAGES_MAX):
            target = wire.target(wire_hosts.LEASE_SETTLEMENTS, {"after": len(found)}, lease=lease)
            page = (await self._typed(wire_hosts.HostSettlementList, "GET", target)).settlements
            found.extend(page)
            if len(page) < wire.PAGE_ROWS_MAX:
                return tuple(found)
        raise UnavailableError(f"the market lists receipts without end: {len(found)} so far")

    async def demand(self, offer: str, *, hours: int) -> wire_hosts.DemandView:
        """Why an offer got no leases."""
        target = wire.target(wire_hosts.OFFER_DEMAND, {"hours": hours}, offer=offer)
        return await self._typed(wire_hosts.DemandView, "GET", target)

    async def paid_out(self) -> int:
        """Microcredits that left this host's payable account, less what came back."""
        total, after = 0, 0
        for _ in range(PAGES_MAX):
            query: dict[str, str | int] = {"account": "host_payable", "after": after}
            target = wire.target(wire.STATEMENT, query)
            lines = (await self._typed(wire.Statement, "GET", target)).lines
            for line in lines:
                after = line.number
                if line.kind == "pay_out":
                    out = line.direction is wire.Direction.OUT
                    total += line.amount if out else -line.amount
            if len(lines) < wire.PAGE_ROWS_MAX:
                return total
        raise UnavailableError("the market's statement has no end")

    async def document(self, sha256: bytes) -> bytes:
        """A signed document, raw and not verified."""
        return await self._ask("GET", wire.target(wire.DOCUMENT, digest=sha256))
