"""LoRA on a frozen base: load, wrap, loop, save. Its Config is `trust.jobs.LoraRecipe`.

The run is a pure function of (manifest, step): rows, rates and dropout come from plan.py, gradients
are summed in rank order (parameters.py), and a checkpoint is adapter, moments and step (state.py).
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn

from enclave_runtime.recipes.adamw import AdamW, clip
from enclave_runtime.recipes.batches import TokenRows
from enclave_runtime.recipes.evaluate import Heldout, Words, measure
from enclave_runtime.recipes.parameters import (
    Parameters,
    ReplicatedParameters,
    ShardedParameters,
    shard,
)
from enclave_runtime.recipes.plan import (
    Plan,
    adapter_seed,
    dropout_seed,
    learning_rate,
)
from enclave_runtime.recipes.scorer import Scorer, summed_loss
from enclave_runtime.recipes.state import (
    Checkpoint,
    Origin,
    adapter_name,
    read_checkpoint,
    write_adapter,
    write_checkpoint,
)
from trust.errors import DocumentError, RefusedError
from trust.jobs import InputRole, JobManifest, LoraRecipe, Sharding

if TYPE_CHECKING:
    from peft import LoraConfig

    from enclave_runtime.recipes.desk import Desk

NEVER_TARGETS: Final = frozenset({"lm_head", "embed_tokens"})


def run(desk: Desk, job: JobManifest, model: Any, words: Words, origin: Origin) -> None:
    """Train one adapter. The weights are in place; rows come before *begin*.

    Raises RefusedError for a target that matches nothing, DocumentError for a foreign checkpoint.
    """
    recipe = job.recipe
    assert isinstance(recipe, LoraRecipe)

    # --- wrap ------------------------------------------------------------------------------------
    check_targets(model, recipe.targets)
    torch.manual_seed(adapter_seed(recipe.seed))  # the same first values on every rank
    wrapped, config = wrap(model, recipe)
    scorer = Scorer(wrapped.get_base_model())
    if job.sharding is Sharding.FSDP2:
        shard(scorer, list(model.model.layers))
    trainable = trainable_parameters(wrapped)
    shapes = {name: each.shape for name, each in trainable.items()}
    parameters: Parameters = (
        ShardedParameters(trainable)
        if job.sharding is Sharding.FSDP2
        else ReplicatedParameters(trainable)
    )
    optimizer = AdamW(parameters.tensors, weight_decay=float(recipe.weight_decay))

    # --- load ------------------------------------------------------------------------------------
    start = 0
    if (content := desk.await_begin()) is not None:
        checkpoint = read_checkpoint(content, shapes=shapes)
        check_checkpoint(checkpoint, job, origin)
        restore(checkpoint, parameters, optimizer)
        start = checkpoint.step
    rows = TokenRows(desk.rows("dataset"))
    heldout = Heldout(rows=TokenRows(desk.rows("heldout")), prompts=TokenRows(desk.rows("prompts")))
    plan = Plan(
        rows=len(rows),
        seed=recipe.seed,
        rows_per_step=recipe.rows_per_step,
        accumulation=recipe.accumulation,
        world_size=job.world_size,
    )
    desk.report("ready")

    # --- evaluate the base -----------------------------------------------------------------------
    if recipe.evaluation is not None and start == 0:
        with wrapped.disable_adapter():
            measure(desk, "base", job, scorer, recipe.evaluation, heldout, words)

    # --- loop ------------------------------------------------------------------------------------
    pack_to = job.length_max if recipe.packing else None
    clip_norm = float(recipe.clip_norm)
    scorer.train()
    for step in range(start + 1, job.steps + 1):
        desk.await_allowance(step)
        parameters.clear()
        tokens = sum(rows.supervised[row] for row in plan.step_rows(step))
        step_loss = torch.zeros(())
        for micro in range(recipe.accumulation):
            torch.manual_seed(dropout_seed(recipe.seed, step, micro, desk.rank))
            batch = rows.batch(
                plan.micro_rows(step, micro, desk.rank), pad=words.pad, pack_to=pack_to
            )
            logits = scorer(batch.ids, places=batch.predicting, positions=batch.positions)
            loss = summed_loss(logits, batch.targets) / tokens
            (loss * parameters.loss_factor).backward()  # type: ignore[no-untyped-call]
            step_loss += loss.detach()
        gradients, total_loss = parameters.reduce(step_loss)
        clip(gradients, parameters.norm(gradients), clip_norm)
        optimizer.step(step, gradients, rate=learning_rate(recipe, step, job.steps))

        # --- report ------------------------------------------------------------------------------
        if desk.rank == 0:
            rows_done = recipe.rows_per_step
            desk.report("stepped", step=step, loss=total_loss.item(), tokens=tokens, rows=rows_done)
        if step % job.checkpoint_steps == 0 or step == job.steps:
            saved = Checkpoint(
                origin=origin,
                step=step,
                parameters=parameters.named(parameters.tensors),
                means=parameters.named(optimizer.means),
                squares=parameters.named(optimizer.squares),
            )
            if desk.rank == 0:
                desk.report("checkpoint", write_checkpoint(saved), step=step)

    # --- save ------------------------------------------------------------------------------------
    if recipe.evaluation is not None:
        measure(desk, "tuned", job, scorer, recipe.evaluation, heldout, words)
    tensors = parameters.named(parameters.tensors)
    if desk.rank == 0:
        base_model = job.input(InputRole.MODEL).hex()
        desk.report(
            "finished", write_adapter(tensors, config, base_model=base_model), step=job.steps
        )
    else:
        desk.report("finished", step=job.steps)


def wrap(model: Any, recipe: LoraRecipe) -> tuple[Any, LoraConfig]:
    """Put LoRA's factors beside the targets: fp32, whatever the base is."""
    from peft import LoraConfig, get_peft_model

    names = recipe.targets
    if names == ("all-linear",):  # of the layers: a head, tied or not, is no target
        layers = model.model.layers.named_modules()
        linear = {name.rpartition(".")[2] for name, each in layers if isinstance(each, nn.Linear)}
        names = tuple(sorted(linear))
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=float(recipe.dropout),
        target_modules=list(names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 by an older name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        return get_peft_model(model, config), config


def trainable_parameters(wrapped: Any) -> dict[str, nn.Parameter]:
    """The adapter's tensors by their names on disk, sorted."""
    found = {
        adapter_name(name): cast(nn.Parameter, each)
        for name, each in wrapped.named_parameters()
        if each.requires_grad
    }
    return dict(sorted(found.items()))


def restore(checkpoint: Checkpoint, parameters: Parameters, optimizer: AdamW) -> None:
    """Put a checkpoint's tensors in their places."""
    for values, places in (
        (checkpoint.parameters, parameters.tensors),
        (checkpoint.means, optimizer.means),
        (checkpoint.squares, optimizer.squares),
    ):
        parameters.load(dict(values), places)


def check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    """Every target names linear layers. Raises RefusedError for one that matches nothing else."""
    if targets == ("all-linear",):
        return
    for target in targets:
        if NEVER_TARGETS & set(target.split(".")):
            raise RefusedError("target", f"{target}: heads and embeddings are no targets")
        ending = re.compile(rf"(.*\.)?{re.escape(target)}")
        matches = [module for name, module in model.named_modules() if ending.fullmatch(name)]
        if not matches:
            raise RefusedError("target", f"{target} matches no layer of the model")
        if not all(isinstance(module, nn.Linear) for module in matches):
            raise RefusedError("target", f"{target} is no linear layer")


def check_checkpoint(checkpoint: Checkpoint, job: JobManifest, origin: Origin) -> None:
    """Raises DocumentError unless it is an earlier point of this very run."""
    if checkpoint.origin.job != job.digest:
        raise DocumentError("checkpoint: it is of another job")
    if not 0 < checkpoint.step <= job.steps:
        raise DocumentError(f"checkpoint: step {checkpoint.step} of a job of {job.steps}")
    if checkpoint.origin.generation >= origin.generation:
        raise DocumentError(
            f"checkpoint: generation {checkpoint.origin.generation}, "
            f"this one is {origin.generation}"
        )
    if checkpoint.origin.compute_class != origin.compute_class and not job.resume_on_other_class:
        raise DocumentError(
            f"checkpoint: compute class {checkpoint.origin.compute_class!r}, "
            f"this one is {origin.compute_class!r}, and the manifest does not allow another"
        )
