"""Both ports of the gateway in memory: deterministic, with a clock that moves only when told.

Each records in `calls` what reached it, so that a test can say that nothing did.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from client.dataset import count_rows
from client.gateway.ports import (
    NotFoundError,
    Piece,
    ServedModel,
    StoredFile,
    TuneEvent,
    TuneEventKind,
    TuneJob,
    TuneRequest,
)
from marketplace.wire import JobState
from trust.serving import Finish, FinishReason, GenerateRequest

NOW = 1_790_000_000_000  # Unix milliseconds
BASE = "tiny-chat"
ADAPTER = hashlib.sha256(b"an adapter").digest()
TUNED = f"ft:{BASE}:{ADAPTER.hex()[:16]}"
ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED)
COURSE = (
    JobState.QUEUED,
    JobState.PLACED,
    JobState.STARTING,
    JobState.RUNNING,
    JobState.SUCCEEDED,
)


# --- inference -----------------------------------------------------------------------------------


def finish(
    reason: FinishReason = FinishReason.STOP,
    code: str = "",
    text: str = "",
    *,
    prompt: int = 7,
    completion: int = 3,
) -> Finish:
    """How a reply ends."""
    return Finish(
        reason=reason, code=code, text=text, prompt_tokens=prompt, completion_tokens=completion
    )


def failed(code: str, text: str = "") -> list[str | Finish]:
    """A script in which the enclave says no."""
    return [finish(FinishReason.ERROR, code, text, prompt=0, completion=0)]


class FakeServePort:
    """Plays `script` to whoever asks: texts, a `Finish`, an error to raise, or an event to await.

    Scripts in `scripts` are played first, one for each request.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[tuple[str, GenerateRequest]] = []
        self._changed = asyncio.Event()
        self.closed = 0
        """Replies that were left before their end: cancelled in the enclave."""
        self.ended = asyncio.Event()
        """Some reply has ended, or was left."""
        self.script: list[str | Finish | Exception | asyncio.Event] = [
            "Hello",
            ", ",
            "world",
            finish(),
        ]
        self.scripts: list[list[str | Finish | Exception | asyncio.Event]] = []
        self.served: list[ServedModel] = [
            ServedModel(
                name=name,
                created_at=NOW // 1000,
                job="ab" * 32,
                adapter=adapter,
                length_max=256,
                reply_tokens_max=64,
                sealed_to=None,
            )
            for name, adapter in ((TUNED, ADAPTER), (BASE, None))
        ]

    async def reached(self, count: int, call: str = "generate") -> None:
        """Return when the port was called so often."""
        while self.calls.count(call) < count:
            self._changed.clear()
            await self._changed.wait()

    async def models(self) -> Sequence[ServedModel]:
        self.calls.append("models")
        self._changed.set()
        return list(self.served)

    async def generate(self, model: str, body: GenerateRequest) -> AsyncIterator[Piece]:
        self.calls.append("generate")
        if model not in {each.name for each in self.served}:
            raise NotFoundError(f"no model {model} is served here")
        self.bodies.append((model, body))
        self._changed.set()
        script = self.scripts.pop(0) if self.scripts else self.script
        whole = False
        try:
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                elif isinstance(step, Finish):
                    whole = True
                    yield Piece(text="", finish=step)
                else:
                    yield Piece(text=step, finish=None)
        finally:
            self.closed += not whole
            self.ended.set()


# --- jobs ----------------------------------------------------------------------------------------


class FakeTunePort:
    """Datasets and jobs in memory. Jobs stand still until `move`, `advance` or `emit` is called."""

    def __init__(self, *, bases: Sequence[str] = (BASE,), now: int = NOW) -> None:
        self.calls: list[str] = []
        self.bases = list(bases)
        self.now = now
        """Unix milliseconds; `tick` moves it."""
        self.submitted: list[TuneRequest] = []
        """Each token once, in order."""
        self.refuse: Exception | None = None
        """The next `submit` raises this, once."""
        self._files: dict[str, tuple[StoredFile, bytes]] = {}
        self._jobs: dict[str, TuneJob] = {}
        self._events: dict[str, list[TuneEvent]] = {}
        self._tokens: dict[str, str] = {}

    # --- the port

    async def base_models(self) -> Sequence[str]:
        self.calls.append("base_models")
        return list(self.bases)

    async def add_file(self, path: Path, *, name: str, purpose: str) -> StoredFile:
        self.calls.append("add_file")
        rows, content = _read(path)
        artifact = hashlib.sha256(f"{len(self._files)}\0{name}\0".encode() + content).digest()
        stored = StoredFile(
            id=f"file-{artifact.hex()[:32]}",
            name=name,
            size=len(content),
            rows=rows,
            purpose=purpose,
            created_at=self.now // 1000,
            artifact=artifact,
        )
        self._files[stored.id] = (stored, content)
        return stored

    async def files(self) -> Sequence[StoredFile]:
        self.calls.append("files")
        return [stored for stored, _ in reversed(self._files.values())]

    async def read_file(self, file: str) -> AsyncIterator[bytes]:
        self.calls.append("read_file")
        content = self._file(file)[1]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    async def delete_file(self, file: str) -> None:
        self.calls.append("delete_file")
        self._file(file)
        del self._files[file]

    async def submit(self, request: TuneRequest) -> TuneJob:
        self.calls.append("submit")
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        if request.token in self._tokens:
            return self._jobs[self._tokens[request.token]]
        if request.model not in self.bases:
            raise NotFoundError(f"no base model {request.model}")
        for file in (request.training, *([request.heldout] if request.heldout else [])):
            self._file(file)
        job = hashlib.sha256(b"job\0" + request.token.encode()).hexdigest()
        self._tokens[request.token] = job
        self.submitted.append(request)
        self._events[job] = []
        self._jobs[job] = TuneJob(
            job=job,
            state=JobState.QUEUED,
            message="waits for a host",
            code="",
            model=request.model,
            tuned_model=None,
            training=request.training,
            heldout=request.heldout,
            created_at=self.now,
            finished_at=None,
            trained_tokens=None,
            recipe=dict(request.recipe),
            label=request.label,
            metadata=dict(request.metadata),
        )
        self.emit(job, TuneEventKind.STATE, text=JobState.QUEUED.value)
        return self._jobs[job]

    async def job(self, job: str) -> TuneJob:
        self.calls.append("job")
        return self._job(job)

    async def jobs(self) -> Sequence[TuneJob]:
        self.calls.append("jobs")
        return list(reversed(self._jobs.values()))

    async def events(self, job: str, *, after: int) -> Sequence[TuneEvent]:
        self.calls.append("events")
        self._job(job)
        return self._events[job][after:]

    async def cancel(self, job: str) -> bool:
        self.calls.append("cancel")
        if self._job(job).state in ENDED:
            return False
        self.move(job, JobState.CANCELLED, message="cancelled by the buyer")
        return True

    async def forget(self, job: str) -> bool:
        self.calls.append("forget")
        if self._job(job).state not in ENDED:
            return False
        del self._jobs[job], self._events[job]
        return True

    # --- what the world does

    def tick(self, milliseconds: int = 1000) -> None:
        """Let time pass."""
        self.now += milliseconds

    def emit(
        self,
        job: str,
        kind: TuneEventKind,
        *,
        text: str = "",
        step: int = 0,
        steps: int = 0,
        measures: Mapping[str, float] | None = None,
    ) -> TuneEvent:
        """Something is heard of a job."""
        events = self._events[job]
        event = TuneEvent(
            number=len(events) + 1,
            at=self.now,
            kind=kind,
            text=text,
            step=step,
            steps=steps,
            measures=dict(measures or {}),
        )
        events.append(event)
        return event

    def move(self, job: str, state: JobState, *, message: str = "", code: str = "") -> TuneJob:
        """Put a job into a state; SUCCEEDED gives it a model to chat with, and its tokens."""
        done = state is JobState.SUCCEEDED
        before = self._job(job)
        self._jobs[job] = dataclasses.replace(
            before,
            state=state,
            message=message,
            code=code,
            finished_at=self.now if state in ENDED else None,
            tuned_model=f"ft:{before.model}:{job[:16]}" if done else None,
            trained_tokens=4096 if done else None,
        )
        self.emit(job, TuneEventKind.STATE, text=state.value)
        return self._jobs[job]

    def advance(self, job: str) -> TuneJob:
        """One state on in the usual course; RUNNING brings two measures and a checkpoint."""
        state = COURSE[COURSE.index(self._job(job).state) + 1]
        self.tick()
        moved = self.move(job, state)
        if state is JobState.RUNNING:
            for step, loss in ((1, 2.5), (2, 1.25)):
                self.emit(job, TuneEventKind.MEASURE, step=step, steps=2, measures={"loss": loss})
            self.emit(job, TuneEventKind.CHECKPOINT, step=2, steps=2)
        return moved

    def finish(self, job: str) -> TuneJob:
        """All the way to SUCCEEDED."""
        while self._job(job).state is not JobState.SUCCEEDED:
            self.advance(job)
        return self._job(job)

    def _file(self, file: str) -> tuple[StoredFile, bytes]:
        if file not in self._files:
            raise NotFoundError(f"no file {file}")
        return self._files[file]

    def _job(self, job: str) -> TuneJob:
        if job not in self._jobs:
            raise NotFoundError(f"no job {job}")
        return self._jobs[job]


def _read(path: Path) -> tuple[int, bytes]:
    return count_rows(path), path.read_bytes()
