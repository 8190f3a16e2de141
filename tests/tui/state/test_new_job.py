"""New job's state: any facts in any order; a quote for its draft alone; one id for one signing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import BALANCE, NOW
from tests.tui.scenes.new_job import DRAFT, FIELDS, KEPT, PATH, checked, quote, result, sealing
from tests.tui.scenes.offers import offer
from tests.tui.scenes.start import BARRED, HOME
from tests.tui.state.any_facts import built, facts
from trust.encoding import EncodingError
from trust.jobs import LoraRecipe
from tui.facts import DatasetCheck, Failure, SealProgress, Submitted
from tui.state import job_fields, new_job
from tui.state import new_job_words as words
from tui.state.job_fields import FIELDS as ALL_FIELDS
from tui.state.job_fields import MONEY, RECIPE, fault_of, microcredits
from tui.state.new_job import State, Step


def told(*said, state: State | None = None) -> State:
    state = state or State()
    for each in said:
        state = new_job.apply(state, each, NOW)
    return state


def whole(step: str = "sign") -> State:
    return new_job.begun(kept=KEPT, offer=None, step=step)


def ready() -> State:
    """A page that can be signed."""
    return dataclasses.replace(told(quote(), state=whole()), read=quote().manifest)


OURS = st.one_of(
    facts(),
    built(DatasetCheck).map(lambda each: dataclasses.replace(each, path=PATH)),
    built(SealProgress).map(lambda each: dataclasses.replace(each, path=PATH)),
    st.sampled_from([quote(), checked(), sealing("done", 1), result("c9")]),
    st.sampled_from(["c1", "c2", "c3", "c9"]).map(
        lambda name: Failure(as_of=NOW, where=name, code="x", words="x", retry_in=None)
    ),
)


@given(st.lists(OURS, max_size=30), st.booleans())
def test_any_facts_in_any_order_are_taken_and_ends_stay(said, online):
    state = dataclasses.replace(whole(), path=PATH, submit_id="c9", submit_draft=DRAFT)
    state = new_job.asked_check(state, "c1", NOW)
    state = new_job.asked_seal(state, "c2", NOW)
    state = new_job.asked_quote(state, "c3", NOW)
    accepted = sealed = False
    for each in said:
        state = new_job.apply(state, each, NOW)
        accepted, sealed = accepted or state.accepted, sealed or not state.is_sealing
        assert state.accepted == accepted
        assert all(isinstance(line, str) for line in words.plain(state, HOME, NOW, online=online))
        words.file_lines(state, NOW)
    if state.quote is not None:
        assert state.quote.draft == DRAFT


def test_a_quote_counts_for_the_draft_that_it_was_made_for_and_no_other():
    state = told(quote(), state=whole())
    assert state.current_quote == quote()
    dearer = new_job.with_field(state, "rank", "64")
    assert dearer.current_quote is None
    assert told(quote(), state=dearer).current_quote is None
    late = quote(dearer.draft)
    assert told(late, state=state).current_quote == quote()  # a late one takes no good one's place
    assert new_job.with_field(dearer, "rank", "16").current_quote == quote()


def test_a_quote_that_was_asked_for_another_draft_does_not_keep_this_one_waiting():
    state = new_job.asked_quote(whole(), "c1", NOW)
    assert not new_job.wants_quote(state, HOME, online=True)
    assert new_job.wants_quote(new_job.with_field(state, "rank", "64"), HOME, online=True)
    assert not new_job.wants_quote(whole(), HOME, online=False)
    barred = dataclasses.replace(whole(), model=BARRED.id)
    assert not new_job.wants_quote(barred, HOME, online=True)


@pytest.mark.parametrize(
    ("state", "now", "online", "why"),
    [
        (ready(), NOW, True, ""),
        (ready(), NOW, False, "does not answer"),
        (ready(), NOW + 41_000, True, "the quote is over"),
        (dataclasses.replace(ready(), read="{}"), NOW, True, "tick that you have read"),
        (dataclasses.replace(ready(), read=""), NOW, True, "tick that you have read"),
        (told(quote(refused="no money"), state=whole()), NOW, True, "no money"),
        (whole(), NOW, True, "no quote for this draft"),
        (State(), NOW, True, "not whole"),
        (new_job.with_field(ready(), "rank", "17"), NOW, True, "no quote for this draft"),
        (new_job.signed(ready(), "c1", NOW), NOW, True, "on its way"),
        (
            told(result("c1"), state=new_job.signed(ready(), "c1", NOW)),
            NOW,
            True,
            "submitted already",
        ),
    ],
)
def test_a_page_is_signed_only_as_it_was_read_and_while_its_quote_is_good(state, now, online, why):
    found = new_job.cannot_sign(state, now, online=online)
    assert (why in found) if why else not found


def test_the_same_draft_is_signed_under_one_id_and_another_under_another():
    state = new_job.signed(ready(), "c1", NOW)
    again = new_job.signed(state, "c2", NOW)
    assert again.submit_id == "c1"
    other = new_job.signed(new_job.with_field(state, "rank", "64"), "c3", NOW)
    assert other.submit_id == "c3"
    kept = new_job.kept_of(state)
    assert kept.submit == "c1"
    assert new_job.begun(kept=kept, offer=None, step="").signed_before
    assert new_job.kept_of(new_job.with_field(state, "rank", "64")).submit == ""


def test_an_answer_to_another_signing_is_not_this_ones():
    state = new_job.signed(ready(), "c1", NOW)
    assert told(result("c2"), state=state).result is None
    refused = told(result("c1", Submitted.REFUSED), state=state)
    assert words.sign_lines(refused, NOW, online=True)[0].text == (
        "REFUSED at terms: rank 16 is over the owner's 8"
    )
    accepted = told(result("c1"), result("c1", Submitted.REFUSED), state=state)
    assert accepted.accepted


def test_a_file_that_is_sealed_becomes_the_dataset_and_one_of_another_path_does_not():
    state = new_job.asked_seal(new_job.with_path(whole(), PATH), "c1", NOW)
    assert state.is_sealing
    other = dataclasses.replace(sealing("done", 1), path="/other")
    assert told(other, state=state).data == KEPT.data
    done = told(sealing("sealing", 5), sealing("done", 1), sealing("sealing", 9), state=state)
    assert done.data == "8d" * 32
    assert not done.is_sealing
    stopped = new_job.stopped_seal(state)
    assert told(sealing("done", 1), state=stopped).data == KEPT.data  # it was stopped


def test_faults_of_a_file_are_lines_and_the_rest_is_counted():
    state = told(checked(faults=300), state=new_job.with_path(State(), PATH))
    lines = [each.text for each in words.file_lines(state, NOW)]
    assert lines[0] == "✗ FAILED: 300 lines can't be used"
    assert lines[1] == "  line 8,112: no 'messages'"
    assert "  and 292 more" in lines
    going = told(checked(done=False), state=new_job.with_path(State(), PATH))
    assert " 62 %" in words.file_lines(going, NOW)[0].text


def test_the_first_fault_is_the_first_on_the_way():
    assert new_job.first_fault(State(), HOME, upto=Step.MONEY) == (Step.MODEL, "models")
    state = new_job.with_field(whole(), "alpha", "0")
    assert new_job.first_fault(state, HOME, upto=Step.MONEY) == (Step.RECIPE, "alpha")
    assert new_job.first_fault(whole(), HOME, upto=Step.MONEY) is None
    gone = dataclasses.replace(HOME, models=())
    assert new_job.first_fault(whole(), gone, upto=Step.MONEY) == (Step.MODEL, "models")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("rank", ("1", "256"), ("0", "257", "", "1.5", "-1", "１６", "1e2")),
        (
            "learning_rate",
            ("0.0002", "0.999"),
            ("0", "0.0", "1.0", ".5", "2e-4", "0.1234567890123"),
        ),
        ("precision", ("bf16", "fp32"), ("fp16", "", "BF16")),
        ("spend_max", ("6", "0.000001", "6.5"), ("0", "0.0", "-6", "6.0000001", "1000001", "6,5")),
        ("name", ("a", "support-tone-v3"), ("", "-a", "a b", "x" * 65, "\x1b]52;c;x\x07")),
        ("image", ("", "ab" * 32, "ab" * 48), ("abc", "AB" * 32, "ab" * 65)),
        ("seed", ("0", "4294967295"), ("4294967296", "")),
    ],
)
def test_a_field_takes_what_is_in_its_range_and_says_what_it_wanted_and_got(name, good, bad):
    for text in good:
        assert fault_of(ALL_FIELDS[name], text) == ""
    for text in bad:
        words_ = fault_of(ALL_FIELDS[name], text)
        assert words_.startswith("wanted ")
        assert words_.endswith(f"got {text or 'nothing'}")


def test_a_checkpoint_after_the_last_step_is_a_fault():
    faults = job_fields.faults_of({**FIELDS, "steps": "10"}, names=RECIPE)
    assert faults == {"checkpoint_steps": "wanted at most the 10 steps of the run; got 50"}


@given(st.integers(1, 10**12))
def test_amounts_are_read_exactly(amount):
    assert microcredits(job_fields.credits_text(amount)) == amount


def test_ranges_are_those_of_the_manifest():
    for name in ("rank", "alpha"):
        field = ALL_FIELDS[name]
        for value, holds in ((field.least, True), (field.most, True), (field.most + 1, False)):
            assert _recipe_takes(name, value) == holds
        assert _recipe_takes(name, 16)


def _recipe_takes(name: str, value: int) -> bool:
    whole_recipe = {
        "rank": 16, "alpha": 32, "dropout": "0", "targets": ["all-linear"], "epochs": None,
        "steps": 10, "rows_per_step": 8, "accumulation": 1, "learning_rate": "0.0002",
        "schedule": "constant", "warmup_steps": 0, "weight_decay": "0", "clip_norm": "1",
        "seed": 7, "precision": "bf16", "packing": False, "loss_on": "assistant",
        "evaluation": None, "name": "lora",
    }  # fmt: skip
    try:
        LoraRecipe.from_json({**whole_recipe, name: value}, where="recipe")
    except EncodingError as error:
        return name not in str(error)
    return True


def test_an_offer_brings_its_price_and_a_draft_that_was_kept_its_own():
    fresh = new_job.begun(kept=None, offer=offer(0), step="")
    assert (fresh.offer, fresh.fields["price_max"]) == (offer(0).id, "0.939")
    assert new_job.begun(kept=KEPT, offer=offer(0), step="").fields["price_max"] == "2.00"
    assert {each.name for each in (*RECIPE, *MONEY)} == set(ALL_FIELDS)


def test_a_cap_over_what_is_free_is_said_beside_it():
    state = new_job.with_field(whole(), "spend_max", "41.200001")
    assert words.free_lines(state, BALANCE)[0].text == (
        "free 41.2000 cr: less than the cap, so it can't be held now"
    )
    enough = new_job.with_field(whole(), "spend_max", "41.2")
    assert words.free_lines(enough, BALANCE)[0].text == "free 41.2000 cr"
    assert "not known" in words.free_lines(state, None)[0].text


def test_a_name_for_a_dataset_is_made_of_what_a_name_may_hold():
    assert new_job.default_name("/home/ana/my rows\u202e.v2.jsonl") == "my-rows-.v2"
    assert new_job.default_name("C:\\x\\ü.jsonl") == "-" or new_job.default_name("ü") == "dataset"
