"""The unprotected system: a plain accelerate + peft script. It imports nothing of ours.

    torchrun --nproc_per_node 2 benchmarks/plain_lora.py PLAN.json

PLAN.json names a model folder, token ids and labels of the rows, and for each step, micro batch and
rank the rows to take; so both arms train on the same rows in the same order. It computes the head
on supervised positions only, as the other arm does, and saves a checkpoint to disk as often.
The last line printed is JSON: seconds at which each optimizer step ended, seconds of processors
that all ranks had used by then, and supervised tokens.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

# --- plan ----------------------------------------------------------------------------------------

plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
torch.set_num_threads(1)
torch.manual_seed(plan["seed"])
accelerator = Accelerator(cpu=True)
rank, world = accelerator.process_index, accelerator.num_processes
assert world == plan["ranks"], f"{world} processes, wanted {plan['ranks']}"

# --- model ---------------------------------------------------------------------------------------

base = AutoModelForCausalLM.from_pretrained(plan["model"], dtype=torch.float32)
model = get_peft_model(
    base,
    LoraConfig(
        r=plan["rank"],
        lora_alpha=plan["alpha"],
        lora_dropout=plan["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    ),
)


class Supervised(torch.nn.Module):
    """The summed loss of a batch; the head runs on supervised positions only."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Shapes: (rows, width) each. Returns a scalar."""
        lm = self.model.base_model.model
        hidden = lm.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
        kept = labels[:, 1:] != -100
        logits = lm.lm_head(hidden[kept]).float()
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:][kept], reduction="sum")


trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=plan["learning_rate"], weight_decay=0.0)
network, optimizer = accelerator.prepare(Supervised(), optimizer)


def batch(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad on the right to a multiple of 16."""
    longest = max(len(plan["ids"][row]) for row in rows)
    width = -(-longest // 16) * 16
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for at, row in enumerate(rows):
        length = len(plan["ids"][row])
        ids[at, :length] = torch.tensor(plan["ids"][row])
        labels[at, :length] = torch.tensor(plan["labels"][row])
        mask[at, :length] = 1
    return ids, mask, labels


# --- loop ----------------------------------------------------------------------------------------

ended: list[float] = []
used: list[float] = []
tokens: list[int] = []
for step, micros in enumerate(plan["steps"], start=1):
    rows = [row for ranks in micros for each in ranks for row in each]
    supervised = sum(label != -100 for row in rows for label in plan["labels"][row])
    for number, ranks in enumerate(micros, start=1):
        synced = number == len(micros)
        with contextlib.nullcontext() if synced else accelerator.no_sync(network):
            # DDP means over the ranks; a sum over all supervised tokens is wanted.
            accelerator.backward(network(*batch(ranks[rank])) * world / supervised)
    accelerator.clip_grad_norm_(trainable, plan["clip_norm"])
    for group in optimizer.param_groups:
        group["lr"] = plan["learning_rates"][step - 1]
    optimizer.step()
    optimizer.zero_grad()
    if step % plan["checkpoint_steps"] == 0 and accelerator.is_main_process:
        state = {"step": step, "optimizer": optimizer.state_dict()}
        model.save_pretrained(plan["output"])
        torch.save(state, Path(plan["output"]) / "optimizer.pt")
    ended.append(time.monotonic())
    used.append(time.process_time())
    tokens.append(supervised)
accelerator.wait_for_everyone()
cpu = accelerator.reduce(torch.tensor(used, dtype=torch.float64), reduction="sum").tolist()
if accelerator.is_main_process:
    model.save_pretrained(plan["output"])
    print(json.dumps({"ended": ended, "cpu": cpu, "tokens": tokens}))
accelerator.end_training()
