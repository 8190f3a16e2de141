"""Looking at the book of offers, with keys or without.

- A look needs no home: a *visitor* signs with a key drawn for the occasion, kept in memory and
  dropped with it. The market answers whoever signs, and learns of a visitor that somebody looked.
- With that key nothing else is done: no money is there, no document, no job.
- The answer is the market's word as ever: signed by the key that the visitor was given for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import aiohttp

from client.market_api import MarketAddress, MarketApi
from client.search import parse_order, parse_query
from marketplace.wire import Clause, OfferFunnel, OfferPage, OfferQuery
from trust.identity import PartyKey


class Browser(Protocol):
    """Who may look at offers: `client.window.Party` and `Visitor`."""

    async def search(
        self, query: str, sort: str, start: int, rows: int
    ) -> tuple[tuple[Clause, ...], OfferPage]:
        """Rows of what fits. Raises QueryError."""

    async def explain(self, query: str) -> tuple[tuple[Clause, ...], OfferFunnel]:
        """What each clause leaves. Raises QueryError."""


class Visitor:
    """Somebody without keys."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: MarketAddress,
        clock: Callable[[], int],
        *,
        attempts: int = 1,
    ) -> None:
        key = PartyKey.generate()
        self._api = MarketApi(session, address=address, key=key, clock=clock, attempts=attempts)

    async def search(
        self, query: str, sort: str, start: int, rows: int
    ) -> tuple[tuple[Clause, ...], OfferPage]:
        """Rows of what fits. Raises QueryError."""
        asked = offer_query(query, sort, start, rows)
        return asked.clauses, await self._api.search_offers(asked)

    async def explain(self, query: str) -> tuple[tuple[Clause, ...], OfferFunnel]:
        """What each clause leaves. Raises QueryError."""
        asked = offer_query(query, "price", 0, 1)
        return asked.clauses, await self._api.explain_offers(asked)


def offer_query(query: str, sort: str, start: int, rows: int) -> OfferQuery:
    """What a person typed, as it travels. Raises QueryError."""
    order, descending = parse_order(sort or "price")
    return OfferQuery(
        clauses=parse_query(query),
        order=order,
        descending=descending,
        after=None,
        skip=start,
        rows=rows,
    )
