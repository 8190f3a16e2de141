"""A hub that is made after the first picture: nothing that was asked for before is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tests.tui.rig import NOW, ONLINE, ScriptedHub
from tui.commands import Kind, Look, Subject
from tui.facts import Failure
from tui.later import Later

LOOK = Look(id="c1", subject=Subject(kind=Kind.JOBS, of=""))


async def until(holds):
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


async def test_what_is_posted_before_the_hub_is_there_is_done_in_its_order():
    hub, facts = ScriptedHub((ONLINE,)), []
    later = Later(lambda: hub, clock=lambda: NOW, seconds=0)
    second = Look(id="c2", subject=LOOK.subject)
    later.post(LOOK)
    later.start(facts.append)
    later.post(second)
    await until(lambda: ONLINE in facts)
    third = Look(id="c3", subject=LOOK.subject)
    later.post(third)
    assert hub.asked == [LOOK, second, third]
    await later.stop()


async def test_a_window_that_is_closed_before_its_hub_is_made_makes_none():
    made = []
    later = Later(lambda: made.append(1), clock=lambda: NOW, seconds=30)
    later.start(lambda _fact: None)
    await asyncio.sleep(0)
    await later.stop()
    assert not made


async def test_a_hub_that_cannot_be_made_is_said_without_its_errors_words():
    def fails():
        raise ImportError("canary words of an error")

    facts = []
    later = Later(fails, clock=lambda: NOW, seconds=0)
    later.start(facts.append)
    await until(lambda: facts)
    assert isinstance(facts[0], Failure)
    assert facts[0].code == "ImportError"
    assert "canary" not in repr(facts)
    await later.stop()


@pytest.mark.slow
def test_the_first_picture_needs_no_client_no_http_and_no_certificates():
    code = (
        "import sys, tui.launch, tui.app, tui.drafts, tui.settings, tui.later\n"
        "for name in ('start', 'offers'): __import__(f'tui.screens.{name}')\n"
        "late = ('aiohttp', 'cryptography', 'marketplace', 'trust', 'tui.hub')\n"
        "print('LOADED', sorted(n for n in sys.modules if n.startswith(late)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "LOADED []" in done.stdout
