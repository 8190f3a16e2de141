"""All parties as processes, by their public commands, on a small job; and the demo interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.blindness import Searcher, search_all, tensor_bytes
from demo.display import Display
from demo.jobs import ASSETS, JOB
from demo.opening import CHECKOUT, HOSTS
from demo.parties import Stage
from demo.story import Story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SMALL: dict[str, Any] = JOB | {
    "recipe": JOB["recipe"] | {"steps": 4, "evaluation": None},
    "checkpoint_steps": 2,
}


@pytest.fixture
def told() -> Story:
    with Stage() as stage:
        story = Story(stage, Display())
        story.prepare()
        yield story


def test_a_job_waits_for_an_offline_broker_and_then_runs_sealed_and_settled(told: Story) -> None:
    stage = told.stage
    stage.stop("broker-buyer")
    job = told.submit(SMALL)

    def waits() -> bool:
        waiting: str = told.blindhost("buyer", "job", "show", job)["market"]["waiting_for"] or ""
        return waiting.startswith("key broker of") and "buyer" in waiting

    stage.wait_for("the job waits for a broker", waits, seconds=120)
    stage.start("broker-buyer", "blindhost", "broker", "--home", str(stage.home("buyer")))
    followed = told.follow(job, kill_half_way=False)
    shown = told.show(followed)
    assert shown["outputs"]
    assert shown["last_receipt"]["end"] == "done"
    assert shown["last_receipt"]["step"] == 4
    assert shown["last_receipt"]["world_size"] == 2
    assert followed.tensors is not None
    assert told.books()["balanced"]
    assert_walled_in(stage)
    searcher = Searcher(
        canaries={"canary": told.canaries[0]},
        weights={"weights": tensor_bytes(ASSETS / "model.safetensors")},
    )
    search_all(searcher, told.places(), told.words)
    assert searcher.hits == []
    assert searcher.bytes_searched > 10 << 20


def assert_walled_in(stage: Stage) -> None:
    """The chip says in which namespaces it started the enclave, or which it was refused."""
    logs = [(stage.home(host) / "chip" / "log").read_text(encoding="utf-8") for host in HOSTS]
    launched = [line for log in logs for line in log.splitlines() if " launched " in line]
    assert launched
    for line in launched:
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        named = set(words["namespaces"].split(",")) | set(words["refused"].split(","))
        assert named >= {"mount", "network", "pid"}
        assert words["read_only_root"] == "True" or "mount" in words["refused"]


def test_an_interrupted_demo_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=CHECKOUT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[3]"):
            break
    assert named(tmp_path)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == 130
    assert "interrupted" in said
    assert named(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def named(folder: Path) -> list[str]:
    """Command lines of processes that know the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in words:
                found.append(words.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found
