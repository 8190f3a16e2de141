"""Accounts and statements: what is on record, and nothing that moves it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from marketplace import wire
from marketplace.api.asks import Ask, Reply, reply
from marketplace.ledger import account_id, balance
from marketplace.models import AccountRole, Hold, HoldState, Leg, Order, Transfer
from trust.encoding import INTEGER_MAX, base64url
from trust.errors import EncodingError


def get_account(session: Session, ask: Ask) -> Reply:
    """One's own balances."""

    def of(*roles: AccountRole) -> int:
        return sum(balance(session, role, ask.identity) for role in roles)

    return reply(
        wire.AccountView(
            identity=ask.identity,
            available=of(AccountRole.BUYER),
            held=_held(session, ask.identity),
            pending=of(AccountRole.HOST_PENDING, AccountRole.OWNER_PENDING),
            payable=of(AccountRole.HOST_PAYABLE, AccountRole.OWNER_PAYABLE),
        )
    )


def get_statement(session: Session, ask: Ask) -> Reply:
    """The legs of one of one's own accounts, by the account's own versions."""
    role = _role(ask.query.get("account", wire.AccountRole.BUYER.value))
    after = ask.number("after", default=0, most=INTEGER_MAX)
    name = account_id(AccountRole(role.value), ask.identity)
    legs = _legs(name)
    known = session.connection().execute(
        sa.select(sa.func.sum(legs.c.change)).where(legs.c.version <= after)
    )
    running = int(known.scalar_one() or 0)
    query = (
        sa.select(legs, col(Transfer.kind).label("kind"), col(Transfer.created_at_ms).label("at"))
        .join(Transfer, col(Transfer.id) == legs.c.transfer_id)
        .where(legs.c.version > after)
        .order_by(legs.c.version)
        .limit(wire.PAGE_ROWS_MAX)
    )
    lines = []
    for row in session.connection().execute(query):
        running += row.change
        lines.append(
            wire.StatementLine(
                number=row.version,
                transfer=row.transfer_id,
                kind=row.kind.value,
                direction=wire.Direction.IN if row.change > 0 else wire.Direction.OUT,
                amount=abs(row.change),
                balance=running,
                at=row.at,
            )
        )
    return reply(wire.Statement(account=role, lines=tuple(lines)))


def _role(text: str) -> wire.AccountRole:
    try:
        return wire.AccountRole(text)
    except ValueError as error:
        raise EncodingError(f"query account: {text[:32]!r} is no account of a party") from error


def _legs(account: str) -> sa.Subquery:
    """Legs of one account: transfer, the account's version after it, and the change."""

    def of(version: Any, account_column: Any, change: Any) -> sa.Select[Any]:
        columns = (col(Leg.transfer_id), version.label("version"), change.label("change"))
        return sa.select(*columns).where(account_column == account)

    came = of(col(Leg.credit_version), col(Leg.credit_account), col(Leg.amount))
    went = of(col(Leg.debit_version), col(Leg.debit_account), -col(Leg.amount))
    return came.union_all(went).subquery()


def _held(session: Session, buyer: bytes) -> int:
    query = (
        select(sa.func.sum(col(Hold.reserved) - col(Hold.captured) - col(Hold.released)))
        .join(Order, col(Order.hold_id) == col(Hold.id))
        .where(col(Order.buyer) == base64url(buyer), col(Hold.state) == HoldState.PLACED)
    )
    return int(session.exec(query).one() or 0)
