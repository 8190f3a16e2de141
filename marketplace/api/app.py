"""The HTTP shell: authenticate → parse → one handler → encode and sign. aiohttp stops here.

- Every answer to an authenticated request is signed by the market, refusals included. What could
  not be authenticated is answered unsigned: there is nobody to whom a signature would say anything.
- A handler that changes something runs in one transaction with the reply to its idempotency key.
- An error that nobody foresaw is logged by its type and answered as *internal*: its text may carry
  what nobody should read. A disk that is full is *internal* too, in words: nothing was stored, and
  the same request again does it once there is room.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from sqlmodel import Session

from marketplace import replies, wire
from marketplace.api.asks import Ask, Reply
from marketplace.api.auth import Rates, authenticate, read_body
from marketplace.api.handlers.mailbox import own_box
from marketplace.api.renewal import renew_by_waiting
from marketplace.api.routes import ROUTES, Access, Route
from marketplace.refusals import MarketError, market_error, wire_error
from marketplace.service import Market
from marketplace.store import is_full
from marketplace.wire import ErrorCode
from trust.errors import BlindhostError, EncodingError
from trust.http_signature import VerifiedRequest, sign_response

LOG: Final = logging.getLogger("blindhost.market")
HEADER_BYTES_MAX: Final = 8190  # aiohttp's own limit for a line and a field, stated
JSON_TYPE: Final = "application/json"
RAW_TYPE: Final = "application/octet-stream"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str


def build_app(market: Market, rates: Rates | None = None) -> web.Application:
    """An application that serves every route of the table, and refuses every other."""
    app = web.Application(
        client_max_size=wire.PAYLOAD_BYTES_MAX,
        handler_args={
            "max_line_size": HEADER_BYTES_MAX,
            "max_field_size": HEADER_BYTES_MAX,
            "access_log": None,  # a log of who asked what is not kept
        },
    )
    shell = _Shell(market, rates or Rates())
    for route in ROUTES:
        app.router.add_route(route.method.value, route.path, shell.serve(route))
    app.router.add_route("*", "/{rest:.*}", shell.no_route)
    return app


class _Shell:
    def __init__(self, market: Market, rates: Rates) -> None:
        self._market, self._rates = market, rates

    def serve(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What aiohttp calls for this route."""

        async def serve_route(request: web.Request) -> web.StreamResponse:
            now = self._market.clock()
            try:
                head = authenticate(request, market=self._market.identity, now=now)
            except MarketError as error:
                return _response(_refusal(error), {})
            signed_for = head.request.digest
            try:
                self._rates.count(head.identity, now)
                verified = await read_body(request, head, bytes_max=route.body_bytes_max)
                answer = await self._answer(route, request, verified, now)
            except BlindhostError as error:
                answer = _refusal(market_error(error))
            except Exception as error:  # noqa: BLE001  the outermost frame of a request
                LOG.error("request failed: %s %s", route.path, type(error).__name__)  # noqa: TRY400
                answer = _refusal(MarketError(ErrorCode.INTERNAL, _excuse(error)))
            headers = sign_response(
                self._market.key,
                request=signed_for,
                status=answer.status,
                body=answer.body,
                now=self._market.clock() // 1000,
            )
            return _response(answer, headers)

        return serve_route

    async def no_route(self, request: web.Request) -> web.StreamResponse:
        """A path or method that is not in the table."""
        text = f"no route {request.method[:16]} {request.path[:64]}"
        return _response(_refusal(MarketError(ErrorCode.NO_ROUTE, text)), {})

    async def _answer(
        self, route: Route, request: web.Request, verified: VerifiedRequest, now: int
    ) -> _Answer:
        ask = Ask(
            market=self._market,
            identity=verified.identity,
            parts=dict(request.match_info),
            query=_query(request, route),
            body=verified.body,
            now=now,
            woken=[],
        )
        if route.prepare is not None:
            prepare = route.prepare
            await self._market.aside(lambda: prepare(ask))
        if route.access is Access.READ:
            reply = await self._read(route, ask)
        elif route.access is Access.WRITE:
            reply = await self._market.write(lambda session: route.handler(session, ask))
        else:
            reply = await self._once(route, ask, verified, request.raw_path)
        self._market.waiters.wake(ask.woken)
        content_type = RAW_TYPE if reply.is_raw else JSON_TYPE
        return _Answer(status=200, body=reply.body, content_type=content_type)

    async def _once(self, route: Route, ask: Ask, verified: VerifiedRequest, target: str) -> Reply:
        if verified.idempotency_key is None:
            raise EncodingError("header Idempotency-Key is missing")
        question = replies.asked(
            identity=ask.identity,
            key=verified.idempotency_key,
            method=route.method.value,
            target=target,
            body=ask.body,
        )

        def work(session: Session) -> Reply:
            before = replies.recall(session, question)
            if before is not None:
                return Reply(body=before.body)
            reply = route.handler(session, ask)
            stored = replies.StoredReply(status=200, body=reply.body)
            replies.remember(session, question, stored, ask.now)
            return reply

        return await self._market.write(work)

    async def _read(self, route: Route, ask: Ask) -> Reply:
        if route.path != wire.MAILBOX:
            return await self._market.read(lambda session: route.handler(session, ask))
        return await self._poll(route, ask)

    async def _poll(self, route: Route, ask: Ask) -> Reply:
        """Read a box; if nothing is there, wait for it, once, until something is or time is up.

        The event exists before the box is read, so nothing that arrives in between is missed.
        """
        seconds = ask.number("wait", default=0, most=wire.WAIT_SECONDS_MAX)
        box = await self._market.read(lambda session: own_box(session, ask))
        await renew_by_waiting(self._market, ask)
        empty = wire.encode(wire.MessagePage(messages=()))
        with self._market.waiters.wait_at(box) as event:
            reply = await self._market.read(lambda session: route.handler(session, ask))
            if reply.body != empty or not seconds:
                return reply
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                return reply
            return await self._market.read(lambda session: route.handler(session, ask))


def _excuse(error: Exception) -> str:
    if is_full(error):
        return "the market's disk is full, and nothing was stored; ask again later"
    return "the market failed; ask again later"


def _query(request: web.Request, route: Route) -> dict[str, str]:
    pairs = list(request.query.items())
    if len({name for name, _ in pairs}) != len(pairs):
        raise EncodingError("a query parameter stands twice")
    if unknown := sorted({name for name, _ in pairs} - route.query):
        raise EncodingError(f"unknown query parameter {unknown[0][:32]!r}")
    return dict(pairs)


def _refusal(error: MarketError) -> _Answer:
    body = wire.encode(wire_error(error.error_code, error.text))
    return _Answer(status=error.status, body=body, content_type=JSON_TYPE)


def _response(answer: _Answer, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers=headers,
    )
