"""A reply on its way from the enclave to a client, and what happens when either leaves.

- The status waits for the first piece, up to `PING_SECONDS`: an error before it has its own status.
- Silence is filled with comments, because a client's patience counts from byte to byte.
- A reply that breaks off ends in an error event and a closed connection. It never ends as a whole
  one does: OpenAI's client takes a clean end without ``[DONE]`` for a complete reply.
- Whoever leaves early closes the iterator, which cancels the request in the enclave.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol, cast

from aiohttp import web

from client.gateway.errors import ApiError
from client.gateway.ports import CutOffError, Piece
from trust.errors import BlindhostError
from trust.serving import Finish

LOG: Final = logging.getLogger("blindhost.gateway")
PING_SECONDS: Final = 5.0  # clients wait 600 s for a byte, their proxies often 60
PING: Final = b": ping\n\n"
GONE_SECONDS: Final = 0.2  # how late a client's leaving is noticed
WRITE_SECONDS_MAX: Final = 60  # a client that reads nothing for so long is gone
CLOSE_SECONDS_MAX: Final = 5  # for the last event to be read, before the connection is torn down


class GoneError(BlindhostError):
    """The client left before its answer was there."""


class Writer(Protocol):
    """One reply in one shape."""

    def whole(self, text: str, finish: Finish) -> Mapping[str, object]:
        """All of it as one object."""
        ...

    def begin(self) -> Sequence[bytes]:
        """Events before the first text."""
        ...

    def more(self, text: str) -> Sequence[bytes]:
        """Events for some text, which is not empty."""
        ...

    def end(self, finish: Finish) -> Sequence[bytes]:
        """Events after the last text."""
        ...

    def broken(self, error: ApiError) -> bytes:
        """The event that says that this reply breaks off here."""
        ...


def event(value: Mapping[str, object], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


async def until_gone(request: web.Request) -> None:
    """Return when the client has closed its connection."""
    # aiohttp tells a handler of it by cancelling, which would cancel the other routes' work too.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_SECONDS)


async def collect(source: AsyncIterator[Piece]) -> tuple[str, Finish]:
    """The whole reply. Raises CutOffError if it ends without its last piece."""
    texts: list[str] = []
    async with contextlib.aclosing(cast(AsyncGenerator[Piece, None], source)) as pieces:
        async for piece in pieces:
            texts.append(piece.text)
            if piece.finish is not None:
                return "".join(texts), piece.finish
    raise CutOffError("the reply ended without its last frame")


class Pieces:
    """A reply piece by piece, for as long as its client is there. Close it, whatever happens."""

    def __init__(self, source: AsyncIterator[Piece], request: web.Request) -> None:
        self._source = source
        self._gone = asyncio.create_task(until_gone(request))
        self._pull: asyncio.Task[Piece] | None = None

    async def next(self, seconds: float) -> Piece | None:
        """The next piece, or None after so many seconds of silence.

        Raises GoneError, CutOffError, and what the port raises.
        """
        if self._pull is None:
            self._pull = asyncio.create_task(self._one())
        await asyncio.wait(
            {self._pull, self._gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if self._gone.done():
            raise GoneError("the client left")
        if not self._pull.done():
            return None
        pull, self._pull = self._pull, None
        return pull.result()

    async def close(self) -> None:
        """Stop; the request is cancelled in the enclave if the reply has not ended."""
        for task in (self._gone, self._pull):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # nobody is left to hear of it
        await cast(AsyncGenerator[Piece, None], self._source).aclose()

    async def _one(self) -> Piece:
        try:
            return await anext(self._source)
        except StopAsyncIteration as error:
            raise CutOffError("the reply ended without its last frame") from error


async def stream(
    request: web.Request,
    source: AsyncIterator[Piece],
    writer: Writer,
    refusal: Callable[[Finish | BlindhostError], ApiError | None],
) -> web.StreamResponse:
    """Answer with events. `refusal` says whether a finish or an error is to be answered as one.

    Raises ApiError or GoneError before the first byte; after it, every end is written here.
    """
    pieces = Pieces(source, request)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    )
    try:
        piece = await _next(pieces, refusal)
        await response.prepare(request)
        try:
            await _write(response, writer.begin())
            while True:
                if piece is None:
                    await _write(response, [PING])
                else:
                    await _write(response, writer.more(piece.text) if piece.text else ())
                    if piece.finish is not None:
                        break
                piece = await _next(pieces, refusal)
            await _write(response, writer.end(piece.finish))
        except ApiError as error:
            await _break_off(request, response, writer.broken(error))
        except (GoneError, ConnectionError, TimeoutError):
            _tear_down(request)
        except asyncio.CancelledError:  # the gateway stops
            _tear_down(request)
            raise
        except Exception as error:  # noqa: BLE001  what nobody foresaw: its text may say anything
            LOG.error("a reply broke off: %s", type(error).__name__)  # noqa: TRY400
            _tear_down(request)
    finally:
        await pieces.close()
    return response


async def _next(
    pieces: Pieces, refusal: Callable[[Finish | BlindhostError], ApiError | None]
) -> Piece | None:
    try:
        piece = await pieces.next(PING_SECONDS)
    except GoneError:
        raise
    except BlindhostError as error:
        raise refusal(error) or error from error
    if piece is not None and piece.finish is not None:
        refused = refusal(piece.finish)
        if refused is not None:
            raise refused
    return piece


async def _write(response: web.StreamResponse, events: Sequence[bytes]) -> None:
    if events:
        async with asyncio.timeout(WRITE_SECONDS_MAX):
            await response.write(b"".join(events))


async def _break_off(request: web.Request, response: web.StreamResponse, last: bytes) -> None:
    """Say so, and close without the chunk that ends a body: two signs, each enough alone."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        await _write(response, [last])
    transport = request.transport
    if transport is not None:
        transport.close()  # what was written is sent; aiohttp writes no more, and ends nothing
        asyncio.get_running_loop().call_later(CLOSE_SECONDS_MAX, transport.abort)


def _tear_down(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
