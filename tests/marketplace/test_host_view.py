"""A host computes every amount of its leases again from what the market tells it."""

from __future__ import annotations

import dataclasses

import pytest

from marketplace import host_view, leases, settlement, wire_hosts
from marketplace.models import LeaseState
from marketplace.settlement import Resolve
from marketplace.store import Store
from provider_agent.earnings.lines import State, Verdict
from provider_agent.earnings.statement import Accounts, make_statement
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, HOUR, NOW, World, enclave, serving
from trust.jobs import Dispute

MINUTE = 60_000


@pytest.fixture
def world(store: Store) -> World:
    return World.make(store)


def seen(
    world: World, host=HOST
) -> tuple[tuple[wire_hosts.HostLease, ...], dict[str, tuple[wire_hosts.HostSettlement, ...]]]:
    with world.store.reading() as session:
        found = host_view.host_leases(session, host.identity, after=0)
        settled = {
            each.lease: host_view.lease_settlements(
                session, leases.find_lease(session, each.lease), after=0
            )
            for each in found
        }
    return found, settled


def statement(world: World, now: int, host=HOST):
    found, settled = seen(world, host)
    accounts = Accounts(
        leases=found, settlements=settled, receipts={}, terms={}, spans=(), paid_out=0
    )
    return make_statement(accounts, now)


def test_a_run_with_a_lost_host_is_computed_again_to_the_microcredit(world: World) -> None:
    """Two generations on two hosts: what the first was paid is not paid again."""
    lease = world.run()
    for step in (10, 20, 37):
        world.settle(
            lease, now=NOW + step * MINUTE, committed=step // 10 * 10,
            milliseconds=step * MINUTE, step=step, tokens=step * 1000,
        )  # fmt: skip
    world.lose(lease, NOW + 40 * MINUTE)
    second = world.run(HOST_2, NOW + 50 * MINUTE)
    for step in (40, 61):
        world.settle(
            second, now=NOW + (20 + step) * MINUTE, committed=step, first_step=30,
            milliseconds=(step - 30) * MINUTE, step=step, tokens=step * 1000,
        )  # fmt: skip
    for host in (HOST, HOST_2):
        found = statement(world, NOW + 3 * HOUR, host)
        assert found.holds, found
        assert found.net > 0
    _, settled = seen(world, HOST_2)
    assert {each.paid_before_step for each in settled[second]} == {37}
    assert settled[second][0].job_royalty_before > 0
    (line,) = statement(world, NOW + 3 * HOUR).lines
    assert (line.lease, line.billed_ms) == (lease, 37 * MINUTE)


def test_a_hold_that_runs_dry_is_told_and_recomputes(store: Store) -> None:
    world = World.make(store, amount=300_000)
    lease = world.run()
    for minutes, step in ((6, 10), (60, 50)):
        world.settle(
            lease, now=NOW + minutes * MINUTE, committed=step,
            milliseconds=minutes * MINUTE, step=step, tokens=0,
        )  # fmt: skip
    found = statement(world, NOW + 2 * HOUR)
    assert found.holds
    assert "hold-used-up" in found.lines[0].why
    assert found.lines[0].gross == 250_000  # the royalty of 0.05 went first


def test_time_after_the_meter_is_not_billed_and_recomputes(world: World) -> None:
    """The host is lost at half past; its enclave's last receipt comes later and says an hour."""
    lease = world.run()
    world.move(lease, LeaseState.HOST_LOST, now=NOW + HOUR // 2)
    world.settle(lease, now=NOW + HOUR, committed=50, milliseconds=HOUR, step=50, tokens=0)
    found = statement(world, NOW + 2 * HOUR)
    assert found.holds
    assert (found.lines[0].billed_ms, found.lines[0].gross) == (HOUR // 2, CREDIT // 2)


def test_served_tokens_recompute_and_the_markets_clock_cuts(store: Store) -> None:
    world = World.make(store, **serving())
    lease = world.run()
    count = {"first_step": 0, "step": 0}
    for number in (1, 2):
        world.settle(
            lease, now=NOW + number * HOUR, milliseconds=number * 2 * HOUR,
            tokens=number << 16, **count,
        )  # fmt: skip
    found = statement(world, NOW + 3 * HOUR)
    assert found.holds
    assert found.lines[0].billed_ms == 2 * HOUR
    assert any(each.startswith("market-clock") for each in found.lines[0].why)


def test_a_lie_of_a_microcredit_is_found(world: World) -> None:
    lease = world.run()
    world.settle(lease, now=NOW + HOUR, committed=50, milliseconds=HOUR // 2, step=50, tokens=0)
    found, settled = seen(world)
    (honest,) = settled[lease]
    for change in (
        {"host_amount": honest.host_amount - 1, "fee_amount": honest.fee_amount + 1},
        {"committed_step": 10},
        {"available_before": 1},
        {"settled_at": NOW + 1},
    ):
        accounts = Accounts(
            leases=found, settlements={lease: (dataclasses.replace(honest, **change),)},
            receipts={}, terms={}, spans=(), paid_out=0,
        )  # fmt: skip
        assert make_statement(accounts, NOW + HOUR).lines[0].verdicts == (Verdict.DIFFERS,)


def test_what_a_host_sees_of_a_lease_tells_its_whole_life(world: World) -> None:
    lease = world.run()
    world.move(lease, LeaseState.DRAINING, now=NOW + HOUR)
    world.move(lease, LeaseState.CLOSED, now=NOW + HOUR + MINUTE)
    (found,), _ = seen(world)
    assert (found.lease, found.offer_terms_number, found.gpus) == (lease, 1, 1)
    assert found.price_microcredits_per_gpu_hour == CREDIT
    assert found.signing_key == enclave(lease).identity
    assert (found.opened_at, found.ready_at) == (NOW, NOW)
    assert (found.metered_until, found.ended_at) == (NOW + HOUR + MINUTE, NOW + HOUR + MINUTE)
    assert (found.state, found.reason) == (wire_hosts.LeaseState.CLOSED, "test")


def test_a_refund_shows_as_one(world: World) -> None:
    lease = world.run()
    world.settle(lease, now=NOW + HOUR, committed=50, milliseconds=HOUR // 2, step=50, tokens=0)
    signed = world.receipts[lease]
    with world.store.transaction() as session:
        order = BUYER.sign(Dispute(receipt=signed.digest, reason="wrong", at=NOW))
        settlement.dispute(session, order, NOW + HOUR)
        settlement.resolve(session, Resolve(receipt=signed.digest, for_buyer=True), NOW + HOUR)
    (line,) = statement(world, NOW + 2 * HOUR).lines
    assert (line.net, line.parts[0].state) == (0, State.REFUNDED)
    assert line.verdicts == ()


def test_a_host_sees_its_own_leases_alone_and_page_after_page(world: World) -> None:
    lease = world.run()
    with world.store.reading() as session:
        assert host_view.host_leases(session, HOST_2.identity, after=0) == ()
        assert host_view.host_leases(session, HOST.identity, after=1) == ()
        (found,) = host_view.host_leases(session, HOST.identity, after=0)
    assert found.lease == lease
