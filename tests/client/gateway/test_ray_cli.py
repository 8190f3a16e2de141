"""Golden transcripts: the unmodified `ray job` command of 2.60 against the gateway.

``BLINDHOST_RECORD=1`` writes ray_transcripts/ afresh; what changed is then for git to show.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from client.gateway import ray_logs
from marketplace.wire import JobState
from tests.client.gateway.ray_rig import KEY, Rig, ray_rig, until, write_files

TRANSCRIPTS = Path(__file__).parent / "ray_transcripts"
RAY = Path(sys.executable).with_name("ray")
HEADERS = f'{{"Authorization": "Bearer {KEY}"}}'
pytestmark = pytest.mark.slow


@dataclasses.dataclass(kw_only=True)
class Terminal:
    """A shell of a buyer: `ray` with an empty home, and the key in its environment."""

    rig: Rig
    home: Path
    work: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    async def ray(self, *words: str, with_key: bool = True, before: tuple[str, ...] = ()) -> int:
        """Run a command, and write down what it printed."""
        environment = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.home),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "100",
        }
        if with_key:
            environment["RAY_JOB_HEADERS"] = HEADERS
        command = ("job", words[0], "--address", self.rig.url, *before, *words[1:])
        running = await asyncio.create_subprocess_exec(
            str(RAY),
            *command,
            env=environment,
            cwd=self.work,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(90):
                output, errors = await running.communicate()
        except TimeoutError:
            running.kill()
            await running.communicate()
            raise
        code = running.returncode
        assert code is not None
        shown = " ".join(f"'{word}'" if " " in word or "{" in word else word for word in command)
        self._write(f"$ ray {shown}")
        self._write(output.decode())
        self._write(_last_words(errors.decode()))
        self._write(f"[exit {code}]\n")
        return code

    def _write(self, text: str) -> None:
        text = text.replace(self.rig.url, "http://127.0.0.1:PORT").replace(str(self.work), "WORK")
        text = text.replace(KEY, "KEY")
        text = re.sub(r"\braysubmit_[1-9A-Za-z]{16}\b", "raysubmit_XXXXXXXXXXXXXXXX", text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", text)
        text = re.sub(r"ft:([a-z-]+):[0-9a-f]{16}", r"ft:\1:ADAPTER", text)
        text = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\t", "TIME ", text, flags=re.MULTILINE)
        self.lines.extend(line.rstrip() for line in text.splitlines())

    def check(self, name: str) -> None:
        """Compare with the golden transcript."""
        path = TRANSCRIPTS / f"{name}.txt"
        found = "\n".join(self.lines) + "\n"
        if os.environ.get("BLINDHOST_RECORD") == "1":
            path.write_text(found)
        assert found == path.read_text()


def _last_words(errors: str) -> str:
    """Without the frames of a traceback, which are Ray's and its libraries' own."""
    head, traceback, rest = errors.partition("Traceback (most recent call last):\n")
    if not traceback:
        return errors
    return head + "\n".join(line for line in rest.splitlines() if not line.startswith(" "))


@pytest.fixture
async def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Terminal]:
    monkeypatch.setattr(ray_logs, "POLL_SECONDS", 0.01)
    home = tmp_path / "home"
    home.mkdir()
    work = write_files(tmp_path / "work")
    async with ray_rig(tmp_path / "gateway") as rig:
        yield Terminal(rig=rig, home=home, work=work)


async def when_submitted(rig: Rig, label: str, then: Callable[[str], object]) -> None:
    """Let something happen to a job as soon as it is there."""
    await until(lambda: any(each.label == label for each in rig.port.submitted))
    (job,) = [each for each in await rig.port.jobs() if each.label == label]
    then(job.job)


async def test_ray_command_follows_a_fine_tune_from_submission_to_deletion(
    terminal: Terminal,
) -> None:
    rig, flags = terminal.rig, ("--working-dir", ".")
    more = ("--metadata-json", '{"team": "a", "budget": "4000000"}', "--entrypoint-num-gpus", "2")
    run = ("--", "blindhost", "run", "job.json")
    assert (
        await terminal.ray("submit", "--no-wait", "--submission-id", "one", *flags, *more, *run)
        == 0
    )
    assert rig.port.submitted[0].manifest["resources"] == {"gpus": 2}
    assert await terminal.ray("status", "one") == 0
    (job,) = await rig.port.jobs()
    for _ in range(3):
        rig.port.advance(job.job)
    assert await terminal.ray("logs", "one") == 0
    assert await terminal.ray("list") == 0

    ending = asyncio.create_task(when_submitted(rig, "ray:two", rig.port.finish))
    two = ("submit", "--submission-id", "two", *flags, *run)
    assert await terminal.ray(*two, with_key=False, before=("--headers", HEADERS)) == 0
    await ending
    rig.port.finish(job.job)
    assert await terminal.ray("logs", "--follow", "one") == 0
    assert await terminal.ray("delete", "one") == 0
    terminal.check("fine_tune")
    assert list(terminal.home.rglob("*auth_token*")) == []
    assert rig.leftovers() == []


async def test_ray_command_ends_with_1_where_the_job_failed_and_stop_ends_it(
    terminal: Terminal,
) -> None:
    rig = terminal.rig

    def fail(job: str) -> None:
        rig.port.move(job, JobState.FAILED, message="line 3 is too long", code="row-too-long")

    ending = asyncio.create_task(when_submitted(rig, "ray:bad", fail))
    words = ("submit", "--submission-id", "bad", "--working-dir", ".")
    assert await terminal.ray(*words, "--", "blindhost", "run", "job.json") == 1
    await ending
    await rig.started("long")
    assert await terminal.ray("stop", "long") == 0
    terminal.check("failed_and_stopped")


async def test_ray_command_shows_one_line_for_each_refusal(terminal: Terminal) -> None:
    rig, run = terminal.rig, ("--", "blindhost", "run", "job.json")
    flags = ("submit", "--no-wait", "--submission-id", "a", "--working-dir", ".")
    assert await terminal.ray(*flags, "--", "python", "-c", "print(1)") == 1
    secret = '{"env_vars": {"TOKEN": "hf_secret"}}'
    assert await terminal.ray(*flags, "--runtime-env-json", secret, *run) == 1
    assert await terminal.ray("status", "nobody") == 1
    assert await terminal.ray("status", "nobody", with_key=False) == 1
    await rig.started("a")
    assert await terminal.ray(*flags, *run) == 1
    assert len(rig.port.submitted) == 1
    terminal.check("refusals")
