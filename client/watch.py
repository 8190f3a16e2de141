"""Watching jobs: what market, own log and sealed progress say, merged into one story as it grows.

- A watch polls; it never blocks the loop: files are read and signatures verified in a thread.
- It yields events behind a number that the reader knows, each once and in order; sealed records,
  opened; and where the job stands whenever that changes. Reading on after a crash is exact for
  events; records are few and come again from the beginning.
- The market is believed in nothing: an event says whose word it is.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from client.account import CheckedReceipt, check_settled
from client.dry_run import Seated, releases
from client.home import Home
from client.keystore import Keystore
from client.progress import open_progress, read_progress
from client.release_log import read_entries
from client.stages import ENDED, Cost, Known, Safe, Stage, cost_of, happenings, hosts_of, stages_of
from client.story import Story, StoryEvent
from marketplace.wire import JobView, ReceiptView
from trust.errors import BlindhostError
from trust.identity import verify_signed
from trust.jobs import Close
from trust.messages import Progress
from trust.release_state import LogEntry, Memory, remember

POLL_SECONDS: Final = 0.5
LIST_SECONDS: Final = 2.0
RECEIPTS_MAX: Final = 10_000
FAULTS_MAX: Final = 64

Clock = Callable[[], int]
"""Unix milliseconds."""


class WatchPort(Protocol):
    """The market, as a watcher sees it: `client.market_api.MarketApi`."""

    async def get_job(self, job: bytes) -> JobView:
        """A job, and whom it waits for."""

    async def get_jobs(self) -> tuple[JobView, ...]:
        """One's own jobs, newest first."""

    async def get_receipts(self, job: bytes, *, after: int = 0) -> tuple[ReceiptView, ...]:
        """Receipts that settled, a page from number `after` on."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobStanding:
    """Where a job stands, at one moment."""

    known: Known
    stages: tuple[Stage, ...]
    cost: Cost
    hosts: tuple[bytes, ...]
    """The different hosts that had it, in order."""
    last: Progress | None
    """The newest record."""
    milliseconds_left: int | None
    """Until the last step, at the speed of this generation so far."""
    as_of: int

    @property
    def view(self) -> JobView:
        """What the market says."""
        return self.known.view


JobUpdate = StoryEvent | Progress | CheckedReceipt | JobStanding


class OwnLog:
    """A home's release log, read again only when it has grown. For one thread at a time."""

    def __init__(self, home: Home) -> None:
        self._path = home.log_path
        self._size = -1
        self._seats: tuple[Seated, ...] = ()
        self._safe: dict[bytes, Safe] = {}
        self.entries: tuple[LogEntry, ...] = ()
        self.memory = Memory()

    def read(self) -> bool:
        """Read what is there; says whether it is news. Raises ReleaseLogError."""
        if not self._path.exists():
            return False
        data = self._path.read_bytes()
        if len(data) == self._size:
            return False
        entries = tuple(entry for entry, _ in read_entries(data))
        memory, safe = Memory(), dict[bytes, Safe]()
        for entry in entries:
            before, memory = memory.checkpoints, remember(memory, entry)
            for job, newest in memory.checkpoints.items():
                if before.get(job) is not newest:
                    safe[job] = Safe(at=newest.at, noted_at=entry.at)
        self.entries, self.memory, self._size = entries, memory, len(data)
        self._seats, self._safe = releases(entries), safe
        return True

    @property
    def all_seats(self) -> tuple[Seated, ...]:
        """What was ever released."""
        return self._seats

    def seats(self, job: bytes) -> tuple[Seated, ...]:
        """What was released for a job."""
        return tuple(each for each in self._seats if each.statement.job == job)

    def safe(self, job: bytes) -> Safe | None:
        """The newest checkpoint of a job that counts here."""
        return self._safe.get(job)

    def closed_at(self, job: bytes) -> int | None:
        """When a job's buyer closed it, by the buyer's word; None: not that this log knows."""
        data = self.memory.closed.get(job)
        return None if data is None else verify_signed(Close, data, signer=None).document.at


class _JobWatch:
    """One job as one watcher knows it."""

    def __init__(self, home: Home, keys: Keystore, job: bytes, log: OwnLog) -> None:
        self._home, self._keys, self._job, self._log = home, keys, job, log
        self._offset = 0
        self._sealed: list[bytes] = []
        self._progress: list[Progress] = []
        self._faults: list[str] = []
        self._views: list[ReceiptView] = []
        self.receipts: list[CheckedReceipt] = []
        self.story = Story(home.folder, job)

    @property
    def receipts_known(self) -> int:
        """How many settled receipts were read."""
        return len(self._views)

    def take(self, view: JobView, fresh: Sequence[ReceiptView], now: int) -> JobStanding:
        """Read files, verify, and tell the story. Slow: for a thread."""
        grown = self._log.read()
        self._read_progress(again=grown)
        self._views.extend(fresh)
        if grown or fresh:
            memory = self._log.memory
            self.receipts = [check_settled(memory, self._job, each) for each in self._views]
        known = Known(
            view=view,
            seats=self._log.seats(self._job),
            progress=tuple(self._progress),
            faults=tuple(self._faults),
            receipts=tuple(self.receipts),
            safe=self._log.safe(self._job),
            closed_at=self._log.closed_at(self._job),
        )
        self.story.tell(happenings(known), now)
        last = self._progress[-1] if self._progress else None
        return JobStanding(
            known=known,
            stages=stages_of(known, self.story.events, now),
            cost=cost_of(known),
            hosts=hosts_of(view),
            last=last,
            milliseconds_left=_left(self._progress),
            as_of=now,
        )

    def _read_progress(self, *, again: bool) -> None:
        """New records; those that did not hold are tried again once the log has grown."""
        records, self._offset = read_progress(self._home.progress_path(self._job), self._offset)
        waiting, self._sealed = (self._sealed, []) if again else ([], self._sealed)
        if waiting:
            self._faults = []
        for sealed in (*waiting, *records):
            try:
                record = open_progress(self._keys.progress, self._log.memory, self._job, sealed)
            except BlindhostError as error:
                if len(self._faults) < FAULTS_MAX:
                    self._faults.append(str(error))
                    self._sealed.append(sealed)
            else:
                self._progress.append(record)


def _left(progress: Sequence[Progress]) -> int | None:
    """Milliseconds until the last step, by the newest generation's own pace; None: no pace yet."""
    if not progress:
        return None
    last = progress[-1]
    own = [each for each in progress if each.generation == last.generation]
    began = own[0].resumed_from.step if own[0].resumed_from is not None else 0
    taken = last.step - began
    return None if taken <= 0 else (last.steps - last.step) * last.milliseconds // taken


async def watch_job(
    port: WatchPort,
    home: Home,
    keys: Keystore,
    job: bytes,
    *,
    clock: Clock,
    after_event: int = 0,
    follow: bool = True,
    poll_seconds: float = POLL_SECONDS,
    log: OwnLog | None = None,
) -> AsyncIterator[JobUpdate]:
    """A job's story behind event number `after_event`, and where it stands, until it has ended.

    Each round: (1) the market's view and settled receipts; (2) in a thread, own log and sealed
    progress, verified, and the story told; (3) what is new of each, then the standing if it is
    another one. Without `follow` it is one round.

    Raises MarketUnreachableError and its kin: begin again behind the last event that came.
    """
    watch = _JobWatch(home, keys, job, log or OwnLog(home))
    told, shown, settled = after_event, 0, dict[bytes, CheckedReceipt]()
    before: JobStanding | None = None
    while True:
        view = await port.get_job(job)  # (1)
        fresh = await _new_receipts(port, job, watch.receipts_known)
        now = clock()
        standing = await asyncio.to_thread(watch.take, view, fresh, now)  # (2)
        for event in watch.story.after(told):  # (3)
            told = event.number
            yield event
        for record in standing.known.progress[shown:]:
            shown += 1
            yield record
        for receipt in standing.known.receipts:
            if settled.get(receipt.digest) != receipt:
                settled[receipt.digest] = receipt
                yield receipt
        if before is None or _differs(before, standing):
            before = standing
            yield standing
        if not follow or (view.state in ENDED and not fresh):
            return
        await asyncio.sleep(poll_seconds)


def _differs(before: JobStanding, now: JobStanding) -> bool:
    """Something a person would see changed; the time that a stage has taken is no news."""
    if before.known != now.known:
        return True
    return [each.state for each in before.stages] != [each.state for each in now.stages]


async def _new_receipts(port: WatchPort, job: bytes, known: int) -> list[ReceiptView]:
    found: list[ReceiptView] = []
    while known + len(found) < RECEIPTS_MAX:
        page = await port.get_receipts(job, after=known + len(found))
        if not page:
            break
        found.extend(page)
    return found


async def watch_jobs(
    port: WatchPort, *, follow: bool = True, poll_seconds: float = LIST_SECONDS
) -> AsyncIterator[tuple[JobView, ...]]:
    """One's own jobs, newest first: now, and again whenever the list changes."""
    before: tuple[JobView, ...] | None = None
    while True:
        found = await port.get_jobs()
        if found != before:
            before = found
            yield found
        if not follow:
            return
        await asyncio.sleep(poll_seconds)
