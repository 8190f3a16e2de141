"""The funnel of a search: a ladder of clauses; Enter on one takes its looser value."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import OptionList

from tui.widgets.pick_list import PickList


class FunnelPanel(PickList):
    """All offers on the first rung, a clause on each other one."""

    DEFAULT_CSS = """
    FunnelPanel { height: auto; max-height: 9; display: none; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Take the looser one", key_display="⏎")
    ]

    class Taken(Message):
        """Somebody takes the looser value of clause `index`, from 0."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index >= 1:
            self.post_message(self.Taken(event.option_index - 1))
