"""Lines by the line API: only those in sight are drawn, so 20,000 cost what a screenful costs.

- Rows are any values; `draw(row)` gives a row's words, `text(row)` what is searched. Both must be
  cheap. A row whose words raise is drawn as ``…``: a fault in `render_line` would end the window.
- Text is cleaned again here, when it is drawn: what reaches the terminal moves no cursor.
- With `follow` the end stays in sight as rows come, until somebody scrolls up; End goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style
from textual.widgets import Static

from tui.state.lines import Line, text_of
from tui.text import clean
from tui.widgets.panels import STYLES

PART_CHARACTERS_MAX: Final = 2048
"""Of one part of a line: more than any terminal is wide."""
SIDEWAYS_CELLS: Final = 8
_REVERSE: Final = RichStyle(reverse=True)
_HIT: Final = "reverse $accent"


class LineView(ScrollView, can_focus=True):
    """Rows, a cursor if wanted, and a substring search."""

    DEFAULT_CSS = """
    LineView { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up", show=False),
        Binding("down,j", "step(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "end(False)", "First", show=False),
        Binding("end", "end(True)", "Last", show=False),
        Binding("left", "sideways(-1)", "Left", show=False),
        Binding("right", "sideways(1)", "Right", show=False),
        Binding("enter", "choose", "Open", show=False),
    ]

    class Chosen(Message):
        """Enter on a row, or a double click."""

        def __init__(self, view: LineView, index: int) -> None:
            super().__init__()
            self.view, self.index = view, index

        @property
        def control(self) -> LineView:
            """The view."""
            return self.view

    class Moved(Message):
        """The cursor went to another row."""

        def __init__(self, view: LineView, index: int) -> None:
            super().__init__()
            self.view, self.index = view, index

        @property
        def control(self) -> LineView:
            """The view."""
            return self.view

    def __init__(
        self,
        draw: Callable[[Any], Line],
        *,
        text: Callable[[Any], str] | None = None,
        cursor: bool = False,
        follow: bool = False,
        id: str | None = None,  # noqa: A002 - textual's name
    ) -> None:
        super().__init__(id=id)
        self._draw = draw
        self._text = text or (lambda row: text_of(draw(row)))
        self._rows: Sequence[Any] = ()
        self._lowered: list[str] = []
        self.has_cursor, self.following = cursor, follow
        self._follow = follow
        self.cursor = 0
        self.needle = ""
        self.hits: list[int] = []
        self._left = 0
        self._scanned = 0
        self._hit: int | None = None

    # --- rows -------------------------------------------------------------------------------------

    @property
    def rows(self) -> Sequence[Any]:
        """What is shown."""
        return self._rows

    @property
    def row(self) -> Any:
        """The row under the cursor; None: there is none."""
        return self._rows[self.cursor] if 0 <= self.cursor < len(self._rows) else None

    def show(self, rows: Sequence[Any]) -> None:
        """Show these. Rows that only grew keep what is known of the old ones."""
        old = self._rows
        if rows is old:
            return
        grew = 0 < len(old) < len(rows)
        grew = grew and rows[0] == old[0] and rows[len(old) - 1] == old[-1]
        self._rows = rows
        if not grew:
            self._lowered.clear()
            self.hits.clear()
            self._scanned, self._hit = 0, None
        self._find()
        if self._follow and self.following:
            self.cursor = len(rows) - 1
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self._fit_size()
        if self._follow and self.following:
            self._scroll_to_row(len(rows))
        self.refresh()

    def move_to(self, index: int) -> None:
        """Put the cursor there, and in sight."""
        index = max(0, min(index, len(self._rows) - 1))
        before, self.cursor = self.cursor, index
        self.following = index == len(self._rows) - 1
        self._into_sight(index)
        if before != index:
            self.refresh_line(before)
            self.refresh_line(index)
            self.post_message(self.Moved(self, index))

    def _fit_size(self) -> None:
        # A line is cut where the view ends, so its width is no matter of scrolling.
        self.virtual_size = Size(1, len(self._rows))

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002
        """What follows, follows; the cursor stays in sight."""
        if self._follow and self.following:
            self._scroll_to_row(len(self._rows))
        elif self.has_cursor:
            self._into_sight(self.cursor)

    def _into_sight(self, index: int) -> None:
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if index < top:
            self._scroll_to_row(index)
        elif index >= top + height:
            self._scroll_to_row(index - height + 1)

    def _scroll_to_row(self, row: int) -> None:
        most = max(0, len(self._rows) - self.size.height)
        self.scroll_to(y=max(0, min(row, most)), animate=False, force=True)

    # --- drawing ----------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One line in sight; blank beyond the last row."""
        base, width = self.visual_style, self.size.width
        index = self.scroll_offset.y + y
        if not 0 <= index < len(self._rows):
            return Strip.blank(width, base.rich_style)
        marked = self.has_cursor and index == self.cursor
        content = self._content(self._rows[index])
        if self.needle:
            for found in re.finditer(re.escape(self.needle), content.plain, re.IGNORECASE):
                content = content.stylize(_HIT, found.start(), found.end())
        segments = [
            Segment(text, style.rich_style)
            for text, style in content.render(base, end="", parse_style=_parsed)
        ]
        strip = Strip(segments)
        if self.has_cursor:
            edge = Strip([Segment("▌" if marked else " ", base.rich_style)])
            strip = Strip.join([edge, strip.crop(self._left)])
        elif self._left:
            strip = strip.crop(self._left)
        strip = strip.crop_extend(0, width, base.rich_style)
        if marked and self.has_focus:
            strip = Strip(
                [Segment(each.text, (each.style or RichStyle()) + _REVERSE) for each in strip]
            )
        return strip

    def _content(self, row: Any) -> Content:
        try:
            return line_content(self._draw(row))
        except Exception:  # noqa: BLE001 - an error while drawing would end the window
            return Content("…")

    # --- moving -----------------------------------------------------------------------------------

    def action_step(self, by: int) -> None:
        """One row."""
        if self.has_cursor:
            self.move_to(self.cursor + by)
        else:
            self._scroll_by(by)

    def action_page(self, by: int) -> None:
        """One screenful."""
        self.action_step(by * max(1, self.size.height - 1))

    def action_end(self, last: bool) -> None:  # noqa: FBT001 - an action's argument
        """The first row, or the last one; there what follows goes on following."""
        if self.has_cursor:
            self.move_to(len(self._rows) if last else 0)
        elif last:
            self.following = True
            self._scroll_to_row(len(self._rows))
        else:
            self._scroll_by(-len(self._rows))

    def _scroll_by(self, by: int) -> None:
        to = self.scroll_offset.y + by
        self.following = to >= len(self._rows) - self.size.height
        self._scroll_to_row(to)

    def _on_mouse_scroll_up(self, event: object) -> None:
        self._wheel(event, -3)

    def _on_mouse_scroll_down(self, event: object) -> None:
        self._wheel(event, 3)

    def _wheel(self, event: Any, by: int) -> None:
        event.stop()
        event.prevent_default()
        self._scroll_by(by)

    def action_sideways(self, by: int) -> None:
        """Look at the rest of long lines."""
        self._left = max(0, min(self._left + by * SIDEWAYS_CELLS, PART_CHARACTERS_MAX))
        self.refresh()

    def action_choose(self) -> None:
        """The row under the cursor."""
        if self.has_cursor and self._rows:
            self.post_message(self.Chosen(self, self.cursor))

    def on_focus(self) -> None:
        """The cursor says that keys go here."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor says that they don't."""
        self.refresh()

    def on_click(self, event: Click) -> None:
        """A click moves the cursor; a second one opens."""
        index = self.scroll_offset.y + event.y
        if not self.has_cursor or not 0 <= index < len(self._rows):
            return
        self.move_to(index)
        if event.chain == 2:
            self.action_choose()

    # --- searching --------------------------------------------------------------------------------

    def search(self, needle: str) -> int:
        """Look for a substring in all rows, upper and lower case alike; how many rows have it."""
        self.needle = needle
        self.hits.clear()
        self._scanned, self._hit = 0, None
        self._find()
        self.refresh()
        return len(self.hits)

    def _find(self) -> None:
        if not self.needle:
            return
        self._lowered += [self._text(row).lower() for row in self._rows[len(self._lowered) :]]
        wanted, begin = self.needle.lower(), self._scanned
        self.hits += [
            index for index in range(begin, len(self._lowered)) if wanted in self._lowered[index]
        ]
        self._scanned = len(self._lowered)

    def go_to_hit(self, way: int) -> int | None:
        """The next hit down (1) or up (-1) from the cursor, or from the last one; it goes round."""
        if not self.hits:
            return None
        here = self.scroll_offset.y - 1 if self._hit is None else self._hit
        here = self.cursor if self.has_cursor else here
        if way > 0:
            index = next((each for each in self.hits if each > here), self.hits[0])
        else:
            index = next((each for each in reversed(self.hits) if each < here), self.hits[-1])
        self._hit = index
        if self.has_cursor:
            self.move_to(index)
        else:
            self.following = False
            self._scroll_to_row(index)
        return index


def line_content(of: Line) -> Content:
    """A line as content: no markup is read in it, and nothing in it acts on a terminal."""
    return Content.assemble(*((_clean(words.text), STYLES[words.tone]) for words in of))


def _clean(text: str) -> str:
    # The wall drops joiners, which would change the length of a line measured with them.
    return clean(text, limit=PART_CHARACTERS_MAX).replace("\u200d", "")


class Lines(Static):
    """A few lines, drawn again only when a word of them differs; with none, it takes no room."""

    DEFAULT_CSS = """
    Lines { height: auto; width: 1fr; }
    Lines.-empty { display: none; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__("", markup=False, id=id, classes=classes)
        self._said: tuple[Line, ...] = ()

    def say(self, lines: Sequence[Line]) -> None:
        """Show these."""
        lines = tuple(lines)
        if lines != self._said:
            self._said = lines
            self.update(Content("\n").join(line_content(each) for each in lines))
        self.set_class(not lines, "-empty")


def _parsed(style: str | Style) -> Style:
    """A style by the theme's variables; one that can't be read is none."""
    if isinstance(style, Style):
        return style
    try:
        return Style.parse(style)
    except Exception:  # noqa: BLE001 - textual's own parser errors; a look is not worth a crash
        return Style.null()
