"""Keys and consents, by keys and by mouse; a broken chain ends all of it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.tui.rig import NOW, SIZES, USUAL, window
from tests.tui.scenes.keys import ALL, CONSENT, KEYS, LINK, LOCKED, SCENES, release
from tui.commands import Answer, BackUp, Export, LockKeys, RotateEpoch, Unlock
from tui.screens.keys import KeysScreen
from tui.widgets.panels import Panel


async def test_a_consent_is_read_before_it_is_answered_and_no_stands_first():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("1 waits for you", "! c0c0", "RELEASES   58 entries")
        await rig.press("a")
        await rig.until_words("can't be taken back", "It opens for good")
        await rig.press("enter")
        assert not rig.hub.of(Answer)
        await rig.press("a", "right", "enter")
        (answer,) = rig.hub.of(Answer)
        assert (answer.consent, answer.yes) == (CONSENT.id, True)
        await rig.until_words("your answer goes out")
        told = dataclasses.replace(CONSENT, as_of=NOW + 1, mine_to_answer=False)
        await rig.tell(told)
        await rig.until_words("none waits for you")
        await rig.press("a")
        assert isinstance(rig.app.screen, KeysScreen)


async def test_a_consent_is_refused_by_mouse():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("! c0c0")
        await rig.pilot.click("#consents", offset=(8, 0))
        await rig.until_words("It opens for good")
        await rig.press("escape", "n")
        await rig.until_words("Refuse adapter of jobb_01hzy3", "it stays sealed.")
        await rig.pilot.click("#yes")
        (answer,) = rig.hub.of(Answer)
        assert not answer.yes


async def test_a_consent_that_says_something_else_by_now_is_not_answered():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("! c0c0")
        await rig.press("a")
        await rig.until_words("It opens for good")
        other = dataclasses.replace(CONSENT, as_of=NOW + 1, sentences=("All models, to everyone.",))
        await rig.tell(other)
        await rig.press("right", "enter")
        await rig.pilot.pause()
        assert not rig.hub.of(Answer)


async def test_a_consent_without_sentences_cant_be_answered():
    blank = dataclasses.replace(CONSENT, sentences=())
    async with window(facts=(*USUAL, KEYS, blank), link=LINK) as rig:
        await rig.until_words("! c0c0")
        await rig.press("a", "n")
        assert isinstance(rig.app.screen, KeysScreen)


async def test_what_a_chip_ever_opened_is_one_key_away():
    async with window(facts=ALL, link=LINK, size=(200, 60)) as rig:
        await rig.until_words("word of 6d6d6d…", "yours", "FENCED")
        await rig.press("m")
        await rig.until_words("artifacts", "m: entry by entry")
        await rig.press("enter")
        await rig.until_words("chip 9c9c", "(your log)")
        said = "\n".join(each.text for each in rig.app.screen.query_one(Panel).said)
        assert "#12" in said
        assert "(the word of 6d6d6d6d6d6d…)" in said
        await rig.press("escape", "y")
        assert rig.app.clipboard == "9c" * 32
        await rig.press("m", "x")
        await rig.until_words("transcript of generation")
        await rig.press("enter")
        (export,) = rig.hub.of(Export)
        assert (export.job, export.generation) == ("b0" * 32, 2)


async def test_a_new_epoch_takes_a_choice_the_words_and_a_word_typed():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("epoch 1 · unlocked · backed up: NO")
        await rig.press("R")
        await rig.until_words("Which lineage")
        await rig.press("down", "enter")
        await rig.until_words("An epoch can't be taken back.", "type rotate here")
        await rig.pilot.click("#yes")
        assert not rig.hub.of(RotateEpoch)
        await rig.press(*"rotate", "enter", "enter")
        (rotate,) = rig.hub.of(RotateEpoch)
        assert rotate.lineage == KEYS.lineages[1]


async def test_lock_backup_and_unlock():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("Lock…", "backed up: NO")
        await rig.pilot.click("#back-up")
        await rig.until_words("encrypted copy")
        await rig.press("enter")
        assert [each.path for each in rig.hub.of(BackUp)] == ["blindhost-backup"]
        await rig.press("l")
        await rig.until_words("Lock the keys:")
        await rig.press("right", "enter")
        assert len(rig.hub.of(LockKeys)) == 1
        await rig.tell(dataclasses.replace(LOCKED, as_of=NOW + 1))
        await rig.until_words("LOCKED", "Unlock…")
        assert "locking" not in rig.words
        await rig.press("l")
        await rig.until_words("It is used once")
        await rig.press("x", "enter")
        assert len(rig.hub.of(Unlock)) == 1


async def test_a_broken_chain_fills_the_screen_and_nothing_else_works():
    async with window(facts=ALL, link=LINK) as rig:
        await rig.until_words("! c0c0")
        await rig.press("a")
        await rig.until_words("It opens for good")
        await rig.tell(release(31, holds=False))
        await rig.press("right", "enter")  # a panel that stood open answers nothing any more
        await rig.until_words("THE RELEASE LOG IS BROKEN AT ENTRY 31", "Nothing else works here")
        assert "CONSENTS" not in rig.words
        await rig.press("a", "n", "m", "x", "l", "b", "R", "y", "t")
        await rig.pilot.pause()
        assert isinstance(rig.app.screen, KeysScreen)
        assert not [
            each
            for kind in (Answer, LockKeys, BackUp, RotateEpoch, Export)
            for each in rig.hub.of(kind)
        ]
        await rig.tell(dataclasses.replace(release(31), as_of=NOW + 1))
        await rig.until_words("BROKEN AT ENTRY 31")
        await rig.press("2")  # the other screens still do
        await rig.until_words("asking the market")


async def test_a_deep_link_opens_a_consent_by_the_beginning_of_its_id():
    async with window(facts=ALL, link=("consent", "c1c1")) as rig:
        await rig.until(lambda: getattr(rig.app.focused, "highlighted", None) == 1)


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
        "normal": "1 waits for you",
        "empty": "none yet: no key has left",
        "loading": "reading keys and the release log",
        "error": "THE RELEASE LOG IS BROKEN AT ENTRY 31",
        "offline": "1 waits for you",
    }[state]
    async with window(facts=facts, link=link, size=size) as rig:
        await rig.until_words(wanted)
        assert wanted in "\n".join(rig.app.screen.plain())
        assert ("OFFLINE" in rig.words) == (state == "offline")
