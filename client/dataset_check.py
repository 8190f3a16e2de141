"""Checking a whole dataset: every broken line named, as far as a person would read on.

The same check as before sealing (client/dataset.py), which ends at the first broken line; this one
goes on, and tells how far it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from client.dataset import RowError, check_row, read_lines

FAULTS_MAX: Final = 100
TOLD_BYTES: Final = 1 << 20  # how often progress is told


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowFault:
    """A line that is no row. The text says what is wrong, and not what stands there."""

    line: int
    """From 1."""
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCheck:
    """How far a file has been checked."""

    done: bool
    rows: int
    """Lines that are rows."""
    bytes_done: int
    bytes_total: int
    longest: int
    """Bytes of the longest line."""
    faults: tuple[RowFault, ...]
    """The first `FAULTS_MAX`."""
    faults_total: int


def check_dataset(path: Path) -> Iterator[DatasetCheck]:
    """Check every line of a file; the last item is done. Raises OSError."""
    total = path.stat().st_size
    rows = done = longest = faults_total = told = 0
    faults: list[RowFault] = []

    def report(*, ended: bool) -> DatasetCheck:
        return DatasetCheck(
            done=ended,
            rows=rows,
            bytes_done=done,
            bytes_total=total,
            longest=longest,
            faults=tuple(faults),
            faults_total=faults_total,
        )

    with path.open("rb") as file:
        for number, line in enumerate(read_lines(file), start=1):
            done += len(line)
            longest = max(longest, len(line.rstrip(b"\r\n")))
            try:
                check_row(number, line)
                rows += 1
            except RowError as error:
                faults_total += 1
                if len(faults) < FAULTS_MAX:
                    text = str(error).removeprefix(f"line {number}: ")
                    faults.append(RowFault(line=number, text=text))
            if done - told >= TOLD_BYTES:
                told = done
                yield report(ended=False)
    if not done:
        faults_total = 1
        faults.append(RowFault(line=1, text="an empty file has no rows"))
    yield report(ended=True)
