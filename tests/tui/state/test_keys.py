"""Keys' state: any facts in any order; a broken chain stays so; what is unread is unanswered."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from client.release_log import ReleaseLogError
from tests.tui.rig import NOW, SETUP
from tests.tui.scenes.keys import ALL, ANSWERED, BROKERS, CONSENT, KEYS, RELEASES, THEIRS, release
from tests.tui.state.any_facts import facts
from tui.facts import Consent, Exported, Failure, ReleaseEntry
from tui.state import keys
from tui.state.keys import State


def told(*said, state: State | None = None) -> State:
    state = state or State()
    for each in said:
        state = keys.apply(state, each, NOW)
    return state


@given(st.lists(st.one_of(facts(), facts(ReleaseEntry, Consent)), max_size=30))
def test_any_facts_in_any_order_are_taken(said):
    state = told(*said)
    assert all(isinstance(line, str) for line in keys.plain(state, NOW))
    entries = keys.listed(state)
    assert len(entries) == len(state.releases)
    assert sum(len(each.entries) for each in keys.chips(entries)) == sum(
        bool(each.chip) for each in entries
    )
    broken = [each for each in said if isinstance(each, ReleaseEntry) and each.mine]
    assert (state.broken is not None) == any(not each.chain_holds for each in broken)


@given(st.permutations(RELEASES[:6]), st.integers(0, 5))
def test_a_broken_chain_stays_broken_whatever_comes_after(order, again):
    bad = release(3, holds=False)
    good = dataclasses.replace(release(3), as_of=NOW + 9)
    state = told(*order, bad, good, order[again])
    assert state.broken == bad
    assert keys.plain(state, NOW)[0] == "THE RELEASE LOG IS BROKEN AT ENTRY 3"


def test_a_log_that_cant_be_read_is_broken_for_good_and_says_why():
    words = "entry 31 does not follow on the one before"
    damage = Failure(as_of=NOW, where="keys", code="ReleaseLogError", words=words, retry_in=None)
    state = told(damage, *RELEASES, KEYS, dataclasses.replace(damage, code="busy", words="x"))
    assert state.is_broken
    lines = keys.plain(state, NOW)
    assert lines[0] == "THE RELEASE LOG IS BROKEN"
    assert words in lines
    assert ReleaseLogError.__name__ == keys.DAMAGED


def test_the_first_entry_that_does_not_hold_is_named():
    state = told(release(9, holds=False), release(4, holds=False), release(7, holds=False))
    assert state.broken is not None
    assert state.broken.number == 4


def test_another_custodians_broken_log_is_loud_and_ends_nothing():
    state = told(*RELEASES, dataclasses.replace(THEIRS, chain_holds=False))
    assert state.broken is None
    lines = [each.text for each in keys.releases_head(state, by_chip=False)]
    assert lines[1] == "the log of 6d6d6d6d6d6d… does not hold at entry 12: its word counts less"


def test_anothers_release_is_called_its_word():
    assert keys.release_row(THEIRS, NOW).cells[-1] == "word of 6d6d6d…"
    assert keys.release_row(RELEASES[0], NOW).cells[-1] == "yours"
    assert "(the word of 6d6d6d6d6d6d…)" in keys.entry_words(THEIRS, NOW)


def test_a_chip_lists_all_that_it_ever_opened_of_every_log():
    found = {each.chip: each for each in keys.chips(keys.listed(told(*RELEASES, THEIRS)))}
    entries = found["9c" * 32].entries
    assert len(entries) == sum(each.chip == "9c" * 32 for each in RELEASES) + 1
    assert any(not each.mine for each in entries)


def test_no_more_releases_are_held_than_the_maximum_and_the_oldest_goes():
    many = [
        dataclasses.replace(release(1), number=n, at=NOW + n)
        for n in range(1, keys.RELEASES_MAX + 3)
    ]
    state = State(releases={each.key: each for each in many[:-2]})
    state = told(*many[-2:], state=state)
    assert len(state.releases) == keys.RELEASES_MAX
    assert min(each.number for each in keys.listed(state)) == 3


def test_what_waits_stands_on_top_and_what_cant_be_read_is_not_answered():
    state = told(ANSWERED, CONSENT)
    assert [each.id for each in keys.consents(state)] == [CONSENT.id, ANSWERED.id]
    assert keys.consents_head(state)[0].text == "CONSENTS   1 waits for you"
    assert keys.answer_fault(CONSENT) == ""
    assert keys.answer_fault(ANSWERED) == "it does not wait for you"
    blank = dataclasses.replace(CONSENT, sentences=("", " "))
    assert "nothing of what it would open" in keys.answer_fault(blank)


def test_many_consents_do_not_push_out_the_one_that_waits():
    many = [dataclasses.replace(ANSWERED, id=f"{n:064x}") for n in range(keys.CONSENTS_MAX + 5)]
    old = dataclasses.replace(CONSENT, as_of=NOW - 10**6)
    state = told(old, *many)
    assert len(state.consents) == keys.CONSENTS_MAX
    assert CONSENT.id in state.consents


def test_what_is_awaited_ends_with_its_answer_or_its_failure():
    state = keys.asked(State(), command="c1", words="writing a backup", now=NOW)
    assert keys.news(state, NOW + 1000)[0].text.startswith("writing a backup, 1.0 s")
    done = told(Exported(as_of=NOW, command="c1", path="/b", words="w"), state=state)
    assert [each.text for each in keys.news(done, NOW)] == ["written: /b  w"]
    failed = told(
        Failure(as_of=NOW, where="c1", code="io", words="no space", retry_in=None), state=state
    )
    assert [each.text for each in keys.news(failed, NOW)] == ["FAILED io: no space"]
    for words, fact in (("keys: locking", SETUP), (f"consent {CONSENT.id}: …", CONSENT)):
        assert not told(fact, state=keys.asked(State(), command="c", words=words, now=NOW)).asked


def test_brokers_say_who_is_waited_for():
    lines = [each.text for each in keys.broker_lines(told(*BROKERS), NOW)]
    assert lines[0].startswith("BROKER     yours: running")
    assert "silent · last seen 4 m 00 s ago · 1 waiting: b0b0" in lines[1]
    assert "backed up: NO" in keys.keys_lines(told(KEYS), locked=False)[0].text
    assert "LOCKED" in keys.keys_lines(told(KEYS), locked=True)[0].text


def test_plain_says_all_of_it():
    lines = "\n".join(keys.plain(told(*ALL), NOW))
    assert "can't be taken back" in lines
    assert "#57" in lines
