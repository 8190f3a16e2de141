"""Ask a service, politely and with bounds; a transport's failures, and nothing of what it carries.

Rules:
- At most `ATTEMPTS_MAX` tries, with waits that double; a service that names a wait gets it, and one
  that names more than `WAIT_SECONDS_MAX` ends the try: the host is told when to come back.
- A request has `REQUEST_SECONDS_MAX` from dial to last byte. No more bytes are read than the ask
  allows. No redirect, no proxy of the environment's, no compression.
- Time and waits are parameters: tests have their own.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from provider_agent.endorsements.asks import Answer, Ask
from provider_agent.endorsements.errors import FetchError

ATTEMPTS_MAX: Final = 5
WAIT_SECONDS_FIRST: Final = 2.0
WAIT_SECONDS_MAX: Final = 120.0
REQUEST_SECONDS_MAX: Final = 30.0
HEADER_BYTES_MAX: Final = 32 * 1024  # a chain, URL-encoded; aiohttp's own limit is 8 KiB
_CHUNK_BYTES: Final = 1 << 14
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

_log = logging.getLogger("blindhost.agent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Time, as the fetcher sees it."""

    monotonic: Callable[[], float]
    """Seconds."""
    sleep: Callable[[float], Awaitable[object]]
    now: Callable[[], dt.datetime]
    """Aware UTC."""
    request_seconds: float = REQUEST_SECONDS_MAX


class _LaterError(Exception):
    """Another try may succeed. `seconds`: what the service said; None: nothing."""

    def __init__(self, why: str, seconds: float | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds


def new_session() -> aiohttp.ClientSession:
    """A session with the limits that the fetcher's rules name."""
    return aiohttp.ClientSession(
        trust_env=False,
        auto_decompress=False,
        max_field_size=HEADER_BYTES_MAX,
        max_line_size=HEADER_BYTES_MAX,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Fetcher:
    """Asks one at a time. It keeps nothing but when it asked whom last."""

    def __init__(self, session: aiohttp.ClientSession, waits: Waits) -> None:
        self._session, self._waits = session, waits
        self._asked_at: dict[str, float] = {}

    async def fetch(self, ask: Ask) -> Answer:
        """The answer. Raises FetchError."""
        wait = WAIT_SECONDS_FIRST
        for attempt in range(1, ATTEMPTS_MAX + 1):
            await self._keep_pace(ask)
            try:
                return await self._once(ask)
            except _LaterError as error:
                named = error.seconds
                if named is not None and named > WAIT_SECONDS_MAX:
                    raise FetchError(
                        "rate-limited",
                        f"{ask.service.name}: {error}; it wants to be left alone for {named:.0f} s",
                    ) from error
                if attempt == ATTEMPTS_MAX:
                    raise FetchError(
                        "no-answer", f"{ask.service.name}: {error}, {attempt} times"
                    ) from error
                _log.info("endorsements service=%s later=%s", ask.service.name, error)
                await self._waits.sleep(max(wait, named or 0.0))
                wait = min(2 * wait, WAIT_SECONDS_MAX)
        raise AssertionError("a try returns, or raises")

    async def _keep_pace(self, ask: Ask) -> None:
        service, waits = ask.service, self._waits
        last = self._asked_at.get(service.name)
        if last is not None and (left := last + service.pace_seconds - waits.monotonic()) > 0:
            await waits.sleep(left)
        self._asked_at[service.name] = waits.monotonic()

    async def _once(self, ask: Ask) -> Answer:
        try:
            return await asyncio.wait_for(self._request(ask), self._waits.request_seconds)
        except TimeoutError as error:
            raise _LaterError(f"no whole answer in {self._waits.request_seconds:g} s") from error
        except aiohttp.InvalidURL as error:
            raise FetchError("bad-address", f"{ask.service.name}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            text = str(error)[:160] or type(error).__name__
            raise _LaterError(f"no answer: {text}") from error

    async def _request(self, ask: Ask) -> Answer:
        """(1) Ask. (2) Sort the status. (3) Read, no further than allowed. (4) The header."""
        headers = {"Accept-Encoding": "identity"}
        if ask.content_type is not None:
            headers["Content-Type"] = ask.content_type
        pin = ask.service.certificate_sha256
        async with self._session.request(
            "GET" if ask.body is None else "POST",
            URL(ask.service.base + ask.target, encoded=True),
            data=ask.body,
            headers=headers,
            allow_redirects=False,
            ssl=True if pin is None else aiohttp.Fingerprint(pin),
        ) as response:  # (1)
            if response.status in _LATER:  # (2)
                raise _LaterError(
                    f"status {response.status}",
                    _named_wait(response.headers.get("Retry-After"), self._waits.now()),
                )
            if response.status != 200:
                raise FetchError(
                    "refused",
                    f"{ask.service.name}: status {response.status} for {ask.target[:120]}",
                )
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise FetchError("wrong-content", f"{ask.service.name}: a compressed answer")
            body = await _read(ask, response)  # (3)
            found = {}
            if ask.header is not None:  # (4)
                value = response.headers.get(ask.header)
                if value is None:
                    raise FetchError("wrong-content", f"{ask.service.name}: no header {ask.header}")
                found[ask.header] = value
            return Answer(body=body, headers=found)


async def _read(ask: Ask, response: aiohttp.ClientResponse) -> bytes:
    content, most = bytearray(), ask.body_bytes_max
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > most:
            break
    else:
        return bytes(content)
    response.close()  # what else it sends is not read
    raise FetchError("too-large", f"{ask.service.name}: over {most} bytes for {ask.target[:80]}")


def _named_wait(value: str | None, now: dt.datetime) -> float | None:
    """Seconds that a Retry-After names (RFC 9110 §10.2.3); None: none, or nonsense."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max((moment - now).total_seconds(), 0.0)
