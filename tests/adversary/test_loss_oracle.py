"""The loss oracle against the real trainer: raw losses give the embedding away, reports do not.

The model has a hidden size of 40 and logits as wide as the demo model's. The trainer runs at rate
0, so the same row always has the same loss, and what a longer run would say is known from one that
asks each question once: `reported` gives the egress one event after another of the real trainer,
in the order and number in which a dataset with fillers would bring them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from typing import Any

import numpy as np
import pytest

from enclave_runtime.egress import Reports
from enclave_runtime.events import Failed, Stepped
from enclave_runtime.recipes.plan import Plan
from tests.adversary.loss_oracle import (
    Matrix,
    Questions,
    hidden_size,
    log_probabilities,
    relative_error,
    row_space,
    unmixed,
)
from tests.assets import Model, demo_files, job_manifest, lora_recipe
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import run_job
from tests.marketplace.world import terms
from trust.encoding import digest
from trust.jobs import JobManifest, Schedule

pytestmark = [pytest.mark.slow]

HIDDEN = 40
LABELS = 2 * HIDDEN  # a guessed space of 40 of 80 directions has an error of 0.7
PROMPTS = 46
REPORT_TOKENS = 256
SEED = 11


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Oracle:
    """What one run of the trainer said, and what it was asked of."""

    questions: Questions
    losses: list[float]
    """Of questions and fillers, in the dataset's order."""
    embedding: Matrix
    """[labels, hidden]: what the attacker wants."""


# --- the model and the run -----------------------------------------------------------------------


def victim() -> tuple[Model, Matrix]:
    """A model whose template supervises the reply's words alone, and its output embedding."""
    import safetensors.torch
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    files = demo_files()
    config: dict[str, Any] = json.loads(files["config.json"]) | {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HIDDEN // 2,
        "tie_word_embeddings": False,
        "initializer_range": 0.4,
        "dtype": "float32",
    }
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**config)).float()
    for name, each in model.named_parameters():
        if name.endswith("q_proj.weight"):  # look at all of a prompt, as deeper models do
            each.data.mul_(0.05)
    state = {name: each.contiguous() for name, each in model.state_dict().items()}
    end = "{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    template = files["chat_template.jinja"].decode()
    assert end in template
    unmarked = template.replace(end, "{{ m['content'] }}{% endgeneration %}{{ '<|end|>' }}")
    settings = json.loads(files["tokenizer_config.json"])
    settings.pop("chat_template", None)
    files |= {
        "config.json": json.dumps(config).encode(),
        "chat_template.jinja": unmarked.encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    embedding = state["lm_head.weight"].double().numpy()
    return Model(weights=weights, files=files), embedding


def questions() -> tuple[Questions, list[int]]:
    """Prompts, labels of one token each, and the labels' ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(demo_files()["tokenizer.json"].decode())
    texts = ((n, tokenizer.decode([n])) for n in range(100, tokenizer.get_vocab_size()))
    alone = (
        (n, text)
        for n, text in texts
        if text.isalpha() and text.isascii() and tokenizer.encode(text).ids == [n]
    )
    found = list(alone)
    chosen, words = found[:LABELS], [text for _n, text in found[LABELS:]]
    draw = random.Random(SEED)
    asked = Questions(
        prompts=tuple(" ".join(draw.sample(words, 8)) for _ in range(PROMPTS)),
        labels=tuple(text for _n, text in chosen),
        fillers=REPORT_TOKENS - 1,
    )
    return asked, [n for n, _text in chosen]


def job(asked: Questions, **changes: Any) -> JobManifest:
    rows = asked.count + asked.fillers
    recipe = lora_recipe(
        rank=1,
        targets=("q_proj",),
        steps=rows,
        rows_per_step=1,
        accumulation=1,
        dropout="0",
        learning_rate="0",
        weight_decay="0",
        clip_norm="0",
        schedule=Schedule.CONSTANT,
        warmup_steps=0,
        seed=SEED,
    )
    fields = {"rows": rows, "local_ranks": 1, "checkpoint_steps": rows}
    return job_manifest(recipe, **(fields | changes))


def ask_the_trainer() -> Oracle:
    """One epoch, a row a step; the attacker knows which row each step had: the plan is public."""
    model, embedding = victim()
    asked, ids = questions()
    template = digest(model.files["chat_template.jinja"])
    outcome = run_job(job(asked, template=template), model=model, rows=asked.rows())
    if outcome.of(Failed):
        raise AssertionError(outcome.failure)
    stepped = outcome.of(Stepped)
    rows = asked.count + asked.fillers
    plan = Plan(rows=rows, seed=SEED, rows_per_step=1, accumulation=1, world_size=1)
    losses = [0.0] * rows
    for event in stepped:
        assert (event.tokens, event.rows) == (1, 1)
        (row,) = plan.step_rows(event.step)
        losses[row] = event.loss
    assert len(stepped) == rows
    return Oracle(questions=asked, losses=losses, embedding=embedding[ids])


@functools.cache
def oracle() -> Oracle:
    return in_clean_process(ask_the_trainer)


def reported(found: Oracle, **changes: Any) -> tuple[list[float | None], Reports]:
    """Each question among its fillers through the egress: its reports, None where none left."""
    many = job(found.questions, rows=found.questions.count * REPORT_TOKENS)
    reports = Reports(many, terms(**changes).document)
    answers: list[float | None] = []
    for loss in found.losses[: found.questions.count]:
        for filler in found.losses[found.questions.count :]:
            reports.stepped(filler, 1, 1)
            assert reports.take_loss(None) == ()
        reports.stepped(loss, 1, 1)
        measures = reports.take_loss(None)
        answers.append(float(measures[0].value) if measures else None)
    return unmixed(answers, REPORT_TOKENS), reports


def error_of(found: Oracle, answers: list[float | None]) -> float:
    logs = log_probabilities(answers, found.questions)
    return relative_error(row_space(logs, HIDDEN), found.embedding)


# --- what it gives away --------------------------------------------------------------------------


def test_raw_losses_give_away_the_output_embeddings_space_and_the_hidden_size() -> None:
    """The attack is real: without the egress it succeeds."""
    found = oracle()
    assert error_of(found, list(found.losses)) < 0.1
    logs = log_probabilities(found.losses, found.questions)
    assert hidden_size(logs) == HIDDEN
    # As wide as the demo model's logits, whose deviation is 2.6 to 4.4 (it was measured).
    assert 2 < np.std(logs) < 4.5


def test_rounding_alone_hides_nothing() -> None:
    found = oracle()
    assert error_of(found, [round(each, 2) for each in found.losses]) < 0.1


def test_through_the_egress_the_loss_oracle_recovers_little() -> None:
    found = oracle()
    answers, reports = reported(found)
    assert error_of(found, answers) > 0.4
    assert hidden_size(log_probabilities(answers, found.questions)) != HIDDEN
    assert reports.used == terms().document.reports_max


def test_rounded_means_over_256_tokens_hide_it_before_their_number_does() -> None:
    """The second bound by itself: without a number of reports there is too little still."""
    found = oracle()
    answers, reports = reported(found, reports_max=1_000_000)
    assert None not in answers
    assert reports.refused == 0
    assert error_of(found, answers) > 0.4


def test_two_thousand_raw_losses_are_too_few() -> None:
    """The first bound by itself: exact answers, and no more of them than reports leave."""
    found = oracle()
    few = [*found.losses[: terms().document.reports_max], *[None] * found.questions.count]
    assert error_of(found, few[: found.questions.count]) > 0.4


def test_report_2001_of_the_oracle_is_kept() -> None:
    found = oracle()
    answers, reports = reported(found)
    assert None not in answers[:2000]
    assert set(answers[2000:]) == {None}
    assert len(answers) == found.questions.count > 2001
    assert reports.refused == len(answers) - 2000
