"""Each task of a buyer, once with keys alone and once with the mouse alone.

The mouse clicks on words where they are drawn; text is pasted into a field after a click on it.
"""

from __future__ import annotations

import pytest

from tests.tui.acting import LOOSE, TIGHT, Hands, hands
from tests.tui.rig import ONLINE
from tests.tui.scenes.chat import TUNED
from tests.tui.scenes.jobs import JOB, WAITS
from tests.tui.scenes.keys import CONSENT
from tests.tui.scenes.new_job import PATH
from tests.tui.scenes.offers import offer
from tests.tui.scenes.start import MODEL, NO_KEYS
from tui.commands import (
    Answer,
    Ask,
    CheckDataset,
    CloseJob,
    MakeKeys,
    SealDataset,
    StatementForm,
    Submit,
    WriteStatement,
)
from tui.screens.chat import ChatScreen
from tui.screens.help import HelpScreen
from tui.screens.job import JobScreen
from tui.screens.jobs import JobsScreen
from tui.screens.keys import KeysScreen
from tui.screens.money import MoneyScreen, Paper, StatementPanel
from tui.screens.new_job import NewJobScreen
from tui.screens.offers import OffersScreen
from tui.screens.start import StartScreen
from tui.screens.trust import TrustScreen
from tui.widgets.confirm import Confirm
from tui.widgets.passphrase_panel import MakeKeysPanel
from tui.widgets.reading import Reading

OWN_FIRST = (("n", "New job"), ("t", "Trust"), ("⏎", "Open"))
"""Help shows what this screen does before what a table does."""
URL, IDENTITY, PASSPHRASE = "https://market.example", "7c" * 32, "a-long-passphrase"


# --- from nothing to the first job ----------------------------------------------------------------


def first_job_was_made(rig: Hands) -> None:
    (made,) = rig.hub.of(MakeKeys)
    assert (made.market_url, made.market_identity) == (URL, IDENTITY)
    assert made.passphrase == PASSPHRASE
    assert [each.path for each in rig.hub.of(CheckDataset)] == [PATH]
    assert [each.path for each in rig.hub.of(SealDataset)] == [PATH]
    (submit,) = rig.hub.of(Submit)
    assert (submit.draft.name, submit.draft.model) == ("tone", MODEL.id)
    assert (submit.draft.data, submit.draft.spend_max) == ("8d" * 32, 6_000_000)


@pytest.mark.slow
async def test_the_first_job_from_nothing_by_keys():
    async with hands(facts=(NO_KEYS,), link=("start",)) as rig:
        await rig.until_words("none in this home yet")
        await rig.press("enter")
        await rig.to(MakeKeysPanel)
        for text in (URL, IDENTITY, PASSPHRASE, PASSPHRASE):
            await rig.paste(text)
            await rig.press("enter")
        await rig.until_words("✓ 1 Keys", "✓ 2 Market")
        await rig.press("n")
        await rig.to(NewJobScreen)
        await rig.until_words("qwen3-8b")
        await rig.press("home", "enter")
        await rig.until_words("a JSONL file")
        await rig.paste(PATH)
        await rig.press("enter")
        await rig.until_words("✓ 12,400 rows")
        await rig.press("tab", "enter")
        await rig.until(lambda: rig.app.screen.state.data == "8d" * 32)
        await rig.press("ctrl+s")
        await rig.until_words("learning rate")
        await rig.press("ctrl+s")
        await rig.until_words("price at most")
        for text in ("tone", "6", "2"):
            await rig.paste(text)
            await rig.press("enter")
        await rig.until_words("by construction")
        await rig.press("ctrl+s")
        await rig.until_words("You tune qwen3-8b")
        await rig.press("enter")
        await rig.until_words("[✓] I have read this page")
        await rig.press("ctrl+s")
        await rig.to(Confirm)
        await rig.press("right", "enter")
        await rig.until_words("✓ ACCEPTED: b0b0")
        await rig.press("enter")
        await rig.to(JobScreen)
        await rig.until_words("support-tone-v3")
        first_job_was_made(rig)


@pytest.mark.slow
async def test_the_first_job_from_nothing_by_mouse():
    async with hands(facts=(NO_KEYS,), link=("start",)) as rig:
        await rig.click("none in this home yet")
        await rig.to(MakeKeysPanel)
        await rig.pilot.click("#url")
        await rig.paste(URL)
        await rig.pilot.click("#identity")
        await rig.paste(IDENTITY)
        for _ in range(2):
            await rig.pilot.click("#passphrase")
            await rig.paste(PASSPHRASE)
            await rig.tap("⏎", "Go on")
        await rig.click("✓ 4 Model")
        await rig.to(NewJobScreen)
        await rig.click("qwen3-8b")
        await rig.until_words("a JSONL file")
        await rig.pilot.click("#path")
        await rig.paste(PATH)
        await rig.tap("⏎", "Go on")
        await rig.until_words("✓ 12,400 rows")
        await rig.click("Seal it")
        await rig.until(lambda: rig.app.screen.state.data == "8d" * 32)
        await rig.click("4 Money")
        for name, text in (("name", "tone"), ("spend_max", "6"), ("price_max", "2")):
            await rig.pilot.click(f"#field-{name} Input")
            await rig.paste(text)
        await rig.until_words("by construction")
        await rig.tap("^s", "Next")
        await rig.click("[ ] I have read")
        await rig.until_words("[✓] I have read this page")
        await rig.click("Sign and submit")
        await rig.to(Confirm)
        await rig.pilot.click("#yes")
        await rig.until_words("✓ ACCEPTED: b0b0")
        await rig.click("Open the job")
        await rig.to(JobScreen)
        await rig.until_words("support-tone-v3")
        first_job_was_made(rig)


# --- why no offer ---------------------------------------------------------------------------------


async def test_why_no_offer_and_the_nearest_miss_taken_by_keys():
    async with hands() as rig:
        await rig.press("2")
        await rig.to(OffersScreen)
        await rig.until_words("361 of 20,000 fit")
        await rig.press("slash")
        await rig.paste(TIGHT)
        await rig.until_words("0.939 cr/h", "price<=0.94")
        await rig.press("enter", "w")
        await rig.until_words("7,865")
        await rig.press("end", "enter")
        await rig.until_words(LOOSE, "1 of 20,000 fit")
        await rig.until(lambda: rig.app.screen.offer == offer(0))


async def test_why_no_offer_and_the_nearest_miss_taken_by_mouse():
    async with hands() as rig:
        await rig.click("2 Offers")
        await rig.to(OffersScreen)
        await rig.until_words("361 of 20,000 fit")
        await rig.pilot.click("#query")
        await rig.paste(TIGHT)
        await rig.until_words("0.939 cr/h")
        await rig.click("price<=0.94")
        await rig.until_words(LOOSE, "1 of 20,000 fit")
        await rig.click("0.9390")
        await rig.tap("w", "Why")
        await rig.tap("⏎", "Quote")
        await rig.to(NewJobScreen)


# --- what was not checked -------------------------------------------------------------------------


async def test_what_was_not_checked_is_found_by_keys():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.press("slash", *"tone-v3", "enter", "t")
        await rig.to(TrustScreen)
        await rig.until_words("PASSED, 2 checks not made", "? NOT CHECKED")
        await rig.press("enter")
        await rig.to(Reading)
        await rig.until_words("If it were skipped: a GPU")


async def test_what_was_not_checked_is_found_by_mouse():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.click("support-tone-v3")
        await rig.tap("t", "Trust")
        await rig.to(TrustScreen)
        await rig.until_words("PASSED, 2 checks not made")
        await rig.click("? NOT CHECKED", times=2)
        await rig.to(Reading)
        await rig.until_words("If it were skipped: a GPU")
        await rig.tap("esc", "Close")
        await rig.to(TrustScreen)
        await rig.tap("f", "Only not passed")
        await rig.until(lambda: "✓ passed" not in rig.words)


# --- close a job ----------------------------------------------------------------------------------


async def test_a_job_is_closed_after_a_question_by_keys():
    async with hands(link=("job", JOB[:4])) as rig:
        await rig.to(JobScreen)
        await rig.until_words("1,180 of 2,400")
        await rig.press("c")
        await rig.to(Confirm)
        await rig.press("enter")  # the cursor stands on No
        await rig.to(JobScreen)
        assert not rig.hub.of(CloseJob)
        await rig.press("c")
        await rig.to(Confirm)
        await rig.press("right", "enter")
        await rig.until(lambda: [each.job for each in rig.hub.of(CloseJob)] == [JOB])
        await rig.until_words("CANCELLED")


async def test_a_job_is_closed_after_a_question_by_mouse():
    async with hands(link=("jobs",)) as rig:
        await rig.click("support-tone-v3", times=2)
        await rig.to(JobScreen)
        await rig.tap("c", "Close job")
        await rig.to(Confirm)
        await rig.click("Keep it")
        await rig.to(JobScreen)
        assert not rig.hub.of(CloseJob)
        await rig.tap("c", "Close job")
        await rig.to(Confirm)
        await rig.click("Close it")
        await rig.until(lambda: [each.job for each in rig.hub.of(CloseJob)] == [JOB])
        await rig.until_words("CANCELLED")


# --- chat side by side ----------------------------------------------------------------------------


async def test_base_and_tuned_answer_side_by_side_by_keys():
    async with hands() as rig:
        await rig.press("6")
        await rig.to(ChatScreen)
        await rig.until_words(TUNED)
        await rig.press(*"late", "enter")
        await rig.until_words("You should contact support.", "check order 4471")
        assert len(rig.hub.of(Ask)) == 2


async def test_base_and_tuned_answer_side_by_side_by_mouse():
    async with hands() as rig:
        await rig.click("6 Chat")
        await rig.to(ChatScreen)
        await rig.until_words(TUNED)
        await rig.pilot.click("#prompt")
        await rig.paste("late")
        await rig.tap("⏎", "Send")
        await rig.until_words("You should contact support.", "check order 4471")
        assert len(rig.hub.of(Ask)) == 2
        await rig.tap("^s", "One/two")
        await rig.until(lambda: "You should contact support." not in rig.words)


# --- copy an id -----------------------------------------------------------------------------------


async def test_an_id_is_copied_by_keys():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.press("home", "y")
        assert rig.app.clipboard == WAITS
        await rig.press("Y")
        await rig.to(Reading)
        assert WAITS in "".join(rig.words.split("\n"))


async def test_an_id_is_copied_by_mouse():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.click("support-tone-v3")
        await rig.tap("y", "Copy id")
        await rig.until(lambda: rig.app.clipboard == JOB)


# --- write a statement ----------------------------------------------------------------------------


async def test_a_statement_is_written_by_keys():
    async with hands() as rig:
        await rig.press("5")
        await rig.to(MoneyScreen)
        await rig.until_words("paid in")
        await rig.press("s")
        await rig.to(StatementPanel)
        await rig.press("enter", "enter")
        await rig.to(MoneyScreen)
        (asked,) = rig.hub.of(WriteStatement)
        assert (asked.month, asked.form) == ("2026-11", StatementForm.CSV)
        await rig.until_words("statement written")


async def test_a_statement_is_written_by_mouse():
    async with hands() as rig:
        await rig.click("5 Money")
        await rig.to(MoneyScreen)
        await rig.click("receipt 3", times=2)
        await rig.to(Paper)
        await rig.tap("esc", "Close")
        await rig.to(MoneyScreen)
        await rig.tap("s", "Statement")
        await rig.to(StatementPanel)
        await rig.tap("esc", "Close")
        await rig.to(MoneyScreen)
        assert not rig.hub.of(WriteStatement)
        await rig.tap("s", "Statement")
        await rig.to(StatementPanel)
        await rig.click("beancount")
        (asked,) = rig.hub.of(WriteStatement)
        assert (asked.month, asked.form) == ("2026-11", StatementForm.BEANCOUNT)
        await rig.until_words("statement written")


# --- a consent refused ----------------------------------------------------------------------------


async def test_a_consent_is_refused_by_keys():
    async with hands(link=("keys",)) as rig:
        await rig.until_words("! c0c0")
        await rig.press("n")
        await rig.to(Confirm)
        await rig.press("right", "enter")
        await rig.to(KeysScreen)
        (answer,) = rig.hub.of(Answer)
        assert (answer.consent, answer.yes) == (CONSENT.id, False)
        await rig.until_words("none waits for you")


async def test_a_consent_is_refused_by_mouse():
    async with hands() as rig:
        await rig.click("7 Keys")
        await rig.to(KeysScreen)
        await rig.click("! c0c0")
        await rig.to(Reading)
        await rig.until_words("It opens for good")
        await rig.tap("esc", "Close")
        await rig.to(KeysScreen)
        await rig.tap("n", "Refuse…")
        await rig.to(Confirm)
        await rig.pilot.click("#yes")
        (answer,) = rig.hub.of(Answer)
        assert (answer.consent, answer.yes) == (CONSENT.id, False)
        await rig.until_words("none waits for you")


# --- help, tabs, heads of columns -----------------------------------------------------------------


async def test_help_is_opened_searched_run_and_closed_by_keys():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.press("question_mark")
        await rig.to(HelpScreen)
        await rig.press(*"new job")
        await rig.press("enter")
        await rig.to(NewJobScreen)
        await rig.press("f1")
        await rig.to(HelpScreen)
        await rig.press("escape")
        await rig.to(NewJobScreen)


async def test_help_is_opened_run_and_closed_by_mouse():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.pilot.click(offset=(98, 0))
        await rig.to(HelpScreen)
        await rig.tap("esc", "Close")
        await rig.to(JobsScreen)
        await rig.pilot.click(offset=(98, 0))
        await rig.to(HelpScreen)
        await rig.settled()
        places = [rig.place(f"{key:<12} {does}")[1] for key, does in OWN_FIRST]
        assert places == sorted(places)
        await rig.click("n            New job")
        await rig.to(NewJobScreen)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), pytest.param((200, 60), marks=pytest.mark.full)])
async def test_every_tab_is_one_click_and_one_digit(size):
    kinds = {
        "2 Offers": OffersScreen,
        "3 Jobs": JobsScreen,
        "4 Trust": TrustScreen,
        "5 Money": MoneyScreen,
        "6 Chat": ChatScreen,
        "7 Keys": KeysScreen,
        "1 Start": StartScreen,
    }
    async with hands(facts=(ONLINE,), size=size) as rig:
        for label, kind in kinds.items():
            await rig.click(label)
            await rig.to(kind)
        for label, kind in kinds.items():
            if kind is KeysScreen:  # after Chat, whose field takes digits until it is left
                await rig.press("escape")
            await rig.press(label[0])
            await rig.to(kind)


async def test_a_head_of_a_column_sorts_by_a_click():
    async with hands(link=("offers",)) as rig:
        await rig.until_words("361 of 20,000 fit")
        await rig.click("cr/h▲")
        await rig.until(lambda: rig.app.screen.state.sort == "-price")
        await rig.until_words("cr/h▼")
