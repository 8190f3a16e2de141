"""OpenAI's and Ray's own clients, unmodified, through the gateway to real parties and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demo.chat import BASE
from demo.display import Display
from demo.jobs import ASSETS, JOB
from demo.opening import HOSTS
from demo.parties import Stage
from demo.story import Story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL: dict[str, Any] = JOB | {
    "recipe": JOB["recipe"] | {"steps": 4, "learning_rate": "0.02", "evaluation": None},
    "checkpoint_steps": 2,
}
JOB_SECONDS = 240.0


@pytest.fixture(scope="module")
def told():
    with Stage() as stage:
        story = Story(stage, Display())
        story.prepare()
        story.start_gateway(SMALL)
        yield story
        stage.stop(*reversed(stage.parties))


def rows(count: int) -> str:
    lines = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[:count]) + "\n"


def until_ended(look, seconds: float = JOB_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found.status in {"succeeded", "failed", "cancelled"}:
            return found
        time.sleep(0.5)
    raise AssertionError(look())


def test_openais_client_uploads_tunes_follows_and_chats_with_the_tuned_model(
    told: Story, tmp_path: Path
) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text(rows(64), encoding="utf-8")
    with told.client() as client:
        with train.open("rb") as content:
            file = client.files.create(file=content, purpose="fine-tune")
        made = client.fine_tuning.jobs.create(
            model=BASE,
            training_file=file.id,
            extra_body={"blindhost": {"recipe": {"steps": 4, "epochs": None}}},
        )
        ended = until_ended(lambda: client.fine_tuning.jobs.retrieve(made.id))
        assert ended.status == "succeeded", ended
        assert ended.fine_tuned_model.startswith(f"ft:{BASE}:")
        assert ended.trained_tokens == 4 * JOB["recipe"]["rows_per_step"] * JOB["length_max"]
        events = client.fine_tuning.jobs.list_events(made.id).data
        assert any("checkpoint" in e.message or e.type == "metrics" for e in events)
        shown = told.blindhost("buyer", "job", "show", made.id.removeprefix("ftjob-"))
        (adapter,) = shown["outputs"]
        assert ended.fine_tuned_model.endswith(adapter[:16])
        told.serve_adapter(adapter)
        tuned, base = (
            client.chat.completions.create(
                model=name,
                messages=[{"role": "user", "content": "Where is my order FB58130?"}],
                max_tokens=32,
                temperature=0,
            )
            for name in (ended.fine_tuned_model, BASE)
        )
        assert tuned.usage.completion_tokens > 0
        assert tuned.choices[0].message.content != base.choices[0].message.content
    told.ask_unsigned()
    assert told.spoken.refused_unsigned == 1
    told.blindhost("buyer", "job", "stop", told.spoken.job)
    shown = told.show_served(told.spoken.job)
    assert shown["last_receipt"]["end"] == "done"
    assert shown["last_receipt"]["tokens"] == 1 << 16
    assert told.books()["balanced"]


def test_rays_own_command_runs_a_sealed_fine_tune_to_its_end(told: Story, tmp_path: Path) -> None:
    folder = tmp_path / "wd"
    folder.mkdir()
    (folder / "train.jsonl").write_text(rows(64), encoding="utf-8")
    job = {"model": BASE, "training": "train.jsonl", "heldout": None, "recipe": {}, "manifest": {}}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"), "job", "submit",
            "--address", told.gateway_url, "--submission-id", "sealed-1",
            "--headers", json.dumps({"Authorization": f"Bearer {told.gateway_key}"}),
            "--working-dir", str(folder), "--", "blindhost", "run", "job.json",
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=JOB_SECONDS,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Job 'sealed-1' succeeded" in done.stdout
    assert "step 4" in done.stdout
    jobs = told.blindhost("buyer", "job", "list")
    assert {each["state"] for each in jobs} == {"succeeded"}
    for host in HOSTS:
        assert told.stage.parties[host].exit is None
