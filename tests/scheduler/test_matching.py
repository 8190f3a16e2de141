"""Promises of matching, over any book that hypothesis draws."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.matching import PPM, feasible, match, reliability_ppm, shard_of, weighed_price
from scheduler.predicates import CHECKS, Available, Failures, Predicate, Wanted, price_of

HOSTS = ("host-a", "host-b", "host-c")
PLATFORMS = ("sev-snp", "tdx")
MODELS = ("cpu", "h100")


def offer(name: str, **changes: object) -> Available:
    plain = Available(
        offer=name,
        version=1,
        host=f"host of {name}",
        platform="sev-snp",
        gpu_model="h100",
        gpus=1,
        memory_mib=80 << 10,
        compute_class="class-1",
        ends_at=1_000_000,
        ask=2_000_000,
        floor=None,
        reliability_ppm=600_000,
    )
    return dataclasses.replace(plain, **changes)


def order(name: str, **changes: object) -> Wanted:
    plain = Wanted(
        order=name,
        placed_at=1,
        ranks=(0,),
        platform="sev-snp",
        gpu_model="h100",
        gpus=1,
        memory_mib=1024,
        compute_class=None,
        lasts_until=0,
        interruptible=False,
        bid=3_000_000,
    )
    return dataclasses.replace(plain, **changes)


def placed(orders: list[Wanted], offers: list[Available]) -> dict[str, tuple[str, ...]]:
    found = match(orders, offers).placements
    return {each.order: tuple(m.offer.offer for m in each.matches) for each in found}


few = st.integers(min_value=1, max_value=4)
offers = st.lists(
    st.builds(
        offer,
        st.integers(0, 30).map(lambda n: f"offr-{n:02}"),
        host=st.sampled_from(HOSTS),
        platform=st.sampled_from(PLATFORMS),
        gpu_model=st.sampled_from(MODELS),
        gpus=st.integers(1, 2),
        memory_mib=few.map(lambda n: n << 10),
        compute_class=st.sampled_from(("class-1", "class-2")),
        ends_at=few,
        ask=st.integers(5, 12),
        floor=st.none() | st.integers(0, 5),
        reliability_ppm=st.integers(1, PPM),
        free=st.booleans(),
    ),
    max_size=14,
    unique_by=lambda each: each.offer,
)
orders = st.lists(
    st.builds(
        order,
        st.integers(0, 30).map(lambda n: f"ordr-{n:02}"),
        placed_at=few,
        ranks=st.integers(1, 3).map(lambda n: tuple(range(n))),
        platform=st.sampled_from(PLATFORMS),
        gpu_model=st.sampled_from(MODELS),
        gpus=st.integers(1, 2),
        memory_mib=few.map(lambda n: n << 10),
        compute_class=st.none() | st.sampled_from(("class-1", "class-2")),
        lasts_until=st.integers(0, 3),
        interruptible=st.booleans(),
        bid=st.integers(0, 14),
        failures=st.lists(
            st.builds(Failures, host=st.sampled_from(HOSTS), times=few),
            max_size=3,
            unique_by=lambda each: each.host,
        ).map(tuple),
    ),
    max_size=6,
    unique_by=lambda each: each.order,
)


@given(orders, offers)
def test_no_offer_is_matched_twice_and_each_match_is_feasible(
    asked: list[Wanted], book: list[Available]
) -> None:
    result = match(asked, book)
    by_order = {each.order: each for each in asked}
    used = [m.offer.offer for placement in result.placements for m in placement.matches]
    assert len(used) == len(set(used))
    for placement in result.placements:
        wanted = by_order[placement.order]
        assert tuple(m.rank for m in placement.matches) == wanted.ranks
        assert len({m.offer.compute_class for m in placement.matches}) == 1
        for m in placement.matches:
            assert m.offer in book
            assert m.offer.free
            assert m.offer.platform == wanted.platform
            assert m.offer.gpu_model == wanted.gpu_model
            assert m.offer.gpus == wanted.gpus
            assert m.offer.memory_mib >= wanted.memory_mib
            assert wanted.compute_class in (None, m.offer.compute_class)
            assert m.offer.ends_at > wanted.lasts_until
            assert m.price <= wanted.bid
            if wanted.interruptible:
                assert m.offer.floor is not None
                assert m.offer.floor <= m.price <= m.offer.ask
            else:
                assert m.price == m.offer.ask


@given(orders, offers)
@settings(max_examples=200)
def test_an_earlier_order_is_left_no_better_choice(
    asked: list[Wanted], book: list[Available]
) -> None:
    """Replayed by brute force: every set of machines of one class, in the order of serving."""
    result = match(asked, book)
    got = {each.order: each for each in result.placements}
    left = list(book)
    for wanted in sorted(asked, key=lambda each: (each.placed_at, each.order)):
        failed = {each.host: each.times for each in wanted.failures}
        fitting = [each for each in left if feasible(wanted, each)]
        sets = [
            each
            for each in combinations(fitting, len(wanted.ranks))
            if len({o.compute_class for o in each}) == 1
        ]
        if not sets:
            assert wanted.order not in got
            continue

        def cost(chosen: tuple[Available, ...]) -> tuple[int, int]:
            prices = [price_of(wanted, each) or 0 for each in chosen]  # noqa: B023
            weighed = [
                weighed_price(price, each.reliability_ppm)
                for price, each in zip(prices, chosen, strict=True)
            ]
            return sum(failed.get(each.host, 0) for each in chosen), sum(weighed)  # noqa: B023

        chosen = tuple(m.offer for m in got[wanted.order].matches)
        assert cost(chosen) == min(cost(each) for each in sets)
        left = [each for each in left if each not in chosen]


@given(orders, offers, st.randoms(use_true_random=False))
def test_the_result_is_the_same_for_any_input_order(asked, book, shuffle) -> None:
    wanted, mixed_asked, mixed_book = match(asked, book), list(asked), list(book)
    shuffle.shuffle(mixed_asked)
    shuffle.shuffle(mixed_book)
    assert match(mixed_asked, mixed_book) == wanted


@given(orders, offers, st.integers(1, 4))
def test_shards_matched_apart_give_what_one_matching_gives(asked, book, shards) -> None:
    whole = match(asked, book)
    parts = set()
    for shard in range(shards):
        mine = [
            [
                each
                for each in every
                if shard_of(platform=each.platform, gpu_model=each.gpu_model, shards=shards)
                == shard
            ]
            for every in (asked, book)
        ]
        parts.update(match(*mine).placements)
    assert parts == set(whole.placements)


@given(orders, offers)
def test_whoever_gets_nothing_is_told_what_each_predicate_left(
    asked: list[Wanted], book: list[Available]
) -> None:
    result = match(asked, book)
    by_order = {each.order: each for each in asked}
    assert len(result.placements) + len(result.unplaced) == len(asked)
    for why in result.unplaced:
        counts = [why.offers, *(step.left for step in why.steps)]
        assert counts == sorted(counts, reverse=True)
        ranks = len(by_order[why.order].ranks)
        assert all(step.left >= ranks for step in why.steps[:-1])
        if why.steps[-1].left >= ranks:
            assert "of one compute class" in why.nearest


# --- by name -------------------------------------------------------------------------------------


def test_every_predicate_has_its_check_in_the_order_of_the_names() -> None:
    assert list(CHECKS) == list(Predicate)


@pytest.mark.parametrize(
    ("predicate", "wanted", "found"),
    [
        (Predicate.PLATFORM, {"platform": "tdx"}, {}),
        (Predicate.GPU_MODEL, {"gpu_model": "h200"}, {}),
        (Predicate.GPUS, {"gpus": 2}, {}),
        (Predicate.GPUS, {}, {"gpus": 2}),
        (Predicate.MEMORY, {"memory_mib": 80 * 1024 + 1}, {}),
        (Predicate.COMPUTE_CLASS, {"compute_class": "class-2"}, {}),
        (Predicate.LASTS, {"lasts_until": 1_000_000}, {}),
        (Predicate.INTERRUPTIBLE, {"interruptible": True}, {}),
        (Predicate.PRICE, {"bid": 1_999_999}, {}),
        (Predicate.PRICE, {"bid": 6, "interruptible": True}, {"floor": 7}),
        (Predicate.FREE, {}, {"free": False}),
    ],
)
def test_each_predicate_alone_turns_a_match_away(predicate, wanted, found) -> None:
    assert placed([order("o")], [offer("a")]) == {"o": ("a",)}
    result = match([order("o", **wanted)], [offer("a", **found)])
    assert result.placements == ()
    assert result.unplaced[0].steps[-1].predicate is predicate
    assert result.unplaced[0].steps[-1].left == 0


def test_the_cheapest_wins_and_equal_offers_are_told_apart_by_id() -> None:
    book = [offer("b", ask=5), offer("a", ask=5), offer("c", ask=4)]
    assert placed([order("1"), order("2"), order("3")], book) == {
        "1": ("c",),
        "2": ("a",),
        "3": ("b",),
    }


def test_an_unreliable_host_must_be_cheaper_by_as_much_as_it_is_worse() -> None:
    good, bad = 900_000, 450_000
    book = [
        offer("good", ask=20, reliability_ppm=good),
        offer("half-price", ask=10, reliability_ppm=bad),
    ]
    assert placed([order("o")], book) == {"o": ("good",)}  # equal: by id
    book[1] = offer("half-price", ask=9, reliability_ppm=bad)
    assert placed([order("o")], book) == {"o": ("half-price",)}


def test_a_failing_host_is_asked_again_only_when_no_other_is_left() -> None:
    cheap, dear = offer("a", ask=1, host="x"), offer("b", ask=9, host="y")
    once = order("o", failures=(Failures(host="x", times=1),))
    assert placed([once], [cheap, dear]) == {"o": ("b",)}
    assert placed([once], [cheap]) == {"o": ("a",)}
    both = order("o", failures=(Failures(host="x", times=1), Failures(host="y", times=1)))
    assert placed([both], [cheap, dear]) == {"o": ("a",)}


def test_a_job_of_two_enclaves_gets_both_on_one_class_or_nothing() -> None:
    two = order("o", ranks=(0, 1))
    book = [
        offer("a", ask=1, compute_class="x"),
        offer("b", ask=8, compute_class="y"),
        offer("c", ask=8, compute_class="y"),
    ]
    assert placed([two], book) == {"o": ("b", "c")}
    result = match([two], book[:2])
    assert result.placements == ()
    assert result.unplaced[0].nearest == "2 offers, no 2 of one compute class"
    assert placed([two, order("p", placed_at=2)], book[:2]) == {"p": ("a",)}


def test_why_no_offer_names_the_nearest_miss() -> None:
    book = [offer("a", ask=214), offer("b", ask=300), offer("c", platform="tdx")]
    assert str(match([order("o", bid=200)], book).unplaced[0]) == (
        "3 offers -> 2 after platform sev-snp -> 0 after price <= 200; nearest 214"
    )
    assert str(match([order("o")], []).unplaced[0]) == "0 offers -> 0 after platform sev-snp"


def test_what_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="an order stands twice"):
        match([order("o"), order("o")], [])
    with pytest.raises(ValueError, match="an offer stands twice"):
        match([], [offer("a"), offer("a", ask=1)])


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_reliability_starts_low_and_moves_with_what_the_host_did(kept: int, failed: int) -> None:
    assert reliability_ppm(kept=0, failed=0) == 600_000
    found = reliability_ppm(kept=kept, failed=failed)
    assert 1 <= found <= PPM
    assert reliability_ppm(kept=kept + 1, failed=failed) >= found
    assert reliability_ppm(kept=kept, failed=failed + 1) <= found


def test_a_pinned_class_of_a_run_is_met_by_a_machine_that_has_its_machine_part() -> None:
    run = "processor=a/1;vectors=v;gpu=cpu;torch=2;ranks=2"
    for machine, fits in (
        ("processor=a/1;vectors=v;gpu=cpu", True),
        (run, True),
        ("processor=a/2;vectors=v;gpu=cpu", False),
        ("processor=a/1;vectors=v;gpu=h100", False),
        ("processor=a/1;vectors=v;gpu=cpu;ranks=3", False),
    ):
        machines = [offer("x", compute_class=machine)]
        assert bool(placed([order("o", compute_class=run)], machines)) is fits
