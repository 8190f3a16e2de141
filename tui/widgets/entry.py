"""A field whose Enter goes on: the footer says so, and a click there does it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class Entry(Input):
    """An `Input` that can be submitted by mouse."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Go on", key_display="⏎"),
    ]
