"""A serve job has no last step: it ends closed, refused more tokens, expired, or out of money."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlmodel import Session

from marketplace import jobs, ledger
from marketplace.ledger import balance
from marketplace.models import AccountRole, JobState, Lease, LeaseState
from marketplace.orders import order_of
from marketplace.postings import find_hold
from marketplace.receipts import SERVED_TOKENS_UNIT
from marketplace.store import Store
from marketplace.sweep import end_orders
from scheduler.reconciler import place_orders, supervise_jobs
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, HOUR, NOW, OWNER
from tests.scheduler.town import NAMES, TICK, Town
from trust.jobs import Close
from trust.messages import End

UNIT = SERVED_TOKENS_UNIT
MINUTE = 60_000
TICKS_MAX = 400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open_file(tmp_path / "market.db")
    yield opened
    with opened.reading() as session:
        assert ledger.audit(session) == ()
    opened.close()


@dataclasses.dataclass
class ServingTown(Town):
    """Its enclaves serve, and say so every `receipt_milliseconds`, until `ends` says how."""

    receipt_milliseconds: int = HOUR
    tokens: int = UNIT
    """More of them in each receipt."""
    ends: End | None = None

    def _work(self, session: Session, lease: Lease) -> None:
        last = self.receipts.get(lease.id)
        if last is not None and last.end is not None:
            return
        told = (lease.ready_at_ms or 0) + (0 if last is None else last.milliseconds)
        if self.ends is None and self.now < told + self.receipt_milliseconds:
            return
        tokens = (0 if last is None else last.tokens) + self.tokens
        self.send(session, lease, tokens=tokens, end=self.ends)

    def live(self, until: Callable[[], bool], ticks_max: int = TICKS_MAX) -> None:
        for _ in range(ticks_max):
            self.tick()
            place_orders(self.store, shard=0, shards=1, now=self.now)
            supervise_jobs(self.store, shard=0, shards=1, now=self.now)
            if until():
                return
        raise AssertionError(f"{self.state()} after {ticks_max} ticks: {self.history()}")

    def runs(self) -> bool:
        return self.state() is JobState.RUNNING

    def returned(self) -> int:
        """What the buyer has once the market has swept: microcredits."""
        with self.store.transaction() as session:
            end_orders(session, self.now)
            return balance(session, AccountRole.BUYER, BUYER.identity)


def make(store: Store, *, amount: int, **how: object) -> ServingTown:
    town = ServingTown.make(store, serves=True, amount=amount)
    for name, value in how.items():
        setattr(town, name, value)
    return town


def test_a_serve_job_runs_on_while_its_hold_pays(store: Store) -> None:
    town = make(store, amount=CREDIT // 2, receipt_milliseconds=MINUTE)
    town.live(town.runs)
    started = town.now
    while town.now < started + 4 * MINUTE:
        town.live(lambda: True)
        assert town.runs()
    assert [each.state for each in town.leases()] == [LeaseState.READY]


@pytest.mark.parametrize("silent", [False, True], ids=["with receipts", "before any receipt"])
def test_a_serve_job_whose_hold_pays_for_no_more_time_ends_exhausted(
    store: Store, silent: bool
) -> None:
    """▸ Never unpaid: receipts come hourly, and a hold of six minutes is over after six."""
    town = make(store, amount=CREDIT // 10, receipt_milliseconds=HOUR if silent else MINUTE)
    town.tokens = 8 * UNIT  # a minute's time is worth less
    town.live(town.runs)
    (lease,) = town.leases()
    ready = lease.ready_at_ms
    assert ready is not None
    town.live(lambda: town.state() is JobState.EXHAUSTED)
    assert town.now <= ready + 6 * MINUTE + TICK
    if silent:
        assert town.now >= ready + 6 * MINUTE
    town.live(town.at_rest)
    (lease,) = town.leases()
    assert lease.state is LeaseState.CLOSED
    spent = 20 * CREDIT - town.returned()
    assert spent <= CREDIT // 10
    with store.reading() as session:
        order = order_of(session, jobs.find_job(session, town.job))
        hold = find_hold(session, order.hold_id)
        assert (hold.captured, hold.reserved) == (spent, CREDIT // 10)


def test_a_hold_that_royalties_use_up_ends_the_job_too(store: Store) -> None:
    town = make(store, amount=CREDIT // 10, receipt_milliseconds=MINUTE, tokens=1000 * UNIT)
    town.live(lambda: town.state() is JobState.EXHAUSTED)
    town.live(town.at_rest)
    with store.reading() as session:
        owner = balance(session, AccountRole.OWNER_PENDING, OWNER.identity)
        host = balance(session, AccountRole.HOST_PENDING, HOST.identity)
    assert (owner, host) == (CREDIT // 10, 0)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (End.DONE, JobState.SUCCEEDED),
        (End.OUT_OF_BUDGET, JobState.EXHAUSTED),
        (End.REFUSED, JobState.FAILED),
        (End.FAILED, JobState.FAILED),
    ],
)
def test_a_serve_job_ends_as_its_enclave_says(store: Store, end: End, state: JobState) -> None:
    town = make(store, amount=CREDIT)
    town.live(town.runs)
    town.ends = end
    town.live(town.at_rest)
    assert town.state() is state
    assert town.returned() > 19 * CREDIT


def test_a_last_receipt_that_uses_the_hold_up_is_a_success_all_the_same(store: Store) -> None:
    town = make(store, amount=CREDIT // 10, tokens=1000 * UNIT)
    town.live(town.runs)
    town.ends = End.DONE
    town.live(town.at_rest)
    assert town.state() is JobState.SUCCEEDED


def test_a_serve_job_whose_host_is_lost_goes_on_elsewhere_without_a_checkpoint(
    store: Store,
) -> None:
    town = make(store, amount=CREDIT, receipt_milliseconds=MINUTE)
    town.live(lambda: any(each.tokens >= 2 * UNIT for each in town.receipts.values()))
    town.dead.add("first")
    town.live(lambda: town.runs() and len(town.leases()) == 2)
    town.live(lambda: len(town.receipts) == 2)
    first, second = sorted(town.leases(), key=lambda each: each.generation or 0)
    assert [NAMES[each.host] for each in (first, second)] == ["first", "second"]
    assert (first.generation, second.generation) == (1, 2)
    assert town.receipts[second.id].tokens == UNIT  # counted from its own start
    town.ends = End.DONE
    town.live(town.at_rest)
    assert town.state() is JobState.SUCCEEDED
    with store.reading() as session:
        paid = [
            balance(session, AccountRole.HOST_PENDING, host.identity) for host in (HOST, HOST_2)
        ]
    assert all(paid)


def test_a_closed_serve_job_is_cancelled_drained_and_paid_for_what_it_did(store: Store) -> None:
    town = make(store, amount=CREDIT, receipt_milliseconds=MINUTE)
    town.live(lambda: bool(town.receipts))
    with store.transaction() as session:
        jobs.close_job(session, BUYER.sign(Close(job=town.job, at=town.now)), town.now)
    town.live(town.at_rest)
    assert town.state() is JobState.CANCELLED
    assert 19 * CREDIT < town.returned() < 20 * CREDIT


def test_an_expired_serve_job_ends_and_gives_the_rest_back(store: Store) -> None:
    town = ServingTown.make(store, serves=True, amount=CREDIT, expires_at=NOW + 10 * MINUTE)
    town.live(town.runs)
    town.live(town.at_rest)
    assert town.state() is JobState.FAILED
    assert town.now >= NOW + 10 * MINUTE
    assert town.returned() > 19 * CREDIT


def test_a_training_job_is_not_ended_by_the_time_that_its_hold_pays_for(store: Store) -> None:
    town = Town.make(store, amount=CREDIT // 100)  # 36 seconds of a run of over a minute
    for _ in range(60):
        town.tick()
        place_orders(store, shard=0, shards=1, now=town.now)
        supervise_jobs(store, shard=0, shards=1, now=town.now)
    assert town.state() is JobState.SUCCEEDED
