"""FSDP2 on two ranks: each holds its part alone, and computes what data parallel computes."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from enclave_runtime.pipes import Frame, write_frame
from enclave_runtime.ranks import Seat, fork_ranks, join_world
from enclave_runtime.recipes.lora import trainable_parameters, wrap
from enclave_runtime.recipes.parameters import shard
from enclave_runtime.recipes.scorer import Scorer
from enclave_runtime.workspace import SharedMap, load_model
from tests.assets import evaluation, job_manifest, lora_recipe, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import Outcome, evaluations, run_job
from trust.jobs import JobManifest, Precision, Sharding

pytestmark = pytest.mark.slow


def job(sharding: Sharding, ranks: int = 2, **recipe: Any) -> JobManifest:
    made = lora_recipe(
        **({"steps": 6, "rows_per_step": 4 * ranks, "evaluation": evaluation()} | recipe)
    )
    return job_manifest(made, sharding=sharding, local_ranks=ranks)


@functools.cache
def run(sharding: Sharding, ranks: int = 2) -> Outcome:
    return in_clean_process(run_job, job(sharding, ranks))


def local_bytes(sharded: bool) -> dict[int, dict[str, int]]:
    """What each of two ranks holds of the model's parameters."""
    model = tiny_model()
    weights = SharedMap(len(model.weights))
    weights.map[:] = model.weights

    def main(seat: Seat) -> None:
        accelerator = join_world(seat, wanted=2)
        config = json.loads(model.files["config.json"])
        loaded: Any = load_model(config, weights, Precision.FP32)
        wrapped, _config = wrap(loaded, lora_recipe())
        scorer = Scorer(wrapped.get_base_model())
        if sharded:
            shard(scorer, list(loaded.model.layers))

        def held(tensors: Any) -> int:
            local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
            return sum(t.numel() * t.element_size() for t in local)

        fields = {
            "all": held(scorer.parameters()),
            "adapter": held(trainable_parameters(wrapped).values()),
        }
        write_frame(seat.reports, Frame(kind="held", fields=fields))
        accelerator.wait_for_everyone()  # rank 0 is the other's rendezvous

    found = {}
    for child in fork_ranks(2, main):
        child.reap()
        (frame,) = child.reader.read_waiting()
        assert frame.kind == "held", frame
        found[child.rank] = frame.fields
        child.end()
    return found


def test_each_rank_holds_half_of_the_parameters() -> None:
    whole = in_clean_process(local_bytes, False)
    halves = in_clean_process(local_bytes, True)
    assert whole[0] == whole[1]
    for key in ("all", "adapter"):
        assert halves[0][key] + halves[1][key] == whole[0][key]
        assert max(half[key] for half in halves.values()) <= 0.51 * whole[0][key]


def test_losses_and_scores_equal_data_parallels() -> None:
    plain, sharded = run(Sharding.DATA_PARALLEL), run(Sharding.FSDP2)
    assert sharded.losses == pytest.approx(plain.losses, rel=1e-5)
    assert len(sharded.losses) == 6
    for phase in ("base", "tuned"):
        ours, theirs = evaluations(sharded)[phase], evaluations(plain)[phase]
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert (ours.rows, ours.tokens) == (theirs.rows, theirs.tokens)
    assert "sharding=fsdp2" in sharded.compute_class


@pytest.mark.parametrize("ranks", [2, 3])
def test_sharded_run_resumes_bit_for_bit(ranks: int) -> None:
    whole = run(Sharding.FSDP2, ranks)
    resume = functools.partial(
        run_job, job(Sharding.FSDP2, ranks), checkpoint=whole.checkpoint(2), generation=2
    )
    resumed = in_clean_process(resume)
    assert resumed.losses == whole.losses[2:]
    assert resumed.finished.adapter == whole.finished.adapter


def test_checkpoints_of_both_kinds_have_one_format() -> None:
    plain, sharded = (run(each).checkpoint(6) for each in (Sharding.DATA_PARALLEL, Sharding.FSDP2))
    from enclave_runtime.recipes.state import read_safetensors

    ours, theirs = read_safetensors(plain)[0], read_safetensors(sharded)[0]
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
