"""Which rows, in which order, at which rate: pure functions of (manifest, step).

- Steps are numbered from 1. There is no iterator, sampler or scheduler whose state could be lost:
  a run resumed after step n takes the rows, rates and dropout of step n+1 that it would have taken.
- An epoch is a permutation of all rows, seeded by (seed, epoch); steps run on across epochs, so no
  row is left out.
- A global batch is `rows_per_step` rows, dealt in order to (micro batch, rank).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch

from trust.encoding import labelled_digest
from trust.jobs import LoraRecipe, Schedule


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The rows of every step."""

    rows: int
    seed: int
    rows_per_step: int
    accumulation: int
    world_size: int

    def step_rows(self, step: int) -> tuple[int, ...]:
        """All rows of the global batch of `step`."""
        first = (step - 1) * self.rows_per_step
        places = (divmod(first + k, self.rows) for k in range(self.rows_per_step))
        return tuple(_epoch(self.rows, self.seed, epoch)[place] for epoch, place in places)

    def micro_rows(self, step: int, micro: int, rank: int) -> tuple[int, ...]:
        """The rows of one micro batch on one rank."""
        size = self.rows_per_step // (self.accumulation * self.world_size)
        first = (micro * self.world_size + rank) * size
        return self.step_rows(step)[first : first + size]


@functools.lru_cache(maxsize=4)
def _epoch(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(_seed("plan", seed, epoch))
    return tuple(torch.randperm(rows, generator=generator).tolist())


def _seed(name: str, *numbers: int) -> int:
    """63 bits that no other use of the same seed shares."""
    parts = (number.to_bytes(8, "big") for number in numbers)
    return int.from_bytes(labelled_digest(f"seed/{name}", *parts)[:8], "big") >> 1


def adapter_seed(seed: int) -> int:
    """Seed of the adapter's first values: the same on every rank."""
    return _seed("adapter", seed)


def dropout_seed(seed: int, step: int, micro: int, rank: int) -> int:
    """Seed of one micro batch's dropout."""
    return _seed("dropout", seed, step, micro, rank)


def learning_rate(recipe: LoraRecipe, step: int, steps: int) -> float:
    """Rate of `step` of `steps`: linear warm-up, then the schedule, which is 0 after the end."""
    rate, warmup = float(recipe.learning_rate), recipe.warmup_steps
    if step <= warmup:
        return rate * step / (warmup + 1)
    done = (step - 1 - warmup) / max(1, steps - warmup)
    match recipe.schedule:
        case Schedule.CONSTANT:
            return rate
        case Schedule.LINEAR:
            return rate * (1 - done)
        case Schedule.COSINE:
            return rate * 0.5 * (1 + math.cos(math.pi * done))


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put rows into as few packs of `capacity` tokens as first fit decreasing finds.

    Returns the indices of each pack's rows. Ties keep their order, so the answer is one.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for number, left in enumerate(room):
            if lengths[index] <= left:
                packs[number].append(index)
                room[number] -= lengths[index]
                break
        else:
            packs.append([index])
            room.append(capacity - lengths[index])
    return packs
