"""A fault before and after every commit and every send of every party: the job ends the same.

`make test` runs a sample by a seed, `make test-full` every point. A run that fails says its point
and the seed; ``BLINDHOST_TEST_SEED=… pytest`` runs that sample again.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults.inside import town as town_module
from tests.faults.inside.points import (
    AFTER,
    BEFORE,
    HALF,
    SEED_VARIABLE,
    Point,
    Points,
    sample,
    seed,
)
from tests.faults.inside.template import scratch, template
from tests.faults.inside.town import lived

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLE = 4
KINDS = {
    "agent-1": ("ask", "frame", "journal", "offer", "send"),
    "agent-2": ("ask", "offer", "send"),
    "broker-buyer": ("ask", "head", "log", "progress", "send"),
    "broker-owner": ("ask", "head", "log", "send"),
    "chip-1": ("launch", "report", "stop"),
    "enclave": ("blob", "frame"),
    "market": ("answer", "blob", "commit"),
    "scheduler": ("commit",),
}
"""What each party does in an undisturbed run that is worth a fault."""
CELLS = [(party, kind) for party, kinds in KINDS.items() for kind in kinds]
_NUMBERS = itertools.count()


@functools.cache
def counted() -> collections.Counter[tuple[str, str]]:
    """What an undisturbed run does: the dry run."""
    return asyncio.run(alive(None)).counts


def all_points() -> list[Point]:
    points = Points()
    points.counts = counted()
    return points.all()


async def alive(at: Point | None) -> Points:
    """One whole life, with one death at most; checked."""
    points = Points(at)
    with tempfile.TemporaryDirectory(prefix="blindhost-inside-", dir=scratch()) as folder:
        try:
            await lived(Path(folder) / f"town-{next(_NUMBERS)}", points)
            assert points.struck == (at is not None), f"there was no {at}"
        except BaseException as error:
            error.add_note(f"at {at}; {SEED_VARIABLE}={seed()}")
            raise
    return points


def test_an_undisturbed_run_is_the_same_each_time_and_has_these_points() -> None:
    again = asyncio.run(alive(None)).counts
    assert again == counted()
    assert sorted(counted()) == sorted(CELLS)


def test_a_seeded_sample_of_faults_changes_nothing() -> None:
    assert {each.how for each in all_points()} >= {BEFORE, AFTER}
    chosen = sample(all_points(), SAMPLE)
    assert len({(each.party, each.kind) for each in chosen} & set(CELLS)) == SAMPLE
    for point in chosen:
        asyncio.run(alive(point))


@pytest.mark.full
@pytest.mark.parametrize(("party", "kind"), CELLS)
def test_no_fault_changes_anything(party: str, kind: str) -> None:
    chosen = [each for each in all_points() if (each.party, each.kind) == (party, kind)]
    assert len(chosen) == counted()[party, kind] * (3 if kind in HALF else 2)
    for point in chosen:
        asyncio.run(alive(point))


def test_a_town_that_lost_a_file_does_not_pass() -> None:
    """The checks can fail: an adapter that is not the job's is noticed."""

    async def spoilt() -> None:
        with town_module.in_no_time(), tempfile.TemporaryDirectory() as folder:
            town = town_module.Town(Path(folder) / "town", await template(), Points())
            try:
                await town.run()
                blobs = town.folder / "market" / "blobs"
                shutil.rmtree(blobs)
                with pytest.raises(FileNotFoundError):
                    town_module.check(town, kills=0)
            finally:
                await town.close()

    asyncio.run(spoilt())
