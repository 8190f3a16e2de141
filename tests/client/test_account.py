"""Money on one's own machine: a statement that adds up, files of it, receipts checked."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.account import (
    StatementError,
    as_beancount,
    as_csv,
    burn,
    check_settled,
    lasts,
    month_of,
    statement,
)
from marketplace import wire
from tests.client.watch_stage import PRICE, lease
from tests.trust import release_world as rw
from trust.errors import EncodingError

NOVEMBER = 1_793_491_200_000  # 2026-11-01T00:00:00Z
DAY = 86_400_000
KINDS = ("top_up", "place", "void", "expire", "refund", "a-kind-of-tomorrow")


def lines(*changes: tuple[int, str, int]) -> tuple[wire.StatementLine, ...]:
    """(Day of November, kind, signed amount) of each line."""
    balance, found = 0, []
    for number, (day, kind, amount) in enumerate(changes, start=1):
        balance += amount
        found.append(
            wire.StatementLine(
                number=number,
                transfer=f"xfer_{number}",
                kind=kind,
                direction=wire.Direction.IN if amount > 0 else wire.Direction.OUT,
                amount=abs(amount),
                balance=balance,
                at=NOVEMBER + (day - 1) * DAY,
            )
        )
    return tuple(found)


USUAL = lines((-3, "top_up", 47_200_000), (2, "place", -6_000_000), (3, "void", 4_897_900))


class Books:
    """A market's pages of two lines."""

    def __init__(self, found: Sequence[wire.StatementLine]) -> None:
        self.found = found

    async def get_statement(
        self, account: wire.AccountRole = wire.AccountRole.BUYER, *, after: int = 0
    ) -> tuple[wire.StatementLine, ...]:
        return tuple(self.found[after : after + 2])

    async def get_receipts(self, job: bytes, *, after: int = 0) -> tuple[wire.ReceiptView, ...]:
        return ()


async def read(found: Sequence[wire.StatementLine], **known: int) -> list[wire.StatementLine]:
    return [each async for each in statement(Books(found), **known)]


async def test_a_statement_is_read_page_by_page_and_on_from_a_known_line() -> None:
    assert tuple(await read(USUAL)) == USUAL
    assert tuple(await read(USUAL, after=1, balance=47_200_000)) == USUAL[1:]


@pytest.mark.parametrize(
    "change", [{"balance": 1}, {"amount": 7}, {"number": 5}, {"direction": wire.Direction.IN}]
)
async def test_a_statement_whose_lines_do_not_add_up_is_no_statement(
    change: dict[str, object],
) -> None:
    forged = (USUAL[0], dataclasses.replace(USUAL[1], **change), USUAL[2])
    with pytest.raises(StatementError, match="wanted line"):
        await read(forged)


def test_csv_has_the_months_lines_and_no_other() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(USUAL, "2026-11"))))
    assert [(row["number"], row["amount_microcredits"]) for row in rows] == [
        ("2", "-6000000"),
        ("3", "4897900"),
    ]
    assert rows[0]["at"] == "2026-11-02T00:00:00.000+00:00"
    assert as_csv(USUAL, "2026-12").count("\n") == 1


MONTHS = st.lists(
    st.tuples(st.integers(-20, 60), st.sampled_from(KINDS), st.integers(1, 10**9)), max_size=8
).map(lambda found: lines(*sorted(found)))


@given(MONTHS)
def test_beancount_balances_in_every_entry_and_at_the_months_end(
    found: tuple[wire.StatementLine, ...],
) -> None:
    text = as_beancount(found, "2026-11")
    opened = set(re.findall(r"^2026-11-01 open (\S+) CREDIT$", text, re.MULTILINE))
    free, used, in_entry = 0, set(), 0
    for line in text.splitlines():
        posting = re.fullmatch(r"  (\S+)  (-?\d+\.\d{6}) CREDIT", line)
        if posting is None:
            assert in_entry == 0
            continue
        amount = int(posting[2].replace(".", ""))
        in_entry += amount
        used.add(posting[1])
        free += amount if posting[1] == "Assets:Blindhost:Free" else 0
    assert in_entry == 0
    assert used == opened
    begin, end = month_of("2026-11")
    last = [each.balance for each in found if each.at < end]
    assert free == (last[-1] if last else 0)
    stated = re.search(r"2026-12-01 balance Assets:Blindhost:Free  (\S+) CREDIT", text)
    assert stated is not None
    assert int(stated[1].replace(".", "")) == free
    assert begin < end


@pytest.mark.parametrize("text", ["2026-13", "2026", "x", "2026-11-01", ""])
def test_a_month_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        month_of(text)


def test_december_ends_with_its_year() -> None:
    assert month_of("2026-12")[1] - month_of("2026-12")[0] == 31 * DAY


# --- how long it lasts ---------------------------------------------------------------------------


def job(*states: wire.LeaseState) -> wire.JobView:
    return wire.JobView(
        job=bytes(32),
        buyer=bytes(32),
        owner=bytes(32),
        state=wire.JobState.RUNNING,
        generation=1,
        generation_digest=None,
        waiting_for=None,
        money=wire.MoneyView(reserved=1, captured=0, released=0),
        leases=tuple(
            lease(n, state, bytes(32), bytes(32)) for n, state in enumerate(states, start=1)
        ),
        created_at=0,
        deadline=None,
    )


def test_only_what_is_metered_burns() -> None:
    states = wire.LeaseState
    assert burn([job(states.READY, states.READY), job(states.ATTESTING)]) == 2 * PRICE
    assert burn([job(states.CLOSED)]) == 0
    assert lasts(PRICE, PRICE) == 3_600_000
    assert lasts(5, 0) is None


# --- receipts ------------------------------------------------------------------------------------


def settled(signed: bytes) -> wire.ReceiptView:
    return wire.ReceiptView(
        signed=signed,
        host_amount=3,
        owner_amount=2,
        fee_amount=1,
        state=wire.SettlementState.PENDING,
        matures_at=5,
    )


def test_a_receipt_holds_only_under_the_key_of_its_seat() -> None:
    world, enclave = rw.World(), rw.Enclave()
    world.seat(world.buyer, enclave)
    memory, name = world.buyer.memory, world.job.digest
    good = world.receipt(enclave, 1, 10)
    found = check_settled(memory, name, settled(good.encode()))
    assert (found.fault, found.total, found.digest) == ("", 6, good.digest)
    assert found.signer == enclave.party.identity
    forged = world.receipt(rw.Enclave(), 1, 10)
    assert "no enclave" in check_settled(memory, name, settled(forged.encode())).fault
    assert check_settled(memory, bytes(32), settled(good.encode())).fault
    changed = bytearray(good.encode())
    changed[0] ^= 1
    broken = check_settled(memory, name, settled(bytes(changed)))
    assert broken.receipt is None
    assert broken.fault
    assert broken.signer is None
