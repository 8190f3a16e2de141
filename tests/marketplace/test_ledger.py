"""Money moves once, whole, and never from where there is none."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from marketplace import ledger
from marketplace.commands import LedgerResult as R
from marketplace.ids import IdKind
from marketplace.models import AccountRole, HoldState, TransferKind
from marketplace.postings import find_hold
from marketplace.store import Store
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    HOST,
    HOUR,
    NOW,
    OWNER,
    STRANGER,
    fund,
    new_id,
    xfer,
)
from trust.errors import EncodingError

LATER = NOW + HOUR


def top_up(**changes: object) -> ledger.TopUp:
    values = {"id": xfer(), "buyer": BUYER.identity, "provider": "test", "amount": 100}
    return ledger.TopUp(**values | changes)


def place(**changes: object) -> ledger.PlaceHold:
    values = {
        "id": xfer(),
        "hold": new_id(IdKind.HOLD),
        "order": new_id(IdKind.ORDER),
        "buyer": BUYER.identity,
        "amount": 60,
        "expires_at": LATER,
    }
    return ledger.PlaceHold(**values | changes)


@pytest.fixture
def session(store: Store) -> Iterator[Session]:
    """One writing scope with a buyer who has 100, and accounts to pay; audited at the end."""
    with store.transaction() as opened:
        fund(opened, 100)
        ledger.open_account(opened, AccountRole.HOST_PENDING, HOST.identity, NOW)
        ledger.open_account(opened, AccountRole.HOST_PAYABLE, HOST.identity, NOW)
        ledger.open_account(opened, AccountRole.OWNER_PENDING, OWNER.identity, NOW)
        yield opened
        assert ledger.audit(opened) == ()


HOST_PENDING = ledger.account_id(AccountRole.HOST_PENDING, HOST.identity)
HOST_PAYABLE = ledger.account_id(AccountRole.HOST_PAYABLE, HOST.identity)
OWNER_PENDING = ledger.account_id(AccountRole.OWNER_PENDING, OWNER.identity)


def post(hold: str, *shares: tuple[str, int], name: str | None = None) -> ledger.PostHold:
    return ledger.PostHold(
        id=name or xfer(),
        hold=hold,
        shares=tuple(ledger.Share(credit=credit, amount=amount) for credit, amount in shares),
    )


def money(session: Session) -> dict[AccountRole, int]:
    return {
        role: ledger.balance(session, role, key.identity)
        for role, key in (
            (AccountRole.BUYER, BUYER),
            (AccountRole.HOST_PENDING, HOST),
            (AccountRole.OWNER_PENDING, OWNER),
        )
    }


def state(session: Session, hold: str) -> tuple[HoldState, int, int, int]:
    row = find_hold(session, hold)
    return row.state, row.reserved, row.captured, row.released


# --- ids -----------------------------------------------------------------------------------------


def test_replay_moves_nothing_and_says_exists(session: Session) -> None:
    command = top_up()
    assert ledger.top_up(session, command, NOW) is R.CREATED
    assert ledger.top_up(session, command, LATER) is R.EXISTS
    assert money(session)[AccountRole.BUYER] == 200


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"amount": 101}, R.EXISTS_WITH_DIFFERENT_AMOUNT),
        ({"buyer": STRANGER.identity}, R.EXISTS_WITH_DIFFERENT_ACCOUNTS),
        ({"provider": "other"}, R.EXISTS_WITH_DIFFERENT_ACCOUNTS),
        ({"buyer": STRANGER.identity, "amount": 101}, R.EXISTS_WITH_DIFFERENT_ACCOUNTS),
    ],
)
def test_differing_replay_says_how_it_differs(
    session: Session, changes: dict[str, object], result: R
) -> None:
    command = top_up()
    ledger.top_up(session, command, NOW)
    assert ledger.top_up(session, dataclasses.replace(command, **changes), NOW) is result
    assert money(session)[AccountRole.BUYER] == 200
    assert ledger.balance(session, AccountRole.BUYER, STRANGER.identity) == 0


def test_id_of_one_command_is_refused_for_another_kind(session: Session) -> None:
    command = top_up()
    ledger.top_up(session, command, NOW)
    assert ledger.place_hold(session, place(id=command.id), NOW) is R.EXISTS_WITH_DIFFERENT_KIND


def test_differing_replay_of_a_hold_says_how_it_differs(session: Session) -> None:
    command = place()
    assert ledger.place_hold(session, command, NOW) is R.CREATED
    assert ledger.place_hold(session, command, LATER + 1) is R.EXISTS
    for changes, result in (
        ({"hold": new_id(IdKind.HOLD)}, R.EXISTS_WITH_DIFFERENT_HOLD),
        ({"amount": 61}, R.EXISTS_WITH_DIFFERENT_AMOUNT),
        ({"expires_at": LATER + 1}, R.EXISTS_WITH_DIFFERENT_TERMS),
        ({"order": new_id(IdKind.ORDER)}, R.EXISTS_WITH_DIFFERENT_TERMS),
    ):
        assert ledger.place_hold(session, dataclasses.replace(command, **changes), NOW) is result
    assert money(session)[AccountRole.BUYER] == 40


@pytest.mark.parametrize("amount", [0, -1, 1 << 53, 1.5, True, "1", None])
def test_amounts_that_are_no_positive_integers_are_refused(amount: object) -> None:
    with pytest.raises(EncodingError, match="amount"):
        top_up(amount=amount)
    with pytest.raises(EncodingError, match="amount"):
        ledger.Posting(debit="a", credit="b", amount=amount)


def test_malformed_commands_are_refused() -> None:
    with pytest.raises(EncodingError, match="to itself"):
        ledger.Posting(debit="a", credit="a", amount=1)
    with pytest.raises(EncodingError, match="legs"):
        post(new_id(IdKind.HOLD))
    with pytest.raises(EncodingError, match="legs"):
        post(new_id(IdKind.HOLD), *[("a", 1)] * 17)
    with pytest.raises(EncodingError, match="id"):
        top_up(id="hold_" + "0" * 26)
    for provider in ("", "x" * 65):
        with pytest.raises(EncodingError, match="provider"):
            top_up(provider=provider)
    with pytest.raises(EncodingError, match="mature or to pay out"):
        ledger.CreateTransfer(id=xfer(), kind=TransferKind.TOP_UP, postings=())


# --- holds ---------------------------------------------------------------------------------------


def test_placed_money_is_the_buyers_no_more(session: Session) -> None:
    command = place()
    assert ledger.place_hold(session, command, NOW) is R.CREATED
    assert money(session)[AccountRole.BUYER] == 40
    assert ledger.balance(session, AccountRole.ESCROW, command.hold) == 60
    assert ledger.place_hold(session, place(amount=41), NOW) is R.EXCEEDS_BALANCE
    assert ledger.place_hold(session, place(amount=40), NOW) is R.CREATED


def test_an_order_without_funds_or_account_holds_nothing(session: Session) -> None:
    stranger = place(buyer=STRANGER.identity)
    assert ledger.place_hold(session, stranger, NOW) is R.ACCOUNT_NOT_FOUND
    assert ledger.place_hold(session, place(amount=101), NOW) is R.EXCEEDS_BALANCE
    assert find_hold(session, stranger.hold) is None


def test_one_live_hold_an_order(session: Session) -> None:
    command = place(amount=10)
    ledger.place_hold(session, command, NOW)
    again = place(amount=10, order=command.order)
    assert ledger.place_hold(session, again, NOW) is R.HOLD_EXISTS
    assert ledger.place_hold(session, place(amount=10, hold=command.hold), NOW) is R.HOLD_EXISTS
    ledger.void_hold(session, ledger.VoidHold(id=xfer(), hold=command.hold), NOW)
    assert ledger.place_hold(session, again, NOW) is R.CREATED


def test_posting_pays_each_share_and_keeps_the_rest(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    draw = post(command.hold, (HOST_PENDING, 20), (OWNER_PENDING, 5))
    assert ledger.post_hold(session, draw, NOW) is R.CREATED
    assert ledger.post_hold(session, draw, NOW) is R.EXISTS
    assert state(session, command.hold) == (HoldState.PLACED, 60, 25, 0)
    assert money(session) == {
        AccountRole.BUYER: 40,
        AccountRole.HOST_PENDING: 20,
        AccountRole.OWNER_PENDING: 5,
    }


def test_posting_more_than_the_hold_holds_moves_nothing(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    ledger.post_hold(session, post(command.hold, (HOST_PENDING, 20)), NOW)
    draw = post(command.hold, (HOST_PENDING, 36), (OWNER_PENDING, 5))
    assert ledger.post_hold(session, draw, NOW) is R.EXCEEDS_HOLD
    assert state(session, command.hold) == (HoldState.PLACED, 60, 20, 0)


def test_posting_to_an_unknown_account_moves_nothing(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    draw = post(command.hold, (HOST_PENDING, 1), ("host:nobody:pending", 1))
    assert ledger.post_hold(session, draw, NOW) is R.ACCOUNT_NOT_FOUND
    assert state(session, command.hold) == (HoldState.PLACED, 60, 0, 0)


def test_voiding_gives_the_rest_back_and_ends_the_hold(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    ledger.post_hold(session, post(command.hold, (HOST_PENDING, 20)), NOW)
    void = ledger.VoidHold(id=xfer(), hold=command.hold)
    assert ledger.void_hold(session, void, NOW) is R.CREATED
    assert ledger.void_hold(session, void, NOW) is R.EXISTS
    assert state(session, command.hold) == (HoldState.POSTED, 60, 20, 40)
    assert money(session)[AccountRole.BUYER] == 80
    again = ledger.VoidHold(id=xfer(), hold=command.hold)
    assert ledger.void_hold(session, again, NOW) is R.HOLD_ALREADY_POSTED
    late = post(command.hold, (HOST_PENDING, 1))
    assert ledger.post_hold(session, late, NOW) is R.HOLD_ALREADY_POSTED


def test_hold_that_was_never_drawn_on_ends_voided(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    ledger.void_hold(session, ledger.VoidHold(id=xfer(), hold=command.hold), NOW)
    assert state(session, command.hold) == (HoldState.VOIDED, 60, 0, 60)
    late = post(command.hold, (HOST_PENDING, 1))
    assert ledger.post_hold(session, late, NOW) is R.HOLD_ALREADY_VOIDED
    assert money(session)[AccountRole.BUYER] == 100


def test_hold_drawn_to_the_last_unit_ends_without_a_leg(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    ledger.post_hold(session, post(command.hold, (HOST_PENDING, 60)), NOW)
    void = ledger.VoidHold(id=xfer(), hold=command.hold)
    assert ledger.void_hold(session, void, NOW) is R.CREATED
    assert state(session, command.hold) == (HoldState.POSTED, 60, 60, 0)


def test_expired_hold_pays_nobody_even_before_it_is_swept(session: Session) -> None:
    command = place()
    ledger.place_hold(session, command, NOW)
    expire = ledger.ExpireHold(id=xfer(), hold=command.hold)
    assert ledger.expire_hold(session, expire, LATER - 1) is R.HOLD_NOT_EXPIRED
    assert ledger.expired_holds(session, LATER - 1) == ()
    draw = post(command.hold, (HOST_PENDING, 1))
    assert ledger.post_hold(session, draw, LATER) is R.HOLD_EXPIRED
    assert ledger.expired_holds(session, LATER) == (command.hold,)
    assert ledger.expire_hold(session, expire, LATER) is R.CREATED
    assert ledger.expired_holds(session, LATER) == ()
    assert state(session, command.hold) == (HoldState.EXPIRED, 60, 0, 60)
    assert money(session)[AccountRole.BUYER] == 100
    assert ledger.post_hold(session, draw, NOW) is R.HOLD_EXPIRED


def test_hold_is_not_placed_in_the_past(session: Session) -> None:
    assert ledger.place_hold(session, place(expires_at=NOW), NOW) is R.HOLD_EXPIRED


def test_unknown_hold_is_not_found(session: Session) -> None:
    name = new_id(IdKind.HOLD)
    assert ledger.post_hold(session, post(name, (HOST_PENDING, 1)), NOW) is R.HOLD_NOT_FOUND
    assert ledger.void_hold(session, ledger.VoidHold(id=xfer(), hold=name), NOW) is R.HOLD_NOT_FOUND


# --- transfers and refunds -----------------------------------------------------------------------


def drawn(session: Session) -> tuple[str, ledger.PostHold]:
    command = place()
    ledger.place_hold(session, command, NOW)
    draw = post(command.hold, (HOST_PENDING, 20), (OWNER_PENDING, 5))
    ledger.post_hold(session, draw, NOW)
    return command.hold, draw


def mature(amount: int, debit: str = HOST_PENDING, credit: str = HOST_PAYABLE) -> object:
    posting = ledger.Posting(debit=debit, credit=credit, amount=amount)
    return ledger.CreateTransfer(id=xfer(), kind=TransferKind.MATURE, postings=(posting,))


def test_payout_goes_by_clearing_to_the_outside(session: Session) -> None:
    drawn(session)
    ledger.transfer(session, mature(20), NOW)
    clearing = ledger.open_account(session, AccountRole.CLEARING, "payout", NOW)
    outside = ledger.account_id(AccountRole.EXTERNAL, "test")
    for debit, credit in ((HOST_PAYABLE, clearing), (clearing, outside)):
        posting = ledger.Posting(debit=debit, credit=credit, amount=20)
        command = ledger.CreateTransfer(id=xfer(), kind=TransferKind.PAY_OUT, postings=(posting,))
        assert ledger.transfer(session, command, NOW) is R.CREATED
    assert ledger.balance(session, AccountRole.EXTERNAL, "test") == -80


def test_transfer_below_a_floor_moves_nothing(session: Session) -> None:
    drawn(session)
    assert ledger.transfer(session, mature(21), NOW) is R.EXCEEDS_BALANCE
    assert ledger.transfer(session, mature(20), NOW) is R.CREATED
    assert ledger.balance(session, AccountRole.HOST_PAYABLE, HOST.identity) == 20


def test_transfer_never_touches_an_escrow(session: Session) -> None:
    hold, _ = drawn(session)
    escrow = ledger.account_id(AccountRole.ESCROW, hold)
    assert ledger.transfer(session, mature(1, debit=escrow), NOW) is R.ACCOUNTS_NOT_OF_KIND
    assert ledger.transfer(session, mature(1, credit=escrow), NOW) is R.ACCOUNTS_NOT_OF_KIND
    assert ledger.transfer(session, mature(1, credit="nobody"), NOW) is R.ACCOUNT_NOT_FOUND


def test_bare_transfer_never_takes_from_a_buyer_or_gives_to_another_party(
    session: Session,
) -> None:
    drawn(session)
    buyer = ledger.account_id(AccountRole.BUYER, BUYER.identity)
    stranger = ledger.open_account(session, AccountRole.HOST_PAYABLE, STRANGER.identity, NOW)
    for debit, credit in (
        (buyer, HOST_PAYABLE),
        (HOST_PENDING, buyer),
        (HOST_PENDING, stranger),
        (HOST_PENDING, OWNER_PENDING),
        (HOST_PAYABLE, HOST_PENDING),
    ):
        command = mature(1, debit=debit, credit=credit)
        assert ledger.transfer(session, command, NOW) is R.ACCOUNTS_NOT_OF_KIND


def test_legs_of_one_transfer_are_all_or_none(session: Session) -> None:
    drawn(session)
    first = ledger.Posting(debit=HOST_PENDING, credit=HOST_PAYABLE, amount=20)
    payable = ledger.open_account(session, AccountRole.OWNER_PAYABLE, OWNER.identity, NOW)
    second = ledger.Posting(debit=OWNER_PENDING, credit=payable, amount=6)
    command = ledger.CreateTransfer(id=xfer(), kind=TransferKind.MATURE, postings=(first, second))
    assert ledger.transfer(session, command, NOW) is R.EXCEEDS_BALANCE
    assert money(session)[AccountRole.HOST_PENDING] == 20


def test_several_legs_of_one_account_count_one_by_one(session: Session) -> None:
    drawn(session)
    ledger.transfer(session, mature(20), NOW)
    clearing = ledger.open_account(session, AccountRole.CLEARING, "payout", NOW)
    legs = tuple(
        ledger.Posting(debit=debit, credit=credit, amount=amount)
        for debit, credit, amount in (
            (HOST_PAYABLE, clearing, 15),
            (clearing, HOST_PAYABLE, 10),
            (HOST_PAYABLE, clearing, 15),
        )
    )
    command = ledger.CreateTransfer(id=xfer(), kind=TransferKind.PAY_OUT, postings=legs)
    assert ledger.transfer(session, command, NOW) is R.CREATED
    assert ledger.balance(session, AccountRole.HOST_PAYABLE, HOST.identity) == 0


def test_refund_reverses_a_posting_whole_and_once(session: Session) -> None:
    hold, draw = drawn(session)
    command = ledger.Refund(id=xfer(), reverses=draw.id)
    assert ledger.refund(session, command, NOW) is R.CREATED
    assert ledger.refund(session, command, NOW) is R.EXISTS
    assert money(session) == {
        AccountRole.BUYER: 65,
        AccountRole.HOST_PENDING: 0,
        AccountRole.OWNER_PENDING: 0,
    }
    again = ledger.Refund(id=xfer(), reverses=draw.id)
    assert ledger.refund(session, again, NOW) is R.ALREADY_REVERSED
    assert state(session, hold) == (HoldState.PLACED, 60, 25, 0)


def test_refund_of_what_was_paid_out_moves_nothing(session: Session) -> None:
    _, draw = drawn(session)
    ledger.transfer(session, mature(20), NOW)
    command = ledger.Refund(id=xfer(), reverses=draw.id)
    assert ledger.refund(session, command, NOW) is R.EXCEEDS_BALANCE
    assert money(session)[AccountRole.OWNER_PENDING] == 5


def test_only_postings_are_refunded(session: Session) -> None:
    command = top_up()
    ledger.top_up(session, command, NOW)
    for name, result in (
        (command.id, R.TRANSFER_NOT_REVERSIBLE),
        (xfer(), R.TRANSFER_NOT_FOUND),
    ):
        assert ledger.refund(session, ledger.Refund(id=xfer(), reverses=name), NOW) is result


def test_trial_balance_shows_every_account_and_sums_to_zero(session: Session) -> None:
    drawn(session)
    lines = ledger.trial_balance(session)
    assert sum(line.debits for line in lines) == sum(line.credits for line in lines) == 185
    assert sum(line.balance for line in lines) == 0
    assert all(line.credits - line.debits == line.balance for line in lines)
    assert {line.role for line in lines} >= {"external", "buyer", "escrow", "host_pending"}


# --- crashes and forgeries -----------------------------------------------------------------------


def whole_life(session: Session) -> None:
    """Every kind of command once."""
    fund(session, 100)
    for role in (AccountRole.HOST_PENDING, AccountRole.HOST_PAYABLE):
        ledger.open_account(session, role, HOST.identity, NOW)
    ledger.open_account(session, AccountRole.OWNER_PENDING, OWNER.identity, NOW)
    command = place()
    expiring = place(amount=10)
    draws = [post(command.hold, (HOST_PENDING, 20), (OWNER_PENDING, 5)) for _ in range(2)]
    for apply, each in (
        (ledger.place_hold, command),
        (ledger.place_hold, expiring),
        (ledger.post_hold, draws[0]),
        (ledger.post_hold, draws[1]),
        (ledger.transfer, mature(20)),
        (ledger.refund, ledger.Refund(id=xfer(), reverses=draws[1].id)),
        (ledger.void_hold, ledger.VoidHold(id=xfer(), hold=command.hold)),
    ):
        assert apply(session, each, NOW) is R.CREATED, each
    expire = ledger.ExpireHold(id=xfer(), hold=expiring.hold)
    assert ledger.expire_hold(session, expire, LATER) is R.CREATED


class CrashError(Exception):
    """The process ends here."""


def test_crash_at_every_statement_leaves_balanced_books(store: Store) -> None:
    at, seen = 0, 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise CrashError

    sa.event.listen(store.engine, "before_cursor_execute", count)
    sa.event.listen(store.engine, "after_cursor_execute", count)
    while True:
        at, seen = at + 1, 0
        try:
            with store.transaction() as session:
                whole_life(session)
        except CrashError:
            at_crash, at = at, 0
            with store.reading() as session:
                assert ledger.audit(session) == ()
                assert ledger.trial_balance(session) == ()
            at = at_crash
            continue
        break
    life, at = at, 0
    assert life > 50  # a life has more statements than that, and each has crashed, before and after
    with store.reading() as session:
        assert ledger.audit(session) == ()
        assert money(session)[AccountRole.OWNER_PENDING] == 5


def test_replay_after_a_crash_ends_where_no_crash_would_have(store: Store) -> None:
    command = place()
    with store.transaction() as session:
        fund(session, 100)
    with pytest.raises(CrashError), store.transaction() as session:  # noqa: PT012
        ledger.place_hold(session, command, NOW)
        raise CrashError
    for wanted in (R.CREATED, R.EXISTS):  # the answer was lost: asked again
        with store.transaction() as session:
            assert ledger.place_hold(session, command, NOW) is wanted
    with store.reading() as session:
        assert money(session)[AccountRole.BUYER] == 40


FORGERIES: dict[str, str] = {
    "leg amount": "UPDATE leg SET amount = amount + 1",
    "leg account": "UPDATE leg SET credit_account = debit_account",
    "leg deleted": "DELETE FROM leg",
    "leg replaced": "INSERT OR REPLACE INTO leg SELECT transfer_id, number, debit_account,"
    " debit_version, credit_account, credit_version, currency, amount * 2 FROM leg LIMIT 1",
    "leg added": "INSERT INTO leg SELECT transfer_id, leg_count + 1, debit_account,"
    " (SELECT version + 1 FROM account WHERE id = debit_account), credit_account,"
    " (SELECT version + 1 FROM account WHERE id = credit_account), currency, 1"
    " FROM leg JOIN transfer ON transfer.id = transfer_id LIMIT 1",
    "transfer kind": "UPDATE transfer SET kind = 'refund'",
    "transfer time": "UPDATE transfer SET created_at_ms = 0",
    "transfer deleted": "DELETE FROM transfer",
    "transfer replaced": "REPLACE INTO transfer SELECT id, kind, command_digest, 0, hold_id,"
    " reverses, created_at_ms FROM transfer LIMIT 1",
    "balance": "UPDATE account SET balance = balance + 1",
    "balance and version": "UPDATE account SET balance = balance + 1, version = version + 1",
    "balance backwards": "UPDATE account SET balance = 0, version = 0",
    "floor": "UPDATE account SET floor = NULL",
    "role": "UPDATE account SET role = 'external'",
    "account deleted": "DELETE FROM account",
    "account with money": "INSERT INTO account VALUES ('buyer:x', 'buyer', 'credit', 0, 5, 0, 0)",
    "account replaced": "REPLACE INTO account SELECT id, role, currency, NULL, 0, 0, 0"
    " FROM account LIMIT 1",
    "hold reserved": "UPDATE hold SET reserved = reserved + 1",
    "hold expiry": "UPDATE hold SET expires_at_ms = 0",
    "hold captured falls": "UPDATE hold SET captured = captured - 1",
    "hold captured over": "UPDATE hold SET captured = reserved + 1",
    "hold ends early": "UPDATE hold SET state = 'voided'",
    "hold deleted": "DELETE FROM hold",
}


@pytest.fixture
def lived(store: Store) -> Store:
    """Books with a live hold that was drawn on."""
    with store.transaction() as session:
        fund(session, 100)
        ledger.open_account(session, AccountRole.HOST_PENDING, HOST.identity, NOW)
        ledger.open_account(session, AccountRole.OWNER_PENDING, OWNER.identity, NOW)
        drawn(session)
    return store


@pytest.mark.parametrize("statement", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_sql_is_refused_by_the_database(lived: Store, statement: str) -> None:
    with pytest.raises(sa.exc.IntegrityError), lived.transaction() as session:
        session.connection().exec_driver_sql(statement)
    with lived.reading() as session:
        assert ledger.audit(session) == ()


def test_ended_hold_is_never_opened_again(lived: Store) -> None:
    with lived.transaction() as session:
        hold = session.connection().exec_driver_sql("SELECT id FROM hold").scalar_one()
        ledger.void_hold(session, ledger.VoidHold(id=xfer(), hold=hold), NOW)
    with (
        pytest.raises(sa.exc.IntegrityError, match="never changes"),
        lived.transaction() as session,
    ):
        session.connection().exec_driver_sql("UPDATE hold SET state = 'placed', released = 0")


def tampered(store: Store, *statements: str) -> set[int]:
    """What the audit says of somebody who could drop the triggers and the keys."""
    with store.engine.connect() as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        triggers = connection.exec_driver_sql(names).scalars().all()
    raw = store.engine.raw_connection()
    raw.execute("PRAGMA foreign_keys = OFF")
    raw.execute("PRAGMA ignore_check_constraints = ON")
    for trigger in triggers:
        raw.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        raw.execute(statement)
    raw.execute("PRAGMA ignore_check_constraints = OFF")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.close()
    with store.reading() as session:
        findings = ledger.audit(session)
        assert {f.subject for f in findings if f.invariant == 4} >= set(triggers)
        return {f.invariant for f in findings if f.subject not in triggers}


@pytest.mark.parametrize(
    ("statement", "invariants"),
    [
        ("SELECT 1", set()),
        ("UPDATE account SET balance = balance + 1 WHERE role = 'buyer'", {1, 2}),
        ("UPDATE account SET version = version + 1 WHERE role = 'buyer'", {2}),
        ("UPDATE account SET floor = 50 WHERE role = 'buyer'", {3}),
        ("UPDATE account SET floor = NULL WHERE role = 'buyer'", {3}),
        ("DELETE FROM leg WHERE debit_account LIKE 'external:%'", {2, 4}),
        ("UPDATE leg SET currency = 'euro' WHERE number = 2", {6}),
        ("UPDATE hold SET captured = captured + 1", {7}),
        ("UPDATE hold SET state = 'voided'", {8}),
        (
            (
                "UPDATE transfer SET kind = 'refund', reverses ="
                " (SELECT id FROM transfer WHERE kind = 'place') WHERE kind = 'post'"
            ),
            {7, 10},
        ),
        ("UPDATE hold SET reserved = 24", {7, 11}),
    ],
)
def test_audit_names_what_a_tamperer_broke(
    lived: Store, statement: str, invariants: set[int]
) -> None:
    assert tampered(lived, statement) == invariants


# --- races ---------------------------------------------------------------------------------------


def at_once(count: int, run: Callable[[int], object]) -> list[object]:
    """Results of `count` threads that start together."""
    barrier, results = threading.Barrier(count), [None] * count

    def one(index: int) -> None:
        barrier.wait()
        results[index] = run(index)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_concurrent_holds_never_overdraw_a_buyer(store: Store) -> None:
    with store.transaction() as session:
        fund(session, 5 * CREDIT)

    def one(_index: int) -> R:
        with store.transaction() as session:
            return ledger.place_hold(session, place(amount=CREDIT), NOW)

    results = at_once(8, one)
    assert sorted(results) == sorted([R.CREATED] * 5 + [R.EXCEEDS_BALANCE] * 3)
    with store.reading() as session:
        assert ledger.audit(session) == ()


def test_concurrent_replays_create_once(store: Store) -> None:
    command = top_up()

    def one(_index: int) -> R:
        with store.transaction() as session:
            return ledger.top_up(session, command, NOW)

    assert sorted(at_once(8, one)) == sorted([R.CREATED] + [R.EXISTS] * 7)
