"""The one way to the world: a hub takes commands and tells facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tui.commands import Command
from tui.facts import Fact


class HubPort(Protocol):
    """Filled by `tui.hub.Hub` over the client, by `tui.replay.Replay` over a recording."""

    def start(self, arrive: Callable[[Fact], None]) -> None:
        """Begin; facts go to `arrive`, in the loop of the caller. It never blocks."""

    def post(self, command: Command) -> None:
        """Take a command, and return at once. What becomes of it comes as facts."""

    async def stop(self) -> None:
        """End all that runs, and wait for it."""
