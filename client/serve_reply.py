"""The way back of one sealed request: frames in, authentic pieces out.

Each frame is opened when it comes, so that what waits for its reader is authentic, and as short as
the reply. A frame that does not fit ends the reply by an error: there is no second try at one.
"""

from __future__ import annotations

import asyncio

from client.gateway.ports import CutOffError, Piece
from client.serve_session import Session
from trust.errors import BlindhostError
from trust.messages import ServeFrame
from trust.serving import ReplyOpener, RequestHeader


class Reply:
    """The way back of one request."""

    def __init__(self, header: RequestHeader, session: Session, exchange: bytes) -> None:
        self.session, self.exchange = session, exchange
        self._opener = ReplyOpener(header)
        self._arrived: asyncio.Queue[Piece | CutOffError | None] = asyncio.Queue()
        self._heard = False

    @property
    def ended(self) -> bool:
        """Its authenticated last frame came."""
        return self._opener.finished

    def take(self, frame: ServeFrame) -> bool:
        """Open one frame; False: none after it is wanted."""
        self._heard = True
        try:
            opened = self._opener.open(frame.number, frame.chunk)
        except BlindhostError as error:
            self._arrived.put_nowait(CutOffError(f"the reply was cut off: {error}"))
            return False
        self._arrived.put_nowait(Piece(text=opened.text, finish=opened.finish))
        return opened.finish is None

    def refuse(self) -> bool:
        """Take a hint that the request did not open, unless the reply has begun."""
        if not self._heard:
            self._arrived.put_nowait(None)
        return not self._heard

    async def next(self, silence_seconds: float) -> Piece | None:
        """What came; None: the request may not have opened. Raises CutOffError."""
        try:
            arrived = await asyncio.wait_for(self._arrived.get(), silence_seconds)
        except TimeoutError:
            text = f"nothing heard of the reply for {silence_seconds:g} s"
            raise CutOffError(text) from None
        if isinstance(arrived, CutOffError):
            raise arrived
        return arrived
