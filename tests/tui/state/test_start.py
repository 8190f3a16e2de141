"""Start's state: five steps, read off what all screens share."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from client.keystore import PASSPHRASE_CHARACTERS_MIN
from tests.tui.rig import BALANCE, NOW, OFFLINE, ONLINE
from tests.tui.scenes.start import HOME, LOCKED, NO_KEYS
from tests.tui.state.any_facts import facts
from tui.facts import Failure
from tui.state import shared, start
from tui.state.shared import Shared
from tui.state.start import State, StepName


def told(*said) -> Shared:
    state = Shared()
    for each in said:
        state = shared.apply(state, each, NOW)
    return state


def signs(*said) -> str:
    return "".join(
        "✓" if each.done else "!" if each.waits else "."
        for each in start.steps(told(*said), NOW)[:5]
    )


@given(st.lists(facts(), max_size=30))
def test_any_facts_in_any_order_give_five_steps_and_at_most_one_waits(said):
    state, common = State(), Shared()
    for each in said:
        state = start.apply(state, each, NOW)
        common = shared.apply(common, each, NOW)
    found = start.steps(common, NOW)
    assert len(found) == 7
    assert sum(each.waits for each in found) <= 1
    assert all(isinstance(line, str) for line in start.plain(state, common, NOW))
    assert all(len(start.step_line(1, each, 60).text) <= 90 for each in found)


def test_steps_are_done_in_their_order_as_things_come():
    assert signs() == "!...."
    assert signs(NO_KEYS) == "!...."
    assert signs(ONLINE, HOME, dataclasses.replace(BALANCE, free=0, held=0)) == "✓✓!✓✓"
    assert signs(ONLINE, HOME, BALANCE) == "✓✓✓✓✓"
    assert signs(OFFLINE, HOME, BALANCE) == "✓!✓✓✓"


def test_keys_that_are_there_and_locked_are_opened_and_not_made_again():
    step = start.steps(told(LOCKED), NOW)[0]
    assert (step.done, step.does) == (False, "Unlock")
    assert step.words.startswith("LOCKED")
    assert start.steps(told(NO_KEYS), NOW)[0].does == "Make keys"


def test_a_market_without_a_pinned_key_is_not_done():
    unpinned = dataclasses.replace(HOME, market_identity="")
    step = start.steps(told(ONLINE, unpinned), NOW)[1]
    assert not step.done
    assert "NO KEY" in step.words


def test_a_failure_of_ones_own_command_is_shown_and_of_another_is_not():
    state = start.asked(State(), command="c1", words="opening the keys", now=NOW)
    line = start.news(state, told(LOCKED), NOW + 2000)[0].text
    assert line == "opening the keys, 2.0 s; it ends by itself"
    other = Failure(as_of=NOW, where="c2", code="x", words="x", retry_in=None)
    assert start.apply(state, other, NOW) == state
    wrong = dataclasses.replace(other, where="c1", code="keystore", words="it does not open")
    state = start.apply(state, wrong, NOW)
    assert "FAILED keystore: it does not open" in start.plain(state, told(LOCKED), NOW)
    assert start.apply(state, HOME, NOW).failure is None
    unread = dataclasses.replace(other, where="home", words="no such folder")
    assert "FAILED x: no such folder" in start.plain(start.apply(State(), unread, NOW), told(), NOW)


def test_a_short_passphrase_is_refused_by_lengths_alone():
    assert start.PASSPHRASE_CHARACTERS_MIN == PASSPHRASE_CHARACTERS_MIN
    fault = start.passphrase_fault("canary")
    assert fault == "at least 12 characters are wanted, got 6"
    assert start.passphrase_fault("x" * 12) == ""


def test_a_market_is_an_address_and_a_key_of_32_bytes():
    assert start.market_fault("https://market.example", "5f" * 32) == ""
    assert "https://" in start.market_fault("market.example", "5f" * 32)
    assert "64 hex digits" in start.market_fault("https://market.example", "5F" * 32)
    assert "64 hex digits" in start.market_fault("https://market.example", "5f" * 31)


def test_the_two_ways_round_the_steps_are_there_from_the_beginning():
    names = [each.name for each in start.steps(Shared(), NOW)]
    assert names[5:] == [StepName.LOOK, StepName.REHEARSE]
