"""One run, from boot to exit: the shell that joins door, session, work and egress.

The order is the argument:
(1) Two fresh keys, in memory alone. (2) The agent's briefing proves itself against the measured
launch document. (3) The terms allow the job. (4) Public files come by digest. (5) The work is
prepared: every child is forked before a key exists and before a thread does. (6) Evidence for each
verifier, over these two keys; then grants. (7) Inputs are decrypted in memory, and their shares
forgotten. (8) The stated checkpoint, if there is one, is opened and checked. (9) The work runs
within `MayRun`; what it makes is sealed before it leaves. (10) Outputs are reopened with the shares
that are given again. (11) The last receipt, the closing accounts, and everything is forgotten, as
it is on every other way out.

Nothing is decided here that `Session` or `Reports` could decide: this file does what they say.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import enum
import hmac
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar

from enclave_runtime.actions import (
    Action,
    Closed,
    Committed,
    GotKeys,
    Ignored,
    MayRun,
    NeedEvidence,
    NeedManifest,
    OutputsGranted,
    Send,
    ServeAsked,
    ServeCancelled,
    Stopping,
    Waiting,
)
from enclave_runtime.attester import Attester, Shown, ask
from enclave_runtime.briefing import Brief, check_briefing
from enclave_runtime.egress import ProgressLog, Reports, check_terms
from enclave_runtime.sealed import (
    checkpoint_class,
    fetch_content,
    fetch_manifest,
    fetch_opener,
    fetch_public_files,
    seal_and_store,
    segment_bytes,
)
from enclave_runtime.serve_desk import Asked, ServeDesk
from enclave_runtime.session import Session
from enclave_runtime.transport import AGENT, Clock, Door, Frame
from enclave_runtime.vault import Moment, Vault
from enclave_runtime.work import (
    CheckpointReady,
    Evaluated,
    Failed,
    Finished,
    Generated,
    Ready,
    RowError,
    Stepped,
    WorkEvent,
)
from trust.artifacts import ArtifactKind, ArtifactOpener, Manifest
from trust.errors import BlindhostError, RefusedError, SessionError
from trust.identity import PartyKey, Signed
from trust.jobs import InputRole, JobKind, JobManifest, LaunchDocument
from trust.messages import (
    Briefing,
    CheckpointAt,
    End,
    Measure,
    ProgressEvent,
    ScopeKind,
    Statement,
    parse_message,
)
from trust.sealing import HpkePrivateKey
from trust.serving import GenerateRequest

T = TypeVar("T")

TICK_SECONDS: Final = 1.0  # how often the session looks at the clock
FLUSH_SECONDS_MAX: Final = 5.0  # for the last messages to reach an agent that is there


class Work(Protocol):
    """`enclave_runtime.work.Work`, as far as a run uses it."""

    @property
    def compute_class(self) -> str: ...  # noqa: D102
    def fill(  # noqa: D102
        self, role: InputRole, opener: ArtifactOpener, read: Callable[[int], bytes]
    ) -> None: ...
    def begin(self, checkpoint: bytes | None) -> None: ...  # noqa: D102
    def allow_until(self, step: int) -> None: ...  # noqa: D102
    def fileno(self) -> int: ...  # noqa: D102
    def events(self) -> list[WorkEvent]: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def prompt(self, request: GenerateRequest) -> bytes: ...  # noqa: D102
    def decode(self, ids: bytes) -> str: ...  # noqa: D102
    def ask(self, asked: Asked) -> None: ...  # noqa: D102
    def cancel(self, handle: int) -> None: ...  # noqa: D102


class Prepare(Protocol):
    """`enclave_runtime.work.Work.prepare`."""

    def __call__(  # noqa: D102
        self,
        job: JobManifest,
        manifests: Mapping[InputRole, Manifest],
        public_files: Mapping[str, bytes],
        *,
        generation: int,
    ) -> Work: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """The work has its inputs and its checkpoint."""

    same_class: bool
    """On the class that the manifest and the checkpoint say."""


class _Now(enum.Enum):
    TICK = "tick"
    WORK = "work"


Happening = Frame | _Now | Callable[[], list[Action]]


async def run(
    *, launch: LaunchDocument, attester: Attester, door: Door, clock: Clock, prepare: Prepare
) -> End:
    """Serve one lease, then forget. Returns how the run ended.

    Raises BlindhostError where it cannot begin, DoorShutError if the host is gone.
    """
    signing_key, hpke_key, vault = PartyKey.generate(), HpkePrivateKey.generate(), Vault()  # (1)
    watch = asyncio.create_task(door.watch())
    try:
        brief = await _unless(watch, _await_briefing(launch, door))  # (2)
        job = brief.job.document
        check_terms(job, brief.terms.document)  # (3)
        files = await _unless(watch, fetch_public_files(door, brief))  # (4)
        work = prepare(job, brief.manifests, files, generation=launch.generation)  # (5)
        session = Session(
            brief,
            hpke_key=hpke_key,
            signing_key=signing_key,
            vault=vault,
            compute_class=work.compute_class,
            same_class=_check_class(job, work.compute_class),
        )
        shell = _Run(brief, session, vault, signing_key, work, attester, door, clock)
        return await _unless(watch, shell.serve())  # (6) to (11)
    finally:
        vault.erase()
        await _cancel(watch)


def _check_class(job: JobManifest, own: str) -> bool:
    """Whether this is the manifest's class. Raises RefusedError where it must be and is not."""
    same = job.compute_class in (None, own)
    if not same and not job.resume_on_other_class:
        text = f"this enclave is of class {own!r}, the job wants {job.compute_class!r}"
        raise RefusedError("compute-class", text)
    return same


async def _await_briefing(launch: LaunchDocument, door: Door) -> Brief:
    """The agent's first message; whatever else comes before it is dropped."""
    while True:
        frame = await door.inbox.get()
        if frame.peer == AGENT:
            briefing = parse_message(frame.payload)
            if not isinstance(briefing, Briefing):
                raise SessionError(f"{type(briefing).__name__} from the agent, wanted a briefing")
            return check_briefing(launch, briefing)


async def _unless(watch: asyncio.Task[NoReturn], wanted: Coroutine[Any, Any, T]) -> T:
    """What `wanted` returns, unless the door stays shut first. Raises DoorShutError."""
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((watch, task), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else watch.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))


class _Run:
    """What happens, one thing at a time: a frame, a tick, the work, or the end of a job of ours."""

    def __init__(
        self,
        brief: Brief,
        session: Session,
        vault: Vault,
        signing_key: PartyKey,
        work: Work,
        attester: Attester,
        door: Door,
        clock: Clock,
    ) -> None:
        self._brief, self._session, self._vault = brief, session, vault
        self._signing, self._work, self._attester = signing_key, work, attester
        self._door, self._clock = door, clock
        job = self._job = brief.job.document
        self._reports = Reports(job, brief.terms.document)
        self._log = ProgressLog(
            job=job,
            generation=brief.launch.generation,
            rank=brief.launch.rank,
            signing_key=signing_key,
        )
        self._todo: asyncio.Queue[Happening] = asyncio.Queue()
        self._frame_turn = asyncio.Semaphore(1)  # one frame waits here, the others in the inbox
        self._work_readable = asyncio.Event()
        self._sealing = asyncio.Lock()  # in the order in which the work made things
        self._jobs: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._thread: asyncio.Future[Any] | None = None
        self._turn = asyncio.Lock()  # of whatever is done inside the work, in a thread
        self._reading: concurrent.futures.Future[bytes] | None = None
        self._outputs: list[Signed[Manifest]] = []
        self._made: Finished | None = None
        self._events: list[WorkEvent] = []  # that came before the work was known to have begun
        self._begun = self._stopping = self._released = False
        self._closed: End | None = None
        self._desk: ServeDesk | None = None
        if session.serving is not None:
            self._desk = ServeDesk(
                session.serving,
                session,
                work,
                door,
                clock,
                aside=self._inside,
                do=self._do,
                fail=self._fail,
            )

    async def serve(self) -> End:
        """From the first hello to `Closed`."""
        loop = asyncio.get_running_loop()
        pumps = [
            asyncio.create_task(each) for each in (self._frames(), self._ticks(), self._wakes())
        ]
        if self._desk is not None:
            pumps.append(asyncio.create_task(self._serve_ticks(self._desk)))
        loop.add_reader(self._work.fileno(), self._wake)
        try:
            self._apply(self._session.start(self._clock.now_ms()))
            while self._closed is None:
                self._apply(self._take(await self._todo.get()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS_MAX):
                    await self._door.flushed()
            return self._closed
        finally:
            self._stopping = True
            await _cancel(*pumps, *self._jobs)
            await self._release_work()

    # --- what happens ----------------------------------------------------------------------------

    async def _frames(self) -> None:
        while True:
            frame = await self._door.inbox.get()
            await self._frame_turn.acquire()
            self._todo.put_nowait(frame)

    async def _ticks(self) -> None:
        while True:
            await self._clock.sleep(TICK_SECONDS)
            self._todo.put_nowait(_Now.TICK)

    async def _serve_ticks(self, desk: ServeDesk) -> None:
        while True:
            await self._clock.sleep(desk.tick_seconds)
            self._todo.put_nowait(desk.tick)

    async def _wakes(self) -> None:
        while True:
            await self._work_readable.wait()
            self._work_readable.clear()
            self._todo.put_nowait(_Now.WORK)

    def _wake(self) -> None:
        # Readable until `events` is called: heard once, and again after that.
        asyncio.get_running_loop().remove_reader(self._work.fileno())
        self._work_readable.set()

    def _do(
        self,
        job: Coroutine[Any, Any, T],
        then: Callable[[T], list[Action]],
        broken: Callable[[Exception], list[Action]],
    ) -> None:
        """Do a job of ours beside everything else; what follows from it happens in its turn."""

        async def outcome() -> None:
            try:
                result = await job
            except (BlindhostError, RowError) as error:
                self._todo.put_nowait(partial(broken, error))
            else:
                self._todo.put_nowait(partial(then, result))

        task = asyncio.create_task(outcome())
        self._jobs.add(task)
        task.add_done_callback(partial(self._job_ended, job))

    def _job_ended(self, job: Coroutine[Any, Any, Any], task: asyncio.Task[None]) -> None:
        job.close()  # a task that is cancelled before its first step never awaits it
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._todo.put_nowait(partial(_raise, error))  # a mistake of ours ends the run

    def _take(self, happening: Happening) -> list[Action]:
        now = self._clock.now_ms()
        match happening:
            case Frame(peer=peer, payload=payload):
                self._frame_turn.release()
                return [] if peer == AGENT else self._session.receive(peer, payload, now)
            case _Now.TICK:
                return self._session.tick(now)
            case _Now.WORK:
                return self._take_work()
            case _:
                return happening()

    def _take_work(self) -> list[Action]:
        if self._stopping:
            return []
        events = self._work.events()
        over = any(isinstance(event, Finished | Failed) for event in events)
        if not over:  # after its last event the work stays readable, and says nothing more
            asyncio.get_running_loop().add_reader(self._work.fileno(), self._wake)
        self._events += events
        if self._begun or any(isinstance(event, Failed) for event in events):
            return self._take_events()
        return []  # the work may be faster than the news that it has begun

    def _take_events(self) -> list[Action]:
        events, self._events = self._events, []
        return [action for event in events for action in self._take_event(event)]

    def _take_event(self, event: WorkEvent) -> list[Action]:
        now, session = self._clock.now_ms(), self._session
        match event:
            case Ready():
                return []
            case Evaluated():
                session.evaluated()
                measures = self._reports.take_evaluation(event, session.reports_left)
                self._tell(ProgressEvent.EVALUATED, measures)
                return session.reported(len(measures), now)
            case Stepped():
                return self._take_step(event)
            case CheckpointReady():
                self._do(
                    self._store(ArtifactKind.CHECKPOINT, event.content),
                    partial(self._checkpoint_stored, event.step),
                    self._fail,
                )
                return []
            case Finished():
                return self._take_finished(event)
            case Generated():
                return [] if self._desk is None else self._desk.generated(event)
            case Failed():
                return session.end(End.FAILED, event.text, now)

    def _take_step(self, event: Stepped) -> list[Action]:
        now, session = self._clock.now_ms(), self._session
        actions = session.stepped(event.step, now)
        self._reports.stepped(event.loss, event.tokens, event.rows)
        if self._reports.is_due(event.step):
            measures = self._reports.take_loss(session.reports_left)
            self._tell(ProgressEvent.STEP, measures)
            actions += session.reported(len(measures), now)
        return actions

    def _take_finished(self, event: Finished) -> list[Action]:
        self._made = event
        if self._job.kind is JobKind.EVALUATE:
            return self._session.outputs_stored((), self._clock.now_ms())
        self._do(self._store(ArtifactKind.ADAPTER, event.adapter), self._outputs_stored, self._fail)
        return []

    def _checkpoint_stored(self, step: int, manifest: Signed[Manifest]) -> list[Action]:
        return self._session.checkpoint_stored(step, manifest, self._clock.now_ms())

    def _outputs_stored(self, manifest: Signed[Manifest]) -> list[Action]:
        self._outputs.append(manifest)
        return self._session.outputs_stored(self._outputs, self._clock.now_ms())

    def _fail(self, error: Exception) -> list[Action]:
        return self._session.end(End.FAILED, str(error), self._clock.now_ms())

    # --- what follows ----------------------------------------------------------------------------

    def _apply(self, actions: list[Action]) -> None:
        for action in actions:
            self._apply_one(action)

    def _apply_one(self, action: Action) -> None:
        match action:
            case Send(peer=peer, payload=payload):
                self._door.send(peer, payload)
            case MayRun(until=until):
                if not self._stopping:
                    self._work.allow_until(until)
            case Committed(step=step):
                self._tell(ProgressEvent.CHECKPOINT, text=f"committed at step {step}")
            case Waiting(peer=peer, what=what):
                self._tell(ProgressEvent.STEP, text=f"waiting for {what}: {peer.hex()}")
            case Stopping(end=end, text=text):
                self._stop(end, text)
            case Closed(end=end):
                self._closed = end
            case ServeAsked(client=client, request=request):
                assert self._desk is not None
                self._apply(self._desk.asked(client, request))
            case ServeCancelled(client=client, exchange=exchange):
                assert self._desk is not None
                self._apply(self._desk.cancelled(client, exchange))
            case Ignored():
                pass  # it changed nothing, and its text came from outside
            case NeedEvidence() | NeedManifest() | GotKeys() | OutputsGranted():
                self._begin_job(action)

    def _begin_job(self, action: NeedEvidence | NeedManifest | GotKeys | OutputsGranted) -> None:
        match action:
            case NeedEvidence(statement=statement):
                self._do(self._attest(statement), partial(self._attested, statement), self._fail)
            case NeedManifest(artifact=artifact):
                self._do(fetch_manifest(self._door, artifact), self._manifest_fetched, self._fail)
            case GotKeys(at=at, manifest=manifest):
                self._do(self._load(at, manifest), partial(self._loaded, at), self._fail)
            case OutputsGranted():
                self._do(self._reopen(), self._reopened, self._fail)

    def _tell(
        self,
        event: ProgressEvent,
        measures: tuple[Measure, ...] = (),
        *,
        text: str = "",
        tensors: bytes | None = None,
        resumed_from: CheckpointAt | None = None,
    ) -> None:
        """A record to the buyer, sealed."""
        record = self._log.record(
            event,
            step=self._session.step,
            tokens=self._session.trained_tokens,
            milliseconds=self._session.milliseconds(self._clock.now_ms()),
            measures=measures,
            text=text,
            tensors=tensors,
            resumed_from=resumed_from,
        )
        self._door.send(self._job.buyer, record)

    def _stop(self, end: End, text: str) -> None:
        """Stop the work and forget the keys; what is left to say needs neither."""
        self._stopping = True
        if end is not End.DONE:
            self._tell(ProgressEvent.FAILED, text=text)
        elif self._desk is not None:
            self._tell(ProgressEvent.FINISHED, text=text)
        self._vault.erase()
        self._made = None
        self._events.clear()
        for job in self._jobs:
            job.cancel()
        self._do(self._release_work(), _nothing, self._fail)

    async def _release_work(self) -> None:
        """Stop the work once nothing of ours is inside it. May be called again."""
        if self._reading is not None:
            self._reading.cancel()
        if self._thread is not None:
            await asyncio.wait((self._thread,))
            with contextlib.suppress(asyncio.CancelledError):
                self._thread.exception()  # whoever waited for it has heard, or is gone
        if not self._released:
            self._released = True
            asyncio.get_running_loop().remove_reader(self._work.fileno())
            self._work.stop()

    # --- jobs ------------------------------------------------------------------------------------

    async def _attest(self, statement: Statement) -> Shown:
        return await asyncio.to_thread(ask, self._attester, statement)

    def _attested(self, statement: Statement, shown: Shown) -> list[Action]:
        return self._session.evidence_ready(
            statement,
            platform=self._attester.platform,
            report=shown.report,
            gpu=shown.gpu,
            offered=shown.offered,
            clock_ms=self._clock.now_ms(),
        )

    def _manifest_fetched(self, manifest: Manifest) -> list[Action]:
        return self._session.manifest_ready(manifest, self._clock.now_ms())

    async def _load(self, at: CheckpointAt | None, manifest: Manifest | None) -> _Loaded:
        """Let the GPUs work, fill the inputs, open the checkpoint, begin the work."""
        # Every custodian has granted, and so has found the GPUs' evidence good.
        await asyncio.to_thread(self._attester.set_ready)
        for each, signed in zip(self._job.inputs, self._brief.inputs, strict=True):
            role, source = each.role, signed.document
            scope = ScopeKind.INPUT if source.core.origin is None else ScopeKind.DERIVED
            key = self._vault.key(scope, source.core)
            opener = await fetch_opener(self._door, source, key)
            try:
                await self._inside(
                    partial(self._work.fill, role, opener, partial(self._read, source, opener))
                )
            except RowError as error:
                raise RefusedError("row", f"{role.value}: {error}") from error
        self._vault.forget(Moment.FILLED)
        job, own = self._job, self._work.compute_class
        same, content = job.compute_class in (None, own), None
        if at is not None:
            assert manifest is not None
            key = self._vault.key(ScopeKind.DERIVED, manifest.core)
            content = await fetch_content(self._door, manifest, key)
            found = checkpoint_class(content, job=self._brief.launch.job, at=at)
            if found != own and not job.resume_on_other_class:
                text = f"the checkpoint is of class {found!r}, this enclave of {own!r}"
                raise RefusedError("compute-class", text)
            same = same and found == own
        self._vault.forget(Moment.BEGUN)
        await self._inside(partial(self._work.begin, content))
        return _Loaded(same_class=same)

    async def _inside(self, call: Callable[[], T]) -> T:
        """Call the work in a thread, one at a time, so that the door is served meanwhile."""
        async with self._turn:
            if self._stopping:
                raise SessionError("the run is over")
            self._thread = thread = asyncio.get_running_loop().run_in_executor(None, call)
            return await asyncio.shield(thread)

    def _read(self, source: Manifest, opener: ArtifactOpener, index: int) -> bytes:
        """Fetch one segment from the thread in which the work is filled."""
        if self._stopping:
            raise SessionError("the run is over")
        wanted = self._door.read_blob(opener.list[index], segment_bytes(source, index))
        self._reading = asyncio.run_coroutine_threadsafe(wanted, self._loop)
        return self._reading.result()

    def _loaded(self, at: CheckpointAt | None, loaded: _Loaded) -> list[Action]:
        if self._stopping:
            return []
        self._begun = True
        actions = self._session.begun(same_class=loaded.same_class, clock_ms=self._clock.now_ms())
        self._tell(ProgressEvent.STARTED, resumed_from=at)
        return actions + self._take_events()

    async def _store(self, kind: ArtifactKind, content: bytes) -> Signed[Manifest]:
        async with self._sealing:
            return await seal_and_store(
                self._door, self._brief, self._vault, self._signing, kind=kind, content=content
            )

    async def _reopen(self) -> None:
        """Open what was stored, with the shares that were given again, and compare."""
        for signed in self._outputs:
            manifest = signed.document
            key = self._vault.key(ScopeKind.DERIVED, manifest.core)
            content = await fetch_content(self._door, manifest, key)
            if self._made is None or not hmac.compare_digest(content, self._made.adapter):
                raise SessionError("an output reopens as something else")

    def _reopened(self, _nothing_more: None) -> list[Action]:
        if self._stopping:
            return []
        assert self._made is not None
        trains = self._job.kind is JobKind.TRAIN
        self._tell(ProgressEvent.FINISHED, tensors=self._made.tensors_digest if trains else None)
        return self._session.reopened(self._clock.now_ms())


def _nothing(_result: None) -> list[Action]:
    return []


def _raise(error: BaseException) -> NoReturn:
    raise error


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
