"""Start, by keys and by mouse; a passphrase stands in one command and nowhere else."""

from __future__ import annotations

import pytest

from tests.tui.rig import BALANCE, NOW, ONLINE, SIZES, window
from tests.tui.scenes.offers import page
from tests.tui.scenes.start import HOME, LOCKED, NO_KEYS, SCENES
from tui.commands import MakeKeys, PinMarket, Search, Unlock
from tui.facts import Connection, Failure, Link
from tui.screens.keys import KeysScreen
from tui.screens.new_job import NewJobScreen
from tui.screens.offers import OffersScreen
from tui.widgets.secret_input import SecretInput

CANARY = "canary-passphrase-7"


async def test_locked_keys_are_opened_and_the_passphrase_is_in_the_command_alone():
    async with window(facts=(LOCKED,), link=("start",)) as rig:
        await rig.until_words("1 Keys", "LOCKED", "[Unlock]")
        await rig.press("enter")
        await rig.until_words("It is used once")
        await rig.press(*CANARY)
        assert CANARY not in rig.words
        await rig.press("enter")
        (unlock,) = rig.hub.of(Unlock)
        assert unlock.passphrase == CANARY
        assert CANARY not in repr(unlock)
        await rig.until_words("opening the keys, 0.0 s")
        screen = rig.app.screen
        held = (
            repr(vars(screen)) + rig.words + "".join(screen.plain()) + rig.app.export_screenshot()
        )
        assert CANARY not in held
        await rig.tell(
            Failure(as_of=NOW, where=unlock.id, code="keystore", words="no", retry_in=None)
        )
        await rig.until_words("FAILED keystore: no")


async def test_a_key_that_is_pressed_before_the_home_was_read_is_done_once_it_is():
    async with window(facts=(), link=("start",)) as rig:
        await rig.until_words("Rent a GPU")
        await rig.press("enter")
        await rig.tell(NO_KEYS)
        await rig.until_words("Market: its key")


async def test_keys_are_made_by_a_passphrase_typed_twice_and_a_pinned_market():
    async with window(facts=(NO_KEYS,), link=("start",)) as rig:
        await rig.until_words("none in this home yet")
        await rig.press("enter")
        await rig.until_words("Market: its key")
        panel = rig.app.screen
        panel.query_one("#url").value = "https://market.example"
        await rig.press("enter", "5", "f", "enter")

        async def enter(passphrase: str, *words: str) -> None:
            panel.query_one(SecretInput)._add(passphrase)
            await rig.press("enter")
            await rig.until_words(*words)

        await enter("short", "64 hex digits of your invite, got 2 characters")
        panel.query_one("#identity").value = "5f" * 32
        await enter("short", "at least 12 characters are wanted, got 5")
        await enter(CANARY, "The same passphrase once more")
        await enter("something-else", "the two differ: begin again")
        assert not rig.hub.of(MakeKeys)
        await enter(CANARY, "The same passphrase once more")
        await enter(CANARY, "making keys")
        (made,) = rig.hub.of(MakeKeys)
        assert (made.passphrase, made.market_identity) == (CANARY, "5f" * 32)
        assert CANARY not in repr(made)


async def test_the_list_leads_to_every_screen_by_keys_and_by_mouse():
    facts = (ONLINE, BALANCE, HOME)
    async with window(facts=facts, link=("start",)) as rig:
        await rig.until_words("✓ 1 Keys")
        await rig.press("enter")
        await rig.until(lambda: isinstance(rig.app.screen, KeysScreen))
        await rig.press("1", "end", "up", "enter")
        await rig.until(lambda: isinstance(rig.app.screen, OffersScreen))
        await rig.press("1")
        await rig.until_words("Rent a GPU")
        await rig.pilot.click("#steps", offset=(6, 4))
        await rig.until(lambda: isinstance(rig.app.screen, NewJobScreen))
        assert rig.app.screen.state.step.value == "data"
        await rig.press("escape", "escape", "escape")
        await rig.until_words("Rent a GPU")
        await rig.press("end", "enter")
        await rig.until_words("make demo ARGS=--tui")


@pytest.mark.parametrize(
    ("state", "size"),
    [
        *(("normal", size) for size in (SIZES[0], (60, 15))),
        *((state, SIZES[0]) for state in SCENES if state != "normal"),
    ],
)
async def test_each_size_and_state_says_what_matters(state, size):
    link, facts = SCENES[state]
    wanted = {
        "normal": "five steps, 4 done",
        "empty": "five steps, 0 done",
        "loading": "five steps, 0 done",
        "error": "five steps, 0 done",
        "offline": "five steps, 4 done",
    }[state]
    async with window(facts=facts, link=link, size=size) as rig:
        await rig.until_words(wanted)
        small = size == (60, 15)
        assert ("The host can't see" in rig.words) != small
        said = "\n".join(rig.app.screen.plain())
        assert wanted in said
        assert ("OFFLINE" in said) == (state == "offline")


async def test_whoever_has_no_keys_names_a_market_and_looks_at_its_offers():
    async with window(facts=(NO_KEYS,), link=("start",)) as rig:
        await rig.until_words("Look at offers: no keys and no money needed")
        await rig.press("end", "up", "enter")
        await rig.until_words("Market: its key")
        rig.app.screen.query_one("#url").value = "https://market.example"
        await rig.press("enter", "5", "f", "enter")
        await rig.until_words("64 hex digits of your invite, got 2 characters")
        assert not rig.hub.of(PinMarket)
        rig.app.screen.query_one("#identity").value = "5f" * 32
        await rig.press("enter")
        (pin,) = rig.hub.of(PinMarket)
        assert (pin.market_url, pin.market_identity) == ("https://market.example", "5f" * 32)
        await rig.until(lambda: isinstance(rig.app.screen, OffersScreen))
        search = rig.hub.of(Search)[-1]
        signed_out = Connection(
            as_of=NOW, link=Link.SIGNED_OUT, since=NOW, attempt=0, retry_in=None, words="no keys"
        )
        await rig.tell(signed_out, page("", sort=search.sort))
        await rig.until_words("361 of 20,000 fit", "H100")
        assert "OFFLINE" not in rig.words
        await rig.press("enter")
        await rig.until(
            lambda: any("keys are wanted" in each.message for each in rig.app._notifications)
        )
        assert isinstance(rig.app.screen, OffersScreen)
