"""Each screen looks as it was drawn: words by a text that can be read, the rest by a digest."""

from __future__ import annotations

import json

import pytest

from tests.tui.pictures import DIGESTS, HERE, STATES, Name, digest_of, draw, file_name, names

USUAL = {*names(states=("normal",)), *[*names(sizes=((100, 30),))][::2]}
"""Every screen in every size, and every other state: they are five, so each is on five screens."""


async def check(name: Name) -> None:
    svg, words = await draw(name)
    wanted = (HERE / f"{file_name(name)}.txt").read_text(encoding="utf-8")
    assert words == wanted, "python -m tests.tui.pictures draws them again"
    drawn = json.loads(DIGESTS.read_text(encoding="utf-8"))
    assert digest_of(svg) == drawn[file_name(name)], "its words are the same, its colours are not"


@pytest.mark.parametrize("name", sorted(USUAL), ids=file_name)
async def test_a_screen_looks_as_it_was_drawn(name):
    await check(name)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted({*names()} - USUAL), ids=file_name)
async def test_a_screen_looks_as_it_was_drawn_at_every_size_and_state(name):
    await check(name)


def test_there_is_a_picture_for_every_screen_size_and_state():
    drawn = set(json.loads(DIGESTS.read_text(encoding="utf-8")))
    assert drawn == {file_name(each) for each in names()}
    assert len(drawn) == 10 * 3 * len(STATES)
