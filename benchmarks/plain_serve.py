"""The unprotected system: transformers' own continuous batching. It imports nothing of ours.

    python benchmarks/plain_serve.py PLAN.json

PLAN.json is what benchmarks/serve.py writes: a model folder, its precision, prompts as token ids,
and how many are in flight in each block. Replies are greedy. The only line printed is JSON: for
each block the tokens of all replies, without the one that ends a reply, and the seconds they took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(
    plan["model"], dtype=getattr(torch, plan["dtype"]), attn_implementation="sdpa"
)
model.eval()
most = max(block["in_flight"] for block in plan["blocks"])
page = 32
config = ContinuousBatchingConfig(
    page_size=page,
    # Room for every request at its longest, and one page more: nothing waits for memory.
    num_blocks=most * (-(-plan["length_max"] // page) + 1),
    max_batch_tokens=512,
    max_requests_per_batch=most,
    allow_block_sharing=False,  # no prompt stands twice in a block; the other arm shares nothing
    auto_switch_to_flash=False,  # it would fetch compiled kernels from the network
)
generation = GenerationConfig(
    do_sample=False, max_new_tokens=plan["reply_tokens_max"], eos_token_id=plan["eos_ids"]
)


def run(manager: Any, prompts: list[list[int]], in_flight: int) -> tuple[int, float]:
    """All prompts, so many at a time; tokens of the replies, and seconds."""
    started, tokens, running, waiting = time.perf_counter(), 0, 0, iter(prompts)
    while True:
        while running < in_flight and (ids := next(waiting, None)) is not None:
            manager.add_request(ids, max_new_tokens=plan["reply_tokens_max"])
            running += 1
        if not running:
            return tokens, time.perf_counter() - started
        result = manager.get_result(timeout=10)
        assert result is not None, "the batch has died, or says nothing for 10 s"
        if result.is_finished():
            assert result.error is None, result.error
            tokens += sum(token not in plan["eos_ids"] for token in result.generated_tokens)
            running -= 1


with torch.inference_mode():
    manager = model.init_continuous_batching(generation, config)
    manager.start()
    run(manager, plan["warm_up"], most)
    blocks = []
    for block in plan["blocks"]:
        tokens, seconds = run(manager, block["prompts"], block["in_flight"])
        blocks.append({"in_flight": block["in_flight"], "tokens": tokens, "seconds": seconds})
    manager.stop(block=True)
print(json.dumps(blocks))
