"""Receipts: who may sign them, which may follow which, what they pay, and when it is final."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa

from marketplace import jobs, ledger, orders, settlement
from marketplace.models import AccountRole, LeaseState, OrderState, SettlementState
from marketplace.receipts import (
    AfterEndError,
    DecreasingError,
    ForkedError,
    OldGenerationError,
    ReceiptError,
    SupersededError,
    UnknownKeyError,
    WrongLeaseError,
)
from marketplace.settlement import DISPUTE_MILLISECONDS, SettleResult
from marketplace.store import Store
from tests.marketplace.test_ledger import tampered
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    DONE,
    HOST,
    HOST_2,
    HOUR,
    NOW,
    OPERATOR,
    OWNER,
    STRANGER,
    World,
    enclave,
    list_offer,
)
from trust.errors import RefusedError
from trust.jobs import (
    Dispute,
    EvaluateRecipe,
    Evaluation,
    Input,
    InputRole,
    JobKind,
    LossOn,
    Precision,
)

MINUTE = 60_000
SECOND = 1000


@pytest.fixture
def world(store: Store) -> World:
    return World.make(store)


@pytest.fixture
def lease(world: World) -> str:
    return world.run()


def paid(world: World) -> dict[str, int]:
    """Balances by role; the buyer started with 20 credits, of which 5 are held."""
    with world.store.reading() as session:
        lines = ledger.trial_balance(session)
        assert ledger.audit(session) == ()
    totals: dict[str, int] = {}
    for line in lines:
        totals[line.role] = totals.get(line.role, 0) + line.balance
    return totals


HALF_HOUR = {"milliseconds": HOUR // 2, "step": 50, "tokens": 100_000}


# --- what is paid --------------------------------------------------------------------------------


def test_receipt_pays_host_owner_and_market_and_the_rest_goes_back(
    world: World, lease: str
) -> None:
    """Ask 1 credit an hour, half an hour; fee 10 %; royalty 0.05 + 0.1 M tokens at 2 credits."""
    settled = world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    assert settled.result is SettleResult.SETTLED
    found = paid(world)
    assert found["host_pending"] == 450_000
    assert found["fees"] == 50_000
    assert found["owner_pending"] == 250_000
    assert found["escrow"] == 5 * CREDIT - 750_000
    finish(world, lease)
    found = paid(world)
    assert (found["escrow"], found["buyer"]) == (0, 20 * CREDIT - 750_000)


def finish(world: World, lease: str, now: int = NOW + HOUR) -> None:
    """Drain and close the lease, end the order."""
    world.move(lease, LeaseState.DRAINING, now=now)
    world.move(lease, LeaseState.CLOSED, now=now)
    with world.store.transaction() as session:
        version = orders.find_order(session, world.order).version
        command = orders.EndOrder(
            id=world.order, version=version, to=OrderState.CLOSED, actor=OPERATOR, reason="done"
        )
        orders.end_order(session, command, now)


def test_replayed_receipt_settles_once(world: World, lease: str) -> None:
    first = world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    before = paid(world)
    again = world.settle(lease, now=NOW + HOUR, signed=world.receipts[lease])
    assert again.result is SettleResult.EXISTS
    assert again.settlement.transfer_id == first.settlement.transfer_id
    assert paid(world) == before


def test_cumulative_receipts_pay_the_difference(world: World, lease: str) -> None:
    for step in range(1, 51):
        part = {name: value * step // 50 for name, value in HALF_HOUR.items()}
        world.settle(lease, now=NOW + HOUR, committed=step, **part)
    found = paid(world)
    assert (found["host_pending"], found["fees"], found["owner_pending"]) == (
        450_000,
        50_000,
        250_000,
    )


def test_missing_middle_receipts_change_no_total(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, committed=1, milliseconds=MINUTE, step=1, tokens=10)
    world.settle(lease, now=NOW + HOUR, committed=50, number=9, before=bytes(32), **HALF_HOUR)
    assert paid(world)["host_pending"] == 450_000


def test_inflated_time_is_cut_to_the_markets_own_clock(world: World, lease: str) -> None:
    """An enclave whose host runs its clock ahead: twelve hours in ten minutes."""
    world.settle(lease, now=NOW + 10 * MINUTE, committed=50, milliseconds=12 * HOUR, step=50)
    found = paid(world)
    assert found["host_pending"] + found["fees"] == CREDIT // 6


def test_meter_stops_when_the_lease_does(world: World, lease: str) -> None:
    world.move(lease, LeaseState.HOST_LOST, now=NOW + 10 * MINUTE)
    world.settle(lease, now=NOW + HOUR, committed=50, milliseconds=12 * HOUR, step=50)
    found = paid(world)
    assert found["host_pending"] + found["fees"] == CREDIT // 6


def test_starving_host_earns_no_more_than_the_ceiling(store: Store) -> None:
    world = World.make(store, ceiling_microcredits_per_step=1000)
    lease = world.run()
    world.settle(lease, now=NOW + 10 * HOUR, committed=10, milliseconds=10 * HOUR, step=10)
    found = paid(world)
    assert found["host_pending"] + found["fees"] == 10_000


def test_buyer_never_pays_more_than_the_hold(store: Store) -> None:
    world = World.make(store, amount=300_000)
    lease = world.run()
    settled = world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    assert settled.result is SettleResult.CUT_SHORT
    found = paid(world)
    assert found["escrow"] == 0
    assert (found["owner_pending"], found["host_pending"] + found["fees"]) == (250_000, 50_000)
    later = {"milliseconds": HOUR, "step": 60, "tokens": 120_000}
    settled = world.settle(lease, now=NOW + HOUR, committed=60, **later)
    assert (settled.result, settled.settlement.transfer_id) == (SettleResult.CUT_SHORT, None)


def test_hold_that_expired_pays_no_late_receipt(world: World, lease: str) -> None:
    late = NOW + 24 * HOUR + orders.SETTLE_MILLISECONDS
    settled = world.settle(lease, now=late, committed=50, **HALF_HOUR)
    assert settled.result is SettleResult.CUT_SHORT
    assert paid(world)["escrow"] == 5 * CREDIT


def test_receipt_without_work_is_stored_and_pays_nothing(world: World, lease: str) -> None:
    settled = world.settle(lease, now=NOW + HOUR, milliseconds=HOUR)
    assert (settled.result, settled.settlement.transfer_id) == (SettleResult.NOTHING_DUE, None)
    assert paid(world)["escrow"] == 5 * CREDIT


def test_uncommitted_work_is_paid_up_to_one_interval(world: World, lease: str) -> None:
    """Reports that host and market drop: no step after the first interval is payable."""
    world.settle(lease, now=NOW + HOUR, milliseconds=HOUR, step=50)
    found = paid(world)
    assert found["host_pending"] + found["fees"] == 10 * CREDIT // 50


def test_evaluation_is_paid_when_done(store: Store) -> None:
    evaluation = Evaluation(rows_max=1, reply_tokens_max=0, header_ends_with="")
    world = World.make(
        store,
        kind=JobKind.EVALUATE,
        recipe=EvaluateRecipe(evaluation=evaluation, precision=Precision.FP32, loss_on=LossOn.ALL),
        inputs=(
            Input(role=InputRole.MODEL, artifact=bytes(32)),
            Input(role=InputRole.HELDOUT, artifact=bytes(32)),
        ),
    )
    lease = world.run()
    first = world.settle(lease, now=NOW + MINUTE, milliseconds=MINUTE)
    assert first.result is SettleResult.NOTHING_DUE
    last = world.settle(lease, now=NOW + MINUTE, milliseconds=MINUTE, end=DONE)
    assert last.settlement.lease_gross == CREDIT // 60
    world.check()


# --- generations ---------------------------------------------------------------------------------


def test_two_hosts_share_one_hold_and_no_step_is_paid_twice(world: World) -> None:
    """The first host dies at step 58, committed at 50; the second goes on from there to 100."""
    first = world.run()
    each = 100_000  # tokens for each ten steps
    world.settle(
        first, now=NOW + HOUR, committed=50, milliseconds=58 * MINUTE, step=58, tokens=58 * 10_000
    )
    world.lose(first, now=NOW + HOUR)
    second = world.run(HOST_2, now=NOW + HOUR)
    done = world.settle(
        second,
        now=NOW + 3 * HOUR,
        milliseconds=50 * MINUTE,
        first_step=50,
        step=100,
        tokens=5 * each,
        end=DONE,
    )
    assert done.settlement.paid_through_step == 100
    with world.store.reading() as session:
        settlements = settlement.settlements_of(session, world.job)
    gross = [each.lease_gross for each in settlements]
    assert gross == [CREDIT * 58 // 60, CREDIT * 42 // 60]
    assert settlements[-1].job_tokens == 1_000_000
    assert paid(world)["owner_pending"] == 50_000 + 2 * CREDIT


def test_receipt_of_an_older_generation_does_not_settle(world: World) -> None:
    first = world.run()
    late = world.receipt(first, milliseconds=MINUTE, step=5)
    world.lose(first)
    with world.store.reading() as session:
        assert jobs.find_job(session, world.job).generation == 1
    world.run(HOST_2)
    with pytest.raises(OldGenerationError):
        world.settle(first, now=NOW + HOUR, signed=late)
    assert paid(world)["escrow"] == 5 * CREDIT


def test_late_receipt_of_a_lost_host_settles_until_the_next_generation(world: World) -> None:
    first = world.run()
    world.lose(first, now=NOW + HOUR)
    settled = world.settle(first, now=NOW + HOUR, committed=50, **HALF_HOUR)
    assert settled.result is SettleResult.SETTLED


# --- forged, foreign, forked ---------------------------------------------------------------------


def refused(world: World, lease: str, error: type[ReceiptError], **changes: object) -> None:
    """It is refused, by that error, and nothing of it is stored or paid."""
    before = paid(world)
    signer = changes.pop("signer", None)
    signed = world.receipt(lease, signer=signer, **changes)
    command = settlement.SettleReceipt(receipt=signed, committed_step=None)
    with pytest.raises(error), world.store.transaction() as session:
        settlement.settle(session, command, NOW + HOUR)
    assert paid(world) == before
    with world.store.reading() as session:
        rows = [s.receipt_digest for s in settlement.settlements_of(session, world.job)]
    assert len(rows) == (1 if lease in world.receipts else 0)


def test_receipt_by_a_key_that_the_host_supplied_is_refused(world: World, lease: str) -> None:
    for signer in (HOST, BUYER, STRANGER, OWNER):
        refused(world, lease, UnknownKeyError, signer=signer, milliseconds=MINUTE, step=1)


def test_receipt_before_evidence_was_verified_is_refused(world: World) -> None:
    with world.store.transaction() as session:
        offer = list_offer(session)
    lease = world.claim(offer)
    refused(world, lease, UnknownKeyError, generation=1, milliseconds=MINUTE, step=1)


def test_receipt_of_another_lease_is_refused(store: Store) -> None:
    """A cheap lease's enclave names a dearer one; a job's enclave names another job."""
    one, other = World.make(store), World.make(store)
    lease, dear = one.run(), other.run(HOST_2)
    forged = one.receipt(dear, signer=enclave(lease), milliseconds=MINUTE, step=1)
    command = settlement.SettleReceipt(receipt=forged, committed_step=None)
    with pytest.raises(UnknownKeyError), store.transaction() as session:
        settlement.settle(session, command, NOW)
    refused(one, lease, WrongLeaseError, job=other.job, milliseconds=MINUTE, step=1)


def test_receipt_of_another_generation_or_rank_is_refused(world: World, lease: str) -> None:
    refused(world, lease, WrongLeaseError, generation=2, milliseconds=MINUTE, step=1)
    refused(world, lease, WrongLeaseError, rank=1, milliseconds=MINUTE, step=1)


def test_receipt_of_a_closed_lease_is_refused(world: World, lease: str) -> None:
    world.move(lease, LeaseState.DRAINING)
    world.move(lease, LeaseState.CLOSED)
    refused(world, lease, WrongLeaseError, milliseconds=MINUTE, step=1)


def test_forked_receipts_are_refused(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, committed=5, milliseconds=MINUTE, step=5, tokens=50)
    same = {"milliseconds": MINUTE, "step": 5, "tokens": 50}
    more = {"milliseconds": 2 * MINUTE, "step": 6, "tokens": 60}
    last = world.receipts[lease].digest
    refused(world, lease, ForkedError, number=1, before=None, **more)  # a second number 1
    refused(world, lease, ForkedError, number=1, before=None, compute_class="x", **same)
    refused(world, lease, ForkedError, number=2, before=bytes(32), **more)  # not its successor
    refused(world, lease, ForkedError, number=2, before=None, **more)
    refused(world, lease, ForkedError, number=3, before=last, **more)  # skips nothing that was


def test_decreasing_receipts_are_refused(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, milliseconds=MINUTE, first_step=2, step=5, tokens=50)
    more = {"milliseconds": 2 * MINUTE, "first_step": 2, "step": 6, "tokens": 60}
    for change in ({"milliseconds": 1}, {"step": 4}, {"tokens": 49}, {"first_step": 0}):
        refused(world, lease, DecreasingError, **more | change)


def test_receipt_that_a_later_one_superseded_is_refused(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, number=5, before=bytes(32), milliseconds=MINUTE, step=5)
    refused(world, lease, SupersededError, number=4, before=bytes(32), milliseconds=1, step=4)


def test_nothing_follows_the_end(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, milliseconds=MINUTE, step=5, end=DONE)
    refused(world, lease, AfterEndError, milliseconds=2 * MINUTE, step=6)


class CrashError(Exception):
    """The process ends here."""


def test_crash_at_every_statement_of_a_settlement_leaves_balanced_books(
    world: World, lease: str
) -> None:
    before = paid(world)
    at, seen = 0, 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise CrashError

    sa.event.listen(world.store.engine, "before_cursor_execute", count)
    while True:
        at, seen = at + 1, 0
        try:
            world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
        except CrashError:
            crashed, at = at, 0
            assert paid(world) == before
            at = crashed
            continue
        break
    statements, at = at, 0
    assert statements > 20
    assert paid(world)["host_pending"] == 450_000


# --- final, or not -------------------------------------------------------------------------------


def disputed(world: World, lease: str, signer: object = BUYER) -> object:
    document = Dispute(receipt=world.receipts[lease].digest, reason="too-slow", at=NOW)
    return signer.sign(document)


def test_pending_amounts_mature_after_the_window_and_once(world: World, lease: str) -> None:
    settled = world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    assert settled.result is SettleResult.SETTLED
    final = NOW + HOUR + DISPUTE_MILLISECONDS
    for now, matured in ((final - 1, 0), (final, 1), (final + 1, 0)):
        with world.store.transaction() as session:
            assert len(settlement.mature(session, now)) == matured
    found = paid(world)
    assert found["owner_pending"] == found["host_pending"] == 0
    assert found["owner_payable"] == settled.settlement.owner_amount > 0


def test_disputed_amounts_wait(world: World, lease: str) -> None:
    world.settle(lease, now=NOW, committed=50, milliseconds=HOUR, step=50, tokens=100_000)
    for _ in range(2):  # the same dispute again changes nothing
        with world.store.transaction() as session:
            state = settlement.dispute(session, disputed(world, lease), NOW + HOUR)
            assert state is SettlementState.DISPUTED
    with world.store.transaction() as session:
        assert settlement.mature(session, NOW + 9 * DISPUTE_MILLISECONDS) == ()
    assert "owner_payable" not in paid(world)


def test_dispute_for_the_buyer_gives_the_amount_back_whole(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    command = settlement.Resolve(receipt=world.receipts[lease].digest, for_buyer=True)
    with world.store.transaction() as session:
        settlement.dispute(session, disputed(world, lease), NOW + HOUR)
    for _ in range(2):
        with world.store.transaction() as session:
            state = settlement.resolve(session, command, NOW + HOUR)
            assert state is SettlementState.REFUNDED
    found = paid(world)
    assert found["buyer"] == 15 * CREDIT + 750_000
    assert found["host_pending"] == found["owner_pending"] == found["fees"] == 0
    finish(world, lease)
    assert paid(world)["buyer"] == 20 * CREDIT


def test_dispute_for_the_host_matures(world: World, lease: str) -> None:
    world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    command = settlement.Resolve(receipt=world.receipts[lease].digest, for_buyer=False)
    with world.store.transaction() as session:
        settlement.dispute(session, disputed(world, lease), NOW + HOUR)
        settlement.resolve(session, command, NOW + HOUR)
    assert paid(world)["host_payable"] == 450_000


def test_disputes_by_others_or_too_late_are_refused(world: World, lease: str) -> None:
    world.settle(lease, now=NOW, committed=50, milliseconds=HOUR, step=50)
    for signer, now, code in (
        (HOST, NOW, "wrong-signer"),
        (STRANGER, NOW, "wrong-signer"),
        (BUYER, NOW + DISPUTE_MILLISECONDS, "dispute-too-late"),
    ):
        with pytest.raises(RefusedError, match=code), world.store.transaction() as session:
            settlement.dispute(session, disputed(world, lease, signer), now)
    command = settlement.Resolve(receipt=world.receipts[lease].digest, for_buyer=True)
    with pytest.raises(RefusedError, match="not-disputed"), world.store.transaction() as session:
        settlement.resolve(session, command, NOW)
    unknown = settlement.Resolve(receipt=bytes(32), for_buyer=True)
    with pytest.raises(RefusedError, match="receipt-unknown"), world.store.transaction() as session:
        settlement.resolve(session, unknown, NOW)


def test_payable_money_is_the_hosts(world: World, lease: str) -> None:
    settled = world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    with world.store.transaction() as session:
        settlement.mature(session, NOW + HOUR + DISPUTE_MILLISECONDS)
        balance = ledger.balance(session, AccountRole.HOST_PAYABLE, HOST.identity)
    assert balance == settled.settlement.host_amount == 450_000


FORGERIES = {
    "receipt": "UPDATE receipt SET milliseconds = milliseconds * 2",
    "receipt deleted": "DELETE FROM receipt",
    "settlement amount": "UPDATE settlement SET host_amount = host_amount + 1",
    "settlement transfer": "UPDATE settlement SET transfer_id = NULL",
    "settlement deleted": "DELETE FROM settlement",
    "transition": "UPDATE transition SET actor = 'somebody'",
    "transition deleted": "DELETE FROM transition",
    "job price": "UPDATE job SET fee_ppm = 0",
    "job buyer": "UPDATE job SET buyer = owner",
    "job generation": "UPDATE job SET generation = generation + 2",
    "generation order": "UPDATE generation_order SET digest = 'x'",
    "lease key": "UPDATE lease SET signing_key = 'x'",
    "lease price": "UPDATE lease SET price = 0",
    "lease clock": "UPDATE lease SET ready_at_ms = 0",
    "offer terms": "UPDATE offer_terms SET ask = 0",
    "order bid": 'UPDATE "order" SET bid = 0',
    "order hold": 'UPDATE "order" SET hold_id = id',
}


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_sql_is_refused_by_the_database(world: World, lease: str, statement: str) -> None:
    world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    with pytest.raises(sa.exc.IntegrityError), world.store.transaction() as session:
        session.connection().exec_driver_sql(statement)
    world.check()


IMMUTABLE = ("leg", "transfer", "offer_terms", "generation_order", "receipt", "transition")
OTHERS = ("hold", "offer", "order", "job", "lease", "settlement")
GUARDED = ("account", *IMMUTABLE, *OTHERS)
AGAIN = dict.fromkeys(GUARDED, 'REPLACE INTO "{0}" SELECT * FROM "{0}"') | {
    "account": "REPLACE INTO account SELECT id, role, currency, NULL, 0, 0, 0 FROM account",
    "leg": (
        "REPLACE INTO leg SELECT transfer_id, number, debit_account,"
        " (SELECT version + 1 FROM account WHERE id = debit_account), credit_account,"
        " (SELECT version + 1 FROM account WHERE id = credit_account), currency, 1 FROM leg"
    ),
}


@pytest.mark.parametrize(
    ("table", "statement", "refusal"),
    [
        *((t, 'DELETE FROM "{}"', "never deleted") for t in GUARDED),
        *((t, again, "is there already") for t, again in AGAIN.items()),
        *((t, 'UPDATE "{}" SET rowid = rowid', "never changes") for t in IMMUTABLE),
        ("offer", "UPDATE {} SET host = id", "never change"),
        ("settlement", "UPDATE {} SET transfer_id = NULL", "never change"),
        ("order", 'UPDATE "{}" SET hold_id = id', "never change"),
    ],
)
def test_forger_with_a_connection_of_its_own_is_refused(
    world: World, lease: str, table: str, statement: str, refusal: str
) -> None:
    """SQLite's own defaults: no foreign keys, and REPLACE that asks no DELETE trigger."""
    world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    raw = sqlite3.connect(str(world.store.engine.url.database), isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match=refusal):
        raw.execute(statement.format(table))
    raw.close()
    world.check()


def test_settlement_that_ended_never_changes(world: World, lease: str) -> None:
    world.settle(lease, now=NOW, committed=50, milliseconds=HOUR, step=50, tokens=100)
    with world.store.transaction() as session:
        settlement.mature(session, NOW + DISPUTE_MILLISECONDS)
    with pytest.raises(sa.exc.IntegrityError), world.store.transaction() as session:
        session.connection().exec_driver_sql("UPDATE settlement SET state = 'pending'")


@pytest.mark.parametrize(
    ("statement", "invariants"),
    [
        ("SELECT 1", set()),
        ("UPDATE settlement SET host_amount = host_amount + 1", {9, 12}),
        ("UPDATE settlement SET lease_gross = lease_gross + 1", {9}),
        ("UPDATE settlement SET job_royalty = job_royalty + 1", {9}),
        ("UPDATE settlement SET lease_fee = lease_fee + 1", {9}),
        ("DELETE FROM settlement", {9, 15}),
        ("UPDATE job SET spend_max = 1", {11}),
        ("UPDATE lease SET price = price + 1", {20}),
        ("UPDATE transition SET actor = 'somebody' WHERE number = 1", {29}),
        ("DELETE FROM transition WHERE number = 2", {29}),
        ("UPDATE transition SET at_ms = 0 WHERE number = 2", {29}),
    ],
)
def test_audit_names_what_a_tamperer_broke(
    world: World, lease: str, statement: str, invariants: set[int]
) -> None:
    world.settle(lease, now=NOW + HOUR, committed=50, **HALF_HOUR)
    assert tampered(world.store, statement) == invariants


def test_flat_royalty_is_paid_once_for_all_ranks(store: Store) -> None:
    world = World.make(store, enclaves=2)
    names = []
    for rank in range(2):
        with store.transaction() as session:
            offer = list_offer(session)
        names.append(world.claim(offer, rank=rank))
    world.start(*names)
    for rank, name in enumerate(names):
        part = {"milliseconds": HOUR, "step": 10, "tokens": 50_000, "rank": rank}
        settled = world.settle(name, now=NOW + HOUR, committed=10, **part)
        assert settled.settlement.lease_gross == 10 * 20_000
        assert settled.settlement.owner_amount == (150_000 if rank == 0 else 100_000)
    world.check()
