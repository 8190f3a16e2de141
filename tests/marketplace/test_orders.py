"""Orders: no money, no order; and the rest of the money comes back."""

from __future__ import annotations

import dataclasses

import pytest

from marketplace import jobs, ledger, orders
from marketplace.ids import IdKind
from marketplace.models import AccountRole, JobState, LeaseState, OrderState
from marketplace.store import Store
from marketplace.transitions import Outcome, StaleError, history
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    DAY,
    NOW,
    OPERATOR,
    STRANGER,
    World,
    fund,
    list_offer,
    manifest,
    new_id,
    terms,
    xfer,
)
from trust.errors import RefusedError


def stored(store: Store, *, funds: int = 20 * CREDIT, **changes: object) -> orders.PlaceOrder:
    """A job and the order that its buyer would place."""
    agreed = terms()
    signed = manifest(agreed, **changes)
    with store.transaction() as session:
        if funds:
            fund(session, funds)
        submit = jobs.SubmitJob(manifest=signed, terms=agreed, undertaken=False, fee_ppm=0)
        jobs.submit_job(session, submit, NOW)
    return orders.PlaceOrder(
        id=new_id(IdKind.ORDER),
        hold=new_id(IdKind.HOLD),
        transfer=xfer(),
        buyer=BUYER.identity,
        job=signed.digest,
        amount=5 * CREDIT,
    )


def refused(store: Store, command: orders.PlaceOrder, code: str) -> None:
    with pytest.raises(RefusedError, match=f"^{code}:"), store.transaction() as session:
        orders.place_order(session, command, NOW)
    with store.reading() as session:
        assert ledger.audit(session) == ()


def balance(store: Store) -> int:
    with store.reading() as session:
        return ledger.balance(session, AccountRole.BUYER, BUYER.identity)


def end(store: Store, name: str, to: OrderState = OrderState.CANCELLED) -> None:
    with store.transaction() as session:
        version = orders.find_order(session, name).version
        command = orders.EndOrder(id=name, version=version, to=to, actor=OPERATOR, reason="test")
        orders.end_order(session, command, NOW)


def test_placing_an_order_holds_its_money_once(store: Store) -> None:
    command = stored(store)
    for wanted in (Outcome.CREATED, Outcome.EXISTS):
        with store.transaction() as session:
            assert orders.place_order(session, command, NOW) is wanted
        assert balance(store) == 15 * CREDIT
    with store.reading() as session:
        assert [each.id for each in orders.open_orders(session, NOW)] == [command.id]
        assert ledger.audit(session) == ()


def test_job_without_funds_gets_no_order(store: Store) -> None:
    command = stored(store, funds=5 * CREDIT - 1)
    refused(store, command, "hold-exceeds-balance")
    with store.reading() as session:
        assert orders.open_orders(session, NOW) == ()
        assert jobs.find_job(session, command.job).state is JobState.QUEUED
    with store.transaction() as session:
        fund(session, 1)
        assert orders.place_order(session, command, NOW) is Outcome.CREATED


def test_buyer_without_an_account_gets_no_order(store: Store) -> None:
    refused(store, stored(store, funds=0), "hold-account-not-found")


def test_hold_is_within_what_the_manifest_lets_the_job_spend(store: Store) -> None:
    command = stored(store, spend_max_microcredits=5 * CREDIT - 1)
    refused(store, command, "exceeds-spend-max")


def test_order_for_another_buyers_job_is_refused(store: Store) -> None:
    command = stored(store)
    refused(store, dataclasses.replace(command, buyer=STRANGER.identity), "wrong-buyer")
    refused(store, dataclasses.replace(command, job=bytes(32)), "job-unknown")


def test_one_order_a_job_and_no_other_under_its_ids(store: Store) -> None:
    command, other = stored(store), stored(store)
    with store.transaction() as session:
        orders.place_order(session, command, NOW)
    again = dataclasses.replace(
        command, id=new_id(IdKind.ORDER), hold=new_id(IdKind.HOLD), transfer=xfer()
    )
    refused(store, again, "job-has-an-order")
    refused(store, dataclasses.replace(other, id=command.id), "exists-with-different-terms")
    refused(store, dataclasses.replace(command, amount=1), "exists-with-different-terms")
    refused(store, dataclasses.replace(other, hold=command.hold), "hold-exists")
    transfer = dataclasses.replace(other, transfer=command.transfer)
    refused(store, transfer, "hold-exists-with-different-hold")


def test_cancelled_order_gives_everything_back(store: Store) -> None:
    world = World.make(store)
    end(store, world.order)
    assert balance(store) == 20 * CREDIT
    with store.reading() as session:
        assert jobs.find_job(session, world.job).state is JobState.CANCELLED
        assert [each.to_state for each in history(session, world.order)] == ["open", "cancelled"]
    world.check()


def test_order_does_not_end_before_its_leases(store: Store) -> None:
    world = World.make(store)
    lease = world.run()
    world.move(lease, LeaseState.HOST_LOST)  # may still settle
    with pytest.raises(RefusedError, match="order-has-leases"):
        end(store, world.order)
    world.move(lease, LeaseState.CLOSED)
    end(store, world.order)
    assert balance(store) == 20 * CREDIT


def test_ending_an_order_needs_its_version_and_an_end(store: Store) -> None:
    world = World.make(store)
    for version, to, error in (
        (2, OrderState.CANCELLED, StaleError),
        (1, OrderState.LEASED, RefusedError),
    ):
        command = orders.EndOrder(
            id=world.order, version=version, to=to, actor=OPERATOR, reason="test"
        )
        with pytest.raises(error), store.transaction() as session:
            orders.end_order(session, command, NOW)
    assert balance(store) == 15 * CREDIT


def test_overdue_order_expires_and_gives_everything_back(store: Store) -> None:
    world, other = World.make(store), World.make(store)
    with store.transaction() as session:
        offer = list_offer(session)
    other.claim(offer)
    with store.transaction() as session:
        assert orders.expire_orders(session, NOW + DAY - 1) == ()
        assert orders.expire_orders(session, NOW + DAY) == (world.order,)  # the other has a lease
    with store.reading() as session:
        assert jobs.find_job(session, world.job).state is JobState.FAILED
        assert orders.open_orders(session, NOW + DAY) == ()
    assert balance(store) == 35 * CREDIT
    world.check()


def test_order_whose_hold_expired_first_still_ends(store: Store) -> None:
    world = World.make(store)
    with store.transaction() as session:
        late = NOW + DAY + orders.SETTLE_MILLISECONDS
        expire = ledger.ExpireHold(id=xfer(), hold=world.hold)
        assert ledger.expire_hold(session, expire, late) is ledger.LedgerResult.CREATED
    end(store, world.order)
    assert balance(store) == 20 * CREDIT
    world.check()
