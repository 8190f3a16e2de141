"""Who asks: signature, age, rate. Nothing of a request is looked at before this has passed.

(1) The head: its signature holds for this market, method and target. (2) The identity is within its
rate. (3) The body is read up to the route's limit, and no further, in bounded time. (4) It is the
body that was signed. Replays are the idempotency key's business (`marketplace.replies`).
"""

from __future__ import annotations

import asyncio
import collections
from typing import Final

from aiohttp import web

from marketplace.refusals import MarketError
from marketplace.wire import REQUESTS_PER_MINUTE_MAX, ErrorCode
from trust.errors import EncodingError, SignatureError
from trust.http_signature import VerifiedHead, VerifiedRequest, verify_head

BODY_SECONDS_MAX: Final = 60  # 1 MiB at 20 KiB/s; a slower sender would hold a connection for ever
IDENTITIES_MAX: Final = 100_000  # keys are free: beyond this the longest silent one is forgotten
MINUTE_MILLISECONDS: Final = 60_000


class Rates:
    """Requests of each identity in the current minute."""

    def __init__(self, per_minute: int = REQUESTS_PER_MINUTE_MAX) -> None:
        self._per_minute = per_minute
        self._counts: collections.OrderedDict[bytes, tuple[int, int]] = collections.OrderedDict()

    def count(self, identity: bytes, now: int) -> None:
        """Count a request at Unix milliseconds `now`. Raises MarketError (TOO_MANY)."""
        minute = now // MINUTE_MILLISECONDS
        known, count = self._counts.pop(identity, (minute, 0))
        count = count + 1 if known == minute else 1
        self._counts[identity] = (minute, count)
        if len(self._counts) > IDENTITIES_MAX:
            self._counts.popitem(last=False)
        if count > self._per_minute:
            raise MarketError(
                ErrorCode.TOO_MANY, f"more than {self._per_minute} requests in this minute"
            )


def authenticate(request: web.Request, *, market: bytes, now: int) -> VerifiedHead:
    """(1) Verify the head. Raises MarketError (UNSIGNED)."""
    try:
        return verify_head(
            market=market,
            method=request.method,
            target=request.raw_path,
            headers=request.headers,
            now=now // 1000,
        )
    except (EncodingError, SignatureError) as error:
        raise MarketError(ErrorCode.UNSIGNED, str(error)) from error


async def read_body(request: web.Request, head: VerifiedHead, *, bytes_max: int) -> VerifiedRequest:
    """(3) Read the body, and (4) take it. Raises MarketError: TOO_LARGE, MALFORMED, UNSIGNED."""
    said = request.content_length
    if said is not None and said > bytes_max:
        raise MarketError(ErrorCode.TOO_LARGE, f"body of {said} bytes; at most {bytes_max} here")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise MarketError(
                        ErrorCode.TOO_LARGE, f"body of over {bytes_max} bytes, the most here"
                    )
    except TimeoutError as error:
        raise MarketError(
            ErrorCode.MALFORMED, f"body not here after {BODY_SECONDS_MAX} s"
        ) from error
    except (web.RequestPayloadError, ConnectionError) as error:
        raise MarketError(ErrorCode.MALFORMED, "the body was cut off") from error
    try:
        return head.accept(bytes(body))
    except SignatureError as error:
        raise MarketError(ErrorCode.UNSIGNED, str(error)) from error
