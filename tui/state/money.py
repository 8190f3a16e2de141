"""What is left, what is held, and why each charge: statement lines and receipts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from tui.facts import Balance, Entry, Exported, Fact, Failure, ReceiptView
from tui.text import cost, left, short, span

ENTRIES_MAX: Final = 5_000
RECEIPTS_MAX: Final = 5_000
ASKED_MAX: Final = 64
LOOKING: Final = "look:money"
"""How the hub names a failure of looking at this subject."""
LOW_MINUTES: Final = (2, 10, 30)
"""At these many minutes to empty the screen says so in words."""

K = TypeVar("K", bound=Fact)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Statement lines and receipts by their keys; the newest `ENTRIES_MAX` of each."""

    entries: Mapping[str, Entry] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    receipts: Mapping[str, ReceiptView] = dataclasses.field(
        default_factory=lambda: MappingProxyType({})
    )
    heard: bool = False
    """A line, a receipt or a balance came: an empty statement is empty, and not unknown."""
    said: str = ""
    """The newest answer to something asked for here."""
    away: bool = False
    """`said` tells that the market could not be reached: the next balance takes it back."""
    filter: str = ""
    asked: tuple[str, ...] = ()
    """Ids of what was asked for here; the newest `ASKED_MAX`."""

    @property
    def lines(self) -> tuple[Entry, ...]:
        """Newest first; those that the filter leaves."""
        words = self.filter.lower().split()
        found = [
            each
            for each in self.entries.values()
            if all(word in f"{each.kind} {each.words} {each.job}".lower() for word in words)
        ]
        return tuple(sorted(found, key=lambda each: (each.at, each.account, each.number))[::-1])

    def receipts_of(self, job: str) -> tuple[ReceiptView, ...]:
        """Receipts of a job, newest first; of all jobs for an empty one."""
        found = [each for each in self.receipts.values() if not job or each.job == job]
        return tuple(sorted(found, key=lambda each: (each.generation, each.number))[::-1])


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case Entry():
            entries = _with(state.entries, fact, ENTRIES_MAX, lambda each: (each.at, each.number))
            return dataclasses.replace(state, entries=entries, heard=True)
        case ReceiptView():
            receipts = _with(state.receipts, fact, RECEIPTS_MAX, lambda each: (each.matures_at, 0))
            return dataclasses.replace(state, receipts=receipts, heard=True)
        case Balance():  # what could not be reached is reached again
            return dataclasses.replace(
                state, heard=True, said="" if state.away else state.said, away=False
            )
        case Exported(command=command) if command in state.asked:
            return dataclasses.replace(state, said=f"{fact.words}: {fact.path}")
        case Failure(where=where) if where.startswith(LOOKING) or where in state.asked:
            words = f"{fact.code}: {fact.words}"
            return dataclasses.replace(state, said=words, away=where.startswith(LOOKING))
        case _:
            return state


def asked(state: State, command: str) -> State:
    """Something was asked for: its answer is for this screen."""
    return dataclasses.replace(state, asked=(*state.asked, command)[-ASKED_MAX:])


def _with(
    held: Mapping[str, K], fact: K, most: int, age: Callable[[K], tuple[int, int]]
) -> Mapping[str, K]:
    found = dict(held)
    old = found.get(fact.key)
    if old is not None and old.as_of > fact.as_of:
        return held
    found[fact.key] = fact
    if len(found) > most:
        del found[min(found, key=lambda key: age(found[key]))]
    return MappingProxyType(found)


def balance_words(balance: Balance | None) -> str:
    """Free, held, and until when."""
    if balance is None:
        return "the balance has not come yet"
    words = f"Free {left(balance.free)} cr   held {cost(balance.held)} cr"
    if balance.pending or balance.payable:
        words += f"   earned {left(balance.payable)} cr, and {left(balance.pending)} cr that mature"
    if balance.empty_in is None:
        return f"{words}   nothing runs"
    return f"{words}   empty in {span(balance.empty_in)} at {cost(balance.burn)} cr/h"


def low_words(balance: Balance | None) -> str:
    """A sentence where money ends soon; empty: it does not."""
    if balance is None or balance.empty_in is None:
        return ""
    minutes = balance.empty_in // 60_000
    for most in LOW_MINUTES:
        if minutes < most:
            return f"! at the present burn nothing is left in {span(balance.empty_in)}"
    return ""


def amount_words(entry: Entry) -> str:
    """What moved, with its sign: costs rounded up, what came rounded down."""
    if entry.amount < 0:
        return f"-{cost(-entry.amount)}"
    return f"+{left(entry.amount)}"


def entry_words(entry: Entry) -> str:
    """One line of the statement, in words."""
    of = f" of job {short(entry.job)}" if entry.job else ""
    after = f"balance {left(entry.balance_after)} cr"
    return f"{entry.words or entry.kind}{of}: {amount_words(entry)} cr, {after}"


def receipt_words(receipt: ReceiptView) -> Iterator[str]:
    """A receipt whole: what was used, what it posted, whether its signature holds here."""
    yield f"receipt {receipt.number} of generation {receipt.generation}, job {receipt.job}"
    yield (
        f"  used       {span(receipt.milliseconds)}, {receipt.steps:,} steps, "
        f"{receipt.tokens:,} tokens"
    )
    total = receipt.host_amount + receipt.owner_amount + receipt.fee_amount
    yield (
        f"  posted     host {cost(receipt.host_amount)} + owner {cost(receipt.owner_amount)} + "
        f"market {cost(receipt.fee_amount)} = {cost(total)} cr ({total:,} microcredits)"
    )
    if receipt.holds:
        yield f"  signature  ✓ holds: by the key {short(receipt.signer)} of an enclave in your log"
    else:
        yield f"  signature  ✗ DOES NOT HOLD: {receipt.words}"
    yield f"  state      {receipt.state}"
    yield f"  lease      {receipt.lease}"


def plain(state: State, balance: Balance | None) -> Iterator[str]:
    """The screen in lines."""
    yield balance_words(balance)
    if low := low_words(balance):
        yield low
    if not state.heard:
        yield "the statement has not come yet"
        return
    lines = state.lines
    yield f"{len(lines)} lines" + (f" that fit {state.filter!r}" if state.filter else "")
    for entry in lines:
        yield entry_words(entry)
    bad = [each for each in state.receipts.values() if not each.holds]
    yield f"{len(state.receipts)} receipts, {len(bad)} do not hold"
    for receipt in state.receipts_of(""):
        yield from receipt_words(receipt)
