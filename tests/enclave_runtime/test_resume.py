"""A resumed run has the bits of the run that was never interrupted; each cut makes it differ.

Dropout 0.1, accumulation 2, 30 rows in batches of 8 (an epoch ends inside step 4): the kill at
step 7 and the checkpoint at step 6 are both off an epoch's boundary.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from enclave_runtime.recipes import lora
from enclave_runtime.recipes.plan import Plan
from enclave_runtime.recipes.state import MEAN, SQUARE, read_safetensors, write_safetensors
from tests.assets import job_manifest, lora_recipe
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import Outcome, run_job
from trust.jobs import JobManifest

pytestmark = pytest.mark.slow


@functools.cache
def undisturbed(ranks: int = 2) -> Outcome:
    return in_clean_process(run_job, job(ranks))


@functools.cache
def killed(ranks: int = 2) -> Outcome:
    return in_clean_process(functools.partial(run_job, job(ranks), kill_at=7))


def job(ranks: int) -> JobManifest:
    rows_per_step = 4 * ranks
    return job_manifest(lora_recipe(rows_per_step=rows_per_step), local_ranks=ranks)


def resume(checkpoint: bytes, ranks: int = 2) -> Outcome:
    return run_job(job(ranks), checkpoint=checkpoint, generation=2)


def resume_with_a_cut(checkpoint: bytes, cut: Any) -> Outcome:
    cut()
    return resume(checkpoint)


@pytest.mark.parametrize("ranks", [2, 3])
def test_resume_is_bit_for_bit_the_undisturbed_run(ranks: int) -> None:
    whole, broken = undisturbed(ranks), killed(ranks)
    assert "rank" in broken.failure
    assert len(broken.losses) < len(whole.losses) == 10
    checkpoint = broken.checkpoint(6)
    resumed = in_clean_process(resume, checkpoint, ranks)
    assert resumed.losses == whole.losses[6:]
    assert resumed.finished.adapter == whole.finished.adapter
    assert resumed.finished.tensors_digest == whole.finished.tensors_digest


def test_two_runs_give_one_adapter_byte_for_byte() -> None:
    again = in_clean_process(run_job, job(2))
    assert again.finished.adapter == undisturbed().finished.adapter
    assert again.losses == undisturbed().losses


def test_checkpoint_that_forgets_the_moments_is_not_the_same_run() -> None:
    tensors, metadata = read_safetensors(killed().checkpoint(6))
    for name, tensor in tensors.items():
        if name.endswith((MEAN, SQUARE)):
            assert tensor.abs().sum() > 0
            tensor.zero_()
    resumed = in_clean_process(resume, write_safetensors(tensors, metadata))
    assert resumed.finished.tensors_digest != undisturbed().finished.tensors_digest


def test_checkpoint_that_forgets_its_step_is_not_the_same_run() -> None:
    tensors, metadata = read_safetensors(killed().checkpoint(6))
    forgetful = write_safetensors(tensors, {**metadata, "step": "4"})
    resumed = in_clean_process(resume, forgetful)
    assert resumed.finished.tensors_digest != undisturbed().finished.tensors_digest


def forget_the_place() -> None:
    whole = Plan.step_rows
    Plan.step_rows = lambda self, step: whole(self, step - 6)  # type: ignore[method-assign]


def test_run_that_forgets_its_place_in_the_data_is_not_the_same_run() -> None:
    resumed = in_clean_process(resume_with_a_cut, killed().checkpoint(6), forget_the_place)
    assert resumed.finished.tensors_digest != undisturbed().finished.tensors_digest


def forget_the_step_in_dropout() -> None:
    seed = lora.dropout_seed
    lora.dropout_seed = lambda number, step, micro, rank: seed(number, 0, micro, rank)


def test_dropout_seed_that_forgets_the_step_is_not_the_same_run() -> None:
    resumed = in_clean_process(
        resume_with_a_cut, killed().checkpoint(6), forget_the_step_in_dropout
    )
    assert resumed.finished.tensors_digest != undisturbed().finished.tensors_digest


def cut_nothing() -> None:
    """Control of the cuts above."""


def test_resume_without_a_cut_is_the_same_run() -> None:
    resumed = in_clean_process(resume_with_a_cut, killed().checkpoint(6), cut_nothing)
    assert resumed.finished.tensors_digest == undisturbed().finished.tensors_digest
