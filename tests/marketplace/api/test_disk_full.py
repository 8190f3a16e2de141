"""A market whose disk is full says so over its signature, keeps no half, and goes on with room."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from client.market_api import MarketRefusedError
from marketplace import blobs, mailbox, wire
from marketplace.store import is_full
from marketplace.sweep import sweep_once
from tests.marketplace.api.rig import Rig, key16, refused
from tests.marketplace.world import BUYER, CREDIT, OWNER
from trust.encoding import digest

Code = wire.ErrorCode
ROOM_PAGES = 1 << 30
PAYLOAD = os.urandom(1 << 19)


@contextlib.contextmanager
def full_database(rig: Rig) -> Iterator[None]:
    """No connection gets another page, until the block ends. The limit is each connection's own."""
    limit = [1]  # below what is there: SQLite then takes what is there

    def limited(connection, _record, _proxy) -> None:
        connection.execute(f"PRAGMA max_page_count={limit[0]}")

    engine = rig.market.store.engine
    event.listen(engine, "checkout", limited)
    try:
        yield
    finally:
        limit[0] = ROOM_PAGES
        with contextlib.ExitStack() as stack:  # every connection of the pool has room again
            for _ in range(engine.pool.checkedin() or 1):
                stack.enter_context(engine.connect())
        event.remove(engine, "checkout", limited)


def disk_is_full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_messages_wait_until_a_full_database_has_room(rig: Rig) -> None:
    api, message = rig.api(OWNER), key16()
    await api.post_message(BUYER.identity, b"before", message=key16())
    with full_database(rig):
        error = await refused(
            Code.INTERNAL, api.post_message(BUYER.identity, PAYLOAD, message=message)
        )
        assert "disk is full" in error.text
        assert "nothing was stored" in error.text
        (found,) = await rig.api(BUYER).get_messages(BUYER.identity, after=0)
        assert found.payload == b"before"  # what was stored can be read
    assert await api.post_message(BUYER.identity, PAYLOAD, message=message) == "created"
    page = await rig.api(BUYER).get_messages(BUYER.identity, after=0)
    assert [each.number for each in page] == [1, 2]


def fill(rig: Rig) -> None:
    """Use up the room inside the pages that are there."""
    for number in range(1000):
        command = mailbox.PostMessage(
            box=number.to_bytes(32, "big"), sender=bytes(32), message=bytes(16), payload=b"x" * 999
        )
        try:
            with rig.market.store.transaction() as session:
                mailbox.post(session, command, rig.time[0])
        except sa.exc.OperationalError as error:
            if is_full(error):
                return
            raise
    raise AssertionError("the database never was full")


async def test_a_job_on_a_full_database_holds_no_money_and_is_submitted_later(rig: Rig) -> None:
    await rig.fund(1000 * CREDIT)
    first = await rig.publish()
    held = 0
    with full_database(rig):
        fill(rig)
        for _ in range(50):  # the pages of jobs and money have room for a few yet
            job = BUYER.sign(dataclasses.replace(first.document, nonce=os.urandom(32)))
            key = key16()
            try:
                await rig.api(BUYER).submit_job(job, key=key)
            except MarketRefusedError as error:
                refusal = error
                break
            held += 10 * CREDIT
        else:
            raise AssertionError("the database never was full")
        assert refusal.error_code is Code.INTERNAL
        assert "disk is full" in refusal.text
        assert (await rig.api(BUYER).get_account()).held == held
        assert job.digest not in {each.job for each in await rig.api(BUYER).get_jobs()}
        await sweep_once(rig.market)  # what cannot write does not end the market
    view = await rig.api(BUYER).submit_job(job, key=key)  # the key was not used up
    assert view.money.reserved == 10 * CREDIT
    assert (await rig.api(BUYER).get_account()).held == held + 10 * CREDIT


async def test_a_blob_that_finds_no_room_leaves_nothing_and_is_stored_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5000)
    folder = rig.market.blobs.path(digest(content)).parents[1]
    with monkeypatch.context() as patch:
        patch.setattr("marketplace.blobs.os.fsync", disk_is_full)
        error = await refused(Code.INTERNAL, rig.api(OWNER).put_blob(content))
        assert "disk is full" in error.text
    assert [each for each in folder.rglob("*") if each.is_file()] == []
    assert await rig.api(OWNER).missing_blobs((digest(content),)) == (digest(content),)
    assert (await rig.api(OWNER).put_blob(content)) is not None
    assert await rig.api(BUYER).get_blob(digest(content)) == content


async def test_bytes_whose_row_found_no_room_are_not_there_until_they_are_put_again(
    rig: Rig,
) -> None:
    content = os.urandom(64)
    lost = digest(content)
    with full_database(rig):
        fill(rig)
        for number in range(64):  # a row is small: pages of this table have room yet
            try:
                await rig.write(
                    lambda session, n=number: blobs.record(
                        session, digest(b"%d" % n), 1, bytes(32), 0
                    )
                )
            except sa.exc.OperationalError:
                break
        await refused(Code.INTERNAL, rig.api(OWNER).put_blob(content))
        assert rig.market.blobs.has(lost)
        assert await rig.api(OWNER).missing_blobs((lost,)) == (lost,)
    await rig.api(OWNER).put_blob(content)
    assert await rig.api(OWNER).missing_blobs((lost,)) == ()


def test_what_says_that_a_disk_is_full_and_what_does_not() -> None:
    assert is_full(OSError(errno.ENOSPC, "x"))
    assert is_full(OSError(errno.EDQUOT, "x"))
    assert not is_full(OSError(errno.EIO, "x"))
    assert not is_full(ValueError("database or disk is full"))
    assert not is_full(sa.exc.OperationalError("x", None, Exception("database is locked")))
