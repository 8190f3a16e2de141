"""`overhead.steady`: training speed in the enclave ÷ a plain accelerate + peft script's.

Both arms train the same manifest: 2 ranks × 1 thread, the same rows in the same order, the head on
the same positions, a checkpoint as often (sealed and stored by one, saved to disk by the other).
Market, scheduler on Ray, brokers and agents run idle beside both, since in life they stand on other
machines. Blocks alternate; speed is optimizer steps over seconds from step `WARM_UP` on, which
is tokens over seconds, as both take the same rows.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from demo import story
from demo.display import Display
from demo.parties import Stage
from enclave_runtime.recipes.plan import Plan, learning_rate
from trust.encoding import Json
from trust.jobs import LoraRecipe

WARM_UP: Final = 20
STEPS: Final = 100
PLAIN: Final = Path(__file__).parent / "plain_lora.py"


def job() -> dict[str, Any]:
    """The demo's job, shorter, and nothing but training."""
    recipe = story.JOB["recipe"] | {"steps": STEPS, "evaluation": None, "dropout": "0"}
    return story.JOB | {"recipe": recipe}


def plain_plan(told: story.Story, folder: Path) -> Path:
    """What the plain arm needs, in files of its own: it imports nothing of ours."""
    from transformers import AutoTokenizer

    model = told.stage.home("owner") / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids, labels = [], []
    text = (told.stage.home("buyer") / "train.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        encoded = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids.append(encoded["input_ids"])
        masks = encoded["assistant_masks"]
        labels.append([i if m else -100 for i, m in zip(ids[-1], masks, strict=True)])
    fields: dict[str, Json] = job()["recipe"]
    recipe = LoraRecipe.from_json(fields)
    plan = Plan(
        rows=len(ids),
        seed=recipe.seed,
        rows_per_step=recipe.rows_per_step,
        accumulation=recipe.accumulation,
        world_size=2,
    )
    steps = range(1, STEPS + 1)
    content = {
        "model": str(model),
        "output": str(folder / "output"),
        "ranks": 2,
        "seed": recipe.seed,
        "rank": recipe.rank,
        "alpha": recipe.alpha,
        "dropout": float(recipe.dropout),
        "learning_rate": float(recipe.learning_rate),
        "learning_rates": [learning_rate(recipe, step, STEPS) for step in steps],
        "clip_norm": float(recipe.clip_norm),
        "checkpoint_steps": story.JOB["checkpoint_steps"],
        "ids": ids,
        "labels": labels,
        "steps": [
            [[plan.micro_rows(s, m, r) for r in range(2)] for m in range(recipe.accumulation)]
            for s in steps
        ],
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def plain_speed(plan: Path, told: story.Story) -> float:
    """Steps a second of one run of the plain script."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
            "--master_port", "29655", str(PLAIN), str(plan),
        ],
        capture_output=True,
        check=True,
        text=True,
        env=told.stage.environment | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    ended = json.loads(done.stdout.strip().splitlines()[-1])["ended"]
    return (STEPS - WARM_UP) / (ended[-1] - ended[WARM_UP - 1])


def enclave_speed(told: story.Story) -> float:
    """Steps a second of one job, by the enclave's own clock in its sealed progress."""
    followed = told.follow(told.submit(job()), kill_half_way=False)
    seen = [(r["step"], r["milliseconds"]) for r in followed.records if r["event"] == "step"]
    first = next(each for each in seen if each[0] >= WARM_UP)
    return (seen[-1][0] - first[0]) / (seen[-1][1] - first[1]) * 1000


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """`overhead.steady`, with each block's speeds."""
    with Stage() as stage:
        told = story.Story(stage, Display())
        told.prepare()
        plan = plain_plan(told, stage.home("plain"))
        plain, enclave = [], []
        for _ in range(runs):
            plain.append(plain_speed(plan, told))
            enclave.append(enclave_speed(told))
        ratios = [ours / theirs for ours, theirs in zip(enclave, plain, strict=True)]
        yield {
            "figure": "overhead.steady",
            "value": round(statistics.median(ratios), 3),
            "unit": "ratio",
            "better": "higher",
            "runs": runs,
            "plain_steps_per_second": [round(each, 3) for each in plain],
            "enclave_steps_per_second": [round(each, 3) for each in enclave],
        }
