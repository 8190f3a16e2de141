"""OpenAI's and Ray's own clients, unmodified, through the gateway to real parties and back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.hand_over import CONFIG_NAME, TENSORS_NAME
from demo.chat import BASE
from demo.display import Display
from demo.jobs import ASSETS, JOB
from demo.opening import HOSTS
from demo.parties import Stage, StepError
from demo.story import Story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL: dict[str, Any] = JOB | {
    "recipe": JOB["recipe"] | {"steps": 4, "learning_rate": "0.02", "evaluation": None},
    "checkpoint_steps": 2,
}
JOB_SECONDS = 240.0
STOP_SECONDS = 60.0
QUESTION = [{"role": "user", "content": "Where is my order FB58130?"}]
REPLY_TOKENS = 32
ENTRYPOINT = "blindhost run job.json"


class Town(Story):
    """The demo's parties; the owner's terms let adapters leave, no policy says to whom."""

    model_lineage = ""

    def publish_policy(self, role: str, lineage: str) -> None:
        """The owner's newest terms stand in place of the first ones, which keep adapters inside."""
        if role == "owner":
            self.model_lineage = lineage
            self.blindhost(
                role, "terms", "publish", "--lineage", lineage,
                "--recipe", "lora:16:1000", "--recipe", "generate:16:1", "--adapter-leaves",
                "--price-per-job", "10000", "--royalty-per-million-tokens", "50000",
            )  # fmt: skip
        super().publish_policy(role, lineage)


@pytest.fixture(scope="module")
def told() -> Iterator[Town]:
    with Stage() as stage:
        town = Town(stage, Display())
        town.prepare()
        town.start_gateway(SMALL)
        yield town
        stage.stop(*reversed(stage.parties))


def rows(count: int) -> str:
    lines = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[:count]) + "\n"


def until_ended(look, seconds: float = JOB_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if str(found.status).lower() in {"succeeded", "failed", "cancelled", "stopped"}:
            return found
        time.sleep(0.5)
    raise AssertionError(look())


# --- OpenAI's client -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """A fine-tune that OpenAI's client asked for, and what base and tuned model said."""

    ended: Any
    events: list[Any]
    adapter: str
    tuned: Any
    base: Any


@pytest.fixture(scope="module")
def tuned(told: Town, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    train = tmp_path_factory.mktemp("openai") / "train.jsonl"
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
        shown = told.blindhost("buyer", "job", "show", made.id.removeprefix("ftjob-"))
        (adapter,) = shown["outputs"]
        told.serve_adapter(adapter)
        said = {
            name: client.chat.completions.create(
                model=name, messages=QUESTION, max_tokens=REPLY_TOKENS, temperature=0
            )
            for name in (ended.fine_tuned_model, BASE)
        }
        return Tuned(
            ended=ended,
            events=client.fine_tuning.jobs.list_events(made.id).data,
            adapter=adapter,
            tuned=said[ended.fine_tuned_model],
            base=said[BASE],
        )


def test_openais_client_uploads_tunes_follows_and_chats_with_the_tuned_model(
    told: Town, tuned: Tuned
) -> None:
    assert tuned.ended.fine_tuned_model == f"ft:{BASE}:{tuned.adapter[:16]}"
    assert tuned.ended.trained_tokens == 4 * JOB["recipe"]["rows_per_step"] * JOB["length_max"]
    assert any("checkpoint" in e.message or e.type == "metrics" for e in tuned.events)
    assert tuned.tuned.usage.completion_tokens > 0
    assert tuned.tuned.choices[0].message.content != tuned.base.choices[0].message.content
    told.ask_unsigned()
    assert told.spoken.refused_unsigned == 1
    told.blindhost("buyer", "job", "stop", told.spoken.job)
    shown = told.show_served(told.spoken.job)
    assert shown["last_receipt"]["end"] == "done"
    assert shown["last_receipt"]["tokens"] == 1 << 16
    assert told.books()["balanced"]


# --- hand-over -----------------------------------------------------------------------------------


def fetch(told: Town, role: str, adapter: str, to: Path) -> Any:
    return told.blindhost(
        role, "adapter", "fetch", adapter, "--to", str(to), "--base-name", str(ASSETS)
    )


def refusal(told: Town, role: str, adapter: str, to: Path) -> str:
    with pytest.raises(StepError) as caught:
        fetch(told, role, adapter, to)
    assert not to.exists()
    return " ".join(str(caught.value).split())


def pefts_reply(folder: Path) -> str:
    """What unmodified transformers and PEFT say from the folder alone."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        model = AutoPeftModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    asked = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=REPLY_TOKENS, do_sample=False)
    reply: str = tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return reply


def test_adapter_of_an_enclave_is_fetched_where_both_custodians_say_yes_and_says_the_same_outside(
    told: Town, tuned: Tuned, tmp_path: Path
) -> None:
    folder, named = tmp_path / "adapter", "adapter_to does not name"
    said = refusal(told, "buyer", tuned.adapter, folder)
    assert f"use policy 1 of custodian {told.owner[:16]}" in said
    assert f"{named} " in said
    told.blindhost(
        "owner", "policy", "publish", "--lineage", told.model_lineage,
        "--measurement", told.measurement, "--accept-simulated-evidence-from", told.root,
        "--adapter-to", told.buyer,
    )  # fmt: skip
    fetched = fetch(told, "buyer", tuned.adapter, folder)
    assert fetched["bytes"] == (folder / TENSORS_NAME).stat().st_size
    assert sorted(each.name for each in folder.iterdir()) == [CONFIG_NAME, TENSORS_NAME]
    assert pefts_reply(folder) == tuned.tuned.choices[0].message.content
    # The buyer's own line is the buyer's: it names nobody, so not the owner either.
    said = refusal(told, "owner", tuned.adapter, tmp_path / "owners")
    assert f"use policy 1 of custodian {told.buyer[:16]}" in said
    assert f"{named} {told.owner[:16]}" in said
    assert "only an adapter is handed over" in refusal(told, "buyer", told.model, tmp_path / "no")


# --- Ray's command and client --------------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Terminal:
    """A shell of the buyer with an empty home: `ray`, and no word of ours but the address."""

    told: Town
    home: Path

    def ray(self, *words: str) -> str:
        """One command that exits with 0; what it printed."""
        command = [
            str(Path(sys.executable).parent / "ray"), "job", words[0],
            "--address", self.told.gateway_url,
            "--headers", json.dumps({"Authorization": f"Bearer {self.told.gateway_key}"}),
            *words[1:],
        ]  # fmt: skip
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            timeout=JOB_SECONDS,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def digest_of(self, label: str) -> str:
        """The job behind a submission id, by the buyer's own books."""
        (job,) = [each for each in self.client().list_jobs() if each.submission_id == label]
        return str(job.job_id)

    def client(self) -> Any:
        """Ray's own client of its API."""
        from ray.job_submission import JobSubmissionClient

        key = {"Authorization": f"Bearer {self.told.gateway_key}"}
        return JobSubmissionClient(self.told.gateway_url, headers=key)


@pytest.fixture
def terminal(told: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return Terminal(told=told, home=tmp_path)


def working_dir(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train.jsonl").write_text(rows(64), encoding="utf-8")
    job = {"model": BASE, "training": "train.jsonl", "heldout": None, "recipe": {}, "manifest": {}}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def test_rays_own_command_runs_a_sealed_fine_tune_to_its_end(
    told: Town, terminal: Terminal, tmp_path: Path
) -> None:
    folder = working_dir(tmp_path / "wd")
    submit = ("--working-dir", str(folder), "--", *ENTRYPOINT.split())
    said = terminal.ray("submit", "--no-wait", "--submission-id", "sealed-1", *submit)
    assert "Job 'sealed-1' submitted successfully" in said
    status = terminal.ray("status", "sealed-1")
    assert any(f"Status for job 'sealed-1': {s}" in status for s in ("PENDING", "RUNNING")), status
    log = terminal.ray("logs", "--follow", "sealed-1")
    assert "step 4/4" in log
    assert "Job 'sealed-1' succeeded" in log
    assert "Job 'sealed-1' succeeded" in terminal.ray("status", "sealed-1")
    listed = terminal.ray("list")
    assert "submission_id='sealed-1'" in listed
    assert "<JobStatus.SUCCEEDED: 'SUCCEEDED'>" in listed
    shown = told.blindhost("buyer", "job", "show", terminal.digest_of("sealed-1"))
    assert shown["last_receipt"]["end"] == "done"
    assert f"model=ft:{BASE}:{shown['outputs'][0][:16]}" in log
    assert "Job 'sealed-1' deleted successfully" in terminal.ray("delete", "sealed-1")
    assert "sealed-1" not in terminal.ray("list")
    assert told.books()["balanced"]
    for host in HOSTS:
        assert told.stage.parties[host].exit is None


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
def test_rays_own_client_follows_a_running_job_and_its_command_stops_it(
    told: Town, terminal: Terminal, tmp_path: Path
) -> None:
    client = terminal.client()
    folder = working_dir(tmp_path / "wd")
    recipe = {"epochs": None, "steps": 900}
    job = json.loads((folder / "job.json").read_text(encoding="utf-8")) | {"recipe": recipe}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    submitted = client.submit_job(
        entrypoint=ENTRYPOINT,
        submission_id="sealed-2",
        runtime_env={"working_dir": str(folder)},
        metadata={"team": "a"},
    )
    assert submitted == "sealed-2"
    digest = terminal.digest_of("sealed-2")

    async def until_it_trains() -> str:
        async for text in client.tail_job_logs("sealed-2"):
            if "/900 loss=" in text:
                return str(text)
        raise AssertionError(client.get_job_logs("sealed-2"))

    asyncio.run(asyncio.wait_for(until_it_trains(), JOB_SECONDS))
    assert client.get_job_status("sealed-2").value == "RUNNING"
    assert "was stopped" in terminal.ray("stop", "sealed-2")
    info = until_ended(lambda: client.get_job_info("sealed-2"), STOP_SECONDS)
    assert (info.status.value, info.driver_exit_code) == ("STOPPED", None)
    assert info.metadata == {"team": "a"}
    assert client.get_job_logs("sealed-2").splitlines()[-1].split()[1:3] == ["ended:", "cancelled"]
    shown = told.blindhost("buyer", "job", "show", digest)
    assert shown["market"]["state"] == "cancelled"
    assert shown["receipts_that_do_not_hold"] == []
    assert client.stop_job("sealed-2") is False  # it has ended
    assert client.delete_job("sealed-2") is True
    assert told.books()["balanced"]
