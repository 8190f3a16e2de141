"""Trust: counts sum, verdicts come from lines, no word of comfort, differences are marked."""

from __future__ import annotations

import dataclasses
import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import NOW
from tests.tui.scenes.jobs import JOB, SECOND
from tests.tui.scenes.trust import (
    CLEAN,
    FIRST,
    IMAGE,
    LINES,
    OTHER_IMAGE,
    PASSED,
    REFUSED,
    RELEASES,
    UNREAD,
    check,
)
from tests.tui.state.any_facts import built, facts
from tui.facts import Attestation, CheckLine, ReleaseEntry, Verdict
from tui.state import trust, trust_words, verdicts
from tui.state.lines import text_of, width_of
from tui.state.rows import Tone
from tui.state.trust import State, apply

UTC = dt.UTC
COMFORT = ("secure", "safe", "trusted")


def told(*said, state: State | None = None) -> State:
    state = state or State(job=JOB)
    for each in said:
        state = apply(state, each, NOW)
    return state


def head_of(state: State) -> str:
    return "\n".join(text_of(each) for each in trust_words.head(state, NOW, NOW, 120))


def of_this_job(fact):
    return dataclasses.replace(fact, job=JOB)


@given(st.lists(st.one_of(facts(), facts(Attestation, ReleaseEntry).map(of_this_job)), max_size=20))
def test_any_facts_in_any_order_are_taken_and_can_be_said(said):
    state = told(*said)
    assert all(isinstance(each.text, str) for each in trust_words.compare(state))
    for _, check_line in trust.rows(trust.turn_all(state)):
        assert all(width_of(each) <= 60 for each in trust_words.strip(check_line, 60))
        if check_line is not None:
            assert trust_words.explain(check_line, state.shown, JOB)
    lines = trust_words.plain(state, NOW, NOW, UTC, online=True)
    assert all(isinstance(each, str) for each in lines)
    assert all(each.job == JOB for each in state.appraisals.values())
    assert all(each.job == JOB for each in state.releases.values())


@given(st.lists(built(CheckLine), max_size=30).map(tuple))
def test_counts_sum_to_the_number_of_lines_and_every_line_can_be_reached(lines):
    state = told(dataclasses.replace(PASSED, lines=lines))
    assert sum(verdicts.counts(lines).values()) == len(lines)
    unfolded = trust.turn_all(state) if trust.groups_of(state) else state
    shown = [each for _, each in trust.rows(unfolded) if each is not None]
    assert sorted(map(repr, shown)) == sorted(map(repr, lines))
    keys = [row.key for row, _ in trust.rows(unfolded)]
    assert len(set(keys)) == len(keys)


@given(st.lists(built(CheckLine), max_size=12).map(tuple), st.booleans())
def test_a_headline_is_good_only_where_all_was_checked_passed_and_real(lines, simulated):
    it = dataclasses.replace(PASSED, lines=lines, simulated=simulated, headline="PASSED")
    words, kinds = verdicts.headline(it), {each.verdict for each in lines}
    good = verdicts.tone(it) is Tone.GOOD
    assert good == (
        Verdict.PASSED in kinds
        and not kinds & {Verdict.FAILED, Verdict.NOT_CHECKED}
        and not simulated
    )
    assert words.startswith("SIMULATED") == (simulated and bool(lines))
    assert ("PASSED" in words.partition(" at ")[0]) == (
        Verdict.PASSED in kinds and Verdict.FAILED not in kinds
    )


def test_what_a_hub_says_in_a_headline_is_not_believed():
    lying = dataclasses.replace(REFUSED, headline="PASSED, perfectly safe")
    assert verdicts.headline(lying) == "REFUSED at measurement"
    assert verdicts.headline(dataclasses.replace(PASSED, lines=(), headline="PASSED")) == "NOT YET"


def test_headlines_in_words():
    assert verdicts.headline(None) == "NOT YET"
    assert verdicts.headline(PASSED) == "PASSED, 2 checks not made"
    assert verdicts.headline(CLEAN) == "PASSED"
    assert verdicts.headline(dataclasses.replace(PASSED, lines=LINES[1:])) == (
        "PASSED, 1 check not made"
    )
    late = dataclasses.replace(PASSED, lines=(check("time", "policy", Verdict.FAILED), *LINES))
    assert verdicts.headline(late) == "EXPIRED"
    assert verdicts.headline(dataclasses.replace(PASSED, simulated=True)) == (
        "SIMULATED: PASSED, 2 checks not made"
    )


@given(st.sampled_from([PASSED, CLEAN, REFUSED, dataclasses.replace(PASSED, simulated=True)]))
def test_no_headline_comforts(it):
    words = head_of(told(it, *RELEASES)).lower()
    assert not any(each in words for each in COMFORT)


@given(st.permutations(LINES))
def test_failed_stand_first_then_not_checked_then_passed(lines):
    failed = check("vmpl", "cpu", Verdict.FAILED)
    order = [
        each.verdict for each in told(dataclasses.replace(PASSED, lines=(*lines, failed))).lines
    ]
    assert order == sorted(order, key=verdicts.ORDER.index)
    assert order[0] is Verdict.FAILED


def test_groups_are_folded_until_they_are_opened_and_f_leaves_what_did_not_pass():
    state = told(PASSED)
    words = [row.cells[1] for row, _ in trust.rows(state)]
    assert words[:3] == ["gpu: gpu", "facility: facility", "▸ cpu (5)"]
    opened = trust.turn(state, "group:passed:cpu")
    assert "  cpu: chain" in [row.cells[1] for row, _ in trust.rows(opened)]
    only = dataclasses.replace(state, only_open=True)
    assert [each.id for _, each in trust.rows(only)] == ["gpu", "facility"]


def test_groups_stand_open_where_all_lines_have_room():
    state = told(PASSED)
    rows = len(LINES) + len(trust.groups_of(state))
    opened = trust.unfold_where_it_fits(state, rows)
    assert len(trust.rows(opened)) == rows
    assert trust.unfold_where_it_fits(opened, rows) is opened
    assert trust.unfold_where_it_fits(opened, rows - 1).unfolded == frozenset()


def test_a_new_verdict_is_shown_as_was_and_is():
    state = told(PASSED, REFUSED)
    assert state.said.endswith("it was PASSED, 2 checks not made, it is REFUSED at measurement")
    words = head_of(state)
    assert "changed: was PASSED, 2 checks not made; measurement: was passed, is FAILED" in words
    again = dataclasses.replace(PASSED, verified_at=NOW, as_of=NOW)
    assert told(PASSED, again).said == "verified again: the same"


def test_an_older_appraisal_changes_nothing():
    assert told(REFUSED, PASSED).shown is REFUSED


def test_of_two_policies_over_one_enclave_the_worse_verdict_is_shown_and_the_other_beside_it():
    other = dataclasses.replace(REFUSED, policy="77" * 32, verified_at=PASSED.verified_at)
    for order in ((PASSED, other), (other, PASSED)):
        state = told(*order)
        assert verdicts.headline(state.shown) == "REFUSED at measurement"
        lines = [text_of(each) for each in trust_words.side(state, NOW, UTC)]
        assert any("by policy 19fa19fa…: PASSED, 2 checks not made" in each for each in lines)
    ranks = dataclasses.replace(other, policy=PASSED.policy)
    assert told(PASSED, ranks).shown is told(ranks, PASSED).shown is ranks


def test_generations_stand_apart_and_the_newest_is_shown():
    state = told(PASSED, FIRST)
    assert state.shown is PASSED
    assert trust.step_generation(state, -1).shown is FIRST
    assert trust.step_generation(state, -9).shown is FIRST
    compared = "\n".join(each.text for each in trust_words.compare(state))
    assert f"chip: {'02bd' * 32} → {'9c1e' * 32}" in compared
    assert "every check found the same" in compared
    differs = "\n".join(each.text for each in trust_words.compare(told(FIRST, REFUSED)))
    assert "measurement: passed → FAILED" in differs
    alone = trust_words.compare(told(FIRST))
    assert alone[0].text == "only generation 1 is known: there is none before it"


def test_each_custodians_entry_says_whose_word_it_is():
    lines = [text_of(each) for each in trust_words.side(told(PASSED, *RELEASES), NOW, UTC)]
    you = next(at for at, each in enumerate(lines) if each.startswith("you"))
    other = next(at for at, each in enumerate(lines) if each.startswith("custodian"))
    assert "our own record: your broker's log" in " ".join(lines[you:other])
    assert "its own word, signed; not ours" in " ".join(lines[other:])
    assert "Keys were released to this enclave by you and 1 other custodian." in head_of(
        told(PASSED, *RELEASES)
    )
    assert "No custodian released keys" in head_of(told(PASSED))


def test_a_word_about_a_whole_log_is_not_told_as_a_release():
    word = dataclasses.replace(RELEASES[2], generation=0, words="its log has 31 entries")
    state = told(PASSED, RELEASES[1], word)
    assert "Keys were released to this enclave by you." in head_of(state)
    lines = " ".join(text_of(each) for each in trust_words.side(state, NOW, UTC))
    assert "its log has 31 entries" in lines
    assert "its own word of its log; its release isn't seen here" in lines


def test_a_failure_to_look_is_known_by_its_subject():
    for where in ("trust", f"look:trust:{JOB}", f"others:{JOB}"):
        assert told(dataclasses.replace(UNREAD, where=where)).failure is not None
    for where in (f"look:trust:{SECOND}", f"look:job:{JOB}", "keys"):
        assert told(dataclasses.replace(UNREAD, where=where)).failure is None


def test_a_fenced_release_and_a_broken_chain_say_so():
    broken = dataclasses.replace(RELEASES[0], chain_holds=False)
    lines = " ".join(text_of(each) for each in trust_words.release_lines(broken, UTC))
    assert "FENCED: a newer generation took its place" in lines
    assert "CHAIN BROKEN at this entry" in lines


def test_bytes_that_differ_are_marked_in_found_and_wanted_and_stand_aligned():
    failed = next(each for each in REFUSED.lines if each.verdict is Verdict.FAILED)
    found, wanted, risk = trust_words.strip(failed, 78)
    assert "2 of 48 bytes differ, first byte 10" in text_of(found)
    for line, value in ((found, OTHER_IMAGE), (wanted, IMAGE)):
        marked = [part.text for part in line if part.tone is Tone.LOUD]
        assert marked == [value[20:22], value[22:24]]
    places = [
        sum(len(p.text) for p in each[: [p.tone for p in each].index(Tone.LOUD)])
        for each in (found, wanted)
    ]
    assert places[0] == places[1]
    assert all(width_of(each) <= 78 for each in (found, wanted, risk))
    assert "the host starts another program" in text_of(risk)


@given(st.integers(0, 47), st.integers(1, 255), st.integers(40, 240))
def test_any_one_byte_that_differs_is_shown(at, flip, cells):
    value = bytearray(bytes.fromhex(IMAGE))
    value[at] ^= flip
    line = check("measurement", "image", Verdict.FAILED, value.hex(), f"{'00' * 48} or {IMAGE}")
    found, wanted, _ = trust_words.strip(line, cells)
    assert [part.text for part in found if part.tone is Tone.LOUD] == [f"{value[at]:02x}"]
    assert [part.text for part in wanted if part.tone is Tone.LOUD] == [IMAGE[2 * at : 2 * at + 2]]


def test_words_that_are_no_hex_are_shown_as_they_are():
    found, wanted, _ = trust_words.strip(LINES[5], 100)
    assert text_of(found) == "found   bl 10 tee 0 snp 27 uc 88"
    assert text_of(wanted) == "wanted  at least the floor"
    assert trust_words.strip(None, 80) == []


def test_enter_explains_meaning_gain_and_how_to_repeat_it():
    words = [each.text for each in trust_words.explain(LINES[0], PASSED, JOB)]
    assert "Evidence of the GPU and of its firmware." in words
    assert any("a GPU that is not in confidential mode" in each for each in words)
    assert words[-1] == f"blindhost trust show {JOB} --generation 2"


def test_an_empty_screen_says_what_is_awaited_and_for_how_long():
    words = "\n".join(
        text_of(each) for each in trust_words.head(State(job=JOB), NOW - 41_000, NOW, 100)
    )
    assert words.startswith("NOT YET")
    assert "no evidence yet: the host has not answered (41 s)" in words


def test_what_can_not_be_read_is_said_and_what_was_read_stays():
    state = told(PASSED, UNREAD)
    [words] = trust_words.tab_words(state, online=True, now=NOW)
    assert text_of(words).startswith("not read: its policy is not in this home")
    assert state.shown is PASSED
    [offline] = trust_words.tab_words(told(PASSED), online=False, now=NOW)
    assert text_of(offline).startswith("OFFLINE: as of")


def test_another_job_begins_anew():
    state = told(PASSED, *RELEASES)
    assert trust.choose(state, JOB) is state
    assert trust.choose(state, SECOND) == State(job=SECOND)


def test_the_plain_screen_says_every_check_folded_or_not():
    lines = list(trust_words.plain(told(PASSED, *RELEASES), NOW, NOW, UTC, online=True))
    for each in LINES:
        assert any(f"{each.verdict.value}, {each.group}: {each.id}: found" in l for l in lines)  # noqa: E741


def test_no_more_generations_are_held_than_the_maximum():
    many: list[Attestation] = [
        dataclasses.replace(PASSED, generation=number) for number in range(1, 80)
    ]
    assert len(told(*many).appraisals) == trust.APPRAISALS_MAX
