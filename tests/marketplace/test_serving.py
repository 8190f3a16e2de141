"""A serve job's money: the lesser of time and served tokens, by receipts that tell no more."""

from __future__ import annotations

import pytest

from marketplace import jobs, settlement
from marketplace.leases import find_lease
from marketplace.ledger import balance
from marketplace.models import AccountRole, Meter
from marketplace.receipts import (
    SERVED_TOKENS_UNIT,
    DecreasingError,
    ReceiptError,
    UnknownKeyError,
    WrongCountError,
)
from marketplace.settlement import SettleResult
from marketplace.store import Store
from tests.marketplace.world import (
    CREDIT,
    DAY,
    HOST,
    HOUR,
    NOW,
    OWNER,
    STRANGER,
    UNDERTAKEN,
    World,
    manifest,
    serving,
    terms,
)
from trust import jobs as documents
from trust.errors import RefusedError
from trust.messages import End

UNIT = SERVED_TOKENS_UNIT
FEE_PPM = 100_000  # of `World.make`


def served(store: Store, **changes: object) -> World:
    return World.make(store, **serving(**changes))


def test_a_serve_job_is_metered_by_tokens_at_the_undertaken_price_and_no_flat_one(
    store: Store,
) -> None:
    world = served(store)
    with store.reading() as session:
        job = jobs.find_job(session, world.job)
        assert (job.meter, job.ceiling) == (Meter.TOKENS, 4 * CREDIT)
        assert (job.royalty_per_job, job.royalty_per_million_tokens) == (0, UNDERTAKEN)


def test_a_receipt_of_serving_pays_the_lesser_of_time_and_tokens(store: Store) -> None:
    world = served(store)
    lease = world.run()
    # An hour costs 1 credit; 2¹⁶ tokens at 4 credits a million are worth about a quarter of that.
    found = world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, tokens=UNIT).settlement
    gross = 4 * UNIT
    assert found.host_amount == gross - gross * FEE_PPM // 1_000_000
    assert found.owner_amount == UNDERTAKEN * UNIT // 1_000_000
    # Then many tokens in little time: its time alone is paid, and the owner's tokens all.
    found = world.settle(
        lease, now=NOW + HOUR + 60_000, milliseconds=HOUR + 60_000, tokens=100 * UNIT
    ).settlement
    hour = CREDIT * (HOUR + 60_000) // HOUR
    assert found.host_amount + found.fee_amount == hour - gross
    assert found.job_royalty == UNDERTAKEN * 100 * UNIT // 1_000_000
    world.check()


def test_time_that_a_receipt_claims_beyond_the_markets_clock_is_not_paid(store: Store) -> None:
    world = served(store)
    lease = world.run()
    found = world.settle(lease, now=NOW + HOUR, milliseconds=9 * HOUR, tokens=100 * UNIT)
    assert found.settlement.lease_gross == CREDIT


@pytest.mark.parametrize(
    "counts",
    [
        {"tokens": UNIT + 1},
        {"tokens": 1},
        {"tokens": UNIT, "step": 1},
        {"tokens": UNIT, "step": 5, "first_step": 5},
    ],
    ids=["finer", "one", "a step", "another beginning"],
)
def test_a_receipt_that_counts_what_serving_has_not_is_refused(
    store: Store, counts: dict[str, int]
) -> None:
    world = served(store)
    lease = world.run()
    with pytest.raises(WrongCountError):
        world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, **counts)
    with store.reading() as session:
        assert settlement.settlements_of(session, world.job) == ()


def test_a_training_receipt_may_count_any_tokens(store: Store) -> None:
    world = World.make(store)
    lease = world.run()
    found = world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, step=5, tokens=5 * 1024 + 1)
    assert found.result is SettleResult.SETTLED


def test_tokens_that_fall_and_receipts_of_another_key_are_refused(store: Store) -> None:
    world = served(store)
    lease = world.run()
    world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, tokens=3 * UNIT)
    with pytest.raises(DecreasingError):
        world.settle(lease, now=NOW + 2 * HOUR, milliseconds=2 * HOUR, tokens=2 * UNIT)
    inflated = world.receipt(lease, signer=HOST, milliseconds=2 * HOUR, tokens=900 * UNIT)
    with pytest.raises(UnknownKeyError):
        world.settle(lease, now=NOW + 2 * HOUR, signed=inflated)
    world.check()


def test_a_hold_pays_for_time_until_it_is_used_up_whatever_was_settled(store: Store) -> None:
    world = served(store)  # 5 credits at 1 credit an hour
    lease = world.run()

    def until() -> int | None:
        with store.reading() as session:
            return settlement.pays_until(session, find_lease(session, lease))

    assert until() == NOW + 5 * HOUR
    world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, tokens=100 * UNIT)
    royalty = UNDERTAKEN * 100 * UNIT // 1_000_000
    assert until() == NOW + (5 * CREDIT - royalty) * HOUR // CREDIT
    with pytest.raises(ReceiptError):
        world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, tokens=99 * UNIT)
    world.settle(lease, now=NOW + 6 * HOUR, milliseconds=6 * HOUR, tokens=400 * UNIT)
    found = until()
    assert found is not None
    assert found < NOW + 6 * HOUR
    world.check()


def test_a_lease_that_costs_nothing_by_time_is_paid_for_ever(store: Store) -> None:
    world = served(store)
    lease = world.run(ask=0)
    with store.reading() as session:
        assert settlement.pays_until(session, find_lease(session, lease)) is None


def test_a_hold_that_is_used_up_pays_the_owner_first_and_no_more_than_it_held(
    store: Store,
) -> None:
    world = served(store)
    lease = world.run()
    found = world.settle(
        lease, now=NOW + 9 * HOUR, milliseconds=9 * HOUR, tokens=60 * UNIT, end=End.OUT_OF_BUDGET
    )
    assert found.result is SettleResult.CUT_SHORT
    whole = found.settlement
    assert whole.owner_amount == UNDERTAKEN * 60 * UNIT // 1_000_000
    assert whole.host_amount + whole.fee_amount + whole.owner_amount == 5 * CREDIT
    with store.reading() as session:
        host = balance(session, AccountRole.HOST_PENDING, HOST.identity)
        owner = balance(session, AccountRole.OWNER_PENDING, OWNER.identity)
    assert (host, owner) == (whole.host_amount, whole.owner_amount)
    world.check()


def test_tokens_of_a_lost_host_are_not_paid_to_the_next(store: Store) -> None:
    world = served(store)
    first = world.run()
    world.settle(first, now=NOW + HOUR, milliseconds=HOUR, tokens=100 * UNIT)
    world.lose(first, now=NOW + HOUR)
    second = world.run(STRANGER, now=NOW + 2 * HOUR)
    found = world.settle(second, now=NOW + 2 * HOUR, milliseconds=0, tokens=UNIT).settlement
    assert (found.host_amount, found.job_tokens) == (0, 101 * UNIT)
    late = world.receipt(first, generation=1, milliseconds=HOUR, tokens=200 * UNIT)
    with pytest.raises(ReceiptError, match="receipt-old-generation"):
        world.settle(first, now=NOW + 2 * HOUR, signed=late)
    world.check()


@pytest.mark.parametrize("undertaken", [False, True])
def test_expired_terms_are_good_for_what_they_undertook_alone(
    store: Store, undertaken: bool
) -> None:
    agreed = terms(
        expires_at=NOW,
        undertaking=documents.Undertaking(
            until=NOW + DAY, price_microcredits_per_million_tokens=UNDERTAKEN
        ),
    )
    command = jobs.SubmitJob(
        manifest=manifest(agreed, **serving()), terms=agreed, undertaken=undertaken, fee_ppm=0
    )
    if undertaken:
        with store.transaction() as session:
            jobs.submit_job(session, command, NOW)
        return
    with pytest.raises(RefusedError, match="terms-expired"), store.transaction() as session:
        jobs.submit_job(session, command, NOW)


def test_an_undertaking_that_is_over_binds_nobody(store: Store) -> None:
    agreed = terms(
        undertaking=documents.Undertaking(until=NOW, price_microcredits_per_million_tokens=1)
    )
    command = jobs.SubmitJob(
        manifest=manifest(agreed, **serving()), terms=agreed, undertaken=True, fee_ppm=0
    )
    with pytest.raises(RefusedError, match="terms-expired"), store.transaction() as session:
        jobs.submit_job(session, command, NOW)
