"""Mailboxes over the socket: once, in order, by whom they say, for whom they are."""

from __future__ import annotations

import asyncio

import pytest

from client.market_api import MarketRefusedError
from marketplace import mailbox, wire
from marketplace.api.renewal import SLACK_SECONDS
from marketplace.leases import STATE_SECONDS
from marketplace.mailbox import HOUR_MILLISECONDS
from marketplace.models import LeaseState
from marketplace.sweep import drop_old
from tests.marketplace.api.rig import Rig, key16, refused
from tests.marketplace.world import BUYER, HOST, HOST_2, OWNER, STRANGER
from trust.messages import lease_address

Code = wire.ErrorCode
BOX = BUYER.identity


async def test_message_arrives_with_its_sender_and_number(rig: Rig) -> None:
    for number, text in enumerate((b"one", b"two"), start=1):
        assert await rig.api(OWNER).post_message(BOX, text, message=key16()) == "created"
        (found,) = await rig.api(BUYER).get_messages(BOX, after=number - 1)
        assert (found.number, found.sender, found.payload) == (number, OWNER.identity, text)
    assert len(await rig.api(BUYER).get_messages(BOX, after=0)) == 2


async def test_repeated_message_exists_and_arrives_once_even_after_it_was_read(rig: Rig) -> None:
    message = key16()
    await rig.api(OWNER).post_message(BOX, b"x", message=message)
    assert await rig.api(OWNER).post_message(BOX, b"x", message=message) == "exists"
    assert len(await rig.api(BUYER).get_messages(BOX, after=0)) == 1
    await rig.api(BUYER).acknowledge(BOX, through=1)
    assert await rig.api(OWNER).post_message(BOX, b"x", message=message) == "exists"
    assert await rig.api(BUYER).get_messages(BOX, after=0) == ()


async def test_id_with_another_payload_is_refused_and_ids_belong_to_senders(rig: Rig) -> None:
    message = key16()
    await rig.api(OWNER).post_message(BOX, b"x", message=message)
    call = rig.api(OWNER).post_message(BOX, b"y", message=message)
    await refused(Code.CONFLICT, call)
    assert await rig.api(STRANGER).post_message(BOX, b"y", message=message) == "created"


async def test_box_is_read_and_emptied_by_its_owner_alone(rig: Rig) -> None:
    await rig.api(OWNER).post_message(BOX, b"x", message=key16())
    await refused(Code.FORBIDDEN, rig.api(OWNER).get_messages(BOX, after=0))
    await refused(Code.FORBIDDEN, rig.api(STRANGER).acknowledge(BOX, through=1))
    assert len(await rig.api(BUYER).get_messages(BOX, after=0)) == 1


async def test_numbers_are_never_given_twice(rig: Rig) -> None:
    await rig.api(OWNER).post_message(BOX, b"1", message=key16())
    await rig.api(BUYER).acknowledge(BOX, through=1)
    rig.time[0] += (wire.MESSAGE_HOURS + 1) * HOUR_MILLISECONDS
    assert await rig.write(lambda s: drop_old(s, rig.time[0])) == 1
    await rig.api(OWNER).post_message(BOX, b"2", message=key16())
    (found,) = await rig.api(BUYER).get_messages(BOX, after=0)
    assert (found.number, found.payload) == (2, b"2")


async def test_acknowledging_what_never_came_is_refused(rig: Rig) -> None:
    await refused(Code.CONFLICT, rig.api(BUYER).acknowledge(BOX, through=1))
    await rig.api(OWNER).post_message(BOX, b"1", message=key16())
    await refused(Code.CONFLICT, rig.api(BUYER).acknowledge(BOX, through=2))


async def test_unread_message_stays_a_day_and_then_goes(rig: Rig) -> None:
    await rig.api(OWNER).post_message(BOX, b"1", message=key16())
    rig.time[0] += wire.MESSAGE_HOURS * HOUR_MILLISECONDS
    await rig.write(lambda s: drop_old(s, rig.time[0]))
    assert len(await rig.api(BUYER).get_messages(BOX, after=0)) == 1
    rig.time[0] += 1
    await rig.write(lambda s: drop_old(s, rig.time[0]))
    assert await rig.api(BUYER).get_messages(BOX, after=0) == ()


async def test_waiting_reader_gets_what_arrives(rig: Rig) -> None:
    waiting = asyncio.create_task(rig.api(BUYER).get_messages(BOX, after=0, wait_seconds=20))
    await rig.until_waited_at(BOX)
    await rig.api(OWNER).post_message(BOX, b"now", message=key16())
    (found,) = await asyncio.wait_for(waiting, 10)
    assert found.payload == b"now"


async def test_wait_that_is_over_is_an_empty_page(rig: Rig) -> None:
    assert await rig.api(BUYER).get_messages(BOX, after=0, wait_seconds=1) == ()


async def test_wait_beyond_the_most_is_refused(rig: Rig) -> None:
    call = rig.api(BUYER).get_messages(BOX, after=0, wait_seconds=wire.WAIT_SECONDS_MAX + 1)
    await refused(Code.MALFORMED, call)


async def test_page_is_bounded_and_nothing_is_skipped(rig: Rig) -> None:
    payloads = [bytes([n]) * (wire.PAYLOAD_BYTES_MAX // 2) for n in range(5)]
    for payload in payloads:
        await rig.api(OWNER).post_message(BOX, payload, message=key16())
    found: list[bytes] = []
    after = pages = 0
    while page := await rig.api(BUYER).get_messages(BOX, after=after):
        assert sum(len(each.payload) for each in page) <= wire.PAGE_BYTES_MAX
        found.extend(each.payload for each in page)
        after, pages = page[-1].number, pages + 1
    assert found == payloads
    assert pages == 3


async def test_largest_payload_passes_and_an_empty_one_is_refused(rig: Rig) -> None:
    payload = b"p" * wire.PAYLOAD_BYTES_MAX
    await rig.api(OWNER).post_message(BOX, payload, message=key16())
    (found,) = await rig.api(BUYER).get_messages(BOX, after=0)
    assert found.payload == payload
    await refused(Code.TOO_LARGE, rig.api(OWNER).post_message(BOX, b"", message=key16()))


async def test_full_box_refuses_and_is_open_again_once_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "BOX_MESSAGES_MAX", 2)
    for _ in range(2):
        await rig.api(STRANGER).post_message(BOX, b"x", message=key16())
    await refused(Code.FULL, rig.api(STRANGER).post_message(BOX, b"x", message=key16()))
    await rig.api(BUYER).acknowledge(BOX, through=1)
    await rig.api(STRANGER).post_message(BOX, b"x", message=key16())


async def test_box_is_full_by_bytes_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "BOX_BYTES_MAX", 10)
    await rig.api(STRANGER).post_message(BOX, b"x" * 10, message=key16())
    await refused(Code.FULL, rig.api(STRANGER).post_message(BOX, b"x", message=key16()))


async def test_too_many_readers_of_one_box_are_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.service.BOX_WAITERS_MAX", 1)
    waiting = asyncio.create_task(rig.api(BUYER).get_messages(BOX, after=0, wait_seconds=20))
    await rig.until_waited_at(BOX)
    sent = await rig.send("GET", wire.target(wire.MAILBOX, {"wait": 20}, box=BOX), key=BUYER)
    sent.expect(Code.TOO_MANY)
    await rig.api(OWNER).post_message(BOX, b"x", message=key16())
    assert len(await waiting) == 1


# --- leases' boxes -------------------------------------------------------------------------------


async def test_leases_box_is_the_hosts_that_holds_it(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    box = lease_address(lease)
    await rig.api(OWNER).post_message(box, b"grant", message=key16())
    (found,) = await rig.api(HOST).get_messages(box, after=0, lease=lease)
    assert found.payload == b"grant"
    await refused(Code.NOT_FOUND, rig.api(HOST_2).get_messages(box, after=0, lease=lease))
    await refused(Code.FORBIDDEN, rig.api(HOST).get_messages(box, after=0))
    await refused(Code.FORBIDDEN, rig.api(HOST).get_messages(BOX, after=0, lease=lease))
    await rig.api(HOST).acknowledge(box, through=1, lease=lease)
    assert await rig.api(HOST).get_messages(box, after=0, lease=lease) == ()


async def test_host_posts_for_its_own_lease_and_for_no_other(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await rig.api(HOST).post_message(BOX, b"hello", message=key16(), lease=lease)
    (found,) = await rig.api(BUYER).get_messages(BOX, after=0)
    assert found.sender == lease_address(lease)
    with pytest.raises(MarketRefusedError, match="holds no lease"):
        await rig.api(HOST_2).post_message(BOX, b"hello", message=key16(), lease=lease)


async def test_waiting_at_its_leases_box_renews_a_ready_lease(rig: Rig) -> None:
    enclave = await rig.running()
    api = rig.api(HOST)

    # A message stands in the box, so that no poll really waits.
    await rig.api(BUYER).post_message(enclave.address, b"sealed", message=key16())

    async def polled(seconds: int, wait: int = 0) -> int:
        rig.time[0] += 1000 * seconds
        await api.get_messages(
            enclave.address, after=enclave.after, wait_seconds=wait, lease=enclave.lease
        )
        deadline = (await api.get_lease(enclave.lease)).deadline
        assert deadline is not None
        return deadline - rig.time[0]

    given = STATE_SECONDS[LeaseState.READY]
    assert await polled(1) == (given - 1) * 1000
    assert await polled(given - 10) == SLACK_SECONDS * 1000  # killed now, it is missed then
    assert await polled(3) == (SLACK_SECONDS - 3) * 1000  # not a write for each poll
    assert await polled(1, wait=10) == (SLACK_SECONDS + 10) * 1000  # it may wait as long as it says
    longest = SLACK_SECONDS + wire.WAIT_SECONDS_MAX
    assert await polled(1, wait=wire.WAIT_SECONDS_MAX) == longest * 1000
    rig.time[0] += longest * 1000 + 1
    assert await polled(0) == -1  # too late: the scheduler gives the job to another host
