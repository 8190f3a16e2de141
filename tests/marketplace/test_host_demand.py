"""Why an offer gets no leases: by the scheduler's own predicates, and without telling a bid."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select

from marketplace import host_demand, jobs, ledger, orders, wire_hosts
from marketplace.host_demand import Demand, Machine, demand_view, losses, lost_by
from marketplace.ids import IdKind
from marketplace.models import Offer, OfferState
from marketplace.offers import MoveOffer, move_offer
from marketplace.store import Store
from scheduler.predicates import CHECKS, Available, Predicate, Wanted
from tests.marketplace.world import (
    CREDIT,
    HOST,
    HOST_2,
    HOUR,
    NOW,
    World,
    key,
    list_offer,
    manifest,
    new_id,
    terms,
    xfer,
)
from trust import jobs as documents
from trust.identity import PartyKey

CHOICES = st.integers(min_value=0, max_value=3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Demand, Machine]:
    """An order and an offer that are near each other in everything."""
    demand = Demand(
        order="ordr", buyer="buyer", placed_at=0,
        platform=draw(st.sampled_from(("sev-snp", "tdx"))),
        gpu_model=draw(st.sampled_from(("cpu", "h100"))),
        gpus=draw(CHOICES), memory_mib=draw(CHOICES),
        compute_class=draw(st.sampled_from((None, "a=1", "a=1;b=2"))),
        interruptible=draw(st.booleans()), bid=draw(CHOICES),
    )  # fmt: skip
    machine = Machine(
        platform=draw(st.sampled_from(("sev-snp", "tdx"))),
        gpu_model=draw(st.sampled_from(("cpu", "h100"))),
        gpus=draw(CHOICES), memory_mib=draw(CHOICES),
        compute_class=draw(st.sampled_from(("a=1", "b=2", "c=3"))),
        ends_at=draw(CHOICES), ask=draw(CHOICES), floor=draw(st.none() | CHOICES),
    )  # fmt: skip
    return demand, machine


@settings(max_examples=200, deadline=None)
@given(pairs(), CHOICES)
def test_the_predicates_and_their_order_are_the_schedulers(
    pair: tuple[Demand, Machine], now: int
) -> None:
    demand, machine = pair
    wanted = Wanted(
        order=demand.order, placed_at=0, ranks=(0,), platform=demand.platform,
        gpu_model=demand.gpu_model, gpus=demand.gpus, memory_mib=demand.memory_mib,
        compute_class=demand.compute_class, lasts_until=now,
        interruptible=demand.interruptible, bid=demand.bid,
    )  # fmt: skip
    offer = Available(
        offer="offr", version=1, host="host", platform=machine.platform,
        gpu_model=machine.gpu_model, gpus=machine.gpus, memory_mib=machine.memory_mib,
        compute_class=machine.compute_class, ends_at=machine.ends_at, ask=machine.ask,
        floor=machine.floor, reliability_ppm=1,
    )  # fmt: skip
    failing = (
        name.value for name, check in CHECKS.items() if not check.holds(wanted, offer, set())
    )
    assert lost_by(demand, machine, now) == next(failing, None)


def test_no_predicate_of_the_scheduler_is_left_out() -> None:
    mine = [check.name for check in host_demand.CHECKS]
    assert mine == [each.value for each in CHECKS if each is not Predicate.FREE]


# --- the nearest miss ----------------------------------------------------------------------------

MACHINE = Machine(
    platform="simulated", gpu_model="cpu", gpus=1, memory_mib=1024, compute_class="cpu/x86",
    ends_at=NOW + HOUR, ask=2_400_000, floor=None,
)  # fmt: skip


def demand(number: int, *, buyer: int | None = None, **changes: object) -> Demand:
    values = {
        "order": f"ordr_{number}",
        "buyer": f"buyer{number if buyer is None else buyer}",
        "placed_at": NOW,
        "platform": "simulated",
        "gpu_model": "cpu",
        "gpus": 1,
        "memory_mib": 512,
        "compute_class": None,
        "interruptible": False,
        "bid": 3_000_000,
    }
    return Demand(**values | changes)


def test_the_nearest_miss_is_told_in_plain_numbers() -> None:
    bids = (2_210_000, 2_100_000, 1_000_000, 500_000, 1, 0)
    orders_ = [demand(n, bid=bid) for n, bid in enumerate(bids)]
    orders_ += [demand(n) for n in range(10, 13)]
    (lost,) = losses(orders_, MACHINE, NOW)
    assert (lost.predicate, lost.orders, lost.buyers) == ("price", 6, 6)
    assert lost.nearest == "your ask 2.40, bids to 2.21"


@pytest.mark.parametrize(
    "changes",
    [{"bid": 2_000_001}, {"memory_mib": 4097}, {"gpus": 8}],
)
def test_a_number_of_fewer_than_three_buyers_is_not_told(changes: dict[str, int]) -> None:
    """Nobody's bid is read off: six orders of two buyers count, and say no number."""
    two = [demand(n, buyer=n % 2, **changes) for n in range(6)]
    (lost,) = losses(two, MACHINE, NOW)
    assert (lost.orders, lost.buyers, lost.nearest) == (6, 2, "")
    three = [demand(n, buyer=n % 3, **changes) for n in range(6)]
    assert losses(three, MACHINE, NOW)[0].nearest != ""


def test_an_interruptible_order_is_lost_by_the_floor() -> None:
    machine = Machine(**{**_plain(MACHINE), "floor": 1_500_000})
    low = [demand(n, interruptible=True, bid=1_200_000 + n) for n in range(3)]
    (lost,) = losses(low, machine, NOW)
    assert lost.nearest == "your floor 1.50, bids to 1.200002"
    (lost,) = losses(low, MACHINE, NOW)
    assert (lost.predicate, lost.nearest) == (
        "interruptible",
        "your offer names no floor for interruptible orders",
    )


def _plain(machine: Machine) -> dict[str, object]:
    return {name: getattr(machine, name) for name in Machine.__slots__}


# --- from the book -------------------------------------------------------------------------------


def place(session: Session, buyer: PartyKey, price: int, **changes: object) -> str:
    """A job of another buyer with its order, placed now."""
    agreed = terms()
    bid = documents.Bid(
        kind=documents.BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=price, notice_seconds=0
    )
    signed = manifest(agreed, buyer, bid=bid, **changes)
    top_up = ledger.TopUp(id=xfer(), buyer=buyer.identity, provider="test", amount=9 * CREDIT)
    ledger.top_up(session, top_up, NOW)
    submit = jobs.SubmitJob(manifest=signed, terms=agreed, undertaken=False, fee_ppm=0)
    jobs.submit_job(session, submit, NOW)
    name = new_id(IdKind.ORDER)
    orders.place_order(
        session,
        orders.PlaceOrder(
            id=name, hold=new_id(IdKind.HOLD), transfer=xfer(), buyer=buyer.identity,
            job=signed.digest, amount=CREDIT,
        ),
        NOW,
    )  # fmt: skip
    return name


def view_of(store: Store, offer: str, *, hours: int = 24, now: int = NOW) -> wire_hosts.DemandView:
    with store.reading() as session:
        return demand_view(session, session.get_one(Offer, offer), hours=hours, now=now)


def test_orders_of_the_book_are_counted_by_what_each_found_wanting(store: Store) -> None:
    with store.transaction() as session:
        offer = list_offer(session, ask=2_400_000)
        for number in range(10, 14):
            place(session, key(number), 2_000_000 + number)
        place(session, key(20), 3_000_000)
        other = documents.Resources(gpu_model="h100", gpus=1, memory_mib=1, platform="simulated")
        place(session, key(21), 3_000_000, resources=other)
    view = view_of(store, offer)
    assert (view.orders, view.fits, view.won, view.book) == (5, 1, 0, "")
    assert [(each.predicate, each.orders, each.nearest) for each in view.lost] == [
        ("price", 4, "your ask 2.40, bids to 2.000013"),
        ("not_matched_yet", 1, "a party of the order is not ready"),
    ]
    assert view_of(store, offer, hours=1, now=NOW + 2 * HOUR).orders == 0


def test_what_others_were_leased_for_is_history_without_names(store: Store) -> None:
    world = World.make(store)
    with store.transaction() as session:
        mine = list_offer(session, ask=1_500_000)
    world.run(HOST_2, NOW + 90_001, ask=CREDIT)
    view = view_of(store, mine, now=NOW + HOUR)
    (lost,) = view.lost
    assert (lost.predicate, lost.nearest) == (
        "ranked_after_others",
        "your ask 1.50, theirs to 1.00",
    )
    (match,) = view.matches
    assert match == wire_hosts.PastMatch(
        at=NOW + 60_000,  # to the minute: it is another's
        price_microcredits_per_gpu_hour=CREDIT,
        minutes=0,
        interruptible=False,
        mine=False,
    )
    assert not {"host", "buyer", "lease", "offer"} & set(match.to_json())


def test_own_leases_are_won_and_marked(store: Store) -> None:
    world = World.make(store)
    lease = world.run(HOST)
    with store.reading() as session:
        (offer,) = session.exec(select(Offer)).all()
        view = demand_view(session, offer, hours=24, now=NOW + HOUR)
    assert (view.won, view.fits, view.lost, view.book) == (1, 1, (), "leased now")
    assert view.matches[0].mine
    assert lease


def test_an_offer_that_is_off_the_book_says_why(store: Store) -> None:
    with store.transaction() as session:
        offer = list_offer(session)
        move_offer(
            session,
            MoveOffer(id=offer, version=1, to=OfferState.UNLISTED, actor="host", reason="test"),
            NOW,
        )
    assert view_of(store, offer).book == "withdrawn"
    assert set(host_demand.BOOK) == set(OfferState)
