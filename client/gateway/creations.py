"""One create, one submission: OpenAI's client sends no idempotency key, and asks again by itself.

- Equal bodies on their way are one submission: whoever comes second waits for the first.
- A body that comes again as a retry (``x-stainless-retry-count`` above 0) within `WINDOW_MS` since
  its like was last on its way has the same token; the port then submits nothing more.
- A body that comes anew, not as a retry, when none of its like is on its way, is a new submission.
- A token is written down before it is used, so that a gateway that was killed and started again
  knows it. What is written is its body's digest under a key drawn here, and not the body.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from client.files import HomeError, make_folder, write_durably
from client.gateway.ports import TuneJob

WINDOW_MS: Final = 600_000
KEPT_MAX: Final = 4096  # creates in one window


class Creations:
    """What was created lately. `clock`: Unix milliseconds; `folder` None: in memory alone."""

    def __init__(self, folder: Path | None, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._path: Path | None = None
        self._key = secrets.token_bytes(32)
        self._known: dict[str, tuple[str, int]] = {}
        """Body's name → token, and when it was last on its way."""
        self._running: dict[str, asyncio.Task[TuneJob]] = {}
        if folder is not None:
            make_folder(folder)
            self._path = folder / "creations"
            if self._path.exists():
                self._load(self._path)

    async def run(
        self, body: bytes, submit: Callable[[str], Awaitable[TuneJob]], *, is_retry: bool
    ) -> TuneJob:
        """Submit under the token that this body has now. A client that leaves stops nothing."""
        name = hmac.digest(self._key, body, "sha256").hex()
        task = self._running.get(name)
        if task is None:
            token = self._token(name, is_retry=is_retry)
            task = asyncio.create_task(_awaited(submit(token)))
            self._running[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(task)

    def _token(self, name: str, *, is_retry: bool) -> str:
        now = self._clock()
        self._known = {
            each: (token, at)
            for each, (token, at) in self._known.items()
            if each in self._running or now - at <= WINDOW_MS
        }
        if is_retry and name in self._known:
            return self._known[name][0]
        if len(self._known) >= KEPT_MAX:
            raise HomeError(f"{KEPT_MAX} jobs were created in ten minutes; no more")
        token = f"openai/{secrets.token_hex(32)}"
        self._keep(name, token)
        return token

    def _keep(self, name: str, token: str) -> None:
        self._known[name] = (token, self._clock())
        if self._path is not None:
            content = {"key": self._key.hex(), "known": self._known}
            write_durably(self._path, json.dumps(content).encode())

    def _ended(self, name: str, task: asyncio.Task[TuneJob]) -> None:
        del self._running[name]
        self._keep(name, self._known[name][0])
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may wait

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            self._key = bytes.fromhex(content["key"])
            self._known = {n: (str(t), int(at)) for n, (t, at) in content["known"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HomeError("creations: not what was written") from error


async def _awaited(submitting: Awaitable[TuneJob]) -> TuneJob:
    return await submitting
