"""The ledger: double entry in integer microcredits, two-phase holds, and nothing that is undone.

- A transfer has legs; a leg moves a positive amount from the account it debits to the account it
  credits. So the books balance by construction, and a mistake is mended by another transfer.
- Whoever moves money makes the id and stores it before it asks. The same command under the same id
  is `EXISTS` and moves nothing; another command under that id says how it differs.
- A hold belongs to an order. Its money stands in an escrow account of its own until it is posted to
  those who earned it (in parts, for lease draws after lease draws), or goes back: voided by the
  order's end, or expired. Nothing is posted from a hold that has expired, swept or not.
- Every function is `f(session, command, now)` inside one transaction of `store.Store`; on a result
  other than `CREATED` it has changed nothing. `now` is Unix milliseconds.

Results are listed in the order in which they are checked: of two that hold, the
  first is the answer.
Postings go through SQLAlchemy Core; `marketplace.audit` recomputes the books from the legs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session

from marketplace.audit import Finding, TrialLine, audit, trial_balance
from marketplace.commands import (
    Command,
    CreateTransfer,
    ExpireHold,
    LedgerResult,
    PlaceHold,
    PostHold,
    Posting,
    Refund,
    Share,
    TopUp,
    VoidHold,
)
from marketplace.models import AccountRole, HoldState, TransferKind
from marketplace.postings import (
    CURRENCY,
    Record,
    accounts,
    balances,
    find_hold,
    find_transfer,
    holds,
    legs_of,
    replay,
    transfers,
    write,
)
from trust.encoding import base64url, labelled_digest

__all__ = [
    "CURRENCY",
    "CreateTransfer",
    "ExpireHold",
    "Finding",
    "LedgerResult",
    "PlaceHold",
    "PostHold",
    "Posting",
    "Refund",
    "Share",
    "TopUp",
    "TrialLine",
    "VoidHold",
    "account_id",
    "audit",
    "balance",
    "expire_hold",
    "expired_holds",
    "open_account",
    "place_hold",
    "post_hold",
    "refund",
    "top_up",
    "transfer",
    "trial_balance",
    "void_hold",
]

FEE_SHARDS: Final = 16  # one fee account would be the row that every posting waits for
SWEEP_MAX: Final = 256  # holds that one sweep ends, so that a transaction stays short

ROUTES: Final = {
    TransferKind.MATURE: {
        (AccountRole.HOST_PENDING, AccountRole.HOST_PAYABLE),
        (AccountRole.OWNER_PENDING, AccountRole.OWNER_PAYABLE),
    },
    TransferKind.PAY_OUT: {
        (AccountRole.HOST_PAYABLE, AccountRole.CLEARING),
        (AccountRole.OWNER_PAYABLE, AccountRole.CLEARING),
        (AccountRole.FEES, AccountRole.CLEARING),
        (AccountRole.CLEARING, AccountRole.EXTERNAL),
        (AccountRole.CLEARING, AccountRole.HOST_PAYABLE),  # a payout that bounced
        (AccountRole.CLEARING, AccountRole.OWNER_PAYABLE),
    },
}
"""Which accounts a bare transfer may debit and credit: what is earned, and nobody's else."""

_WITHOUT_FLOOR: Final = frozenset({AccountRole.EXTERNAL})


# --- accounts ------------------------------------------------------------------------------------


def account_id(role: AccountRole, party: bytes | str) -> str:
    """The id of a party's account: nothing to draw, nothing to look up.

    `party` is an identity (32 bytes), or, for escrow, clearing, external and fees, a word.
    """
    name = base64url(party) if isinstance(party, bytes) else party
    match role:
        case AccountRole.HOST_PENDING | AccountRole.HOST_PAYABLE:
            return f"host:{name}:{role.value.removeprefix('host_')}"
        case AccountRole.OWNER_PENDING | AccountRole.OWNER_PAYABLE:
            return f"owner:{name}:{role.value.removeprefix('owner_')}"
        case _:
            return f"{role.value}:{name}"


def fee_shard(key: str) -> str:
    """Which of the market's `FEE_SHARDS` fee accounts takes the fee for `key`."""
    return f"{labelled_digest('fee-shard', key.encode())[0] % FEE_SHARDS:02d}"


def open_account(session: Session, role: AccountRole, party: bytes | str, now: int) -> str:
    """Open an account if it is not open yet; return its id. All but external ones stay at ≥ 0."""
    name = account_id(role, party)
    if session.connection().execute(sa.select(accounts.c.id).filter_by(id=name)).first() is None:
        session.connection().execute(
            accounts.insert().values(
                id=name,
                role=role,
                currency=CURRENCY,
                floor=None if role in _WITHOUT_FLOOR else 0,
                balance=0,
                version=0,
                created_at_ms=now,
            )
        )
    return name


def balance(session: Session, role: AccountRole, party: bytes | str) -> int:
    """Balance in microcredits; 0 for an account that was never opened."""
    query = sa.select(accounts.c.balance).filter_by(id=account_id(role, party))
    return int(session.connection().execute(query).scalar_one_or_none() or 0)


# --- transfers -----------------------------------------------------------------------------------


def top_up(session: Session, command: TopUp, now: int) -> LedgerResult:
    """Credit a buyer with what a provider took in."""
    postings = (
        Posting(
            debit=account_id(AccountRole.EXTERNAL, command.provider),
            credit=account_id(AccountRole.BUYER, command.buyer),
            amount=command.amount,
        ),
    )
    record = Record(command=command, kind=command.KIND, postings=postings)
    if (found := replay(session, record)) is not None:
        return found
    open_account(session, AccountRole.EXTERNAL, command.provider, now)
    open_account(session, AccountRole.BUYER, command.buyer, now)
    return write(session, record, now)


def transfer(session: Session, command: CreateTransfer, now: int) -> LedgerResult:
    """Move money along the routes of its kind (`ROUTES`), between accounts that exist."""
    record = Record(command=command, kind=command.kind, postings=command.postings)
    if (found := replay(session, record)) is not None:
        return found
    names = {name for p in command.postings for name in (p.debit, p.credit)}
    query = sa.select(accounts.c.id, accounts.c.role).where(accounts.c.id.in_(names))
    roles = {row.id: row.role for row in session.connection().execute(query)}
    if len(roles) < len(names):
        return LedgerResult.ACCOUNT_NOT_FOUND
    for posting in command.postings:
        if (roles[posting.debit], roles[posting.credit]) not in ROUTES[command.kind]:
            return LedgerResult.ACCOUNTS_NOT_OF_KIND
        if command.kind is TransferKind.MATURE and not _same_party(posting):
            return LedgerResult.ACCOUNTS_NOT_OF_KIND
    return write(session, record, now)


def _same_party(posting: Posting) -> bool:
    return posting.debit.removesuffix(":pending") == posting.credit.removesuffix(":payable")


def refund(session: Session, command: Refund, now: int) -> LedgerResult:
    """Reverse one posting. It goes through whole, or EXCEEDS_BALANCE where it was paid out."""
    original = find_transfer(session, command.reverses)
    postings: tuple[Posting, ...] = ()
    if original is not None and original.kind is TransferKind.POST:
        hold = find_hold(session, original.hold_id)
        assert hold is not None
        postings = tuple(
            Posting(debit=leg.credit_account, credit=hold.account_id, amount=leg.amount)
            for leg in legs_of(session, original.id)
        )
    record = Record(
        command=command, kind=command.KIND, postings=postings, reverses=command.reverses
    )
    if (found := replay(session, record)) is not None:
        return found
    if original is None:
        return LedgerResult.TRANSFER_NOT_FOUND
    if not postings:
        return LedgerResult.TRANSFER_NOT_REVERSIBLE
    reversals = sa.select(transfers.c.id).filter_by(reverses=command.reverses)
    if session.connection().execute(reversals).first() is not None:
        return LedgerResult.ALREADY_REVERSED
    return write(session, record, now)


# --- holds ---------------------------------------------------------------------------------------


def place_hold(session: Session, command: PlaceHold, now: int) -> LedgerResult:
    """Move an order's money from its buyer's account into an escrow of its own."""
    buyer = account_id(AccountRole.BUYER, command.buyer)
    escrow = account_id(AccountRole.ESCROW, command.hold)
    posting = Posting(debit=buyer, credit=escrow, amount=command.amount)
    record = Record(command=command, kind=command.KIND, postings=(posting,), hold_id=command.hold)
    if (found := replay(session, record)) is not None:
        return found
    placed = sa.or_(
        holds.c.id == command.hold,
        sa.and_(holds.c.order_id == command.order, holds.c.state == HoldState.PLACED),
    )
    if session.connection().execute(sa.select(holds.c.id).where(placed)).first() is not None:
        return LedgerResult.HOLD_EXISTS
    if command.expires_at <= now:
        return LedgerResult.HOLD_EXPIRED
    funds = session.connection().execute(sa.select(accounts.c.balance).filter_by(id=buyer)).scalar()
    if funds is None:
        return LedgerResult.ACCOUNT_NOT_FOUND
    if funds < command.amount:
        return LedgerResult.EXCEEDS_BALANCE
    open_account(session, AccountRole.ESCROW, command.hold, now)
    session.connection().execute(
        holds.insert().values(
            id=command.hold,
            order_id=command.order,
            account_id=buyer,
            escrow_id=escrow,
            reserved=command.amount,
            captured=0,
            released=0,
            state=HoldState.PLACED,
            expires_at_ms=command.expires_at,
            created_at_ms=now,
        )
    )
    result = write(session, record, now)
    assert result is LedgerResult.CREATED, result
    return result


def post_hold(session: Session, command: PostHold, now: int) -> LedgerResult:
    """Capture shares from a hold: several legs, one transfer, all or nothing."""
    escrow = account_id(AccountRole.ESCROW, command.hold)
    record = Record(
        command=command,
        kind=command.KIND,
        postings=tuple(
            Posting(debit=escrow, credit=share.credit, amount=share.amount)
            for share in command.shares
        ),
        hold_id=command.hold,
    )
    if (found := replay(session, record)) is not None:
        return found
    hold = find_hold(session, command.hold)
    if (refusal := _refusal(hold, now)) is not None:
        return refusal
    total = sum(share.amount for share in command.shares)
    known = balances(session, {share.credit for share in command.shares})
    if len(known) < len({share.credit for share in command.shares}):
        return LedgerResult.ACCOUNT_NOT_FOUND
    if total > hold.reserved - hold.captured - hold.released:
        return LedgerResult.EXCEEDS_HOLD
    update = holds.update().filter_by(id=hold.id).values(captured=hold.captured + total)
    session.connection().execute(update)
    result = write(session, record, now)
    assert result is LedgerResult.CREATED, result
    return result


def void_hold(session: Session, command: VoidHold, now: int) -> LedgerResult:
    """End a hold and give the rest back. It ends *posted* if anything was captured."""
    return _end_hold(session, command, command.hold, now)


def expire_hold(session: Session, command: ExpireHold, now: int) -> LedgerResult:
    """End a hold whose time is over and give the rest back; HOLD_NOT_EXPIRED before that."""
    return _end_hold(session, command, command.hold, now)


def expired_holds(session: Session, now: int) -> tuple[str, ...]:
    """Ids of up to `SWEEP_MAX` holds whose time is over and which have not ended yet."""
    query = (
        sa.select(holds.c.id)
        .where(holds.c.state == HoldState.PLACED, holds.c.expires_at_ms <= now)
        .order_by(holds.c.id)
        .limit(SWEEP_MAX)
    )
    return tuple(session.connection().execute(query).scalars())


def _end_hold(session: Session, command: Command, hold_id: str, now: int) -> LedgerResult:
    record = Record(command=command, kind=command.KIND, postings=None, hold_id=hold_id)
    if (found := replay(session, record)) is not None:
        return found
    hold = find_hold(session, hold_id)
    expires = command.KIND is TransferKind.EXPIRE
    # Voiding gives money back, as expiring does: a hold past its time may be ended either way.
    if (refusal := _refusal(hold, None)) is not None:
        return refusal
    if expires and now < hold.expires_at_ms:
        return LedgerResult.HOLD_NOT_EXPIRED
    rest = hold.reserved - hold.captured - hold.released
    ended = HoldState.POSTED if hold.captured else HoldState.VOIDED
    update = holds.update().filter_by(id=hold_id)
    session.connection().execute(
        update.values(released=hold.released + rest, state=HoldState.EXPIRED if expires else ended)
    )
    back = Posting(debit=hold.escrow_id, credit=hold.account_id, amount=rest) if rest else None
    record = dataclasses.replace(record, postings=(back,) if back else ())
    result = write(session, record, now)
    assert result is LedgerResult.CREATED, result
    return result


def _refusal(hold: Any, now: int | None) -> LedgerResult | None:
    if hold is None:
        return LedgerResult.HOLD_NOT_FOUND
    match hold.state:
        case HoldState.POSTED:
            return LedgerResult.HOLD_ALREADY_POSTED
        case HoldState.VOIDED:
            return LedgerResult.HOLD_ALREADY_VOIDED
        case HoldState.EXPIRED:
            return LedgerResult.HOLD_EXPIRED
    return LedgerResult.HOLD_EXPIRED if now is not None and now >= hold.expires_at_ms else None
