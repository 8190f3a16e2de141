"""What may leave: numbers within the terms, and records that are sealed to the buyer."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.egress import (
    PADDING_BYTES,
    PROGRESS_RECORDS_MAX,
    SCREEN_TEXT,
    TEXT_CHARACTERS_MAX,
    ProgressLog,
    Reports,
    check_terms,
    rounded,
    shown,
)
from tests.enclave_runtime.fakes import EVALUATION, RECIPE, World, evaluated
from trust.errors import HpkeError, RefusedError
from trust.identity import PartyKey
from trust.jobs import OutputTerms, RecipeTerms, Screen
from trust.messages import ProgressEvent, SealedProgress
from trust.sealing import HpkePrivateKey


def reports(*, job: dict | None = None, recipe=RECIPE, **terms) -> Reports:
    world = World(recipe=recipe, terms_changes=terms, job_changes=job)
    return Reports(world.job.document, world.terms.document)


MANY_ROWS = {"rows": 1000}


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "steps", "leaves"),
    [(100, 16, True), (100, 15, False), (16, 16, True), (15, 16, False), (15, 18, True)],
)
def test_a_mean_leaves_over_enough_tokens_of_enough_rows(
    tokens: int, steps: int, leaves: bool
) -> None:
    """256 tokens and 64 rows; a step here has 4 rows."""
    found = reports(job=MANY_ROWS)
    for _step in range(steps):
        found.stepped(2.0, tokens, 4)
    measures = found.take_loss(None)
    assert bool(measures) is leaves
    if leaves:
        assert measures[0].over_tokens == tokens * steps
        assert measures[0].over_rows == 4 * steps


def test_a_small_window_grows_until_it_may_leave() -> None:
    found = reports(job=MANY_ROWS)
    for _step in range(10):
        found.stepped(1.0, 30, 4)
    assert found.take_loss(None) == ()
    for _step in range(10):
        found.stepped(3.0, 30, 4)
    (measure,) = found.take_loss(None)
    assert (measure.value, measure.over_tokens, measure.over_rows) == ("2.00", 600, 80)
    assert found.take_loss(None) == ()  # it is empty again


def test_a_row_counts_once_in_a_mean() -> None:
    """Twenty rows, repeated for ever, are twenty rows."""
    found = reports(job={"rows": 20})
    for _step in range(1000):
        found.stepped(2.0, 100, 4)
    assert found.take_loss(None) == ()


def test_the_mean_is_weighted_by_tokens_and_rounded_to_a_hundredth() -> None:
    found = reports(job=MANY_ROWS, report_rows_min=1, report_tokens_min=1)
    found.stepped(1.0, 1, 4)
    found.stepped(2.0, 2, 4)
    (measure,) = found.take_loss(None)
    assert measure.value == "1.67"


@given(value=st.floats(min_value=0, max_value=1e9))
def test_no_more_than_two_decimals_leave(value: float) -> None:
    text = rounded(value)
    assert len(text.partition(".")[2]) == 2
    assert abs(float(text) - value) <= 0.0051


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5, 1e10])
def test_what_is_no_number_in_range_does_not_leave(value: float) -> None:
    assert rounded(value) is None
    found = reports(job=MANY_ROWS, report_rows_min=1, report_tokens_min=1)
    found.stepped(value, 1, 4)
    assert found.take_loss(None) == ()
    assert found.used == 0


def test_a_report_above_the_terms_number_is_refused_and_the_run_goes_on() -> None:
    found = reports(job=MANY_ROWS, reports_max=2, report_rows_min=1, report_tokens_min=1)
    for _step in range(2):
        found.stepped(1.0, 1, 4)
        assert found.take_loss(None)
    for _step in range(3):
        found.stepped(1.0, 1, 4)
        assert found.take_loss(None) == ()
    assert (found.used, found.refused) == (2, 3)


def test_report_2001_of_the_default_terms_does_not_leave() -> None:
    found = reports(job=MANY_ROWS, report_rows_min=1, report_tokens_min=1)
    left = 0
    for _step in range(2001):
        found.stepped(1.0, 1, 4)
        left += len(found.take_loss(None))
    assert left == 2000


def test_the_custodians_allowance_bounds_reports_too() -> None:
    found = reports(job=MANY_ROWS, report_rows_min=1, report_tokens_min=1)
    found.stepped(1.0, 1, 4)
    assert found.take_loss(0) == ()
    found.stepped(1.0, 1, 4)
    assert found.take_loss(1)


def test_scores_count_as_reports() -> None:
    recipe = dataclasses.replace(RECIPE, evaluation=EVALUATION)
    found = reports(recipe=recipe, reports_max=4)
    first = found.take_evaluation(evaluated("base"), None)
    assert [m.measure for m in first] == ["loss_base", "exact_whole_base", "exact_header_base"]
    assert [m.value for m in first] == ["3.14", "0.10", "0.50"]
    second = found.take_evaluation(evaluated("tuned"), None)
    assert [m.measure for m in second] == ["loss_tuned"]
    assert (found.used, found.refused) == (4, 2)


@pytest.mark.parametrize("changes", [{"rows": 63}, {"tokens": 255}])
def test_an_evaluation_over_too_little_does_not_leave(changes: dict) -> None:
    recipe = dataclasses.replace(RECIPE, evaluation=EVALUATION)
    small = dataclasses.replace(evaluated("base"), **changes)
    assert reports(recipe=recipe).take_evaluation(small, None) == ()


def test_no_scores_where_no_replies_are_asked_for() -> None:
    evaluation = dataclasses.replace(EVALUATION, reply_tokens_max=0)
    found = reports(recipe=dataclasses.replace(RECIPE, evaluation=evaluation))
    assert [m.measure for m in found.take_evaluation(evaluated("base"), None)] == ["loss_base"]


@given(tokens=st.lists(st.integers(0, 500), min_size=12, max_size=12))
def test_when_records_are_sent_does_not_depend_on_the_rows(tokens: list[int]) -> None:
    found, plain = reports(report_rows_min=8), reports(report_rows_min=8)
    for step, each in enumerate(tokens, start=1):
        found.stepped(1.0, each, 4)
        assert found.is_due(step) == plain.is_due(step)
        assert plain.is_due(step) == (step % 2 == 0)
        if found.is_due(step):
            found.take_loss(None)


def test_records_about_steps_are_bounded() -> None:
    recipe = dataclasses.replace(RECIPE, steps=10_000)
    found = reports(recipe=recipe, report_rows_min=1, job=MANY_ROWS)
    assert sum(found.is_due(step) for step in range(1, 10_001)) <= PROGRESS_RECORDS_MAX


def test_the_last_step_is_told() -> None:
    assert reports(report_rows_min=20).is_due(12)


# --- terms ---------------------------------------------------------------------------------------


def check(*, recipe=RECIPE, **terms) -> None:
    world = World(recipe=recipe, terms_changes=terms)
    check_terms(world.job.document, world.terms.document)


def test_a_job_within_its_terms_passes() -> None:
    check()


def test_terms_that_name_a_screen_are_refused_with_that_message() -> None:
    with pytest.raises(RefusedError) as refused:
        check(screen=Screen(guard=bytes(32), policy_text=bytes(32)))
    assert refused.value.code == "screen"
    assert refused.value.text == SCREEN_TEXT
    assert SCREEN_TEXT == "terms that name a screen are refused until screening exists"


@pytest.mark.parametrize(
    ("code", "terms", "recipe"),
    [
        ("recipe", {"recipes": (RecipeTerms(recipe="evaluate", rank_max=0, steps_max=0),)}, {}),
        ("rank", {"recipes": (RecipeTerms(recipe="lora", rank_max=3, steps_max=99),)}, {}),
        ("steps", {"recipes": (RecipeTerms(recipe="lora", rank_max=8, steps_max=11),)}, {}),
        (
            "reply",
            {"output": OutputTerms(adapter_leaves=False, reply_tokens_max=3)},
            {"evaluation": EVALUATION},
        ),
    ],
)
def test_a_job_beyond_its_terms_is_refused(code: str, terms: dict, recipe: dict) -> None:
    with pytest.raises(RefusedError) as refused:
        check(recipe=dataclasses.replace(RECIPE, **recipe), **terms)
    assert refused.value.code == code


# --- records -------------------------------------------------------------------------------------


def log_of(world: World, key: PartyKey) -> ProgressLog:
    return ProgressLog(job=world.job.document, generation=1, rank=0, signing_key=key)


def record(log: ProgressLog, **fields) -> bytes:
    return log.record(ProgressEvent.STEP, step=1, tokens=64, milliseconds=5, **fields)


def test_a_record_opens_for_the_buyer_and_is_signed_by_the_attested_key_inside() -> None:
    world, key = World(), PartyKey.generate()
    log = log_of(world, key)
    first, second = (world.open_progress(record(log)) for _each in range(2))
    assert first.signer == second.signer == key.identity
    assert (first.document.number, second.document.number) == (1, 2)
    assert first.document.job == world.job.digest


def test_a_record_opens_for_nobody_else_and_for_no_other_job() -> None:
    world = World()
    sealed = SealedProgress.parse(record(log_of(world, PartyKey.generate()))).sealed
    from trust.encoding import label_bytes

    info = label_bytes("progress") + world.job.digest
    with pytest.raises(HpkeError):
        HpkePrivateKey.generate().open(sealed, info=info)
    with pytest.raises(HpkeError):
        world.progress_key.open(sealed, info=label_bytes("progress") + bytes(32))


@given(text=st.text(max_size=300))
def test_a_records_length_is_a_multiple_of_the_padding(text: str) -> None:
    world = World()
    sealed = SealedProgress.parse(record(log_of(world, PartyKey.generate()), text=text)).sealed
    assert (len(sealed) - 1136) % PADDING_BYTES == 0


def test_two_line_numbers_make_records_of_one_length() -> None:
    world = World()
    log = log_of(world, PartyKey.generate())
    lengths = {
        len(SealedProgress.parse(record(log, text=f"dataset: line {n}: broken")).sealed)
        for n in (3, 731)
    }
    assert len(lengths) == 1


@given(text=st.text(max_size=5000))
def test_texts_are_short_and_printable(text: str) -> None:
    found = shown(text)
    assert len(found) <= TEXT_CHARACTERS_MAX
    assert found.isascii()
    assert all(" " <= c <= "~" for c in found)


def test_a_long_text_is_visibly_cut() -> None:
    assert shown("x" * 1000).endswith("...")
