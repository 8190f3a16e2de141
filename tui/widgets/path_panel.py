"""A panel that asks where to write: a sentence, a path, Enter writes, Escape does not.

self.app.push_screen(PathPanel("Where to write …", "adapter-b0b0"), self._with_path)
"""

from __future__ import annotations

from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from tui.text import clean
from tui.widgets.entry import Entry

PATH_CHARACTERS_MAX: Final = 1024


class PathPanel(ModalScreen[str | None]):
    """Dismissed with a path, or with None."""

    DEFAULT_CSS = """
    PathPanel { align: center middle; }
    PathPanel > Vertical { width: 76; max-width: 96%; height: auto; border: round $primary;
        padding: 0 1; background: $surface; }
    PathPanel Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "none", "Back")]

    def __init__(self, sentence: str, path: str) -> None:
        super().__init__()
        self._sentence, self._path = clean(sentence, keep="\n"), path

    def compose(self) -> ComposeResult:
        """A sentence over a path."""
        with Vertical():
            yield Static(Content(self._sentence), markup=False)
            yield Entry(value=self._path, max_length=PATH_CHARACTERS_MAX, select_on_focus=False)
        yield Footer(show_command_palette=False)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)

    def action_none(self) -> None:
        """Nothing is written."""
        self.dismiss(None)
