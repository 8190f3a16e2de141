"""Answers as Ray's client shows them: an error is a status and one line of plain text.

401 and 403 are the guard's alone: Ray's client takes them for a matter of its cluster's tokens.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from client.dataset import RowError
from client.gateway.ports import NotFoundError, UnavailableError
from client.gateway.ray_logs import shown
from client.gateway.ray_packages import (
    PackageError,
    PackageMissingError,
    PackagesFullError,
    PackageSizeError,
)
from client.market_api import MarketUnreachableError
from trust.errors import BlindhostError, EncodingError, RefusedError

LOG: Final = logging.getLogger("blindhost.gateway")
_REFUSED_STATUS: Final = {"no-funds": 402, "too-large": 413, "too-many": 429, "full": 507}
_ERROR_STATUS: Final[tuple[tuple[type[BlindhostError], int], ...]] = (
    (PackageSizeError, 413),
    (PackagesFullError, 429),
    (PackageMissingError, 409),
    (PackageError, 400),
    (RowError, 400),
    (EncodingError, 400),
    (NotFoundError, 404),
    (UnavailableError, 503),
    (MarketUnreachableError, 503),
)


def plain(handler: Handler) -> Handler:
    """Answer every error with one line of text; what nobody foresaw is logged by its type alone."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except BlindhostError as error:
            return line(_status(error), shown(str(error)))
        except TimeoutError:
            return line(504, "it took too long; whether it was done is not known")
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001  # its text may carry a client's data
            LOG.error(  # noqa: TRY400  # no traceback: it may carry data too
                "ray route failed: %s", type(error).__name__
            )
            return line(500, "internal error")

    return answer


def _status(error: BlindhostError) -> int:
    if isinstance(error, RefusedError):
        return _REFUSED_STATUS.get(error.code, 409)
    for kind, status in _ERROR_STATUS:
        if isinstance(error, kind):
            return status
    return 500


def line(status: int, text: str) -> web.Response:
    """A status and its line."""
    return web.Response(status=status, text=text)
