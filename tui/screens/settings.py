"""Settings: a theme is seen while the cursor stands on it; what is chosen goes to the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.screens.window import Window
from tui.settings import (
    PLOTS,
    SENTENCES,
    THEMES,
    Settings,
    SettingsError,
    load_settings,
    save_settings,
    settings_text,
)


class SettingsScreen(Window):
    """Settings."""

    MODE = "settings"
    HELP_TEXT = "How the window looks. The same stands in tui.toml in the home, with comments."
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", "Choose", key_display="⏎")]
    DEFAULT_CSS = """
    SettingsScreen OptionList, SettingsScreen OptionList:focus { height: 1fr; border: none; }
    SettingsScreen #said { height: auto; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()
        self._said = ""

    def body(self) -> Iterable[Widget]:
        """One list of all choices."""
        yield OptionList(id="choices", markup=False)
        yield Static("", markup=False, id="said")

    def on_mount(self) -> None:
        """What the file says."""
        super().on_mount()
        if self.blindhost.home is not None:
            try:
                self.settings = load_settings(self.blindhost.home)
            except SettingsError as error:
                self._said = str(error)
        self._fill()
        self.query_one(OptionList).focus()

    def _choices(self) -> list[tuple[str, str, object]]:
        found: list[tuple[str, str, object]] = []
        found += [("theme", each, each) for each in THEMES]
        found += [("plot", each, each) for each in PLOTS]
        found += [("plain", "yes", True), ("plain", "no", False)]
        return found

    def _fill(self) -> None:
        shown = self.query_one(OptionList)
        at = shown.highlighted
        shown.clear_options()
        before = ""
        for name, word, value in self._choices():
            if name != before:
                shown.add_option(Option(Content(f"{name}: {SENTENCES[name]}"), disabled=True))
                before = name
            mark = "●" if getattr(self.settings, name) == value else "○"
            shown.add_option(Option(Content(f"   {mark} {word}"), id=f"{name}={word}"))
        shown.highlighted = 1 if at is None else at

    def draw(self) -> None:
        """What was said last."""
        self.query_one("#said", Static).update(Content(self._said))

    def plain(self) -> Iterable[str]:
        """The file."""
        yield from settings_text(self.settings).splitlines()

    @on(OptionList.OptionHighlighted)
    def _preview(self, event: OptionList.OptionHighlighted) -> None:
        name, _, word = (event.option.id or "").partition("=")
        self.app.theme = word if name == "theme" else self.settings.theme

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        name, _, word = (event.option.id or "").partition("=")
        value = word == "yes" if isinstance(getattr(self.settings, name), bool) else word
        chosen: dict[str, Any] = {name: value}
        self.settings = dataclasses.replace(self.settings, **chosen)
        self.app.theme = self.settings.theme
        home = self.blindhost.home
        if home is None:
            self._said = "for this window alone: it has no home to write to"
        else:
            try:
                save_settings(home, self.settings)
                self._said = f"written to {home.name}/tui.toml"
            except OSError as error:
                self._said = f"not written: {error.strerror}"
        self._fill()
        self.redraw()

    def action_choose(self) -> None:
        """Choose what the cursor is on."""
        self.query_one(OptionList).action_select()

    def on_screen_suspend(self) -> None:
        """A theme that was looked at, and not chosen, goes."""
        super().on_screen_suspend()
        self.app.theme = self.settings.theme
