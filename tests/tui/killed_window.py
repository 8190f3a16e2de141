"""A window's hub in a process of its own, which sends one job and never hears the answer.

    python -m tests.tui.killed_window HOME NOW SUBMIT MARK

MARK is made once the market has answered; nothing of the answer gets into the hub.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from client.market_api import MarketApi
from tui import commands, facts
from tui.hub import Hub


def encode(submit: commands.Submit) -> str:
    """For the command line."""
    return json.dumps(dataclasses.asdict(submit))


def decode(text: str) -> commands.Submit:
    value = json.loads(text)
    draft = value.pop("draft")
    recipe = facts.Recipe(**draft.pop("recipe"))
    return commands.Submit(**value, draft=facts.JobDraft(**draft, recipe=recipe))


async def main(home: Path, now: int, submit: commands.Submit, mark: Path) -> None:
    real = MarketApi.submit_job

    async def cut(self: MarketApi, *arguments: Any, **named: Any) -> None:
        await real(self, *arguments, **named)
        mark.touch()  # noqa: ASYNC240 - nothing else runs here
        await asyncio.Event().wait()

    MarketApi.submit_job = cut  # type: ignore[method-assign, assignment]
    hub = Hub(home, clock=lambda: now, poll_seconds=0.05)
    hub.start(lambda _fact: None)
    hub.post(submit)
    await asyncio.Event().wait()


if __name__ == "__main__":
    folder, at, words, place = sys.argv[1:]
    asyncio.run(main(Path(folder), int(at), decode(words), Path(place)))
