"""Who may use the gateway. Every route passes here, unknown ones included, before it is looked at.

A web page, a mail or another user of this machine can reach loopback too (CVE-2026-27482 was Ray's
own dashboard, by DNS rebinding). `guard` refuses, in this order:

(1) A target that is not a path, or a ``Host`` that is not this socket on loopback: rebinding.
(2) Any ``Origin``, any ``Sec-Fetch-Site`` but ``none``: a browser asks for a page.
(3) No bearer key, or a wrong one; compared in constant time. A websocket carries it likewise.
(4) A body of another type than its route reads: ``text/plain`` and forms need no preflight.

No answer has a CORS header. What is answered to a browser is not kept, sniffed, or embedded.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from client.gateway.errors import ApiError, api_error
from trust.errors import BlindhostError

LOG: Final = logging.getLogger("blindhost.gateway")
JSON_TYPE: Final = "application/json"
HEADER_BYTES_MAX: Final = 8190  # aiohttp's own limit for a line and a field, stated
HEADER_SECONDS: Final = 10.0  # a client on loopback sends its first head at once
IDLE_SECONDS: Final = 75.0  # between requests of one connection
BODY_BYTES_MAX: Final = 2 << 20  # a request's document has 1 MiB; JSON escapes make it longer
BODY_SECONDS_MAX: Final = 60
KEY_CHARACTERS_MIN: Final = 32
_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
_ANSWER_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Routes that read no JSON, by method and path as it stands in the table; "" = no type is said.
_BODY_TYPES: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("POST", "/v1/files"): frozenset({"multipart/form-data"}),
    ("PUT", "/api/packages/{protocol}/{name}"): frozenset({"", "application/octet-stream"}),
}


def new_key() -> str:
    """A key nobody guesses: 256 bits, with the beginning that OpenAI's clients expect."""
    return "sk-blindhost-" + secrets.token_urlsafe(32)


def check_host(host: str) -> None:
    """Raises ValueError for anything to listen on that is not an address of loopback.

    A name may mean anything, so it is none, except ``localhost``.
    """
    if host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"{host[:64]!r} is not loopback: the gateway listens nowhere else")


def guard(key: str, heads: Heads) -> Middleware:
    """The middleware; `key` is what clients give as their API key.

    Raises ValueError for a key that could be guessed: nobody starts without one by mistake.
    """
    if len(key) < KEY_CHARACTERS_MIN:
        raise ValueError(f"a key of {len(key)} characters; wanted at least {KEY_CHARACTERS_MIN}")

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        heads.arrived(request)
        try:
            _check_target(request)  # (1)
            _check_browser(request)  # (2)
            _check_key(request, key)  # (3)
            _check_type(request)  # (4)
            return await handler(request)
        except web.HTTPException as error:
            return _http_error(request, error).response()
        except BlindhostError as error:
            return api_error(error).response()
        except Exception as error:  # noqa: BLE001  the outermost frame of a request
            LOG.error("request failed: %s", type(error).__name__)  # noqa: TRY400
            return ApiError(500, "internal", "the gateway failed").response()

    return guarded


async def finish_head(request: web.Request, response: web.StreamResponse) -> None:
    """A signal of aiohttp: what every answer has, streams and websockets included."""
    del request
    response.headers.setdefault("x-request-id", "req_" + secrets.token_hex(16))
    for name, value in _ANSWER_HEADERS.items():
        response.headers[name] = value
    response.headers.pop("Server", None)


class Heads:
    """Connections whose first head is awaited: each is closed after `seconds`.

    Later heads of a connection are awaited for `IDLE_SECONDS`, by aiohttp itself.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._awaited: set[asyncio.BaseProtocol] = set()

    def timed(self, make: Callable[[], web.RequestHandler]) -> Callable[[], web.RequestHandler]:
        """What makes the protocol of a new connection, with the time running."""

        def connected() -> web.RequestHandler:
            protocol = make()
            self._awaited.add(protocol)
            asyncio.get_running_loop().call_later(self._seconds, self._late, protocol)
            return protocol

        return connected

    def arrived(self, request: web.Request) -> None:
        """A head is here."""
        self._awaited.discard(request.protocol)

    def _late(self, protocol: web.RequestHandler) -> None:
        if protocol in self._awaited:
            self._awaited.discard(protocol)
            if protocol.transport is not None:
                protocol.transport.abort()


async def read_body(request: web.Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The body. Raises ApiError: 413 beyond `bytes_max`, 400 if it does not come, or breaks off."""
    said = request.content_length
    if said is not None and said > bytes_max:
        raise _too_large(bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
    except TimeoutError as error:
        raise ApiError(
            400, "body_late", f"the body was not here after {BODY_SECONDS_MAX} s"
        ) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise ApiError(400, "body_cut_off", "the body was cut off") from error
    return bytes(body)


def _check_target(request: web.Request) -> None:
    if not request.raw_path.startswith("/"):
        raise ApiError(403, "target_refused", "the request's target is not a path")
    hosts = request.headers.getall("Host", [])
    port = _port(request)
    names = {f"{name}:{port}" for name in _HOSTS} | (set(_HOSTS) if port == 80 else set())
    if len(hosts) != 1 or hosts[0].lower() not in names:
        raise ApiError(403, "host_refused", "the Host header is not this gateway's on loopback")


def _port(request: web.Request) -> int:
    if request.transport is None:
        raise ApiError(400, "gone", "the connection is closed")
    return int(request.transport.get_extra_info("sockname")[1])


def _check_browser(request: web.Request) -> None:
    if "Origin" in request.headers:
        raise ApiError(403, "origin_refused", "requests from web pages are refused")
    if any(site != "none" for site in request.headers.getall("Sec-Fetch-Site", [])):
        raise ApiError(403, "origin_refused", "requests from web pages are refused")


def _check_key(request: web.Request, key: str) -> None:
    given = request.headers.getall("Authorization", [])
    scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
    # Both are compared as bytes: compare_digest refuses text beyond ASCII.
    same = hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), key.encode())
    if scheme.lower() != "bearer" or not same:
        raise ApiError(
            401,
            "invalid_api_key",
            "the gateway's key is wanted: Authorization: Bearer …",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _check_type(request: web.Request) -> None:
    if "Content-Encoding" in request.headers:  # a small body could become a large one
        raise ApiError(415, "encoding_refused", "bodies come as they are, without an encoding")
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    wanted = _BODY_TYPES.get((request.method, path), frozenset({JSON_TYPE}))
    said = request.headers.getall("Content-Type", [])
    if not said and (not request.body_exists or "" in wanted):
        return
    found = request.content_type if len(said) == 1 else ""
    if not said or found not in wanted - {""}:
        names = " or ".join(sorted(wanted - {""}))
        raise ApiError(415, "type_refused", f"the body's Content-Type is not {names}")


def _http_error(request: web.Request, error: web.HTTPException) -> ApiError:
    """Of aiohttp itself: no such route, no such method, too large."""
    text = f"{error.reason}: {request.method[:16]} {request.path[:64]}"
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return ApiError(error.status, "http_error", text, headers=headers)


def _too_large(bytes_max: int) -> ApiError:
    return ApiError(413, "too_large", f"the body has over {bytes_max} bytes, the most here")
