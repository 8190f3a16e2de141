"""Leases: only listed moves, a meter that evidence starts, and nothing kept by who is gone."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from marketplace import jobs, leases, ledger, offers
from marketplace.leases import SCHEDULER_MILLISECONDS
from marketplace.models import JobState, LeaseState, OfferState
from marketplace.store import Store
from marketplace.transitions import (
    LEASE,
    MACHINES,
    StaleError,
    TransitionError,
    chain_digest,
    history,
    move,
)
from tests.marketplace.world import (
    BUYER,
    DONE,
    HOST_2,
    HOUR,
    MARKET,
    NOW,
    OPERATOR,
    STRANGER,
    World,
    list_offer,
)
from trust.errors import EncodingError, RefusedError
from trust.jobs import Close
from trust.messages import End, Purpose


@pytest.fixture
def world(store: Store) -> World:
    return World.make(store)


def state(world: World, lease: str) -> LeaseState:
    with world.store.reading() as session:
        return leases.find_lease(session, lease).state


def offer_state(world: World, lease: str) -> OfferState:
    with world.store.reading() as session:
        offer = leases.find_lease(session, lease).offer_id
        return offers.find_offer(session, offer).state


def attesting(world: World) -> str:
    """A lease of generation 1 whose machine is up, and whose evidence is awaited."""
    with world.store.transaction() as session:
        offer = list_offer(session)
    lease = world.claim(offer)
    order = world.generation(lease)
    with world.store.transaction() as session:
        jobs.accept_generation(session, order, NOW)
    world.orders.append(order)
    world.move(lease, LeaseState.PROVISIONING)
    world.move(lease, LeaseState.ATTESTING)
    return lease


# --- the meter -----------------------------------------------------------------------------------


def test_meter_starts_with_evidence_that_the_market_asked_for(world: World) -> None:
    lease = world.run(now=NOW + 5)
    with world.store.reading() as session:
        row = leases.find_lease(session, lease)
        assert (row.state, row.ready_at_ms, row.metered_until_ms) == (
            LeaseState.READY,
            NOW + 5,
            None,
        )
        assert jobs.find_job(session, world.job).state is JobState.RUNNING
        states = [each.to_state for each in history(session, lease)]
    assert states == ["funded", "claimed", "provisioning", "attesting", "ready"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"purpose": Purpose.RELEASE}, "wrong-purpose"),
        ({"verifier": STRANGER.identity}, "wrong-purpose"),
        ({"job": bytes(32)}, "wrong-lease"),
        ({"generation": 2}, "wrong-lease"),
        ({"rank": 1, "ranks": 2}, "wrong-lease"),
        ({"lease": "leas_" + "0" * 26}, "lease-unknown"),
    ],
)
def test_statement_for_something_else_starts_no_meter(
    world: World, changes: dict[str, object], code: str
) -> None:
    lease = attesting(world)
    statement = dataclasses.replace(world.statement(lease), **changes)
    command = leases.AttestLease(statement=statement, market=MARKET.identity)
    with pytest.raises(RefusedError, match=f"^{code}:"), world.store.transaction() as session:
        leases.attest(session, command, NOW)
    assert state(world, lease) is LeaseState.ATTESTING


def attest(world: World, lease: str, **changes: object) -> None:
    command = leases.AttestLease(
        statement=world.statement(lease, **changes), market=MARKET.identity
    )
    with world.store.transaction() as session:
        leases.attest(session, command, NOW)


def test_seat_belongs_to_the_first_attested_key(world: World) -> None:
    lease = attesting(world)
    attest(world, lease)
    attest(world, lease)  # the same key with the same or another nonce changes nothing
    with pytest.raises(RefusedError, match="seat-taken"):
        attest(world, lease, signing_key=STRANGER.identity)


def test_one_enclaves_key_meters_one_lease(store: Store) -> None:
    one, other = World.make(store), World.make(store)
    first, second = attesting(one), attesting(other)
    attest(one, first, signing_key=STRANGER.identity)
    with pytest.raises(RefusedError, match="key-in-use"):
        attest(other, second, signing_key=STRANGER.identity)


def test_lease_is_ready_by_evidence_alone_and_provisioned_by_order_alone(world: World) -> None:
    lease = attesting(world)
    with pytest.raises(RefusedError, match="not-attested"):
        world.move(lease, LeaseState.READY)
    other = World.make(world.store)
    with world.store.transaction() as session:
        offer = list_offer(session)
    claimed = other.claim(offer)
    with pytest.raises(RefusedError, match="no-generation"):
        other.move(claimed, LeaseState.PROVISIONING)


# --- moves ---------------------------------------------------------------------------------------


def test_only_listed_transitions_happen(world: World) -> None:
    """Every pair of states, tried by the one function that moves anything."""
    lease = world.run()
    for source in LeaseState:
        for target in LeaseState:
            listed = target in LEASE.moves.get(source, frozenset())
            with world.store.reading() as session:
                row = leases.find_lease(session, lease)
                session.expunge(row)
                row.state = source
                deadline = None if LEASE.is_terminal(target) else NOW + HOUR
                arguments = {"actor": OPERATOR, "reason": "x", "now": NOW, "deadline": deadline}
                if listed:
                    continue
                with pytest.raises(TransitionError):
                    move(session, row, target, **arguments)


def test_terminal_states_absorb_and_all_others_have_a_way_on() -> None:
    for machine in MACHINES.values():
        targets = {to for row in machine.moves.values() for to in row}
        assert any(machine.is_terminal(to) for to in targets)
        for source, row in machine.moves.items():
            assert row, source
            assert source not in row
    assert set(leases.WHEN_OVERDUE) == set(leases.STATE_SECONDS)
    assert set(leases.WHEN_OVERDUE) == set(LEASE.moves) - {LeaseState.FUNDED}
    for source, to in leases.WHEN_OVERDUE.items():
        assert to in LEASE.moves[source]


def test_decision_on_an_older_version_changes_nothing(world: World) -> None:
    lease = world.run()
    command = leases.MoveLease(
        id=lease, version=1, to=LeaseState.HOST_LOST, actor=OPERATOR, reason="stale"
    )
    with pytest.raises(StaleError), world.store.transaction() as session:
        leases.move_lease(session, command, NOW)
    assert state(world, lease) is LeaseState.READY


def test_row_that_changed_under_a_decision_stays_as_it_is(world: World) -> None:
    """Compare-and-set in the database itself, for a session that read before somebody wrote."""
    lease = world.run()
    with world.store.reading() as session:
        row = leases.find_lease(session, lease)
    world.move(lease, LeaseState.DRAINING)
    arguments = {"actor": OPERATOR, "reason": "x", "now": NOW, "deadline": NOW + HOUR}
    with pytest.raises(StaleError), world.store.transaction() as session:
        move(session, row, LeaseState.HOST_LOST, **arguments)
    assert state(world, lease) is LeaseState.DRAINING


def test_every_transition_is_on_record_in_a_chain(world: World) -> None:
    lease = world.run()
    world.move(lease, LeaseState.DRAINING, now=NOW + 7)
    with world.store.reading() as session:
        rows = history(session, lease)
    assert [row.number for row in rows] == list(range(1, 7))
    assert all(row.actor and row.reason for row in rows)
    assert rows[-1].at_ms == NOW + 7
    before = ""
    for row in rows:
        assert row.digest == chain_digest(before, row)
        before = row.digest


def test_transition_without_actor_or_reason_is_refused(world: World) -> None:
    lease = world.run()
    for actor, reason in (("", "x"), ("x", ""), ("x" * 97, "x"), ("x", "x" * 257)):
        with world.store.reading() as session:
            version = leases.find_lease(session, lease).version
        command = leases.MoveLease(
            id=lease, version=version, to=LeaseState.DRAINING, actor=actor, reason=reason
        )
        with pytest.raises(EncodingError), world.store.transaction() as session:
            leases.move_lease(session, command, NOW)
    assert state(world, lease) is LeaseState.READY


# --- ends ----------------------------------------------------------------------------------------


def test_clean_end_lists_the_machine_again(world: World) -> None:
    lease = world.run()
    world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, step=10, end=DONE)
    world.move(lease, LeaseState.DRAINING, now=NOW + HOUR)
    world.move(lease, LeaseState.CLOSED, now=NOW + 2 * HOUR)
    assert offer_state(world, lease) is OfferState.LISTED
    with world.store.reading() as session:
        row = leases.find_lease(session, lease)
        assert (row.metered_until_ms, row.deadline_ms) == (NOW + 2 * HOUR, None)
    world.check()


def test_lost_host_is_not_matched_again_until_it_lists_itself(world: World) -> None:
    lease = world.run()
    world.lose(lease)
    assert offer_state(world, lease) is OfferState.SUSPENDED
    with world.store.reading() as session:
        assert offers.listings(session, NOW) == ()
        assert jobs.find_job(session, world.job).state is JobState.QUEUED


def test_offer_taken_back_during_a_lease_ends_no_lease_and_stays_away(world: World) -> None:
    lease = world.run()
    with world.store.transaction() as session:
        row = leases.find_lease(session, lease)
        offer = offers.find_offer(session, row.offer_id)
        command = offers.MoveOffer(
            id=offer.id,
            version=offer.version,
            to=OfferState.UNLISTED,
            actor="host",
            reason="going home",
        )
        offers.move_offer(session, command, NOW)
    assert state(world, lease) is LeaseState.READY
    world.move(lease, LeaseState.DRAINING)
    world.move(lease, LeaseState.CLOSED)
    assert offer_state(world, lease) is OfferState.UNLISTED


def test_renewed_lease_goes_on_and_keeps_its_version(world: World) -> None:
    lease = world.run()
    with world.store.transaction() as session:
        version = leases.find_lease(session, lease).version
        until = leases.renew(session, leases.RenewLease(id=lease, seconds=300), NOW + 1000)
    assert until == NOW + 301_000
    with world.store.transaction() as session:
        assert leases.end_overdue(session, until + SCHEDULER_MILLISECONDS - 1) == ()
        assert leases.find_lease(session, lease).version == version
        assert leases.end_overdue(session, until + SCHEDULER_MILLISECONDS) == (lease,)
    assert state(world, lease) is LeaseState.HOST_LOST


def test_renewal_ends_with_the_offer_and_comes_too_late_once_overdue(world: World) -> None:
    lease = world.run(ends_at=NOW + 200_000)
    with world.store.transaction() as session:
        renew = leases.RenewLease(id=lease, seconds=3600)
        assert leases.renew(session, renew, NOW) == NOW + 200_000
    with pytest.raises(RefusedError, match="lease-ended"), world.store.transaction() as session:
        leases.renew(session, renew, NOW + 200_000)
    for seconds in (0, 3601):
        with pytest.raises(EncodingError), world.store.transaction() as session:
            leases.renew(session, leases.RenewLease(id=lease, seconds=seconds), NOW)


def test_host_that_never_gets_ready_cannot_keep_a_job_by_renewing(world: World) -> None:
    lease = attesting(world)
    for second in range(0, leases.STATE_SECONDS[LeaseState.ATTESTING], 60):
        with world.store.transaction() as session:
            renew = leases.RenewLease(id=lease, seconds=3600)
            until = leases.renew(session, renew, NOW + second * 1000)
    assert until == NOW + leases.STATE_SECONDS[LeaseState.ATTESTING] * 1000
    with world.store.transaction() as session:
        assert leases.end_overdue(session, until + SCHEDULER_MILLISECONDS) == (lease,)
    assert state(world, lease) is LeaseState.ATTEST_FAILED


def renewed(world: World, lease: str, now: int) -> int:
    """Its host says that it is there; the deadline."""
    with world.store.transaction() as session:
        return leases.renew(session, leases.RenewLease(id=lease, seconds=45), now)


def test_host_that_polls_and_carries_nothing_loses_its_lease(world: World) -> None:
    lease = world.run()
    silent = NOW + leases.FIRST_RECEIPT_SECONDS * 1000
    for now in range(NOW, silent, 30_000):
        until = renewed(world, lease, now)
    assert until == silent
    with pytest.raises(RefusedError, match="lease-ended"):
        renewed(world, lease, until)
    with world.store.transaction() as session:
        assert leases.end_overdue(session, until + SCHEDULER_MILLISECONDS) == (lease,)
    assert state(world, lease) is LeaseState.HOST_LOST
    assert offer_state(world, lease) is OfferState.SUSPENDED


def test_each_receipt_lets_a_lease_go_on_and_a_repeated_one_does_not(world: World) -> None:
    lease, silence = world.run(), leases.RECEIPT_SECONDS * 1000
    for now in range(NOW + 40_000, NOW + 2 * HOUR, 40_000):  # far beyond the time for the first
        receipt = world.receipt(lease, milliseconds=now - NOW)
        world.settle(lease, signed=receipt, now=now)
        assert renewed(world, lease, now) == now + 45_000
    heard = now
    for now in range(heard, heard + silence, 30_000):
        world.settle(lease, signed=receipt, now=now)  # the host has kept it
        until = renewed(world, lease, now)
    assert until == heard + silence


def test_renewal_never_brings_a_deadline_forward(world: World) -> None:
    lease = world.run()
    with world.store.transaction() as session:
        before = leases.find_lease(session, lease).deadline_ms
        assert leases.renew(session, leases.RenewLease(id=lease, seconds=1), NOW) == before


def test_every_lease_that_nobody_renews_comes_to_an_end(store: Store) -> None:
    """From each state that goes on: no machine, no money and no job is kept by who is gone."""
    worlds = [World.make(store) for _ in range(4)]
    with store.transaction() as session:
        offer = list_offer(session)
    names = [worlds[0].claim(offer), attesting(worlds[1]), worlds[2].run(), worlds[3].run(HOST_2)]
    worlds[3].move(names[3], LeaseState.DRAINING)
    for hours in range(1, 4):
        with store.transaction() as session:
            leases.end_overdue(session, NOW + hours * HOUR)
    found = [state(world, name) for world, name in zip(worlds, names, strict=True)]
    assert found == [
        LeaseState.CLOSED,
        LeaseState.ATTEST_FAILED,
        LeaseState.CLOSED,
        LeaseState.CLOSED,
    ]
    assert offer_state(worlds[0], names[0]) is OfferState.LISTED  # no order came: not its fault
    assert offer_state(worlds[1], names[1]) is OfferState.SUSPENDED
    with store.reading() as session:
        assert ledger.audit(session) == ()


@pytest.mark.parametrize("how", ["its last receipt came", "its job ended", "neither"])
def test_overdue_drain_is_its_hosts_fault_only_if_something_was_wanted_of_it(
    world: World, how: str
) -> None:
    lease = world.run()
    if how == "its last receipt came":
        world.settle(lease, end=End.DONE)
    elif how == "its job ended":
        with world.store.transaction() as session:
            jobs.close_job(session, BUYER.sign(Close(job=world.job, at=NOW)), NOW)
    world.move(lease, LeaseState.DRAINING)
    with world.store.transaction() as session:
        assert leases.end_overdue(session, NOW + HOUR) == (lease,)
    lost = how == "neither"
    assert state(world, lease) is (LeaseState.HOST_LOST if lost else LeaseState.CLOSED)
    assert offer_state(world, lease) is (OfferState.SUSPENDED if lost else OfferState.LISTED)


def test_job_is_queued_again_when_no_lease_is_live(world: World) -> None:
    lease = world.run()
    with world.store.reading() as session:
        version = jobs.find_job(session, world.job).version
    command = leases.Requeue(job=world.job, version=version, actor=OPERATOR, reason="x")
    with pytest.raises(RefusedError, match="job-has-leases"), world.store.transaction() as session:
        leases.requeue(session, command, NOW)
    world.move(lease, LeaseState.HOST_LOST)
    stale = leases.Requeue(job=world.job, version=version - 1, actor=OPERATOR, reason="x")
    with pytest.raises(StaleError), world.store.transaction() as session:
        leases.requeue(session, stale, NOW)
    with world.store.transaction() as session:
        assert leases.requeue(session, command, NOW) is JobState.QUEUED


def test_database_refuses_a_live_lease_without_a_deadline(world: World) -> None:
    world.run()
    with pytest.raises(sa.exc.IntegrityError), world.store.transaction() as session:
        session.connection().exec_driver_sql("UPDATE lease SET deadline_ms = NULL")
