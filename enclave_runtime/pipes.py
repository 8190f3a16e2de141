"""Frames between the enclave's own processes, over pipes.

A frame is u64be length ‖ u32be length of fields ‖ fields (a JSON object with `kind`) ‖ content.
Frames are at most `FRAME_BYTES_MAX`; a longer or malformed one is an error, never skipped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Final

from trust.errors import SessionError, SizeLimitError

FRAME_BYTES_MAX: Final = 4 << 30  # moments and adapter of r 64 on an 8B model are 2 GiB
READ_BYTES: Final = 1 << 20  # the biggest pipe that Linux gives without privilege


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One message between parent and rank."""

    kind: str
    fields: dict[str, Any]
    content: bytes = b""


def write_frame(descriptor: int, frame: Frame) -> None:
    """Write it whole. Raises OSError where the reader is gone."""
    fields = json.dumps({"kind": frame.kind, **frame.fields}).encode()
    length = 4 + len(fields) + len(frame.content)
    if length > FRAME_BYTES_MAX:
        raise SizeLimitError(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX}")
    write_all(descriptor, length.to_bytes(8, "big") + len(fields).to_bytes(4, "big") + fields)
    write_all(descriptor, frame.content)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, however small the pipe."""
    with memoryview(content) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written : written + READ_BYTES])


def read_exactly(descriptor: int, length: int) -> bytes:
    """Read `length` bytes, waiting for them. Raises EOFError where the writer is gone."""
    parts, missing = [], length
    while missing:
        part = os.read(descriptor, min(missing, READ_BYTES))
        if not part:
            raise EOFError(f"the pipe ended {missing} of {length} bytes early")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class FrameReader:
    """Puts frames together from what a pipe yields."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._pending = bytearray()
        self.ended = False

    def read_waiting(self) -> list[Frame]:
        """Every whole frame that is there, from a non-blocking pipe."""
        while not self.ended:
            try:
                part = os.read(self.descriptor, READ_BYTES)
            except BlockingIOError:
                break
            self.ended = not part
            self._pending += part
        return self._frames()

    def read_some(self) -> list[Frame]:
        """Wait for bytes on a blocking pipe, and return the frames that they complete."""
        part = os.read(self.descriptor, READ_BYTES)
        if not part:
            raise EOFError("the other end of the pipe is gone")
        self._pending += part
        return self._frames()

    def _frames(self) -> list[Frame]:
        frames = []
        while len(self._pending) >= 8:
            length = int.from_bytes(self._pending[:8], "big")
            if not 4 <= length <= FRAME_BYTES_MAX:
                raise SizeLimitError(f"a frame of {length} bytes; wanted 4 to {FRAME_BYTES_MAX}")
            if len(self._pending) < 8 + length:
                break
            frames.append(_parse(bytes(self._pending[8 : 8 + length])))
            del self._pending[: 8 + length]
        return frames


def _parse(body: bytes) -> Frame:
    length = int.from_bytes(body[:4], "big")
    if length > len(body) - 4:
        raise SessionError(f"a frame's fields of {length} bytes are cut off")
    fields = json.loads(body[4 : 4 + length])
    return Frame(kind=fields.pop("kind"), fields=fields, content=body[4 + length :])
