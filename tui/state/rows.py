"""What a table or a panel shows, in words with a tone. No textual: states make them, widgets draw.

A tone only doubles a word or a sign: whoever sees no colour reads the same.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable


class Tone(enum.StrEnum):
    """How words are drawn."""

    PLAIN = "plain"
    STRONG = "strong"
    FAINT = "faint"
    GOOD = "good"
    BAD = "bad"
    WARN = "warn"
    LOUD = "loud"
    """Reverse video: for what nobody may overlook."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Some words, and their tone. In a table it is one cell, in a panel one line."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a table."""

    key: str
    """What it is about: an id. The cursor stays with it when rows move."""
    cells: tuple[str | Words, ...]
    """One for each column; what lacks is empty."""
    tone: Tone = Tone.PLAIN
    """Of the cells that are plain strings."""


def say(text: str, tone: Tone = Tone.PLAIN) -> Words:
    """A line with its tone."""
    return Words(text=text, tone=tone)


def texts(lines: Iterable[Words]) -> list[str]:
    """The same lines without tones: what `plain()` says."""
    return [each.text for each in lines]
