"""The market as a peer: whether its answer is signed, how far off its clock is, how near it is.

Rules:
- It is asked as everybody asks it (`market_client`): pinned https, or plain http to loopback; no
  proxy, no redirect. An answer that it did not sign is no answer, and says so.
- A host without a key asks under one of the moment: whether it is enrolled is then unread.
- Speed is measured through the real blob path, up and down: 64 MiB each, or what goes in ten
  seconds. The bytes are of the host's own key and the same each time, so that a market keeps 16 MiB
  of them, once, whoever is doctored how often.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from marketplace import wire
from provider_agent.doctor.probe import Question
from provider_agent.doctor.view import UnreadError
from provider_agent.errors import MarketError, RejectedError
from provider_agent.market_client import HttpMarket, MarketAddress
from trust.encoding import digest, label_bytes
from trust.identity import PartyKey

ROUND_TRIPS: Final = 20
SECONDS_MAX: Final = 30.0
SPEED_PIECES: Final = 64  # of a MiB
SPEED_PIECES_KEPT: Final = 16
SPEED_SECONDS_MAX: Final = 10.0  # one way; a request that has begun is waited for
SPEED_AT_ONCE: Final = 4  # as a relay's few streams: one alone would measure the round trip
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
        """``("market",)`` or ``("market-speed",)``. Raises UnreadError where nobody answers."""
        if question == ("market",):
            work, seconds = self._look(), SECONDS_MAX
        elif self.key is None:
            raise UnreadError("market: blobs are carried for an enrolled host: --home DIR")
        else:
            work, seconds = self._speed(self.key), 4 * SECONDS_MAX
        try:
            return asyncio.run(asyncio.wait_for(work, seconds))
        except TimeoutError as error:
            raise UnreadError(f"market: no end after {seconds:g} s") from error
        except MarketError as error:
            if question == ("market",) and _NOT_THE_MARKETS in str(error):
                return {"signed": False}
            raise UnreadError(f"market: {error}") from error

    async def _speed(self, key: PartyKey) -> int:
        """Kilobits a second, of the slower way."""
        pieces = [_piece(key.identity, number) for number in range(SPEED_PIECES_KEPT)]
        names = [digest(each) for each in pieces]
        async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session:
            asker = _Asker(session, address=self.address, key=key, clock=self.clock)

            async def up(number: int) -> None:
                await asker.put_blob(names[number], pieces[number])

            async def down(number: int) -> None:
                if await asker.get_blob(names[number]) != pieces[number]:
                    raise UnreadError("market: a blob came back as another, or not at all")

            return min(await _rate(up), await _rate(down))

    async def _look(self) -> object:
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


def _piece(identity: bytes, number: int) -> bytes:
    seed = label_bytes("agent/speed") + identity + number.to_bytes(2, "big")
    return hashlib.shake_256(seed).digest(wire.BLOB_BYTES_MAX)  # nothing on the way shortens it


async def _rate(carry: Callable[[int], Awaitable[None]]) -> int:
    """Kilobits a second of carrying pieces, some at once, until all are, or time is up."""
    begun, left, carried = time.monotonic(), iter(range(SPEED_PIECES)), 0

    async def work() -> None:
        nonlocal carried
        for number in left:
            await carry(number % SPEED_PIECES_KEPT)
            carried += 1
            if time.monotonic() - begun >= SPEED_SECONDS_MAX:
                return

    tasks = [asyncio.create_task(work()) for _ in range(SPEED_AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    seconds = max(time.monotonic() - begun, 1e-6)
    return int(carried * wire.BLOB_BYTES_MAX * 8 / 1000 / seconds)


async def _is_known(asker: _Asker) -> bool:
    try:
        await asker.account()
    except RejectedError:
        return False
    return True
