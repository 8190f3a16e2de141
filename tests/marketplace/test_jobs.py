"""Jobs: what the buyer signed, and generations that only its buyer can order."""

from __future__ import annotations

import dataclasses

import pytest

from marketplace import jobs, leases, orders
from marketplace.models import JobState, LeaseState
from marketplace.store import Store
from marketplace.transitions import Outcome, StaleError, TransitionError
from tests.marketplace.world import (
    BUYER,
    DAY,
    HOST_2,
    HOUR,
    MARKET,
    NOW,
    OPERATOR,
    OWNER,
    STRANGER,
    World,
    list_offer,
    manifest,
    terms,
)
from trust.errors import RefusedError
from trust.identity import PartyKey, Signed
from trust.jobs import Close, GenerationOrder, RankLease, Screen


def submit(store: Store, command: jobs.SubmitJob, now: int = NOW) -> Outcome:
    with store.transaction() as session:
        return jobs.submit_job(session, command, now)


def refused(store: Store, command: jobs.SubmitJob, code: str, now: int = NOW) -> None:
    with pytest.raises(RefusedError, match=f"^{code}:"):
        submit(store, command, now)


def claimed(store: Store, **changes: object) -> tuple[World, str]:
    """A job whose one rank has a claimed lease: it waits for its first generation order."""
    world = World.make(store, **changes)
    with store.transaction() as session:
        offer = list_offer(session)
    return world, world.claim(offer)


def order(world: World, order: Signed[GenerationOrder], now: int = NOW) -> Outcome:
    with world.store.transaction() as session:
        return jobs.accept_generation(session, order, now)


def order_refused(world: World, signed: Signed[GenerationOrder], code: str, now: int = NOW) -> None:
    with world.store.reading() as session:
        before = jobs.find_job(session, world.job).generation
    with pytest.raises(RefusedError, match=f"^{code}:"):
        order(world, signed, now)
    with world.store.reading() as session:
        assert jobs.find_job(session, world.job).generation == before
        assert len(jobs.generation_orders(session, world.job)) == before


# --- manifests -----------------------------------------------------------------------------------


def test_job_is_stored_once_as_it_was_signed(store: Store) -> None:
    agreed = terms()
    signed = manifest(agreed)
    command = jobs.SubmitJob(manifest=signed, terms=agreed, undertaken=False, fee_ppm=1)
    assert submit(store, command) is Outcome.CREATED
    assert submit(store, command, NOW + DAY) is Outcome.EXISTS
    with store.reading() as session:
        job = jobs.find_job(session, signed.digest)
    assert job.manifest == signed.encode()
    assert jobs.manifest_of(job) == signed.document
    assert (job.royalty_per_job, job.ceiling, job.state) == (50_000, 20_000, JobState.QUEUED)


def test_job_that_its_buyer_did_not_sign_is_refused(store: Store) -> None:
    agreed = terms()
    signed = STRANGER.sign(manifest(agreed).document)
    refused(
        store,
        jobs.SubmitJob(manifest=signed, terms=agreed, undertaken=False, fee_ppm=0),
        "wrong-signer",
    )


def test_terms_that_their_owner_did_not_sign_are_refused(store: Store) -> None:
    forged = MARKET.sign(terms().document)
    command = jobs.SubmitJob(manifest=manifest(forged), terms=forged, undertaken=False, fee_ppm=0)
    refused(store, command, "wrong-signer")


def test_market_that_serves_other_terms_is_refused(store: Store) -> None:
    cheap = terms(price_microcredits_per_job=0)
    command = jobs.SubmitJob(manifest=manifest(terms()), terms=cheap, undertaken=False, fee_ppm=0)
    refused(store, command, "wrong-terms")


def test_expired_job_and_terms_are_refused(store: Store) -> None:
    agreed = terms()
    signed = manifest(agreed, expires_at=NOW + 2 * DAY)
    command = jobs.SubmitJob(manifest=signed, terms=agreed, undertaken=False, fee_ppm=0)
    refused(store, command, "terms-expired", NOW + DAY)
    refused(store, command, "job-expired", NOW + 2 * DAY)


def test_terms_that_name_a_screen_are_refused(store: Store) -> None:
    agreed = terms(screen=Screen(guard=bytes(32), policy_text=bytes(32)))
    command = jobs.SubmitJob(manifest=manifest(agreed), terms=agreed, undertaken=False, fee_ppm=0)
    refused(store, command, "screen-not-built")


def test_fee_out_of_range_is_refused(store: Store) -> None:
    agreed = terms()
    for fee in (-1, 1_000_001):
        command = jobs.SubmitJob(
            manifest=manifest(agreed), terms=agreed, undertaken=False, fee_ppm=fee
        )
        refused(store, command, "fee-out-of-range")


# --- generations ---------------------------------------------------------------------------------


def test_buyers_order_starts_a_generation_once(store: Store) -> None:
    world, lease = claimed(store)
    signed = world.generation(lease)
    assert order(world, signed) is Outcome.CREATED
    assert order(world, signed) is Outcome.EXISTS
    with store.reading() as session:
        job = jobs.find_job(session, world.job)
        assert (job.generation, job.state) == (1, JobState.STARTING)
        assert leases.find_lease(session, lease).generation == 1
        (stored,) = jobs.generation_orders(session, world.job)
        assert stored.document == signed.encode()


@pytest.mark.parametrize("signer", [MARKET, OWNER, STRANGER])
def test_generation_that_the_market_made_is_refused(store: Store, signer: PartyKey) -> None:
    world, lease = claimed(store)
    order_refused(world, world.generation(lease, signer=signer), "wrong-signer")


def test_generation_jump_is_refused(store: Store) -> None:
    world, lease = claimed(store)
    document = world.generation(lease).document
    jump = dataclasses.replace(document, number=2, before=bytes(32))
    order_refused(world, BUYER.sign(jump), "wrong-generation")


def test_second_order_for_one_generation_is_refused(store: Store) -> None:
    """The broker's fork: number 1 twice."""
    world, lease = claimed(store)
    first = world.generation(lease)
    order(world, first)
    other = dataclasses.replace(first.document, expires_at=NOW + 2 * HOUR)
    order_refused(world, BUYER.sign(other), "wrong-generation")


def test_generation_links_to_the_order_before(store: Store) -> None:
    world = World.make(store)
    world.lose(world.run())
    with store.transaction() as session:
        offer = list_offer(session, HOST_2)
    lease = world.claim(offer)
    document = world.generation(lease).document
    forked = dataclasses.replace(document, before=bytes(32))
    order_refused(world, BUYER.sign(forked), "wrong-link")
    assert order(world, BUYER.sign(document)) is Outcome.CREATED


def test_highest_number_of_generations_is_kept(store: Store) -> None:
    world = World.make(store, generations_max=1)
    world.lose(world.run())
    with store.reading() as session:
        assert jobs.find_job(session, world.job).state is JobState.EXHAUSTED


def test_expired_order_and_order_for_a_waiting_job_are_refused(store: Store) -> None:
    world, lease = claimed(store)
    order_refused(world, world.generation(lease), "order-expired", NOW + HOUR)
    world.move(lease, LeaseState.CLOSED)
    with store.transaction() as session:
        version = jobs.find_job(session, world.job).version
        command = leases.Requeue(job=world.job, version=version, actor=OPERATOR, reason="x")
        leases.requeue(session, command, NOW)
    order_refused(world, world.generation(lease), "job-not-placed")


def test_order_names_the_claimed_lease_of_each_rank(store: Store) -> None:
    world, lease = claimed(store)
    _, foreign = claimed(store)
    order_refused(world, world.generation(foreign), "wrong-leases")
    order_refused(world, world.generation("leas_" + "0" * 26), "wrong-leases")
    order_refused(world, world.generation(lease, foreign), "wrong-leases")


def test_ranks_are_not_swapped(store: Store) -> None:
    world = World.make(store, enclaves=2, recipe=_two_enclaves())
    names = []
    for rank in range(2):
        with store.transaction() as session:
            offer = list_offer(session)
        names.append(world.claim(offer, rank=rank))
    order_refused(world, world.generation(*reversed(names)), "wrong-leases")
    assert order(world, world.generation(*names)) is Outcome.CREATED


def _two_enclaves() -> object:
    return dataclasses.replace(manifest(terms()).document.recipe, rows_per_step=8)


def test_unknown_job_is_refused(store: Store) -> None:
    world, lease = claimed(store)
    document = GenerationOrder(
        job=bytes(32),
        number=1,
        leases=(RankLease(rank=0, lease=lease),),
        expires_at=NOW + HOUR,
        before=None,
    )
    order_refused(world, BUYER.sign(document), "job-unknown")


# --- ends ----------------------------------------------------------------------------------------


def test_only_its_buyer_closes_a_job_and_a_closed_job_never_runs_again(store: Store) -> None:
    world, lease = claimed(store)
    close = Close(job=world.job, at=NOW)
    with pytest.raises(RefusedError, match="wrong-signer"), store.transaction() as session:
        jobs.close_job(session, STRANGER.sign(close), NOW)
    for wanted in (Outcome.CREATED, Outcome.EXISTS):
        with store.transaction() as session:
            assert jobs.close_job(session, BUYER.sign(close), NOW) is wanted
    order_refused(world, world.generation(lease), "job-not-placed")
    with store.reading() as session:
        version = jobs.find_job(session, world.job).version
    command = jobs.MoveJob(
        job=world.job, version=version, to=JobState.QUEUED, actor=OPERATOR, reason="again"
    )
    with pytest.raises(TransitionError), store.transaction() as session:
        jobs.move_job(session, command, NOW)


def test_decision_on_an_older_version_changes_nothing(store: Store) -> None:
    world, _ = claimed(store)
    command = jobs.MoveJob(
        job=world.job, version=1, to=JobState.FAILED, actor=OPERATOR, reason="stale"
    )
    with pytest.raises(StaleError), store.transaction() as session:
        jobs.move_job(session, command, NOW)


def test_job_says_for_whom_it_waits(store: Store) -> None:
    world = World.make(store)
    for whom in ("the owner's broker", None):
        with store.transaction() as session:
            jobs.wait_for(session, world.job, whom)
        with store.reading() as session:
            assert jobs.find_job(session, world.job).waiting_for == whom


def test_job_past_its_manifests_expiry_fails(store: Store) -> None:
    world = World.make(store)
    with store.transaction() as session:
        assert orders.expire_orders(session, NOW + DAY) == (world.order,)
        assert jobs.find_job(session, world.job).state is JobState.FAILED
