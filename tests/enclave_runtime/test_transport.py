"""The door: frames whole or not at all, connections that come and go, blobs by digest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.transport import (
    BLOB_TRIES_MAX,
    FRAME_BYTES_MAX,
    IDS_MAX,
    OUTBOX_BYTES_MAX,
    OUTBOX_FRAMES_MAX,
    PAYLOAD_BYTES_MAX,
    REPEATED_FRAMES,
    SHUT_MS_MAX,
    BlobError,
    Door,
    DoorShutError,
    Frame,
    FrameError,
    FrameReader,
    Outbox,
    Seen,
)
from tests.enclave_runtime.fakes import FakeAgent, ManualClock, listener, settle
from trust.encoding import digest

PEER = b"p" * 32


def frame(payload: bytes = b"x", *, identity: bytes | None = None) -> Frame:
    return Frame(peer=PEER, id=identity or os.urandom(16), payload=payload)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def door(clock: ManualClock) -> AsyncIterator[Door]:
    name = "blindhost-test-" + os.urandom(8).hex()
    async with Door(
        messages=listener(name + "-messages"), blobs=listener(name + "-blobs"), clock=clock
    ) as opened:
        opened.name = name
        yield opened


@pytest.fixture
async def agent(door: Door) -> AsyncIterator[FakeAgent]:
    dialling = FakeAgent(door.name, {})
    await dialling.dial()
    yield dialling
    await dialling.hang_up()


async def carried(agent: FakeAgent, count: int) -> list[bytes]:
    for _turn in range(5000):
        if len(agent.carried) >= count:
            break
        await asyncio.sleep(0)
    return [f.payload for f in agent.carried]


# --- frames --------------------------------------------------------------------------------------


@given(payloads=st.lists(st.binary(max_size=50), max_size=6), cuts=st.lists(st.integers(1, 60)))
def test_frames_arrive_whole_however_they_are_cut(payloads: list, cuts: list) -> None:
    sent = [frame(p, identity=bytes([i] * 16)) for i, p in enumerate(payloads)]
    stream, reader, found = b"".join(f.encode() for f in sent), FrameReader(), []
    for cut in [*cuts, len(stream)]:
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert found == sent


@given(noise=st.binary(max_size=300))
def test_noise_is_frames_or_an_error(noise: bytes) -> None:
    try:
        frames = FrameReader().feed(noise)
    except FrameError:
        return
    assert all(48 + len(f.payload) <= FRAME_BYTES_MAX for f in frames)


@pytest.mark.parametrize("length", [0, 47, FRAME_BYTES_MAX + 1, (1 << 32) - 1])
def test_a_length_that_no_frame_has_is_refused_before_the_frame(length: int) -> None:
    with pytest.raises(FrameError, match="wanted 48 to"):
        FrameReader().feed(length.to_bytes(4, "big"))


def test_the_longest_frame_passes_and_a_longer_one_is_not_sent() -> None:
    longest = frame(bytes(PAYLOAD_BYTES_MAX))
    assert FrameReader().feed(longest.encode()) == [longest]
    with pytest.raises(FrameError, match="at most"):
        frame(bytes(PAYLOAD_BYTES_MAX + 1)).encode()


def test_remembered_ids_are_bounded() -> None:
    seen = Seen()
    for number in range(IDS_MAX + 1):
        seen.add(number.to_bytes(16, "big"))
    assert bytes(16) not in seen
    assert (1).to_bytes(16, "big") in seen


async def test_the_outbox_is_bounded_and_drops_the_oldest() -> None:
    outbox = Outbox()
    for number in range(OUTBOX_FRAMES_MAX + 10):
        outbox.put(frame(number.to_bytes(4, "big")))
    first = outbox.after(outbox.resume())[1]
    assert int.from_bytes(first[-4:], "big") == 10
    big = Outbox()
    for _frame in range(40):
        big.put(frame(bytes(PAYLOAD_BYTES_MAX)))
    assert big._bytes <= OUTBOX_BYTES_MAX


async def test_the_outbox_keeps_a_few_sent_frames_and_no_more() -> None:
    outbox = Outbox()
    for number in range(200):
        outbox.put(frame(number.to_bytes(4, "big")))
        outbox.sent(number + 1)
    assert len(outbox._frames) == REPEATED_FRAMES
    assert not outbox.waiting


# --- the message port ----------------------------------------------------------------------------


async def test_messages_pass_in_both_directions(door: Door, agent: FakeAgent) -> None:
    door.send(PEER, b"out")
    assert await carried(agent, 1) == [b"out"]
    agent.say(PEER, b"in")
    got = await door.inbox.get()
    assert (got.peer, got.payload) == (PEER, b"in")


async def test_a_repeated_id_is_dropped(door: Door, agent: FakeAgent) -> None:
    agent.say(PEER, b"one", identity=b"i" * 16)
    agent.say(PEER, b"again", identity=b"i" * 16)
    agent.say(PEER, b"two")
    assert (await door.inbox.get()).payload == b"one"
    assert (await door.inbox.get()).payload == b"two"


async def test_a_repeated_id_is_dropped_on_the_next_connection_too(
    door: Door, agent: FakeAgent
) -> None:
    agent.say(PEER, b"one", identity=b"i" * 16)
    assert (await door.inbox.get()).payload == b"one"
    await agent.hang_up()
    await agent.dial()
    agent.say(PEER, b"again", identity=b"i" * 16)
    agent.say(PEER, b"two")
    assert (await door.inbox.get()).payload == b"two"


async def test_messages_wait_for_a_connection(door: Door) -> None:
    for number in range(5):
        door.send(PEER, bytes([number]))
    agent = FakeAgent(door.name, {})
    await agent.dial()
    assert await carried(agent, 5) == [bytes([n]) for n in range(5)]
    await agent.hang_up()


async def test_after_a_break_messages_come_again_with_their_ids_and_nothing_is_lost(
    door: Door, agent: FakeAgent
) -> None:
    door.send(PEER, b"before")
    await carried(agent, 1)
    await agent.hang_up()
    await settle()
    door.send(PEER, b"between")
    again = FakeAgent(door.name, {})
    await again.dial()
    assert await carried(again, 2) == [b"before", b"between"]
    assert again.carried[0].id == agent.carried[0].id
    await again.hang_up()


async def test_a_new_connection_replaces_the_old_one(door: Door, agent: FakeAgent) -> None:
    second = FakeAgent(door.name, {})
    await second.dial()
    await settle()
    door.send(PEER, b"for the newest")
    assert await carried(second, 1) == [b"for the newest"]
    assert agent.carried == []
    await second.hang_up()


async def test_an_oversized_frame_ends_the_connection_and_the_next_one_works(
    door: Door, agent: FakeAgent
) -> None:
    agent._writer.write((FRAME_BYTES_MAX + 1).to_bytes(4, "big") + bytes(100))
    agent.say(PEER, b"behind it")
    await settle(100)
    assert door.inbox.empty()
    await agent.hang_up()
    await agent.dial()
    agent.say(PEER, b"well formed")
    assert (await door.inbox.get()).payload == b"well formed"


# --- the blob port -------------------------------------------------------------------------------


async def test_blobs_are_read_and_written_by_digest(door: Door, agent: FakeAgent) -> None:
    name = await door.write_blob(b"ciphertext")
    assert agent.blobs == {name: b"ciphertext"}
    assert await door.read_blob(name, 10) == b"ciphertext"


async def test_another_blob_than_asked_for_is_refused(door: Door, agent: FakeAgent) -> None:
    agent.blobs[digest(b"right")] = b"wrong"
    with pytest.raises(BlobError, match="another blob"):
        await door.read_blob(digest(b"right"), 5)


async def test_a_missing_blob_is_an_error(door: Door, agent: FakeAgent) -> None:
    with pytest.raises(BlobError, match="not found"):
        await door.read_blob(bytes(32), 5)


async def test_a_longer_answer_than_asked_for_is_not_taken(
    door: Door, clock: ManualClock, agent: FakeAgent
) -> None:
    agent.distort = lambda _answer: b"\x00" + (1 << 30).to_bytes(4, "big")
    reading = asyncio.create_task(door.read_blob(bytes(32), 5))
    await settle(200)
    assert not reading.done()
    assert door._blob_connection is None  # hung up on it
    reading.cancel()
    await asyncio.wait((reading,))


async def test_try_later_is_tried_later_and_not_for_ever(
    door: Door, clock: ManualClock, agent: FakeAgent
) -> None:
    agent.blobs[digest(b"late")] = b"late"
    agent.later = 2
    reading = asyncio.create_task(door.read_blob(digest(b"late"), 4))
    for _turn in range(4):
        await settle(50)
        await clock.advance(1000)
    assert await reading == b"late"
    agent.later = BLOB_TRIES_MAX + 1
    reading = asyncio.create_task(door.read_blob(digest(b"late"), 4))
    for _turn in range(BLOB_TRIES_MAX + 8):
        await settle(50)
        await clock.advance(10_000)
    with pytest.raises(BlobError, match="no answer"):
        await reading


async def test_a_break_in_the_middle_of_an_answer_is_asked_again(
    door: Door, agent: FakeAgent
) -> None:
    agent.blobs[digest(b"content")] = b"content"
    agent.distort = lambda answer: answer[:8]
    reading = asyncio.create_task(door.read_blob(digest(b"content"), 7))
    await settle(50)
    agent.distort = lambda answer: answer
    await agent.hang_up()
    await agent.dial()
    assert await reading == b"content"


async def test_a_replaced_blob_connection_is_asked_again(door: Door, agent: FakeAgent) -> None:
    content = b"content"
    agent.distort = lambda _answer: b""
    reading = asyncio.create_task(door.read_blob(digest(content), len(content)))
    await settle(50)
    second = FakeAgent(door.name, {digest(content): content})
    await second.dial()
    assert await reading == content
    await second.hang_up()


async def test_blobs_above_the_limit_are_refused_here(door: Door) -> None:
    with pytest.raises(BlobError, match="at most"):
        await door.read_blob(bytes(32), (1 << 20) + 1)
    with pytest.raises(BlobError, match="at most"):
        await door.write_blob(bytes((1 << 20) + 1))


# --- shut ----------------------------------------------------------------------------------------


async def test_a_door_that_nobody_dials_is_shut_after_two_minutes(
    door: Door, clock: ManualClock
) -> None:
    watching = asyncio.create_task(door.watch())
    await clock.advance(SHUT_MS_MAX - 1000)
    assert not watching.done()
    await clock.advance(1000)
    with pytest.raises(DoorShutError, match="120000 ms"):
        await watching


async def test_an_open_door_is_not_shut_and_time_counts_from_the_break(
    door: Door, clock: ManualClock, agent: FakeAgent
) -> None:
    watching = asyncio.create_task(door.watch())
    await settle()
    await clock.advance(10 * SHUT_MS_MAX)
    assert not watching.done()
    await agent.hang_up()
    await settle()
    await clock.advance(SHUT_MS_MAX // 2)
    assert not watching.done()
    await agent.dial()
    await settle()
    await clock.advance(SHUT_MS_MAX)
    assert not watching.done()
    await agent.hang_up()
    await settle()
    await clock.advance(SHUT_MS_MAX + 1000)
    with pytest.raises(DoorShutError):
        await watching
