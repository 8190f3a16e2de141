"""The adapter that leaves, its targets, packing, and whose checkpoint a run accepts."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime.recipes.state import CONFIG_KEY, read_safetensors, write_safetensors
from tests.assets import DEMO, Model, demo_model, job_manifest, lora_recipe, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import Outcome, run_job
from trust.jobs import InputRole, JobManifest, LossOn, Precision

pytestmark = pytest.mark.slow


def job(changes: dict[str, Any] | None = None, **more: Any) -> JobManifest:
    recipe = lora_recipe(**({"steps": 4, "accumulation": 1, "dropout": "0"} | (changes or {})))
    return job_manifest(recipe, **more)


@functools.cache
def run(**changes: Any) -> Outcome:
    return in_clean_process(run_job, job(changes))


# --- what leaves ---------------------------------------------------------------------------------


def test_adapter_has_the_names_and_config_that_peft_and_vllm_load() -> None:
    tensors, metadata = read_safetensors(run().finished.adapter)
    assert len(tensors) == 2 * 7 * 2  # A and B of seven layers in two blocks
    for name in tensors:
        assert name.startswith("base_model.model.model.layers.")
        assert name.endswith((".lora_A.weight", ".lora_B.weight"))
    config = json.loads(metadata[CONFIG_KEY])
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 7
    assert config["inference_mode"] is True
    assert config["base_model_name_or_path"] == job().input(InputRole.MODEL).hex()
    assert (config["r"], config["lora_alpha"], config["bias"]) == (4, 8, "none")
    assert config["modules_to_save"] is None
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert "lm_head" not in config["target_modules"]
    assert metadata["format"] == "pt"


def logits(folder: Path, adapter: Path | None) -> list[float]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    ids = torch.arange(6, 46)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids).logits.flatten()[:4096].tolist()


def our_logits(model: Model, adapter: bytes, changes: dict[str, Any]) -> list[float]:
    """The same from our own parts: base out of the map, factors put in place by name."""
    import torch

    from enclave_runtime.recipes.lora import trainable_parameters, wrap
    from enclave_runtime.workspace import SharedMap, load_model

    weights = SharedMap(len(model.weights))
    weights.map[:] = model.weights
    base = load_model(json.loads(model.files["config.json"]), weights, Precision.FP32)
    wrapped, _config = wrap(base, lora_recipe(**changes))
    tensors, _metadata = read_safetensors(adapter)
    for name, parameter in trainable_parameters(wrapped).items():
        parameter.data.copy_(tensors[name])
    with torch.no_grad():
        return wrapped.eval()(torch.arange(6, 46)[None]).logits.flatten()[:4096].tolist()


def test_unmodified_peft_loads_the_adapter_and_computes_the_same(tmp_path: Path) -> None:
    model = in_clean_process(tiny_model)
    folder = model.write(tmp_path / "base")
    content = run().finished.adapter
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(content)
    (adapter / CONFIG_KEY).write_text(read_safetensors(content)[1][CONFIG_KEY])
    theirs = in_clean_process(logits, folder, adapter)
    assert theirs == in_clean_process(our_logits, model, content, {})
    assert theirs != in_clean_process(logits, folder, None)


def test_nothing_computed_depends_on_nonce_expiry_or_bid() -> None:
    twin = job(nonce=bytes(32), expires_at=1_900_000_000_000, spend_max_microcredits=5)
    assert twin.digest != job().digest
    assert in_clean_process(run_job, twin).finished.adapter == run().finished.adapter


def test_seed_and_rate_change_the_adapter() -> None:
    digests = {
        run(**changes).finished.tensors_digest
        for changes in ({}, {"seed": 12}, {"learning_rate": "0.02"}, {"weight_decay": "0.5"})
    }
    assert len(digests) == 4


def test_training_learns() -> None:
    learn = job({"steps": 8, "learning_rate": "0.01"}, rows=64, length_max=256)
    rows = b"".join((DEMO / "train.jsonl").read_bytes().splitlines(keepends=True)[:64])
    run_demo = functools.partial(run_job, learn, model=demo_model(), rows=rows)
    losses = in_clean_process(run_demo).losses
    assert losses[0] > 5
    assert losses[-1] < 4


# --- targets -------------------------------------------------------------------------------------


def test_named_targets_are_the_only_ones() -> None:
    tensors, metadata = read_safetensors(run(targets=("q_proj", "v_proj")).finished.adapter)
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "v_proj"}
    assert json.loads(metadata[CONFIG_KEY])["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("qqq_proj", "qqq_proj matches no layer"),
        ("lm_head", "heads and embeddings are no targets"),
        ("model.embed_tokens", "heads and embeddings are no targets"),
        ("self_attn", "self_attn is no linear layer"),
        ("norm", "norm is no linear layer"),
        ("proj", "proj matches no layer"),
    ],
)
def test_target_that_matches_nothing_or_no_linear_layer_is_an_error(target: str, text: str) -> None:
    targets = tuple(sorted({target, "q_proj"}))
    assert text in in_clean_process(run_job, job({"targets": targets})).failure


# --- batches -------------------------------------------------------------------------------------


def test_loss_does_not_depend_on_ranks_micro_batches_or_packing() -> None:
    reference = run().losses
    for changes, more in (
        ({"accumulation": 4}, {}),
        ({"packing": True}, {}),
        ({}, {"local_ranks": 1}),
    ):
        losses = in_clean_process(run_job, job(changes, **more)).losses
        assert losses == pytest.approx(reference, rel=2e-5)


def packed_and_apart() -> dict[str, float]:
    """Loss and gradient of rows one by one, packed, and packed with positions that run on."""
    import torch

    from enclave_runtime.recipes.batches import TokenRows
    from enclave_runtime.recipes.lora import wrap
    from enclave_runtime.recipes.scorer import Scorer, summed_loss
    from enclave_runtime.rows import Row
    from enclave_runtime.workspace import SharedMap, load_model

    model = tiny_model(seed=3)
    weights = SharedMap(len(model.weights))
    weights.map[:] = model.weights
    base = load_model(json.loads(model.files["config.json"]), weights, Precision.FP32)
    wrapped, _config = wrap(base, lora_recipe(dropout="0"))
    scorer = Scorer(wrapped.get_base_model()).train()
    for parameter in wrapped.parameters():
        parameter.data.mul_(8)  # a random model hardly looks back; make what it sees matter
        if parameter.requires_grad:
            torch.manual_seed(parameter.numel())
            parameter.data.normal_(std=0.2)
    torch.manual_seed(1)
    rows = TokenRows(
        Row(
            ids=torch.randint(6, 2000, (n,), dtype=torch.int32).numpy().tobytes(),
            supervised=bytes([0] + [1] * (n - 1)),
        )
        for n in (9, 17, 5, 12)
    )

    def measure(batch: Any, positions: Any) -> tuple[float, torch.Tensor]:
        wrapped.zero_grad()
        logits = scorer(batch.ids, places=batch.predicting, positions=positions)
        loss = summed_loss(logits, batch.targets)
        loss.backward()
        grads = [p.grad.flatten() for p in wrapped.parameters() if p.grad is not None]
        return loss.item(), torch.cat(grads).clone()

    apart = [measure(b, None) for b in (rows.batch([i], pad=0) for i in range(4))]
    packed = rows.batch(range(4), pad=0, pack_to=64)
    assert packed.ids.shape[0] == 1
    together = measure(packed, packed.positions)
    leaking = measure(packed, torch.arange(packed.ids.shape[1])[None])
    gradient = sum(each[1] for each in apart)
    return {
        "apart": sum(each[0] for each in apart),
        "together": together[0],
        "leaking": leaking[0],
        "gradient": ((together[1] - gradient).norm() / gradient.norm()).item(),
    }


def test_packed_rows_do_not_see_each_other() -> None:
    found = in_clean_process(packed_and_apart)
    assert found["together"] == pytest.approx(found["apart"], rel=1e-5)
    assert found["gradient"] < 1e-4
    # The cut: positions that run on let rows see those before them.
    assert found["leaking"] != pytest.approx(found["apart"], rel=1e-3)


def test_loss_on_everything_counts_more_tokens() -> None:
    some, all_of_them = run(), run(loss_on=LossOn.ALL)
    tokens = [outcome.events[1].tokens for outcome in (some, all_of_them)]  # type: ignore[union-attr]
    assert 0 < tokens[0] < tokens[1]


def test_bf16_base_trains_an_fp32_adapter() -> None:
    outcome = run(precision=Precision.BF16)
    tensors, _metadata = read_safetensors(outcome.finished.adapter)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float32"}
    assert outcome.losses == pytest.approx(run().losses, rel=0.05)
    assert outcome.losses != run().losses
    assert "precision=bf16" in outcome.compute_class


# --- whose checkpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"job": bytes(32).hex()}, "of another job"),
        ({"generation": "2"}, "generation 2, this one is 2"),
        ({"compute_class": "processor=Other/1"}, "compute class 'processor=Other/1'"),
        ({"step": "99"}, "step 99 of a job of 4"),
        ({"step": "0"}, "step 0 of a job of 4"),
    ],
)
def test_checkpoint_of_another_run_is_refused(metadata: dict[str, str], text: str) -> None:
    tensors, found = read_safetensors(run().checkpoint(2))
    content = write_safetensors(tensors, {**found, **metadata})
    resume = functools.partial(run_job, job(), checkpoint=content, generation=2)
    assert text in in_clean_process(resume).failure


def test_other_class_resumes_where_the_manifest_allows_it() -> None:
    lenient = job(resume_on_other_class=True)
    first = in_clean_process(run_job, lenient)
    tensors, found = read_safetensors(first.checkpoint(2))
    content = write_safetensors(tensors, {**found, "compute_class": "processor=Other/1"})
    resume = functools.partial(run_job, lenient, checkpoint=content, generation=2)
    assert in_clean_process(resume).finished.adapter == first.finished.adapter


def test_checkpoint_of_the_last_step_only_finishes() -> None:
    last = run().checkpoint(4)
    resume = functools.partial(run_job, job(), checkpoint=last, generation=2)
    outcome = in_clean_process(resume)
    assert outcome.losses == []
    assert outcome.finished.adapter == run().finished.adapter
