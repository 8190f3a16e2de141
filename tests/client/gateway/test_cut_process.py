"""A gateway's process is killed in the middle of a stream, and in the middle of a create.

The child is this module: the shipped gateway over ports in memory, on one private folder, which
notes each request that reached a port in a file that outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import openai
import pytest

from client.gateway.app import serve
from client.gateway.ports import Piece, TuneJob, TuneRequest
from tests.client.gateway.fakes import BASE, FakeServePort, FakeTunePort
from tests.client.gateway.rig import HI
from trust.serving import GenerateRequest

KEY = "bh-" + "k" * 43
START_SECONDS = 60
CHECKOUT = Path(__file__).resolve().parents[3]
TRAINING = "rows.jsonl"
ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


# --- the child -----------------------------------------------------------------------------------


class Noting(FakeServePort):
    """Says half of a reply, and no more; each request is noted before."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes
        self.script = ["half", asyncio.Event()]

    async def generate(self, model: str, body: GenerateRequest) -> AsyncIterator[Piece]:
        note(self._notes, "generate")
        async for piece in super().generate(model, body):
            yield piece


class Hanging(FakeTunePort):
    """A create is noted with its token, and never answered while the file `hang` is there."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes

    async def submit(self, request: TuneRequest) -> TuneJob:
        note(self._notes, f"submit {request.token}")
        if (self._notes.parent / "hang").exists():
            await asyncio.Event().wait()
        return await super().submit(request)


def note(notes: Path, line: str) -> None:
    with notes.open("a") as file:
        file.write(line + "\n")


async def run_child(folder: Path) -> None:
    notes = folder / "notes"
    tuning = Hanging(notes)
    training = folder / TRAINING
    training.write_bytes(ROWS)
    stored = await tuning.add_file(training, name=TRAINING, purpose="fine-tune")
    await serve(
        serve_port=Noting(notes),
        tune_port=tuning,
        key=KEY,
        port=0,
        folder=folder / "gateway",
        on_ready=lambda url: say([url, stored.id]),
    )


def say(words: list[str]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


# --- the parent ----------------------------------------------------------------------------------


class Child:
    """A gateway's process on a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-m", __name__, str(folder)],
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
        )
        assert self.process.stdout is not None
        self.url, self.file = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@contextlib.contextmanager
def child_on(folder: Path) -> Iterator[Child]:
    child = Child(folder)
    try:
        yield child
    finally:
        if child.process.poll() is None:
            child.kill()


@pytest.mark.slow
@pytest.mark.timeout(START_SECONDS * 3)
async def test_a_gateway_killed_in_mid_stream_is_an_error_and_asks_nothing_again(
    folder: Path,
) -> None:
    with child_on(folder) as child:
        async with openai.AsyncOpenAI(base_url=f"{child.url}/v1", api_key=KEY) as ask:
            stream = await ask.chat.completions.create(model=BASE, messages=HI, stream=True)
            said = []
            with pytest.raises((openai.APIError, openai.APIConnectionError)):
                await read_and_kill(stream, said, child)
        assert said == ["half"]
        assert child.notes == ["generate"]
    with child_on(folder) as again:
        async with openai.AsyncOpenAI(base_url=f"{again.url}/v1", api_key=KEY) as ask:
            assert [each.id async for each in ask.models.list()]
        assert again.notes == ["generate"]  # what was cut is the client's to ask again


@pytest.mark.slow
@pytest.mark.timeout(START_SECONDS * 3)
async def test_a_create_that_was_cut_by_a_kill_is_one_submission_when_it_comes_again(
    folder: Path,
) -> None:
    (folder / "hang").touch()
    with child_on(folder) as child:
        body = {"model": BASE, "training_file": child.file}
        async with aiohttp.ClientSession() as http:
            asking = asyncio.create_task(create(http, child.url, body, retries=0))
            async with asyncio.timeout(START_SECONDS):
                while not (folder / "notes").exists():  # noqa: ASYNC110  a process tells by a file
                    await asyncio.sleep(0.02)
            child.kill()
            with pytest.raises(aiohttp.ClientError):
                await asking
        (first,) = child.notes
    (folder / "hang").unlink()
    with child_on(folder) as again:
        assert again.file == child.file
        async with aiohttp.ClientSession() as http:
            status, job = await create(http, again.url, body, retries=1)
            assert status == 200, job
            assert again.notes == [first, first]  # one token: the port submits once
            status, another = await create(http, again.url, body, retries=0)
            assert status == 200
            assert another["id"] != job["id"]  # anew is anew


async def read_and_kill(stream: object, said: list[str], child: Child) -> None:
    """Read a stream; kill its gateway once it has said something."""
    async for chunk in stream:  # type: ignore[attr-defined]
        if text := chunk.choices[0].delta.content:
            said.append(text)
            child.kill()


async def create(
    http: aiohttp.ClientSession, url: str, body: dict[str, str], *, retries: int
) -> tuple[int, dict[str, object]]:
    headers = {"Authorization": f"Bearer {KEY}", "x-stainless-retry-count": str(retries)}
    async with http.post(f"{url}/v1/fine_tuning/jobs", json=body, headers=headers) as response:
        return response.status, await response.json()


if __name__ == "__main__":
    asyncio.run(run_child(Path(sys.argv[1])))
