"""Words for people: money, times, ids. Pure, and the same on every screen.

- Costs are rounded up, what is left is rounded down, both to four decimals of a credit.
- `clean` is the first wall against hostile text; `tui.wall` is the second.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from client.text import clean

__all__ = [
    "MICROCREDITS",
    "ago",
    "bytes_in_words",
    "clean",
    "clock",
    "cost",
    "left",
    "short",
    "span",
]

MICROCREDITS: Final = 1_000_000
"""In one credit."""
_STEP: Final = MICROCREDITS // 10_000


def cost(microcredits: int) -> str:
    """What something costs, in credits: never less than it is."""
    return _credits(-(-microcredits // _STEP))


def left(microcredits: int) -> str:
    """What is left, in credits: never more than it is."""
    return _credits(microcredits // _STEP)


def _credits(steps: int) -> str:
    sign, steps = ("-", -steps) if steps < 0 else ("", steps)
    return f"{sign}{steps // 10_000:,}.{steps % 10_000:04d}"


def short(name: str, characters: int = 12) -> str:
    """The beginning of an id; the whole is there to copy."""
    return name if len(name) <= characters else f"{name[:characters]}…"


def span(milliseconds: int) -> str:
    """A duration in at most two units: ``6 h 12 m``, ``41 s``, ``0.2 s``."""
    seconds = milliseconds // 1000
    if milliseconds < 10_000:
        return f"{milliseconds / 1000:.1f} s"
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} m {seconds:02d} s" if minutes < 10 else f"{minutes} m"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} m"
    return f"{hours // 24} d {hours % 24} h"


def ago(then: int, now: int) -> str:
    """How long ago; ``just now`` below two seconds, and for what a wrong clock puts ahead."""
    return "just now" if now - then < 2000 else f"{span(now - then)} ago"


def clock(at: int, zone: dt.tzinfo) -> str:
    """A time of day; ``no time`` for one that no calendar has: a market chooses times."""
    try:
        return dt.datetime.fromtimestamp(at / 1000, zone).strftime("%H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "no time"


def bytes_in_words(count: int) -> str:
    """A size, three digits: ``8.1 MB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
