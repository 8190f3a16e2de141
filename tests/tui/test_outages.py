"""The market goes while a screen is open, and comes back on the same port.

Hub, client, wire and market are the real ones, on loopback; only the terminal is a pilot's.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

import tui
from marketplace.api.app import build_app
from tests.marketplace.api.rig import Rig as MarketRig
from tests.marketplace.api.rig import key16, serve_rig
from tests.marketplace.world import CREDIT, HOST, fund
from tests.tui.acting import Hands
from tests.tui.hub_rig import make_home
from tests.tui.rig import BALANCE, NOW, ONLINE
from trust.identity import PartyKey
from tui.app import BlindhostApp
from tui.hub import Hub
from tui.messages import Arrived
from tui.screens.new_job import NewJobScreen

SCREENS = {
    "start": ("2 Market", "✓ 2 Market"),
    "offers": ("1 of 1 fit", "2 of 2 fit"),
    "new": ("No sealed model is known", "No sealed model is known"),
    "jobs": ("1 of 1 jobs", "2 of 2 jobs"),
    "job": ("stage 2 of 9", "stage 2 of 9"),
    "trust": ("NOT YET", "NOT YET"),
    "money": ("+20.0000", "+15.0000"),
    "chat": ("no gateway runs", "no gateway runs"),
    "keys": ("never ran here", "never ran here"),
    "settings": ("blindhost-light", "blindhost-light"),
}
"""Words that stand on a screen before and during, and words that it comes to afterwards."""
GONE_MILLISECONDS = 3_000


class Door:
    """The market's port: shut it and it is gone, open it and it is back where it was."""

    def __init__(self, rig: MarketRig) -> None:
        self._rig, self._port = rig, 0
        self._runner: web.AppRunner | None = None

    async def open(self) -> str:
        self._runner = web.AppRunner(
            build_app(self._rig.market), access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{self._port}"

    async def shut(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@dataclasses.dataclass
class Stand:
    """A market behind a door, a buyer with a job at it, and the window."""

    market: MarketRig
    door: Door
    buyer: PartyKey
    hands: Hands

    async def happens(self, screen: str) -> None:
        """News while the buyer is cut off: money, an offer; a second job for its list."""
        await self.market.write(lambda session: fund(session, 15 * CREDIT, self.buyer))
        await self.market.api(HOST).post_offer(self.market.draft(), key=key16())
        if screen == "jobs":
            job = await self.market.publish(buyer=self.buyer)
            await self.market.api(self.buyer).submit_job(job, key=key16())


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("SEARCH_SECONDS", "KEYS_SECONDS", "MONEY_SECONDS"):
        monkeypatch.setattr(f"tui.looking.{name}", 0.1)
    monkeypatch.setattr("tui.screens.window.TICK_SECONDS", 0.1)


@contextlib.asynccontextmanager
async def stand(folder: Path, screen: str) -> AsyncIterator[Stand]:
    async with serve_rig(folder) as market:
        door = Door(market)
        home = make_home(folder / "home", await door.open())
        buyer = home.keystore().party
        await market.write(lambda session: fund(session, 20 * CREDIT, buyer))
        job = await market.publish(buyer=buyer)
        await market.api(buyer).submit_job(job, key=key16())
        await market.api(HOST).post_offer(market.draft(), key=key16())
        link = (screen, job.digest.hex()) if screen in {"job", "trust"} else (screen,)

        def clock() -> int:
            return market.time[0]

        hub = Hub(home.folder, clock=clock, poll_seconds=0.05, backoff=(0.05, 0.1))
        app = BlindhostApp(hub, clock=clock, home=home.folder, link=link, quiet=True)
        try:
            async with app.run_test(size=(160, 40)) as pilot:
                hands = Hands(app, hub, pilot)
                if screen == "new":
                    await hands.until(lambda: isinstance(app.screen, NewJobScreen))
                yield Stand(market, door, buyer, hands)
        finally:
            await door.shut()


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
async def test_the_market_goes_under_a_screen_and_comes_back_to_it(screen, tmp_path):
    before, after = SCREENS[screen]
    async with stand(tmp_path, screen) as here:
        rig = here.hands
        await rig.until_words("10.00 cr, idle  online", before)
        shown = rig.app.screen
        await here.door.shut()
        await rig.until_words("OFFLINE for ", "next try in ", before)
        here.market.time[0] += GONE_MILLISECONDS
        await rig.until_words("OFFLINE for 3.0 s", before)  # seconds count; what was known stays
        assert "online  ?" not in rig.words
        assert rig.app.screen is shown
        await here.happens(screen)
        assert after == before or after not in rig.words
        await here.door.open()
        free = "15.00 cr" if screen == "jobs" else "25.00 cr"
        await rig.until_words(f"{free}, idle  online", after)
        assert "OFFLINE" not in rig.words
        assert rig.app.screen is shown
    assert rig.app._exception is None


async def test_without_a_market_from_the_start_the_window_opens_and_waits(tmp_path):
    async with serve_rig(tmp_path) as market:
        door = Door(market)
        home = make_home(tmp_path / "home", await door.open())
        await door.shut()
        clock = lambda: market.time[0]  # noqa: E731
        hub = Hub(home.folder, clock=clock, poll_seconds=0.05, backoff=(0.05, 0.1))
        app = BlindhostApp(hub, clock=clock, home=home.folder, link=("money",), quiet=True)
        try:
            async with app.run_test(size=(160, 40)) as pilot:
                rig = Hands(app, hub, pilot)
                await rig.until_words("OFFLINE for 0.0 s")
                await door.open()
                await rig.until_words("0.00 cr, idle  online", "no line yet")
        finally:
            await door.shut()


def test_a_late_fact_takes_no_newer_ones_place_in_the_line():
    newer, late = Arrived(dataclasses.replace(BALANCE, as_of=NOW + 1)), Arrived(BALANCE)
    assert late.can_replace(newer)  # textual asks the one in front whether it may go
    assert not newer.can_replace(late)
    assert not late.can_replace(Arrived(ONLINE))


NETWORK = {"aiohttp", "asyncio", "http", "select", "socket", "ssl", "subprocess", "urllib"}
HUB_SIDE = {
    "tui.hub", "tui.looking", "tui.doing", "tui.talk", "tui.translate", "tui.translate_jobs",
    "tui.launch",
}  # fmt: skip


@pytest.mark.parametrize("folder", ["screens", "state", "widgets"])
def test_no_screen_can_ask_the_network_by_itself(folder):
    root = Path(tui.__file__).parent / folder
    seen = 0
    for path in root.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{n.name}" for n in node.names)]
            for name in names:
                seen += 1
                assert name.split(".")[0] not in NETWORK | {"client", "marketplace"}, path
                assert name not in HUB_SIDE, path
    assert seen > 10
