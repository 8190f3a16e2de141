"""Hosts, owners and markets choose words: on Start, Offers, New job and Keys none of them acts."""

from __future__ import annotations

import dataclasses
import enum

import pytest

from tests.tui.rig import window
from tests.tui.scenes import keys, new_job, offers, start
from tui.commands import Search
from tui.facts import Connection, Fact, Setup
from tui.screens.window import Window

HOSTILE = "\x1b]52;c;eA==\x07\x9b2J\u202e[@click=app.quit]x[/]\u200b\n表" * 3
SAME = {"query", "sort", "version", "path", "state"}
"""Fields that say what a fact belongs to."""


def hostile(value: object, name: str = "") -> object:
    """The same with hostile words in every text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            each.name: hostile(getattr(value, each.name), each.name)
            for each in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(hostile(each, name) for each in value)
    if isinstance(value, str) and not isinstance(value, enum.Enum) and name not in SAME:
        return value[:8] + HOSTILE
    return value


def told(facts: tuple[Fact, ...]) -> list[Fact]:
    return [each if isinstance(each, Connection) else hostile(each) for each in facts]


@pytest.mark.parametrize(
    ("link", "facts", "pressed"),
    [
        (("start",), start.SCENES["normal"][1], ("down", "Y", "escape")),
        (("offers",), offers.SCENES["normal"][1], ("down", "w", "escape", "Y", "escape", "y")),
        (("offers",), offers.SCENES["empty"][1], ("w", "down", "enter")),
        (("keys",), keys.ALL, ("enter", "escape", "m", "enter", "escape", "a", "escape", "R")),
        (("keys",), (*keys.ALL, keys.release(3, holds=False)), ("a",)),
        (("new",), new_job.SCENES["normal"][1], ("home", "enter", "down", "h", "enter")),
    ],
)
async def test_no_word_of_a_fact_acts_on_the_terminal_or_on_the_window(link, facts, pressed):
    facts = told(facts)
    async with window(facts=facts, link=link, size=(100, 30)) as rig:
        if link == ("new",):
            await rig.until(lambda: type(rig.app.screen).__name__ == "NewJobScreen")
        for key in ("", *pressed):
            if key:
                await rig.press(key)
            await rig.pilot.pause()
            for line in rig.words.splitlines():
                assert line.isprintable()
        assert rig.app.is_running
        assert rig.app._exception is None
        assert "\x1b" not in (rig.app.clipboard or "")
        screen = [each for each in rig.app.screen_stack if isinstance(each, Window)][-1]
        assert any("[@click=app.quit]" in each for each in screen.plain())  # shown, not obeyed
        assert all("\x1b" not in each.query for each in rig.hub.of(Search))
    assert any(isinstance(each, Setup) for each in facts)
