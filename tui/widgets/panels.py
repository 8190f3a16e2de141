"""Words with tones, as widgets show them: a panel of lines, and the content of one.

A panel is drawn again only when a word of it differs: a redraw each second costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from tui.state.rows import Tone, Words, say

STYLES: Final = {
    Tone.PLAIN: "",
    Tone.STRONG: "bold",
    Tone.FAINT: "$secondary",
    Tone.GOOD: "$success",
    Tone.BAD: "bold $error",
    Tone.WARN: "$warning",
    Tone.LOUD: "bold reverse",
}


def content_of(lines: Iterable[Words]) -> Content:
    """Lines as content: no markup is read in them."""
    return Content("\n").join(Content.styled(each.text, STYLES[each.tone]) for each in lines)


class Panel(Static):
    """Some lines."""

    DEFAULT_CSS = """
    Panel { height: auto; width: 1fr; padding: 0 1; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id, classes=classes)
        self._said: tuple[Words, ...] = ()
        self._pinned = False
        self.display = False

    def say(self, lines: Iterable[Words]) -> None:
        """Show these lines; with none, the panel takes no room."""
        lines = tuple(lines)
        if lines != self._said:
            moves = not (len(lines) == len(self._said) and self._fits(lines, self._said))
            self._said = lines
            self.update(content_of(lines), layout=moves)
            if not self._pinned:
                self.display = bool(lines)

    def _fits(self, *said: tuple[Words, ...]) -> bool:
        """Whether no line is wrapped: then as many lines take as much room."""
        width = self.content_size.width
        return all(cell_len(each.text) <= width for lines in said for each in lines)

    def pin(self) -> None:
        """Whether it takes room is for the stylesheet to say, also while it is empty."""
        self._pinned = True
        self.styles.clear_rule("display")

    @property
    def said(self) -> tuple[Words, ...]:
        """What it shows."""
        return self._said


class TooSmall(Static):
    """Stands alone where a screen has no room: one sentence, and what the screen comes to.

    What it stands for has the class ``room``.
    """

    SCOPED_CSS = False  # its place is said by classes of the screen
    DEFAULT_CSS = """
    TooSmall { display: none; height: 1fr; padding: 0 1; }
    .-tiny TooSmall, .-flat TooSmall { display: block; }
    .-tiny .room, .-flat .room { display: none; }
    """

    def __init__(self) -> None:
        super().__init__("", markup=False)
        self._said: tuple[Words, ...] = ()

    def say(self, lines: Iterable[Words]) -> None:
        """What the screen comes to, in a few lines."""
        size = self.app.size
        wanted = f"This window is {size.width}x{size.height}; wanted: at least 60x16."
        said = (say(wanted, Tone.STRONG), *lines)
        if said != self._said:
            self._said = said
            self.update(content_of(said))
