"""A panel to read: lines that scroll, until Escape. A value alone on its line can be selected.

self.app.push_screen(Reading("manifest", lines))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from tui.state.rows import Words
from tui.widgets.panels import Panel

LINES_MAX: Final = 2000


class Reading(ModalScreen[None]):
    """Something to read."""

    DEFAULT_CSS = """
    Reading { align: center middle; }
    Reading > Vertical { width: 96%; max-width: 120; height: auto; max-height: 92%;
        border: round $primary; padding: 0 1; background: $surface; }
    Reading #title { height: 1; text-style: bold; }
    Reading VerticalScroll { height: auto; max-height: 80vh; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Close"),
        Binding("j", "scroll_lines(1)", show=False),
        Binding("k", "scroll_lines(-1)", show=False),
    ]

    def __init__(self, title: str, lines: Iterable[Words]) -> None:
        super().__init__()
        self._title_words, self._lines = title, tuple(lines)[:LINES_MAX]

    def compose(self) -> ComposeResult:
        """A title over lines."""
        with Vertical():
            yield Static(Content(self._title_words), markup=False, id="title")
            with VerticalScroll():
                yield Panel(id="lines")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """All lines, at once."""
        self.query_one("#lines", Panel).say(self._lines)
        self.query_one(VerticalScroll).focus()

    def action_scroll_lines(self, by: int) -> None:
        """Scroll."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_close(self) -> None:
        """Back to the screen below."""
        self.dismiss(None)
