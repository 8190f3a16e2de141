"""The loss plot: braille, blocks or words, drawn from a folded curve.

- A redraw looks at buckets, not at points: 10,000 points cost what 1,024 buckets cost.
- Each column shows the span from its lowest to its highest value, joined to its neighbour's.
- Marks stand on the axis: ``▲host lost, resumed at 600``, under the step where it was.
- `WORDS` draws nothing: the curve as its sentence and ten numbers.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.strip import Strip
from textual.widget import Widget

from tui.state.curve import Curve, Mark, decimal, numbers, sentence
from tui.state.lines import wrapped
from tui.text import clean

LABEL_CELLS: Final = 8
"""Of the scale at the left, and its line."""
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
MARKS_MAX: Final = 16


class PlotStyle(enum.StrEnum):
    """How a curve is drawn."""

    BRAILLE = "braille"
    BLOCKS = "blocks"
    WORDS = "words"


def draw(
    curve: Curve, width: int, height: int, style: PlotStyle, marks: Sequence[Mark] = ()
) -> list[str]:
    """`height` lines of at most `width` cells: scale and curve, then the axis with its marks."""
    if width < 1 or height < 1:
        return []
    if curve.empty:
        return ["no loss yet", *[""] * (height - 1)]
    columns, rows = width - LABEL_CELLS, height - 1
    marks = [_cleaned(each, width) for each in marks[:MARKS_MAX]]
    if style is PlotStyle.WORDS or columns < 8 or rows < 2:
        words = [*wrapped(sentence(curve), width), *wrapped(numbers(curve), width)]
        words += [f"at step {each.step:,}: {each.words}" for each in marks]
        return (words + [""] * height)[:height]
    fine = (2, 4) if style is PlotStyle.BRAILLE else (1, 8)
    spans, low, high = _spans(curve, columns * fine[0])
    picture = _braille if style is PlotStyle.BRAILLE else _blocks
    body = picture(_levels(spans, low, high, rows * fine[1]), columns, rows)
    labels = _labels(low, high, rows)
    lines = [
        f"{label:>6}{'┤' if label else '│'} {each}"
        for label, each in zip(labels, body, strict=True)
    ]
    return [*lines, _axis(curve, columns, marks)]


def _spans(curve: Curve, columns: int) -> tuple[list[tuple[float, float] | None], float, float]:
    """Lowest and highest value of each column; and of all."""
    count = len(curve.buckets)
    spans: list[tuple[float, float] | None] = [None] * columns
    low = high = curve.last.value if curve.last else 0.0
    for at, bucket in enumerate(curve.buckets):
        if bucket is None:
            continue
        column = at * columns // count if count > columns else _spread(at, count, columns)
        held = spans[column]
        least, most = bucket.low, bucket.high
        spans[column] = (least, most) if held is None else (min(held[0], least), max(held[1], most))
        low, high = min(low, least), max(high, most)
    return spans, low, high


def _spread(at: int, count: int, columns: int) -> int:
    return at * (columns - 1) // max(1, count - 1)


def _levels(
    spans: Sequence[tuple[float, float] | None], low: float, high: float, dots: int
) -> list[tuple[int, int] | None]:
    """Each span in dots from the bottom; gaps are bridged by a line, neighbours touch."""
    scale = (dots - 1) / (high - low) if high > low else 0.0
    found: list[tuple[int, int] | None] = [
        None if each is None else (round((each[0] - low) * scale), round((each[1] - low) * scale))
        for each in spans
    ]
    filled = [at for at, each in enumerate(found) if each is not None]
    for here, there in itertools.pairwise(filled):
        first, second = found[here], found[there]
        assert first is not None
        assert second is not None
        start, end = sum(first) / 2, sum(second) / 2
        for at in range(here + 1, there):
            middle = round(start + (end - start) * (at - here) / (there - here))
            found[at] = (middle, middle)
    for at in range(1, len(found)):
        before, now = found[at - 1], found[at]
        if before is None or now is None:
            continue
        if now[0] > before[1] + 1:
            found[at] = (before[1] + 1, now[1])
        elif now[1] < before[0] - 1:
            found[at] = (now[0], before[0] - 1)
    return found


def _braille(levels: Sequence[tuple[int, int] | None], columns: int, rows: int) -> list[str]:
    cells = [[0] * columns for _ in range(rows)]
    top = rows * 4 - 1
    for at, level in enumerate(levels):
        if level is None:
            continue
        column, dots = at // 2, _DOTS[at % 2]
        for dot in range(level[0], level[1] + 1):
            row, down = divmod(top - dot, 4)
            cells[row][column] |= dots[down]
    return ["".join(chr(0x2800 + each) if each else " " for each in row) for row in cells]


def _blocks(levels: Sequence[tuple[int, int] | None], columns: int, rows: int) -> list[str]:
    """A filled curve: the height of each column is its highest value."""
    lines = []
    for row in range(rows):
        floor = (rows - 1 - row) * 8
        heights = (0 if each is None else each[1] + 1 - floor for each in levels)
        lines.append("".join(_EIGHTHS[max(0, min(8, each))] for each in heights))
    return [each.ljust(columns) for each in lines]


def _labels(low: float, high: float, rows: int) -> list[str]:
    """Values beside some rows: top and bottom, and every second or third between."""
    every = max(1, (rows - 1) // 4)
    found = []
    for row in range(rows):
        shown = row == rows - 1 or (row % every == 0 and rows - 1 - row >= every) or row == 0
        value = high - (high - low) * row / max(1, rows - 1)
        found.append(decimal(value)[:6] if shown else "")
    return found


def _axis(curve: Curve, columns: int, marks: Sequence[Mark]) -> str:
    """The line under the curve. A mark that has no room left says less, never something else."""
    steps = max(1, len(curve.buckets) * curve.stride - 1)
    axis = ["─"] * columns
    taken = 0
    for mark in sorted(marks, key=lambda each: each.step):
        at = min(columns - 1, mark.step * (columns - 1) // steps)
        for words in (mark.words, mark.short or mark.words):
            said, cells = words, cell_len(words)
            if at + 1 + cells <= columns or at - cells >= taken:
                break
        if at + 1 + cells > columns and at - cells >= taken:
            said, at = said + "▲", at - cells  # it points from the right
        else:
            said = "▲" + said
        if at >= taken:
            taken = _write(axis, at, said) + 1
    return " " * (LABEL_CELLS - 2) + "└─" + "".join(axis)


def _cleaned(mark: Mark, width: int) -> Mark:
    """Its words may be a host's."""
    return Mark(
        step=mark.step,
        words=clean(mark.words, limit=width),
        short=clean(mark.short, limit=width),
    )


def _write(axis: list[str], at: int, words: str) -> int:
    """Words from one cell on, as far as there is room; the cell behind them."""
    for character in words:
        cells = cell_len(character)
        if at + cells > len(axis):
            break
        if cells:
            axis[at : at + cells] = [character, *[""] * (cells - 1)]
        at += cells
    return at


class LossPlot(Widget, can_focus=True):
    """Shows a curve; draws again only what differs."""

    DEFAULT_CSS = """
    LossPlot { height: 1fr; width: 1fr; min-height: 4; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - textual's name
        super().__init__(id=id)
        self._curve = Curve()
        self._marks: tuple[Mark, ...] = ()
        self._plot_style = PlotStyle.BRAILLE
        self._lines: list[str] = []
        self._drawn_for: tuple[object, ...] = ()

    def show(self, curve: Curve, marks: Sequence[Mark], style: PlotStyle) -> None:
        """Show this curve."""
        if (curve, tuple(marks), style) != (self._curve, self._marks, self._plot_style):
            self._curve, self._marks, self._plot_style = curve, tuple(marks), style
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line; all are drawn once for each curve and size."""
        width, height = self.size
        wanted = (id(self._curve), self._marks, self._plot_style, width, height)
        if wanted != self._drawn_for:
            self._lines = draw(self._curve, width, height, self._plot_style, self._marks)
            self._drawn_for = wanted
        style = self.visual_style.rich_style
        if self.has_focus and y == 0:
            style += RichStyle(bold=True)
        text = self._lines[y] if y < len(self._lines) else ""
        return Strip([Segment(text, style)]).crop_extend(0, width, style)
