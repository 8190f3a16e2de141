"""A loss curve that folds points as they come: its size does not grow with the run.

- Steps go into at most `BUCKETS_MAX` buckets of `stride` steps; a later step doubles the stride and
  joins buckets in pairs. Each bucket keeps its lowest, highest and newest value.
- Any order and any number of times: the same points give the same buckets.
- A value that is no finite decimal number is left out, whoever sent it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

BUCKETS_MAX: Final = 1024  # braille draws two in a cell: enough for 500 columns
STEP_MAX: Final = 1 << 40
TREND_BUCKETS: Final = 8  # as many as are compared with as many before them
LEVEL: Final = 0.005  # a change below half a percent is none
NUMBERS_SHOWN: Final = 10


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A loss, at a step."""

    step: int
    value: float
    generation: int = 0

    @property
    def age(self) -> tuple[int, int, float]:
        """Newer is greater: by step, then by generation; the value makes any order the same."""
        return (self.step, self.generation, self.value)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """What fell into some steps."""

    low: float
    high: float
    last: Point


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """All points, folded."""

    stride: int = 1
    buckets: tuple[Bucket | None, ...] = ()
    lowest: Point | None = None
    last: Point | None = None

    @property
    def empty(self) -> bool:
        """Nothing to draw."""
        return self.last is None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something that happened at a step."""

    step: int
    words: str
    short: str = ""
    """The same where there is less room; empty: there is no shorter way to say it."""


def add(curve: Curve, step: int, text: str, generation: int = 0) -> Curve:
    """One more point; `text` is a decimal number."""
    value = number(text)
    if value is None or not 0 <= step <= STEP_MAX:
        return curve
    point = Point(step=step, value=value, generation=generation)
    stride, buckets = curve.stride, curve.buckets
    while step // stride >= BUCKETS_MAX:
        stride, buckets = stride * 2, _halved(buckets)
    at = step // stride
    if at >= len(buckets):
        buckets += (None,) * (at + 1 - len(buckets))
    joined = _joined(buckets[at], Bucket(low=value, high=value, last=point))
    lowest = curve.lowest
    if lowest is None or (value, point.age) < (lowest.value, lowest.age):
        lowest = point
    return Curve(
        stride=stride,
        buckets=(*buckets[:at], joined, *buckets[at + 1 :]),
        lowest=lowest,
        last=point if curve.last is None or point.age >= curve.last.age else curve.last,
    )


def number(text: str) -> float | None:
    """A finite decimal; None: it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _joined(first: Bucket | None, second: Bucket | None) -> Bucket | None:
    if first is None or second is None:
        return first or second
    return Bucket(
        low=min(first.low, second.low),
        high=max(first.high, second.high),
        last=max(first.last, second.last, key=lambda each: each.age),
    )


def _halved(buckets: tuple[Bucket | None, ...]) -> tuple[Bucket | None, ...]:
    even = buckets if len(buckets) % 2 == 0 else (*buckets, None)
    return tuple(_joined(even[at], even[at + 1]) for at in range(0, len(even), 2))


def trend(curve: Curve) -> str:
    """``falling``, ``rising``, ``level``; empty: too few points to say."""
    filled = [each for each in curve.buckets if each is not None]
    count = min(TREND_BUCKETS, len(filled) // 2)
    if count == 0:
        return ""
    new = sum(each.last.value for each in filled[-count:]) / count
    old = sum(each.last.value for each in filled[-2 * count : -count]) / count
    scale = max(abs(old), 1e-9)
    if abs(new - old) < LEVEL * scale:
        return "level"
    return "falling" if new < old else "rising"


def sentence(curve: Curve) -> str:
    """The curve in one sentence; empty: there is none."""
    if curve.last is None or curve.lowest is None:
        return ""
    way = trend(curve)
    words = f"loss {decimal(curve.last.value)}" + (f", {way}" if way else "")
    return f"{words}; lowest {decimal(curve.lowest.value)} at step {curve.lowest.step:,}"


def numbers(curve: Curve) -> str:
    """At most ten losses over the run, for whom a picture says nothing."""
    filled = [each.last for each in curve.buckets if each is not None]
    if not filled:
        return ""
    count = min(NUMBERS_SHOWN, len(filled))
    places = [round(at * (len(filled) - 1) / max(1, count - 1)) for at in range(count)]
    return "loss at step " + ", ".join(
        f"{filled[at].step:,}: {decimal(filled[at].value)}" for at in dict.fromkeys(places)
    )


def decimal(value: float) -> str:
    """Four figures: as many as anybody compares."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.3f}"
