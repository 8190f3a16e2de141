"""The table asks for the rows that are seen, draws whatever they hold, and never raises."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from tui.wall import Wall
from tui.widgets.columns import fit_columns, fit_text
from tui.widgets.virtual_table import Column, Row, Tone, VirtualTable, Words

COLUMNS = (
    Column(id="name", label="name", width=10, grows=True, sortable=True),
    Column(id="cost", label="cr/h", width=8, right=True, sortable=True),
    Column(id="host", label="host", width=12, rank=1),
    Column(id="more", label="more", width=20, rank=2),
)


class Bench(App[None]):
    """A table alone, and what it said."""

    def __init__(self, *, marks: bool = False) -> None:
        super().__init__()
        self.wall, self.said, self.got = Wall(), [], []
        self.marks = marks

    def compose(self) -> ComposeResult:
        yield VirtualTable(COLUMNS, marks=self.marks)

    def on_mount(self) -> None:
        self.table.focus()

    def get_line_filters(self):
        return [*super().get_line_filters(), self.wall]

    @property
    def table(self) -> VirtualTable:
        return self.query_one(VirtualTable)

    def row(self, index: int) -> Row:
        self.got.append(index)
        return Row(key=f"k{index}", cells=(f"row {index}", f"{index}.5", "host", "more"))

    def lines(self) -> list[str]:
        strips = self.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip) for strip in strips]

    def on_virtual_table_row_highlighted(self, message):
        self.said.append(message)

    on_virtual_table_row_selected = on_virtual_table_row_highlighted
    on_virtual_table_row_marked = on_virtual_table_row_highlighted
    on_virtual_table_wanted = on_virtual_table_row_highlighted
    on_virtual_table_sort_wanted = on_virtual_table_row_highlighted

    def of(self, kind: type) -> list:
        return [each for each in self.said if type(each) is kind]


async def test_a_hundred_thousand_rows_are_painted_by_asking_for_those_that_are_seen():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        start = time.perf_counter()
        app.table.show(100_000, app.row)
        await pilot.pause()
        assert time.perf_counter() - start < 1.0  # the figure itself is benchmarks'
        assert "row 0" in app.lines()[1]
        assert "row 22" in app.lines()[23]
        assert set(app.got) <= set(range(60))
        app.got.clear()
        await pilot.press("G")
        assert "row 99999" in app.lines()[23]
        assert len(set(app.got)) < 200


async def test_a_step_of_the_cursor_asks_for_two_rows_and_tells_of_one():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(1000, app.row)
        await pilot.pause()
        app.got.clear()
        app.said.clear()
        await pilot.press("down")
        assert set(app.got) == {0, 1}
        (moved,) = app.of(VirtualTable.RowHighlighted)
        assert (moved.index, moved.key) == (1, "k1")
        assert app.lines()[2].startswith("▌")
        assert app.lines()[1].startswith(" ")


async def test_a_row_that_is_not_there_is_an_ellipsis_and_is_asked_for_once():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(50, lambda at: app.row(at) if at < 10 else None)
        await pilot.pause()
        assert "…" in app.lines()[12]
        (wanted,) = app.of(VirtualTable.Wanted)
        assert (wanted.start, wanted.count) == (10, 13)
        await pilot.press("down", "enter")
        assert len(app.of(VirtualTable.Wanted)) == 1
        assert app.of(VirtualTable.RowSelected)[0].key == "k1"
        await pilot.press("G", "enter")
        assert len(app.of(VirtualTable.RowSelected)) == 1  # what is not there can't be opened


async def test_a_getter_that_raises_ends_nothing():
    def broken(index: int) -> Row:
        raise ZeroDivisionError

    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(5, broken)
        await pilot.press("down", "enter", "G", "g")
        assert app.lines()[1].strip("▌ \n") == "…"
    assert app._exception is None


async def test_the_cursor_stays_with_its_row_and_within_the_rows():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(100, app.row)
        await pilot.press("down", "down", "down")
        app.table.show(101, lambda at: app.row(at - 1) if at else Row(key="new", cells=("new",)))
        await pilot.pause()
        assert app.table.key_at(app.table.cursor) == "k3"
        assert app.table.cursor == 4
        await pilot.press("G")
        app.table.show(2, app.row)
        await pilot.pause()
        assert app.table.cursor == 1
        assert "row 0" in app.lines()[1]
        app.table.show(0, app.row)
        await pilot.press("down", "up", "enter", "space", "pagedown")
        assert "row" not in "".join(app.lines())


async def test_an_equal_stamp_draws_nothing():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(10, app.row, stamp=(1, "a"))
        await pilot.pause()
        app.got.clear()
        app.table.show(10, app.row, stamp=(1, "a"))
        await pilot.pause()
        assert app.got == []
        app.table.show(10, app.row, stamp=(2, "a"))
        await pilot.pause()
        assert app.got


async def test_heads_sort_by_click_and_by_key_and_a_second_time_the_other_way():
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(10, app.row)
        await pilot.click(VirtualTable, offset=(4, 0))
        assert (app.said[-1].column, app.said[-1].descending) == ("name", False)
        app.table.show_sort("name", descending=False)
        await pilot.pause()
        assert "name▲" in app.lines()[0]
        await pilot.click(VirtualTable, offset=(4, 0))
        assert (app.said[-1].column, app.said[-1].descending) == ("name", True)
        await pilot.press("o")
        assert (app.said[-1].column, app.said[-1].descending) == ("cost", False)
        await pilot.press("O")
        assert (app.said[-1].column, app.said[-1].descending) == ("name", True)


async def test_a_click_takes_the_cursor_and_a_second_one_opens():
    app = Bench(marks=True)
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.show(10, app.row)
        await pilot.click(VirtualTable, offset=(4, 5))
        assert app.table.cursor == 4
        assert not app.of(VirtualTable.RowSelected)
        await pilot.click(VirtualTable, offset=(4, 5), times=2)
        assert app.of(VirtualTable.RowSelected)[-1].key == "k4"
        await pilot.press("space")
        assert app.table.marked == {"k4"}
        assert app.lines()[5].startswith("▌*")
        await pilot.press("space")
        assert app.table.marked == frozenset()
        await pilot.click(VirtualTable, offset=(4, 20))  # below the last row
        assert app.table.cursor == 4


HOSTILE = [
    "\x1b]52;c;eA==\x1b\\",
    "\x9b2J",
    "\u202eevil",
    "[@click=app.quit]x[/]",
    "\u8868" * 60,
    "e\u0301" * 40,
    "\U0001f469\u200d\U0001f680" * 20,
    "a\nb\tc",
    "\u200b" * 30,
    "x" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_keeps_every_line_its_length_and_acts_on_nothing(text):
    app = Bench()
    async with app.run_test(size=(80, 24)) as pilot:
        cells = (text, Words(text=text, tone=Tone.BAD), text, text, "one too many")
        app.table.show(3, lambda at: Row(key=f"k{at}", cells=cells))
        await pilot.pause()
        for line in app.lines():
            assert line.isprintable()
            assert cell_len(line) == 80
        if not text.replace("\u200d", "").isprintable():
            assert "\ufffd" in app.lines()[1]  # what is replaced is seen


@given(st.text(max_size=60), st.integers(0, 30), st.booleans())
def test_text_fits_exactly(text, cells, right):
    assert cell_len(fit_text(text, cells, right=right)) == cells


@given(st.integers(-5, 300))
def test_columns_go_by_rank_and_those_of_rank_nought_stay(width):
    fitted = fit_columns(COLUMNS, width)
    names = [column.id for _, column, _ in fitted]
    assert names[:2] == ["name", "cost"]
    assert names in (["name", "cost"], ["name", "cost", "host"], ["name", "cost", "host", "more"])
    if width >= 20:
        assert sum(cells for _, _, cells in fitted) <= width
