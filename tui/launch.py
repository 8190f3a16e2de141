"""Bring the window up over a hub, or print what a screen would say."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from tui.clock import local_zone, wall_clock
from tui.later import Later
from tui.port import HubPort
from tui.replay import Replay, decode
from tui.text import clean

DRAFT_FILE: Final = "tui-draft.json"
PLAIN_SECONDS: Final = 10.0
"""How long a plain screen waits for its first facts."""
QUIET_SECONDS: Final = 0.5
"""It is complete once nothing came for so long."""
LINE_CHARACTERS_MAX: Final = 4096
PLAIN_SIZE: Final = (200, 60)


def make_hub(options: argparse.Namespace, home: Path) -> HubPort:
    """A recording where one is named, else the client of this home."""
    if options.replay is not None:
        with options.replay.open(encoding="utf-8") as lines:
            return Replay(list(decode(lines)))

    def make() -> HubPort:
        from tui.hub import Hub

        return Hub(home, clock=wall_clock, gateway=options.gateway)

    return Later(make, clock=wall_clock)


def run_window(options: argparse.Namespace, home: Path) -> int:
    """The window, until it is closed."""
    from tui.app import BlindhostApp
    from tui.drafts import DraftFile
    from tui.settings import load_settings

    settings = load_settings(home)
    app = BlindhostApp(
        make_hub(options, home),
        clock=wall_clock,
        zone=local_zone(),
        home=home,
        drafts=DraftFile(home / DRAFT_FILE),
        link=[options.link, *options.word] if options.link else [],
        theme=options.theme or settings.theme,
        plain=settings.plain,
        plot="words" if settings.plain else settings.plot,
        quiet="SSH_CONNECTION" in os.environ,  # noqa: TID251 - an entry point
        signals=(signal.SIGTERM, signal.SIGHUP),
    )
    app.run()
    return app.return_code or 0


async def print_plain(options: argparse.Namespace, home: Path) -> int:
    """The screen of a link as lines, once its facts have come. No boxes, no braille, no repaint."""
    from tui.app import BlindhostApp
    from tui.screens.window import Window

    app = BlindhostApp(
        make_hub(options, home),
        clock=wall_clock,
        zone=local_zone(),
        link=[options.link or "start", *options.word],
        plain=True,
        plot="words",
    )
    async with app.run_test(headless=True, size=PLAIN_SIZE) as pilot:
        await settled(app)
        await pilot.pause()
        screen = app.screen
        lines = list(screen.plain()) if isinstance(screen, Window) else []
    for line in lines:  # standard output passes no wall
        sys.stdout.write(clean(line, limit=LINE_CHARACTERS_MAX) + "\n")
    return 0 if lines else 1


async def settled(app: object) -> None:
    """Until facts have come, and then none for a while; at most `PLAIN_SECONDS`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PLAIN_SECONDS
    seen, since = -1, loop.time()
    while loop.time() < end:
        count = getattr(app, "facts_seen", 0)
        if count != seen:
            seen, since = count, loop.time()
        elif count and loop.time() - since > QUIET_SECONDS:
            return
        await asyncio.sleep(0.05)
