"""Chat, by keys."""

from __future__ import annotations

from tests.tui.rig import NOW, window
from tests.tui.scenes.chat import BASE, SCENES, TUNED
from tui.commands import Ask, StopTurn
from tui.facts import Delta, TurnEnd, TurnWhy


def end(ask: Ask, why: TurnWhy = TurnWhy.STOP, words: str = "") -> TurnEnd:
    return TurnEnd(
        as_of=NOW, turn=ask.turn, model=ask.model, why=why, words=words, tokens=9, milliseconds=300
    )


async def test_one_prompt_goes_to_both_and_both_replies_stand_side_by_side():
    link, facts = SCENES["normal"]
    async with window(link=link, facts=facts) as rig:
        await rig.until_words(TUNED, "sealed to chip 9c1e4f")
        await rig.press(*"late", "ctrl+j", *"please", "enter")
        await rig.until(lambda: len(rig.hub.of(Ask)) == 2)
        base, tuned = rig.hub.of(Ask)
        assert (base.model, tuned.model) == (BASE, TUNED)
        assert base.turn == tuned.turn
        assert base.messages == (("user", "late\nplease"),)
        assert "late" not in repr(base)
        for ask, words in ((base, "Contact support."), (tuned, "Sorry about that, Ana.")):
            await rig.tell(Delta(as_of=NOW, turn=ask.turn, model=ask.model, text=words), end(ask))
        await rig.until_words("Contact support.", "Sorry about that, Ana.", "30 tok/s")


async def test_a_reply_that_was_cut_says_so_and_one_that_runs_can_be_stopped():
    link, facts = SCENES["normal"]
    async with window(link=link, facts=facts) as rig:
        await rig.until_words(TUNED)
        await rig.press(*"hi", "enter")
        await rig.until(lambda: len(rig.hub.of(Ask)) == 2)
        base, tuned = rig.hub.of(Ask)
        await rig.tell(
            Delta(as_of=NOW, turn=base.turn, model=BASE, text="half a"),
            end(base, TurnWhy.CUT, "the stream ended without its last word"),
        )
        await rig.until_words("half a", "[CUT] the stream ended")
        await rig.press("escape", "escape")
        await rig.until(lambda: bool(rig.hub.of(StopTurn)))
        assert rig.hub.of(StopTurn)[0].turn == tuned.turn


async def test_nobody_to_speak_to_is_said_with_what_to_do():
    link, facts = SCENES["error"]
    async with window(link=link, facts=facts, size=(80, 24)) as rig:
        await rig.until_words("no gateway runs for this home")
        await rig.press(*"hi", "enter")
        await rig.pilot.pause()
        assert not rig.hub.of(Ask)
