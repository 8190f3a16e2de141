"""Checks as a table, and a strip under it: found over wanted, aligned, with what differs marked."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.binding import Binding, BindingType
from textual.events import Resize

from tui.facts import CheckLine
from tui.state.trust_words import strip
from tui.widgets.line_view import Lines
from tui.widgets.virtual_table import Column, VirtualTable

COLUMNS: Final = (
    Column(id="verdict", label="verdict", width=14),
    Column(id="check", label="check", width=26),
    Column(id="found", label="found", width=14, grows=True, rank=1),
    Column(id="wanted", label="wanted", width=26, rank=2),
)


class CheckTable(VirtualTable):
    """Enter explains a check, or opens a group."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Explain", key_display="⏎"),
        Binding("home", "end(False)", "First", show=False),
        Binding("end,G", "end(True)", "Last", show=False),
    ]


class FoundWanted(Lines):
    """Of the check under the cursor."""

    DEFAULT_CSS = """
    FoundWanted { height: 4; border-top: solid $panel; padding: 0 1; }
    FoundWanted.-empty { display: block; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - textual's name
        super().__init__(id=id)
        self._check: CheckLine | None = None

    def show(self, check: CheckLine | None) -> None:
        """Show this one; None: the cursor stands on none."""
        self._check = check
        self.say(strip(check, max(20, self.size.width)))

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002 - textual's signature
        """As wide as there is room."""
        self.show(self._check)
