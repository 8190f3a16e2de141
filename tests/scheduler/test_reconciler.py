"""The reconciler on the market's real tables: promises, stale tokens, and crashes at every step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marketplace import jobs, leases, ledger
from marketplace.models import JobState, LeaseState, OfferState
from marketplace.offers import ChangeOffer, MoveOffer, change_offer, find_offer, move_offer
from marketplace.store import Store
from marketplace.transitions import StaleError, history
from scheduler import decisions, reconciler
from scheduler.decisions import Rule
from scheduler.matching import match, reliability_ppm
from scheduler.reconciler import RoundReport, apply, claim_all, place_orders, supervise_jobs
from scheduler.rows import job_shard, load_available, load_job, load_wanted
from tests.marketplace import world
from tests.marketplace.world import BUYER, HOST, HOST_2, OWNER
from tests.scheduler.town import NAMES, STEPS_PER_TICK, TICK, CrashError, FaultyStore, Town
from trust.encoding import base64url
from trust.errors import RefusedError
from trust.identity import PartyKey
from trust.jobs import Close

TICKS_MAX = 60  # the whole story takes about 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open_file(tmp_path / "market.db")
    yield opened
    with opened.reading() as session:
        assert ledger.audit(session) == ()  # the books balance, whatever the scheduler did
    opened.close()


def rounds(store: Store, now: int) -> tuple[RoundReport, RoundReport]:
    """What the two actors do."""
    placed = place_orders(store, shard=0, shards=1, now=now)
    return placed, supervise_jobs(store, shard=0, shards=1, now=now)


def live(
    town: Town,
    until: Callable[[], bool],
    user: Store | None = None,
    ticks: int = TICKS_MAX,
) -> None:
    """Ticks of town and scheduler; a scheduler that crashed is there again in the next tick."""
    for _ in range(ticks):
        town.tick()
        try:
            rounds(user or town.store, town.now)
        except CrashError:
            continue
        if until():
            return
    raise AssertionError(f"{town.state()} after {ticks} ticks: {town.history()}")


def lose_the_first_host(town: Town) -> Callable[[], bool]:
    """Kill the first host once it has worked for two ticks."""

    def check() -> bool:
        for lease in town.leases():
            done = town.receipts.get(lease.id)
            first = NAMES[lease.host] == "first"
            if first and done is not None and done.step >= 2 * STEPS_PER_TICK:
                town.dead.add("first")
        return town.at_rest()

    return check


def test_a_job_runs_and_gives_its_machine_back(store: Store) -> None:
    town = Town.make(store)
    live(town, town.at_rest)
    assert town.state() is JobState.SUCCEEDED
    (lease,) = town.leases()
    assert (NAMES[lease.host], lease.state, lease.generation) == ("first", LeaseState.CLOSED, 1)
    with store.reading() as session:
        assert find_offer(session, lease.offer_id).state is OfferState.LISTED


def test_a_job_whose_host_dies_goes_on_elsewhere_in_the_next_generation(store: Store) -> None:
    town = Town.make(store)
    live(town, lose_the_first_host(town))
    assert town.state() is JobState.SUCCEEDED
    found = [(NAMES[each.host], each.generation, each.state) for each in town.leases()]
    assert found == [("first", 1, LeaseState.CLOSED), ("second", 2, LeaseState.CLOSED)]
    lost, _ = town.leases()
    with store.reading() as session:
        assert find_offer(session, lost.offer_id).state is OfferState.SUSPENDED
        moves = [each.to_state for each in history(session, lost.id)]
        assert moves[-2:] == ["host_lost", "closed"]


@pytest.mark.parametrize("steps", [0, STEPS_PER_TICK])
def test_a_job_whose_host_polls_and_carries_nothing_goes_on_elsewhere(
    store: Store, steps: int
) -> None:
    """Whether it starves its enclave from the beginning, or after its first receipt."""
    town = Town.make(store)
    if steps == 0:
        town.starving = {"first"}

    def check() -> bool:
        if town.receipts:
            town.starving = {"first"}
        return town.at_rest()

    live(town, check, ticks=leases.FIRST_RECEIPT_SECONDS * 1000 // TICK + TICKS_MAX)
    assert town.state() is JobState.SUCCEEDED
    found = [(NAMES[each.host], each.generation, each.state) for each in town.leases()]
    assert found == [("first", 1, LeaseState.CLOSED), ("second", 2, LeaseState.CLOSED)]
    lost, _ = town.leases()
    with store.reading() as session:
        lost_at = next(e.at_ms for e in history(session, lost.id) if e.to_state == "host_lost")
    seconds = leases.RECEIPT_SECONDS if steps else leases.FIRST_RECEIPT_SECONDS
    assert lost.ready_at_ms is not None
    assert 0 <= lost_at - lost.ready_at_ms - seconds * 1000 <= 4 * TICK


def test_a_job_waits_for_a_broker_that_is_offline_and_goes_on_when_it_is_back(
    store: Store,
) -> None:
    town = Town.make(store)
    town.brokers = {BUYER}
    for _ in range(5):
        town.tick()
        rounds(store, town.now)
    assert town.state() is JobState.QUEUED
    assert town.leases() == []
    assert town.waiting_for() == f"key broker of the model owner {base64url(OWNER.identity)}"
    town.brokers = {BUYER, OWNER}
    live(town, town.at_rest)
    assert town.state() is JobState.SUCCEEDED


def test_a_machine_is_reserved_only_while_its_buyer_may_still_order(store: Store) -> None:
    town = Town.make(store, hosts=1)
    town.buyer_orders = False
    live(town, lambda: town.state() is JobState.PLACED)
    assert town.waiting_for() == "generation order 1 of the buyer"
    assert town.leases()[0].state is LeaseState.CLAIMED
    town.brokers, town.dead = set(), {"first"}  # nobody speaks any more
    live(town, lambda: town.state() is JobState.QUEUED)
    with store.reading() as session:
        assert town.leases()[0].state is LeaseState.CLOSED
        assert find_offer(session, town.leases()[0].offer_id).state is OfferState.LISTED


def test_a_job_that_its_buyer_closed_gives_its_machine_back(store: Store) -> None:
    town = Town.make(store)
    live(town, lambda: town.state() is JobState.RUNNING)
    with store.transaction() as session:
        jobs.close_job(session, BUYER.sign(Close(job=town.job, at=town.now)), town.now)
    live(town, town.at_rest)
    assert town.state() is JobState.CANCELLED


def test_a_job_without_hosts_is_told_why_and_what_was_nearest(store: Store) -> None:
    town = Town.make(store, hosts=0)
    with store.transaction() as session:
        world.list_offer(session, HOST, ask=3 * world.CREDIT)
    town.tick()
    placed, _ = rounds(store, town.now)
    assert placed.applied[0].rule == "no-offer"
    assert town.waiting_for() == ("an offer: 1 offers -> 0 after price <= 2000000; nearest 3000000")
    town.tick()
    assert rounds(store, town.now)[0].applied == ()  # said once


def test_the_next_generation_stays_on_the_class_that_the_first_one_ran_on(store: Store) -> None:
    town = Town.make(store, hosts=1)
    with store.transaction() as session:
        world.list_offer(session, HOST_2, compute_class="cpu/other")
    live(
        town,
        lambda: (
            lose_the_first_host(town)() or (town.state() is JobState.QUEUED and bool(town.dead))
        ),
    )
    for _ in range(5):
        town.tick()
        rounds(store, town.now)
    assert town.state() is JobState.QUEUED
    assert "after compute_class cpu/x86" in (town.waiting_for() or "")


def test_the_next_generation_takes_another_class_where_the_manifest_allows_it(
    store: Store,
) -> None:
    town = Town.make(store, hosts=1, resume_on_other_class=True)
    with store.transaction() as session:
        world.list_offer(session, HOST_2, compute_class="cpu/other")
    live(town, lose_the_first_host(town))
    assert town.state() is JobState.SUCCEEDED


def test_a_host_that_failed_a_job_is_not_asked_again_while_another_is_there(
    store: Store,
) -> None:
    town = Town.make(store, hosts=1)
    with store.transaction() as session:
        world.list_offer(session, HOST_2, ask=2 * world.CREDIT)
    check = lose_the_first_host(town)
    live(town, lambda: check() or (bool(town.dead) and town.state() is JobState.QUEUED))
    town.dead.clear()  # it is back, cheaper by more than its failure weighs, and says all is well
    (lost,) = town.leases()
    with store.transaction() as session:
        offer = find_offer(session, lost.offer_id)
        again = MoveOffer(
            id=offer.id, version=offer.version, to=OfferState.LISTED, actor="host", reason="back"
        )
        move_offer(session, again, town.now)
    live(town, town.at_rest)
    assert [NAMES[each.host] for each in town.leases()] == ["first", "second"]
    with store.reading() as session:
        book = load_available(session, shard=0, shards=1, now=town.now)
    measured = {NAMES[each.host]: each.reliability_ppm for each in book}
    assert measured == {
        "first": reliability_ppm(kept=0, failed=1),
        "second": reliability_ppm(kept=1, failed=0),
    }


def test_a_host_where_a_run_was_stopped_is_not_asked_again_while_another_is_there(
    store: Store,
) -> None:
    """Its machine is free again at once, and it is the cheaper one."""
    town = Town.make(store)
    town.stopping = {"first"}
    live(town, town.at_rest)
    assert town.state() is JobState.SUCCEEDED
    assert [NAMES[each.host] for each in town.leases()] == ["first", "second"]
    with store.reading() as session:
        book = load_available(session, shard=0, shards=1, now=town.now)
    assert {NAMES[each.host] for each in book} == {"first", "second"}  # it is no fault of its own


def test_a_host_that_failed_a_job_is_asked_again_when_no_other_is_left(store: Store) -> None:
    town = Town.make(store, hosts=1)
    check = lose_the_first_host(town)
    live(town, lambda: check() or (bool(town.dead) and town.state() is JobState.QUEUED))
    town.dead.clear()
    with store.transaction() as session:
        world.list_offer(session, HOST, ask=world.CREDIT)
    live(town, town.at_rest)
    assert town.state() is JobState.SUCCEEDED
    assert [NAMES[each.host] for each in town.leases()] == ["first", "first"]


def test_two_ranks_are_claimed_together_or_not_at_all(store: Store) -> None:
    town = Town.make(store, hosts=1, enclaves=2, local_ranks=1)
    town.tick()
    rounds(store, town.now)
    assert town.leases() == []
    with store.transaction() as session:
        world.list_offer(session, HOST_2)
    town.tick()
    rounds(store, town.now)
    assert sorted(each.rank for each in town.leases()) == [0, 1]
    assert town.state() is JobState.PLACED


# --- tokens --------------------------------------------------------------------------------------


class Interloper(Store):
    """A store on which somebody else goes first: before each write, `other` has written."""

    other: Callable[[], None] = staticmethod(lambda: None)

    def transaction(self):
        self.other()
        return super().transaction()


def test_a_decision_on_a_stale_version_changes_nothing(store: Store) -> None:
    town = Town.make(store)
    live(town, lambda: town.state() is JobState.RUNNING)
    town.dead.add("first")
    late = town.now + 10 * TICK
    with store.reading() as session:
        decision = decisions.decide(load_job(session, base64url(town.job)), late)
    assert decision is not None
    assert decision.rule is Rule.LEASE_OVERDUE
    (lease,) = town.leases()
    with store.transaction() as session:  # somebody else goes first
        command = leases.MoveLease(
            id=lease.id, version=lease.version, to=LeaseState.DRAINING, actor="x", reason="x"
        )
        leases.move_lease(session, command, town.now)
    before = town.history()
    with pytest.raises(StaleError), store.transaction() as session:
        apply(session, action=decision.action, now=late)
    assert town.history() == before


def test_a_round_that_comes_second_stops_and_says_so(store: Store) -> None:
    town = Town.make(store)
    live(town, lambda: town.state() is JobState.RUNNING)
    town.dead.add("first")
    late = town.now + 10 * TICK
    second = Interloper(store.engine)
    first: list[RoundReport] = []

    def go_first() -> None:
        if not first:
            first.append(supervise_jobs(store, shard=0, shards=1, now=late))

    second.other = go_first
    report = supervise_jobs(second, shard=0, shards=1, now=late)
    assert [each.rule for each in first[0].applied] == [
        "lease-overdue",
        "rank-is-gone",
        "custodian-is-away",
    ]
    assert (report.applied, report.stale) == ((), 1)
    assert town.state() is JobState.QUEUED


def test_two_matchers_with_one_idea_make_one_lease(store: Store) -> None:
    town = Town.make(store)
    town.tick()
    with store.reading() as session:
        ((job, wanted),) = load_wanted(session, shard=0, shards=1, now=town.now)
        (placement,) = match(
            [wanted], load_available(session, shard=0, shards=1, now=town.now)
        ).placements
    with store.transaction() as session:
        claim_all(session, job=job, placement=placement, now=town.now)
    with pytest.raises(StaleError), store.transaction() as session:
        claim_all(session, job=job, placement=placement, now=town.now)
    assert len(town.leases()) == 1


def test_an_offer_that_changed_since_it_was_read_is_not_claimed(store: Store) -> None:
    town = Town.make(store, hosts=1)
    town.tick()
    with store.reading() as session:
        ((job, wanted),) = load_wanted(session, shard=0, shards=1, now=town.now)
        book = load_available(session, shard=0, shards=1, now=town.now)
        (placement,) = match([wanted], book).placements
    with store.transaction() as session:
        dearer = world.offer_terms(ask=2 * world.CREDIT)
        change_offer(session, ChangeOffer(id=book[0].offer, version=1, terms=dearer), town.now)
    with pytest.raises(StaleError), store.transaction() as session:
        claim_all(session, job=job, placement=placement, now=town.now)
    assert town.leases() == []
    assert town.state() is JobState.QUEUED


def test_a_job_that_its_buyer_closed_meanwhile_gets_no_machine(store: Store) -> None:
    town = Town.make(store)
    town.tick()
    with store.reading() as session:
        ((job, wanted),) = load_wanted(session, shard=0, shards=1, now=town.now)
        book = load_available(session, shard=0, shards=1, now=town.now)
        (placement,) = match([wanted], book).placements
    with store.transaction() as session:
        jobs.close_job(session, BUYER.sign(Close(job=town.job, at=town.now)), town.now)
    with pytest.raises(StaleError), store.transaction() as session:
        claim_all(session, job=job, placement=placement, now=town.now)
    assert town.leases() == []


def test_what_a_job_waits_for_is_not_written_over_a_newer_state(store: Store) -> None:
    town = Town.make(store)
    with store.reading() as session:
        decision = decisions.decide(load_job(session, base64url(town.job)), town.now)
    assert decision is not None
    assert decision.rule is Rule.CUSTODIAN_IS_AWAY
    live(town, lambda: town.state() is JobState.RUNNING)
    with pytest.raises(StaleError), store.transaction() as session:
        apply(session, action=decision.action, now=town.now)
    assert town.waiting_for() is None


def test_a_refused_action_stops_no_other_job(store: Store, monkeypatch) -> None:
    towns = [Town.make(store), Town.make(store)]
    for town in towns:
        town.tick()
    broken = base64url(towns[0].job)
    real = reconciler.claim_all

    def refuse(session, *, job, placement, now):
        if job.job == broken:
            raise RefusedError("infeasible", "test")
        real(session, job=job, placement=placement, now=now)

    monkeypatch.setattr(reconciler, "claim_all", refuse)
    report = place_orders(store, shard=0, shards=1, now=towns[1].now)
    assert [(each.job, each.outcome) for each in report.refused] == [(broken, "infeasible")]
    assert towns[1].state() is JobState.PLACED


def test_every_job_is_in_exactly_one_supervisor_shard() -> None:
    for job in (base64url(bytes([n]) * 32) for n in range(50)):
        assert sum(job_shard(job, 3) == shard for shard in range(3)) == 1


# --- crashes -------------------------------------------------------------------------------------


def story(folder: Path, before: set[int], after: set[int]) -> tuple[Town, int]:
    """A host dies half-way, and the scheduler at the given writes; until all is at rest."""
    folder.mkdir()
    store = Store.open_file(folder / "market.db")
    user = FaultyStore(store.engine, before, after)
    world._COUNTER = itertools.count(1)  # the same ids in every telling
    town = Town.make(store)
    live(town, lose_the_first_host(town), user)
    return town, user.writes


def same(town: Town, wanted: Town) -> None:
    assert town.history() == wanted.history()
    with town.store.reading() as session:
        assert ledger.audit(session) == ()
    town.store.close()


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[tuple[Town, int]]:
    town, writes = story(tmp_path / "undisturbed", set(), set())
    yield town, writes
    town.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
def test_a_crash_at_any_write_ends_in_the_same_state(
    tmp_path: Path, undisturbed: tuple[Town, int], when: str
) -> None:
    wanted, writes = undisturbed
    assert writes > 10
    for number in range(1, writes + 1):
        before = {number} if when == "before the commit" else set()
        after = {number} if when == "after the commit" else set()
        town, _ = story(tmp_path / f"{number}", before, after)
        same(town, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_crashes_end_in_the_same_state(
    tmp_path: Path, undisturbed: tuple[Town, int], seed: int
) -> None:
    wanted, _ = undisturbed
    dice = random.Random(seed)
    before = {n for n in range(1, 40) if dice.random() < 0.25}
    after = {n for n in range(1, 40) if dice.random() < 0.25}
    town, _ = story(tmp_path / "crashes", before, after)
    same(town, wanted)


def test_the_parties_of_the_story_are_who_they_seem() -> None:
    parties: set[PartyKey] = {BUYER, OWNER, HOST, HOST_2}
    assert len({each.identity for each in parties}) == 4
