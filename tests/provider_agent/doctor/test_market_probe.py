"""A market is believed by its signature alone, and the host's clock is compared with its."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from marketplace import wire
from provider_agent.doctor.market_probe import ROUND_TRIPS, MarketProbe
from provider_agent.doctor.view import UnreadError
from provider_agent.market_client import MarketAddress
from trust.http_signature import sign_response, verify_request
from trust.identity import PartyKey

NOW = 1_795_000_000_000
QUESTION = ("market",)


class Peer:
    """A market of two pages on loopback, with switches for what it does wrong."""

    def __init__(self) -> None:
        self.key = self.signer = PartyKey.generate()
        self.known = True
        self.skew_ms = 0
        self.askers: list[tuple[str, bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        asked = verify_request(
            market=self.key.identity,
            method=request.method,
            target=request.path_qs,
            headers=request.headers,
            body=await request.read(),
            now=NOW // 1000,
        )
        self.askers.append((request.path, asked.identity))
        status, content = (
            200,
            wire.encode(
                wire.MarketView(
                    identity=self.key.identity, fee_ppm=0, meter_policy=None, now=NOW + self.skew_ms
                )
            ),
        )
        if request.path == wire.ACCOUNT and not self.known:
            error = wire.WireError(code=wire.ErrorCode.NOT_FOUND, text="no such account")
            status, content = wire.STATUS[wire.ErrorCode.NOT_FOUND], wire.encode(error)
        headers = sign_response(
            self.signer, request=asked.digest, status=status, body=content, now=NOW // 1000
        )
        return web.Response(status=status, body=content, headers=headers)

    async def ask(self, key: PartyKey | None) -> object:
        probe = MarketProbe(
            address=MarketAddress(
                url=self.url, identity=self.key.identity, certificate_sha256=None
            ),
            key=key,
            clock=lambda: NOW,
        )
        return await asyncio.to_thread(probe.ask, QUESTION)


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    application = web.Application()
    application.router.add_get("/{path:.*}", peer.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    peer.url = f"http://127.0.0.1:{port}"
    yield peer
    await runner.cleanup()


async def test_a_market_that_knows_the_host_is_measured(peer: Peer) -> None:
    peer.skew_ms = -61_000
    key = PartyKey.generate()
    answer = await peer.ask(key)
    assert isinstance(answer, dict)
    assert answer["signed"] is answer["enrolled"] is True
    assert len(answer["round_trip_milliseconds"]) == ROUND_TRIPS
    assert 60_500 <= answer["offset_milliseconds"] <= 64_000
    assert {identity for _, identity in peer.askers} == {key.identity}


async def test_a_host_that_the_market_does_not_know_is_told(peer: Peer) -> None:
    peer.known = False
    answer = await peer.ask(PartyKey.generate())
    assert isinstance(answer, dict)
    assert answer["enrolled"] is False


async def test_without_a_key_nobody_is_said_to_be_enrolled(peer: Peer) -> None:
    answer = await peer.ask(None)
    assert isinstance(answer, dict)
    assert "enrolled" not in answer
    assert {path for path, _ in peer.askers} == {wire.MARKET}


async def test_another_markets_signature_is_not_this_markets(peer: Peer) -> None:
    peer.signer = PartyKey.generate()
    assert await peer.ask(None) == {"signed": False}


async def test_a_market_that_does_not_answer_is_unknown(peer: Peer) -> None:
    peer.url = "http://127.0.0.1:9"
    with pytest.raises(UnreadError, match="market"):
        await peer.ask(None)
