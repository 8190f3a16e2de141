"""A panel that asks for one of some lines. None: it was closed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList, Static

from tui.state.rows import Words
from tui.widgets.pick_list import PickList


class Choose(ModalScreen[int | None]):
    """One of some lines, by its place."""

    DEFAULT_CSS = """
    Choose { align: center middle; }
    Choose > Vertical { width: 90; max-width: 96%; height: auto; max-height: 80%;
        border: round $primary; padding: 0 1; background: $surface; }
    Choose Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]

    def __init__(self, sentence: str, lines: Iterable[Words]) -> None:
        super().__init__()
        self._sentence, self._lines = sentence, tuple(lines)

    def compose(self) -> ComposeResult:
        """A sentence and a list."""
        with Vertical():
            yield Static(Content(self._sentence), markup=False)
            yield PickList()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The list has the keys."""
        picks = self.query_one(PickList)
        picks.show(self._lines)
        picks.focus()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)

    def action_close(self) -> None:
        """None of them."""
        self.dismiss(None)
