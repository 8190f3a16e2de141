"""Lines by the line API: 20,000 cost a screenful; search, following, wide glyphs, hostile text."""

from __future__ import annotations

import time

from textual.app import App

from tui.state.lines import Line, fit, line, one, right, width_of, wrapped
from tui.state.rows import Tone, say
from tui.wall import Wall
from tui.widgets.line_view import LineView

HOSTILE = "\x1b]52;c;AAAA\x07 \x9b2J \u202eabc [@click=app.quit]x[/] a\u200db\nc"


def drawn(row: str) -> Line:
    return line(say("12:00:00 ", Tone.FAINT), row)


class Shown(App[None]):
    def __init__(self, **options) -> None:
        super().__init__()
        self.view = LineView(drawn, text=str, **options)
        self.chosen: list[int] = []
        self._wall = Wall()

    def compose(self):
        yield self.view

    def get_line_filters(self):
        return [*super().get_line_filters(), self._wall]

    def on_line_view_chosen(self, message: LineView.Chosen) -> None:
        self.chosen.append(message.index)

    def lines(self) -> list[str]:
        strips = self.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip) for strip in strips]


ROWS = tuple(
    f"event {number} {'ERROR' if number % 1000 == 7 else 'fine'}" for number in range(20_000)
)


async def test_twenty_thousand_lines_are_shown_searched_and_walked_quickly():
    app = Shown(cursor=True)
    async with app.run_test(size=(80, 24)) as pilot:
        begin = time.process_time()
        app.view.show(ROWS)
        await pilot.pause()
        shown = time.process_time() - begin
        assert "event 0 fine" in app.lines()[0]
        begin = time.process_time()
        assert app.view.search("error") == 20
        searched = time.process_time() - begin
        assert (shown, searched) < (0.5, 0.5)
        assert app.view.go_to_hit(1) == 7
        assert app.view.go_to_hit(1) == 1007
        assert app.view.go_to_hit(-1) == 7
        assert app.view.go_to_hit(-1) == 19_007
        await pilot.pause()
        assert any("event 19007 ERROR" in each for each in app.lines())
        app.view.focus()
        await pilot.press("end", "enter", "up", "enter", "home", "pagedown")
        assert app.chosen == [19_999, 19_998]
        assert app.view.cursor == 23


async def test_hits_grow_with_the_lines_and_a_new_search_begins_anew():
    app = Shown(cursor=True)
    async with app.run_test(size=(40, 10)):
        app.view.show(ROWS[:500])
        assert app.view.search("ERROR") == 1
        app.view.show(ROWS[:3000])
        assert app.view.hits == [7, 1007, 2007]
        assert app.view.search("event 2999") == 1
        assert app.view.search("nowhere") == 0
        assert app.view.go_to_hit(1) is None
        app.view.show(("another", "event"))
        assert app.view.search("event") == 1


async def test_the_end_is_followed_until_somebody_looks_up_and_again_from_the_end():
    app = Shown(follow=True)
    async with app.run_test(size=(40, 5)) as pilot:
        app.view.focus()
        app.view.show(ROWS[:50])
        await pilot.pause()
        assert "event 49" in app.lines()[-1]
        app.view.show(ROWS[:60])
        await pilot.pause()
        assert "event 59" in app.lines()[-1]
        await pilot.press("up", "up")
        app.view.show(ROWS[:70])
        await pilot.pause()
        assert "event 57" in app.lines()[-1]
        await pilot.press("end")
        app.view.show(ROWS[:80])
        await pilot.pause()
        assert "event 79" in app.lines()[-1]


async def test_a_double_click_opens_the_line_under_the_pointer():
    app = Shown(cursor=True)
    async with app.run_test(size=(40, 10)) as pilot:
        app.view.show(ROWS[:100])
        await pilot.pause()
        await pilot.click(LineView, offset=(5, 3))
        assert (app.view.cursor, app.chosen) == (3, [])
        await pilot.click(LineView, offset=(5, 4), times=2)
        assert app.chosen == [4]
        await pilot.click(LineView, offset=(5, 9))
        assert app.view.row == ROWS[9]


async def test_no_line_moves_the_cursor_of_the_terminal_and_each_fills_its_width():
    app = Shown(cursor=True)
    async with app.run_test(size=(30, 8)) as pilot:
        app.view.show((HOSTILE, "日本語" * 20, "é" * 40, "\t", "", HOSTILE * 500))
        await pilot.pause()
        lines = app.lines()
        for each in lines:
            assert each.isprintable()
        for index in range(8):
            assert app.view.render_line(index).cell_length == 30
        assert "[@click=app.quit]" in app.view.render_line(0).text or "�" in lines[0]
        app.view.focus()
        await pilot.press("right", "right", "right", "right")
        await pilot.pause()
        assert "x[/]" in app.lines()[0]
        for index in range(8):
            assert app.view.render_line(index).cell_length == 30


async def test_a_row_whose_words_raise_is_drawn_as_one_that_lacks():
    app = Shown()
    app.view._draw = lambda row: one(f"{100 // row}")
    async with app.run_test(size=(20, 3)) as pilot:
        app.view.show((5, 0, 4))
        await pilot.pause()
        assert [each.strip() for each in app.lines()] == ["20", "…", "25"]


async def test_a_hit_is_marked_where_it_stands():
    app = Shown()
    async with app.run_test(size=(60, 6)) as pilot:
        app.view.show(ROWS[:10])
        app.view.search("error")
        await pilot.pause()
        marked = [segment.text for segment in app.view.render_line(7) if segment.style.reverse]
        assert marked == ["ERROR"]


def test_words_fit_into_cells_and_not_into_characters():
    assert fit("日本語", 5) == "日本…"
    assert fit("日本語", 4) == "日 …"
    assert fit("ab", 4) == "ab  "
    assert right("12", 4) == "  12"
    for cells in range(1, 12):
        assert width_of(line(fit("日本語abc", cells))) == cells
        assert all(
            width_of(line(each)) <= max(2, cells) for each in wrapped("日本語 abcdef", cells)
        )
    assert wrapped("one two three", 7) == ["one two", "three"]
