"""A window over a scripted hub, at a fixed time, and words of what it shows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from textual.pilot import Pilot

from tui.app import BlindhostApp
from tui.facts import Balance, Connection, Fact, Link, Setup
from tui.replay import Replay

NOW = 1_795_000_000_000  # 2026-11-18, a fixed time
SIZES = ((80, 24), (100, 30), (200, 60))
LOOKS_MAX = 2000

ONLINE = Connection(
    as_of=NOW, link=Link.ONLINE, since=NOW - 60_000, attempt=0, retry_in=None, words=""
)
OFFLINE = Connection(
    as_of=NOW,
    link=Link.OFFLINE,
    since=NOW - 65_000,
    attempt=3,
    retry_in=4_000,
    words="no answer from 127.0.0.1",
)
BALANCE = Balance(
    as_of=NOW,
    free=41_200_000,
    held=4_897_900,
    pending=0,
    payable=0,
    empty_in=22_320_000,
    burn=6_650_000,
)
SETUP = Setup(
    as_of=NOW,
    home="home",
    identity="5f" * 32,
    keys_made_at=NOW - 86_400_000,
    locked=False,
    backed_up=False,
    market_url="http://127.0.0.1:9000",
    market_identity="7c" * 32,
    broker="running",
    models=(),
    data=(),
    simulated=True,
)
USUAL = (ONLINE, BALANCE, SETUP)


class ScriptedHub(Replay):
    """Tells `facts` at the start; `tell` tells more; `asked` is what screens posted."""

    def __init__(self, facts: Iterable[Fact] = USUAL) -> None:
        super().__init__([])
        self._first = tuple(facts)

    def start(self, arrive: Callable[[Fact], None]) -> None:
        super().start(arrive)
        for fact in self._first:
            self.tell(fact)

    def of(self, kind: type) -> list:
        """Commands of one kind, in their order."""
        return [each for each in self.asked if isinstance(each, kind)]


class Rig:
    """A running window."""

    def __init__(self, app: BlindhostApp, hub: ScriptedHub, pilot: Pilot) -> None:
        self.app, self.hub, self.pilot = app, hub, pilot

    @property
    def words(self) -> str:
        """All that the screen shows, as lines of text."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for it; an assertion error shows the screen if it never comes."""
        for _ in range(LOOKS_MAX):
            if holds():
                return
            await self.pilot.pause(0.01)
        raise AssertionError("it never came:\n" + self.words)

    async def until_words(self, *wanted: str) -> None:
        """Wait until the screen shows all of these."""
        await self.until(lambda: all(each in self.words for each in wanted))

    async def tell(self, *facts: Fact) -> None:
        for fact in facts:
            self.hub.tell(fact)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)


@contextlib.asynccontextmanager
async def window(
    *,
    facts: Iterable[Fact] = USUAL,
    link: Sequence[str] = (),
    size: tuple[int, int] = (100, 30),
    theme: str = "blindhost",
) -> AsyncIterator[Rig]:
    """A window with these facts, opened at a link."""
    hub = ScriptedHub(facts)
    app = BlindhostApp(hub, clock=lambda: NOW, link=link, theme=theme, quiet=True)
    async with app.run_test(size=size) as pilot:
        yield Rig(app, hub, pilot)
