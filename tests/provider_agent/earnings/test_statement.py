"""Every line follows from its receipts, or says that it does not, with both amounts."""

import dataclasses

import pytest

from marketplace.wire import SettlementState
from marketplace.wire_hosts import JobMeter
from provider_agent.earnings.book import KeptLease, Span
from provider_agent.earnings.lines import DAY_MS, State, Verdict
from tests.provider_agent.earnings.made import (
    CREDIT,
    DAY,
    DISPUTE_MS,
    HOUR,
    MINUTE,
    OTHER,
    START,
    chain,
    host_lease,
    kept,
    lease_name,
    offer_name,
    only,
    receipt,
    settle,
    statement,
)
from trust.messages import End


def test_a_line_says_what_was_billed_for_which_time_and_where_it_is() -> None:
    lease = host_lease()
    line = only(statement(lease, settle(lease, chain(2))))
    assert (line.lease, line.offer, line.offer_version, line.gpus) == (
        lease_name(),
        offer_name(),
        3,
        1,
    )
    assert (line.start, line.end) == (lease.opened_at, lease.ended_at)
    assert (line.wall_ms, line.billed_ms) == (2 * HOUR + MINUTE, HOUR)
    assert (line.rate, line.gross, line.fee, line.net) == (CREDIT, CREDIT, 100_000, 900_000)
    assert line.verdicts == ()
    assert line.expected_host == line.net
    (part,) = line.parts
    assert (part.state, part.amount) == (State.MATURING, 900_000)
    assert part.matures_at == START + 2 * HOUR + 30 * MINUTE + DISPUTE_MS


def test_why_billed_and_wall_time_differ_adds_up() -> None:
    lease = host_lease()
    line = only(statement(lease, settle(lease, chain(2))))
    assert line.why == (
        f"before-ready {MINUTE} ms",
        f"after-meter {MINUTE} ms",
        f"no-receipt {2 * HOUR - MINUTE - HOUR} ms",
    )
    told = sum(int(each.split()[1]) for each in line.why)
    assert line.billed_ms + told == line.wall_ms


@pytest.mark.parametrize("field", ["host_amount", "owner_amount", "fee_amount"])
@pytest.mark.parametrize("change", [-1, 1])
def test_an_amount_that_is_off_by_a_microcredit_differs(field: str, change: int) -> None:
    lease = host_lease()
    settlements = settle(lease, chain(3))
    wrong = dataclasses.replace(settlements[1], **{field: getattr(settlements[1], field) + change})
    found = statement(lease, [settlements[0], wrong, settlements[2]])
    assert only(found).verdicts == (Verdict.DIFFERS,)
    assert not found.holds
    if field == "host_amount":
        assert only(found).expected_host == only(found).net - change


def test_a_receipt_by_another_key_than_the_metered_one_is_shown_as_unsigned() -> None:
    lease = host_lease()
    settlements = settle(lease, [receipt(signer=OTHER)])
    assert only(statement(lease, settlements)).verdicts == (Verdict.UNSIGNED,)


@pytest.mark.parametrize(
    "change", [{"lease": 2}, {"generation": 2}, {"rank": 1}, {"job": bytes(32)}]
)
def test_a_receipt_of_another_lease_settles_nothing_here(change: dict[str, object]) -> None:
    lease = host_lease()
    settlements = settle(lease, [receipt(**change)])
    assert only(statement(lease, settlements)).verdicts == (Verdict.UNSIGNED,)


def test_a_flipped_bit_of_a_receipt_is_noticed() -> None:
    lease = host_lease()
    (settled,) = settle(lease, chain(1))
    broken = bytearray(settled.signed)
    broken[-2] ^= 1
    found = statement(lease, [dataclasses.replace(settled, signed=bytes(broken))])
    assert only(found).verdicts == (Verdict.UNSIGNED,)


@pytest.mark.parametrize(
    "terms",
    [{"price": CREDIT + 1}, {"gpus": 2}, {"fee_ppm": 99_999}, {"offer": offer_name(9)}],
)
def test_terms_that_are_worse_than_when_the_lease_was_opened_are_said(
    terms: dict[str, object],
) -> None:
    lease = host_lease()
    values = {"name": lease.lease, "offer": lease.offer, "price": CREDIT, "gpus": 1,
              "fee_ppm": 100_000, "at": 0}  # fmt: skip
    opened = KeptLease(**values | terms)
    found = statement(lease, settle(lease, chain(1)), terms={lease.lease: opened})
    assert only(found).verdicts == (Verdict.TERMS,)
    same = KeptLease(**values)
    assert statement(lease, settle(lease, chain(1)), terms={lease.lease: same}).holds


def test_another_receipt_under_a_number_that_this_host_carried_is_a_fork() -> None:
    lease = host_lease()
    carried = receipt(1, milliseconds=31 * MINUTE)
    found = statement(lease, settle(lease, chain(1)), receipts={lease.lease: (kept(carried),)})
    assert only(found).verdicts == (Verdict.FORKED,)


def test_a_receipt_that_the_market_does_not_list_is_accrued_and_late_after_an_hour() -> None:
    lease = host_lease(ended_at=None, metered_until=None)
    receipts = chain(3)
    settlements = settle(lease, receipts[:1])
    carried = START + 3 * HOUR
    copies = {lease.lease: tuple(kept(each, carried) for each in receipts)}
    soon = statement(lease, settlements, receipts=copies, now=carried + HOUR - 1)
    line = only(soon)
    assert soon.holds
    assert [(each.state, each.amount) for each in line.parts] == [
        (State.ACCRUED, 225_000),  # of 30 steps 15 are payable: 5 committed, an interval of 10
        (State.MATURING, 450_000),
    ]
    late = statement(lease, settlements, receipts=copies, now=carried + HOUR)
    assert only(late).verdicts == (Verdict.UNSETTLED,)
    assert not late.holds


def test_an_older_receipt_that_a_settled_one_contains_is_owed_nothing() -> None:
    lease = host_lease()
    receipts = chain(3)
    copies = {lease.lease: tuple(kept(each) for each in receipts)}
    assert statement(lease, settle(lease, [receipts[0], receipts[2]]), receipts=copies).holds


def test_what_a_dispute_took_back_is_an_adjustment_with_its_reason() -> None:
    lease = host_lease()
    settlements = settle(lease, chain(2))
    back = dataclasses.replace(settlements[1], state=SettlementState.REFUNDED)
    line = only(statement(lease, [settlements[0], back]))
    (adjusted,) = line.adjustments
    assert (adjusted.amount, adjusted.reason) == (
        -settlements[1].host_amount,
        "dispute decided for the buyer",
    )
    assert line.net == settlements[0].host_amount
    assert line.verdicts == ()


def test_a_days_work_is_billed_on_the_day_on_which_its_receipt_settled() -> None:
    """A lease over midnight: two lines, whose wall and billed times add up to the lease's."""
    lease = host_lease(
        opened_at=START + 23 * HOUR,
        ready_at=START + 23 * HOUR,
        metered_until=START + 25 * HOUR,
        ended_at=START + 25 * HOUR,
    )
    settlements = settle(lease, chain(4), at=START + 23 * HOUR + 30 * MINUTE)
    found = statement(lease, settlements, now=START + 2 * DAY)
    first, second = found.lines
    assert (first.end, second.start) == (START + DAY, START + DAY)
    assert (first.wall_ms, second.wall_ms) == (HOUR, HOUR)
    assert first.billed_ms + second.billed_ms == 2 * HOUR
    assert second.running_total == first.net + second.net == found.net
    assert DAY == DAY_MS


def test_payouts_pay_what_has_been_payable_longest() -> None:
    lease = host_lease()
    settlements = settle(lease, chain(2), state=SettlementState.MATURED)
    found = statement(lease, settlements, paid_out=500_000)
    assert [(each.state, each.amount) for each in only(found).parts] == [
        (State.SENT, 500_000),
        (State.PAYABLE, 400_000),
    ]
    assert {each.state: each.amount for each in found.totals} == {
        State.SENT: 500_000,
        State.PAYABLE: 400_000,
    }


def test_what_made_an_amount_less_than_its_time_is_told() -> None:
    lease = host_lease(ceiling=10_000)
    assert "ceiling" in only(statement(lease, settle(lease, chain(1)))).why
    lease = host_lease()
    assert "hold-used-up" in only(statement(lease, settle(lease, chain(1), hold=300_000))).why
    fast = [receipt(1, milliseconds=12 * HOUR)]
    assert any("market-clock" in each for each in only(statement(lease, settle(lease, fast))).why)
    run = host_lease(meter=JobMeter.RUN)
    assert "not-done" in only(statement(run, settle(run, [receipt(1, step=0)]))).why
    done = [receipt(1, step=1, end=End.DONE)]
    assert only(statement(run, settle(run, done))).gross > 0


def test_uncommitted_steps_are_told() -> None:
    lease = host_lease(checkpoint_steps=2)
    line = only(statement(lease, settle(lease, chain(1))))
    assert "uncommitted-steps" in line.why
    assert line.verdicts == ()


def test_idle_hours_have_the_reason_that_the_agent_noted_and_gaps_mean_that_it_was_off() -> None:
    lease = host_lease()
    spans = (
        Span(state="listed", since=START, until=START + 2 * HOUR),
        Span(state="maintenance", since=START + 4 * HOUR, until=START + 5 * HOUR),
    )
    found = statement(lease, [], spans=spans, now=START + 6 * HOUR)
    assert {(each.reason, each.milliseconds) for each in found.idle} == {
        ("listed", HOUR),  # the second hour was leased
        ("agent-off", HOUR - MINUTE + HOUR),
        ("maintenance", HOUR),
    }


def test_a_lease_without_a_receipt_is_a_line_of_nothing() -> None:
    lease = host_lease(signing_key=None, ready_at=None, metered_until=None)
    line = only(statement(lease, []))
    assert (line.gross, line.net, line.billed_ms, line.parts) == (0, 0, 0, ())
    assert line.why == (f"before-ready {line.wall_ms} ms",)
