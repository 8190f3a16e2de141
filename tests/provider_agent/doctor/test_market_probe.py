"""A market is believed by its signature alone, and the host's clock is compared with its."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from marketplace import wire
from provider_agent.doctor import market_probe
from provider_agent.doctor.market_probe import ROUND_TRIPS, SPEED_PIECES_KEPT, MarketProbe
from provider_agent.doctor.probe import Question
from provider_agent.doctor.view import UnreadError
from provider_agent.market_client import MarketAddress
from trust.http_signature import sign_response, verify_request
from trust.identity import PartyKey

NOW = 1_795_000_000_000
QUESTION = ("market",)
SPEED = ("market-speed",)


class Peer:
    """A market of two pages on loopback, with switches for what it does wrong."""

    def __init__(self) -> None:
        self.key = self.signer = PartyKey.generate()
        self.known = True
        self.skew_ms = 0
        self.askers: list[tuple[str, bytes]] = []
        self.url = ""
        self.blobs: dict[str, bytes] = {}
        self.spoilt = False

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
        if request.path.startswith("/v1/blobs/"):
            name = request.path.rpartition("/")[2]
            if request.method == "PUT":
                self.blobs[name] = await request.read()
                assert hashlib.sha256(self.blobs[name]).hexdigest() == name
                stored = wire.Stored(digest=bytes.fromhex(name), result=wire.StoredResult.CREATED)
                content = wire.encode(stored)
            else:
                content = self.blobs[name] if not self.spoilt else bytes(100)
        if request.path == wire.ACCOUNT and not self.known:
            error = wire.WireError(code=wire.ErrorCode.NOT_FOUND, text="no such account")
            status, content = wire.STATUS[wire.ErrorCode.NOT_FOUND], wire.encode(error)
        headers = sign_response(
            self.signer, request=asked.digest, status=status, body=content, now=NOW // 1000
        )
        return web.Response(status=status, body=content, headers=headers)

    async def ask(self, key: PartyKey | None, question: Question = QUESTION) -> object:
        probe = MarketProbe(
            address=MarketAddress(
                url=self.url, identity=self.key.identity, certificate_sha256=None
            ),
            key=key,
            clock=lambda: NOW,
        )
        return await asyncio.to_thread(probe.ask, question)


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    application = web.Application(client_max_size=1 << 21)
    application.router.add_route("*", "/{path:.*}", peer.answer)
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


async def test_speed_is_measured_both_ways_and_leaves_little_and_the_same(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_probe, "SPEED_PIECES", 24)
    key = PartyKey.generate()
    kilobits = await peer.ask(key, SPEED)
    assert isinstance(kilobits, int)
    assert kilobits > 1000
    first = set(peer.blobs)
    assert len(first) == SPEED_PIECES_KEPT
    assert len(peer.askers) == 2 * 24
    await peer.ask(key, SPEED)
    assert set(peer.blobs) == first


async def test_a_slow_way_is_measured_in_bounded_time(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_probe, "SPEED_SECONDS_MAX", 0.0)
    assert isinstance(await peer.ask(PartyKey.generate(), SPEED), int)
    assert len(peer.askers) == 2 * market_probe.SPEED_AT_ONCE


async def test_speed_is_unread_without_a_key_or_with_another_blob(peer: Peer) -> None:
    with pytest.raises(UnreadError, match="--home"):
        await peer.ask(None, SPEED)
    peer.spoilt = True
    with pytest.raises(UnreadError, match="came back as another"):
        await peer.ask(PartyKey.generate(), SPEED)
