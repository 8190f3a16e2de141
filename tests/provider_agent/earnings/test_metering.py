"""The host computes what the market computes: one rule, stated twice, held equal."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace import metering as market
from marketplace.models import Meter
from marketplace.wire_hosts import JobMeter
from provider_agent.earnings import metering as host

MONEY = st.integers(min_value=0, max_value=10**12)
STEPS = st.integers(min_value=0, max_value=2000)


@st.composite
def lives(draw: st.DrawFn) -> tuple[market.Rates, list[market.Reading], market.Posted]:
    """The rates of a lease, its cumulative readings, and where its job stood before."""
    rates = market.Rates(
        price_per_gpu_hour=draw(st.integers(min_value=0, max_value=10**9)),
        gpus=draw(st.integers(min_value=1, max_value=8)),
        meter=draw(st.sampled_from(Meter)),
        ceiling=draw(st.integers(min_value=0, max_value=10**8)),
        checkpoint_steps=draw(st.integers(min_value=1, max_value=50)),
        royalty_per_job=draw(st.integers(min_value=0, max_value=10**6)),
        royalty_per_million_tokens=draw(st.integers(min_value=0, max_value=10**7)),
        fee_ppm=draw(st.integers(min_value=0, max_value=1_000_000)),
    )
    first = draw(STEPS)
    step, milliseconds, tokens, committed = first, 0, 0, first
    readings = []
    for _ in range(draw(st.integers(min_value=1, max_value=5))):
        step += draw(st.integers(min_value=0, max_value=100))
        milliseconds += draw(st.integers(min_value=0, max_value=10**8))
        tokens += draw(st.integers(min_value=0, max_value=10**7))
        committed = draw(st.integers(min_value=committed, max_value=max(committed, step)))
        readings.append(
            market.Reading(
                milliseconds=milliseconds,
                first_step=first,
                step=step,
                tokens=tokens,
                committed_step=committed,
                done=False,
            )
        )
    readings[-1] = dataclasses.replace(readings[-1], done=draw(st.booleans()))
    before = market.Posted(
        paid_before_step=draw(STEPS),
        paid_through_step=0,
        lease_gross=0,
        lease_fee=0,
        lease_tokens=0,
        job_royalty=draw(st.sampled_from((0, 1, 50_000, 10**9))),
        job_tokens=draw(st.sampled_from((0, 10**6, 10**9))),
        available=draw(MONEY),
    )
    return rates, readings, before


@settings(max_examples=200, deadline=None)
@given(lives())
def test_host_and_market_come_to_the_same_amounts_receipt_by_receipt(
    life: tuple[market.Rates, list[market.Reading], market.Posted],
) -> None:
    rates, readings, posted = life
    mine = host.Rates(**dataclasses.asdict(rates) | {"meter": JobMeter(rates.meter.value)})
    before = host.Before(
        paid_before_step=posted.paid_before_step,
        job_royalty=posted.job_royalty,
        job_tokens=posted.job_tokens,
        available=posted.available,
    )
    for reading in readings:
        due = market.billable(rates, reading, posted)
        owed = host.owed(mine, host.Reading(**dataclasses.asdict(reading)), before)
        assert (owed.host, owed.owner, owed.fee) == (due.host, due.owner, due.fee)
        assert (owed.gross_sum, owed.fee_sum) == (due.lease_gross, due.lease_fee)
        assert owed.tokens_sum == due.lease_tokens
        assert ("hold-used-up" in owed.why) == (due.lease_gross < _whole(rates, reading, posted))
        left = posted.available - due.total
        posted = dataclasses.replace(
            posted,
            paid_through_step=due.paid_through_step,
            lease_gross=due.lease_gross,
            lease_fee=due.lease_fee,
            lease_tokens=due.lease_tokens,
            job_royalty=due.job_royalty,
            job_tokens=due.job_tokens,
            available=left,
        )
        before = dataclasses.replace(
            before,
            gross=owed.gross_sum,
            fee=owed.fee_sum,
            tokens=owed.tokens_sum,
            job_royalty=due.job_royalty,
            job_tokens=due.job_tokens,
            available=left,
        )


def _whole(rates: market.Rates, reading: market.Reading, posted: market.Posted) -> int:
    """The lease's gross if the hold had no bottom."""
    rich = dataclasses.replace(posted, available=10**30)
    return market.billable(rates, reading, rich).lease_gross
