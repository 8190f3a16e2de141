"""The client's side of the wire: whom it speaks to, whom it believes, how often it asks."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from client import market_api
from client.market_api import (
    MarketAddress,
    MarketApi,
    MarketRefusedError,
    MarketUnreachableError,
    UnauthenticatedAnswerError,
)
from marketplace import wire
from tests.marketplace.api.rig import Rig, key16, serve_rig
from tests.marketplace.test_server import certificate_of
from tests.marketplace.world import BUYER, HOST, MARKET, NOW, STRANGER
from trust.errors import EncodingError
from trust.http_signature import sign_response, verify_head


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_api, "BACKOFF_SECONDS", (0.0,) * 4)


@contextlib.asynccontextmanager
async def served(handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{rest:.*}", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class FakeMarket:
    """Answers as the market would, by its key; keeps what it was asked."""

    def __init__(self, *answers: tuple[int, bytes], key=MARKET) -> None:
        self.answers, self.key = list(answers), key
        self.keys: list[str | None] = []
        self.asked = 0

    async def __call__(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.keys.append(request.headers.get("Idempotency-Key"))
        head = verify_head(
            market=MARKET.identity,
            method=request.method,
            target=request.raw_path,
            headers=request.headers,
            now=NOW // 1000,
        )
        head.accept(await request.read())
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = sign_response(
            self.key, request=head.request.digest, status=status, body=body, now=NOW // 1000
        )
        return web.Response(status=status, body=body, headers=headers)


@contextlib.asynccontextmanager
async def client_of(url: str, pin: bytes | None = None) -> AsyncIterator[MarketApi]:
    address = MarketAddress(url=url, identity=MARKET.identity, certificate_sha256=pin)
    async with aiohttp.ClientSession() as http:
        yield MarketApi(http, address=address, key=BUYER, clock=lambda: NOW)


EMPTY = wire.encode(wire.OfferList(offers=()))


def error(code: wire.ErrorCode) -> tuple[int, bytes]:
    return wire.STATUS[code], wire.encode(wire.WireError(code=code, text="so it is"))


# --- where to ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:80",
        "http://example.org",
        "http://127.0.0.1.example.org",
        "http://0.0.0.0:1",
        "https://127.0.0.1:1",
        "ftp://127.0.0.1",
        "127.0.0.1:80",
        "http://127.0.0.1:80/path",
        "http://127.0.0.1:80?q=1",
        "",
    ],
)
def test_plain_http_beyond_loopback_and_unpinned_https_are_refused(url: str) -> None:
    with pytest.raises(EncodingError):
        MarketAddress(url=url, identity=MARKET.identity)


def test_loopback_and_pinned_https_are_good() -> None:
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        MarketAddress(url=url, identity=MARKET.identity)
    MarketAddress(url="https://example.org", identity=bytes(32), certificate_sha256=bytes(32))


async def test_pinned_certificate_is_the_one_that_is_believed(tmp_path: Path) -> None:
    certificate, private_key, sha256 = certificate_of(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    fake = FakeMarket((200, EMPTY))
    async with served(fake, context) as url:
        async with client_of(url, sha256) as api:
            assert await api.get_offers() == ()
        async with client_of(url, bytes(32)) as api:
            with pytest.raises(UnauthenticatedAnswerError, match="certificate"):
                await api.get_offers()
    assert fake.asked == 1  # nothing was sent to the stranger


# --- whom to believe -----------------------------------------------------------------------------


async def test_answer_that_another_signed_is_no_answer() -> None:
    async with served(FakeMarket((200, EMPTY), key=STRANGER)) as url, client_of(url) as api:
        with pytest.raises(UnauthenticatedAnswerError, match="wanted"):
            await api.get_offers()


async def test_unsigned_success_and_unsigned_refusal_are_no_answers() -> None:
    for status, body in ((200, EMPTY), error(wire.ErrorCode.NO_FUNDS), (502, b"<html>")):

        async def handler(request, status=status, body=body):
            return web.Response(status=status, body=body)

        async with served(handler) as url, client_of(url) as api:
            with pytest.raises(UnauthenticatedAnswerError):
                await api.get_offers()


async def test_answer_to_another_request_is_no_answer() -> None:
    """▸ A relay replays the market's good answer to an earlier question."""
    fake = FakeMarket((200, EMPTY))
    kept: list[web.Response] = []

    async def replaying(request: web.Request) -> web.Response:
        if not kept:
            kept.append(await fake(request))
        first = kept[0]
        return web.Response(status=first.status, body=first.body, headers=first.headers)

    async with served(replaying) as url, client_of(url) as api:
        assert await api.get_offers() == ()
        with pytest.raises(UnauthenticatedAnswerError):
            await api.get_jobs()


async def test_endless_answer_is_cut_off() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 20))
        return response

    async with served(handler) as url, client_of(url) as api:
        with pytest.raises(UnauthenticatedAnswerError, match="the most of any route"):
            await api.get_offers()


async def test_redirect_is_not_followed() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.path == wire.OFFERS
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with served(handler) as url, client_of(url) as api:
        with pytest.raises(UnauthenticatedAnswerError):
            await api.get_offers()


async def test_blob_with_other_bytes_is_refused_although_the_market_signed() -> None:
    async with served(FakeMarket((200, b"other"))) as url, client_of(url) as api:
        with pytest.raises(Exception, match="other bytes"):
            await api.get_blob(bytes(32))


# --- how often -----------------------------------------------------------------------------------


async def test_what_failed_is_asked_again_under_the_same_key() -> None:
    fake = FakeMarket(
        error(wire.ErrorCode.INTERNAL),
        error(wire.ErrorCode.TOO_MANY),
        error(wire.ErrorCode.NO_FUNDS),
    )
    async with served(fake) as url, client_of(url) as api:
        with pytest.raises(MarketRefusedError) as caught:
            await api.withdraw_offer("offr_x", key=bytes(16))
    assert caught.value.error_code is wire.ErrorCode.NO_FUNDS
    assert fake.keys == [f'"{bytes(16).hex()}"'] * 3


async def test_a_no_is_not_asked_again() -> None:
    fake = FakeMarket(error(wire.ErrorCode.FORBIDDEN))
    async with served(fake) as url, client_of(url) as api:
        with pytest.raises(MarketRefusedError, match="so it is"):
            await api.get_offers()
    assert fake.asked == 1


async def test_market_that_is_gone_is_asked_a_bounded_number_of_times() -> None:
    async with served(FakeMarket((200, EMPTY))) as url:
        pass
    async with client_of(url) as api:
        with pytest.raises(MarketUnreachableError):
            await api.get_offers()


async def test_connection_cut_off_in_an_answer_is_asked_again() -> None:
    fake = FakeMarket((200, EMPTY))

    async def handler(request: web.Request) -> web.StreamResponse:
        if fake.asked:
            return await fake(request)
        fake.asked += 1
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with served(handler) as url, client_of(url) as api:
        assert await api.get_offers() == ()
    assert fake.asked == 2


# --- a crash between sending and hearing ---------------------------------------------------------


async def test_call_repeated_after_a_crash_under_its_stored_key_does_nothing_twice(
    tmp_path: Path,
) -> None:
    async with serve_rig(tmp_path) as rig:
        await _twice(rig)


async def _twice(rig: Rig) -> None:
    await rig.fund()
    job, key = await rig.publish(), key16()
    first = await rig.api(BUYER).submit_job(job, key=key)
    again = await rig.api(BUYER).submit_job(job, key=key)
    assert again == first
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key)  # another identity's key is its own
    assert len(await rig.api(BUYER).get_jobs()) == 1
