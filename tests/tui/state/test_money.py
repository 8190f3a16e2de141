"""Money's state: any facts in any order; sums and signs as they are."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import BALANCE, NOW
from tests.tui.scenes.money import ENTRIES, JOB, receipt
from tests.tui.state.any_facts import facts
from tui.facts import Entry
from tui.state import money
from tui.state.money import State


def told(*said, state: State | None = None) -> State:
    state = state or State()
    for each in said:
        state = money.apply(state, each, NOW)
    return state


@given(st.lists(facts(), max_size=40))
def test_any_facts_in_any_order_are_taken(said):
    state = told(*said)
    assert all(isinstance(line, str) for line in money.plain(state, None))
    assert len(state.entries) <= money.ENTRIES_MAX


@given(st.permutations(ENTRIES), st.integers(0, 3))
def test_lines_stand_newest_first_however_they_came(order, again):
    state = told(*order, order[again])
    assert [each.number for each in state.lines] == [4, 3, 2, 1]


def test_an_older_word_about_a_line_changes_nothing():
    newer = dataclasses.replace(ENTRIES[0], words="paid in, confirmed", as_of=NOW + 5)
    state = told(newer, ENTRIES[0])
    assert state.entries[newer.key].words == "paid in, confirmed"


def test_no_more_lines_are_held_than_the_maximum_and_the_oldest_goes():
    lines = [
        dataclasses.replace(ENTRIES[0], number=n, at=NOW + n)
        for n in range(1, money.ENTRIES_MAX + 3)
    ]
    state = told(*lines)
    assert len(state.entries) == money.ENTRIES_MAX
    assert min(each.number for each in state.lines) == 3


def test_the_filter_leaves_lines_with_all_words():
    state = dataclasses.replace(told(*ENTRIES), filter=f"hold {JOB[:8]}")
    assert [each.number for each in state.lines] == [4, 3, 2]


@given(st.integers(-(10**12), 10**12))
def test_what_a_line_shows_is_never_better_than_it_is(amount):
    line: Entry = dataclasses.replace(ENTRIES[0], amount=amount)
    shown = money.amount_words(line).replace(",", "")
    assert round(float(shown) * 1_000_000) <= amount


def test_a_receipt_that_does_not_hold_says_so_and_why():
    words = "\n".join(money.receipt_words(receipt(3, holds=False)))
    assert "DOES NOT HOLD: no enclave of this log signed it" in words
    assert "holds: by the key" in "\n".join(money.receipt_words(receipt(1)))


def test_money_that_ends_soon_is_a_sentence():
    soon = dataclasses.replace(BALANCE, empty_in=9 * 60_000)
    assert money.low_words(soon) == "! at the present burn nothing is left in 9 m 00 s"
    assert money.low_words(BALANCE) == ""
    assert "nothing runs" in money.balance_words(dataclasses.replace(BALANCE, empty_in=None))
