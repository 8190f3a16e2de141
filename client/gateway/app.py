"""The gateway's socket: on loopback, behind `guard`, with every route of the three tables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from client.files import make_folder
from client.gateway import files, fine_tuning, ray_jobs
from client.gateway.guard import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    HEADER_SECONDS,
    IDLE_SECONDS,
    Heads,
    check_host,
    finish_head,
    guard,
)
from client.gateway.inference import Clock, Inference
from client.gateway.ports import ServePort, TunePort

SHUTDOWN_SECONDS: Final = 1.0  # for requests on their way; streams are broken off
HEADS: Final = web.AppKey("heads", Heads)


def unix_milliseconds() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def build_app(
    *,
    serve_port: ServePort,
    tune_port: TunePort,
    key: str,
    folder: Path | None = None,
    clock: Clock = unix_milliseconds,
) -> web.Application:
    """An application that answers nobody without `key`.

    `folder`: a private one, this gateway's alone, in which uploads lie until they are sealed, and
    creates are remembered over a restart. None: uploads in fresh ones, creates in memory.
    """
    heads = Heads(HEADER_SECONDS)
    app = web.Application(
        middlewares=[guard(key, heads)],
        client_max_size=BODY_BYTES_MAX,
        handler_args={
            "max_line_size": HEADER_BYTES_MAX,
            "max_field_size": HEADER_BYTES_MAX,
            "keepalive_timeout": IDLE_SECONDS,
            "auto_decompress": False,
            "access_log": None,  # a log of who asked what is not kept
        },
    )
    app[HEADS] = heads
    app.on_response_prepare.append(finish_head)
    inference = Inference(serve_port, clock)
    app.add_routes(inference.routes())
    if folder is not None:
        make_folder(folder)
    app.add_routes(files.routes(tune_port, folder=_part(folder, "uploads")))
    app.add_routes(fine_tuning.routes(tune_port, folder=_part(folder, "creations")))
    ray_jobs.RayJobs(tune_port, folder=_part(folder, "packages")).attach(app)

    async def close(_: web.Application) -> None:
        await inference.close()

    app.on_shutdown.append(close)
    return app


async def serve(
    *,
    serve_port: ServePort,
    tune_port: TunePort,
    key: str,
    port: int,
    host: str = "127.0.0.1",
    folder: Path | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until cancelled; `on_ready` hears the URL once the socket listens. `port` 0: any.

    Raises ValueError for a host that is not loopback, OSError if the port is taken.
    """
    check_host(host)
    app = build_app(serve_port=serve_port, tune_port=tune_port, key=key, folder=folder)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
    )
    await runner.setup()
    try:
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(
            app[HEADS].timed(runner.server), host, port
        )
        try:
            on_ready(_url(server))
            await asyncio.Event().wait()
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _part(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _url(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
