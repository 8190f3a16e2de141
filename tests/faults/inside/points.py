"""Where a party may die: before each durable commit and each send, and right after it.

- `Crash` is SIGKILL, as far as a process can say it to itself: no product code catches it. Who it
  hits is thrown away, and built again from its disk.
- *Before*: nothing of it took effect. *After*: all of it did, and its party never saw that. A
  release log has a third way, *middle*: half of its bytes are written.
- A point is named by party, kind and ordinal, as the undisturbed run counts them. A dry run counts
  them all; a disturbed one is the same run up to its point.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import random
from collections.abc import Iterator, Sequence
from typing import Final

SEED_VARIABLE: Final = "BLINDHOST_TEST_SEED"
"""Read by tests alone: the seed of a run that failed, to see it again."""
SEED_DEFAULT: Final = 20261124
BEFORE, MIDDLE, AFTER = "before", "middle", "after"
HALF: Final = frozenset({"log"})
"""Kinds of which half may reach the disk, and be noticed: a file that is renamed has no half."""


class Crash(BaseException):
    """A party dies here."""

    def __init__(self, party: str) -> None:
        super().__init__(party)
        self.party = party


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Point:
    """One thing that a party does, and on which side of it the party dies."""

    party: str
    kind: str
    ordinal: int
    """From 1, within party and kind."""
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.kind} {self.ordinal} of {self.party}"


class Points:
    """Counts what parties do. At `at` one of them dies, once."""

    def __init__(self, at: Point | None = None) -> None:
        self.at, self.struck = at, False
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def hit(self, party: str, kind: str) -> str | None:
        """Count one; where its party dies of it: on which side."""
        self.counts[party, kind] += 1
        at = self.at
        if self.struck or at is None or (at.party, at.kind) != (party, kind):
            return None
        if at.ordinal != self.counts[party, kind]:
            return None
        self.struck = True
        return at.how

    @contextlib.contextmanager
    def around(self, party: str, kind: str) -> Iterator[None]:
        """Die on either side of the block."""
        how = self.hit(party, kind)
        if how == BEFORE:
            raise Crash(party)
        yield
        if how is not None:
            raise Crash(party)

    def all(self) -> list[Point]:
        """Every point that this run had, sorted."""
        found = []
        for (party, kind), count in self.counts.items():
            ways = (BEFORE, MIDDLE, AFTER) if kind in HALF else (BEFORE, AFTER)
            found += [
                Point(party=party, kind=kind, ordinal=ordinal, how=how)
                for ordinal in range(1, count + 1)
                for how in ways
            ]
        return sorted(found)


def seed() -> int:
    """The seed of this run's samples."""
    return int(os.environ.get(SEED_VARIABLE, SEED_DEFAULT))


def sample(points: Sequence[Point], size: int) -> list[Point]:
    """So many points by the seed: each party and kind once, the rest as they come."""
    chooser = random.Random(seed())
    shuffled = chooser.sample(points, len(points))
    first = {(each.party, each.kind): each for each in reversed(shuffled)}
    chosen = list(first.values())[:size]
    chosen += [each for each in shuffled if each not in chosen][: size - len(chosen)]
    return sorted(chosen)


def table(counts: collections.Counter[tuple[str, str]]) -> str:
    """The counts by party and kind, as docs/faults.md has them."""
    lines = ["| party | kind | points |", "|---|---|---|"]
    lines += [f"| {party} | {kind} | {count} |" for (party, kind), count in sorted(counts.items())]
    return "\n".join(lines)
