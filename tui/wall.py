"""The second wall against hostile text: no control character reaches the terminal from any widget.

Textual passes ESC through: a label or a model's words with ``ESC ]52`` would write the clipboard.
Every line that is drawn goes through here; a clean one is passed as it is.
"""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

REPLACED: Final = "\ufffd"


class Wall(LineFilter):
    """Replaces what `str.isprintable` does not allow. One for the whole app: strips are cached."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """The same line, without a character that a terminal would obey."""
        if all(each.text.isprintable() and not each.control for each in segments):
            return segments
        return [Segment(_printable(each.text), each.style) for each in segments]


def _printable(text: str) -> str:
    # A character of no width goes, one with a width is replaced: the line keeps its length.
    return "".join(
        each if each.isprintable() else REPLACED if cell_len(each) else "" for each in text
    )
