"""One custodian in this process: home, keystore, release log and heads on disk, and its broker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from client.broker import RETRIED, Broker
from client.home import Home
from client.market_api import MarketAddress, MarketApi
from client.market_port import HttpMarket
from client.release_log import HeadPlace, ReleaseLog, _order, replay
from tests.faults.inside.office import URL_OF_MARKET, Line, Office
from tests.faults.inside.points import BEFORE, MIDDLE, Crash, Points
from trust.identity import Signed
from trust.messages import LogHead, SealedProgress
from trust.release_state import Memory, Standing


class PointedLog(ReleaseLog):
    """A release log whose broker dies before, within or after a write that is synced."""

    party = ""
    points = Points()
    written: Callable[[], None] = staticmethod(lambda: None)
    """Called once a write is on the disk."""

    def _write(self, data: bytes) -> None:
        how = self.points.hit(self.party, "log")
        if how == BEFORE:
            raise Crash(self.party)
        if how == MIDDLE:
            os.write(self._descriptor, data[: len(data) // 2])
            raise Crash(self.party)
        super()._write(data)
        self.written()
        if how is not None:
            raise Crash(self.party)


class PointedPlace(HeadPlace):
    """A place of heads whose broker dies before or after one is replaced."""

    def __init__(self, folder: Path, party: str, points: Points) -> None:
        super().__init__(folder)
        self._party, self._points = party, points

    def keep(self, head: Signed[LogHead]) -> bool:
        kept = self.newest(head.signer)
        if kept is not None and _order(kept.document) >= _order(head.document):
            return super().keep(head)
        with self._points.around(self._party, "head"):
            return super().keep(head)


class PointedBroker(Broker):
    """A broker that dies before or after it keeps a record of progress."""

    party = ""
    points = Points()

    def _keep_progress(self, sealed: SealedProgress) -> None:
        with self.points.around(self.party, "progress"):
            super()._keep_progress(sealed)


class Custodian:
    """One party and its broker. The broker may die and is there again; the home stays."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        office: Office,
        points: Points,
        clock: Callable[[], int],
    ) -> None:
        self.party, self.name, self.folder = f"broker-{name}", name, folder
        self.office, self.points, self.clock = office, points, clock
        self.place = folder / "heads"
        self.home = Home.open(folder)
        self.keys = self.home.keystore()
        self.identity = self.keys.party.identity
        self.copies: list[bytes] | None = None
        """The whole log after each write that is synced, once somebody wants them."""
        self._log: ReleaseLog | None = None
        self.broker: Broker | None = None
        self._after = 0
        self._ready = False

    def _start(self) -> None:
        named = {"party": self.party, "points": self.points}
        kind = type("Log", (PointedLog,), named | {"written": staticmethod(self._copy)})
        self._log = kind.open(self.home.log_path, now=self.clock())
        api = MarketApi(
            Line(self.office, self.party, self.points),  # type: ignore[arg-type]
            address=MarketAddress(url=URL_OF_MARKET, identity=self.office.identity),
            key=self.keys.party,
            clock=self.clock,
        )
        self.port = HttpMarket(api)
        self.broker = type("Named", (PointedBroker,), named)(
            home=self.home,
            keys=self.keys,
            release_log=self._log,
            place=PointedPlace(self.place, self.party, self.points),
            market=self.port,
            clock=self.clock,
        )
        self._after, self._ready = 0, False

    def _copy(self) -> None:
        if self.copies is not None:
            self.copies.append(self.home.log_path.read_bytes())

    async def turn(self) -> None:
        """What `Broker.serve` does, once. It dies by `Crash`."""
        if self.broker is None:
            self._start()
        assert self.broker is not None
        try:
            if not self._ready:
                await self.broker.start()
                self._ready = True
            for message in await self.port.read_messages(after=self._after, wait_seconds=0):
                await self.broker._accept_or_drop(message)
                self._after = message.number
                await self.port.acknowledge(message.number)
            await self.broker.announce()
        except RETRIED:
            return  # asked again in the next turn

    def die(self) -> None:
        """SIGKILL: what was written is there, and the lock is free."""
        if self._log is not None:
            self._log.close()
        self._log = self.broker = None

    def restore(self, log: bytes, *, heads: Path | None) -> None:
        """Put an older release log in place; `heads` is then the only place of heads. Not running.

        None: the own place of heads was lost, or restored along with the log.
        """
        assert self.broker is None
        self.home.log_path.write_bytes(log)
        if heads is None:
            shutil.rmtree(self.place)
            self.place.mkdir(mode=0o700)
        else:
            self.place = heads

    @property
    def memory(self) -> Memory:
        """What the log on the disk says."""
        return replay(self.home.log_path.read_bytes()).memory

    @property
    def standing(self) -> Standing | None:
        """What the broker believes; None: it does not run."""
        return None if self.broker is None else self.broker.standing
