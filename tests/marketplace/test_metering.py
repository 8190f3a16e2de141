"""What is due: the same for any cut of a run, never twice, never more than is there."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from marketplace.metering import MILLION, Due, Posted, Rates, Reading, billable
from marketplace.models import Meter

RATES = Rates(
    price_per_gpu_hour=3_600_000,  # one microcredit a millisecond
    gpus=1,
    meter=Meter.STEPS,
    ceiling=1_000_000,
    checkpoint_steps=10,
    royalty_per_job=500,
    royalty_per_million_tokens=1_000_000,  # one microcredit a token
    fee_ppm=100_000,
)
NOTHING = Posted(
    paid_before_step=0,
    paid_through_step=0,
    lease_gross=0,
    lease_fee=0,
    lease_tokens=0,
    job_royalty=0,
    job_tokens=0,
    available=1 << 50,
)


def reading(**changes: object) -> Reading:
    values = {
        "milliseconds": 1000,
        "first_step": 0,
        "step": 10,
        "tokens": 100,
        "committed_step": 10,
        "done": False,
    }
    return Reading(**values | changes)


def rates(**changes: object) -> Rates:
    return dataclasses.replace(RATES, **changes)


def after(due: Due, before: Posted) -> Posted:
    return dataclasses.replace(
        before,
        paid_through_step=due.paid_through_step,
        lease_gross=due.lease_gross,
        lease_fee=due.lease_fee,
        lease_tokens=due.lease_tokens,
        job_royalty=due.job_royalty,
        job_tokens=due.job_tokens,
        available=before.available - due.total,
    )


def run(agreed: Rates, readings: list[Reading], posted: Posted = NOTHING) -> tuple[int, int, int]:
    """Host, owner and fee, summed over receipts."""
    host = owner = fee = 0
    for each in readings:
        due = billable(agreed, each, posted)
        posted = after(due, posted)
        host, owner, fee = host + due.host, owner + due.owner, fee + due.fee
    return host, owner, fee


def test_one_receipt_pays_host_owner_and_market() -> None:
    due = billable(RATES, reading(), NOTHING)
    assert (due.host, due.owner, due.fee) == (900, 600, 100)
    assert due.total == 1600
    assert not due.cut_short


@given(
    price=st.integers(min_value=0, max_value=10**9),
    royalty=st.integers(min_value=0, max_value=10**9),
    fee=st.integers(min_value=0, max_value=MILLION),
    ceiling=st.integers(min_value=0, max_value=10**7),
    cuts=st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=10**7),
            st.integers(min_value=1, max_value=10),
            st.integers(min_value=0, max_value=10**5),
        ),
        min_size=1,
        max_size=8,
    ),
    kept=st.sets(st.integers(min_value=0, max_value=7)),
)
def test_any_cut_of_a_run_and_any_lost_receipt_pay_the_same(
    price: int,
    royalty: int,
    fee: int,
    ceiling: int,
    cuts: list[tuple[int, int, int]],
    kept: set[int],
) -> None:
    """A bounded ceiling, too: the last receipt alone says what all of them say together."""
    agreed = rates(
        price_per_gpu_hour=price, royalty_per_million_tokens=royalty, fee_ppm=fee, ceiling=ceiling
    )
    milliseconds = step = tokens = 0
    readings = []
    for more_ms, more_steps, more_tokens in cuts:
        milliseconds, step, tokens = (
            milliseconds + more_ms,
            step + more_steps,
            tokens + more_tokens,
        )
        readings.append(
            reading(milliseconds=milliseconds, step=step, tokens=tokens, committed_step=step)
        )
    some = [r for index, r in enumerate(readings[:-1]) if index in kept] + readings[-1:]
    assert run(agreed, readings) == run(agreed, some) == run(agreed, readings[-1:])


def test_rounding_is_down_once_on_cumulative_time() -> None:
    slow = rates(price_per_gpu_hour=1_000_000, royalty_per_job=0, royalty_per_million_tokens=0)
    every = [reading(milliseconds=ms, step=1, committed_step=1) for ms in range(1, 3_601)]
    assert sum(run(slow, every)) == 1_000_000 * 3_600 // 3_600_000 == 1000


def test_starved_machine_earns_no_more_than_its_steps_ceiling() -> None:
    """A host that gives its VM 10 % of the machine: ten times the time, the same steps."""
    capped = rates(ceiling=100, royalty_per_job=0, royalty_per_million_tokens=0, fee_ppm=0)
    honest = run(capped, [reading(milliseconds=1000)])
    starving = run(capped, [reading(milliseconds=10_000)])
    assert honest == starving == (1000, 0, 0)


def test_fast_machine_earns_its_time() -> None:
    assert run(rates(fee_ppm=0), [reading(milliseconds=7)])[0] == 7


def test_gpus_are_counted() -> None:
    assert run(rates(fee_ppm=0, gpus=8), [reading()])[0] == 8000


def test_receipt_without_work_pays_nobody() -> None:
    """Loading, verifying, waiting for a broker: no step, no pay, and no flat part either."""
    assert run(RATES, [reading(step=0, committed_step=0, tokens=0)]) == (0, 0, 0)


def test_flat_royalty_is_paid_once_a_job() -> None:
    first = billable(RATES, reading(), NOTHING)
    assert first.owner == 500 + 100
    second_lease = dataclasses.replace(
        NOTHING, job_royalty=first.job_royalty, job_tokens=first.job_tokens
    )
    assert billable(RATES, reading(), second_lease).owner == 100


def test_steps_of_an_older_generation_are_not_paid_again() -> None:
    """Killed at step 18, committed at 10, resumed there: 11 to 18 were paid, 19 and 20 are due."""
    free = rates(fee_ppm=0, royalty_per_job=0)
    first = billable(free, reading(step=18, milliseconds=1800, tokens=180), NOTHING)
    assert (first.host, first.paid_through_step) == (1800, 18)
    posted = dataclasses.replace(
        NOTHING, paid_before_step=18, job_royalty=first.job_royalty, job_tokens=first.job_tokens
    )
    again = reading(first_step=10, step=20, milliseconds=1000, tokens=100, committed_step=20)
    second = billable(free, again, posted)
    assert second.host == 200  # two of its ten steps, a fifth of its time
    assert second.owner == 20
    assert second.paid_through_step == 20


def test_work_beyond_the_last_commit_is_payable_up_to_one_interval() -> None:
    free = rates(fee_ppm=0, royalty_per_job=0, royalty_per_million_tokens=0, ceiling=10)
    ahead = reading(step=40, committed_step=10, milliseconds=10**6)
    assert run(free, [ahead])[0] == 10 * 20
    committed = dataclasses.replace(ahead, committed_step=30)
    assert run(free, [ahead, committed])[0] == 10 * 40
    assert run(free, [dataclasses.replace(ahead, done=True)])[0] == 10 * 40


@given(
    kills=st.lists(
        st.tuples(st.integers(min_value=0, max_value=40), st.integers(min_value=0, max_value=4)),
        min_size=1,
        max_size=10,
    )
)
def test_drop_kill_resume_never_pays_a_step_twice(kills: list[tuple[int, int]]) -> None:
    """Each generation runs some steps, commits some intervals, and is killed; then another."""
    each = rates(
        ceiling=1,
        price_per_gpu_hour=10**12,
        fee_ppm=0,
        royalty_per_job=0,
        royalty_per_million_tokens=1_000_000,
    )
    committed = paid_before = paid = royalty = tokens = furthest = 0
    for ran, commits in kills:
        first, step = committed, committed + ran
        newest = min(step, first + commits * 10)
        posted = dataclasses.replace(
            NOTHING, paid_before_step=paid_before, job_royalty=royalty, job_tokens=tokens
        )
        due = billable(
            each,
            reading(
                first_step=first, step=step, committed_step=newest, milliseconds=10**6, tokens=ran
            ),
            posted,
        )
        paid += due.host
        royalty, tokens = due.job_royalty, due.job_tokens
        paid_before = max(paid_before, due.paid_through_step)
        committed, furthest = newest, max(furthest, step)
    assert paid <= min(furthest, committed + 10)
    assert royalty <= paid


@given(available=st.integers(min_value=-5, max_value=2000))
def test_never_more_than_the_hold_holds_and_the_rest_stays_due(available: int) -> None:
    posted = dataclasses.replace(NOTHING, available=available)
    due = billable(RATES, reading(), posted)
    assert due.total == min(max(0, available), 1600)
    assert due.cut_short == (available < 1600)
    assert due.owner == min(max(0, available), 600)  # the owner first
    rest = dataclasses.replace(after(due, posted), available=1 << 40)
    assert due.total + billable(RATES, reading(), rest).total == 1600


def test_counts_that_fall_take_nothing_back() -> None:
    first = billable(RATES, reading(), NOTHING)
    worse = billable(RATES, reading(milliseconds=1, tokens=1), after(first, NOTHING))
    assert (worse.total, worse.lease_gross) == (0, first.lease_gross)


def test_evaluation_is_paid_when_it_is_done_and_once() -> None:
    whole = rates(meter=Meter.RUN, ceiling=400, fee_ppm=0)
    working = reading(step=0, committed_step=0)
    done = dataclasses.replace(working, done=True)
    assert run(whole, [working]) == (0, 0, 0)
    assert run(whole, [working, done]) == (400, 600, 0)
    assert run(whole, [done], dataclasses.replace(NOTHING, paid_before_step=1)) == (0, 0, 0)


def test_served_tokens_pay_the_lesser_of_time_and_tokens() -> None:
    served = rates(meter=Meter.TOKENS, ceiling=2_000_000, fee_ppm=0, royalty_per_job=0)
    assert run(served, [reading(step=0, tokens=100)]) == (200, 100, 0)
    assert run(served, [reading(step=0, tokens=100, milliseconds=50)])[0] == 50
