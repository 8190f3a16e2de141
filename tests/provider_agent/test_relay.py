"""The relay carries each frame once, reads receipts alone, and believes a blob by its digest."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider_agent import relay as relay_module
from provider_agent import unix_sockets
from provider_agent.cache import BlobCache
from provider_agent.errors import DoorError, RejectedError
from provider_agent.frames import (
    AGENT,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MIN,
    OBJECT_BYTES_MAX,
    BlobStatus,
    Frame,
)
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT
from provider_agent.relay import ACKNOWLEDGED_AT_ONCE, UNACKNOWLEDGED_MAX, Relay, RelayTask
from tests.provider_agent.fakes import PATIENCE, FakeMarket, lease
from trust.encoding import digest
from trust.messages import lease_address

CUSTODIAN = b"\xcc" * 32
BRIEFING = b"the briefing"


class Door:
    """The enclave's side: two listening sockets, and whoever dials them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        stream = socket.SOCK_STREAM
        self.folder = folder
        self.messages = unix_sockets.listen(folder, MESSAGES_PORT, kind=stream)
        self.blobs = unix_sockets.listen(folder, BLOBS_PORT, kind=stream)
        self.open: list[asyncio.StreamWriter] = []

    async def accept(self, listener: socket.socket) -> "Connection":
        loop = asyncio.get_running_loop()
        channel, _ = await asyncio.wait_for(loop.sock_accept(listener), 20)
        reader, writer = await asyncio.open_connection(sock=channel)
        self.open.append(writer)
        return Connection(reader, writer)

    def close(self) -> None:
        for writer in self.open:
            writer.close()
        self.messages.close()
        self.blobs.close()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def frame(self) -> Frame:
        length = int.from_bytes(await self.exactly(4), "big")
        body = await self.exactly(length)
        return Frame(peer=body[:32], id=body[32:48], payload=body[48:])

    async def exactly(self, length: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(length), 20)

    async def at_end(self) -> bool:
        return await asyncio.wait_for(self.reader.read(1), 20) == b""

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        await self.send(request)
        head = await self.exactly(5)
        return head[0], await self.exactly(int.from_bytes(head[1:], "big"))

    async def read(self, sha256: bytes, offset: int = 0, length: int = 1 << 20):
        return await self.ask(
            b"\x01" + sha256 + offset.to_bytes(4, "big") + length.to_bytes(4, "big")
        )

    async def write(self, sha256: bytes, content: bytes):
        return await self.ask(b"\x02" + sha256 + len(content).to_bytes(4, "big") + content)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.market = FakeMarket()
        self.cache = BlobCache(folder / "cache", bytes_max=1 << 22)
        self.door = Door(folder / "door")
        self.running: list[asyncio.Task[None]] = []

    def relay(self) -> tuple[Relay, asyncio.Task[None]]:
        relay = Relay(
            RelayTask(lease=lease(), door=self.door.folder, briefing=BRIEFING),
            market=self.market,
            cache=self.cache,
            patience=PATIENCE,
        )
        task = asyncio.create_task(relay.run())
        self.running.append(task)
        return relay, task

    async def connected(self) -> Connection:
        """The message port's next connection, its briefing taken."""
        connection = await self.door.accept(self.door.messages)
        assert (await connection.frame()).payload == BRIEFING
        return connection

    async def posted(self, count: int, box: bytes = CUSTODIAN) -> list[tuple[bytes, bytes]]:
        async with asyncio.timeout(20):
            while len(self.market.boxes.get(box, [])) < count:
                await self.market.moved()
        return [(each.message, each.payload) for each in self.market.boxes[box]]

    async def close(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.door.close()


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    await scene.close()


def frame(number: int, payload: bytes = b"sealed", peer: bytes = CUSTODIAN) -> Frame:
    return Frame(peer=peer, id=number.to_bytes(16, "big"), payload=payload)


# --- messages ------------------------------------------------------------------------------------


async def test_the_agent_briefs_as_peer_zero_and_under_one_id_for_each_dial(scene: Scene) -> None:
    scene.relay()
    first = await scene.door.accept(scene.door.messages)
    one = await first.frame()
    assert (one.peer, one.payload) == (AGENT, BRIEFING)
    first.writer.close()
    second = await scene.door.accept(scene.door.messages)
    assert (await second.frame()).id == one.id


async def test_frames_go_out_in_order_under_the_leases_address(scene: Scene) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(b"".join(frame(n, bytes([n])).encode() for n in range(1, 6)))
    assert await scene.posted(5) == [(n.to_bytes(16, "big"), bytes([n])) for n in range(1, 6)]
    assert {each.sender for each in scene.market.boxes[CUSTODIAN]} == {lease_address(lease())}


async def test_a_repeated_frame_is_posted_once(scene: Scene) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(frame(1).encode() * 3 + frame(2).encode())
    assert len(await scene.posted(2)) == 2
    assert scene.market.calls.count("post_message") == 2


async def test_a_frame_repeated_after_a_restart_is_posted_once(scene: Scene) -> None:
    _, first = scene.relay()
    door = await scene.connected()
    await door.send(frame(1).encode())
    await scene.posted(1)
    first.cancel()
    scene.relay()
    door = await scene.connected()
    await door.send(frame(1).encode() + frame(2).encode())
    assert len(await scene.posted(2)) == 2


async def test_reordered_frames_stay_in_the_order_of_the_door(scene: Scene) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(frame(9).encode() + frame(3).encode() + frame(5).encode())
    assert [int.from_bytes(name, "big") for name, _ in await scene.posted(3)] == [9, 3, 5]


@pytest.mark.parametrize("length", [0, 47, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
async def test_a_frame_of_a_length_out_of_bounds_ends_the_connection_unread(
    scene: Scene, length: int
) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(length.to_bytes(4, "big") + b"x" * 200)
    assert await door.at_end()
    assert CUSTODIAN not in scene.market.boxes
    door = await scene.connected()  # it dials again: one breach may be an accident
    await door.send(frame(1).encode())
    await scene.posted(1)


async def test_a_frame_of_the_greatest_length_passes_both_ways(scene: Scene) -> None:
    scene.relay()
    payload = b"\x00" * (FRAME_BYTES_MAX - 48)
    scene.market.deliver(lease_address(lease()), b"\x07" * 16, payload, CUSTODIAN)
    door = await scene.connected()
    assert (await door.frame()).payload == payload
    await door.send(frame(1, payload).encode())
    assert (await scene.posted(1))[0][1] == payload


async def test_a_frame_that_is_cut_off_is_not_posted_and_the_relay_dials_again(
    scene: Scene,
) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(frame(1).encode()[:-1])
    door.writer.close()
    door = await scene.connected()
    await door.send(frame(1).encode())
    assert await scene.posted(1) == [(frame(1).id, b"sealed")]


async def test_an_enclave_that_breaks_the_framing_again_and_again_loses_its_relay(
    scene: Scene,
) -> None:
    _, task = scene.relay()
    for _ in range(relay_module.BREACHES_MAX):
        door = await scene.connected()
        await door.send(bytes(4))
    with pytest.raises(DoorError, match="frame of 0 bytes"):
        await asyncio.wait_for(task, 20)


async def test_a_door_that_stays_shut_ends_the_relay(scene: Scene) -> None:
    scene.door.close()
    _, task = scene.relay()
    with pytest.raises(DoorError, match="stayed shut"):
        await asyncio.wait_for(task, 20)


async def test_a_message_to_the_agent_goes_nowhere(scene: Scene) -> None:
    scene.relay()
    door = await scene.connected()
    await door.send(frame(1, peer=AGENT).encode() + frame(2).encode())
    await scene.posted(1)
    assert AGENT not in scene.market.boxes


async def test_a_market_that_is_away_loses_nothing(scene: Scene) -> None:
    scene.market.away = 40
    scene.relay()
    door = await scene.connected()
    await door.send(b"".join(frame(n).encode() for n in range(1, 4)))
    assert [int.from_bytes(name, "big") for name, _ in await scene.posted(3)] == [1, 2, 3]
    scene.market.away = 40
    scene.market.deliver(lease_address(lease()), b"\x07" * 16, b"grant", CUSTODIAN)
    assert await door.frame() == Frame(peer=CUSTODIAN, id=b"\x07" * 16, payload=b"grant")


async def test_a_message_that_the_market_rejects_does_not_stop_the_next(scene: Scene) -> None:
    scene.relay()
    door = await scene.connected()
    scene.market.rejects["post_message"] = RejectedError("not-found", "no such box")
    await door.send(frame(1).encode())
    async with asyncio.timeout(20):
        while "post_message" not in scene.market.calls:
            await scene.market.moved()
    scene.market.rejects.clear()
    await door.send(frame(2).encode())
    assert [name for name, _ in await scene.posted(1)] == [frame(2).id]


async def test_what_was_delivered_to_a_broken_connection_is_delivered_again(scene: Scene) -> None:
    scene.relay()
    for number in range(1, 4):
        scene.market.deliver(
            lease_address(lease()), number.to_bytes(16, "big"), bytes([number]), CUSTODIAN
        )
    door = await scene.connected()
    assert (await door.frame()).payload == b"\x01"
    door.writer.close()  # two and three lay in its buffer, unread
    door = await scene.connected()
    assert [(await door.frame()).payload for _ in range(3)] == [b"\x01", b"\x02", b"\x03"]


async def test_only_what_is_long_past_is_acknowledged_while_the_enclave_lives(
    scene: Scene,
) -> None:
    relay, task = scene.relay()
    total = UNACKNOWLEDGED_MAX + 70
    for number in range(1, total + 1):
        scene.market.deliver(lease_address(lease()), number.to_bytes(16, "big"), b"x", CUSTODIAN)
    door = await scene.connected()
    for _ in range(total):
        await door.frame()
    async with asyncio.timeout(20):
        while scene.market.acknowledged.get(lease(), 0) < ACKNOWLEDGED_AT_ONCE:
            await scene.market.moved()
    assert scene.market.acknowledged[lease()] <= total - UNACKNOWLEDGED_MAX
    task.cancel()
    await relay.let_go()
    assert scene.market.acknowledged[lease()] == total


async def test_the_last_words_of_an_enclave_that_exited_are_carried(scene: Scene) -> None:
    relay, task = scene.relay()
    door = await scene.connected()
    scene.market.away = 15
    await door.send(b"".join(frame(n).encode() for n in range(1, 30)))
    door.writer.close()
    scene.door.close()
    relay.enclave_ended()
    await asyncio.wait_for(task, 20)
    assert len(await scene.posted(29)) == 29


async def test_who_still_answers_at_the_door_of_an_enclave_that_ended_keeps_nobody(
    scene: Scene,
) -> None:
    relay, task = scene.relay()
    door = await scene.connected()
    blobs = await scene.door.accept(scene.door.blobs)
    relay.enclave_ended()
    await door.send(frame(1).encode())
    door.writer.close()
    blobs.writer.close()
    await asyncio.wait_for(task, 20)  # both ports still listen: it does not dial them again
    assert len(await scene.posted(1)) == 1


async def test_last_words_outlive_what_the_enclave_never_read(scene: Scene) -> None:
    relay, task = scene.relay()
    door = await scene.connected()
    scene.market.deliver(lease_address(lease()), b"\x07" * 16, b"x" * 100_000, CUSTODIAN)
    await door.exactly(1)  # the rest lies unread when it exits: its peer sees a reset
    scene.market.away = 30
    await door.send(b"".join(frame(n).encode() for n in range(1, 30)))
    door.writer.transport.abort()
    scene.door.close()
    for number in range(8, 12):  # and what comes now meets a broken pipe
        scene.market.deliver(lease_address(lease()), bytes([number]) * 16, b"late", CUSTODIAN)
    relay.enclave_ended()
    await asyncio.wait_for(task, 20)
    assert len(await scene.posted(29)) == 29


# --- blobs ---------------------------------------------------------------------------------------

CONTENT = b"ciphertext " * 90_000
NAME = digest(CONTENT)


async def test_a_blob_is_fetched_once_and_then_read_from_the_cache(scene: Scene) -> None:
    scene.market.blobs[NAME] = CONTENT
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert await door.read(NAME) == (BlobStatus.OK, CONTENT)
    assert await door.read(NAME, 11, 10) == (BlobStatus.OK, CONTENT[11:21])
    assert await door.read(NAME, len(CONTENT) - 3) == (BlobStatus.OK, CONTENT[-3:])
    assert scene.market.calls.count("get_blob") == 1


async def test_a_blob_with_another_digest_from_the_market_is_refused(scene: Scene) -> None:
    scene.market.blobs[NAME] = CONTENT
    scene.market.lies[NAME] = CONTENT[:-1] + b"!"
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert await door.read(NAME) == (BlobStatus.TRY_LATER, b"")
    assert scene.cache.get(NAME) is None
    scene.market.lies.clear()
    assert await door.read(NAME) == (BlobStatus.OK, CONTENT)


async def test_a_huge_blob_from_the_market_is_refused(scene: Scene) -> None:
    huge = bytes(OBJECT_BYTES_MAX + 1)
    scene.market.blobs[digest(huge)] = huge
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert await door.read(digest(huge)) == (BlobStatus.TRY_LATER, b"")


async def test_a_cache_that_was_poisoned_on_disk_is_noticed_and_fetched_again(
    scene: Scene, tmp_path: Path
) -> None:
    scene.market.blobs[NAME] = CONTENT
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    await door.read(NAME)
    file = tmp_path / "cache" / "objects" / NAME.hex()[:2] / NAME.hex()
    poisoned = bytearray(file.read_bytes())
    poisoned[500_000] ^= 1
    file.write_bytes(poisoned)
    assert await door.read(NAME) == (BlobStatus.OK, CONTENT)
    assert scene.market.calls.count("get_blob") == 2
    assert file.read_bytes() == CONTENT


async def test_what_nobody_has_is_not_found_and_what_lies_beyond_the_end_is_neither(
    scene: Scene,
) -> None:
    scene.market.blobs[NAME] = CONTENT
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert await door.read(bytes(32)) == (BlobStatus.NOT_FOUND, b"")
    assert await door.read(NAME, len(CONTENT) + 1, 1) == (BlobStatus.NOT_FOUND, b"")


async def test_a_write_is_answered_once_the_markets_store_has_it(scene: Scene) -> None:
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    scene.market.away = 2
    assert await door.write(NAME, CONTENT) == (BlobStatus.OK, b"")
    assert scene.market.blobs[NAME] == CONTENT
    scene.market.away = 1_000
    other = b"other"
    assert await door.write(digest(other), other) == (BlobStatus.TRY_LATER, b"")
    assert digest(other) not in scene.market.blobs


async def test_a_write_under_another_name_is_refused(scene: Scene) -> None:
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert await door.write(bytes(32), CONTENT) == (BlobStatus.NOT_FOUND, b"")
    assert scene.market.blobs == {}


async def test_a_market_that_is_away_makes_the_enclave_ask_later(scene: Scene) -> None:
    scene.market.blobs[NAME] = CONTENT
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    scene.market.away = 1_000
    assert await door.read(NAME) == (BlobStatus.TRY_LATER, b"")
    scene.market.away = 0
    assert await door.read(NAME) == (BlobStatus.OK, CONTENT)


@pytest.mark.parametrize(
    "request_",
    [
        b"\x03" + bytes(40),
        b"\x01" + bytes(36) + (OBJECT_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\x02" + bytes(32) + (OBJECT_BYTES_MAX + 1).to_bytes(4, "big"),
    ],
)
async def test_a_blob_request_that_is_none_ends_the_connection(
    scene: Scene, request_: bytes
) -> None:
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    await door.send(request_)
    assert await door.at_end()
    scene.market.blobs[NAME] = CONTENT
    door = await scene.door.accept(scene.door.blobs)
    assert (await door.read(NAME))[0] == BlobStatus.OK


async def test_a_restarted_relay_serves_the_same_door(scene: Scene) -> None:
    scene.market.blobs[NAME] = CONTENT
    _, first = scene.relay()
    await scene.door.accept(scene.door.blobs)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    scene.relay()
    door = await scene.door.accept(scene.door.blobs)
    assert (await door.read(NAME))[0] == BlobStatus.OK
