"""The door: two inherited listening sockets, and nothing else, lead out of the enclave.

Rules (wire-objects §7):
- A frame is at most `FRAME_BYTES_MAX` after its length field. It is read whole, or the connection
  ends; a length that no frame can have ends it before a byte of the frame is read.
- The host's agent dials in. A new connection replaces the old one: a restarted agent dials again.
- A message keeps its id. What was not sent, or sent so shortly before a break that nobody can know
  whether it arrived, is sent again on the next connection; whoever keeps a mailbox drops repeated
  ids, and so does the enclave. Both memories are bounded: the session asks again what it needs.
- Blobs are found by SHA-256, at most `BLOB_BYTES_MAX` each. What comes is checked against it here.
- A door that stays shut for `SHUT_MS_MAX` raises `DoorShutError`: the enclave forgets and exits.
- Time comes from a `Clock`, which is monotonic: the host sets the wall clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import time
from collections import OrderedDict, deque
from functools import partial
from typing import Final, NoReturn, Protocol, Self

from trust.encoding import digest
from trust.errors import BlindhostError, SessionError

PEER_BYTES: Final = 32
ID_BYTES: Final = 16
LENGTH_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 1 << 20  # of peer, id and payload: what the market's mailbox takes
FRAME_HEAD_BYTES: Final = PEER_BYTES + ID_BYTES
PAYLOAD_BYTES_MAX: Final = FRAME_BYTES_MAX - FRAME_HEAD_BYTES
BLOB_BYTES_MAX: Final = 1 << 20  # a ciphertext segment, the biggest object there is
AGENT: Final = bytes(PEER_BYTES)  # the peer that is the agent itself

READ_BYTES: Final = 1 << 16
OUTBOX_FRAMES_MAX: Final = 1024  # all open questions of a session, and some progress
OUTBOX_BYTES_MAX: Final = 1 << 25
REPEATED_FRAMES: Final = 64  # more than a socket buffer holds of frames of the usual size
INBOX_FRAMES_MAX: Final = 64  # the agent waits while the enclave is busy
IDS_MAX: Final = 1 << 16  # received ids that are remembered: a day of messages
SHUT_MS_MAX: Final = 120_000  # an agent restarts within seconds; two minutes mean it is gone
BLOB_TRIES_MAX: Final = 64  # with the pauses below, about ten minutes of "try later"
BLOB_PAUSE_SECONDS_MAX: Final = 10.0
BLOB_SECONDS_MAX: Final = 60.0  # one answer of at most 1 MiB over a slow link
BACKLOG: Final = 4


class FrameError(SessionError):
    """Bytes on the message port that are no frame."""


class BlobError(BlindhostError):
    """A blob that the host does not give, or does not store."""


class DoorShutError(BlindhostError):
    """Nobody has dialled in for `SHUT_MS_MAX`."""


class Clock(Protocol):
    """A monotonic clock that starts at 0 when the enclave boots."""

    def now_ms(self) -> int:
        """Milliseconds since boot."""

    async def sleep(self, seconds: float) -> None:
        """Wait so long by this clock."""


class MonotonicClock:
    """The real one."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()

    def now_ms(self) -> int:
        """Milliseconds since this clock was made."""
        return (time.monotonic_ns() - self._start) // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


# --- frames --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One message: to `peer` on its way out, said to be from `peer` on its way in."""

    peer: bytes
    id: bytes
    payload: bytes

    def encode(self) -> bytes:
        """``u32 length ‖ peer 32 ‖ id 16 ‖ payload``. Raises FrameError above the maximum."""
        length = FRAME_HEAD_BYTES + len(self.payload)
        if length > FRAME_BYTES_MAX or len(self.peer) != PEER_BYTES or len(self.id) != ID_BYTES:
            raise FrameError(f"frame of {length} bytes; at most {FRAME_BYTES_MAX}")
        return length.to_bytes(LENGTH_BYTES, "big") + self.peer + self.id + self.payload


class FrameReader:
    """Bytes in, frames out, without I/O."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take the next bytes; return the frames that are whole. Raises FrameError."""
        self._pending += chunk
        frames = []
        while len(self._pending) >= LENGTH_BYTES:
            length = int.from_bytes(self._pending[:LENGTH_BYTES], "big")
            if not FRAME_HEAD_BYTES <= length <= FRAME_BYTES_MAX:
                raise FrameError(
                    f"frame of {length} bytes; wanted {FRAME_HEAD_BYTES} to {FRAME_BYTES_MAX}"
                )
            if len(self._pending) < LENGTH_BYTES + length:
                break
            body = bytes(self._pending[LENGTH_BYTES : LENGTH_BYTES + length])
            del self._pending[: LENGTH_BYTES + length]
            head, payload = body[:FRAME_HEAD_BYTES], body[FRAME_HEAD_BYTES:]
            frames.append(Frame(peer=head[:PEER_BYTES], id=head[PEER_BYTES:], payload=payload))
        return frames


class Seen:
    """Ids that came before; the oldest are forgotten above `IDS_MAX`."""

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._ids

    def add(self, identity: bytes) -> None:
        """Remember an id."""
        self._ids[identity] = None
        if len(self._ids) > IDS_MAX:
            self._ids.popitem(last=False)


class Outbox:
    """Frames on their way out, in order, and the last few that went.

    Above its limits the oldest are dropped: the session repeats what it needs an answer to.
    """

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._first = 0  # sequence number of the oldest frame here
        self._sent = 0  # sequence number of the first frame that was never sent
        self.filled = asyncio.Event()

    def put(self, frame: Frame) -> None:
        """Queue a frame."""
        data = frame.encode()
        self._frames.append(data)
        self._bytes += len(data)
        while len(self._frames) > OUTBOX_FRAMES_MAX or self._bytes > OUTBOX_BYTES_MAX:
            self._drop()
        self.filled.set()

    @property
    def waiting(self) -> int:
        """How many were never sent."""
        return self._first + len(self._frames) - self._sent

    def resume(self) -> int:
        """Where a new connection begins: a little before what was never sent."""
        return max(self._first, self._sent - REPEATED_FRAMES)

    def after(self, cursor: int) -> tuple[int, bytes] | None:
        """The frame at or after `cursor`, with the cursor that follows it; None: nothing waits."""
        cursor = max(cursor, self._first)
        if cursor >= self._first + len(self._frames):
            self.filled.clear()
            return None
        return cursor + 1, self._frames[cursor - self._first]

    def sent(self, cursor: int) -> None:
        """All before `cursor` was written to a connection."""
        self._sent = max(self._sent, cursor)
        while self._first < self._sent - REPEATED_FRAMES:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= len(self._frames.popleft())
        self._first += 1
        self._sent = max(self._sent, self._first)


# --- the door ------------------------------------------------------------------------------------


class Door:
    """Both ports. Run it with ``async with``; `inbox` yields the frames that came."""

    def __init__(self, *, messages: socket.socket, blobs: socket.socket, clock: Clock) -> None:
        self._messages, self._blobs, self._clock = messages, blobs, clock
        self.inbox: asyncio.Queue[Frame] = asyncio.Queue(maxsize=INBOX_FRAMES_MAX)
        self._outbox, self._seen = Outbox(), Seen()
        self._message_connection: socket.socket | None = None
        self._blob_connection: socket.socket | None = None
        self._blob_dialled = asyncio.Event()
        self._blob_turn = asyncio.Lock()
        self._open_ms = clock.now_ms()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        for listener in (self._messages, self._blobs):
            listener.settimeout(0)
            listener.listen(BACKLOG)
        self._tasks = [
            asyncio.create_task(self._accept_messages()),
            asyncio.create_task(self._accept_blobs()),
        ]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close both ports and every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._drop_blob_connection()
        self._messages.close()
        self._blobs.close()

    def send(self, peer: bytes, payload: bytes) -> None:
        """Queue a message to a peer's box, under a fresh id. Raises FrameError above the limit."""
        self._outbox.put(Frame(peer=peer, id=os.urandom(ID_BYTES), payload=payload))

    @property
    def backlog(self) -> int:
        """Messages that no connection has taken."""
        return self._outbox.waiting

    async def watch(self) -> NoReturn:
        """Raise DoorShutError once the door was shut for `SHUT_MS_MAX`."""
        while True:
            now = self._clock.now_ms()
            if self._message_connection is not None and self._blob_connection is not None:
                self._open_ms = now
            if now - self._open_ms >= SHUT_MS_MAX:
                raise DoorShutError(f"the door was shut for {now - self._open_ms} ms")
            await self._clock.sleep(1.0)

    async def flushed(self) -> None:
        """Wait until everything queued was written to a connection."""
        while self._outbox.waiting:
            await self._clock.sleep(0.01)

    # --- messages --------------------------------------------------------------------------------

    async def _accept_messages(self) -> None:
        loop = asyncio.get_running_loop()
        pump: asyncio.Task[None] | None = None
        try:
            while True:
                connection, _address = await loop.sock_accept(self._messages)
                try:
                    if pump is not None:
                        await _cancelled(pump)
                except asyncio.CancelledError:
                    connection.close()
                    raise
                pump = asyncio.create_task(self._pump(connection))
                # Also where it is cancelled before its first step, or twice.
                pump.add_done_callback(partial(_hang_up, connection))
        finally:
            if pump is not None:
                await _cancelled(pump)

    async def _pump(self, connection: socket.socket) -> None:
        """Serve one connection until it breaks, or another one replaces it."""
        connection.settimeout(0)
        self._message_connection = connection
        ends = [
            asyncio.create_task(self._read(connection)),
            asyncio.create_task(self._write(connection)),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._message_connection = None
            for end in ends:
                end.cancel()
            await asyncio.wait(ends)

    async def _read(self, connection: socket.socket) -> None:
        """Returns when the connection broke or said something that is no frame."""
        loop, reader = asyncio.get_running_loop(), FrameReader()
        with contextlib.suppress(OSError, FrameError):
            while chunk := await loop.sock_recv(connection, READ_BYTES):
                for frame in reader.feed(chunk):
                    if frame.id not in self._seen:
                        await self.inbox.put(frame)
                        # Only now: a break while waiting leaves the id for the agent to repeat.
                        self._seen.add(frame.id)

    async def _write(self, connection: socket.socket) -> None:
        loop, cursor = asyncio.get_running_loop(), self._outbox.resume()
        with contextlib.suppress(OSError):
            while True:
                found = self._outbox.after(cursor)
                if found is None:
                    await self._outbox.filled.wait()
                    continue
                await loop.sock_sendall(connection, found[1])
                cursor = found[0]
                self._outbox.sent(cursor)

    # --- blobs -----------------------------------------------------------------------------------

    async def read_blob(self, sha256: bytes, length: int) -> bytes:
        """A whole blob of at most `length` bytes, checked against its digest. Raises BlobError."""
        if not 0 < length <= BLOB_BYTES_MAX:
            raise BlobError(f"blob {sha256.hex()} of {length} bytes; at most {BLOB_BYTES_MAX}")
        request = b"\x01" + sha256 + bytes(4) + length.to_bytes(4, "big")
        content = await self._ask(request, length, f"blob {sha256.hex()}")
        if digest(content) != sha256:
            raise BlobError(f"the host gave another blob than {sha256.hex()}")
        return content

    async def write_blob(self, content: bytes) -> bytes:
        """Store a blob: returns its digest once the market's store has it. Raises BlobError."""
        if len(content) > BLOB_BYTES_MAX:
            raise BlobError(f"a blob of {len(content)} bytes; at most {BLOB_BYTES_MAX}")
        sha256 = digest(content)
        request = b"\x02" + sha256 + len(content).to_bytes(4, "big") + content
        await self._ask(request, 0, f"to store blob {sha256.hex()}")
        return sha256

    async def _ask(self, request: bytes, answer_max: int, what: str) -> bytes:
        """Ask in turn; a break or a "try later" is tried again, `BLOB_TRIES_MAX` times."""
        pause = 0.1
        for _try in range(BLOB_TRIES_MAX):
            await self._blob_dialled.wait()  # outside the turn, which a new connection takes
            async with self._blob_turn:
                try:
                    async with asyncio.timeout(BLOB_SECONDS_MAX):
                        status, content = await self._exchange(request, answer_max)
                except (OSError, FrameError, TimeoutError):
                    self._drop_blob_connection()
                    continue
            if status == 0:
                return content
            if status == 1:
                raise BlobError(f"{what}: the host says that it is not found")
            await self._clock.sleep(pause)
            pause = min(2 * pause, BLOB_PAUSE_SECONDS_MAX)
        raise BlobError(f"{what}: no answer after {BLOB_TRIES_MAX} tries")

    async def _exchange(self, request: bytes, answer_max: int) -> tuple[int, bytes]:
        """One request, one answer: ``status u8 ‖ u32 length ‖ bytes``."""
        connection, loop = self._blob_connection, asyncio.get_running_loop()
        if connection is None:
            raise FrameError("the blob port was replaced")
        await loop.sock_sendall(connection, request)
        head = await _receive_exactly(connection, 1 + LENGTH_BYTES)
        status, length = head[0], int.from_bytes(head[1:], "big")
        if status > 2 or length > answer_max or (status and length):
            raise FrameError(f"answer of status {status} and {length} bytes; at most {answer_max}")
        return status, await _receive_exactly(connection, length)

    async def _accept_blobs(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _address = await loop.sock_accept(self._blobs)
            connection.settimeout(0)
            old = self._blob_connection
            if old is not None:
                # The exchange under way sees the end of its connection, closes it, and asks again.
                with contextlib.suppress(OSError):
                    old.shutdown(socket.SHUT_RDWR)
            async with self._blob_turn:
                self._drop_blob_connection()
                self._blob_connection = connection
                self._blob_dialled.set()

    def _drop_blob_connection(self) -> None:
        if self._blob_connection is not None:
            self._blob_connection.close()
        self._blob_connection = None
        self._blob_dialled.clear()


def _hang_up(connection: socket.socket, _pump: asyncio.Task[None]) -> None:
    connection.close()


async def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    loop, received = asyncio.get_running_loop(), bytearray()
    while len(received) < length:
        chunk = await loop.sock_recv(connection, min(READ_BYTES, length - len(received)))
        if not chunk:
            raise FrameError("the connection ended within an answer")
        received += chunk
    return bytes(received)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
