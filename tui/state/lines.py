"""Lines of words with tones, as a state says them and as a widget draws them. Pure; no textual.

- A line has several tones; each only doubles what its words say.
- Widths are cells of a terminal: a host may choose a name of wide glyphs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size

from tui import text as words_of
from tui.state.rows import Tone, Words

Line: TypeAlias = tuple[Words, ...]


def line(*parts: str | Words) -> Line:
    """A line of parts; bare words have no tone."""
    return tuple(Words(text=each) if isinstance(each, str) else each for each in parts)


def one(text: str, tone: Tone = Tone.PLAIN) -> Line:
    """A line of one tone."""
    return (Words(text=text, tone=tone),)


def text_of(of: Line) -> str:
    """Its words."""
    return "".join(part.text for part in of)


def flat(of: Line) -> Words:
    """A line in one tone: the first that is not plain."""
    tones = (part.tone for part in of if part.tone is not Tone.PLAIN)
    return Words(text=text_of(of), tone=next(tones, Tone.PLAIN))


def width_of(of: Line) -> int:
    """Cells that it takes."""
    return sum(cell_len(part.text) for part in of)


def fit(text: str, cells: int) -> str:
    """Exactly so many cells: filled up with spaces, or cut with ``…``."""
    text = text.replace("\u200d", "")  # the wall drops joiners: they are not measured either
    if cell_len(text) <= cells:
        return text + " " * (cells - cell_len(text))
    return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""


def right(text: str, cells: int) -> str:
    """Exactly so many cells, against the right edge: numbers."""
    missing = cells - cell_len(text)
    return " " * missing + text if missing >= 0 else fit(text, cells)


def apart(first: Line, last: Line, cells: int) -> Line:
    """`first` at the left edge, `last` at the right one; two spaces at least between them."""
    return (*first, Words(text=" " * max(2, cells - width_of(first) - width_of(last))), *last)


def wrapped(text: str, cells: int) -> list[str]:
    """Lines of at most so many cells, broken at spaces; a longer word is broken where it must."""
    cells = max(1, cells)
    found: list[str] = []
    for paragraph in text.split("\n"):
        row = ""
        for each in paragraph.split(" "):
            word = each
            if row and cell_len(row) + 1 + cell_len(word) > cells:
                found.append(row)
                row = ""
            row = f"{row} {word}" if row else word
            while cell_len(row) > cells:
                head, row = _cut(row, cells)
                found.append(head)
        found.append(row)
    return found


def _cut(text: str, cells: int) -> tuple[str, str]:
    """The first characters that fit, one at least, and the rest."""
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > cells and index:
            return text[:index], text[index:]
    return text, ""


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``4th``, ``11th``."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def plain(lines: Iterable[Line]) -> list[str]:
    """Lines for a screen reader: the words alone."""
    return [text_of(each).rstrip() for each in lines]


def clock(at: int, zone: dt.tzinfo) -> str:
    """A time of day. Others say when something was: a time that no calendar has is said as such."""
    return words_of.clock(at, zone)
