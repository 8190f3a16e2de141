"""A clock that is a year off stops things, says why, and costs nobody what was theirs."""

from __future__ import annotations

import pytest

from marketplace import wire
from marketplace.ledger import balance
from marketplace.models import AccountRole
from marketplace.settlement import settlements_of
from marketplace.sweep import sweep_once
from tests.marketplace.api.rig import Rig, key16
from tests.marketplace.world import BUYER, CREDIT, DAY, HOST, HOUR, NOW, OWNER, STRANGER

Code = wire.ErrorCode
YEAR = 365 * DAY
TOTAL = 20 * CREDIT  # what `Rig.running` funds


async def money(rig: Rig) -> dict[str, int]:
    """Microcredits of each party, in all of its roles."""

    def read(session):
        roles = {
            "buyer": ((AccountRole.BUYER, BUYER),),
            "host": ((AccountRole.HOST_PENDING, HOST), (AccountRole.HOST_PAYABLE, HOST)),
            "owner": ((AccountRole.OWNER_PENDING, OWNER), (AccountRole.OWNER_PAYABLE, OWNER)),
        }
        return {
            name: sum(balance(session, role, party.identity) for role, party in each)
            for name, each in roles.items()
        }

    return await rig.read(read)


@pytest.mark.parametrize("off", [YEAR, -YEAR], ids=["ahead", "behind"])
async def test_a_party_whose_clock_is_a_year_off_is_refused_with_the_reason(
    rig: Rig, off: int
) -> None:
    box = BUYER.identity
    for target, method in (
        (wire.target(wire.MAILBOX, box=box), "GET"),
        (wire.target(wire.MESSAGE, box=box, message=key16()), "PUT"),
    ):
        body = b"" if method == "GET" else b"sealed"
        sent = await rig.send(method, target, body, key=BUYER, now=(NOW + off) // 1000)
        error = sent.expect(Code.UNSIGNED)
        assert f"{YEAR // 1000} s {'in the future' if off > 0 else 'ago'}" in error.text
        assert "Signature" not in sent.headers
    assert await rig.api(BUYER).get_messages(box, after=0) == ()


@pytest.mark.parametrize("off", [YEAR, -YEAR], ids=["ahead", "behind"])
async def test_a_market_whose_clock_is_a_year_off_serves_nobody_and_says_so(
    rig: Rig, off: int
) -> None:
    job = await rig.submitted()
    rig.time[0] += off
    right = NOW // 1000
    for method, target, party in (
        ("GET", wire.target(wire.ACCOUNT), BUYER),
        ("GET", wire.target(wire.JOB_DOCUMENTS, digest=job.digest), STRANGER),
        ("GET", wire.target(wire.ASKS), OWNER),
    ):
        error = (await rig.send(method, target, key=party, now=right)).expect(Code.UNSIGNED)
        assert "signed" in error.text


async def test_a_market_a_year_behind_moves_no_money_and_settles_all_once_it_is_right(
    rig: Rig,
) -> None:
    enclave = await rig.running()
    before = await money(rig)
    rig.time[0] = NOW - YEAR
    await sweep_once(rig.market)
    assert await money(rig) == before
    # A receipt that comes meanwhile (its agent's clock is off as well) is kept, and pays no time.
    receipt = enclave.receipt(milliseconds=HOUR, step=5, tokens=5)
    assert (await enclave.send_receipt(receipt)).LABEL == "session/receipt-posted"
    enclave.last = receipt
    assert (await money(rig))["host"] == before["host"] == 0
    rig.time[0] = NOW + HOUR
    receipt = enclave.receipt(milliseconds=HOUR, step=5, tokens=5)
    assert (await enclave.send_receipt(receipt)).LABEL == "session/receipt-posted"
    assert (await money(rig))["host"] > 0


async def test_a_market_a_year_ahead_gives_back_what_it_held_and_keeps_what_was_earned(
    rig: Rig,
) -> None:
    """What it does too early: it ends leases, and closes dispute windows, by its own clock."""
    enclave = await rig.running()
    rig.time[0] += HOUR
    receipt = enclave.receipt(milliseconds=HOUR, step=5, tokens=5)
    await enclave.send_receipt(receipt)
    earned = await money(rig)
    assert earned["host"] > 0
    assert earned["owner"] > 0
    rig.time[0] += YEAR
    for _ in range(4):
        await sweep_once(rig.market)
        rig.time[0] += HOUR
    after = await money(rig)
    assert (after["host"], after["owner"]) == (earned["host"], earned["owner"])
    (view,) = await rig.read(lambda s: settlements_of(s, enclave.job.digest))
    assert sum(after.values()) + view.fee_amount == TOTAL
    assert after["buyer"] > earned["buyer"]  # the rest of the hold
    rig.time[0] = NOW + 2 * HOUR  # right again
    assert await rig.lease_state(enclave.lease) is wire.LeaseState.CLOSED
    assert (await rig.api(BUYER).get_account()).available == after["buyer"]
