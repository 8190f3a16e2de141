"""Order, rates, dropout seeds and packs are pure functions of (manifest, step)."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.recipes.plan import (
    Plan,
    adapter_seed,
    dropout_seed,
    learning_rate,
    pack,
)
from tests.assets import lora_recipe
from trust.jobs import Schedule


def plan(rows: int = 30, seed: int = 1, per_step: int = 12, micro: int = 2, world: int = 3) -> Plan:
    return Plan(rows=rows, seed=seed, rows_per_step=per_step, accumulation=micro, world_size=world)


def test_every_row_is_taken_once_in_an_epoch_and_none_is_lost_between_epochs() -> None:
    taken = [row for step in range(1, 6) for row in plan().step_rows(step)]  # 60 rows: two epochs
    assert Counter(taken[:30]) == Counter(range(30)) == Counter(taken[30:])
    assert taken[:30] != taken[30:]
    assert taken[:30] != list(range(30))


def test_micro_batches_of_all_ranks_are_the_global_batch() -> None:
    made = plan()
    dealt = [r for m in range(2) for rank in range(3) for r in made.micro_rows(4, m, rank)]
    assert tuple(dealt) == made.step_rows(4)
    assert {len(made.micro_rows(4, m, rank)) for m in range(2) for rank in range(3)} == {2}


def test_rows_of_a_step_do_not_depend_on_ranks_or_micro_batches() -> None:
    assert plan(micro=1, world=1).step_rows(7) == plan(micro=4, world=3).step_rows(7)
    assert plan(seed=2).step_rows(7) != plan(seed=1).step_rows(7)


def test_seeds_differ_in_every_argument() -> None:
    seeds = {
        dropout_seed(seed, step, micro, rank)
        for seed in range(3)
        for step in range(3)
        for micro in range(3)
        for rank in range(3)
    }
    assert len(seeds) == 81
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert adapter_seed(0) not in seeds


def test_learning_rate_warms_up_and_follows_its_schedule() -> None:
    def rates(schedule: Schedule) -> list[float]:
        recipe = lora_recipe(learning_rate="0.5", schedule=schedule, warmup_steps=4, steps=24)
        return [learning_rate(recipe, step, 24) for step in range(1, 25)]

    constant, linear, cosine = (
        rates(each) for each in (Schedule.CONSTANT, Schedule.LINEAR, Schedule.COSINE)
    )
    assert constant[:4] == linear[:4] == cosine[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert constant[4:] == [0.5] * 20
    assert linear[4:6] == pytest.approx([0.5, 0.475])
    assert linear[-1] == pytest.approx(0.025)
    assert cosine[14] == pytest.approx(0.25)
    assert cosine[-1] == pytest.approx(0.25 * (1 + math.cos(math.pi * 19 / 20)))


def test_learning_rate_without_warm_up_begins_at_its_height() -> None:
    recipe = lora_recipe(learning_rate="0.5", warmup_steps=0)
    assert learning_rate(recipe, 1, 10) == 0.5


@given(st.lists(st.integers(1, 64), min_size=1, max_size=60))
def test_packs_hold_every_row_once_and_none_overflows(lengths: list[int]) -> None:
    packs = pack(lengths, 64)
    assert Counter(i for each in packs for i in each) == Counter(range(len(lengths)))
    assert all(sum(lengths[i] for i in each) <= 64 for each in packs)
    assert len(packs) <= 2 * math.ceil(sum(lengths) / 64)  # never two packs under half


def test_first_fit_decreasing_fills_what_fits() -> None:
    assert pack([3, 7, 5, 2, 3], 10) == [[1, 0], [2, 4, 3]]
