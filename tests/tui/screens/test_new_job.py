"""New job, by keys and by mouse: five steps, a file with faults, a page that is signed once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest

from tests.tui.rig import BALANCE, NOW, OFFLINE, ONLINE, SIZES, Rig, window
from tests.tui.scenes.new_job import DRAFT, KEPT, PATH, SCENES, checked, quote, result, sealing
from tests.tui.scenes.offers import offer
from tests.tui.scenes.start import DATA, HELDOUT, HOME, MODEL
from tui.commands import CheckDataset, SealDataset, StopSealing, Submit, WantQuote
from tui.drafts import DraftFile, KeptDraft
from tui.facts import Submitted
from tui.screens.new_job import NewJobScreen
from tui.widgets.confirm import Confirm

FACTS = (ONLINE, BALANCE, HOME)


@contextlib.asynccontextmanager
async def opened(
    tmp_path, *, kept: KeptDraft | None = None, step: str = "", size=(100, 30), brought=None
) -> AsyncIterator[Rig]:
    """The screen at a step, over Start, with a draft on disk."""
    drafts = DraftFile(tmp_path / "draft.json")
    if kept is not None:
        drafts.save(kept)
    async with window(facts=FACTS, link=("start",), size=size) as rig:
        rig.app.drafts = drafts
        await rig.until_words("Rent a GPU")
        rig.app.push_screen(NewJobScreen(step=step, offer=brought))
        await rig.until(lambda: isinstance(rig.app.screen, NewJobScreen))
        await rig.until(lambda: rig.app.focused is not None)
        yield rig


async def test_model_and_data_are_taken_by_enter_and_what_may_not_be_tuned_says_why(tmp_path):
    async with opened(tmp_path) as rig:
        await rig.until_words("qwen3-8b", "NOT TUNABLE: its terms name no recipe")
        await rig.press("end", "enter")
        assert rig.app.screen.state.model == ""
        await rig.press("home", "enter")
        await rig.until_words("a JSONL file", "support-heldout")
        await rig.press("down", "h", "up", "enter")
        state = rig.app.screen.state
        assert (state.model, state.data, state.heldout) == (MODEL.id, DATA.id, HELDOUT.id)
        await rig.until_words("learning rate")
        kept = DraftFile(tmp_path / "draft.json").load()
        assert (kept.model, kept.data, kept.heldout) == (MODEL.id, DATA.id, HELDOUT.id)


async def test_a_file_is_checked_before_it_is_sealed_and_sealing_can_be_stopped(tmp_path):
    async with opened(tmp_path, step="data") as rig:
        rig.app.screen.query_one("#path").focus()
        rig.app.screen.query_one("#path").value = PATH
        await rig.press("enter")
        (check,) = rig.hub.of(CheckDataset)
        assert check.path == PATH
        await rig.tell(checked(faults=3))
        await rig.until_words("FAILED: 3 lines", "line 8,112: no 'messages'")
        await rig.pilot.click("#seal")
        assert not rig.hub.of(SealDataset)  # not while lines are wrong
        await rig.press("enter")
        await rig.tell(dataclasses.replace(checked(), as_of=NOW + 1))
        await rig.until_words("✓ 12,400 rows · 8.1 MB")
        await rig.pilot.click("#seal")
        (seal,) = rig.hub.of(SealDataset)
        assert (seal.path, seal.name) == (PATH, "support")
        await rig.tell(sealing("sealing", 5_100_000))
        await rig.until_words("sealing", " 62 %", "5.1 MB of 8.1 MB", "1.2 GB/s")
        await rig.press("escape")
        assert [each.path for each in rig.hub.of(StopSealing)] == [PATH]
        await rig.tell(sealing("done", 8_100_000))
        assert rig.app.screen.state.data == ""


async def test_quitting_while_a_file_is_sealed_asks_first(tmp_path):
    async with opened(tmp_path, step="data") as rig:
        rig.app.screen.query_one("#path").value = PATH
        await rig.pilot.pause()
        await rig.tell(checked())
        await rig.until_words("✓ 12,400 rows")
        await rig.pilot.click("#seal")
        rig.app.screen.set_focus(None)
        await rig.press("q")
        await rig.until_words("Leave: sealing stops, and nothing of it has left.")
        await rig.press("escape")
        assert rig.app.is_running
        assert not rig.hub.of(StopSealing)


async def test_a_wrong_field_says_wanted_and_got_and_next_goes_to_it(tmp_path):
    wrong = dataclasses.replace(KEPT, fields={**KEPT.fields, "spend_max": ""})
    async with opened(tmp_path, kept=wrong, step="recipe") as rig:
        alpha = rig.app.screen.query_one("#field-alpha Input")
        alpha.value = "9999"
        await rig.until_words("wanted a whole number from 1 to 1,024; got 9999")
        await rig.press("ctrl+s")
        await rig.until(lambda: rig.app.focused is alpha)
        alpha.value = "32"
        await rig.press("ctrl+s")
        await rig.until_words("never more than")
        assert "wanted credits" not in rig.words
        await rig.press("ctrl+s")
        await rig.until_words("wanted credits above 0", "got nothing")
        assert rig.app.focused.name == "spend_max"
        assert not rig.hub.of(WantQuote)


async def test_the_estimate_follows_the_typing_and_is_never_that_of_another_draft(tmp_path):
    async with opened(tmp_path, kept=KEPT, step="money", brought=offer(2)) as rig:
        await rig.until(lambda: len(rig.hub.of(WantQuote)) == 1)
        (asked,) = rig.hub.of(WantQuote)
        assert (asked.draft, asked.offer) == (DRAFT, offer(2).id)
        await rig.until_words("asking for a quote")
        await rig.tell(quote())
        await rig.until_words(
            "never more than 6.0000 cr, by construction", "about 3.7200 to 4.1000"
        )
        rig.app.screen.query_one("#field-spend_max Input").value = "7"
        await rig.until(lambda: len(rig.hub.of(WantQuote)) == 2)
        assert "by construction" not in rig.words.replace("cr, by construction: so much", "")
        await rig.tell(quote())  # late, and of the draft before
        assert "3.7200" not in rig.words
        await rig.tell(quote(rig.hub.of(WantQuote)[-1].draft))
        await rig.until_words("never more than 7.0000 cr, by construction")


async def sign_page(rig: Rig) -> None:
    await rig.until(lambda: bool(rig.hub.of(WantQuote)))
    await rig.tell(quote())
    await rig.until_words("You tune qwen3-8b", "quote good for 0:41")


async def test_a_page_is_read_signed_and_confirmed_and_then_the_draft_is_gone(tmp_path):
    async with opened(tmp_path, kept=KEPT, step="sign") as rig:
        await sign_page(rig)
        await rig.press("ctrl+s")
        assert isinstance(rig.app.screen, NewJobScreen)  # it was not read
        await rig.until_words("not yet: tick that you have read the page")
        await rig.press("x")
        await rig.until_words('"kind": "train"')
        await rig.press("escape", "enter")
        await rig.until_words("[✓] I have read this page")
        await rig.press("tab", "enter")
        await rig.until_words("Sign and submit support-tone-v3: 6.0000 cr is held now")
        await rig.press("enter")  # No
        assert not rig.hub.of(Submit)
        await rig.press("enter", "right", "enter")
        (submit,) = rig.hub.of(Submit)
        assert submit.draft == DRAFT
        drafts = DraftFile(tmp_path / "draft.json")
        assert drafts.load().submit == submit.id  # kept before the answer
        await rig.until_words("signed and on its way")
        await rig.press("ctrl+s")
        assert len(rig.hub.of(Submit)) == 1
        await rig.tell(result(submit.id))
        await rig.until_words("✓ ACCEPTED: b0b0")
        assert drafts.load() is None
        await rig.press("y")
        assert rig.app.clipboard == "b0" * 32


async def test_by_mouse_alone_and_a_refusal_names_its_check(tmp_path):
    async with opened(tmp_path, kept=KEPT, step="sign") as rig:
        await sign_page(rig)
        await rig.pilot.click("#read")
        await rig.pilot.click("#sign")
        await rig.until(lambda: isinstance(rig.app.screen, Confirm))
        await rig.pilot.click("#yes")
        (submit,) = rig.hub.of(Submit)
        await rig.tell(result(submit.id, Submitted.REFUSED))
        await rig.until_words("REFUSED at terms: rank 16 is over the owner's 8", "nothing is held")
        await rig.pilot.click("StepBar", offset=(14, 0))
        await rig.until_words("a JSONL file")


async def test_what_changed_after_it_was_read_is_not_signed(tmp_path):
    async with opened(tmp_path, kept=KEPT, step="sign") as rig:
        await sign_page(rig)
        await rig.press("enter", "tab", "enter")
        await rig.until(lambda: isinstance(rig.app.screen, Confirm))
        changed = dataclasses.replace(quote(), manifest='{"rank": 256}', as_of=NOW + 1)
        await rig.tell(changed)
        await rig.press("right", "enter")
        assert not rig.hub.of(Submit)
        await rig.until_words("[ ] I have read this page")


async def test_a_draft_comes_back_and_one_that_was_signed_before_says_so(tmp_path):
    async with opened(tmp_path, kept=dataclasses.replace(KEPT, submit="c7"), step="sign") as rig:
        await rig.until_words("signed before, no answer came: signed again it is the same job")
        await rig.press("escape")
        await rig.until_words("support-tone-v3")
        await rig.press("escape", "escape")
        rig.app.screen.query_one("#field-rank Input").value = "64"
        await rig.until_words("draft saved just now")
    kept = DraftFile(tmp_path / "draft.json").load()
    assert kept.fields["rank"] == "64"
    assert kept.submit == ""


async def test_a_draft_that_cant_be_kept_is_not_lost_in_silence(tmp_path):
    (tmp_path / "blocked").write_text("")
    async with opened(tmp_path) as rig:
        rig.app.drafts = DraftFile(tmp_path / "blocked" / "draft.json")
        await rig.until_words("qwen3-8b")
        await rig.press("home", "enter")
        await rig.until_words("draft NOT SAVED")
        await rig.press("q")
        await rig.until_words("Leave: this draft is lost.")
        await rig.press("escape")
        assert rig.app.is_running


@pytest.mark.parametrize(
    ("state", "size"),
    [
        *(("normal", size) for size in (SIZES[0], (59, 24))),
        *((state, SIZES[0]) for state in SCENES if state != "normal"),
    ],
)
async def test_each_size_and_state_says_what_matters(state, size):
    link, facts = SCENES[state]
    wanted = {
        "normal": "qwen3-8b",
        "empty": "No sealed model is known in this home.",
        "loading": "reading this home",
        "error": "qwen3-8b",
        "offline": "qwen3-8b",
    }[state]
    async with window(facts=facts, link=link, size=size) as rig:
        await rig.until(lambda: isinstance(rig.app.screen, NewJobScreen))
        await rig.until_words("New job, step model" if size == (59, 24) else wanted)
        said = "\n".join(rig.app.screen.plain())
        assert "model, models: no model is chosen" in said
        assert ("OFFLINE" in rig.words) == (state == "offline")
    assert OFFLINE.link.value in "offline"
