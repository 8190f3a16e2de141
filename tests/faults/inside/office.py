"""The market in this process: its own handlers, database and blobs, and no socket.

- Requests are signed, authenticated and answered by the shipped code on both sides: `Line` stands
  where a client has its `aiohttp.ClientSession`, and calls the route that the path names.
- Reads, writes and what is slow run where they are asked, one after another: the same run has the
  same order every time.
- A market that died answers nobody for `DOWN_REQUESTS` requests, and then runs again on its disk:
  whoever asks again within one call meets both.
- No file is synced here: what dies is a process, never the disk under it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlmodel import Session
from yarl import URL

from marketplace.api.app import _Shell
from marketplace.api.auth import Rates
from marketplace.api.routes import ROUTES
from marketplace.blobs import BlobFolder
from marketplace.home import Home
from marketplace.meter_loop import MeterLoop
from marketplace.service import Market, MarketSettings
from marketplace.store import Store, make_engine
from marketplace.sweep import sweep_once
from tests.faults.inside.points import AFTER, BEFORE, Crash, Points

DOWN_REQUESTS: Final = 2
FEE_PPM: Final = 100_000
MARKET: Final = "market"
URL_OF_MARKET: Final = "http://127.0.0.1:9"

T = TypeVar("T")


def open_store(path: Path, party: str, points: Points) -> PointedStore:
    """A party's own way to the market's database, which is migrated already."""
    engine = make_engine(make_url(f"sqlite:///{path}"))
    event.listen(engine, "connect", _unsynced)
    return PointedStore(engine, party, points)


def _unsynced(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")


class PointedStore(Store):
    """A store whose user dies before or after a commit. One that changes no row is none."""

    def __init__(self, engine: Any, party: str, points: Points) -> None:
        super().__init__(engine)
        self._party, self._points = party, points

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        how = None
        with super().transaction() as session:
            connection = session.connection().connection.driver_connection
            before = connection.total_changes
            yield session
            session.flush()
            if connection.total_changes > before:
                how = self._points.hit(self._party, "commit")
            if how == BEFORE:
                raise Crash(self._party)
        if how is not None:
            raise Crash(self._party)


class PointedBlobs(BlobFolder):
    """A blob folder whose market dies before or after a blob takes its name."""

    def __init__(self, folder: Path, points: Points) -> None:
        super().__init__(folder)
        self._points = points

    def write(self, sha256: bytes, content: bytes) -> None:
        if self.has(sha256):
            return
        with self._points.around(MARKET, "blob"):
            super().write(sha256, content)


class InlineMarket(Market):
    """The market process without its threads."""

    async def write(self, work: Callable[[Session], T]) -> T:
        return self._in_transaction(work)

    async def read(self, work: Callable[[Session], T]) -> T:
        return self._reading(work)

    async def aside(self, work: Callable[[], T]) -> T:
        return work()


class Office:
    """The market as its parties reach it, and the process behind it."""

    def __init__(self, folder: Path, *, points: Points, clock: Callable[[], int]) -> None:
        self.home, self._points, self._clock = Home(folder), points, clock
        self.identity = self.home.load_key().identity
        self.deaths = 0
        self.posted: list[tuple[bytes, bytes, bytes]] = []
        """(box, payload, who posted it) of every message that anybody posted."""
        self._down = 0
        self.market: InlineMarket | None = None
        self._routes: list[tuple[str, re.Pattern[str], Any]] = []
        self.start()

    def start(self) -> None:
        """Run on what the disk has."""
        self.market = InlineMarket(
            key=self.home.load_key(),
            store=open_store(self.home.folder / "market.db", MARKET, self._points),
            blobs=PointedBlobs(self.home.folder / "blobs", self._points),
            settings=MarketSettings(fee_ppm=FEE_PPM),
            meter_policy=self.home.load_policy,
            clock=self._clock,
        )
        self._meter = MeterLoop(self.market)
        shell = _Shell(self.market, Rates())
        self._routes = [
            (route.method.value, _pattern(route.path), shell.serve(route)) for route in ROUTES
        ]

    def die(self) -> None:
        """The process is gone; what it had committed is there."""
        self.close()
        self.deaths += 1
        self._down = DOWN_REQUESTS

    def close(self) -> None:
        """Let go of the database."""
        if self.market is not None:
            self.market.close()
            self.market = None

    async def turn(self) -> None:
        """What the market does by itself: its own box, and what falls due. It dies by `Crash`."""
        if self.market is None:
            self.start()
        assert self.market is not None
        while await self._meter.take_page():
            pass
        await sweep_once(self.market)

    async def ask(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> web.Response:
        """One request. Raises aiohttp.ClientConnectionError if the market is gone, or goes."""
        if self.market is None and self._down > 0:
            self._down -= 1
            raise aiohttp.ClientConnectionError("nobody listens")
        if self.market is None:
            self.start()
        try:
            answer = await self._serve(method, target, body, headers)
        except Crash as crash:
            self.die()
            raise aiohttp.ClientConnectionError("the connection broke") from crash
        how = self._points.hit(MARKET, "answer")
        if how is not None:
            self.die()
        if how == BEFORE:
            raise aiohttp.ClientConnectionError("the connection broke before an answer")
        return answer

    async def _serve(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> web.Response:
        path, _, query = target.partition("?")
        for wanted, pattern, serve in self._routes:
            parts = pattern.fullmatch(path)
            if wanted == method and parts is not None:
                request = _Request(method, target, query, body, headers, parts.groupdict())
                answer = await serve(request)
                self._note(method, path, body, headers, answer)
                return answer
        raise AssertionError(f"no route {method} {path}")

    def _note(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], answer: web.Response
    ) -> None:
        match path.split("/"):
            case ["", "v1", "mailbox", box, "messages", _] if method == "PUT":
                if answer.status == 200:
                    self.posted.append((bytes.fromhex(box), body, b""))


class _Request:
    """What the market's shell looks at of an `aiohttp.web.Request`."""

    def __init__(
        self,
        method: str,
        target: str,
        query: str,
        body: bytes,
        headers: Mapping[str, str],
        parts: dict[str, str],
    ) -> None:
        self.method, self.raw_path, self.path = method, target, target.partition("?")[0]
        self.headers = CIMultiDict(headers)
        self.content_length = len(body)
        self.content = _Body(body)
        self.match_info = parts
        self.query = URL(f"?{query}", encoded=True).query


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self._content:
            yield self._content


class _Answer:
    """What clients look at of an `aiohttp.ClientResponse`."""

    def __init__(self, response: web.Response) -> None:
        body = response.body
        assert isinstance(body, bytes)
        self.status, self.headers, self.content = response.status, response.headers, _Body(body)


class Line:
    """One party's requests to the market: each is a send, and one that only reads an *ask*."""

    def __init__(self, office: Office, party: str, points: Points) -> None:
        self._office, self._party, self._points = office, party, points

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | None,
        headers: Mapping[str, str],
        **_options: object,
    ) -> AsyncIterator[_Answer]:
        """As `aiohttp.ClientSession.request`."""
        how = self._points.hit(self._party, "ask" if method == "GET" else "send")
        if how == BEFORE:
            raise Crash(self._party)
        answer = await self._office.ask(method, url.raw_path_qs, data or b"", headers)
        if how == AFTER:
            raise Crash(self._party)
        yield _Answer(answer)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
