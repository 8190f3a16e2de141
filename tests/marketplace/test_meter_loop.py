"""The market's own box: each message once, through crashes, full boxes and strangers' posts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from marketplace import mailbox, meter_loop, settlement
from marketplace.home import Home
from marketplace.jobs import close_job
from marketplace.ledger import balance
from marketplace.meter_loop import MeterLoop
from marketplace.models import AccountRole
from marketplace.server import open_market
from marketplace.service import Market, MarketSettings
from marketplace.sweep import sweep_once
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    DAY,
    HOUR,
    MARKET,
    NOW,
    STRANGER,
    World,
    _migrated,
)
from trust.jobs import Close
from trust.messages import ReceiptPosted, SignedMessage, lease_address, parse_message


class Bench:
    """A market without a socket, a metered lease, and its enclave's receipts."""

    def __init__(self, market: Market, world: World, lease: str, time: list[int]) -> None:
        self.market, self.world, self.lease, self.time = market, world, lease, time
        self.count = 0

    async def post(self, payload: bytes, sender: bytes | None = None) -> None:
        self.count += 1
        command = mailbox.PostMessage(
            box=MARKET.identity,
            sender=sender or lease_address(self.lease),
            message=self.count.to_bytes(16, "big"),
            payload=payload,
        )
        await self.market.write(lambda session: mailbox.post(session, command, self.time[0]))

    async def post_receipt(self, **changes: object) -> None:
        receipt = self.world.receipt(self.lease, **changes)
        self.world.receipts[self.lease] = receipt
        await self.post(SignedMessage(signed=receipt.encode()).encode())

    async def settled(self) -> int:
        found = await self.market.read(lambda s: settlement.settlements_of(s, self.world.job))
        return len(found)

    async def answers(self) -> list[object]:
        box = lease_address(self.lease)
        page = await self.market.read(lambda session: mailbox.read(session, box, after=0))
        return [parse_message(each.payload) for each in page.messages]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    home = Home(tmp_path / "market")
    (home.folder / "key").write_bytes(MARKET.to_bytes())
    (home.folder / "market.db").write_bytes(_migrated())
    time = [NOW]
    market = open_market(home, MarketSettings(fee_ppm=0), lambda: time[0])
    world = World.make(market.store)
    lease = world.run()
    time[0] += HOUR
    try:
        yield Bench(market, world, lease, time)
        world.check()
    finally:
        market.close()


async def test_receipt_is_settled_answered_and_let_go_together(bench: Bench) -> None:
    await bench.post_receipt(milliseconds=HOUR, step=10, tokens=10)
    assert await MeterLoop(bench.market).take_page() == 1
    assert await bench.settled() == 1
    wanted = ReceiptPosted(receipt=bench.world.receipts[bench.lease].digest)
    assert await bench.answers() == [wanted]
    assert await MeterLoop(bench.market).take_page() == 0  # a market that was restarted
    assert await bench.answers() == [wanted]


async def test_crash_before_the_commit_leaves_the_receipt_for_the_next_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.post_receipt(milliseconds=HOUR, step=10, tokens=10)

    def crash(*_arguments: object, **_named: object) -> None:
        raise OperationalError("commit", None, Exception("disk"))

    with monkeypatch.context() as patched:
        patched.setattr(mailbox, "acknowledge", crash)  # the last step of the transaction
        with pytest.raises(OperationalError):
            await MeterLoop(bench.market).take_page()
    assert (await bench.settled(), await bench.answers()) == (0, [])
    assert await MeterLoop(bench.market).take_page() == 1
    assert (await bench.settled(), len(await bench.answers())) == (1, 1)


async def test_full_box_loses_the_answer_and_not_the_settlement(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.post_receipt(milliseconds=HOUR, step=10, tokens=10)
    monkeypatch.setattr(mailbox, "BOX_MESSAGES_MAX", 0)
    assert await MeterLoop(bench.market).take_page() == 1
    assert (await bench.settled(), await bench.answers()) == (1, [])


async def test_strangers_messages_are_dropped_and_stop_nothing(bench: Bench) -> None:
    receipt = bench.world.receipt(bench.lease, milliseconds=HOUR, step=1, tokens=1)
    stolen = SignedMessage(signed=receipt.encode()).encode()
    for payload in (b"x", b"blindhost/v1/session/hello\x00{}", b"\x00" * 5000, stolen):
        await bench.post(payload, sender=STRANGER.identity)
    await bench.post_receipt(milliseconds=HOUR, step=10, tokens=10)
    assert await MeterLoop(bench.market).take_page() == 5
    assert await bench.settled() == 1
    assert len(await bench.answers()) == 1


async def test_loop_waits_wakes_and_survives_a_database_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_loop, "RETRY_SECONDS", 0.0)
    read, failures = bench.market.read, []

    async def failing(work):
        if not failures:
            failures.append(1)
            raise OperationalError("read", None, Exception("locked"))
        return await read(work)

    monkeypatch.setattr(bench.market, "read", failing)
    running = asyncio.create_task(MeterLoop(bench.market).run())
    while not bench.market.waiters.is_waited_at(MARKET.identity):  # noqa: ASYNC110
        await asyncio.sleep(0)
    with bench.market.waiters.wait_at(lease_address(bench.lease)) as answered:
        await bench.post_receipt(milliseconds=HOUR, step=10, tokens=10)
        bench.market.waiters.wake([MARKET.identity])
        await asyncio.wait_for(answered.wait(), 20)
    assert await bench.settled() == 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert failures == [1]


# --- sweeps --------------------------------------------------------------------------------------


async def test_order_past_its_deadline_gives_its_money_back_whatever_else_is_gone(
    bench: Bench,
) -> None:
    bench.time[0] += 2 * DAY
    for _ in range(3):  # ready → host lost → closed, although no scheduler runs
        await sweep_once(bench.market)
        bench.time[0] += HOUR
    found = await bench.market.read(lambda s: balance(s, AccountRole.BUYER, BUYER.identity))
    assert found == 20 * CREDIT


async def test_a_closed_job_gives_its_money_back_within_hours_although_no_scheduler_runs(
    bench: Bench,
) -> None:
    close = BUYER.sign(Close(job=bench.world.job, at=bench.time[0]))
    await bench.market.write(lambda session: close_job(session, close, bench.time[0]))
    for _ in range(3):  # ready → host lost → closed, and the order with it
        await sweep_once(bench.market)
        bench.time[0] += HOUR
    found = await bench.market.read(lambda s: balance(s, AccountRole.BUYER, BUYER.identity))
    assert found == 20 * CREDIT
    assert bench.time[0] < NOW + DAY  # long before the manifest and its hold expire


async def test_one_sweep_that_fails_does_not_stop_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def broken(_session: object, _now: int) -> None:
        raise OperationalError("sweep", None, Exception("locked"))

    def fine(_session: object, _now: int) -> None:
        ran.append("fine")

    monkeypatch.setattr("marketplace.sweep.SWEEPS", (broken, fine))
    await sweep_once(bench.market)
    assert ran == ["fine"]
