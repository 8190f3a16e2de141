"""The door's framing on the agent's side (wire-objects §7): headers are read, payloads are not.

- message port, both ways: u32be length ‖ peer 32 ‖ id 16 ‖ payload; length counts what follows it.
- blob port: ``0x01 ‖ digest 32 ‖ offset u32 ‖ length u32`` reads, ``0x02 ‖ digest 32 ‖ u32 length ‖
  bytes`` writes; the answer is ``status u8 ‖ u32 length ‖ bytes``.
- A frame is read whole or not at all: a length out of bounds or a cut ends the connection.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Final

from provider_agent.errors import DoorError
from provider_agent.unix_sockets import Stream

PEER_BYTES: Final = 32
ID_BYTES: Final = 16
FRAME_BYTES_MAX: Final = 1 << 20
FRAME_BYTES_MIN: Final = PEER_BYTES + ID_BYTES + 1
OBJECT_BYTES_MAX: Final = 1 << 20  # a ciphertext segment, the market's BLOB_BYTES_MAX
AGENT: Final = bytes(PEER_BYTES)
"""The peer that stands for the agent itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One message on its way. `peer` is the addressee going out, the sender coming in."""

    peer: bytes
    id: bytes
    payload: bytes

    def encode(self) -> bytes:
        """As it stands on the wire. Raises DoorError where it is too long."""
        body = self.peer + self.id + self.payload
        if len(self.peer) != PEER_BYTES or len(self.id) != ID_BYTES:
            raise DoorError(f"frame with peer {len(self.peer)} and id {len(self.id)} bytes long")
        if not FRAME_BYTES_MIN <= len(body) <= FRAME_BYTES_MAX:
            raise DoorError(f"frame of {len(body)} bytes; {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}")
        return len(body).to_bytes(4, "big") + body


class BlobStatus(enum.IntEnum):
    """How a request at the blob port ended."""

    OK = 0
    NOT_FOUND = 1
    TRY_LATER = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRead:
    """Bytes [offset, offset + length) of an object, or fewer where it ends before."""

    digest: bytes
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobWrite:
    """An object for the market's store."""

    digest: bytes
    content: bytes


async def read_frame(reader: Stream) -> Frame | None:
    """The next message; None at the end between frames. Raises DoorError."""
    head = await _head(reader, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if not FRAME_BYTES_MIN <= length <= FRAME_BYTES_MAX:
        raise DoorError(f"frame of {length} bytes; {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}")
    body = await _exactly(reader, length)
    return Frame(peer=body[:32], id=body[32:48], payload=body[48:])


async def read_blob_request(reader: Stream) -> BlobRead | BlobWrite | None:
    """The next request at the blob port; None at the end between two. Raises DoorError."""
    kind = await _head(reader, 1)
    if kind is None:
        return None
    if kind not in (b"\x01", b"\x02"):
        raise DoorError(f"blob request of kind {kind[0]}; wanted 1 or 2")
    digest = await _exactly(reader, 32)
    first = int.from_bytes(await _exactly(reader, 4), "big")
    length = int.from_bytes(await _exactly(reader, 4), "big") if kind == b"\x01" else first
    if length > OBJECT_BYTES_MAX:
        raise DoorError(f"blob request of {length} bytes; at most {OBJECT_BYTES_MAX}")
    if kind == b"\x01":
        return BlobRead(digest=digest, offset=first, length=length)
    return BlobWrite(digest=digest, content=await _exactly(reader, length))


def blob_answer(status: BlobStatus, content: bytes = b"") -> bytes:
    """An answer at the blob port."""
    return bytes([status]) + len(content).to_bytes(4, "big") + content


async def _head(reader: Stream, length: int) -> bytes | None:
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise DoorError(f"cut off after {len(error.partial)} bytes of a head") from error
        return None


async def _exactly(reader: Stream, length: int) -> bytes:
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise DoorError(f"cut off after {len(error.partial)} of {length} bytes") from error
