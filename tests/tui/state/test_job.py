"""One job's state: any facts in any order; an end absorbs; words of waits, losses and ends."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import NOW
from tests.tui.scenes import job as scenes
from tests.tui.scenes.job import COST, CURVE, EVENTS, RUNNING, SAFE, WAITING, stages_until
from tests.tui.scenes.jobs import HEAD, JOB, SECOND
from tests.tui.scenes.trust import PASSED, REFUSED
from tests.tui.state.any_facts import facts
from tui.facts import (
    STAGES,
    Attestation,
    Checkpoint,
    Cost,
    Evaluation,
    Exported,
    Failure,
    JobEvent,
    JobHead,
    Progress,
    ReceiptView,
    ResultFetch,
    Stage,
    StageState,
)
from tui.state import job, job_words
from tui.state.job import State, apply, asking
from tui.state.lines import text_of, width_of

UTC = dt.UTC
OF_A_JOB = (
    JobHead, Stage, Progress, Evaluation, Cost, Checkpoint, JobEvent, ResultFetch, Attestation,
    ReceiptView,
)  # fmt: skip


@pytest.mark.parametrize("at", [10**15, 10**30, -(10**15)])
def test_a_time_that_no_calendar_has_is_said_as_none(at):
    event = dataclasses.replace(EVENTS[0], at=at)
    assert text_of(job_words.event_line(event, UTC)).startswith("no time submitted")
    assert job_words.event_lines(event, UTC)[0].startswith("no time")


def told(*said, state: State | None = None) -> State:
    state = state or State(job=JOB)
    for each in said:
        state = apply(state, each, NOW)
    return state


def page_of(*said) -> str:
    return "\n".join(text_of(each) for each in job_words.page(told(*said)))


def of_this_job(fact):
    """The same fact, about this job."""
    name = "id" if isinstance(fact, JobHead) else "job"
    return dataclasses.replace(fact, **{name: JOB}) if hasattr(fact, name) else fact


@given(st.lists(st.one_of(facts(), facts(*OF_A_JOB).map(of_this_job)), max_size=30))
def test_any_facts_in_any_order_are_taken_and_can_be_said(said):
    state = told(*said)
    for name in STAGES:
        assert job_words.explain(state, name, NOW)
    assert isinstance(job_words.close_sentence(state), str)
    for each in state.events:
        assert width_of(job_words.event_line(each, UTC)) > 0
    assert all(isinstance(each, str) for each in job_words.plain(state, NOW, NOW, UTC, online=True))
    for each in (*state.events, *state.records):
        assert each.job == JOB
    assert [each.offset for each in state.events] == sorted({e.offset for e in state.events})


@given(st.permutations([*CURVE[::20], *EVENTS]), st.integers(0, 5))
def test_events_and_records_stand_in_their_order_however_they_came(order, again):
    state = told(*order, order[again], *order[:3])
    assert state.events == EVENTS
    assert [(e.generation, e.step) for e in state.records] == [
        (e.generation, e.step) for e in CURVE[::20]
    ]
    assert state.curve == told(*CURVE[::20]).curve


@pytest.mark.parametrize("end", job.ENDED)
def test_an_end_absorbs_whatever_is_said_of_the_job_later(end):
    later = dataclasses.replace(HEAD, as_of=NOW + 9)
    over = dataclasses.replace(HEAD, state=end)
    assert told(over, later).head.state == end
    captured = dataclasses.replace(over, captured=9, as_of=NOW + 9)
    assert told(over, captured).head.captured == 9


def test_facts_of_another_job_change_nothing():
    other = dataclasses.replace(CURVE[0], job=SECOND)
    state = State(job=JOB)
    assert told(other, dataclasses.replace(HEAD, id=SECOND), state=state) is state


def test_no_more_events_are_held_than_the_maximum_and_the_oldest_go(monkeypatch):
    monkeypatch.setattr(job, "EVENTS_MAX", 50)
    events = [dataclasses.replace(EVENTS[0], offset=n) for n in range(1, 120)]
    state = told(*events, dataclasses.replace(EVENTS[0], offset=2))
    assert [each.offset for each in state.events] == list(range(70, 120))


def test_twenty_thousand_events_in_order_are_taken_one_by_one():
    state = told(*(dataclasses.replace(EVENTS[0], offset=n) for n in range(1, 20_003)))
    assert len(state.events) == job.EVENTS_MAX
    assert state.events[-1].offset == 20_002


def test_a_run_that_went_on_after_its_host_died_reads_as_such():
    state = told(*RUNNING)
    [mark] = job.marks(state)
    assert (mark.step, mark.words) == (600, "host lost, resumed at 600")
    assert job_words.state_words(state) == "RUNNING on its 2nd host"
    assert job_words.state_words(state, narrow=True) == "RUNNING, 2nd host"
    assert job_words.resumed(state)[0].startswith("host lost, resumed at 600: the same run")


def test_another_cause_than_a_death_is_not_told_as_one():
    outbid = dataclasses.replace(
        EVENTS[3], words="outbid, generation 1: another order pays more for this machine"
    )
    assert job.marks(told(*CURVE, outbid))[0].words == "outbid, resumed at 600"
    assert job.marks(told(*CURVE))[0].words == "another host, resumed at 600"
    assert job.marks(told(*(each for each in CURVE if each.generation == 1))) == ()


def test_numbers_say_the_money_rounded_against_the_buyer():
    odd = dataclasses.replace(COST, spent=1_842_101, cap=6_000_099)
    held = dict(job_words.numbers(told(*RUNNING, odd), NOW))
    assert held["cost"] == "1.8422 of at most 6.0000 cr"
    assert held["step"].startswith("1,1")
    assert held["step"].endswith(" of 2,400")
    assert held["at the end"] == "about 3.7200"
    assert held["cap lasts"] == "2 h 41 m"
    assert held["safe"] == "step 1,150, sealed 38 s ago"
    assert held["speed"] == "5,210 tok/s"


def test_without_a_checkpoint_nothing_is_said_to_be_safe():
    running = [each for each in RUNNING if each is not SAFE]
    assert dict(job_words.numbers(told(*running), NOW))["safe"].startswith("nothing yet")


def test_a_wait_says_for_whom_and_who_ends_it():
    words = "\n".join(text_of(each) for each in job_words.waiting(told(*WAITING), NOW, NOW))
    assert "waiting for qwen-labs' broker, 4 m; it was last seen 09:40" in words
    assert "qwen-labs acts (release" in words
    assert "whose brokers have not answered yet" in words


def test_loading_counts_seconds_and_says_what_ends_it():
    [words] = job_words.waiting(State(job=JOB), NOW - 41_000, NOW)
    assert text_of(words) == ("asking the market about this job, 41 s; it ends with an answer")


def test_a_stage_that_a_custodian_refused_says_who_can_end_it():
    state = told(
        HEAD, *stages_until("release", StageState.FAILED, "job-expired: expired at 5, it is 7")
    )
    words = "\n".join(text_of(each) for each in job_words.explain(state, "release", NOW))
    assert "FAILED at release" in words
    assert "Who can end it: you: submit a new job, with more time." in words
    unheard = "\n".join(text_of(each) for each in job_words.explain(State(job=JOB), "seal", NOW))
    assert "nothing was heard of it yet" in unheard


def test_success_is_a_page_with_result_measures_receipts_and_cost():
    words = page_of(*scenes.SUCCEEDED)
    assert words.startswith("SUCCEEDED")
    assert "adapter-b0b0" in words
    assert "base 2.31 / tuned 1.61" in words
    assert "1, all signatures hold here" in words
    assert "cost      3.7020 cr" in words


def test_a_failure_says_its_class_what_to_change_and_what_it_cost():
    words = page_of(*scenes.FAILED)
    assert words.startswith("FAILED")
    assert "at        evidence" in words
    assert "evidence-tcb-reported: found 22" in words
    assert "class     host" in words
    assert "change    open Trust" in words
    assert "cost      0.0000 cr" in words


def test_an_exhausted_job_says_what_is_kept_and_that_its_cap_is_its_name():
    words = page_of(*scenes.EXHAUSTED)
    assert words.startswith("EXHAUSTED")
    assert "step 1,150 is sealed" in words
    assert "this one's cap is part of its name" in words
    assert "cost      6.0000 cr" in words


def test_a_cancelled_job_says_what_is_kept_and_what_came_back():
    words = page_of(*scenes.CANCELLED)
    assert words.startswith("CANCELLED")
    assert "step 1,150 is sealed; the rest of the hold came back" in words


def test_a_receipt_that_does_not_hold_is_said_on_the_page():
    bad = dataclasses.replace(scenes.RECEIPT, holds=False, words="signed by no enclave of this log")
    assert "1 DO NOT HOLD: signed by no enclave" in page_of(*scenes.SUCCEEDED, bad)


def test_answers_belong_to_commands_that_were_posted_here():
    state = asking(told(HEAD), "c1")
    refused = Failure(as_of=NOW, where="c1", code="no-adapter", words="none yet", retry_in=None)
    assert told(refused, state=state).said == "not done: none yet (no-adapter)"
    written = Exported(as_of=NOW, command="c1", path="adapter", words="written")
    assert told(written, state=state).said == "written: adapter"
    assert told(dataclasses.replace(refused, where="c2"), state=state).said == ""
    unread = dataclasses.replace(refused, where="job")
    assert told(unread, state=state).failure is unread


def test_closing_says_in_one_sentence_what_stays_and_what_comes_back():
    words = job_words.close_sentence(told(*RUNNING))
    assert "step 1,150 stays sealed for you" in words
    assert "1.8421 cr are spent, and about 4.1579 cr come back" in words


def test_a_record_that_came_twice_is_one_and_a_different_one_at_its_step_is_not_lost():
    first = CURVE[0]
    other: Progress = dataclasses.replace(first, words="checkpoint", loss="")
    state = told(first, dataclasses.replace(first, as_of=NOW + 7), other)
    assert [each.words for each in state.records] == ["", "checkpoint"]


def test_a_record_told_again_with_more_or_less_about_its_speed_stays_one():
    first = CURVE[-1]
    bare = dataclasses.replace(
        first, tokens_per_second=None, milliseconds_left=None, as_of=first.as_of + 5
    )
    for order in ((first, bare), (bare, first)):
        state = told(*order)
        assert len(state.records) == 1
        assert state.progress.milliseconds_left == 3_720_000
        assert state.progress.tokens_per_second == 5210
    fresh = dataclasses.replace(first, milliseconds_left=60_000, as_of=first.as_of + 9)
    assert told(first, fresh).progress.milliseconds_left == 60_000


def test_the_verdict_on_its_enclave_stands_among_the_numbers_the_worse_of_two():
    other = dataclasses.replace(REFUSED, policy="77" * 32, verified_at=PASSED.verified_at)
    assert dict(job_words.numbers(told(HEAD, PASSED), NOW))["trust"] == "PASSED, 2 checks not made"
    for order in ((PASSED, other), (other, PASSED)):
        held = dict(job_words.numbers(told(HEAD, *order), NOW))
        assert held["trust"] == "REFUSED at measurement"


def test_a_newer_word_about_an_event_wins():
    newer: JobEvent = dataclasses.replace(EVENTS[2], words="corrected", as_of=NOW + 5)
    assert told(*EVENTS, newer, EVENTS[2]).events[2].words == "corrected"
