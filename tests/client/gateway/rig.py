"""A gateway on a real socket of loopback, over ports in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
from collections.abc import AsyncIterator

import aiohttp

from client.gateway.app import serve
from client.gateway.guard import new_key
from tests.client.gateway.fakes import BASE, FakeServePort, FakeTunePort

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HI = [{"role": "user", "content": "hi"}]
ASKED = {
    CHAT: {"model": BASE, "messages": HI},
    COMPLETIONS: {"model": BASE, "prompt": "Once"},
    RESPONSES: {"model": BASE, "input": "hi"},
}
SHAPES = tuple(ASKED)


@dataclasses.dataclass(kw_only=True)
class Gateway:
    """What a test has of it."""

    url: str
    key: str
    serving: FakeServePort
    tuning: FakeTunePort
    http: aiohttp.ClientSession

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def calls(self) -> list[str]:
        return self.serving.calls + self.tuning.calls

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        """Ask with the key; `body` may be bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = self.headers | {"Content-Type": "application/json"}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._ask("POST", path, data=io.BytesIO(data), headers=head)

    async def cut(self, path: str, body: dict[str, object], on_bytes=lambda: None) -> bytes:
        """What a stream brings until HTTP itself says that it was cut off; fails if it does not."""
        found = b""
        async with self.stream(path, body) as response:
            assert response.status == 200
            try:
                async for chunk in response.content.iter_any():
                    found += chunk
                    on_bytes()
            except aiohttp.ClientPayloadError:
                return found
        raise AssertionError(f"ended cleanly: {found!r}")

    def stream(self, path: str, body: dict[str, object]):
        """Ask for a stream; to be entered."""
        head = self.headers | {"Content-Type": "application/json"}
        return self.http.post(self.url + path, json=body | {"stream": True}, headers=head)

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path, headers=self.headers)

    async def _ask(self, method: str, path: str, **options: object) -> Answer:
        async with self.http.request(method, self.url + path, **options) as response:
            return Answer(
                status=response.status, headers=response.headers, body=await response.read()
            )


@dataclasses.dataclass(kw_only=True)
class Answer:
    status: int
    headers: object
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


@contextlib.asynccontextmanager
async def gateway(serving: FakeServePort | None = None) -> AsyncIterator[Gateway]:
    """Listening inside the block."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving, tuning, key = serving or FakeServePort(), FakeTunePort(), new_key()
    task = asyncio.create_task(
        serve(serve_port=serving, tune_port=tuning, key=key, port=0, on_ready=ready.set_result)
    )
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        async with aiohttp.ClientSession(
            skip_auto_headers=("Content-Type",), timeout=aiohttp.ClientTimeout(total=30)
        ) as http:
            yield Gateway(url=await ready, key=key, serving=serving, tuning=tuning, http=http)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def events(body: bytes) -> list[object]:
    """The data of a stream's events."""
    found = []
    for block in body.decode().split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found
