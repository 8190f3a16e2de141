"""What a client and an enclave say to each other passes the real market and the real relay.

A client key is an identity that never registered anywhere: it has a box because it has a key.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlmodel import col, select

from marketplace import mailbox
from marketplace.mailbox import HOUR_MILLISECONDS
from marketplace.models_exchange import Message
from marketplace.sweep import drop_old
from marketplace.wire import REPLAY_HOURS, ErrorCode
from provider_agent.cache import BlobCache
from provider_agent.errors import RejectedError
from provider_agent.frames import Frame
from provider_agent.relay import POLL_SECONDS, Relay, RelayTask
from tests.marketplace.api.rig import Enclave, Rig, key16, refused, serve_rig
from tests.marketplace.world import HOST, key
from tests.provider_agent.test_market_client import market
from tests.provider_agent.test_relay import BRIEFING, Connection, Door
from trust.encoding import base64url
from trust.messages import lease_address

CLIENT, OTHER_CLIENT = key(40), key(41)
SOON_SECONDS = 2.0  # generous for a busy machine, and far below the relay's poll


class Line:
    """A metered lease, its relay, and the enclave's end of the door."""

    def __init__(self, rig: Rig, enclave: Enclave, door: Connection) -> None:
        self.rig, self.enclave, self.door = rig, enclave, door

    async def frame_of(self, peer: bytes) -> Frame:
        """The next frame by whom the door says; the market's own come before it."""
        while (frame := await self.door.frame()).peer != peer:
            pass
        return frame

    async def send(self, peer: bytes, payload: bytes) -> None:
        await self.door.send(Frame(peer=peer, id=key16(), payload=payload).encode())


@pytest_asyncio.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    (tmp_path / "market").mkdir()
    async with serve_rig(tmp_path / "market") as rig:
        enclave = await rig.running()
        door = Door(tmp_path / "door")
        relay = Relay(
            RelayTask(lease=enclave.lease, door=door.folder, briefing=BRIEFING),
            market=market(rig),
            cache=BlobCache(tmp_path / "cache", bytes_max=1 << 20),
        )
        task = asyncio.create_task(relay.run())
        connection = await door.accept(door.messages)
        assert (await connection.frame()).payload == BRIEFING
        yield Line(rig, enclave, connection)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        door.close()


async def test_a_client_key_and_an_enclave_speak_through_boxes_that_nobody_registered(
    line: Line,
) -> None:
    api = line.rig.api(CLIENT)
    await api.post_message(line.enclave.address, b"sealed request", message=key16())
    frame = await line.frame_of(CLIENT.identity)
    assert frame.payload == b"sealed request"
    await line.send(CLIENT.identity, b"sealed frame")
    (found,) = await api.get_messages(CLIENT.identity, after=0, wait_seconds=20)
    assert found.sender == lease_address(line.enclave.lease)
    assert found.payload == b"sealed frame"
    await refused(
        ErrorCode.FORBIDDEN, line.rig.api(OTHER_CLIENT).get_messages(CLIENT.identity, after=0)
    )
    await api.acknowledge(CLIENT.identity, through=found.number)
    assert await api.get_messages(CLIENT.identity, after=0) == ()


async def test_a_request_reaches_the_door_at_once_while_the_agent_waits_for_one(
    line: Line,
) -> None:
    api = line.rig.api(CLIENT)
    for number in range(5):
        await line.rig.until_waited_at(line.enclave.address)
        asked = time.monotonic()
        await api.post_message(line.enclave.address, b"%d" % number, message=key16())
        frame = await line.frame_of(CLIENT.identity)
        assert frame.payload == b"%d" % number
        assert time.monotonic() - asked < SOON_SECONDS < POLL_SECONDS / 2


async def test_a_frame_reaches_a_client_that_waits_at_once(line: Line) -> None:
    api = line.rig.api(CLIENT)
    waiting = asyncio.create_task(api.get_messages(CLIENT.identity, after=0, wait_seconds=20))
    await line.rig.until_waited_at(CLIENT.identity)
    sent = time.monotonic()
    await line.send(CLIENT.identity, b"tick")
    (found,) = await waiting
    assert found.payload == b"tick"
    assert time.monotonic() - sent < SOON_SECONDS


async def test_a_stream_of_frames_arrives_whole_and_in_order(line: Line) -> None:
    api = line.rig.api(CLIENT)
    total = 150
    found: list[bytes] = []

    async def listen() -> None:
        after = 0
        while len(found) < total:
            page = await api.get_messages(CLIENT.identity, after=after, wait_seconds=20)
            found.extend(each.payload for each in page)
            after = page[-1].number
            await api.acknowledge(CLIENT.identity, through=after)

    async def speak() -> None:
        for number in range(total):
            await line.send(CLIENT.identity, b"%d" % number)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(listen())
        group.create_task(speak())
    assert found == [b"%d" % number for number in range(total)]


async def test_a_client_that_reads_nothing_keeps_no_other_waiting(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """▸ A box that is full is its reader's loss: the enclave's other messages go on."""
    monkeypatch.setattr(mailbox, "BOX_MESSAGES_MAX", 3)
    for number in range(10):
        await line.send(OTHER_CLIENT.identity, b"%d" % number)
    await line.send(CLIENT.identity, b"for one who reads")
    api = line.rig.api(CLIENT)
    (found,) = await asyncio.wait_for(
        api.get_messages(CLIENT.identity, after=0, wait_seconds=20), 20
    )
    assert found.payload == b"for one who reads"
    kept = await line.rig.api(OTHER_CLIENT).get_messages(OTHER_CLIENT.identity, after=0)
    assert [each.payload for each in kept] == [b"0", b"1", b"2"]


async def test_a_message_for_a_full_box_is_rejected_and_a_full_store_is_not(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "BOX_MESSAGES_MAX", 0)
    with pytest.raises(RejectedError, match="full"):
        await market(line.rig).post_message(CLIENT.identity, key16(), b"x", line.enclave.lease)


async def test_a_day_of_serving_leaves_an_hour_of_ids(line: Line) -> None:
    """What was read goes after an hour, whatever came after it; what was not stays its day."""
    rig, api = line.rig, line.rig.api(CLIENT)
    sender = rig.api(HOST)
    messages = [key16() for _ in range(3)]
    for message in messages:
        await sender.post_message(CLIENT.identity, b"frame", message=message)
    await api.acknowledge(CLIENT.identity, through=2)

    async def rows() -> int:
        def count(session):
            box = base64url(CLIENT.identity)
            return len(session.exec(select(Message).where(col(Message.box) == box)).all())

        return await rig.read(count)

    rig.time[0] += REPLAY_HOURS * HOUR_MILLISECONDS
    await rig.write(lambda session: drop_old(session, rig.time[0]))
    assert await rows() == 3
    assert await sender.post_message(CLIENT.identity, b"frame", message=messages[0]) == "exists"
    rig.time[0] += 1
    await rig.write(lambda session: drop_old(session, rig.time[0]))
    assert await rows() == 1
    (unread,) = await api.get_messages(CLIENT.identity, after=0)
    assert unread.number == 3
    await api.acknowledge(CLIENT.identity, through=3)
    await rig.write(lambda session: drop_old(session, rig.time[0]))
    assert await rows() == 0
    await sender.post_message(CLIENT.identity, b"next", message=key16())
    (found,) = await api.get_messages(CLIENT.identity, after=3)
    assert found.number == 4  # numbers are never given twice
