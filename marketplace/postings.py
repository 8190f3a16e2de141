"""Rows of the ledger: whether a command was here before, and the transfer that it comes to.

SQLAlchemy Core alone: the unit of work costs five times as much. Balances are read in the writing
transaction, so they are the ones that the legs will move; the database's CHECK and its triggers
stand behind every rule here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session

from marketplace.commands import Command, LedgerResult, Posting
from marketplace.models import METADATA, TransferKind
from trust.encoding import base64url, labelled_digest

CURRENCY: Final = "credit"  # one microcredit is 10⁻⁶ of it

accounts: Final = METADATA.tables["account"]
holds: Final = METADATA.tables["hold"]
transfers: Final = METADATA.tables["transfer"]
legs: Final = METADATA.tables["leg"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A command and the transfer that it comes to."""

    command: Command
    kind: TransferKind
    postings: tuple[Posting, ...] | None
    """None: the ledger computes them (the rest of a hold)."""
    hold_id: str | None = None
    reverses: str | None = None

    @property
    def digest(self) -> str:
        """What the command says, whole: the same digest is the same command."""
        text = f"{type(self.command).__name__} {dataclasses.astuple(self.command)!r}"
        return base64url(labelled_digest("ledger-command", text.encode()))


def replay(session: Session, record: Record) -> LedgerResult | None:
    """None if the id is new; else whether it stands for this very command."""
    found = find_transfer(session, record.command.id)
    if found is None:
        return None
    if found.command_digest == record.digest:
        return LedgerResult.EXISTS
    if found.kind is not record.kind:
        return LedgerResult.EXISTS_WITH_DIFFERENT_KIND
    if found.hold_id != record.hold_id or found.reverses != record.reverses:
        return LedgerResult.EXISTS_WITH_DIFFERENT_HOLD
    if record.postings is None:
        return LedgerResult.EXISTS_WITH_DIFFERENT_TERMS
    stored = legs_of(session, found.id)
    if [(leg.debit_account, leg.credit_account) for leg in stored] != [
        (posting.debit, posting.credit) for posting in record.postings
    ]:
        return LedgerResult.EXISTS_WITH_DIFFERENT_ACCOUNTS
    if [leg.amount for leg in stored] != [posting.amount for posting in record.postings]:
        return LedgerResult.EXISTS_WITH_DIFFERENT_AMOUNT
    return LedgerResult.EXISTS_WITH_DIFFERENT_TERMS


def write(session: Session, record: Record, now: int) -> LedgerResult:
    """Check every account and floor, then insert the transfer and its legs.

    The floors are checked leg by leg, in order, as the database's CHECK sees them: it stands behind
    this, and would end the transaction where this returns a result.
    """
    postings = record.postings
    assert postings is not None
    known = balances(session, {name for p in postings for name in (p.debit, p.credit)})
    rows = []
    for number, posting in enumerate(postings, start=1):
        debit, credit = known.get(posting.debit), known.get(posting.credit)
        if debit is None or credit is None:
            return LedgerResult.ACCOUNT_NOT_FOUND
        if debit.floor is not None and debit.balance - posting.amount < debit.floor:
            return LedgerResult.EXCEEDS_BALANCE
        debit.move(-posting.amount)
        credit.move(posting.amount)
        rows.append(
            {
                "transfer_id": record.command.id,
                "number": number,
                "debit_account": posting.debit,
                "debit_version": debit.version,
                "credit_account": posting.credit,
                "credit_version": credit.version,
                "currency": CURRENCY,
                "amount": posting.amount,
            }
        )
    connection = session.connection()
    connection.execute(
        transfers.insert().values(
            id=record.command.id,
            kind=record.kind,
            command_digest=record.digest,
            leg_count=len(rows),
            hold_id=record.hold_id,
            reverses=record.reverses,
            created_at_ms=now,
        )
    )
    if rows:
        connection.execute(legs.insert(), rows)
    return LedgerResult.CREATED


@dataclasses.dataclass(slots=True)
class Running:
    """An account while its legs are counted."""

    balance: int
    version: int
    floor: int | None

    def move(self, amount: int) -> None:
        """Count one leg."""
        self.balance += amount
        self.version += 1


def balances(session: Session, names: set[str]) -> dict[str, Running]:
    """The accounts of these names that exist, as they stand now."""
    columns = (accounts.c.id, accounts.c.balance, accounts.c.version, accounts.c.floor)
    # In id order, so that on PostgreSQL two writers lock the same rows in the same order.
    query = sa.select(*columns).where(accounts.c.id.in_(names)).order_by(accounts.c.id)
    return {
        row.id: Running(balance=row.balance, version=row.version, floor=row.floor)
        for row in session.connection().execute(query.with_for_update())
    }


def find_transfer(session: Session, name: str) -> Any:
    """The transfer row of this id, or None."""
    return session.connection().execute(sa.select(transfers).filter_by(id=name)).first()


def find_hold(session: Session, name: str | None) -> Any:
    """The hold row of this id, or None."""
    return session.connection().execute(sa.select(holds).filter_by(id=name)).first()


def legs_of(session: Session, name: str) -> list[Any]:
    """Leg rows of a transfer, in order."""
    query = sa.select(legs).filter_by(transfer_id=name).order_by(legs.c.number)
    return list(session.connection().execute(query))
