"""Byte pump between the market and one enclave: addressee and id are read, payloads are not.

One exception: a copy of each signed receipt is kept (`witness`), which its host may read anyway.

Rules:
- The relay dials; a connection that breaks is dialled again, at most `DIALS_MAX` times in a row
  without one that carried anything. An enclave that breaks the framing `BREACHES_MAX` times loses
  its relay.
- Outgoing: a frame is posted to the market before the next is read, so a market that is away makes
  the enclave wait, and nothing piles up here. A frame for a box that is full is dropped: a reader
  that does not read keeps nobody else waiting, and an enclave says again what it needs answered.
- Incoming: after each dial everything that is not acknowledged is sent again; the enclave drops ids
  it has seen. At least the newest `UNACKNOWLEDGED_MAX` messages stay in the market's box until the
  lease ends: what lay unread in a broken connection is not lost. Older ones go in batches.
- Blobs: reads are answered from the cache, verified, else from the market, verified. A write is
  answered once the market's store has it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marketplace.wire import BOX_MESSAGES_MAX
from provider_agent import unix_sockets
from provider_agent.cache import BlobCache
from provider_agent.errors import DoorError, MarketError, RejectedError, UnavailableError
from provider_agent.frames import (
    AGENT,
    OBJECT_BYTES_MAX,
    BlobRead,
    BlobStatus,
    BlobWrite,
    Frame,
    blob_answer,
    read_blob_request,
    read_frame,
)
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT
from provider_agent.market_port import MarketPort, Patience
from provider_agent.unix_sockets import Stream
from trust.encoding import digest, labelled_digest

DIALS_MAX: Final = 240  # with the pauses below: the two minutes that an enclave waits
DIAL_SECONDS: Final = 0.5
BREACHES_MAX: Final = 3  # once may be a crash in the middle of a frame
POLL_SECONDS: Final = 10  # a third of what the market lets a ready lease be silent
UNACKNOWLEDGED_MAX: Final = 256  # more than a session has messages in flight
ACKNOWLEDGED_AT_ONCE: Final = 64  # a write of the market's for so many messages, not for each
IDS_REMEMBERED_MAX: Final = 4096  # 64 KiB; the market drops what is repeated later
BLOB_TRIES_MAX: Final = 4  # then the enclave is told to ask again, and keeps its door alive

_log = logging.getLogger("blindhost.relay")

Pump = Callable[[Stream], Awaitable[bool]]
Witness = Callable[[str, Frame], None]
"""Looks at what a lease posted, once the market has it (`earnings.receipts.AccountKeeper`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayTask:
    """What one relay is for."""

    lease: str
    door: Path
    """Folder with the door's two sockets."""
    briefing: bytes
    """An encoded `trust.messages.Briefing`: the agent's one message of its own."""


class Relay:
    """Pumps for one lease until it is cancelled, or the enclave's door is shut for good."""

    def __init__(
        self,
        task: RelayTask,
        *,
        market: MarketPort,
        cache: BlobCache,
        patience: Patience | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._task, self._market, self._cache = task, market, cache
        self._witness = witness
        self._patience = patience or Patience()
        self._blob_patience = Patience(tries_max=BLOB_TRIES_MAX, pause=self._patience.pause)
        self._posted: OrderedDict[bytes, None] = OrderedDict()
        self._ended = False

    async def run(self) -> None:
        """Pump both ports, until the enclave has ended and what it left is carried.

        Raises DoorError if the enclave breaks its door, or does not open it.
        """
        self._cache.begin(self._task.lease)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(MESSAGES_PORT, self._messages))
                group.create_task(self._keep(BLOBS_PORT, self._blobs))
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        finally:
            self._cache.end(self._task.lease)

    def enclave_ended(self) -> None:
        """Dial no more: carry what lies in the connections that are open, and return."""
        self._ended = True

    async def let_go(self) -> None:
        """Acknowledge all that is left in the lease's box: nobody reads it again.

        Raises MarketError.
        """
        for _ in range(BOX_MESSAGES_MAX):
            page = await self._market.read_messages(self._task.lease, 0, 0)
            if not page:
                return
            await self._market.acknowledge(self._task.lease, page[-1].number)

    async def _keep(self, port: str, pump: Pump) -> None:
        """Dial, pump, and dial again. The pump says whether the connection carried anything."""
        dials = breaches = 0
        while dials < DIALS_MAX:
            dials += 1
            try:
                channel = await unix_sockets.dial(self._task.door, port, kind=socket.SOCK_STREAM)
            except OSError:
                if self._ended:
                    return
                await self._patience.pause(DIAL_SECONDS)
                continue
            stream = Stream(channel)
            try:
                if await pump(stream):
                    dials = 0
            except DoorError as error:
                breaches += 1
                _log.warning("breach lease=%s port=%s reason=%s", self._task.lease, port, error)
                if breaches >= BREACHES_MAX and not self._ended:
                    raise
            except (ConnectionError, MarketError) as error:
                _log.info("broken lease=%s port=%s reason=%s", self._task.lease, port, error)
            finally:
                stream.close()
            if self._ended:  # what it had to say has been carried; nobody is there to dial
                return
            await self._patience.pause(DIAL_SECONDS / 10)
        raise DoorError(f"port {port} stayed shut for {DIALS_MAX} dials")

    # --- messages --------------------------------------------------------------------------------

    async def _messages(self, stream: Stream) -> bool:
        """Both directions, until the enclave's end is reached or either breaks."""
        incoming = asyncio.create_task(self._incoming(stream))
        outgoing = asyncio.create_task(self._outgoing_frames(stream))
        both = (incoming, outgoing)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if incoming.done() and isinstance(incoming.exception(), ConnectionError):
                await asyncio.wait((outgoing,))  # who reads no more has spoken before
            if outgoing.done():
                return await outgoing
            await incoming
            return False
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _outgoing_frames(self, stream: Stream) -> bool:
        carried = False
        while (frame := await read_frame(stream)) is not None:
            await self._outgoing(frame)
            carried = True
        return carried

    async def _outgoing(self, frame: Frame) -> None:
        """Post one frame. What the market rejects is dropped: asking again would not help."""
        if frame.peer == AGENT:
            _log.warning("message-to-agent lease=%s id=%s", self._task.lease, frame.id.hex())
            return
        if frame.id in self._posted:
            return
        try:
            await self._patience.ask(
                lambda: self._market.post_message(
                    frame.peer, frame.id, frame.payload, self._task.lease
                )
            )
        except RejectedError as error:
            _log.warning(
                "message-rejected lease=%s box=%s id=%s code=%s",
                *(self._task.lease, frame.peer.hex(), frame.id.hex(), error.code),
            )
            return
        if self._witness is not None:
            self._witness(self._task.lease, frame)
        self._posted[frame.id] = None
        if len(self._posted) > IDS_REMEMBERED_MAX:
            self._posted.popitem(last=False)

    async def _incoming(self, stream: Stream) -> None:
        """Send the briefing, then everything in the lease's box, then what arrives."""
        await stream.sendall(self._briefing().encode())
        after, sent = 0, deque[int]()
        while True:
            page = await self._patience.ask(
                lambda: self._market.read_messages(self._task.lease, after, POLL_SECONDS)  # noqa: B023 - awaited before it changes
            )
            for message in page:
                if message.number <= after:
                    raise UnavailableError("the market's box repeats itself")
                frame = Frame(peer=message.sender, id=message.message, payload=message.payload)
                await stream.sendall(frame.encode())
                after = message.number
                sent.append(after)
            if len(sent) >= UNACKNOWLEDGED_MAX + ACKNOWLEDGED_AT_ONCE:
                while len(sent) > UNACKNOWLEDGED_MAX:
                    through = sent.popleft()
                await self._patience.ask(
                    lambda: self._market.acknowledge(self._task.lease, through)  # noqa: B023 - the same
                )

    def _briefing(self) -> Frame:
        # The id is the lease's, so that a second briefing after a dial is dropped as a repetition.
        name = labelled_digest("door/briefing", self._task.lease.encode())[:16]
        return Frame(peer=AGENT, id=name, payload=self._task.briefing)

    # --- blobs -----------------------------------------------------------------------------------

    async def _blobs(self, stream: Stream) -> bool:
        carried = False
        while (request := await read_blob_request(stream)) is not None:
            match request:
                case BlobRead():
                    answer = await self._read(request)
                case BlobWrite():
                    answer = blob_answer(await self._write(request))
            await stream.sendall(answer)
            carried = True
        return carried

    async def _read(self, request: BlobRead) -> bytes:
        """(1) Cache, verified there. (2) Market; (3) verified here. (4) The part that was asked."""
        content = self._cache.get(request.digest, lease=self._task.lease)  # (1)
        if content is None:
            try:
                content = await self._blob_patience.ask(  # (2)
                    lambda: self._market.get_blob(request.digest)
                )
            except MarketError as error:
                _log.warning("blob-unavailable digest=%s reason=%s", request.digest.hex(), error)
                return blob_answer(BlobStatus.TRY_LATER)
            if content is None:
                return blob_answer(BlobStatus.NOT_FOUND)
            if len(content) > OBJECT_BYTES_MAX or digest(content) != request.digest:  # (3)
                _log.warning("blob-wrong digest=%s", request.digest.hex())
                return blob_answer(BlobStatus.TRY_LATER)
            self._cache.put(request.digest, content, lease=self._task.lease)
        if request.offset > len(content):  # (4)
            return blob_answer(BlobStatus.NOT_FOUND)
        return blob_answer(BlobStatus.OK, content[request.offset : request.offset + request.length])

    async def _write(self, request: BlobWrite) -> BlobStatus:
        if digest(request.content) != request.digest:
            _log.warning("blob-misnamed digest=%s", request.digest.hex())
            return BlobStatus.NOT_FOUND
        try:
            await self._blob_patience.ask(
                lambda: self._market.put_blob(request.digest, request.content)
            )
        except UnavailableError:
            return BlobStatus.TRY_LATER
        except RejectedError as error:
            _log.warning("blob-rejected digest=%s code=%s", request.digest.hex(), error.code)
            return BlobStatus.NOT_FOUND
        self._cache.put(request.digest, request.content, lease=self._task.lease)
        return BlobStatus.OK
