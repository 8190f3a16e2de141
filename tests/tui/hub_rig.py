"""A hub over a real market's socket and a real home, and what stands where screens would."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from client.home import Config, Home
from client.keystore import KeyFile, Keystore, Passphrase
from tests.marketplace.api.rig import (
    IMAGE,
    Rig,
    root,
    serve_rig,
)
from tests.marketplace.world import MARKET
from trust.verifier.policy import simulated_policy
from tui import commands, facts
from tui.hub import Hub

IDS = itertools.count(1)
PASSPHRASE = "correct horse battery canary"


class Window:
    """What stands where screens would: it keeps facts, and waits for some."""

    def __init__(self) -> None:
        self.facts: list[facts.Fact] = []
        self._news = asyncio.Event()

    def arrive(self, fact: facts.Fact) -> None:
        self.facts.append(fact)
        self._news.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.facts if type(each) is kind]

    async def until(
        self,
        kind: type[Any],
        wanted: Callable[[Any], bool] = lambda _: True,
        *,
        after: int = 0,
    ) -> Any:
        """The first fact of a kind, behind so many facts, for which this holds."""
        async with asyncio.timeout(20):
            while True:
                for each in self.facts[after:]:
                    if type(each) is kind and wanted(each):
                        return each
                self._news.clear()
                await self._news.wait()


def name() -> str:
    return f"c{next(IDS)}"


@dataclasses.dataclass
class Desk:
    """A home at a market, a hub over it, and its window."""

    rig: Rig
    home: Home
    keys: Keystore
    hub: Hub
    window: Window

    def look(self, kind: commands.Kind, of: str = "") -> None:
        self.hub.post(commands.Look(id=name(), subject=commands.Subject(kind=kind, of=of)))


def make_home(folder: Path, url: str, opener: KeyFile | Passphrase | None = None) -> Home:
    home = Home.create(folder, Config(market_url=url, market=MARKET.identity))
    Keystore.create(home.folder, opener or home.key_file)
    return home


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with serve_rig(tmp_path) as served:
        yield served


@pytest.fixture
async def desk(rig: Rig, tmp_path: Path) -> AsyncIterator[Desk]:
    home = make_home(tmp_path / "home", rig.url)
    keys = home.keystore()
    home.keep_appraisal(simulated_policy(root().fingerprint, [IMAGE]))
    hub = Hub(home.folder, clock=lambda: rig.time[0], poll_seconds=0.05, backoff=(0.05, 0.1))
    window = Window()
    hub.start(window.arrive)
    yield Desk(rig, home, keys, hub, window)
    await hub.stop()
