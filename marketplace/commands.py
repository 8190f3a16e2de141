"""What the ledger is asked to do, and what it may answer.

- Whoever moves money makes the id and stores it before it asks.
- A command is checked when it is made: ids in their one form, amounts integers from 1 to 2^53-1.
  What the books say about it (funds, holds, ids in use) is the ledger's answer: a `LedgerResult`.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import ClassVar, Final

from marketplace.ids import IdKind, check_id
from marketplace.models import TransferKind
from trust.encoding import INTEGER_MAX
from trust.errors import EncodingError

LEGS_MAX: Final = 16  # a settlement has three
PROVIDER_CHARACTERS_MAX: Final = 64  # it stands in an account's id


class LedgerResult(enum.StrEnum):
    """What became of a command, in order of precedence."""

    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    EXISTS_WITH_DIFFERENT_HOLD = "exists_with_different_hold"
    EXISTS_WITH_DIFFERENT_ACCOUNTS = "exists_with_different_accounts"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_TERMS = "exists_with_different_terms"
    EXISTS = "exists"
    TRANSFER_NOT_FOUND = "transfer_not_found"
    TRANSFER_NOT_REVERSIBLE = "transfer_not_reversible"
    ALREADY_REVERSED = "already_reversed"
    HOLD_EXISTS = "hold_exists"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_ALREADY_POSTED = "hold_already_posted"
    HOLD_ALREADY_VOIDED = "hold_already_voided"
    HOLD_EXPIRED = "hold_expired"
    HOLD_NOT_EXPIRED = "hold_not_expired"
    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNTS_NOT_OF_KIND = "accounts_not_of_kind"
    EXCEEDS_HOLD = "exceeds_hold"
    EXCEEDS_BALANCE = "exceeds_balance"
    CREATED = "created"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Posting:
    """One leg to be: `amount` microcredits from `debit` to `credit`."""

    debit: str
    credit: str
    amount: int

    def __post_init__(self) -> None:
        _check_amount(self.amount)
        if self.debit == self.credit:
            raise EncodingError(f"a leg moves nothing from {self.debit} to itself")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Base: every command carries the id that its maker drew."""

    KIND: ClassVar[TransferKind]
    id: str
    """xfer_…: the id of the transfer."""

    def __post_init__(self) -> None:
        check_id(IdKind.TRANSFER, self.id)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TopUp(Command):
    """Credits bought outside and paid in."""

    KIND: ClassVar[TransferKind] = TransferKind.TOP_UP
    buyer: bytes
    """Identity: 32 bytes."""
    provider: str
    """Who took the outside money; its account has no floor."""
    amount: int

    def __post_init__(self) -> None:
        Command.__post_init__(self)
        _check_amount(self.amount)
        if not 1 <= len(self.provider) <= PROVIDER_CHARACTERS_MAX:
            raise EncodingError(f"a provider's name has 1 to {PROVIDER_CHARACTERS_MAX} characters")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CreateTransfer(Command):
    """Legs between accounts that exist, outside holds: to mature, or to pay out.

    Nothing else goes this way: no leg of it ever debits a buyer or an escrow.
    """

    kind: TransferKind
    postings: tuple[Posting, ...]

    def __post_init__(self) -> None:
        Command.__post_init__(self)
        if self.kind not in {TransferKind.MATURE, TransferKind.PAY_OUT}:
            raise EncodingError(f"a bare transfer is to mature or to pay out, not to {self.kind}")
        _check_count(self.postings)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlaceHold(Command):
    """Set an order's money aside."""

    KIND: ClassVar[TransferKind] = TransferKind.PLACE
    hold: str
    """hold_…"""
    order: str
    """ordr_…"""
    buyer: bytes
    amount: int
    expires_at: int
    """Unix milliseconds; from then on the hold gives nothing but the way back."""

    def __post_init__(self) -> None:
        Command.__post_init__(self)
        check_id(IdKind.HOLD, self.hold)
        check_id(IdKind.ORDER, self.order)
        _check_amount(self.amount)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A part of a posting: to whom, and how much."""

    credit: str
    amount: int

    def __post_init__(self) -> None:
        _check_amount(self.amount)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PostHold(Command):
    """Capture from a hold, by legs. The hold stays placed: void it to give the rest back."""

    KIND: ClassVar[TransferKind] = TransferKind.POST
    hold: str
    shares: tuple[Share, ...]

    def __post_init__(self) -> None:
        Command.__post_init__(self)
        _check_count(self.shares)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VoidHold(Command):
    """End a hold: what was not posted goes back to its buyer, be it nothing."""

    KIND: ClassVar[TransferKind] = TransferKind.VOID
    hold: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExpireHold(Command):
    """End a hold whose time is over."""

    KIND: ClassVar[TransferKind] = TransferKind.EXPIRE
    hold: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refund(Command):
    """Give back what one posting took: each leg backwards, whole, once.

    What came out of an escrow goes to the buyer who filled it: `captured` tells what was posted
    from a hold, and stays true.
    """

    KIND: ClassVar[TransferKind] = TransferKind.REFUND
    reverses: str
    """xfer_…, a posting."""


def _check_amount(amount: object) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= INTEGER_MAX:
        raise EncodingError(f"amount {amount!r}: wanted an integer from 1 to 2^53-1 microcredits")


def _check_count(parts: tuple[object, ...]) -> None:
    if not 1 <= len(parts) <= LEGS_MAX:
        raise EncodingError(f"{len(parts)} legs, wanted 1 to {LEGS_MAX}")
