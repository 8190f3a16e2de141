"""The hub: commands in, facts out; behind it the client, a home and a market.

- Nothing here holds the loop: files, signatures and sealing are the client's, in threads. Every
  wait is a task in a named group; who looks away, stops or locks cancels its group.
- What fails on the way to the market is tried again after 1, 2, 4 … 30 s, each a little off, and
  everybody is told; what is refused is a `Failure`, once.
- A command is taken once: its id is remembered.
- A passphrase goes into the keystore's opener and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import aiohttp

import client
from client.home_view import is_home, pin_market, pinned_market
from tui import commands, facts, translate
from tui.clock import Clock
from tui.commands import Command, Kind
from tui.doing import Doing, market_config
from tui.looking import Looking

HANDLED_MAX: Final = 8_192  # ids of commands that are remembered; a person makes fewer
BACKOFF_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
BASE_SECONDS: Final = 2.0  # how often balance and link are looked at
SETUP_ROUNDS: Final = 5  # every how many of those the home is read again
UNREACHED: Final = (client.MarketUnreachableError, client.UnauthenticatedAnswerError)
EXPECTED: Final = (client.BlindhostError, OSError)

Step = Callable[[], Awaitable[None]]


class Hub:
    """Fills `tui.port.HubPort`. `start`, `post` and `stop` are called in one loop."""

    def __init__(
        self,
        home: Path,
        *,
        clock: Clock,
        gateway: Path | None = None,
        poll_seconds: float = BASE_SECONDS,
        backoff: tuple[float, ...] = BACKOFF_SECONDS,
    ) -> None:
        self.home, self.clock = home, clock
        self.gateway = home if gateway is None else gateway
        """The home whose gateway the chat uses."""
        self.poll_seconds, self._backoff = poll_seconds, backoff
        self._tell: Callable[[facts.Fact], None] = lambda _fact: None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._handled: dict[str, None] = {}
        self._session: aiohttp.ClientSession | None = None
        self._back, self._opened, self._tried = (asyncio.Event() for _ in range(3))
        self._subjects: dict[str, commands.Subject] = {}
        self._since = 0
        self._link: facts.Link | None = None
        self.party: client.Party | None = None
        self._visitor: tuple[client.Config, client.Visitor] | None = None
        self.simulated = False
        self.looking = Looking(self)
        self._doing = Doing(self)

    # --- the port --------------------------------------------------------------------------------

    def start(self, arrive: Callable[[facts.Fact], None]) -> None:
        """Begin. Facts go to `arrive`, in this loop."""
        self._tell = arrive
        self._since = self.clock()
        self.spawn("base", self._base)

    def post(self, command: Command) -> None:
        """Take a command, once; what becomes of it comes as facts."""
        if command.id in self._handled:
            return
        while len(self._handled) >= HANDLED_MAX:
            del self._handled[next(iter(self._handled))]
        self._handled[command.id] = None
        match command:
            case commands.Look(subject=subject):
                self._look(subject)
            case commands.LookAway(subject=subject):
                self._subjects.pop(_group(subject), None)
                self.cancel(_group(subject))
            case commands.StopSealing(path=path):
                self.cancel(f"seal:{path}")
            case commands.LockKeys():
                self.spawn("lock", self._lock)
            case commands.Unlock(passphrase=passphrase):
                self.spawn("unlock", lambda: self._unlock(command.id, passphrase))
            case commands.MakeKeys():
                self.spawn("unlock", lambda: self._make_keys(command))
            case commands.PinMarket():
                self.spawn("pin", lambda: self._pin_market(command))
            case _:
                self._doing.post(command)

    async def stop(self) -> None:
        """End all that runs, and wait for it."""
        await self.looking.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self.party = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- groups ----------------------------------------------------------------------------------

    def arrive(self, fact: facts.Fact) -> None:
        """Tell a fact."""
        self._tell(fact)

    def spawn(self, group: str, work: Step) -> None:
        """Run in a group of its own; what ran there before is cancelled."""
        self.cancel(group)
        task = asyncio.create_task(self._guarded(group, work), name=f"hub {group}")
        self._tasks[group] = task
        task.add_done_callback(lambda done: self._forget(group, done))

    def cancel(self, group: str) -> None:
        """Cancel a group, if it runs."""
        task = self._tasks.pop(group, None)
        if task is not None:
            task.cancel()

    def _forget(self, group: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(group) is task:
            del self._tasks[group]

    def runs(self, group: str) -> bool:
        """Whether a group is at work."""
        task = self._tasks.get(group)
        return task is not None and not task.done()

    async def _guarded(self, group: str, work: Step) -> None:
        """Whatever is raised becomes a fact: no worker takes the window with it."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the outermost frame of a worker
            self.fail(group, error)

    def fail(self, where: str, error: BaseException, retry_in: int | None = None) -> None:
        """Say that something did not happen."""
        self.arrive(translate.failure(where, error, self.clock(), retry_in))

    async def patiently(self, where: str, step: Step) -> None:
        """Do it, and do it again as long as the market can't be reached, saying so each time."""
        attempt = 0
        while True:
            try:
                await step()
            except UNREACHED as error:
                wait = self._wait(attempt)
                attempt += 1
                self._back.clear()  # the next good beat sets it, and this is tried at once
                self.fail(where, error, int(wait * 1000))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._back.wait()
            else:
                return

    def _wait(self, attempt: int) -> float:
        """Seconds until the next try, a little off, so that not all come back at once."""
        seconds = self._backoff[min(attempt, len(self._backoff) - 1)]
        return seconds * (0.75 + secrets.randbelow(500) / 1000)

    # --- home and link ---------------------------------------------------------------------------

    async def opened(self) -> client.Party:
        """The opened home, once it was tried to open. Raises HomeError if it is none, or locked."""
        await self._tried.wait()
        if self.party is None:
            raise client.HomeError("the keys are locked, or there are none yet")
        return self.party

    async def browser(self) -> client.Browser:
        """Who looks at offers: the open home, else a visitor. Raises HomeError: no market known."""
        await self._tried.wait()
        if self.party is not None:
            return self.party
        if (pinning := self._tasks.get("pin")) is not None:
            await asyncio.wait([pinning])
        config = await asyncio.to_thread(pinned_market, self.home)
        if config is None:
            raise client.HomeError("no market is named here yet: 1 Start asks for its address")
        if self._visitor is None or self._visitor[0] != config:
            address = client.MarketAddress(url=config.market_url, identity=config.market)
            self._visitor = (config, client.Visitor(self._web(), address, self.clock))
        return self._visitor[1]

    async def _base(self) -> None:
        """Setup, balance, link: always."""
        try:
            await self._open_by_key_file()
        finally:
            self._tried.set()
        await self._beat()

    async def _beat(self) -> None:
        await self._opened.wait()
        attempt, rounds = 0, 0
        while True:
            party = await self.opened()
            try:
                if rounds % SETUP_ROUNDS == 0:
                    await self.tell_setup()
                rounds += 1
                view, burned, lasts = await party.balance()
            except UNREACHED as error:
                wait = self._wait(attempt)
                attempt += 1
                self._back.clear()
                self._say(facts.Link.OFFLINE, attempt, int(wait * 1000), str(error))
                await asyncio.sleep(wait)
            except EXPECTED as error:
                self.fail("home", error)
                await asyncio.sleep(self.poll_seconds)
            else:
                attempt = 0
                self._back.set()
                self._say(facts.Link.ONLINE, 0, None, "")
                self.arrive(translate.balance(view, burned, lasts, self.clock()))
                await asyncio.sleep(self.poll_seconds)

    def _say(self, link: facts.Link, attempt: int, retry_in: int | None, text: str) -> None:
        now = self.clock()
        if link is not self._link:
            self._link, self._since = link, now
        elif link is facts.Link.ONLINE:
            return
        self.arrive(
            facts.Connection(
                as_of=now,
                link=link,
                since=self._since,
                attempt=attempt,
                retry_in=retry_in,
                words=translate.words(text),
            )
        )

    async def _open_by_key_file(self) -> None:
        if not await asyncio.to_thread(is_home, self.home):
            self._say(facts.Link.SIGNED_OUT, 0, None, "no keys here yet")
            await self._closed(locked=False)
            return
        try:
            await self._open(None)
        except client.KeystoreError:
            self._say(facts.Link.LOCKED, 0, None, "a passphrase opens the keys")
            await self._closed(locked=True)

    async def _open(self, opener: client.Passphrase | None) -> None:
        self.party = await client.Party.open(self.home, opener, self._web(), self.clock)
        self._opened.set()

    def _web(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    async def _closed(self, *, locked: bool) -> None:
        config = await asyncio.to_thread(pinned_market, self.home)
        now = self.clock()
        self.arrive(translate.closed_setup(self.home.name, config, locked=locked, now=now))
        if locked:
            self.arrive(translate.locked_keys(now))

    async def tell_setup(self) -> None:
        """Read the home again, and say how it stands."""
        party = await self.opened()
        view = await party.view()
        self.simulated = view.simulated
        config = party.home.config
        now = self.clock()
        self.arrive(translate.setup(self.home.name, config.market_url, config.market, view, now))
        self.arrive(translate.key_state(view, now))

    async def _unlock(self, where: str, passphrase: str) -> None:
        try:
            await self._open(client.Passphrase(text=passphrase))
        except EXPECTED as error:
            self.fail(where, error)
            return
        self._link = None
        self.spawn("base", self._beat)
        for subject in list(self._subjects.values()):
            self._look(subject)

    async def _make_keys(self, command: commands.MakeKeys) -> None:
        try:
            await self._doing.make_keys(command)
        except EXPECTED as error:
            self.fail(command.id, error)
            return
        await self._unlock(command.id, command.passphrase)

    async def _pin_market(self, command: commands.PinMarket) -> None:
        """Only a home without keys: what is open belongs to one market."""
        try:
            config = market_config(command.market_url, command.market_identity)
            await asyncio.to_thread(pin_market, self.home, config)
            await self._closed(locked=False)
        except EXPECTED as error:
            self.fail(command.id, error)

    async def _lock(self) -> None:
        """Forget the open keystore: all that used it ends first."""
        for group in [each for each in self._tasks if each != "lock"]:
            self.cancel(group)
        self.party = None
        self._opened.clear()
        self._say(facts.Link.LOCKED, 0, None, "locked by you")
        await self._closed(locked=True)
        for subject in list(self._subjects.values()):
            if subject.kind is Kind.OFFERS:  # which needs no keys
                self._look(subject)

    # --- looking ---------------------------------------------------------------------------------

    def _look(self, subject: commands.Subject) -> None:
        watchers: Mapping[Kind, Callable[[str], Awaitable[None]]] = self.looking.watchers
        group = _group(subject)
        self._subjects[group] = subject
        watch = watchers[subject.kind]
        ready = self._tried if subject.kind is Kind.OFFERS else self._opened
        self.spawn(group, lambda: self._when(ready, group, lambda: watch(subject.of)))

    async def _when(self, ready: asyncio.Event, group: str, step: Step) -> None:
        """Wait for the keys, or for knowing that there are none; then look, and while the market is
        away again and again.
        """
        await ready.wait()
        await self.patiently(group, step)


def _group(subject: commands.Subject) -> str:
    return f"look:{subject.kind.value}:{subject.of}"
