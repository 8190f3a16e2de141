"""The price that is live: which strategy a home chose, and what it says each hour.

Rules:
- A strategy goes live only after it was replayed here on at least `LEASES_MIN` leases.
- A strategy that fails, or a market that does not answer, leaves the price as it is.
- Nothing asks less than the floor: the strategy's answer is raised to it, and `LeaseGate` refuses
  a lease below it, whoever says so.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from marketplace.wire_hosts import DemandView, PastMatch
from provider_agent.earnings.book import Book
from provider_agent.earnings.replay import LEASES_MIN, MINUTE_MS
from provider_agent.earnings.scripts import run_script
from provider_agent.earnings.strategies import Chosen, Situation, Strategy, ask, name_of
from provider_agent.errors import AgentError
from provider_agent.journal import replace_file
from provider_agent.offers import OfferKeeper
from trust.encoding import canonical_json, parse_json
from trust.errors import EncodingError

PRICING_FILE: Final = "pricing"
FILE_BYTES_MAX: Final = 1 << 16
ROUND_MS: Final = 3_600_000
HISTORY_HOURS: Final = 30 * 24

_log = logging.getLogger("blindhost.pricing")


class DemandPort(Protocol):
    """Who tells what machines of this kind were leased for; `HostMarket` is one."""

    async def demand(self, offer: str, *, hours: int) -> DemandView:
        """Past matches, and why the offer got none of them."""
        ...


def chosen(home: Path) -> Strategy | None:
    """The strategy that is live; None: the price is the one that ``serve`` was given.

    Raises AgentError for a file that does not parse: a price is never guessed.
    """
    try:
        with (home / PRICING_FILE).open("rb") as file:
            return Chosen.from_json(parse_json(file.read(FILE_BYTES_MAX))).strategy
    except FileNotFoundError:
        return None
    except EncodingError as error:
        raise AgentError(f"the pricing file does not parse: {error}") from error


def choose(home: Path, book: Book, strategy: Strategy) -> int:
    """Make a strategy live; on how many leases it was replayed.

    Raises AgentError for one that was not, or on too few.
    """
    leases = book.replayed(name_of(strategy))
    if leases is None:
        raise AgentError("this strategy was not replayed here: run pricing replay with it first")
    if leases < LEASES_MIN:
        raise AgentError(f"not enough data: replayed on {leases} leases, {LEASES_MIN} wanted")
    content: Any = Chosen(strategy=strategy).to_json()
    replace_file(home / PRICING_FILE, canonical_json(content))
    return leases


def situation_now(strategy: Strategy, matches: tuple[PastMatch, ...], now: int) -> Situation:
    """What a strategy is asked about now."""
    ended = [x.at + x.minutes * MINUTE_MS for x in matches if x.mine] or [
        matches[0].at if matches else now
    ]
    return Situation(
        now=now,
        floor=strategy.floor,
        idle_ms=max(0, now - max(ended)),
        matches=tuple(each for each in matches if each.at < now),
    )


class Pricer:
    """Asks the live strategy each hour. `clock` gives Unix milliseconds."""

    def __init__(
        self, home: Path, *, book: Book, market: DemandPort, clock: Callable[[], int]
    ) -> None:
        self._home, self._book, self._market, self._clock = home, book, market, clock
        self._next = 0

    def floor(self) -> int | None:
        """What nothing goes below; None: no strategy is live. For `LeaseGate.floor`."""
        strategy = chosen(self._home)
        return None if strategy is None else strategy.floor

    async def round(self, offer: OfferKeeper) -> None:
        """Ask another price, if an hour is over and the strategy says so."""
        now = self._clock()
        if now < self._next and self._next - now <= ROUND_MS:  # a clock may be set back
            return
        self._next = now + ROUND_MS
        try:
            strategy = chosen(self._home)
            if strategy is None:
                return
            view = await self._market.demand(offer.offer, hours=HISTORY_HOURS)
            self._book.keep_matches(view.matches)
            situation = situation_now(strategy, self._book.matches(), now)
            price = await asyncio.to_thread(ask, strategy, situation, run_script)
        except (AgentError, sqlite3.Error, OSError) as error:
            _log.warning("pricing.kept offer=%s reason=%s", offer.offer, error)
            return
        has_floor = offer.draft.floor_microcredits_per_gpu_hour is not None
        offer.reprice(price, min(strategy.floor, price) if has_floor else None)
        _log.info("pricing.asked offer=%s price=%d", offer.offer, price)
