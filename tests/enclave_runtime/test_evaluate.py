"""Evaluations: the mean loss over the held-out rows, and greedy replies compared as text."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime.pipes import Frame
from enclave_runtime.scores import EvaluationParts, ReplyReference, has_header
from tests.assets import DEMO, demo_model, evaluation, job_manifest, lora_recipe
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import Outcome, evaluations, run_job
from trust.errors import SessionError
from trust.jobs import EvaluateRecipe, InputRole, JobManifest, LossOn, Precision

HELDOUT = b"".join((DEMO / "eval.jsonl").read_bytes().splitlines(keepends=True)[:7])


def job(ranks: int = 2, **changes: Any) -> JobManifest:
    recipe = EvaluateRecipe(
        evaluation=evaluation(**({"reply_tokens_max": 40} | changes)),
        precision=Precision.FP32,
        loss_on=LossOn.ASSISTANT,
    )
    return job_manifest(recipe, local_ranks=ranks, length_max=256)


@functools.cache
def run(ranks: int = 2, **changes: Any) -> Outcome:
    runner = functools.partial(run_job, job(ranks, **changes), model=demo_model(), heldout=HELDOUT)
    return in_clean_process(runner)


def reference(folder: Path) -> dict[str, Any]:
    """The same by transformers alone: loss row by row, replies by `generate`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    loss, tokens, replies = 0.0, 0, []
    for line in HELDOUT.splitlines():
        messages = json.loads(line)["messages"]
        made = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        mask = made["assistant_masks"].bool()
        labels = made["input_ids"].masked_fill(~mask, -100)
        count = int(mask.sum())
        with torch.no_grad():
            loss += model(input_ids=made["input_ids"], labels=labels).loss.item() * count
        tokens += count
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**prompt, max_new_tokens=40, do_sample=False)
        new = written[0, prompt["input_ids"].shape[1] :].tolist()
        replies.append((new[-1] == 2, tokenizer.decode(new[:-1] if new[-1] == 2 else new)))
    return {"loss": loss / tokens, "tokens": tokens, "replies": replies}


def test_loss_and_replies_equal_those_of_transformers(tmp_path: Path) -> None:
    model = demo_model()
    wanted = in_clean_process(reference, model.write(tmp_path))
    found = evaluations(run())["base"]
    assert found.loss == pytest.approx(wanted["loss"], rel=1e-5)
    assert (found.tokens, found.rows) == (wanted["tokens"], 7)
    # Replies themselves: make what transformers wrote the reference, and all must match.
    lines = []
    for line, (_ended, reply) in zip(HELDOUT.splitlines(), wanted["replies"], strict=True):
        messages = json.loads(line)["messages"]
        messages[-1]["content"] = reply
        lines.append(json.dumps({"messages": messages}))
    heldout = "\n".join(lines).encode()
    runner = functools.partial(run_job, job(header_ends_with=" "), model=model, heldout=heldout)
    again = evaluations(in_clean_process(runner))["base"]
    ended = sum(each[0] for each in wanted["replies"])
    assert ended > 0
    assert again.exact_header == 7
    assert again.exact_whole == ended


def test_scores_do_not_depend_on_the_number_of_ranks() -> None:
    one, three = evaluations(run(1))["base"], evaluations(run(3))["base"]
    assert one.loss == pytest.approx(three.loss, rel=1e-6)
    assert (one.rows, one.tokens) == (three.rows, three.tokens)
    assert (one.exact_header, one.exact_whole) == (three.exact_header, three.exact_whole)


def test_evaluate_job_has_no_adapter_and_no_step() -> None:
    outcome = run()
    assert outcome.finished.adapter == outcome.finished.tensors_digest == b""
    assert outcome.finished.step == 0
    assert outcome.losses == []
    assert job().inputs[-1].role is InputRole.HELDOUT


def test_rows_beyond_the_limit_are_not_measured() -> None:
    assert evaluations(run(rows_max=3, reply_tokens_max=0))["base"].rows == 3


def test_without_replies_nothing_is_exact() -> None:
    found = evaluations(run(reply_tokens_max=0))["base"]
    assert (found.exact_header, found.exact_whole) == (0, 0)
    assert found.loss == pytest.approx(evaluations(run())["base"].loss)


def test_training_evaluates_before_and_after_and_not_again_on_resume() -> None:
    recipe = lora_recipe(steps=4, evaluation=evaluation())
    whole = in_clean_process(run_job, job_manifest(recipe))
    kinds = [type(event).__name__ for event in whole.events]
    assert kinds[:2] == ["Ready", "Evaluated"]
    assert kinds[-2:] == ["Evaluated", "Finished"]
    assert evaluations(whole)["base"].loss != evaluations(whole)["tuned"].loss
    resume = functools.partial(
        run_job, job_manifest(recipe), checkpoint=whole.checkpoint(2), generation=2
    )
    resumed = in_clean_process(resume)
    assert [event.phase for event in resumed.events if hasattr(event, "phase")] == ["tuned"]
    assert evaluations(resumed)["tuned"] == evaluations(whole)["tuned"]


# --- comparing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "wanted", "mark", "right"),
    [
        ("[a/b] hello", "[a/b] bye", "]", True),
        ("[a/c] hello", "[a/b] hello", "]", False),
        ("[a/b", "[a/b] hello", "]", False),
        ("[a/b]", "[a/b] hello", "]", True),
        ("no mark", "no mark", "]", True),
        ("no mark at all", "no mark", "]", False),
        ("same", "same", "", False),
    ],
)
def test_header_is_the_text_up_to_its_mark(reply: str, wanted: str, mark: str, right: bool) -> None:
    assert has_header(reply, wanted, mark) is right


def test_reply_that_was_cut_off_is_never_right_as_a_whole() -> None:
    import array

    def part(*words: int) -> Frame:
        fields = {"phase": "base", "loss": 2.0, "tokens": 4, "rows": 1}
        return Frame(kind="evaluated", fields=fields, content=array.array("I", words).tobytes())

    parts = EvaluationParts()
    parts.add(1, part(0, 1, 1, 65, 1, 0, 1, 65))
    parts.add(0, part(2, 1, 2, 65, 66))
    references = [ReplyReference(line=n, text="A") for n in range(3)]
    scores = parts.scores(references, "]", lambda _line, ids: ids.replace(b"\0", b"").decode())
    assert (scores.exact_whole, scores.exact_header) == (1, 2)
    assert (scores.loss, scores.tokens, scores.rows) == (0.5, 8, 2)
    with pytest.raises(SessionError, match="twice"):
        parts.add(0, part())
