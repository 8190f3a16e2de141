"""What happened to a job: states that the market said, records that the attested key signed.

- Everything is heard once, with the time when it was heard here, and numbered in that order: what a
  client was told under a number stays so.
- Records are opened from the broker's sealed progress again whenever the process starts. One that
  does not hold under the own log says that it does not, and nothing of what stands in it.
- An end absorbs: whatever the market says later of an ended job is not taken.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Final

from client.buyer import last_receipt, outputs
from client.gateway.ports import TuneEvent, TuneEventKind
from client.home import Home
from client.keystore import Keystore
from client.progress import open_progress, read_progress
from client.release_log import replay
from client.tuning_store import Heard, TuningStore
from marketplace.wire import JobState
from trust.errors import BlindhostError
from trust.messages import End, Progress, ProgressEvent
from trust.release_state import Memory

ENDED: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
)
STATES_MAX: Final = 1024  # of one job: a market that says ever new things fills no disk

_KINDS: Final = {
    ProgressEvent.STARTED: TuneEventKind.TEXT,
    ProgressEvent.EVALUATED: TuneEventKind.MEASURE,
    ProgressEvent.STEP: TuneEventKind.MEASURE,
    ProgressEvent.CHECKPOINT: TuneEventKind.CHECKPOINT,
    ProgressEvent.FINISHED: TuneEventKind.TEXT,
    ProgressEvent.FAILED: TuneEventKind.TEXT,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Where a job stands."""

    state: JobState
    message: str
    code: str
    finished_at: int | None
    adapter: bytes | None
    """Artifact id, once it is done."""
    trained_tokens: int | None


@dataclasses.dataclass(kw_only=True, slots=True)
class _Progress:
    """A job's records, as far as they were read."""

    offset: int = 0
    records: list[Progress | str] = dataclasses.field(default_factory=list)
    """A record, or why it does not hold."""


class JobEvents:
    """The events of one home's jobs. Its methods may be called from any thread."""

    def __init__(
        self, home: Home, keys: Keystore, store: TuningStore, clock: Callable[[], int]
    ) -> None:
        self._home, self._keys, self._store, self._clock = home, keys, store, clock
        self._lock = threading.Lock()
        self._progress: dict[bytes, _Progress] = {}
        self._memory: tuple[int, Memory] = (0, Memory())

    def state(self, job: bytes) -> JobState | None:
        """What the market said last; None: nothing yet."""
        with self._lock:
            last = self._last_state(job)
        return None if last is None else _state(last)

    def take_state(self, job: bytes, said: Heard) -> None:
        """Take what the market says, if it is news."""
        assert said.state is not None
        with self._lock:
            known = [each for each in self._store.heard(job) if each.state is not None]
            if known and _state(known[-1]) in ENDED:
                return
            if known and (known[-1].state, known[-1].text) == (said.state, said.text):
                return
            if len(known) < STATES_MAX or _state(said) in ENDED:
                self._store.hear(job, [said])

    def after(self, job: bytes, number: int) -> Sequence[TuneEvent]:
        """Events after this number, oldest first."""
        with self._lock:
            records = self._refreshed(job)
            heard = self._store.heard(job)
            return [_event(n, each, records) for n, each in enumerate(heard, start=1) if n > number]

    def outcome(self, job: bytes) -> Outcome:
        """Where a job stands: the market's word, held against the own log."""
        with self._lock:
            records, memory = self._refreshed(job), self._replayed()
            last = self._last_state(job)
        state = JobState.QUEUED if last is None else _state(last)
        text = "" if last is None else last.text
        receipt, made = last_receipt(memory, job), outputs(memory, job)
        ended_at = last.at if last is not None and state in ENDED else None
        if state is JobState.SUCCEEDED and made is None:
            state, text, ended_at = (
                JobState.RUNNING,
                "the market says that it is done; its last receipt is not in the own log yet",
                None,
            )
        code = ""
        if state in {JobState.FAILED, JobState.EXHAUSTED}:
            end = None if receipt is None or receipt.end in {None, End.DONE} else receipt.end
            code = state.value if end is None else end.value
            text = _said_at_the_end(records) or text or f"the job ended: {code}"
        newest: dict[int, int] = {}
        for each in memory.receipts.get(job, ()):  # cumulative within a generation
            if each.document.rank == 0:
                newest[each.document.generation] = each.document.tokens
        return Outcome(
            state=state,
            message=text,
            code=code,
            finished_at=ended_at,
            adapter=made[0] if made and state is JobState.SUCCEEDED else None,
            trained_tokens=sum(newest.values()) if newest and ended_at is not None else None,
        )

    def drop(self, job: bytes) -> None:
        """Forget what was opened of a job."""
        with self._lock:
            self._progress.pop(job, None)

    # --- reading ---------------------------------------------------------------------------------

    def _last_state(self, job: bytes) -> Heard | None:
        heard = self._store.heard(job)
        return next((each for each in reversed(heard) if each.state is not None), None)

    def _refreshed(self, job: bytes) -> Sequence[Progress | str]:
        """Read what the broker has kept since, and hear what is new of it."""
        read = self._progress.setdefault(job, _Progress())
        sealed, read.offset = read_progress(self._home.progress_path(job), read.offset)
        for each in sealed:
            read.records.append(self._opened(job, each))
        known = sum(each.record is not None for each in self._store.heard(job))
        now = self._clock()
        fresh = [
            Heard(at=now, state=None, text="", record=index)
            for index in range(known, len(read.records))
        ]
        self._store.hear(job, fresh)
        return read.records

    def _opened(self, job: bytes, sealed: bytes) -> Progress | str:
        try:
            return open_progress(self._keys.progress, self._replayed(), job, sealed)
        except BlindhostError as error:
            return f"a record does not hold: {error}"

    def _replayed(self) -> Memory:
        """What the broker's log says now; it only grows, so its length tells whether it is new."""
        path = self._home.log_path
        size = path.stat().st_size if path.exists() else 0
        if size != self._memory[0]:
            data = path.read_bytes()
            self._memory = (len(data), replay(data).memory)
        return self._memory[1]


def _state(heard: Heard) -> JobState:
    assert heard.state is not None
    return JobState(heard.state)


def _said_at_the_end(records: Sequence[Progress | str]) -> str:
    """What the enclave said when it failed, for people."""
    for each in reversed(records):
        if isinstance(each, Progress):
            return each.text if each.event is ProgressEvent.FAILED else ""
    return ""


def _event(number: int, heard: Heard, records: Sequence[Progress | str]) -> TuneEvent:
    if heard.state is not None:
        text = f"{heard.state}: {heard.text}" if heard.text else heard.state
        return _bare(number, heard.at, TuneEventKind.STATE, text)
    assert heard.record is not None
    if heard.record >= len(records):
        return _bare(number, heard.at, TuneEventKind.TEXT, "a record that is not here any more")
    record = records[heard.record]
    if isinstance(record, str):
        return _bare(number, heard.at, TuneEventKind.TEXT, record)
    kind = _KINDS[record.event]
    if kind is TuneEventKind.MEASURE and not record.measures:
        kind = TuneEventKind.TEXT  # nothing was wide enough to leave: only the step is said
    return TuneEvent(
        number=number,
        at=heard.at,
        kind=kind,
        text=_text(record),
        step=record.step,
        steps=record.steps,
        measures={} if kind is not TuneEventKind.MEASURE else _numbers(record),
    )


def _bare(number: int, at: int, kind: TuneEventKind, text: str) -> TuneEvent:
    return TuneEvent(number=number, at=at, kind=kind, text=text, step=0, steps=0, measures={})


def _numbers(record: Progress) -> dict[str, float]:
    return {each.measure: float(each.value) for each in record.measures}


def _text(record: Progress) -> str:
    said = [f"{each.measure} {each.value}" for each in record.measures]
    if record.text:
        said.append(record.text)
    return f"{record.event.value}, step {record.step} of {record.steps}" + "".join(
        f"; {each}" for each in said
    )
