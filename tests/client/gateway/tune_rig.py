"""The routes of files and fine-tunes on a real socket of loopback, and OpenAI's own client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web
from openai import AsyncOpenAI

from client.gateway import files, fine_tuning
from client.gateway.errors import api_error
from client.gateway.ports import TunePort
from trust.errors import BlindhostError

ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
ROWS = (ROW * 3).encode()


@web.middleware
async def answered(request, handler):
    """Errors as the gateway's guard answers them."""
    try:
        return await handler(request)
    except BlindhostError as error:
        return api_error(error).response()


@contextlib.asynccontextmanager
async def served(
    port: TunePort, folder: Path, *middlewares, bytes_max: int = files.FILE_BYTES_MAX, **options
) -> AsyncIterator[AsyncOpenAI]:
    app = web.Application(middlewares=[*middlewares, answered])
    app.add_routes(files.routes(port, folder=folder, bytes_max=bytes_max))
    app.add_routes(fine_tuning.routes(port, folder=folder, **options))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with AsyncOpenAI(base_url=url, api_key="key", max_retries=0, timeout=30) as client:
            yield client
    finally:
        await runner.cleanup()


def left_in(folder: Path) -> list[str]:
    """Uploads that still lie there."""
    return [each.name for each in folder.iterdir() if each.name.startswith("upload-")]


def body_of(error) -> dict:
    """The error's object, as it came over the wire."""
    return json.loads(error.response.content)["error"]
