"""A rank's way from its seat to its recipe."""

from __future__ import annotations

from typing import Any

from enclave_runtime.environment import THREADS_PER_RANK
from enclave_runtime.ranks import Seat
from enclave_runtime.recipes import evaluate, generate, lora
from enclave_runtime.recipes.desk import Desk
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.state import Origin
from enclave_runtime.workspace import SharedMap, load_model
from trust.jobs import GenerateRecipe, JobManifest, LoraRecipe
from trust.model_files import ModelFiles


def import_libraries() -> None:
    """Import what the ranks need, once, in the parent: forks share it. Starts no thread."""
    import accelerate
    import peft
    import torch
    import torch.distributed.fsdp
    from transformers import LlamaForCausalLM

    torch.set_num_threads(THREADS_PER_RANK)
    assert all((accelerate, peft, LlamaForCausalLM))


def run_rank(
    seat: Seat,
    accelerator: Any,
    job: JobManifest,
    files: ModelFiles,
    weights: SharedMap,
    generation: int,
    compute_class: str,
) -> None:
    """Load the model once the weights are there, then run the job's recipe."""
    assert accelerator.process_index == seat.rank
    desk = Desk(rank=seat.rank, control=seat.control, reports=seat.reports)
    desk.await_weights()
    model = load_model(files.config, weights, job.recipe.precision)
    pad = files.config.get("pad_token_id")
    words = Words(pad=0 if pad is None else pad, eos_ids=files.eos_ids, context=files.context)
    if isinstance(job.recipe, LoraRecipe):
        origin = Origin(job=job.digest, generation=generation, compute_class=compute_class)
        lora.run(desk, job, model, words, origin)
    elif isinstance(job.recipe, GenerateRecipe):
        generate.run(desk, job, model, words)
    else:
        evaluate.run(desk, job, model, words)
