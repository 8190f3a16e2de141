"""What the demo runs, and on what: the model's files, the job's manifest, the planted rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

ASSETS: Final = Path(__file__).parent / "assets"
MODEL_FILES: Final = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
CANARIES: Final = 4  # rows planted in the dataset, each with a word that stands nowhere else

JOB: Final[dict[str, Any]] = {
    "kind": "train",
    "template": None,
    "recipe": {
        "name": "lora",
        "rank": 8,
        "alpha": 16,
        "dropout": "0.05",
        "targets": ["all-linear"],
        "epochs": None,
        "steps": 150,
        "rows_per_step": 16,
        "accumulation": 1,
        "learning_rate": "0.004",
        "schedule": "cosine",
        "warmup_steps": 5,
        "weight_decay": "0",
        "clip_norm": "1",
        "seed": 7,
        "precision": "fp32",
        "packing": False,
        "loss_on": "assistant",
        "evaluation": {"rows_max": 200, "reply_tokens_max": 96, "header_ends_with": "]"},
    },
    "enclaves": 1,
    "local_ranks": 2,
    "sharding": "data-parallel",
    "length_max": 256,
    "compute_class": None,
    "resume_on_other_class": False,
    "checkpoint_steps": 25,
    "uncommitted_checkpoints_max": 4,
    "generations_max": 4,
    "spend_max_microcredits": 5_000_000,
    "ceiling_microcredits_per_step": 20_000,
    "bid": {
        "kind": "on-demand",
        "price_microcredits_per_gpu_hour": 20_000_000,
        "notice_seconds": 0,
    },
    "resources": {"gpu_model": "cpu", "gpus": 1, "memory_mib": 2048, "platform": "sev-snp"},
}

SERVE_JOB: Final[dict[str, Any]] = JOB | {
    "kind": "serve",
    "recipe": {
        "name": "generate",
        "slots": 8,
        "reply_tokens_max": 96,
        "precision": "fp32",
        "fixed_shapes": False,
        "tick_milliseconds": 100,
        "frame_bytes": 1024,
    },
    "local_ranks": 1,
    "rows": 1,
    "length_max": 256,
    "spend_max_microcredits": 2_000_000,
    "ceiling_microcredits_per_step": 50_000_000,  # for a million tokens
}
"""The demo's model writes over a thousand tokens a second, so its frames are long and frequent."""


def planted_rows(canaries: list[bytes]) -> str:
    """The training rows as JSONL, every hundredth replaced by one with a canary."""
    rows = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
    for number, canary in enumerate(canaries):
        rows[number * 100] = json.dumps(_canary_row(canary.decode()))
    return "\n".join(rows) + "\n"


def _canary_row(canary: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Noor here. My order {canary} has not come."},
            {
                "role": "assistant",
                "content": f"[shipping/late/normal] Dear Noor, {canary} is late.",
            },
        ]
    }
