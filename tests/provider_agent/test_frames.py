"""Whatever bytes an enclave sends, the agent reads whole frames or ends the connection."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.errors import DoorError
from provider_agent.frames import (
    FRAME_BYTES_MAX,
    BlobRead,
    BlobWrite,
    Frame,
    read_blob_request,
    read_frame,
)


class Bytes:
    """A stream that ends."""

    def __init__(self, content: bytes) -> None:
        self.left = content

    async def readexactly(self, length: int) -> bytes:
        if len(self.left) < length:
            raise asyncio.IncompleteReadError(self.left, length)
        taken, self.left = self.left[:length], self.left[length:]
        return taken


def read_all(content: bytes, read: Callable[..., Awaitable[object]]) -> list[object]:
    async def run() -> list[object]:
        stream, found = Bytes(content), []
        while (item := await read(stream)) is not None:
            found.append(item)
        assert stream.left == b""
        return found

    return asyncio.run(run())


frames = st.builds(
    Frame,
    peer=st.binary(min_size=32, max_size=32),
    id=st.binary(min_size=16, max_size=16),
    payload=st.binary(min_size=1, max_size=300),
)


@given(st.lists(frames, max_size=5))
def test_frames_come_out_as_they_went_in(sent: list[Frame]) -> None:
    assert read_all(b"".join(each.encode() for each in sent), read_frame) == sent


@given(st.lists(frames, min_size=1, max_size=3), st.integers(1, 400))
def test_a_stream_that_is_cut_anywhere_is_an_error_and_never_a_shorter_frame(
    sent: list[Frame], cut: int
) -> None:
    whole = b"".join(each.encode() for each in sent)
    content = whole[: max(0, len(whole) - cut)]
    ends = {0}
    for each in sent:
        ends.add(max(ends) + len(each.encode()))
    if len(content) in ends:
        found = read_all(content, read_frame)
        assert found == sent[: len(found)]
    else:
        with pytest.raises(DoorError, match="cut off"):
            read_all(content, read_frame)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_frames_or_one_error(content: bytes) -> None:
    try:
        found = read_all(content, read_frame)
    except DoorError:
        return
    assert b"".join(each.encode() for each in found) == content


@given(st.binary(max_size=400))
def test_arbitrary_bytes_at_the_blob_port_are_requests_or_one_error(content: bytes) -> None:
    try:
        found = read_all(content, read_blob_request)
    except DoorError:
        return
    again = b""
    for each in found:
        if isinstance(each, BlobRead):
            span = each.offset.to_bytes(4, "big") + each.length.to_bytes(4, "big")
            again += b"\x01" + each.digest + span
        else:
            assert isinstance(each, BlobWrite)
            again += b"\x02" + each.digest + len(each.content).to_bytes(4, "big") + each.content
    assert again == content


@pytest.mark.parametrize(
    "frame",
    [
        Frame(peer=bytes(31), id=bytes(16), payload=b"x"),
        Frame(peer=bytes(32), id=bytes(17), payload=b"x"),
        Frame(peer=bytes(32), id=bytes(16), payload=b""),
        Frame(peer=bytes(32), id=bytes(16), payload=bytes(FRAME_BYTES_MAX - 47)),
    ],
)
def test_a_frame_that_nobody_would_read_is_not_written(frame: Frame) -> None:
    with pytest.raises(DoorError, match="frame"):
        frame.encode()
