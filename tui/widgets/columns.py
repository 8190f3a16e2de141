"""Columns of a table: which fit, and text in exactly so many cells. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size

from tui.text import clean

CELL_CHARACTERS_MAX: Final = 400  # more than the widest terminal shows
ROOMY: Final = 100
"""From this width on, two blanks stand between columns."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column."""

    id: str
    label: str
    width: int
    """Cells."""
    rank: int = 0
    """0 always stays; of the others, the highest goes first when it gets narrow."""
    right: bool = False
    """Aligned to the right: numbers."""
    grows: bool = False
    """It takes what is left over; one column at most."""
    sortable: bool = False


def fit_columns(columns: Sequence[Column], width: int) -> tuple[tuple[int, Column, int], ...]:
    """Which columns fit into `width` cells: place in a row, column, cells.

    The highest ranks go until the rest fits; then a growing column takes what is left over.
    """
    gap = gap_of(width)
    kept = list(enumerate(columns))

    def needs() -> int:
        return sum(each.width for _, each in kept) + gap * max(0, len(kept) - 1)

    while needs() > width and any(each.rank for _, each in kept):
        kept.remove(max(kept, key=lambda pair: (pair[1].rank, pair[0])))
    spare = max(0, width - needs())
    return tuple((at, each, each.width + (spare if each.grows else 0)) for at, each in kept)


def fit_text(text: str, cells: int, *, right: bool) -> str:
    """Text in exactly so many cells; what is cut ends with ``…``, what is wide is cut whole."""
    # The wall drops joiners, which would change the length of a line that was measured with them.
    text = clean(text, limit=CELL_CHARACTERS_MAX).replace("\u200d", "")
    size = cell_len(text)
    if size > cells:
        return set_cell_size(text, cells - 1) + "…" if cells > 1 else set_cell_size(text, cells)
    blanks = " " * (cells - size)
    return blanks + text if right else text + blanks


def gap_of(width: int) -> int:
    """Blanks between columns in a table of so many cells."""
    return 2 if width >= ROOMY else 1
