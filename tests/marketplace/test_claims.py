"""Claims: one of N wins, and what doesn't fit is no match."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from marketplace import claims, jobs, leases, ledger, offers, orders
from marketplace.claims import ClaimResult
from marketplace.ids import IdKind
from marketplace.models import JobState, LeaseState, OfferState, OrderState
from marketplace.store import Store
from tests.marketplace.test_ledger import at_once
from tests.marketplace.world import (
    CREDIT,
    DAY,
    HOUR,
    NOW,
    OPERATOR,
    World,
    list_offer,
    new_id,
    offer_terms,
)
from trust.errors import RefusedError
from trust.jobs import Bid, BidKind, Resources


def command(world: World, offer: str, **changes: object) -> claims.ClaimOffer:
    values = {
        "id": new_id(IdKind.LEASE),
        "order": world.order,
        "rank": 0,
        "offer": offer,
        "offer_version": 1,
        "actor": OPERATOR,
    }
    return claims.ClaimOffer(**values | changes)


def claim(world: World, each: claims.ClaimOffer, now: int = NOW) -> ClaimResult:
    with world.store.transaction() as session:
        return claims.claim(session, each, now)


def refused(world: World, each: claims.ClaimOffer, code: str, now: int = NOW) -> None:
    with pytest.raises(RefusedError, match=f"^{code}:"):
        claim(world, each, now)
    with world.store.reading() as session:
        assert ledger.audit(session) == ()


def offer_of(store: Store, **changes: object) -> str:
    with store.transaction() as session:
        return list_offer(session, **changes)


def test_claim_makes_a_lease_at_the_offers_terms(store: Store) -> None:
    world, offer = World.make(store), offer_of(store)
    each = command(world, offer)
    assert claim(world, each) is ClaimResult.CLAIMED
    assert claim(world, each) is ClaimResult.EXISTS
    with store.transaction() as session:
        found = offers.find_offer(session, offer)
        assert (found.state, found.version) == (OfferState.CLAIMED, 2)
        offers.change_offer(
            session, offers.ChangeOffer(id=offer, version=2, terms=offer_terms(ask=9)), NOW
        )
        lease = leases.find_lease(session, each.id)
        assert (lease.state, lease.price, lease.offer_terms_number) == (
            LeaseState.CLAIMED,
            CREDIT,
            1,
        )
        assert orders.find_order(session, world.order).state is OrderState.LEASED
        assert jobs.find_job(session, world.job).state is JobState.PLACED
    world.check()


def test_of_n_concurrent_claims_exactly_one_wins(store: Store) -> None:
    """One offer sold N times: what skypilot-org/skypilot#9117 saw."""
    worlds, offer = [World.make(store) for _ in range(8)], offer_of(store)

    def one(index: int) -> ClaimResult:
        return claim(worlds[index], command(worlds[index], offer))

    results = at_once(8, one)
    assert sorted(results) == sorted([ClaimResult.CLAIMED] + [ClaimResult.CLAIM_LOST] * 7)
    with store.reading() as session:
        live = [
            lease
            for world in worlds
            for lease in leases.leases_of(session, world.job)
            if lease.state in leases.LIVE
        ]
        assert len(live) == 1
        assert ledger.audit(session) == ()


def test_lost_claim_is_on_record_at_no_charge_and_stays_lost(store: Store) -> None:
    world, offer = World.make(store), offer_of(store)
    each = command(world, offer, offer_version=2)
    assert claim(world, each) is ClaimResult.CLAIM_LOST
    assert claim(world, each) is ClaimResult.CLAIM_LOST
    with store.reading() as session:
        assert leases.find_lease(session, each.id).state is LeaseState.CLAIM_LOST
        assert offers.find_offer(session, offer).state is OfferState.LISTED
        assert orders.find_order(session, world.order).state is OrderState.OPEN
    assert claim(world, command(world, offer)) is ClaimResult.CLAIMED


def test_price_raised_after_the_match_loses_the_claim(store: Store) -> None:
    world, offer = World.make(store), offer_of(store)
    with store.transaction() as session:
        change = offers.ChangeOffer(id=offer, version=1, terms=offer_terms(ask=2 * CREDIT))
        offers.change_offer(session, change, NOW)
    assert claim(world, command(world, offer)) is ClaimResult.CLAIM_LOST


def test_other_claim_under_the_same_id_is_refused(store: Store) -> None:
    world, offer, other = World.make(store), offer_of(store), offer_of(store)
    each = command(world, offer)
    claim(world, each)
    refused(world, dataclasses.replace(each, offer=other), "exists-with-different-terms")
    refused(world, dataclasses.replace(each, rank=1), "exists-with-different-terms")


def test_rank_with_a_live_lease_gets_no_second(store: Store) -> None:
    world = World.make(store, enclaves=2)
    one, other = offer_of(store), offer_of(store)
    assert claim(world, command(world, one)) is ClaimResult.CLAIMED
    refused(world, command(world, other), "rank-is-leased")
    refused(world, command(world, other, rank=2), "wrong-rank")
    with store.reading() as session:
        assert orders.find_order(session, world.order).state is OrderState.OPEN
    assert claim(world, command(world, other, rank=1)) is ClaimResult.CLAIMED
    with store.reading() as session:
        assert orders.find_order(session, world.order).state is OrderState.LEASED


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"platform": "snp"}, "platform"),
        ({"gpu_model": "h100"}, "gpu model"),
        ({"gpus": 2}, "gpus"),
        ({"memory_mib": 511}, "memory"),
        ({"ask": 2 * CREDIT + 1}, "price"),
    ],
)
def test_infeasible_offer_is_never_claimed(
    store: Store, changes: dict[str, object], word: str
) -> None:
    """Confidential is a hard predicate: akash-network/console#3387."""
    world = World.make(store)
    each = command(world, offer_of(store, **changes))
    with pytest.raises(RefusedError, match=f"infeasible: .*{word}"):
        claim(world, each)


def test_offer_past_its_end_is_never_claimed(store: Store) -> None:
    world = World.make(store)
    refused(world, command(world, offer_of(store)), "infeasible", NOW + 20 * HOUR)


def bid(price: int) -> dict[str, object]:
    kind = BidKind.INTERRUPTIBLE
    return {"bid": Bid(kind=kind, price_microcredits_per_gpu_hour=price, notice_seconds=0)}


@pytest.mark.parametrize(
    ("price", "floor", "wanted"), [(700, 500, 700), (5000, 500, 1000), (500, 500, 500)]
)
def test_interruptible_order_pays_its_bid_between_floor_and_ask(
    store: Store, price: int, floor: int, wanted: int
) -> None:
    world = World.make(store, **bid(price))
    each = command(world, offer_of(store, ask=1000, floor=floor))
    assert claim(world, each) is ClaimResult.CLAIMED
    with store.reading() as session:
        assert leases.find_lease(session, each.id).price == wanted
    world.check()


def test_interruptible_order_below_the_floor_or_without_one_is_infeasible(store: Store) -> None:
    world = World.make(store, **bid(499))
    refused(world, command(world, offer_of(store, ask=1000, floor=500)), "infeasible")
    refused(world, command(world, offer_of(store, ask=100)), "infeasible")


def test_order_without_money_left_or_past_its_deadline_claims_nothing(store: Store) -> None:
    world, offer = World.make(store, amount=1000), offer_of(store)
    refused(world, command(world, offer), "order-not-open", NOW + DAY)
    lease = world.run()
    world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, step=10)  # all of it
    world.lose(lease, now=NOW + HOUR)
    refused(world, command(world, offer), "not-funded", NOW + HOUR)


def test_ended_order_claims_nothing(store: Store) -> None:
    world, offer = World.make(store), offer_of(store)
    with store.transaction() as session:
        command_ = orders.EndOrder(
            id=world.order, version=1, to=OrderState.CANCELLED, actor=OPERATOR, reason="x"
        )
        orders.end_order(session, command_, NOW)
    refused(world, command(world, offer), "order-not-open")


def test_unknown_offer_or_order_is_refused(store: Store) -> None:
    world, offer = World.make(store), offer_of(store)
    refused(world, command(world, new_id(IdKind.OFFER)), "offer-unknown")
    refused(world, command(world, offer, order=new_id(IdKind.ORDER)), "order-unknown")


def test_database_keeps_a_machine_in_one_live_lease(store: Store) -> None:
    """The unique index stands behind the compare-and-set: a writer that skips it is stopped."""
    worlds, offer = [World.make(store) for _ in range(2)], offer_of(store)
    claim(worlds[0], command(worlds[0], offer))
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE offer SET state = 'listed'")
    with pytest.raises(sa.exc.IntegrityError, match=r"lease\.offer_id"):
        claim(worlds[1], command(worlds[1], offer, offer_version=2))


def test_resources_of_gpu_jobs_match_their_kind(store: Store) -> None:
    wanted = Resources(gpu_model="h100", gpus=8, memory_mib=1, platform="snp")
    world = World.make(store, resources=wanted)
    fits = {"gpu_model": "h100", "gpus": 8, "platform": "snp"}
    assert claim(world, command(world, offer_of(store, **fits))) is ClaimResult.CLAIMED
