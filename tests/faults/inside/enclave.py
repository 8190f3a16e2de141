"""An enclave in this process: the shipped session, vault and sealing, and a trainer that hashes.

- Its door keeps the shipped rules: what was not sent goes on the next connection, with the last few
  that were (`Outbox`), and ids that came before are dropped (`Seen`).
- The trainer's state after a step is the SHA-256 of the state before it; it begins with that of the
  decrypted inputs. So the adapter's digest is right only if every input and every checkpoint was
  opened, and no step was left out or done twice.
- It dies with its chip, or by a crash: then everything of it is gone.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from enclave_runtime.__main__ import EXIT_OF
from enclave_runtime.actions import (
    Action,
    Closed,
    Committed,
    GotKeys,
    MayRun,
    NeedEvidence,
    NeedManifest,
    OutputsGranted,
    Send,
    Stopping,
)
from enclave_runtime.briefing import Brief, check_briefing
from enclave_runtime.egress import ProgressLog
from enclave_runtime.sealed import fetch_content, fetch_manifest, seal_and_store
from enclave_runtime.session import Session
from enclave_runtime.transport import AGENT, BlobError, Frame, FrameReader, Outbox, Seen
from enclave_runtime.vault import Moment, Vault
from provider_agent.frames import BlobRead, BlobWrite
from tests.faults.inside.points import AFTER, BEFORE, Points
from trust.artifacts import ArtifactKind, Manifest
from trust.encoding import digest
from trust.errors import BlindhostError
from trust.identity import PartyKey, Signed
from trust.jobs import InputRole, LaunchDocument
from trust.messages import (
    Briefing,
    CheckpointAt,
    End,
    ProgressEvent,
    ScopeKind,
    Statement,
    parse_message,
)
from trust.sealing import HpkePrivateKey

CLASS: Final = "cpu/x86"
KILLED: Final = 137
ENCLAVE: Final = "enclave"


class DoorShutError(Exception):
    """Nobody serves the blob port just now: the same job is done again later."""


class EnclaveGoneError(Exception):
    """The enclave died while it did something."""


class Attest(Protocol):
    """The chip, as its enclave knows it."""

    def report(self, lease: str, report_data: bytes) -> bytes:
        """The hardware's report. Raises EnclaveGoneError if the chip dies of it."""


class BlobServer(Protocol):
    """An agent at the blob port."""

    async def serve_blob(self, request: BlobRead | BlobWrite) -> bytes:
        """The answer as it stands on the wire. Raises DoorShutError if the agent goes."""


class Door:
    """Both ports, without sockets: an agent takes and hands frames, and answers blob requests."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self.inbox: deque[Frame] = deque()
        self.killed = False
        """The enclave died of a frame that it was sending."""
        self._outbox, self._seen = Outbox(), Seen()
        self._cursor = 0
        self.agent: BlobServer | None = None

    # --- the agent's side ------------------------------------------------------------------------

    def dial(self, agent: BlobServer) -> None:
        """A new connection takes the old one's place."""
        self.agent, self._cursor = agent, self._outbox.resume()

    def hang_up(self, agent: BlobServer) -> None:
        """A connection ends; another one may be there already."""
        if self.agent is agent:
            self.agent = None

    def take(self) -> Frame | None:
        """The next frame for the agent; None: there is none, or the enclave died of it."""
        found = None if self.killed else self._outbox.after(self._cursor)
        if found is None:
            return None
        how = self._points.hit(ENCLAVE, "frame")
        self.killed = how is not None
        if how == BEFORE:
            return None
        self._cursor, data = found
        self._outbox.sent(self._cursor)
        (frame,) = FrameReader().feed(data)
        return frame

    def hand(self, frame: Frame) -> None:
        """A frame arrives."""
        if frame.id not in self._seen:
            self._seen.add(frame.id)
            self.inbox.append(frame)

    # --- the enclave's side ----------------------------------------------------------------------

    def send(self, peer: bytes, payload: bytes) -> None:
        """Queue a message to a peer's box."""
        self._outbox.put(Frame(peer=peer, id=os.urandom(16), payload=payload))

    @property
    def backlog(self) -> int:
        """Messages that nobody has taken."""
        return self._outbox.waiting

    async def read_blob(self, sha256: bytes, length: int) -> bytes:
        """As the door's. Raises BlobError or DoorShutError."""
        content = await self._ask(BlobRead(digest=sha256, offset=0, length=length))
        if digest(content) != sha256:
            raise BlobError(f"the host gave another blob than {sha256.hex()}")
        return content

    async def write_blob(self, content: bytes) -> bytes:
        """As the door's. Raises BlobError or DoorShutError."""
        sha256 = digest(content)
        await self._ask(BlobWrite(digest=sha256, content=content))
        return sha256

    async def _ask(self, request: BlobRead | BlobWrite) -> bytes:
        if self.agent is None:
            raise DoorShutError
        how = self._points.hit(ENCLAVE, "blob")
        if how == BEFORE:
            self.killed = True
            raise EnclaveGoneError
        answer = await self.agent.serve_blob(request)
        if how == AFTER:
            self.killed = True
            raise EnclaveGoneError
        status, content = answer[0], answer[5:]
        if status == 1:
            raise BlobError(f"blob {request.digest.hex()}: the host says that it is not found")
        if status == 2:
            raise DoorShutError
        return content


Job = Callable[[], Awaitable[list[Action]]]


class Enclave:
    """One launch of one lease. `turn` does what there is to do now."""

    def __init__(
        self, launch: LaunchDocument, *, chip: Attest, points: Points, clock: Callable[[], int]
    ) -> None:
        self.launch, self._chip, self._clock = launch, chip, clock
        self._booted_at = clock()
        self.door = Door(points)
        self.exit: int | None = None
        self.end: End | None = None
        self.text = ""
        """Why the run stopped, in the session's words."""
        self._session: Session | None = None
        self._jobs: deque[Job] = deque()
        self._signing, self._hpke = PartyKey.generate(), HpkePrivateKey.generate()
        self.vault = Vault()
        self.keys_seen = 0
        """Shares that were in the vault at once, at most."""
        self._begun = self._stopping = False
        self._state, self._step, self._until = b"", 0, 0
        self._adapter: bytes | None = None
        self._made: list[Signed[Manifest]] = []

    @property
    def signing_key(self) -> bytes:
        """The attested key."""
        return self._signing.identity

    @property
    def state(self) -> str:
        """How far the session is, for people and tests."""
        return "boots" if self._session is None else self._session.state.value

    def kill(self) -> None:
        """SIGKILL."""
        if self.exit is None:
            self.exit = KILLED
        self.vault.erase()

    @property
    def _now(self) -> int:
        return self._clock() - self._booted_at

    async def turn(self) -> None:
        """Read what came, look at the clock, do what waits, train one step."""
        if self.door.killed:
            self.kill()
        if self.exit is not None:
            return
        try:
            await self._turn()
        except EnclaveGoneError:
            self.kill()

    async def _turn(self) -> None:
        while self.door.inbox:
            frame = self.door.inbox.popleft()
            if self._session is None:
                self._boot(frame)
            elif frame.peer != AGENT:
                self._apply(self._session.receive(frame.peer, frame.payload, self._now))
        if self._session is None:
            return
        self._apply(self._session.tick(self._now))
        await self._work_off()
        if self._begun and not self._stopping and not self._jobs and self._step < self._until:
            self._train()
            await self._work_off()
        self.keys_seen = max(self.keys_seen, len(self.vault))
        if self.end is not None and not self.door.backlog:
            self.vault.erase()
            self.exit = EXIT_OF[self.end]

    def _boot(self, frame: Frame) -> None:
        if frame.peer != AGENT:
            return
        briefing = parse_message(frame.payload)
        assert isinstance(briefing, Briefing)
        self._brief: Brief = check_briefing(self.launch, briefing)
        self._session = Session(
            self._brief,
            hpke_key=self._hpke,
            signing_key=self._signing,
            vault=self.vault,
            compute_class=CLASS,
            same_class=True,
        )
        self._log = ProgressLog(
            job=self._brief.job.document,
            generation=self.launch.generation,
            rank=self.launch.rank,
            signing_key=self._signing,
        )
        self._apply(self._session.start(self._now))

    async def _work_off(self) -> None:
        """Do the jobs in their order; one that finds the door shut stays, and is done again."""
        assert self._session is not None
        while self._jobs:
            try:
                actions = await self._jobs[0]()
            except DoorShutError:
                return
            except BlindhostError as error:
                actions = self._session.end(End.FAILED, str(error), self._now)
            if self._jobs:
                self._jobs.popleft()
            self._apply(actions)

    # --- what follows ----------------------------------------------------------------------------

    def _apply(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(peer=peer, payload=payload):
                    self.door.send(peer, payload)
                case MayRun(until=until):
                    self._until = until
                case Committed(step=step):
                    self._tell(ProgressEvent.CHECKPOINT, text=f"committed at step {step}")
                case Stopping(end=end, text=text):
                    self._stop(end, text)
                case Closed(end=end):
                    self.end = end
                case NeedEvidence(statement=statement):
                    self._do(lambda each=statement: self._attest(each))
                case NeedManifest(artifact=artifact):
                    self._do(lambda each=artifact: self._fetch(each))
                case GotKeys(at=at, manifest=manifest):
                    self._do(lambda at=at, manifest=manifest: self._load(at, manifest))
                case OutputsGranted():
                    self._do(self._reopen)
                case _:
                    pass

    def _do(self, job: Job) -> None:
        self._jobs.append(job)

    def _stop(self, end: End, text: str) -> None:
        self._stopping, self.text = True, text
        if end is not End.DONE:
            self._tell(ProgressEvent.FAILED, text=text)
        self.vault.erase()
        self._jobs.clear()

    def _tell(
        self,
        event: ProgressEvent,
        *,
        text: str = "",
        tensors: bytes | None = None,
        resumed_from: CheckpointAt | None = None,
    ) -> None:
        assert self._session is not None
        record = self._log.record(
            event,
            step=self._session.step,
            tokens=self._session.trained_tokens,
            milliseconds=self._session.milliseconds(self._now),
            text=text,
            tensors=tensors,
            resumed_from=resumed_from,
        )
        self.door.send(self._brief.job.document.buyer, record)

    # --- jobs ------------------------------------------------------------------------------------

    async def _attest(self, statement: Statement) -> list[Action]:
        assert self._session is not None
        report = self._chip.report(self.launch.lease, statement.report_data)
        return self._session.evidence_ready(
            statement, platform="sev-snp", report=report, clock_ms=self._now
        )

    async def _fetch(self, artifact: bytes) -> list[Action]:
        assert self._session is not None
        return self._session.manifest_ready(await fetch_manifest(self.door, artifact), self._now)

    async def _load(self, at: CheckpointAt | None, manifest: Manifest | None) -> list[Action]:
        """Decrypt the inputs, and the stated checkpoint in their place."""
        assert self._session is not None
        inputs = {}
        for each, signed in zip(self._brief.job.document.inputs, self._brief.inputs, strict=True):
            key = self.vault.key(ScopeKind.INPUT, signed.document.core)
            inputs[each.role] = await fetch_content(self.door, signed.document, key)
        self._state = first_state(inputs[InputRole.MODEL], inputs[InputRole.DATASET])
        if at is not None:
            assert manifest is not None
            key = self.vault.key(ScopeKind.DERIVED, manifest.core)
            content = await fetch_content(self.door, manifest, key)
            step, self._state = int.from_bytes(content[:4], "big"), content[4:]
            assert step == at.step, "a checkpoint of another step than the custodians state"
            self._step = self._until = step
        self.vault.forget(Moment.FILLED)
        self.vault.forget(Moment.BEGUN)
        self._begun = True
        actions = self._session.begun(same_class=True, clock_ms=self._now)
        self._tell(ProgressEvent.STARTED, resumed_from=at)
        if self._step == self._brief.job.document.steps:  # the checkpoint was the last one
            self._finish()
        return actions

    def _train(self) -> None:
        assert self._session is not None
        job = self._brief.job.document
        self._step += 1
        self._state = next_state(self._state)
        self._apply(self._session.stepped(self._step, self._now))
        if self._step % job.checkpoint_steps == 0:
            step, content = self._step, self._step.to_bytes(4, "big") + self._state
            self._do(lambda: self._keep_checkpoint(step, content))
        if self._step == job.steps:
            self._finish()

    def _finish(self) -> None:
        self._adapter = self._state
        self._do(self._keep_adapter)

    async def _keep_checkpoint(self, step: int, content: bytes) -> list[Action]:
        assert self._session is not None
        signed = await self._store(ArtifactKind.CHECKPOINT, content)
        return self._session.checkpoint_stored(step, signed, self._now)

    async def _keep_adapter(self) -> list[Action]:
        assert self._session is not None
        assert self._adapter is not None
        self._made = [await self._store(ArtifactKind.ADAPTER, self._adapter)]
        return self._session.outputs_stored(self._made, self._now)

    async def _store(self, kind: ArtifactKind, content: bytes) -> Signed[Manifest]:
        return await seal_and_store(
            self.door, self._brief, self.vault, self._signing, kind=kind, content=content
        )

    async def _reopen(self) -> list[Action]:
        assert self._session is not None
        assert self._adapter is not None
        for signed in self._made:
            key = self.vault.key(ScopeKind.DERIVED, signed.document.core)
            assert await fetch_content(self.door, signed.document, key) == self._adapter
        self._tell(ProgressEvent.FINISHED, tensors=digest(self._adapter))
        return self._session.reopened(self._now)


def first_state(weights: bytes, rows: bytes) -> bytes:
    """What the trainer begins with."""
    return hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(rows).digest()).digest()


def next_state(state: bytes) -> bytes:
    """One step."""
    return hashlib.sha256(state).digest()


def trained(weights: bytes, rows: bytes, steps: int) -> bytes:
    """The adapter of a whole job, made without any enclave."""
    state = first_state(weights, rows)
    for _ in range(steps):
        state = next_state(state)
    return state
