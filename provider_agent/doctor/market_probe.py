"""The market as a peer: whether its answer is signed, how far off its clock is, how near it is.

Rules:
- It is asked as everybody asks it (`market_client`): pinned https, or plain http to loopback; no
  proxy, no redirect. An answer that it did not sign is no answer, and says so.
- A host without a key asks under one of the moment: whether it is enrolled is then unread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from marketplace import wire
from provider_agent.doctor.probe import Question
from provider_agent.doctor.view import UnreadError
from provider_agent.errors import MarketError, RejectedError
from provider_agent.market_client import HttpMarket, MarketAddress
from trust.identity import PartyKey

ROUND_TRIPS: Final = 20
SECONDS_MAX: Final = 30.0
_NOT_THE_MARKETS: Final = "not the market's"  # HttpMarket's words for an answer under another key


class _Asker(HttpMarket):
    """Two questions of its own."""

    async def view(self) -> wire.MarketView:
        return await self._typed(wire.MarketView, "GET", wire.target(wire.MARKET))

    async def account(self) -> None:
        await self._ask("GET", wire.target(wire.ACCOUNT))


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketProbe:
    """One market."""

    address: MarketAddress
    key: PartyKey | None
    """The host's own; None: it has none yet."""
    clock: Callable[[], int]
    """Unix milliseconds."""

    def ask(self, question: Question) -> object:
        """``("market",)``. Raises UnreadError where nobody answers."""
        if question != ("market",):
            raise UnreadError("no blob of this market's is known before the first lease")
        try:
            return asyncio.run(asyncio.wait_for(self._look(), SECONDS_MAX))
        except TimeoutError as error:
            raise UnreadError(f"market: no end after {SECONDS_MAX:g} s") from error
        except MarketError as error:
            if _NOT_THE_MARKETS in str(error):
                return {"signed": False}
            raise UnreadError(f"market: {error}") from error

    async def _look(self) -> dict[str, object]:
        key = self.key or PartyKey.generate()
        async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session:
            asker = _Asker(session, address=self.address, key=key, clock=self.clock)
            trips: list[int] = []
            for _ in range(ROUND_TRIPS):
                begun, before = time.monotonic(), self.clock()
                view = await asker.view()
                trips.append(int((time.monotonic() - begun) * 1000))
            answer: dict[str, object] = {
                "signed": True,
                "offset_milliseconds": before + trips[-1] // 2 - view.now,
                "round_trip_milliseconds": trips,
            }
            if self.key is not None:
                answer["enrolled"] = await _is_known(asker)
        return answer


async def _is_known(asker: _Asker) -> bool:
    try:
        await asker.account()
    except RejectedError:
        return False
    return True
