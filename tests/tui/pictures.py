"""Pictures of every screen, at three sizes, in five states, from made-up facts.

    python -m tests.tui.pictures          draw all again: docs/pictures, and what the tests compare

- `docs/pictures/<screen>-<size>.svg`: the normal state of each, for people.
- `tests/tui/pictures/<screen>-<size>-<state>.txt`: the words, so that a difference can be read.
- `tests/tui/pictures/digests.json`: SHA-256 of the SVG of each, colours and all.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.tui.rig import SIZES, Rig, window
from tui.facts import Balance, Connection, Fact, JobHead, Setup

SCREENS = (
    "start", "offers", "new_job", "jobs", "job", "trust", "money", "chat", "keys", "settings",
)  # fmt: skip
STATES = ("normal", "empty", "loading", "error", "offline")
HERE = Path(__file__).parent / "pictures"
DOCS = Path(__file__).parents[2] / "docs" / "pictures"
DIGESTS = HERE / "digests.json"

Scene = tuple[tuple[str, ...], tuple[Fact, ...]]
Name = tuple[str, tuple[int, int], str]


def scenes() -> dict[tuple[str, str], Scene]:
    """Link and facts by screen and state."""
    found: dict[tuple[str, str], Scene] = {}
    for screen in SCREENS:
        module = importlib.import_module(f"tests.tui.scenes.{screen}")
        for state in STATES:
            found[screen, state] = module.SCENES[state]
    return found


def names(*, sizes=SIZES, states=STATES) -> Iterator[Name]:
    """All pictures of these sizes and states."""
    for screen in SCREENS:
        for size in sizes:
            for state in states:
                yield screen, size, state


def file_name(name: Name) -> str:
    screen, (width, height), state = name
    return f"{screen.replace('_', '-')}-{width}x{height}-{state}"


async def draw(name: Name) -> tuple[str, str]:
    """SVG and words of one picture.

    What all screens share is told first; then, once its screen is there, what a scene's subject
    tells. A scene that needs a person has `act(rig, state)`.
    """
    screen, size, state = name
    link, facts = scenes()[screen, state]
    first = tuple(each for each in facts if isinstance(each, Connection | Balance | Setup))
    async with window(link=link, facts=first, size=size) as rig:
        await still(rig)
        await rig.tell(*(each for each in facts if isinstance(each, JobHead)))
        await still(rig)
        await rig.tell(*(each for each in facts if each not in first))
        act = getattr(importlib.import_module(f"tests.tui.scenes.{screen}"), "act", None)
        if act is not None:
            await act(rig, state)
        for field in rig.app.screen.query("Input, TextArea"):
            field.cursor_blink = False  # a picture must not depend on when it was drawn
        await still(rig)
        svg = rig.app.export_screenshot(title="blindhost")
        return svg, "\n".join(line.rstrip() for line in rig.words.splitlines()) + "\n"


async def still(rig: Rig) -> None:
    """Until nothing moves: footers and tables are filled after the first paint."""
    before = ""
    for _ in range(100):
        await rig.pilot.pause(0.05)
        words = rig.words
        if words == before and words.strip():
            return
        before = words


def digest_of(svg: str) -> str:
    return hashlib.sha256(svg.encode()).hexdigest()


def main() -> None:
    HERE.mkdir(exist_ok=True)
    DOCS.mkdir(parents=True, exist_ok=True)
    for old in (*HERE.glob("*.txt"), *DOCS.glob("*.svg")):
        old.unlink()
    digests = {}
    for name in names():
        svg, words = asyncio.run(draw(name))
        digests[file_name(name)] = digest_of(svg)
        (HERE / f"{file_name(name)}.txt").write_text(words, encoding="utf-8")
        if name[2] == "normal":
            file = DOCS / f"{file_name(name).removesuffix('-normal')}.svg"
            file.write_text(svg, encoding="utf-8")
    DIGESTS.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
