"""Rollback and fork, searched exhaustively within small bounds, through the real decisions.

What host and market may do: deliver a hello, report or checkpoint to a custodian at any time or
never, in any order; start an enclave for any generation ordered; keep an old one alive. Two
custodians, three generations, a few steps. "Counts" = one custodian acknowledged it.

I1   an enclave starts no older than all that counted when its later grant was given
I1n  the same for the newest generation, at its start
I2   what counts forms one chain

Rules 1 and 2 are cut in the product's own code, rule 3 (start from *exactly* the newer of the two
stated checkpoints) in the enclave's model here. Each cut must break something (attacks.md,
"Rollback and fork"); the bounds say no more than what they say.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pytest

import trust.release
import trust.release_follow
from tests.trust.release_world import Enclave, Party, World
from trust.artifacts import ArtifactKind
from trust.messages import CheckpointAt
from trust.release import Decision, ReportHeard, decide

GENERATIONS, STEPS, STATES_MAX = 3, 2, 2_000_000

Point = tuple[int, int]
"""A checkpoint of the search: generation and step. A generation's enclave starts once."""
START: Point = (0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """One custodian's memory: released generations, and the newest checkpoint."""

    newest: int
    granted: tuple[int, ...]
    noted: Point


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One generation's enclave: what each custodian stated, where it is now."""

    stated: tuple[Point | None, Point | None] = (None, None)
    must: frozenset[Point] = frozenset()
    """What counted when its later grant was given."""
    at: Point | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """A state of the whole."""

    custodians: tuple[Seat, Seat]
    runs: tuple[Run, ...]
    parents: tuple[tuple[Point, Point], ...] = ()
    acked: tuple[tuple[Point, int], ...] = ()


class Product:
    """The two custodians' real decisions, remembered by what they depend on."""

    def __init__(self) -> None:
        self.world = World()
        self.enclaves = {n: Enclave() for n in range(1, GENERATIONS + 1)}
        self.parties = (self.world.owner, self.world.buyer)
        self.start = [tuple(p.entries) for p in self.parties]
        self.requests = {
            (index, n): self.world.request(party, self.enclaves[n], n)
            for index, party in enumerate(self.parties)
            for n in self.enclaves
        }
        self.reports: dict[Point, Any] = {}
        self.histories: dict[tuple[int, Seat], Party] = {}

    def party(self, index: int, seat: Seat) -> Party:
        """A custodian with this memory, made by its own decisions."""
        return self.histories[index, seat]

    def begin(self) -> tuple[Seat, Seat]:
        seat = Seat(newest=0, granted=(), noted=START)
        for index, party in enumerate(self.parties):
            self.histories[index, seat] = party
        return seat, seat

    @functools.cache  # noqa: B019 - lives as long as one search
    def release(self, index: int, seat: Seat, generation: int) -> tuple[Seat, Point] | None:
        """The custodian's next memory and what it states; None: refused, or stored again."""
        party = self.party(index, seat)
        request = self.requests[index, generation]
        result = decide(party.state(), request, 1_800_000_000_000)
        if not isinstance(result, Decision) or not result.entries:
            return None
        assert result.answer is not None
        info, _ = self.enclaves[generation].open(result.answer)
        after = Seat(
            newest=max(seat.newest, generation),
            granted=tuple(sorted({*seat.granted, generation})),
            noted=seat.noted,
        )
        self._remember(index, party, after, result)
        return after, self._point(info.checkpoint)

    @functools.cache  # noqa: B019
    def report(self, index: int, seat: Seat, point: Point) -> Seat | None:
        """The memory after a report; None: refused."""
        party = self.party(index, seat)
        result = decide(
            party.state(),
            ReportHeard(signed=self._report(point), segments_held=True),
            1_800_000_000_000,
        )
        if not isinstance(result, Decision) or not result.entries:
            return None
        after = dataclasses.replace(seat, noted=point)
        self._remember(index, party, after, result)
        return after

    def _remember(self, index: int, party: Party, after: Seat, result: Decision) -> None:
        if (index, after) in self.histories:
            return
        copy = dataclasses.replace(
            party, entries=list(party.entries), challenges=party.challenges, memory=party.memory
        )
        copy.write(result.entries, 1_800_000_000_000)
        self.histories[index, after] = copy

    def _report(self, point: Point) -> bytes:
        if point not in self.reports:
            generation, step = point
            enclave = self.enclaves[generation]
            made = self.world.derived(enclave.party, ArtifactKind.CHECKPOINT, generation)
            report = self.world.report(enclave, step, generation, before=bytes(32), signed=made)
            self.reports[point] = (report.encode(), made.digest)
        return bytes(self.reports[point][0])

    def _point(self, stated: CheckpointAt | None) -> Point:
        if stated is None:
            return START
        return next(p for p, (_, artifact) in self.reports.items() if artifact == stated.artifact)


def acknowledged(state: Search) -> frozenset[Point]:
    return frozenset(point for point, _ in state.acked)


def line(state: Search, point: Point) -> set[Point]:
    """A point and all that it was made from."""
    parents = dict(state.parents)
    found = {point}
    while point in parents:
        point = parents[point]
        found.add(point)
    return found


class Broken(Exception):  # noqa: N818
    """An invariant that does not hold."""


def moves(product: Product, state: Search, rule_3: str) -> Iterator[Search]:
    for index in (0, 1):
        for generation in range(1, GENERATIONS + 1):
            yield from _release(product, state, index, generation)
    for generation in range(1, GENERATIONS + 1):
        yield from _start(state, generation, rule_3)
        yield from _step(state, generation)
    for index in (0, 1):
        for point, _ in state.parents:
            seat = product.report(index, state.custodians[index], point)
            if seat is not None:
                after = _with(state, index, seat)
                acked = tuple(sorted({*state.acked, (point, index)}))
                yield dataclasses.replace(after, acked=acked)


def _with(state: Search, index: int, seat: Seat) -> Search:
    pair = list(state.custodians)
    pair[index] = seat
    return dataclasses.replace(state, custodians=(pair[0], pair[1]))


def _release(product: Product, state: Search, index: int, generation: int) -> Iterator[Search]:
    run = state.runs[generation - 1]
    if run.stated[index] is not None:
        return
    released = product.release(index, state.custodians[index], generation)
    if released is None:
        return
    seat, stated = released
    pair = list(run.stated)
    pair[index] = stated
    must = run.must if None in pair else acknowledged(state)
    run = dataclasses.replace(run, stated=(pair[0], pair[1]), must=must)
    yield _run(_with(state, index, seat), generation, run)


def _run(state: Search, generation: int, run: Run) -> Search:
    runs = list(state.runs)
    runs[generation - 1] = run
    return dataclasses.replace(state, runs=tuple(runs))


def _start(state: Search, generation: int, rule_3: str) -> Iterator[Search]:
    run = state.runs[generation - 1]
    if run.at is not None or None in run.stated:
        return
    first, second = run.stated
    assert first is not None
    assert second is not None
    newer = max(first, second)
    if rule_3 == "exactly":
        choices = {newer}
    elif rule_3 == "one custodian's":
        choices = {first}
    else:  # not older than stated: by step, any that the host can offer
        choices = {p for p, _ in state.parents if p[1] >= newer[1]} | {newer}
    for choice in choices:
        known = line(state, choice)
        if not run.must <= known:
            raise Broken("I1")
        newest = max(seat.newest for seat in state.custodians)
        if generation == newest and not acknowledged(state) <= known:
            raise Broken("I1n")
        yield _run(state, generation, dataclasses.replace(run, at=choice))


def _step(state: Search, generation: int) -> Iterator[Search]:
    run = state.runs[generation - 1]
    if run.at is None or run.at[1] >= STEPS:
        return
    point = (generation, run.at[1] + 1)
    after = dataclasses.replace(state, parents=tuple(sorted({*state.parents, (point, run.at)})))
    yield _run(after, generation, dataclasses.replace(run, at=point))


def check_chain(state: Search) -> None:
    points = sorted(acknowledged(state))
    for first in points:
        for second in points:
            if first not in line(state, second) and second not in line(state, first):
                raise Broken("I2")


def search(rule_3: str = "exactly") -> tuple[str | None, int]:
    """The first invariant that breaks, or None; and how many states were seen."""
    product = Product()
    first = Search(custodians=product.begin(), runs=(Run(),) * GENERATIONS)
    seen, todo = {first}, [first]
    try:
        while todo:
            state = todo.pop()
            check_chain(state)
            for after in moves(product, state, rule_3):
                if after not in seen:
                    assert len(seen) < STATES_MAX
                    seen.add(after)
                    todo.append(after)
    except Broken as error:
        return str(error), len(seen)
    return None, len(seen)


@pytest.mark.slow
def test_rules_1_to_3_neither_fork_nor_roll_back() -> None:
    broken, states = search()
    assert broken is None
    assert states > 1_000


@pytest.mark.parametrize("rule_3", ["one custodian's", "not older"])
def test_starting_from_anything_but_exactly_the_newer_breaks(rule_3: str) -> None:
    broken, _ = search(rule_3)
    assert broken in {"I1", "I1n", "I2"}


def test_hearing_older_generations_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust.release_follow, "check_newest_generation", lambda *_: None)
    broken, _ = search()
    assert broken in {"I1", "I1n", "I2"}


def test_releasing_below_a_released_generation_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust.release, "check_above_every_generation", lambda *_: None)
    broken, _ = search()
    assert broken in {"I1", "I1n", "I2"}
