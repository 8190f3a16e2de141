"""A table that asks for the rows that are seen, and for no others: 100,000 cost what 40 cost.

    COLUMNS = (
        Column(id="id", label="offer", width=12, rank=0, grows=True),
        Column(id="ask", label="cr/h", width=8, rank=0, right=True),
        Column(id="host", label="host", width=13, rank=2),   # the highest rank goes first
    )

    def body(self):
        yield VirtualTable(COLUMNS, id="table")

    def draw(self):                       # called each second: with an equal stamp nothing happens
        table = self.query_one(VirtualTable)
        table.show(state.total, lambda at: row_at(state, at), stamp=state.rows)
        table.show_sort("ask", descending=False)

    @on(VirtualTable.Wanted)              # rows came as None and are seen: fetch them
    @on(VirtualTable.RowHighlighted)      # the cursor stands on another row; `.key`, `.index`
    @on(VirtualTable.RowSelected)         # Enter, or a double click
    @on(VirtualTable.RowMarked)           # space, where `marks=True`; all marks: `table.marked`
    @on(VirtualTable.SortWanted)          # a click on a head, or `o` and `O`: `.column`; sort, show

Rules:
- Count and rows come in one call, so they can't disagree. A row that is not there yet is None, and
  drawn as ``…``; so is one whose getter raises. Drawing never raises.
- The table sorts nothing and keeps no row: who gave the rows sorts them.
- A step of the cursor repaints two lines.
- Cells are text, never markup; what could act on a terminal is replaced; wide glyphs are cut whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.state.rows import Row, Tone, Words, say, texts
from tui.widgets.columns import Column, fit_columns, fit_text, gap_of

__all__ = ["Column", "Row", "Tone", "VirtualTable", "Words", "fit_columns", "say", "texts"]

GUTTER: Final = 2
"""Cells before the first column: the cursor's sign, and the mark's."""

GetRow = Callable[[int], Row | None]


class VirtualTable(ScrollView, can_focus=True):
    """See the module's docstring for its use."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    VirtualTable { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto;
        scrollbar-size-vertical: 1; background: $background; color: $foreground; }
    VirtualTable > .virtual-table--head { color: $secondary; text-style: bold; }
    VirtualTable > .virtual-table--cursor { background: $panel; }
    VirtualTable:focus > .virtual-table--cursor { text-style: reverse; }
    VirtualTable > .virtual-table--strong { text-style: bold; }
    VirtualTable > .virtual-table--faint { color: $foreground 70%; }
    VirtualTable > .virtual-table--good { color: $success; }
    VirtualTable > .virtual-table--bad { color: $error; text-style: bold; }
    VirtualTable > .virtual-table--warn { color: $warning; }
    VirtualTable > .virtual-table--loud { text-style: reverse bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "virtual-table--head",
        "virtual-table--cursor",
        *(f"virtual-table--{tone.value}" for tone in Tone if tone is not Tone.PLAIN),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", key_display="⏎"),
        Binding("o", "sort(1)", "Sort"),
        Binding("O", "turn_sort", "Sort the other way", show=False),
        Binding("space", "mark", "Mark", show=False),
        Binding("z", "enlarge", "Enlarge, or back", show=False),
        Binding("up,k", "step(-1)", "Up", show=False),
        Binding("down,j", "step(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "end(False)", "First", show=False),
        Binding("end,G", "end(True)", "Last", show=False),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)
    """Index of the row that the cursor is on; 0 also while there is none."""

    class OfTable(Message):
        """A message of a table; `@on` may name its id."""

        def __init__(self, table: VirtualTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> VirtualTable:
            """The table."""
            return self.table

    class OfRow(OfTable):
        """A message about a row."""

        def __init__(self, table: VirtualTable, index: int, key: str) -> None:
            super().__init__(table)
            self.index, self.key = index, key
            """The key is empty while the row is not there."""

    class RowHighlighted(OfRow):
        """The cursor came to this row."""

    class RowSelected(OfRow):
        """Somebody opens this row; it is there."""

    class RowMarked(OfRow):
        """A mark was set on this row, or taken off."""

    class Wanted(OfTable):
        """Rows `start` … that are seen are not there. Said once until `show` brings others."""

        def __init__(self, table: VirtualTable, start: int, count: int) -> None:
            super().__init__(table)
            self.start, self.count = start, count

    class SortWanted(OfTable):
        """Sort by this column, please, and say so by `show_sort`."""

        def __init__(self, table: VirtualTable, column: str, *, descending: bool) -> None:
            super().__init__(table)
            self.column, self.descending = column, descending

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        marks: bool = False,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.count = 0
        self.marked: frozenset[str] = frozenset()
        self._marks = marks
        self._get: GetRow = _no_row
        self._stamp: object = None
        self._cursor_key = ""
        self._sorted: tuple[str, bool] | None = None
        self._asked: tuple[int, int] | None = None

    # --- what is shown ----------------------------------------------------------------------------

    def show(self, count: int, get: GetRow, *, stamp: object = None) -> None:
        """Show these rows. With a `stamp` equal to the last one, and the same count, nothing
        happens; without one everything is drawn. The cursor stays with its row if that is near.
        """
        count = max(0, count)
        if stamp is not None and stamp == self._stamp and count == self.count:
            return
        self._stamp, self._get, self.count, self._asked = stamp, get, count, None
        size = Size(self.size.width, count + 1)
        if self.virtual_size != size:
            self.virtual_size = size
        before = self._cursor_key
        self.set_reactive(VirtualTable.cursor, self._place_of_cursor())
        self._cursor_key = self.key_at(self.cursor)
        self.refresh()
        self._show_cursor()
        if self._cursor_key != before:
            self.post_message(self.RowHighlighted(self, self.cursor, self._cursor_key))
        self._want()

    def show_sort(self, column: str, *, descending: bool) -> None:
        """Mark the head of the column that the rows are sorted by."""
        if self._sorted != (column, descending):
            self._sorted = (column, descending)
            self.refresh()

    def row_at(self, index: int) -> Row | None:
        """A row; None: it is not there."""
        if not 0 <= index < self.count:
            return None
        try:
            return self._get(index)
        except Exception:  # noqa: BLE001 - an error while drawing would end the window
            return None

    def key_at(self, index: int) -> str:
        """A row's key; empty: it is not there."""
        row = self.row_at(index)
        return "" if row is None else row.key

    def move_to(self, index: int) -> None:
        """Put the cursor on a row, and let it be seen."""
        self.cursor = index
        self._show_cursor()

    def _place_of_cursor(self) -> int:
        at = max(0, min(self.cursor, self.count - 1))
        if not self._cursor_key or self.key_at(at) == self._cursor_key:
            return at
        reach = max(8, self.size.height * 2)
        near = sorted(
            range(max(0, at - reach), min(self.count, at + reach)), key=lambda i: abs(i - at)
        )
        return next((each for each in near if self.key_at(each) == self._cursor_key), at)

    # --- the cursor -------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int) -> int:
        """Within the rows."""
        return max(0, min(cursor, self.count - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        """Two lines differ."""
        self._cursor_key = self.key_at(new)
        self.refresh_lines(old + 1)
        self.refresh_lines(new + 1)
        self.post_message(self.RowHighlighted(self, new, self._cursor_key))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Other rows are seen."""
        super().watch_scroll_y(old_value, new_value)
        self._want()

    def on_resize(self, event: Resize) -> None:  # noqa: ARG002 - textual's signature
        """Other rows are seen, and the cursor must be among them."""
        size = Size(self.size.width, self.count + 1)
        if self.virtual_size != size:
            self.virtual_size = size
        self._show_cursor()
        self._want()

    def _seen(self) -> tuple[int, int]:
        """First row that is seen, and how many there is room for."""
        return self.scroll_offset.y, max(1, self.size.height - 1)

    def _show_cursor(self) -> None:
        first, rows = self._seen()
        if self.cursor < first:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= first + rows:
            self.scroll_to(y=self.cursor - rows + 1, animate=False)

    def _want(self) -> None:
        """Ask once for rows that are seen and not there."""
        first, rows = self._seen()
        missing = [
            at for at in range(first, min(first + rows, self.count)) if self.row_at(at) is None
        ]
        if missing:
            wanted = (missing[0], missing[-1] - missing[0] + 1)
            if wanted != self._asked:
                self._asked = wanted
                self.post_message(self.Wanted(self, *wanted))

    # --- keys and mouse ---------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Keys that can do nothing here are not shown."""
        if action in {"sort", "turn_sort"}:
            return any(each.sortable for each in self.columns)
        return self._marks if action == "mark" else True

    def action_step(self, by: int) -> None:
        """One row up or down."""
        self.move_to(self.cursor + by)

    def action_page(self, by: int) -> None:
        """A page up or down."""
        self.move_to(self.cursor + by * self._seen()[1])

    def action_end(self, last: bool) -> None:  # noqa: FBT001 - an action's argument
        """To the first row, or the last."""
        self.move_to(self.count - 1 if last else 0)

    def action_select(self) -> None:
        """Open the row."""
        if key := self.key_at(self.cursor):
            self.post_message(self.RowSelected(self, self.cursor, key))

    def action_mark(self) -> None:
        """Set a mark, or take it off."""
        key = self.key_at(self.cursor)
        if self._marks and key:
            self.marked ^= {key}
            self.refresh_lines(self.cursor + 1)
            self.post_message(self.RowMarked(self, self.cursor, key))

    def set_marks(self, keys: Iterable[str]) -> None:
        """These rows are marked, and no others."""
        marked = frozenset(keys)
        if marked != self.marked:
            self.marked = marked
            self.refresh()

    def action_sort(self, by: int) -> None:
        """Sort by the next column that can be sorted."""
        names = [each.id for each in self.columns if each.sortable]
        if names:
            here = self._sorted[0] if self._sorted else ""
            at = names.index(here) + by if here in names else 0
            self.post_message(self.SortWanted(self, names[at % len(names)], descending=False))

    def action_enlarge(self) -> None:
        """The table alone, or among the rest again; Escape does that too."""
        if self.screen.maximized is None:
            self.screen.maximize(self)
        else:
            self.screen.minimize()

    def action_turn_sort(self) -> None:
        """Sort the other way round."""
        if self._sorted:
            self.post_message(
                self.SortWanted(self, self._sorted[0], descending=not self._sorted[1])
            )

    def on_click(self, event: Click) -> None:
        """A head sorts, a row takes the cursor, a second click opens."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            self._click_on_head(offset.x)
            return
        index = offset.y - 1 + self.scroll_offset.y
        if index < self.count:
            self.move_to(index)
            if event.chain == 2:
                self.action_select()

    def _click_on_head(self, x: int) -> None:
        for column, start, end in self._places():
            if start <= x < end and column.sortable:
                turned = self._sorted == (column.id, False)
                self.post_message(self.SortWanted(self, column.id, descending=turned))

    # --- drawing ----------------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width  # without the scrollbar's column

    @property
    def _gap(self) -> int:
        return gap_of(self._width - GUTTER)

    def _fitted(self) -> tuple[tuple[int, Column, int], ...]:
        return fit_columns(self.columns, max(0, self._width - GUTTER))

    def _places(self) -> list[tuple[Column, int, int]]:
        """Columns, and the cells from which and up to which each reaches, its gap included."""
        found, at, gap = [], GUTTER, self._gap
        for _, column, width in self._fitted():
            found.append((column, at, at + width + gap))
            at += width + gap
        return found

    def render_line(self, y: int) -> Strip:
        """The head, or a row."""
        width = self._width
        if y == 0:
            return self._head(width)
        index = y - 1 + self.scroll_offset.y
        base = self.rich_style
        if index >= self.count:
            return Strip.blank(width, base)
        return self._row(index, width, base)

    def _head(self, width: int) -> Strip:
        style = self.rich_style + self._part("head")
        segments = [Segment(" " * GUTTER, style)]
        gap = " " * self._gap
        for _, column, cells in self._fitted():
            sign = ""
            if self._sorted and self._sorted[0] == column.id:
                sign = "▼" if self._sorted[1] else "▲"
            segments.append(
                Segment(fit_text(f"{column.label}{sign}", cells, right=column.right), style)
            )
            segments.append(Segment(gap, style))
        return Strip(segments).adjust_cell_length(width, style)

    def _row(self, index: int, width: int, base: Style) -> Strip:
        row = self.row_at(index)
        here = index == self.cursor
        over = self._part("cursor") if here else Style.null()
        marked = row is not None and row.key in self.marked
        sign = ("▌" if here else " ") + ("*" if marked else " ")
        segments = [Segment(sign, base + over)]
        if row is None:
            segments.append(Segment("…", base + self._part("faint") + over))
        else:
            gap = " " * self._gap
            for at, column, cells in self._fitted():
                cell = row.cells[at] if at < len(row.cells) else ""
                text, tone = (cell, row.tone) if isinstance(cell, str) else (cell.text, cell.tone)
                segments.append(
                    Segment(
                        fit_text(text, cells, right=column.right), base + self._tone(tone) + over
                    )
                )
                segments.append(Segment(gap, base + over))
        return Strip(segments).adjust_cell_length(width, base + over)

    def _tone(self, tone: Tone) -> Style:
        return Style.null() if tone is Tone.PLAIN else self._part(tone.value)

    def _part(self, name: str) -> Style:
        return self.get_component_rich_style(f"virtual-table--{name}", partial=True)


def _no_row(_: int) -> Row | None:
    return None
