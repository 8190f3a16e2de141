"""``blindhost-tui``: arguments first; nothing of textual is imported until a window is wanted.

    blindhost-tui [--home FOLDER] [offers QUERY | job ID | trust ID | money | chat MODEL | new]

``--plain`` prints what the screen would say as lines, and ends: for screen readers and pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Final

LINKS: Final = (
    "start", "offers", "jobs", "job", "new", "trust", "money", "chat", "keys", "consent",
    "settings",
)  # fmt: skip
HOME_VARIABLE: Final = "BLINDHOST_HOME"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line. Exits with 2 where it can't be read."""
    parser = argparse.ArgumentParser(prog="blindhost-tui", description="the buyer's window")
    parser.add_argument("link", nargs="?", choices=LINKS, help="which screen to open")
    parser.add_argument("word", nargs="*", help="a query, an id or its beginning, a model")
    parser.add_argument("--home", type=Path, help=f"this party's folder; or {HOME_VARIABLE}")
    parser.add_argument("--gateway", type=Path, help="home whose gateway the chat uses")
    parser.add_argument("--theme", help="blindhost, blindhost-light, blindhost-contrast, …")
    parser.add_argument("--plain", action="store_true", help="print lines, and end")
    parser.add_argument("--replay", type=Path, help="show recorded facts")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status."""
    options = parse(arguments)
    home = options.home or _home_of_environment()
    gc.disable()  # nothing that is imported is garbage; the window collects again once it is drawn
    from tui.launch import print_plain, run_window

    if options.plain:
        return asyncio.run(print_plain(options, home))
    return run_window(options, home)


def _home_of_environment() -> Path:
    named = os.environ.get(HOME_VARIABLE)  # noqa: TID251 - an entry point
    return Path(named) if named else Path.home() / ".blindhost"


if __name__ == "__main__":
    sys.exit(main())
