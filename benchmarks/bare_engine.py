"""The enclave's own engine, called in process: ``python -m benchmarks.bare_engine PLAN.json``.

PLAN.json is what benchmarks/serve.py writes. No seal, no door, no template and no other process:
token ids in, token ids out, in a closed loop of so many requests in flight. The only line printed
is JSON: for each block tokens, seconds, and the seconds from each request to its first token.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from enclave_runtime.recipes.adapters import Adapters
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.generate import Asked, Engine
from enclave_runtime.recipes.run import import_libraries
from enclave_runtime.workspace import SharedMap, load_model
from trust.jobs import GenerateRecipe


def make_engine(plan: dict[str, Any]) -> Engine:
    """As a rank makes it, over the base alone."""
    recipe = GenerateRecipe.from_json(plan["recipe"])
    folder = Path(plan["model"])
    content = (folder / "model.safetensors").read_bytes()
    weights = SharedMap(len(content))
    weights.map[:] = content
    config = json.loads((folder / "config.json").read_bytes())
    model = load_model(config, weights, recipe.precision)
    words = Words(
        pad=0, eos_ids=frozenset(plan["eos_ids"]), context=config["max_position_embeddings"]
    )
    return Engine(model, words, recipe, length_max=plan["length_max"], adapters=Adapters(model, []))


def run(
    engine: Engine, prompts: list[list[int]], in_flight: int, tokens_max: int
) -> tuple[int, float, list[float]]:
    """All prompts, so many at a time: tokens of the replies, seconds, seconds to first tokens.

    Raises ValueError for a request that the engine refuses.
    """
    started, tokens, first = time.perf_counter(), 0, dict[int, float]()
    asked_at: dict[int, float] = {}
    waiting, running = iter(enumerate(prompts)), 0
    while True:
        while running < in_flight and (found := next(waiting, None)) is not None:
            handle, ids = found
            asked_at[handle] = time.perf_counter()
            engine.add(
                Asked(
                    handle=handle,
                    ids=ids,
                    adapter=0,
                    tokens_max=tokens_max,
                    temperature=0,
                    top_p=1,
                    seed=handle,
                )
            )
            running += 1
        if not running:
            return tokens, time.perf_counter() - started, [first[h] for h in sorted(first)]
        for each in engine.step():
            if each.finish == "error":
                raise ValueError(each.text)
            if each.ids and each.handle not in first:
                first[each.handle] = time.perf_counter() - asked_at[each.handle]
            tokens += len(each.ids)
            running -= bool(each.finish)


def main(path: Path) -> None:
    """Entry point."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    import_libraries()  # sets the number of threads, too
    engine, tokens_max = make_engine(plan), plan["reply_tokens_max"]
    run(engine, plan["warm_up"], plan["recipe"]["slots"], tokens_max)
    blocks = []
    for block in plan["blocks"]:
        tokens, seconds, first = run(engine, block["prompts"], block["in_flight"], tokens_max)
        blocks.append(
            {
                "in_flight": block["in_flight"],
                "tokens": tokens,
                "seconds": seconds,
                "first_token_seconds": first,
            }
        )
    print(json.dumps(blocks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
