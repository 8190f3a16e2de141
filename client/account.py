"""A party's money: what is free and held, how long it lasts, its statement, its receipts checked.

- The market's books are the market's word. What can be checked is checked here: a receipt's
  signature against the own release log, a statement's running balance line by line.
- Amounts are integer microcredits. Files that a person keeps say whole credits with six decimals.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, Protocol

from client.buyer import check_receipts
from marketplace.wire import (
    AccountRole,
    Direction,
    JobView,
    LeaseState,
    ReceiptView,
    SettlementState,
    StatementLine,
)
from trust.encoding import digest
from trust.errors import BlindhostError, EncodingError
from trust.identity import verify_signed
from trust.messages import Receipt
from trust.release_state import Memory

MICROCREDITS: Final = 1_000_000
HOUR_MILLISECONDS: Final = 3_600_000
LINES_MAX: Final = 100_000  # of one statement: a person reads a month of it
RECEIPTS_MAX: Final = 10_000  # of one job
CURRENCY: Final = "CREDIT"
_CONTRA: Final[Mapping[str, str]] = {
    "top_up": "Equity:Blindhost:PaidIn",
    "pay_out": "Assets:Blindhost:PaidOut",
    "place": "Assets:Blindhost:Held",
    "post": "Assets:Blindhost:Held",
    "void": "Assets:Blindhost:Held",
    "expire": "Assets:Blindhost:Held",
    "refund": "Expenses:Blindhost:Jobs",
    "mature": "Income:Blindhost:Pending",
}
"""Where the other half of a line stands, by the market's word for its transfer."""
_WORDS: Final[Mapping[str, str]] = {
    "top_up": "paid in",
    "pay_out": "paid out",
    "place": "held for a job; the rest returns when it ends",
    "post": "settled",
    "void": "a hold came back",
    "expire": "what a hold had left came back",
    "refund": "a dispute was decided for the buyer",
    "mature": "matured after the dispute window",
}


class StatementError(BlindhostError):
    """A statement whose lines do not add up, or that does not end."""


class MoneyPort(Protocol):
    """The market's books of this party: `client.market_api.MarketApi`."""

    async def get_statement(
        self, account: AccountRole = AccountRole.BUYER, *, after: int = 0
    ) -> tuple[StatementLine, ...]:
        """A page of one account's statement, after a line that is known."""

    async def get_receipts(self, job: bytes, *, after: int = 0) -> tuple[ReceiptView, ...]:
        """Receipts that settled, a page from number `after` on."""


# --- how long it lasts ---------------------------------------------------------------------------


def burn(jobs: Iterable[JobView]) -> int:
    """Microcredits an hour that the leases whose meter is on may earn now."""
    return sum(
        lease.price_microcredits_per_gpu_hour * lease.gpus
        for job in jobs
        for lease in job.leases
        if lease.state is LeaseState.READY
    )


def lasts(microcredits: int, burned: int) -> int | None:
    """Milliseconds until that much is burned; None: nothing burns."""
    return None if burned <= 0 else microcredits * HOUR_MILLISECONDS // burned


# --- the statement -------------------------------------------------------------------------------


async def statement(
    port: MoneyPort, account: AccountRole = AccountRole.BUYER, *, after: int = 0, balance: int = 0
) -> AsyncIterator[StatementLine]:
    """One account's lines, oldest first, each held against the one before.

    `after` and `balance` are number and balance of the last line that is known. Raises
    StatementError for a line that does not follow, by its number or by its balance.
    """
    for _ in range(LINES_MAX):
        page = await port.get_statement(account, after=after)
        if not page:
            return
        for each in page:
            change = each.amount if each.direction is Direction.IN else -each.amount
            if (each.number, each.balance) != (after + 1, balance + change):
                raise StatementError(
                    f"{account.value} line {each.number} with balance {each.balance}: wanted line"
                    f" {after + 1} with {balance + change}"
                )
            after, balance = each.number, each.balance
            if after > LINES_MAX:
                raise StatementError(f"a statement of over {LINES_MAX} lines")
            yield each


def kind_in_words(kind: str) -> str:
    """What a kind of transfer means; a kind that is not known, as it stands."""
    return _WORDS.get(kind, kind)


def month_of(text: str) -> tuple[int, int]:
    """Begin and end of a month as ``2026-11``, UTC; Unix milliseconds. Raises EncodingError."""
    try:
        first = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise EncodingError(f"month {text[:16]!r}: wanted year and month, as 2026-11") from error
    year, month = divmod(first.year * 12 + first.month, 12)
    if year > dt.MAXYEAR:
        raise EncodingError(f"month {text[:16]!r} has no end")
    following = first.replace(year=year, month=month + 1)
    return _milliseconds(first), _milliseconds(following)


def within(lines: Sequence[StatementLine], month: str) -> tuple[StatementLine, ...]:
    """Lines of one month."""
    begin, end = month_of(month)
    return tuple(each for each in lines if begin <= each.at < end)


def as_csv(lines: Sequence[StatementLine], month: str) -> str:
    """A month's lines as CSV (RFC 4180), with amounts in microcredits."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ("number", "at", "kind", "amount_microcredits", "balance_microcredits", "transfer")
    )
    for each in within(lines, month):
        sign = 1 if each.direction is Direction.IN else -1
        at = dt.datetime.fromtimestamp(each.at / 1000, dt.UTC).isoformat(timespec="milliseconds")
        writer.writerow(
            (each.number, at, each.kind, sign * each.amount, each.balance, each.transfer)
        )
    return out.getvalue()


def as_beancount(lines: Sequence[StatementLine], month: str) -> str:
    """A month's lines as beancount, with what stood there before, and what stands there after."""
    begin, end = month_of(month)
    chosen = within(lines, month)
    before = [each for each in lines if each.at < begin]
    opening = before[-1].balance if before else 0
    closing = chosen[-1].balance if chosen else opening
    first, last = _date(begin), _date(end)
    free = "Assets:Blindhost:Free"
    contra = [_contra(each.kind) for each in chosen]
    accounts = sorted({free, "Equity:Blindhost:Opening", *contra})
    out = [f'option "operating_currency" "{CURRENCY}"', ""]
    out += [f"{first} open {account} {CURRENCY}" for account in accounts]
    out += [
        "",
        f'{first} * "before {first}"',
        *_postings(free, "Equity:Blindhost:Opening", opening),
    ]
    for each in chosen:
        amount = each.amount if each.direction is Direction.IN else -each.amount
        out += ["", f'{_date(each.at)} * "{each.kind}" "{each.transfer}"']
        out += _postings(free, _contra(each.kind), amount)
    out += ["", f"{last} balance {free}  {_credits(closing)} {CURRENCY}", ""]
    return "\n".join(out)


def _postings(account: str, other: str, amount: int) -> list[str]:
    return [
        f"  {account}  {_credits(amount)} {CURRENCY}",
        f"  {other}  {_credits(-amount)} {CURRENCY}",
    ]


def _contra(kind: str) -> str:
    return _CONTRA.get(kind, "Equity:Blindhost:Other")


def _credits(microcredits: int) -> str:
    whole, places = divmod(abs(microcredits), MICROCREDITS)
    return f"{'-' if microcredits < 0 else ''}{whole}.{places:06d}"


def _date(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).date().isoformat()


def _milliseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000


# --- receipts ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckedReceipt:
    """A receipt that settled: what it says, whether it holds here, and where its money went."""

    digest: bytes
    receipt: Receipt | None
    """None: it can't be read."""
    signer: bytes | None
    fault: str
    """Why it does not hold under the own release log; empty: it does."""
    host_amount: int
    owner_amount: int
    fee_amount: int
    state: SettlementState
    matures_at: int

    @property
    def total(self) -> int:
        """What left the hold."""
        return self.host_amount + self.owner_amount + self.fee_amount


def check_settled(memory: Memory, job: bytes, view: ReceiptView) -> CheckedReceipt:
    """Hold one settled receipt against the own release log (client/buyer.py)."""
    receipt, signer = None, None
    try:
        signed = verify_signed(Receipt, view.signed, signer=None)
        receipt, signer = signed.document, signed.signer
        name = signed.digest
    except BlindhostError:
        name = digest(view.signed[96:])
    faults = check_receipts(memory, job, [view.signed])
    return CheckedReceipt(
        digest=name,
        receipt=receipt,
        signer=signer,
        fault=faults[0] if faults else "",
        host_amount=view.host_amount,
        owner_amount=view.owner_amount,
        fee_amount=view.fee_amount,
        state=view.state,
        matures_at=view.matures_at,
    )


async def receipts(
    port: MoneyPort, memory: Memory, job: bytes, *, after: int = 0
) -> AsyncIterator[CheckedReceipt]:
    """Every receipt of a job that settled, from number `after` on, each checked here."""
    while after < RECEIPTS_MAX:
        page = await port.get_receipts(job, after=after)
        if not page:
            return
        for each in page:
            yield check_settled(memory, job, each)
        after += len(page)
