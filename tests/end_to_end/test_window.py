"""The window over real parties, by keys: from an empty folder to a tuned model that answers."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.display import Display
from demo.jobs import ASSETS, JOB, SERVE_JOB
from demo.opening import read_json
from demo.parties import Stage
from demo.story import Story
from tests.tui.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PASSPHRASE = "a-heron-stands-in-blue-water-31"
JOB_SECONDS = 300.0
KEY_PAUSE = 0.15
LABEL_CELLS, FIELD_CELLS = 18, 26  # of tui/widgets/form.py


@pytest.fixture(scope="module")
def told():
    with Stage() as stage:
        story = Story(stage, Display())
        story.prepare()
        yield story
        stage.stop(*reversed(stage.parties))


class Reader:
    """A buyer whose home the window makes; what is not of the window are commands, as by hand."""

    def __init__(self, told: Story) -> None:
        self.told, self.home = told, told.stage.root / "reader"
        self.lineage = ""
        self.environment = told.stage.environment | {"BLINDHOST_PASSPHRASE": PASSPHRASE}

    def blindhost(self, *arguments: str) -> Any:
        program = str(Path(sys.executable).parent / "blindhost")
        done = subprocess.run(
            [program, *arguments, "--home", str(self.home), "--json"],
            capture_output=True,
            check=False,
            env=self.environment,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout.strip().splitlines()[-1])

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen]:
        log = self.told.stage.root / f"reader-{arguments[0]}.log"
        program = str(Path(sys.executable).parent / "blindhost")
        with log.open("wb") as said:
            process = subprocess.Popen(
                [program, *arguments, "--home", str(self.home)],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)

    @contextlib.contextmanager
    def window(self, *link: str) -> Iterator[Terminal]:
        terminal = Terminal(["--home", str(self.home), *link], columns=110, rows=40)
        try:
            yield terminal
            assert PASSPHRASE.encode() not in terminal.raw
        finally:
            terminal.close()


def keys(terminal: Terminal, *pressed: str) -> None:
    """Keys as a person presses them: one after another, each seen before the next."""
    for key in pressed:
        terminal.send(key)
        terminal.read_for(KEY_PAUSE)


ENTER, NEXT, ESCAPE, TAB, CLEAR, HOME = "\r", "\x13", "\x1b", "\t", "\x15", "\x1b[H"


def test_a_person_goes_by_keys_from_an_empty_folder_to_a_tuned_model_that_answers(
    told: Story,
) -> None:
    reader = Reader(told)
    with reader.window("start") as window:
        window.until("Rent a GPU from someone you don't trust", "Keys")
        window.until("none in this home yet")
        make_keys(window, told)
        window.until("online", seconds=60)
    identity = reader.blindhost("account")["identity"]
    told.stage.command(
        "blindhost-market", "credit", "--home", str(told.stage.home("market")),
        "--identity", identity, "--microcredits", "12000000",
    )  # fmt: skip
    heldout = told.stage.root / "heldout.jsonl"
    shutil.copyfile(ASSETS / "eval.jsonl", heldout)
    sealed = reader.blindhost("dataset", "seal", str(heldout), "--kind", "simulated")
    reader.lineage = sealed["lineage"]
    reader.blindhost(
        "policy", "publish", "--lineage", sealed["lineage"], "--measurement", told.measurement,
        "--accept-simulated-evidence-from", told.root,
    )  # fmt: skip
    reader.blindhost("model", "add", told.model, "--name", "demo")
    rows = told.stage.root / "rows.jsonl"
    lines = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()[:64]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with reader.running("broker"):
        with reader.window("new") as window:
            unlock(window)
            job = new_job(window, str(rows), reader)
        ended = until_ended(reader, job)
        assert ended == "succeeded"
        (adapter,) = reader.blindhost("job", "show", job)["outputs"]
        with reader.window("start") as window:
            unlock(window)
            keys(window, "3")
            window.until("first-tune", "SUCCEEDED", seconds=60)
            window.read_for(1.0)
            keys(window, ENTER)
            window.until("adapter", "all signatures hold here", seconds=60)
            keys(window, "t")
            window.until("PASSED", "SIMULATED", "RELEASED BY", seconds=60)
            keys(window, "5")
            window.until("Free", "cr", seconds=30)
        serve_and_chat(reader, adapter)


def make_keys(window: Terminal, told: Story) -> None:
    keys(window, ENTER)
    window.until("Market: address")
    keys(window, told.market_url, ENTER, told.market_identity, ENTER, PASSPHRASE, ENTER)
    window.until("once more")
    keys(window, PASSPHRASE, ENTER)


def unlock(window: Terminal) -> None:
    window.until("LOCKED", seconds=60)
    keys(window, ESCAPE, "1")
    window.until("Rent a GPU")
    keys(window, ENTER)
    window.until("assphrase")
    keys(window, PASSPHRASE, ENTER)
    window.until("online", seconds=60)


def new_job(window: Terminal, path: str, reader: Reader) -> str:
    keys(window, "n")
    window.until("1 Model", "its owner's terms hold")
    window.read_for(1.0)  # what is seen has the keys a moment later
    keys(window, HOME, ENTER)
    window.until("a JSONL file")
    keys(window, TAB, path, ENTER)
    window.until("64 rows", seconds=60)
    keys(window, TAB, ENTER)
    window.until("2 Data ✓", seconds=60)
    keys(window, NEXT)
    window.until("checkpoint every")
    fill(
        window, rank="", alpha="", steps="4", rows="16", learning="", longest="256", seed="",
        precision="", checkpoint="2",
    )  # fmt: skip
    keys(window, NEXT)
    window.until("never more than")
    fill(window, name="first-tune", never="5", price="20")
    keys(window, NEXT)
    window.until("I have read this page", seconds=60)
    window.until("quote good for", seconds=60)
    window.read_for(1.0)
    keys(window, ENTER)
    window.until("[✓] I have read this page")
    keys(window, NEXT)
    window.until("Sign and submit first-tune")
    window.read_for(1.0)
    keys(window, TAB, ENTER)
    window.until("Open the job", seconds=60)
    return reader.blindhost("job", "list")[0]["job"]


def fill(window: Terminal, **values: str) -> None:
    """Fields one after another, by the first word of their label; an empty value leaves it.

    A person looks where the cursor is before typing: so does this.
    """
    for label, value in values.items():
        window.until_true(lambda label=label: field(window)[0].startswith(label))
        if value:
            keys(window, CLEAR)  # a binding: it acts later than letters do
            window.until_true(lambda: field(window)[1] == "")
            keys(window, value)
            window.until_true(lambda value=value: field(window)[1] == value)
        keys(window, ENTER)


def field(window: Terminal) -> tuple[str, str]:
    """Label and text of the field under the cursor."""
    line = window.screen.display[window.screen.cursor.y]
    return line[:LABEL_CELLS].strip(), line[LABEL_CELLS : LABEL_CELLS + FIELD_CELLS].strip()


def until_ended(reader: Reader, job: str) -> str:
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        state = reader.blindhost("job", "show", job)["market"]["state"]
        if state in {"succeeded", "failed", "cancelled", "exhausted"}:
            return state
        time.sleep(1)
    raise AssertionError(state)


def serve_and_chat(reader: Reader, adapter: str) -> None:
    told = reader.told
    config = reader.home / "gateway.json"
    file = reader.home / "serve.json"
    file.write_text(json.dumps(SERVE_JOB), encoding="utf-8")
    base = {
        "model": told.model, "images": [told.measurement], "lineage": reader.lineage,
        "kind": "simulated", "job": JOB,
    }  # fmt: skip
    config.write_text(json.dumps({"models": {"demo": base}}), encoding="utf-8")
    reader.blindhost(
        "job", "submit", str(file), "--model", told.model, "--adapter", adapter,
        "--image", told.measurement,
    )  # fmt: skip
    with reader.running("gateway", "--port", "0", "--config", str(config)) as gateway:
        while read_json(reader.home / "gateway-endpoint.json") is None:
            log = told.stage.root / "reader-gateway.log"
            assert gateway.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.2)
        with reader.window("start") as window:
            unlock(window)
            keys(window, "6")
            window.until("ft:demo", seconds=120)
            keys(window, "Where is my order FB58130?", ENTER)
            window.until("sealed to chip", "tok/s", seconds=120)
            assert "[CUT]" not in window.words
