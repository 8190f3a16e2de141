"""Stages in a line: signs with words, the one that acts, a cursor by keys and by mouse."""

from __future__ import annotations

from textual.app import App

from tests.tui.scenes.job import stages_until
from tui.facts import STAGES, StageState
from tui.state.lines import text_of
from tui.widgets.stage_line import (
    StageLine,
    narrow_line,
    now_at,
    plain_lines,
    wide_lines,
)

TRAINS = {each.name: each for each in stages_until("train", StageState.RUNNING)}
FAILED = {each.name: each for each in stages_until("evidence", StageState.FAILED, "tcb too old")}


def test_each_stage_has_a_sign_a_word_and_its_time_under_it():
    names, times, places = wide_lines(TRAINS, "")
    words = text_of(names)
    for name in STAGES[:6]:
        assert f"✓ {name}" in words
    assert "● train" in words
    assert "· settle" in words
    at = words.index("train")
    assert text_of(times)[at : at + 4] == "18 m"
    assert [each[2] for each in places] == list(STAGES)
    assert all(words[first + 2 :].startswith(name) for first, _, name in places)


def test_a_narrow_line_says_which_stage_it_is_and_which_is_next():
    line, places = narrow_line(TRAINS, "")
    assert text_of(line) == "stage 7 of 9: train, 18 m   ✓✓✓✓✓✓●··   next: receipt"
    assert len(text_of(line)) <= 78
    assert [text_of(line)[first] for first, _, _ in places] == list("✓✓✓✓✓✓●··")


def test_a_failure_is_a_word_and_not_only_a_sign():
    line, _ = narrow_line(FAILED, "")
    assert text_of(line).startswith("stage 5 of 9: evidence FAILED")
    assert "next" not in text_of(line)
    assert now_at(FAILED) == "evidence"
    assert now_at({}) == "seal"
    assert "stage 5 of 9, evidence, failed" in "\n".join(plain_lines(FAILED))
    assert all(not set(each) & set("✓✗●·") for each in plain_lines(FAILED))


class Shown(App[None]):
    AUTO_FOCUS = ""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[str] = []

    def compose(self):
        yield StageLine()

    def on_stage_line_moved(self, message: StageLine.Moved) -> None:
        self.moved.append(message.name)


async def test_keys_and_mouse_put_the_cursor_on_a_stage():
    app = Shown()
    async with app.run_test(size=(110, 10)) as pilot:
        line = app.query_one(StageLine)
        line.show(TRAINS)
        line.focus()
        await pilot.press("left")
        assert app.moved == ["train", "release"]
        await pilot.click(StageLine, offset=(3, 0))
        assert app.moved[-1] == "seal"
        await pilot.press("left")
        assert line.cursor == "seal"
