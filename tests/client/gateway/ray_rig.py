"""The Ray routes behind the real guard, over a TunePort in memory, on a socket of loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from client.gateway.app import build_app
from client.gateway.ray_jobs import RAY_JOBS, RayJobs
from tests.client.gateway.fakes import BASE, FakeServePort, FakeTunePort

KEY = "sk-blindhost-" + "ray-test-" * 4
HEADERS = {"Authorization": f"Bearer {KEY}"}
ENTRYPOINT = "blindhost run job.json"
JOB = {
    "model": BASE,
    "training": "train.jsonl",
    "heldout": "rows/eval.jsonl",
    "recipe": {"epochs": 2, "learning_rate": "0.002"},
    "manifest": {"spend_max_microcredits": 5_000_000},
}


def rows(count: int, word: str = "hello") -> bytes:
    """A dataset."""
    lines = []
    for number in range(count):
        turns = [{"role": "user", "content": f"{word} {number}"}]
        turns.append({"role": "assistant", "content": "yes"})
        lines.append(json.dumps({"messages": turns}) + "\n")
    return "".join(lines).encode()


def working_files(job: Any = None) -> dict[str, bytes]:
    """What a buyer has in its working directory."""
    return {
        "job.json": json.dumps(JOB if job is None else job).encode(),
        "train.jsonl": rows(5),
        "rows/eval.jsonl": rows(2, "bye"),
    }


def write_files(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """The same, as files."""
    for name, content in (files or working_files()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zipped(files: Mapping[str, bytes] | None = None) -> bytes:
    """The same, as Ray's client packs it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (files or working_files()).items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of one date: the same bytes again
    return target.getvalue()


def package_name(content: bytes) -> str:
    """A name of the form of Ray's."""
    return f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:16]}.zip"


@dataclasses.dataclass(kw_only=True)
class Rig:
    """A served gateway, and one client of it."""

    url: str
    port: FakeTunePort
    folder: Path
    ray: RayJobs
    http: aiohttp.ClientSession
    sockets: list[aiohttp.ClientWebSocketResponse] = dataclasses.field(default_factory=list)

    async def tail(self, submission_id: str = "a", **more: Any) -> aiohttp.ClientWebSocketResponse:
        """Follow a log."""
        url = f"{self.url}/api/jobs/{submission_id}/logs/tail"
        self.sockets.append(await self.http.ws_connect(url, headers=HEADERS, **more))
        return self.sockets[-1]

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, str]:
        """One request; its status and text."""
        more.setdefault("headers", HEADERS)
        if "json" not in more:
            more.setdefault("skip_auto_headers", ["Content-Type"])
        async with self.http.request(method, self.url + path, **more) as answer:
            return answer.status, await answer.text()

    async def put(self, content: bytes, name: str | None = None) -> str:
        """Upload a package that is taken; returns its URI."""
        name = name or package_name(content)
        status, text = await self.ask("PUT", f"/api/packages/gcs/{name}", data=io.BytesIO(content))
        assert (status, text) == (200, ""), text
        return f"gcs://{name}"

    async def post(self, **body: Any) -> tuple[int, str]:
        """Submit what is said, for a package that lies here."""
        return await self.ask("POST", "/api/jobs/", json=body)

    async def submit(self, submission_id: str | None = None, **more: Any) -> tuple[int, str]:
        """Upload the usual package, and submit it."""
        uri = await self.put(zipped())
        body: dict[str, Any] = {"entrypoint": ENTRYPOINT, "runtime_env": {"working_dir": uri}}
        if submission_id is not None:
            body["submission_id"] = submission_id
        more.setdefault("runtime_env", {})["working_dir"] = uri
        return await self.post(**{**body, **more})

    async def started(self, submission_id: str) -> str:
        """A job that was taken; returns its digest."""
        status, text = await self.submit(submission_id)
        assert status == 200, text
        (job,) = [j for j in await self.port.jobs() if j.label == f"ray:{submission_id}"]
        return job.job

    async def details(self, submission_id: str) -> dict[str, Any]:
        """What the API says of a job."""
        status, text = await self.ask("GET", f"/api/jobs/{submission_id}")
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def leftovers(self) -> list[Path]:
        """Files that lie in the folder for uploads: there should be none."""
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextlib.asynccontextmanager
async def ray_rig(folder: Path, port: FakeTunePort | None = None) -> AsyncIterator[Rig]:
    """Serve, and stop."""
    port = port or FakeTunePort()
    app = build_app(serve_port=FakeServePort(), tune_port=port, key=KEY, folder=folder)
    # A client that leaves cancels its handler: what must not break off has to see to that itself.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            rig = Rig(url=url, port=port, folder=folder / "packages", ray=app[RAY_JOBS], http=http)
            yield rig
            for socket in rig.sockets:
                await socket.close()
    finally:
        await runner.cleanup()


async def until(condition: Any) -> None:
    """Let other tasks run until something holds, at most 20 s."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what it looks at sets no event
            await asyncio.sleep(0.005)
