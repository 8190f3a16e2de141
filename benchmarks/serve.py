"""`serve.*`: tokens a second through gateway, seal, door and enclave, beside two bare engines.

- `vs_bare_engine`: ÷ the same engine called in process (benchmarks/bare_engine.py), at 1, 8 and 32
  requests in flight; the value is that at 32.
- `vs_transformers_cb`: ÷ transformers' continuous batching (benchmarks/plain_serve.py), at 32.
- `first_token_added_ms`: from a request to its first streamed text through everything, less from a
  request to its first token in the bare engine; one in flight.

All arms answer the same prompts greedily, with replies of the same longest length, on one thread.
The whole way is real: gateway, market, agent and chip are processes, and the job is the demo's, but
for as many slots as requests in flight. All parties stay there, idle, beside the other arms. Blocks
alternate. Tokens are those of the reply, as the arm itself counts them; in fp32 every arm must
write as many as the others, within `TOKENS_APART_MAX`, or the figures mean nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.arms import Parties, parties
from demo.chat import BASE, SERVED_SECONDS
from demo.jobs import ASSETS, SERVE_JOB
from demo.parties import StepError

REQUESTS: Final[Mapping[int, int]] = {1: 12, 8: 64, 32: 192}
"""Requests in flight → requests of a block."""
WARM_UP: Final = 8
TOKENS_APART_MAX: Final = 0.02  # a last token that only one arm counts, and rounding in bf16
SPEND_MAX: Final = 500_000_000  # microcredits: ten million tokens, at the job's own ceiling
REQUEST_SECONDS: Final = 300.0
DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16"}
PLAIN: Final = Path(__file__).parent / "plain_serve.py"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """So many requests in flight, answered by one arm."""

    in_flight: int
    tokens: int
    """Of all replies."""
    seconds: float
    """From the first request to the end of the last reply."""
    first_token_seconds: Sequence[float] = ()
    """Of each request, from being made to its first token; empty: the arm does not stream."""

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def figures(
    runs: int, *, precision: str = "fp32", requests: Mapping[int, int] = REQUESTS
) -> Iterator[dict[str, Any]]:
    """All `serve.*`. `precision`: *fp32*, the demo's, or *bf16*."""
    seen: dict[str, list[list[Block]]] = {"whole": [], "engine": [], "transformers": []}
    with parties() as told:
        plan = make_plan(told, precision, requests)
        path = told.stage.home("plain") / "serve.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        job = start_serving(told, plan["recipe"])
        asyncio.run(ask_all(told, plan["texts_warm_up"], max(requests)))
        for _ in range(runs):
            seen["engine"].append(_arm(told, "-m", "benchmarks.bare_engine", str(path)))
            seen["transformers"].append(_arm(told, str(PLAIN), str(path)))
            seen["whole"].append(
                [
                    asyncio.run(ask_all(told, block["texts"], block["in_flight"]))
                    for block in plan["blocks"]
                ]
            )
        told.blindhost("buyer", "job", "stop", job)
    check_tokens(itertools.chain(*seen.values()))
    yield from compare(seen, precision)


def check_tokens(runs: Iterable[Sequence[Block]]) -> None:
    """Every arm wrote as much as the others. Raises StepError."""
    written: dict[int, list[int]] = {}
    for block in itertools.chain.from_iterable(runs):
        written.setdefault(block.in_flight, []).append(block.tokens)
    for in_flight, tokens in written.items():
        if max(tokens) - min(tokens) > TOKENS_APART_MAX * max(tokens):
            raise StepError(f"{in_flight} in flight: the arms wrote {sorted(tokens)} tokens")


def compare(
    seen: Mapping[str, Sequence[Sequence[Block]]], precision: str
) -> Iterator[dict[str, Any]]:
    """The figures: medians over the runs of each run's ratio or difference."""
    levels = [block.in_flight for block in seen["whole"][0]]
    speeds = {
        arm: {
            str(level): round(statistics.median(run[at].speed for run in runs), 1)
            for at, level in enumerate(levels)
        }
        for arm, runs in seen.items()
    }

    def ratio(arm: str, at: int) -> float:
        pairs = zip(seen["whole"], seen[arm], strict=True)
        return round(statistics.median(a[at].speed / b[at].speed for a, b in pairs), 3)

    shared = {
        "better": "higher",
        "runs": len(seen["whole"]),
        "precision": precision,
        "in_flight": levels[-1],
    }
    yield {
        "figure": "serve.vs_bare_engine",
        "value": ratio("engine", -1),
        "unit": "ratio",
        **shared,
        "by_in_flight": {str(level): ratio("engine", at) for at, level in enumerate(levels)},
        "tokens_per_second": speeds,
    }
    yield {
        "figure": "serve.vs_transformers_cb",
        "value": ratio("transformers", -1),
        "unit": "ratio",
        **shared,
        "by_in_flight": {str(level): ratio("transformers", at) for at, level in enumerate(levels)},
    }
    whole, engine = (
        [statistics.median(run[0].first_token_seconds) for run in seen[arm]]
        for arm in ("whole", "engine")
    )
    added = statistics.median(a - b for a, b in zip(whole, engine, strict=True))
    yield {
        "figure": "serve.first_token_added_ms",
        "value": round(1000 * added, 1),
        "unit": "ms",
        "better": "lower",
        "runs": len(whole),
        "precision": precision,
        "in_flight": levels[0],
        "whole_ms": [round(1000 * each, 1) for each in whole],
        "engine_ms": [round(1000 * each, 1) for each in engine],
    }


# --- prompts -------------------------------------------------------------------------------------


def make_plan(told: Parties, precision: str, requests: Mapping[int, int]) -> dict[str, Any]:
    """Prompts as text for the gateway, and as the same token ids for the bare engines."""
    from transformers import AutoTokenizer

    model = told.stage.home("owner") / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = (ASSETS / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(row)["messages"][0]["content"] for row in rows]
    # Numbered: no prompt stands twice, so none could be answered from another's cache.
    texts = (f"{text} ({number})" for number, text in enumerate(itertools.cycle(asked)))

    def ids_of(text: str) -> list[int]:
        found: list[int] = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return found

    generation = json.loads((model / "generation_config.json").read_bytes())
    eos = generation["eos_token_id"]
    recipe = SERVE_JOB["recipe"] | {"precision": precision, "slots": max(requests)}
    blocks = []
    for in_flight, count in requests.items():
        mine = list(itertools.islice(texts, count))
        blocks.append(
            {"in_flight": in_flight, "texts": mine, "prompts": [ids_of(text) for text in mine]}
        )
    warm_up = list(itertools.islice(texts, WARM_UP))
    return {
        "model": str(model),
        "dtype": DTYPES[precision],
        "recipe": recipe,
        "length_max": SERVE_JOB["length_max"],
        "reply_tokens_max": recipe["reply_tokens_max"],
        "eos_ids": eos if isinstance(eos, list) else [eos],
        "blocks": blocks,
        "texts_warm_up": warm_up,
        "warm_up": [ids_of(text) for text in warm_up],
    }


# --- arms ----------------------------------------------------------------------------------------


def _arm(told: Parties, *arguments: str) -> list[Block]:
    """The blocks of an arm that is a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        text=True,
        env=told.stage.environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise StepError(f"{arguments[-2]}: {done.stderr[-2000:]}")
    return [Block(**each) for each in json.loads(done.stdout.strip().splitlines()[-1])]


def start_serving(told: Parties, recipe: dict[str, Any]) -> str:
    """The demo's serve job over the base alone, and the gateway before it; the job's name."""
    file = told.stage.home("buyer") / "serve.json"
    file.write_text(
        json.dumps(SERVE_JOB | {"recipe": recipe, "spend_max_microcredits": SPEND_MAX}),
        encoding="utf-8",
    )
    view = told.blindhost(
        "buyer", "job", "submit", str(file), "--model", told.model, "--image", told.measurement
    )
    told.start_gateway()
    told.stage.wait_for(
        "the model is served",
        lambda: BASE in told.model_names(),
        seconds=SERVED_SECONDS,
        watch=["gateway"],
    )
    return str(view["job"])


async def ask_all(told: Parties, texts: Sequence[str], in_flight: int) -> Block:
    """Ask the gateway for a streamed reply to each text, so many at a time.

    Raises StepError for a reply that is an error.
    """
    url = f"{told.gateway_url}/v1/chat/completions"
    waiting, tokens, first = iter(texts), list[int](), list[float]()

    async def ask_on() -> None:
        for text in waiting:
            said, seconds = await ask(http, url, text)
            tokens.append(said)
            first.append(seconds)

    headers = {"Authorization": f"Bearer {told.gateway_key}"}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as http:
        started = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(in_flight)))
        seconds = time.perf_counter() - started
    return Block(
        in_flight=in_flight, tokens=sum(tokens), seconds=seconds, first_token_seconds=tuple(first)
    )


async def ask(http: aiohttp.ClientSession, url: str, text: str) -> tuple[int, float]:
    """One streamed reply: its tokens, and seconds to its first text (or end, if it has none)."""
    body = {
        "model": BASE,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": SERVE_JOB["recipe"]["reply_tokens_max"],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first, tokens = time.perf_counter(), None, None
    async with http.post(url, json=body) as answer:
        if answer.status != 200:
            raise StepError(f"the gateway says {answer.status}: {(await answer.text())[:300]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise StepError(f"a reply broke: {chunk['error']}")
            if first is None and any(each["delta"].get("content") for each in chunk["choices"]):
                first = time.perf_counter() - started
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
    if tokens is None:
        raise StepError("a reply said nothing of its tokens")
    return tokens, time.perf_counter() - started if first is None else first
