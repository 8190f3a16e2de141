"""The list of jobs: any facts in any order; links by prefix; waits as reasons."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import NOW
from tests.tui.scenes.jobs import DEAD, HEAD, HEADS, JOB, REFUSED, SECOND, SERVED, WAITS
from tests.tui.state.any_facts import facts
from tui.state import jobs
from tui.state.jobs import State, Which


def told(*said, state: State | None = None) -> State:
    state = state or State()
    for each in said:
        state = jobs.apply(state, each, NOW)
    return state


@given(st.lists(facts(), max_size=40))
def test_any_facts_in_any_order_are_taken(said):
    state = told(*said)
    lines = list(jobs.plain(state, NOW, NOW, online=True))
    assert all(isinstance(each, str) for each in lines)
    assert len(jobs.listed(state)) <= len(state.heads) <= jobs.JOBS_MAX
    for each in jobs.listed(state):
        assert jobs.row_of(each, NOW).key == each.id


@given(st.permutations(HEADS))
def test_what_is_not_over_stands_first_the_newest_first(order):
    ids = [each.id for each in jobs.listed(told(*order, order[0]))]
    assert ids == [WAITS, SERVED, JOB, SECOND, DEAD]


def test_an_end_absorbs_and_a_job_that_is_gone_is_not_listed():
    later = dataclasses.replace(HEADS[1], state="running", as_of=NOW + 9)
    assert told(HEADS[1], later).heads[SECOND].state == "succeeded"
    gone = dataclasses.replace(HEAD, gone=True, as_of=NOW + 9)
    assert jobs.listed(told(HEAD, gone)) == ()


def test_above_the_maximum_the_oldest_that_are_over_go(monkeypatch):
    monkeypatch.setattr(jobs, "JOBS_MAX", 3)
    assert set(told(*HEADS).heads) == {JOB, SERVED, WAITS}


def test_the_filter_looks_at_names_ids_and_states():
    state = told(*HEADS)
    for words, wanted in (("tone-v3", [JOB]), ("dd failed", [DEAD]), ("日本", [WAITS])):
        found = jobs.listed(dataclasses.replace(state, filter=words))
        assert [each.id for each in found] == wanted


def test_f_goes_round_all_choices_of_states():
    state, seen = told(*HEADS), []
    for _ in Which:
        seen.append((state.which, len(jobs.listed(state))))
        state = jobs.next_which(state)
    assert seen == [(Which.ALL, 5), (Which.OPEN, 3), (Which.ENDED, 2), (Which.BAD, 1)]
    assert state.which is Which.ALL


def test_the_reason_of_a_wait_is_a_cell_of_its_own():
    cells = jobs.row_of(HEADS[4], NOW).cells
    assert cells[2].text.startswith("waiting for qwen-labs' broker, 4 m")
    assert jobs.reason(HEAD) == "on host number 2: the ones before were lost"


def test_what_a_narrow_table_cuts_stands_whole_under_it():
    lines = [each.text for each in jobs.strip(HEADS[4], NOW)]
    assert lines[1] == "waiting for qwen-labs' broker, 4 m; it was last seen 09:40"
    assert "cost 0.0000 of at most 6.0000 cr" in lines[0]
    assert jobs.strip(None, NOW) == []


def test_a_link_that_no_job_has_names_the_three_nearest():
    state = dataclasses.replace(told(*HEADS), wanted="bb")
    assert jobs.found(state, "bb") == ()
    words = jobs.link_words(state)
    assert words.startswith("no job of yours begins with 'bb'. Nearest: ")
    assert set(jobs.nearest(state, "bb")[:2]) == {JOB, SECOND}
    assert len(jobs.nearest(state, "bb")) == 3


def test_a_link_is_found_by_the_beginning_of_an_id_or_a_whole_name():
    state = told(*HEADS)
    assert jobs.found(state, "b0") == (JOB,)
    assert jobs.found(state, "B1") == (SECOND,)
    assert jobs.found(state, "first try") == (DEAD,)
    both = dataclasses.replace(state, wanted="b")
    assert jobs.link_words(both).startswith("2 jobs begin with 'b'")
    assert jobs.link_words(State(wanted="b0")) == "looking for job 'b0'"


def test_nothing_known_is_said_as_loading_then_as_none_and_offline_as_offline():
    def said(waited: int, *, online: bool) -> str:
        return jobs.summary(State(), NOW - waited, NOW, online=online)[0].text

    assert said(1000, online=True).startswith("asking the market for your jobs, 1.0 s")
    assert said(9000, online=True).startswith("no job yet")
    assert "does not answer" in said(9000, online=False)


def test_a_failure_is_said_and_what_was_read_before_stays():
    state = told(*HEADS, REFUSED)
    words = [each.text for each in jobs.summary(state, NOW, NOW, online=True)]
    assert words[0] == "5 of 5 jobs, 3 not over"
    assert words[1].startswith("not read: an answer of the market that it did not sign")
    again = told(dataclasses.replace(HEAD, as_of=NOW + 9), state=state)
    assert len(jobs.summary(again, NOW, NOW, online=True)) == 1
