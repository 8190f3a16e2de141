"""Deep links open what they name, an unknown id names the nearest; palette and digits go about."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette
from textual.widgets import Input

from tests.tui.acting import TIGHT, hands
from tests.tui.scenes.chat import TUNED
from tests.tui.scenes.jobs import JOB
from tests.tui.scenes.keys import CONSENT
from tui.screens.chat import ChatScreen
from tui.screens.job import JobScreen
from tui.screens.jobs import JobsScreen
from tui.screens.keys import KeysScreen
from tui.screens.money import MoneyScreen
from tui.screens.new_job import NewJobScreen
from tui.screens.offers import OffersScreen
from tui.screens.registry import MODES
from tui.screens.settings import SettingsScreen
from tui.screens.trust import TrustScreen


@pytest.mark.parametrize(
    ("link", "kind", "words"),
    [
        (("offers", *TIGHT.split()), OffersScreen, ("0.939 cr/h", TIGHT)),
        (("job", JOB[:4]), JobScreen, ("b0b0b0b0b0b0…", "1,180 of 2,400")),
        (("job", "bb"), JobsScreen, ("no job of yours begins with 'bb'. Nearest: b",)),
        (("trust", JOB[:4]), TrustScreen, ("PASSED, 2 checks not made",)),
        (("trust", "bb"), TrustScreen, ("no job of yours begins with 'bb'. Nearest: b",)),
        (("money", "b0b0"), MoneyScreen, ("receipt 3, from the hold",)),
        (("money", "nothing"), MoneyScreen, ("no line fits 'nothing'",)),
        (("chat", TUNED[:6]), ChatScreen, (TUNED,)),
        (("consent", CONSENT.id[:4]), KeysScreen, ("! c0c0",)),
        (("new",), NewJobScreen, ("1 Model",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
async def test_a_link_opens_what_it_names(link, kind, words):
    async with hands(link=link) as rig:
        await rig.until(lambda: isinstance(rig.app.screen, kind))
        await rig.until_words(*words)
        if link[0] == "money":
            await rig.until(lambda: "paid in" not in rig.words)
        if link[0] == "consent":
            await rig.until(lambda: getattr(rig.app.focused, "id", "") == "consents")


async def test_the_palette_finds_a_theme_and_a_key_of_the_screen_and_runs_them():
    async with hands(link=("jobs",)) as rig:
        await rig.until_words("5 of 5 jobs")
        for opens, searched, holds in (
            ("ctrl+p", "theme blindhost-light", lambda: rig.app.theme == "blindhost-light"),
            ("colon", "new job", lambda: isinstance(rig.app.screen, NewJobScreen)),
        ):
            await rig.press(opens)
            await rig.until(lambda: isinstance(rig.app.screen, CommandPalette))
            rig.app.screen.query_one(Input).value = searched
            words = f" {searched.split()[-1]} "
            await rig.until(lambda words=words: words in rig.words.lower().replace("▎", ""))
            await rig.settled()
            await rig.press("enter")
            await rig.until(holds)


async def test_a_digit_goes_to_each_screen_from_wherever_one_is():
    async with hands(link=("job", JOB[:4])) as rig:
        await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        for number, mode in enumerate(MODES, start=1):
            await rig.press(*(["escape"] if mode == "keys" else []), str(number))
            await rig.until(lambda mode=mode: rig.app.current_mode == mode)
        assert isinstance(rig.app.screen, SettingsScreen)
