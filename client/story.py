"""A job's story on its buyer's disk: numbered events, each told once, in a file that only grows.

- Market and log show how things *are*; the story says how they came about. Whoever watches tells it
  what it can see, and the story keeps what is new: two watchers tell one story, with one numbering.
- What a reader was told under a number stays so: reading on after a number is exact, after a crash
  too. Half a record at the end is what a crash left, and goes.
- Nothing that came sealed stands in it: losses and samples are opened from the broker's sealed
  progress again, each time (client/progress.py).
- File: ``u32 length ‖ document`` for each, as `client/progress.py` does.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final

from client.files import FILE_MODE, make_folder
from trust.encoding import Count, Document, Name, Size, Text, UnixMilliseconds

EVENTS_MAX: Final = 20_000  # of one job: what a window holds in memory
SAID_MAX: Final = 2_048  # of them by the market's word, which may say ever new things
RECORD_BYTES_MAX: Final = 1 << 16
REFS_MAX: Final = 8


class EventKind(enum.StrEnum):
    """What happened."""

    SUBMITTED = "submitted"
    STATE = "state"
    WAITING = "waiting"
    MATCHED = "matched"
    LEASE = "lease"
    HOST_LOST = "host-lost"
    ORDERED = "ordered"
    RELEASED = "released"
    STARTED = "started"
    RESUMED = "resumed"
    EVALUATED = "evaluated"
    CHECKPOINT = "checkpoint"
    FINISHED = "finished"
    FAILED = "failed"
    RECEIPT = "receipt"
    FAULT = "fault"
    """Something that was shown and does not hold."""
    CLOSED = "closed"
    ENDED = "ended"


SAID_BY_MARKET: Final = frozenset(
    {
        EventKind.STATE,
        EventKind.WAITING,
        EventKind.MATCHED,
        EventKind.LEASE,
        EventKind.HOST_LOST,
        EventKind.RECEIPT,
        EventKind.FAULT,
    }
)

Reference = Annotated[str, Size(least=1, most=160)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoryEvent(Document):
    """One thing that happened to a job."""

    LABEL: ClassVar[str] = "client/job-event"

    number: Count
    """From 1, without a gap: where to go on reading."""
    about: Name
    """What it is about: told once."""
    at: UnixMilliseconds
    seen: bool
    """`at` is when it was seen here: nobody says when it happened."""
    kind: EventKind
    words: Text
    refs: Annotated[tuple[Reference, ...], Size(least=0, most=REFS_MAX)]
    """Ids that a person can follow."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """What a watcher sees, before it is an event."""

    about: str
    at: int | None
    """Unix milliseconds; None: nobody says."""
    kind: EventKind
    words: str
    refs: tuple[str, ...] = ()


class Story:
    """One job's story. One object is used by one thread at a time; processes may share the file."""

    def __init__(self, home: Path, job: bytes) -> None:
        self._folder = home / "events"
        self._path = self._folder / job.hex()
        self._offset = 0
        self._about: set[str] = set()
        self._said = 0
        self.events: list[StoryEvent] = []

    def after(self, number: int) -> Sequence[StoryEvent]:
        """Events behind this number, as far as was read."""
        return self.events[number:]

    def tell(self, happenings: Iterable[Happening], now: int) -> None:
        """Keep what is new, and read what others kept. Raises OSError, HomeError.

        What comes together is put in the order in which it happened, as far as anybody says.
        """
        make_folder(self._folder)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._read(descriptor)
            fresh = self._fresh(happenings)
            fresh.sort(key=lambda each: now if each.at is None else min(each.at, now))
            data = bytearray()
            for each in fresh:
                event = self._event(each, now)
                record = event.encode()
                data += len(record).to_bytes(4, "big") + record
                self._take(event)
            if data:
                os.pwrite(descriptor, data, self._offset)
                self._offset += len(data)
        finally:
            os.close(descriptor)

    def _fresh(self, happenings: Iterable[Happening]) -> list[Happening]:
        found: dict[str, Happening] = {}
        said = self._said
        for each in happenings:
            if each.about in self._about or each.about in found:
                continue
            if len(self.events) + len(found) >= EVENTS_MAX:
                break
            if each.kind in SAID_BY_MARKET:
                if said >= SAID_MAX:
                    continue
                said += 1
            found[each.about] = each
        return list(found.values())

    def _event(self, each: Happening, now: int) -> StoryEvent:
        return StoryEvent(
            number=len(self.events) + 1,
            about=each.about,
            at=now if each.at is None else each.at,
            seen=each.at is None,
            kind=each.kind,
            words=each.words[:1024],
            refs=tuple(ref[:160] for ref in each.refs[:REFS_MAX] if ref),
        )

    def _take(self, event: StoryEvent) -> None:
        self.events.append(event)
        self._about.add(event.about)
        self._said += event.kind in SAID_BY_MARKET

    def _read(self, descriptor: int) -> None:
        """Read on from where this object stands, and cut half a record off."""
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, max(0, size - self._offset), self._offset)
        at = 0
        while len(data) >= at + 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end - at - 4 > RECORD_BYTES_MAX or len(data) < end:
                break
            self._take(StoryEvent.parse(data[at + 4 : end]))
            at = end
        self._offset += at
        if size > self._offset:
            os.ftruncate(descriptor, self._offset)
