"""Hostile text and crashes: a stranger's words move no terminal, a crash tells no secret."""

from __future__ import annotations

import re

import pytest
from rich.segment import Segment
from rich.text import Text
from textual.app import App, ComposeResult
from textual.color import Color
from textual.content import Content
from textual.screen import Screen
from textual.widgets import (
    Button,
    DataTable,
    Footer,
    Input,
    Log,
    Markdown,
    OptionList,
    RichLog,
    Static,
    TextArea,
    Tree,
)

from tests.tui.rig import USUAL, window
from tests.tui.scenes.chat import SCENES as CHAT
from tui.app import BlindhostApp, crash_words
from tui.wall import Wall

HOSTILE = "A\x1b]52;c;QUJD\x07B\x1b[2JC\x9b31mD\x85E\u202eF\u2066G\x7fH"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CANARY = "correct-horse-canary-7731"


def test_a_clean_line_passes_as_it_is_and_a_hostile_one_keeps_its_length():
    wall = Wall()
    clean = [Segment("│ sealed ✓ 日本 ")]
    assert wall.apply(clean, Color(0, 0, 0)) is clean
    [found] = wall.apply([Segment("a\x1bb\u202ec")], Color(0, 0, 0))
    assert not ACTS.search(found.text)
    assert found.text[0] == "a"


class Everywhere(BlindhostApp):
    """Every widget of textual's that shows text, with hostile text in it."""

    CSS_PATH = None

    def on_mount(self) -> None:
        self.push_screen(Wide())

    async def on_unmount(self) -> None:
        pass


class Wide(Screen):
    BINDINGS = [("x", "nothing", HOSTILE)]  # noqa: RUF012

    def compose(self) -> ComposeResult:
        yield Static(Content(HOSTILE), markup=False)
        yield Markdown(HOSTILE, open_links=False)
        yield Input(value=HOSTILE, placeholder=HOSTILE)
        yield Button(Content(HOSTILE))
        yield OptionList(Content(HOSTILE))
        yield Tree(Text(HOSTILE))
        yield TextArea(HOSTILE)
        table = DataTable()
        table.add_column("c")
        yield table
        yield Log()
        yield RichLog()
        yield Footer()

    def on_mount(self) -> None:
        for each in self.query("Static, Markdown, Input, Button, OptionList, Tree, TextArea"):
            each.styles.height = 2
            each.border_title = HOSTILE.replace("[", "\\[")
        self.query_one(DataTable).add_row(Content(HOSTILE))
        self.query_one(Log).write_line(HOSTILE)
        self.query_one(RichLog).write(HOSTILE)
        self.notify(HOSTILE, markup=False)


async def test_no_widget_brings_a_control_character_to_the_terminal():
    from tests.tui.rig import NOW, ScriptedHub

    app = Everywhere(ScriptedHub(()), clock=lambda: NOW)
    async with app.run_test(size=(120, 70)) as pilot:
        await pilot.pause(0.2)
        drawn = "".join(
            segment.text for strip in app.screen._compositor.render_strips() for segment in strip
        )
        assert drawn.count("A") >= 9, "the hostile text is on the screen"
        filtered = []
        for widget in app.screen.walk_children():
            for strip in widget.render_lines(widget.size.region):
                for line_filter in app.get_line_filters():
                    strip = strip.apply_filter(line_filter, Color(0, 0, 0))  # noqa: PLW2901
                filtered += [segment.text for segment in strip]
        assert not ACTS.search("".join(filtered))


def test_the_wall_stands_in_the_apps_filters_once_and_stays_the_same_object():
    from tests.tui.rig import NOW, ScriptedHub

    app = BlindhostApp(ScriptedHub(()), clock=lambda: NOW)
    first, second = app.get_line_filters(), app.get_line_filters()
    walls = [each for each in first if isinstance(each, Wall)]
    assert len(walls) == 1
    assert walls[0] in second


def crash(passphrase: str) -> None:
    local = {"passphrase": passphrase}
    raise KeyError(f"no {local['passphrase']}")


def test_the_words_of_a_crash_hold_places_and_no_value():
    try:
        try:
            crash(CANARY)
        except KeyError as error:
            raise RuntimeError(CANARY) from error
    except RuntimeError as error:
        words = crash_words(error)
    assert CANARY not in words
    assert "in crash" in words
    assert "builtins.KeyError" in words


async def test_a_crash_of_the_window_prints_no_passphrase(capsys):

    async def crashing() -> None:
        async with window(facts=USUAL, link=CHAT["normal"][0]) as rig:

            def fail() -> None:
                passphrase = CANARY
                raise RuntimeError(passphrase)

            rig.app.call_later(fail)
            await rig.pilot.pause()
            await rig.pilot.pause()

    with pytest.raises(RuntimeError):
        await crashing()
    shown = "".join(capsys.readouterr())
    assert "ended by a fault of its own" in shown
    assert CANARY not in shown


def test_a_plain_textual_app_would_print_it():
    # What the override is for: if textual stops printing locals, it may go.
    import inspect

    assert "show_locals=True" in inspect.getsource(App._fatal_error)
