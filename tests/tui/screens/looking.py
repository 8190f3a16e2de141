"""A window whose hub answers a look: a scene's facts come once their subject is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tests.tui.rig import Rig, window
from tui.facts import Balance, Connection, Fact, JobHead, Setup
from tui.screens.job import JobScreen

Scene = tuple[tuple[str, ...], tuple[Fact, ...]]


@contextlib.asynccontextmanager
async def looking(scene: Scene, *, size: tuple[int, int] = (100, 30)) -> AsyncIterator[Rig]:
    """Shared facts first; then jobs; then, where the link names a job, the rest of it."""
    link, facts = scene
    first = tuple(each for each in facts if isinstance(each, Connection | Balance | Setup))
    async with window(facts=first, link=link, size=size) as rig:
        mode = "trust" if link[0] == "trust" else "jobs"
        await rig.until(lambda: rig.app.current_mode == mode and rig.app.screen._seen)
        await rig.pilot.pause()
        await rig.tell(*(each for each in facts if isinstance(each, JobHead)))
        if link[0] == "job" and len(link[1]) == 64:
            await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        await rig.tell(*(each for each in facts if each not in first))
        await rig.pilot.pause()
        yield rig
