"""The stages of a job in a line: a sign and a word for each, how long it took under it.

- Arrows move a cursor over the stages, a click puts it there; `Moved` names the stage.
- Where the width is not enough for all words, the line says which stage it is, and which is next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from rich.cells import cell_len
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from tui.facts import STAGES, Stage, StageState
from tui.state.lines import Line, fit, line, text_of
from tui.state.rows import Tone, Words, say
from tui.text import span
from tui.widgets.line_view import line_content

SIGNS: Final[Mapping[StageState, tuple[str, Tone]]] = {
    StageState.WAITING: ("·", Tone.FAINT),
    StageState.RUNNING: ("●", Tone.STRONG),
    StageState.DONE: ("✓", Tone.GOOD),
    StageState.FAILED: ("✗", Tone.BAD),
    StageState.SKIPPED: ("-", Tone.FAINT),
}
GAP: Final = 2


def state_of(stages: Mapping[str, Stage], name: str) -> StageState:
    """Where a stage stands; nothing was heard of it: it waits."""
    return stages[name].state if name in stages else StageState.WAITING


def now_at(stages: Mapping[str, Stage]) -> str:
    """The stage that runs or failed; else the first that is not over; else the last."""
    for wanted in ({StageState.FAILED, StageState.RUNNING}, {StageState.WAITING}):
        for name in STAGES:
            if state_of(stages, name) in wanted:
                return name
    return STAGES[-1]


def took(stage: Stage | None) -> str:
    """How long, in words; empty: not known."""
    return "" if stage is None or stage.milliseconds is None else span(stage.milliseconds)


def wide_lines(
    stages: Mapping[str, Stage], cursor: str
) -> tuple[Line, Line, list[tuple[int, int, str]]]:
    """Signs and names; times; and the columns of each stage."""
    names: list[Words] = []
    times: list[Words] = []
    places: list[tuple[int, int, str]] = []
    column = 0
    for name in STAGES:
        sign, tone = SIGNS[state_of(stages, name)]
        words, time = f"{sign} {name}", took(stages.get(name))
        cells = max(len(words), cell_len(time) + 2)
        names.append(_marked(fit(words, cells), tone, cursor=name == cursor))
        names.append(say(" " * GAP))
        times += [say(fit(f"  {time}", cells + GAP), Tone.FAINT)]
        places.append((column, column + cells, name))
        column += cells + GAP
    return tuple(names), tuple(times), places


def narrow_line(
    stages: Mapping[str, Stage], cursor: str
) -> tuple[Line, list[tuple[int, int, str]]]:
    """``stage 7 of 9: train, 18 m   ✓✓✓✓✓✓●··   next: receipt``."""
    here = now_at(stages)
    at = STAGES.index(here)
    time = took(stages.get(here))
    state = state_of(stages, here)
    words = f"stage {at + 1} of {len(STAGES)}: {here}"
    words += f", {time}" if time else ""
    words += " FAILED" if state is StageState.FAILED else ""
    words += "   "
    parts = [say(words, Tone.BAD if state is StageState.FAILED else Tone.PLAIN)]
    places = []
    for index, name in enumerate(STAGES):
        sign, tone = SIGNS[state_of(stages, name)]
        parts.append(_marked(sign, tone, cursor=name == cursor))
        places.append((cell_len(words) + index, cell_len(words) + index + 1, name))
    over = state in {StageState.DONE, StageState.SKIPPED, StageState.FAILED}
    if not over and at + 1 < len(STAGES):
        parts.append(say(f"   next: {STAGES[at + 1]}", Tone.FAINT))
    return tuple(parts), places


def _marked(text: str, tone: Tone, *, cursor: bool) -> Words:
    return say(text, Tone.LOUD if cursor else tone)


def plain_lines(stages: Mapping[str, Stage]) -> list[str]:
    """A line for each stage, with words where there are signs."""
    found = []
    for number, name in enumerate(STAGES, start=1):
        stage = stages.get(name)
        words = [f"stage {number} of {len(STAGES)}", name, state_of(stages, name).value]
        if stage is not None:
            words += [each for each in (took(stage), stage.actor, stage.words) if each]
        found.append(", ".join(words))
    return found


class StageLine(Widget, can_focus=True):
    """The stages of one job."""

    DEFAULT_CSS = """
    StageLine { height: 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Stage before", show=False),
        Binding("right", "step(1)", "Next stage", show=False),
    ]

    class Moved(Message):
        """The cursor stands on a stage; an empty name: on none."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - textual's name
        super().__init__(id=id)
        self.stages: Mapping[str, Stage] = {}
        self.cursor = ""
        self._places: Sequence[tuple[int, int, str]] = ()

    def show(self, stages: Mapping[str, Stage]) -> None:
        """Show these."""
        if stages != self.stages:
            self.stages = stages
            self.refresh()

    def render(self) -> RenderResult:
        """Two lines where all names fit, else one."""
        first, second, places = wide_lines(self.stages, self.cursor)
        if places[-1][1] <= self.size.width and self.size.height > 1:
            self._places = places
            return Content.assemble(line_content(first), "\n", line_content(second))
        narrow, self._places = narrow_line(self.stages, self.cursor)
        return line_content(narrow)

    @property
    def words(self) -> str:
        """What a narrow line says."""
        return text_of(line(*narrow_line(self.stages, "")[0]))

    def on_focus(self) -> None:
        """The cursor stands where the job stands."""
        self._put(self.cursor or now_at(self.stages))

    def on_blur(self) -> None:
        """No cursor."""
        self._put("")

    def action_step(self, by: int) -> None:
        """The stage beside."""
        at = STAGES.index(self.cursor or now_at(self.stages)) + by
        self._put(STAGES[max(0, min(at, len(STAGES) - 1))])

    def on_click(self, event: Click) -> None:
        """The stage under the pointer."""
        for first, end, name in self._places:
            if first <= event.x < end:
                self._put(name)

    def _put(self, name: str) -> None:
        if name != self.cursor:
            self.cursor = name
            self.refresh()
            self.post_message(self.Moved(name))
