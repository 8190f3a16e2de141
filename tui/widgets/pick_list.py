"""A short list to pick from: lines with tones, no markup; the cursor stays when lines change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.state.rows import Words
from tui.widgets.panels import content_of


class PickList(OptionList):
    """For at most some hundred lines; what is long goes into a `VirtualTable`."""

    DEFAULT_CSS = """
    PickList { height: auto; max-height: 100%; border: none; padding: 0;
        background: $background; text-wrap: nowrap; text-overflow: ellipsis; }
    PickList:focus { border: none; }
    PickList > .option-list--option { padding: 0 1; }
    PickList > .option-list--option-highlighted { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Take", key_display="⏎"),
        Binding("up,k", "cursor_up", "Up", show=False),
        Binding("down,j", "cursor_down", "Down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(markup=False, id=id)
        self._said: tuple[Words, ...] = ()

    def show(self, lines: Iterable[Words], *, at: int = 0) -> None:
        """Show these lines; the first time the cursor stands on line `at`."""
        lines = tuple(lines)
        if lines == self._said:
            return
        before, self._said = self.highlighted, lines
        self.clear_options()
        self.add_options(Option(content_of([each])) for each in lines)
        if lines:
            self.highlighted = min(len(lines) - 1, at if before is None else before)
