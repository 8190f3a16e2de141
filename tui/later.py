"""A hub that is made once the first picture is drawn: its imports take longer than that does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from tui.clock import Clock
from tui.commands import Command
from tui.facts import Fact, Failure
from tui.port import HubPort

PICTURE_SECONDS: Final = 0.2
"""So long the first picture has the processor for itself."""


class Later:
    """Fills `tui.port.HubPort` by the hub that `make` makes; what is posted before waits for it."""

    def __init__(
        self, make: Callable[[], HubPort], *, clock: Clock, seconds: float = PICTURE_SECONDS
    ) -> None:
        self._make, self._clock, self._seconds = make, clock, seconds
        self._hub: HubPort | None = None
        self._waiting: list[Command] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, arrive: Callable[[Fact], None]) -> None:
        """Begin, soon."""
        self._task = asyncio.create_task(self._begin(arrive), name="hub, later")

    async def _begin(self, arrive: Callable[[Fact], None]) -> None:
        await asyncio.sleep(self._seconds)
        try:
            hub = await asyncio.to_thread(self._make)
        except Exception as error:  # noqa: BLE001 - the outermost frame: a window says it
            code, words = type(error).__name__, "the client could not be started"
            arrive(
                Failure(as_of=self._clock(), where="home", code=code, words=words, retry_in=None)
            )
            return
        self._hub = hub
        hub.start(arrive)
        for each in self._waiting:
            hub.post(each)
        self._waiting.clear()

    def post(self, command: Command) -> None:
        """Take a command, in its order."""
        if self._hub is None:
            self._waiting.append(command)
        else:
            self._hub.post(command)

    async def stop(self) -> None:
        """End, begun or not."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._waiting.clear()
        if self._hub is not None:
            await self._hub.stop()
