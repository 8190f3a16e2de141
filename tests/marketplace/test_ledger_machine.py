"""A random life of the books: duplicates, conflicting replays, overdrafts, forged rows, crashes.

After every step the audit is empty, and the books say what a model of three numbers says.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlmodel import Session

from marketplace import ledger
from marketplace.commands import LedgerResult as R
from marketplace.ids import IdKind
from marketplace.models import AccountRole, TransferKind
from tests.marketplace.test_ledger import FORGERIES
from tests.marketplace.world import HOUR, NOW, key, new_id, open_store, xfer

BUYERS = [key(11).identity, key(12).identity]
HOSTS = [key(13).identity, key(14).identity]
AMOUNTS = st.integers(min_value=1, max_value=200)
PARTY = st.integers(min_value=0, max_value=1)


@dataclasses.dataclass
class Model:
    """What a hold must be."""

    buyer: int
    expires_at: int
    rest: int
    live: bool = True


class CrashError(Exception):
    """The process ends here."""


class LedgerMachine(RuleBasedStateMachine):
    """Rules are what parties, scheduler, attackers and power cuts do."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder)
        self.now = NOW
        self.buyers = [0, 0]
        self.pending = [0, 0]
        self.payable = [0, 0]
        self.holds: dict[str, Model] = {}
        self.done: list[tuple[Callable[..., R], object]] = []
        self.posted: dict[str, tuple[str, int, int]] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def apply(self, verb: Callable[..., R], command: object) -> R:
        with self.store.transaction() as session:
            result = verb(session, command, self.now)
        if result is R.CREATED:
            self.done.append((verb, command))
        return result

    def hold_named(self, index: int) -> str | None:
        names = sorted(self.holds)
        return names[index % len(names)] if names else None

    @initialize()
    def open_accounts(self) -> None:
        with self.store.transaction() as session:
            for host in HOSTS:
                ledger.open_account(session, AccountRole.HOST_PENDING, host, NOW)
                ledger.open_account(session, AccountRole.HOST_PAYABLE, host, NOW)

    @rule(buyer=PARTY, amount=AMOUNTS)
    def top_up(self, buyer: int, amount: int) -> None:
        command = ledger.TopUp(id=xfer(), buyer=BUYERS[buyer], provider="test", amount=amount)
        assert self.apply(ledger.top_up, command) is R.CREATED
        self.buyers[buyer] += amount

    @rule(buyer=PARTY, amount=AMOUNTS, hours=st.integers(min_value=1, max_value=4))
    def place(self, buyer: int, amount: int, hours: int) -> None:
        command = ledger.PlaceHold(
            id=xfer(),
            hold=new_id(IdKind.HOLD),
            order=new_id(IdKind.ORDER),
            buyer=BUYERS[buyer],
            amount=amount,
            expires_at=self.now + hours * HOUR,
        )
        result = self.apply(ledger.place_hold, command)
        if amount <= self.buyers[buyer]:
            assert result is R.CREATED
            self.buyers[buyer] -= amount
            self.holds[command.hold] = Model(
                buyer=buyer, expires_at=command.expires_at, rest=amount
            )
        else:
            assert result in {R.EXCEEDS_BALANCE, R.ACCOUNT_NOT_FOUND}

    @rule(index=st.integers(min_value=0), host=PARTY, amount=AMOUNTS)
    def post(self, index: int, host: int, amount: int) -> None:
        name = self.hold_named(index)
        if name is None:
            return
        account = ledger.account_id(AccountRole.HOST_PENDING, HOSTS[host])
        share = ledger.Share(credit=account, amount=amount)
        command = ledger.PostHold(id=xfer(), hold=name, shares=(share,))
        hold, result = self.holds[name], self.apply(ledger.post_hold, command)
        if hold.live and self.now < hold.expires_at and amount <= hold.rest:
            assert result is R.CREATED
            hold.rest -= amount
            self.pending[host] += amount
            self.posted[command.id] = (name, host, amount)
        else:
            assert result is not R.CREATED

    @rule(index=st.integers(min_value=0), expire=st.booleans())
    def end(self, index: int, *, expire: bool) -> None:
        name = self.hold_named(index)
        if name is None:
            return
        hold = self.holds[name]
        if expire:
            result = self.apply(ledger.expire_hold, ledger.ExpireHold(id=xfer(), hold=name))
        else:
            result = self.apply(ledger.void_hold, ledger.VoidHold(id=xfer(), hold=name))
        if hold.live and (not expire or self.now >= hold.expires_at):
            assert result is R.CREATED
            self.buyers[hold.buyer] += hold.rest
            hold.rest, hold.live = 0, False
        else:
            assert result is not R.CREATED

    @rule(host=PARTY, amount=AMOUNTS)
    def mature(self, host: int, amount: int) -> None:
        posting = ledger.Posting(
            debit=ledger.account_id(AccountRole.HOST_PENDING, HOSTS[host]),
            credit=ledger.account_id(AccountRole.HOST_PAYABLE, HOSTS[host]),
            amount=amount,
        )
        command = ledger.CreateTransfer(id=xfer(), kind=TransferKind.MATURE, postings=(posting,))
        result = self.apply(ledger.transfer, command)
        assert (result is R.CREATED) == (amount <= self.pending[host])
        if result is R.CREATED:
            self.pending[host] -= amount
            self.payable[host] += amount

    @rule(index=st.integers(min_value=0))
    def refund(self, index: int) -> None:
        names = sorted(self.posted)
        if not names:
            return
        name = names[index % len(names)]
        hold, host, amount = self.posted[name]
        result = self.apply(ledger.refund, ledger.Refund(id=xfer(), reverses=name))
        if result is R.CREATED:
            assert amount <= self.pending[host]
            self.pending[host] -= amount
            self.buyers[self.holds[hold].buyer] += amount
            del self.posted[name]
        else:
            assert result is R.EXCEEDS_BALANCE
            assert amount > self.pending[host]

    @rule(index=st.integers(min_value=0))
    def duplicate(self, index: int) -> None:
        if self.done:
            verb, command = self.done[index % len(self.done)]
            assert self.apply(verb, command) is R.EXISTS

    @rule(index=st.integers(min_value=0), amount=AMOUNTS)
    def conflicting_replay(self, index: int, amount: int) -> None:
        if not self.done:
            return
        verb, command = self.done[index % len(self.done)]
        if hasattr(command, "amount") and command.amount != amount:
            changed = dataclasses.replace(command, amount=amount)
            assert self.apply(verb, changed) is R.EXISTS_WITH_DIFFERENT_AMOUNT
        elif hasattr(command, "hold"):
            changed = dataclasses.replace(command, hold=new_id(IdKind.HOLD))
            assert self.apply(verb, changed) is R.EXISTS_WITH_DIFFERENT_HOLD

    @rule(forgery=st.sampled_from(sorted(FORGERIES)))
    def forge(self, forgery: str) -> None:
        """Refused by the database, or there was no row to forge."""
        before = self.snapshot()
        try:
            with self.store.transaction() as session:
                session.connection().exec_driver_sql(FORGERIES[forgery])
        except sa.exc.IntegrityError:
            pass
        assert self.snapshot() == before

    @rule(index=st.integers(min_value=0), amount=AMOUNTS)
    def crash(self, index: int, amount: int) -> None:
        name = self.hold_named(index)

        def life(session: Session) -> None:
            command = ledger.TopUp(id=xfer(), buyer=BUYERS[0], provider="x", amount=amount)
            ledger.top_up(session, command, self.now)
            if name is not None:
                ledger.void_hold(session, ledger.VoidHold(id=xfer(), hold=name), self.now)
            raise CrashError

        with pytest.raises(CrashError), self.store.transaction() as session:
            life(session)

    @rule(minutes=st.integers(min_value=1, max_value=90))
    def wait(self, minutes: int) -> None:
        self.now += minutes * 60_000

    def snapshot(self) -> list[tuple[object, ...]]:
        with self.store.reading() as session:
            rows = session.connection().exec_driver_sql("SELECT id, balance, floor FROM account")
            return sorted(tuple(row) for row in rows)

    @invariant()
    def books_hold(self) -> None:
        with self.store.reading() as session:
            assert ledger.audit(session) == ()
            assert sum(line.balance for line in ledger.trial_balance(session)) == 0
            for role, parties, wanted in (
                (AccountRole.BUYER, BUYERS, self.buyers),
                (AccountRole.HOST_PENDING, HOSTS, self.pending),
                (AccountRole.HOST_PAYABLE, HOSTS, self.payable),
            ):
                assert [ledger.balance(session, role, p) for p in parties] == wanted
            for name, hold in self.holds.items():
                assert ledger.balance(session, AccountRole.ESCROW, name) == hold.rest


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
