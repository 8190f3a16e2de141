"""Evaluate: mean supervised loss on the held-out rows, and greedy replies to their prompts.

- Rows are dealt to the ranks sorted by length; each rank reports its own part, and the parent adds
  the parts in rank order and compares replies as text.
- Replies are decoded greedily with a cache of keys and values, many rows at once, prompts padded
  on the left. A row is finished at a token of `eos_ids`.
- Under FSDP2 each forward pass is a collective: every rank makes the same number of them.
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist

from enclave_runtime.recipes.batches import TokenRows, left_padded
from enclave_runtime.recipes.scorer import Scorer, summed_loss
from trust.jobs import EvaluateRecipe, Evaluation, JobManifest, Sharding

if TYPE_CHECKING:
    from enclave_runtime.recipes.desk import Desk

EVALUATION_ROWS: Final = 50  # in one forward pass: more makes little difference on a CPU


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Heldout:
    """What an evaluation is made on."""

    rows: TokenRows
    prompts: TokenRows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Tokens with a meaning of their own, and the model's positions."""

    pad: int
    eos_ids: frozenset[int]
    context: int


def run(desk: Desk, job: JobManifest, model: Any, words: Words) -> None:
    """The evaluate recipe: measure the base, and train nothing."""
    assert isinstance(job.recipe, EvaluateRecipe)
    desk.await_begin()
    heldout = Heldout(rows=TokenRows(desk.rows("heldout")), prompts=TokenRows(desk.rows("prompts")))
    desk.report("ready")
    measure(desk, "base", job, Scorer(model), job.recipe.evaluation, heldout, words)
    desk.report("finished", step=0)


@torch.no_grad()
def measure(
    desk: Desk,
    phase: str,
    job: JobManifest,
    scorer: Scorer,
    evaluation: Evaluation,
    heldout: Heldout,
    words: Words,
) -> None:
    """Measure this rank's part, and report it."""
    training = scorer.training
    scorer.eval()
    in_step = job.sharding is Sharding.FSDP2
    mine = list(_my_batches(heldout.rows, evaluation, desk.rank, job.world_size))
    loss, tokens, count = 0.0, 0, 0
    replies: list[bytes] = []
    for rows in mine:
        # A slot without a row takes part in the forward pass, and in nothing else.
        known = [row for row in rows if row is not None]
        batch = heldout.rows.batch(known or [0], pad=words.pad)
        summed = summed_loss(scorer(batch.ids, places=batch.predicting), batch.targets)
        if known:
            loss += summed.double().item()
            tokens += len(batch.targets)
            count += len(known)
    if evaluation.reply_tokens_max:
        for rows in mine:
            known = [row for row in rows if row is not None]
            prompts = [heldout.prompts.ids(row) for row in known or [0]]
            written = _greedy(
                scorer, prompts, words, evaluation.reply_tokens_max, _everyone(in_step)
            )
            for row, reply in zip(known, written, strict=False):
                ended = reply[-1] in words.eos_ids
                text = reply[:-1] if ended else reply
                replies.append(array.array("I", [row, ended, len(text), *text]).tobytes())
    scorer.train(training)
    desk.report("evaluated", b"".join(replies), phase=phase, loss=loss, tokens=tokens, rows=count)


def _my_batches(
    rows: TokenRows, evaluation: Evaluation, rank: int, world_size: int
) -> Iterator[list[int | None]]:
    """The rows of this rank, like lengths together; each rank has as many batches as any other."""
    used = min(len(rows), evaluation.rows_max)
    by_length = sorted(range(used), key=lambda row: (rows.lengths[row], row))
    order = [*by_length, *[None] * (-used % world_size)]
    mine = order[rank::world_size]
    for start in range(0, len(mine), EVALUATION_ROWS):
        yield mine[start : start + EVALUATION_ROWS]


def _everyone(in_step: bool) -> Callable[[bool], bool]:  # noqa: FBT001 - a predicate's argument
    """Whether all ranks say yes, where ranks go in step; else whether this one does."""

    def agreed(mine: bool) -> bool:  # noqa: FBT001 - a predicate's argument
        if not in_step:
            return mine
        vote = torch.tensor([int(mine)])
        dist.all_reduce(vote, op=dist.ReduceOp.MIN)
        return bool(vote.item())

    return agreed


def _greedy(
    scorer: Scorer,
    prompts: Sequence[torch.Tensor],
    words: Words,
    tokens_max: int,
    everyone: Callable[[bool], bool],
) -> list[list[int]]:
    """The most probable tokens after each prompt, up to and including the one that ends it."""
    from transformers import DynamicCache

    ids, mask = left_padded(prompts, pad=words.pad)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    eos = torch.tensor(sorted(words.eos_ids))
    cache = DynamicCache()
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    columns: list[torch.Tensor] = []
    for _ in range(tokens_max):
        last = torch.arange(1, len(prompts) + 1) * ids.shape[1] - 1
        logits = scorer(ids, places=last, positions=positions, mask=mask, cache=cache)
        chosen = logits.argmax(dim=1)
        columns.append(torch.where(finished, -1, chosen))
        finished |= torch.isin(chosen, eos) | (positions[:, -1] + 2 > words.context)
        if everyone(bool(finished.all())):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=mask.dtype)], dim=1)
    return [[t for t in row if t >= 0] for row in torch.stack(columns, dim=1).tolist()]
