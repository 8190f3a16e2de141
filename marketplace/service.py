"""The market process: one writer, some readers, the boxes that somebody waits at.

- The market process is the one writer of money. All its writes go through one thread, in the order
  in which they were asked, each in a transaction of its own: two requests never race for a balance,
  and the event loop never waits for a disk.
- Reads see one consistent state, in other threads.
- What is slow (signatures, evidence, files) is done before a transaction begins.
- A long poll waits for a box by an event in memory, never by asking the database again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlmodel import Session

from marketplace.blobs import BlobFolder
from marketplace.refusals import MarketError
from marketplace.store import Store
from marketplace.wire import ErrorCode
from trust.identity import PartyKey
from trust.verifier.policy import AppraisalPolicy

READERS: Final = 4
BOX_WAITERS_MAX: Final = 8  # long polls at one box: a broker and its restarts
WAITERS_MAX: Final = 4096  # long polls in all: each is an open connection

T = TypeVar("T")
Clock = Callable[[], int]
"""Unix milliseconds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MarketSettings:
    """What the operator decides."""

    fee_ppm: int
    """The market's share of a host's gross, in millionths."""


class Waiters:
    """Who waits at which box. Used on the event loop alone."""

    def __init__(self) -> None:
        self._waiting: defaultdict[bytes, set[asyncio.Event]] = defaultdict(set)
        self._count = 0

    @contextlib.contextmanager
    def wait_at(self, box: bytes) -> Iterator[asyncio.Event]:
        """An event that is set whenever something arrives. Raises MarketError (TOO_MANY)."""
        if self._count >= WAITERS_MAX or len(self._waiting.get(box, ())) >= BOX_WAITERS_MAX:
            raise MarketError(ErrorCode.TOO_MANY, "too many wait at this box already")
        event = asyncio.Event()
        self._waiting[box].add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            self._waiting[box].discard(event)
            if not self._waiting[box]:
                del self._waiting[box]

    def is_waited_at(self, box: bytes) -> bool:
        """Whether somebody waits there now."""
        return box in self._waiting

    def wake(self, boxes: Iterable[bytes]) -> None:
        """Something has arrived in these boxes, and is committed."""
        for box in boxes:
            for event in self._waiting.get(box, ()):
                event.set()


class Market:
    """What a handler needs of the process that it runs in."""

    def __init__(
        self,
        *,
        key: PartyKey,
        store: Store,
        blobs: BlobFolder,
        settings: MarketSettings,
        meter_policy: Callable[[], AppraisalPolicy | None],
        clock: Clock,
    ) -> None:
        self.key, self.store, self.blobs, self.settings = key, store, blobs, settings
        self.meter_policy, self.clock = meter_policy, clock
        self.waiters = Waiters()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="market-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="market-reader")

    @property
    def identity(self) -> bytes:
        """The market's identity: 32 bytes."""
        return self.key.identity

    async def write(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction, after every write that was asked before it."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writer, lambda: self._in_transaction(work)
        )

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run `work` on one consistent state."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, lambda: self._reading(work)
        )

    async def aside(self, work: Callable[[], T]) -> T:
        """Run what is slow and touches no database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def close(self) -> None:
        """Finish the writes that were asked, then close the database."""
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        self.store.close()

    def _in_transaction(self, work: Callable[[Session], T]) -> T:
        with self.store.transaction() as session:
            return work(session)

    def _reading(self, work: Callable[[Session], T]) -> T:
        with self.store.reading() as session:
            return work(session)
