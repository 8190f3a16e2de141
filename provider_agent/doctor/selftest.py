"""``selftest``: boots what the platform offers, and is its own buyer, owner and market.

The order, for the simulated platform:
(1) Measure the runtime. (2) Find the chip, or start it. (3) Launch an enclave by the agent's own
launcher, with a job of this host's own. (4) Dial its door, brief it, and answer its hello by a
challenge. (5) Verify its evidence by the verifier that buyers use, under this chip's root, and that
it answers *this* challenge. (6) Then, and only then, grant the keys: the enclave fetches and opens
the sealed weights, which is timed, and signs a first receipt under the key that was attested.
(7) Stop it; nothing may be left.

Nothing is decided here: this collects `Facts`, and `selftest_rows` judges them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import socket
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provider_agent import unix_sockets
from provider_agent.chip_wire import ChipView, EnclaveView
from provider_agent.doctor.check import Check
from provider_agent.doctor.context import Context
from provider_agent.doctor.engine import make_checks
from provider_agent.doctor.probe import MappingProbe
from provider_agent.doctor.selftest_job import SelftestJob, make_job
from provider_agent.doctor.selftest_rows import Facts, Step, make_rows, why_absent
from provider_agent.doctor.view import HostView, UnreadError
from provider_agent.errors import AgentError, DoorError, LaunchError
from provider_agent.frames import (
    AGENT,
    BlobRead,
    BlobStatus,
    Frame,
    blob_answer,
    read_blob_request,
    read_frame,
)
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT, Chip, Launcher
from provider_agent.runtime_image import find_runtime, measure_runtime
from provider_agent.unix_sockets import Stream
from trust.encoding import labelled_digest
from trust.errors import BlindhostError, SessionError
from trust.identity import verify_signed
from trust.messages import (
    Challenge,
    EvidenceBundle,
    Hello,
    Metered,
    MeterRequest,
    Purpose,
    Receipt,
    ReceiptPosted,
    ReleaseRequest,
    SignedMessage,
    Statement,
    parse_message,
    signed_label,
)
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.results import AttestationResult

SIMULATED: Final = "simulated"
CHIP_FOLDER: Final = "chip"
WEIGHTS_BYTES: Final = 32 << 20
BOOT_SECONDS_MAX: Final = 180.0  # two cores and a cold disk import torch in a minute
OPEN_SECONDS_MAX: Final = 120.0
DIAL_SECONDS: Final = 0.2
GONE_LOOKS_MAX: Final = 200
GONE_PAUSE_SECONDS: Final = 0.05
CHALLENGES_MAX: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a selftest is given."""

    home: Path
    """Of the agent: its chip is in it."""
    platform: str
    runtime: Path | None
    """None: the installed one."""
    view: HostView
    now: dt.datetime
    weights_bytes: int = WEIGHTS_BYTES
    boot_seconds_max: float = BOOT_SECONDS_MAX


async def check_platform(bench: Bench) -> tuple[Check, ...]:
    """Run it; every check. Raises nothing for what the machine does: that is a check's matter."""
    facts = Facts(platform=bench.platform, absent=why_absent(bench.view, bench.platform))
    context = Context(view=bench.view, probe=MappingProbe({}), now=bench.now)
    with contextlib.suppress(UnreadError):
        facts.gpus = len(context.gpus)
    if bench.platform == SIMULATED:
        await _Test(bench, facts).run()
    return make_checks(make_rows(facts), context)


class _Test:
    """One run. Each step notes what it found, or why it could not."""

    def __init__(self, bench: Bench, facts: Facts) -> None:
        self._bench, self._facts = bench, facts
        self._home = bench.home / CHIP_FOLDER

    async def run(self) -> None:
        try:
            runtime = self._bench.runtime or find_runtime()
            self._facts.image = await asyncio.to_thread(measure_runtime, runtime)  # (1)
        except LaunchError as error:
            self._facts.failed[Step.IMAGE] = str(error)
            return
        chip, launcher = Chip(self._home, runtime=runtime), Launcher(self._home)
        ours = True
        with contextlib.suppress(LaunchError):
            await launcher.status()
            ours = False  # an agent's, which serves on
        try:
            view = await chip.find_or_start()  # (2)
        except (LaunchError, OSError) as error:
            self._facts.failed[Step.CHIP] = str(error)
            return
        try:
            self._facts.root = view.root
            await self._run_enclave(launcher, view, self._facts.image)
        finally:
            if ours:
                await chip.stop()

    async def _run_enclave(self, launcher: Launcher, chip: ChipView, image: bytes) -> None:
        milliseconds = int(self._bench.now.timestamp() * 1000)
        job = await asyncio.to_thread(
            make_job,
            measurement=image,
            weights_bytes=self._bench.weights_bytes,
            now=milliseconds,
        )
        with tempfile.TemporaryDirectory(prefix="blindhost-selftest-") as folder:
            door = Path(folder)
            begun = time.monotonic()
            try:
                enclave = await launcher.launch(job.launch.encode(), door)  # (3)
            except (AgentError, BlindhostError) as error:
                self._facts.failed[Step.BOOT] = str(error)
                return
            self._facts.measurement = enclave.measurement
            self._facts.isolation_refused = enclave.isolation.refused
            policy = simulated_policy(chip.root, [image])
            talk = _Talk(self._bench, self._facts, job, chip, policy, door, begun)
            try:
                await self._unless_it_ends(launcher, job.launch.lease, talk)
                self._facts.resident_kib = self._resident(enclave)
            finally:
                await self._stop(launcher, job.launch.lease, enclave)  # (7)

    async def _unless_it_ends(self, launcher: Launcher, lease: str, talk: _Talk) -> None:
        """Talk, until the enclave has ended by itself, or the time for it has passed."""
        ended = asyncio.create_task(launcher.wait(lease))
        talking = asyncio.create_task(talk.run())
        try:
            await asyncio.wait((ended, talking), return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                talking.result()
            elif ended.exception() is None:
                self._facts.failed.setdefault(
                    talk.step, f"the enclave ended with status {ended.result().exit}"
                )
            else:
                self._facts.failed.setdefault(talk.step, str(ended.exception()))
        finally:
            for task in (ended, talking):
                task.cancel()
            await asyncio.gather(ended, talking, return_exceptions=True)

    def _resident(self, enclave: EnclaveView) -> int | None:
        """Peak memory of the enclave's first process, KiB, as the host's kernel counts it."""
        try:
            text = self._bench.view.text(f"proc/{enclave.pid}/status", most=1 << 16)
        except UnreadError:
            return None
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        return None

    async def _stop(self, launcher: Launcher, lease: str, enclave: EnclaveView) -> None:
        try:
            await launcher.stop(lease)
            left = [each for each in (await launcher.status()).enclaves if each.lease == lease]
        except AgentError as error:
            self._facts.failed[Step.TEARDOWN] = str(error)
            return
        alive = True
        for _ in range(GONE_LOOKS_MAX):
            if not (alive := self._bench.view.exists(f"proc/{enclave.pid}")):
                break
            await asyncio.sleep(GONE_PAUSE_SECONDS)
        folder = self._home / "enclaves" / lease
        remains = [("process", alive), ("folder", folder.exists()), ("record", bool(left))]
        self._facts.left_behind = tuple(name for name, there in remains if there)


class _Talk:
    """The other end of one enclave's door."""

    def __init__(
        self,
        bench: Bench,
        facts: Facts,
        job: SelftestJob,
        chip: ChipView,
        policy: AppraisalPolicy,
        door: Path,
        begun: float,
    ) -> None:
        self._bench, self._facts, self._job = bench, facts, job
        self._chip, self._policy, self._door, self._begun = chip, policy, door, begun
        self._nonces: dict[tuple[bytes, Purpose], list[bytes]] = {}
        self._judged = asyncio.Event()
        self._opened = asyncio.Event()
        self._read: set[bytes] = set()
        self._first_read: float | None = None
        self._signing_key: bytes | None = None
        self.step = Step.BOOT

    async def run(self) -> None:
        """Until the weights are open, or something is known to be wrong."""
        pumps = [
            asyncio.create_task(self._keep(port, pump))
            for port, pump in ((MESSAGES_PORT, self._messages), (BLOBS_PORT, self._blobs))
        ]
        try:
            if await self._within(self._judged, self._bench.boot_seconds_max):
                self.step = Step.OPEN
                if self._facts.accepted:
                    await self._within(self._opened, OPEN_SECONDS_MAX)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _within(self, event: asyncio.Event, seconds: float) -> bool:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            self._facts.failed.setdefault(self.step, f"nothing after {seconds:g} s")
            return False
        return True

    async def _keep(self, port: str, pump: Any) -> None:
        """Dial until somebody listens, then pump; a breach of the framing ends the test."""
        while True:
            try:
                channel = await unix_sockets.dial(self._door, port, kind=socket.SOCK_STREAM)
            except OSError:
                await asyncio.sleep(DIAL_SECONDS)
                continue
            stream = Stream(channel)
            try:
                work: Coroutine[Any, Any, None] = pump(stream)
                await work
            except (DoorError, ConnectionError) as error:
                if isinstance(error, DoorError):
                    self._end(str(error))
                    return
            finally:
                stream.close()
            await asyncio.sleep(DIAL_SECONDS)

    def _end(self, reason: str) -> None:
        """Nothing more is expected, and why."""
        self._facts.failed.setdefault(self.step, reason)
        self._judged.set()
        self._opened.set()

    # --- messages --------------------------------------------------------------------------------

    async def _messages(self, stream: Stream) -> None:
        name = labelled_digest("door/briefing", self._job.launch.lease.encode())[:16]
        briefing = self._job.briefing(self._chip.endorsements)
        await stream.sendall(Frame(peer=AGENT, id=name, payload=briefing).encode())  # (4)
        while (frame := await read_frame(stream)) is not None:
            try:
                answer = self._answer(frame)
            except BlindhostError as error:
                self._end(str(error))
                return
            if answer is not None:
                said = Frame(peer=frame.peer, id=secrets.token_bytes(16), payload=answer)
                await stream.sendall(said.encode())

    def _answer(self, frame: Frame) -> bytes | None:
        """What this party says to that. Raises BlindhostError for what is no message of ours."""
        match parse_message(frame.payload):
            case Hello(verifier=verifier, purpose=purpose) if verifier == frame.peer:
                return self._challenge(verifier, purpose)
            case ReleaseRequest(evidence=evidence):
                statement = self._judge(evidence, frame.peer, Purpose.RELEASE)
                return None if statement is None else self._job.grant(statement)
            case MeterRequest(evidence=evidence):
                statement = self._judge(evidence, frame.peer, Purpose.METER)
                if statement is None:
                    return None
                self._signing_key = statement.signing_key
                return Metered(signing_key=statement.signing_key, nonce=statement.nonce).encode()
            case SignedMessage(signed=signed) if signed_label(signed) == Receipt.LABEL:
                return self._receipt(signed)
            case _:
                return None  # progress and questions: the run itself is not what is tested

    def _receipt(self, signed: bytes) -> bytes:
        """The first receipt says that all was opened; a last one, that the run ended early."""
        if self._signing_key is None:
            raise SessionError("a receipt before evidence")
        receipt = verify_signed(Receipt, signed, signer=self._signing_key).document
        launch = self._job.launch
        if (receipt.job, receipt.lease) != (launch.job, launch.lease):
            raise SessionError("a receipt of another job or lease")
        if receipt.end is not None:
            self._facts.failed.setdefault(Step.OPEN, f"the run ended: {receipt.end.value}")
        else:
            self._facts.receipts += 1
        self._opened.set()
        return ReceiptPosted(receipt=receipt.digest).encode()

    def _challenge(self, verifier: bytes, purpose: Purpose) -> bytes | None:
        nonces = self._nonces.setdefault((verifier, purpose), [])
        if len(nonces) >= CHALLENGES_MAX:
            return None
        if self._facts.boot_milliseconds is None:
            self._facts.boot_milliseconds = int((time.monotonic() - self._begun) * 1000)
            self.step = Step.EVIDENCE
        nonces.append(secrets.token_bytes(32))
        return Challenge(verifier=verifier, purpose=purpose, nonce=nonces[-1]).encode()

    def _judge(self, evidence: bytes, verifier: bytes, purpose: Purpose) -> Statement | None:
        """(5) The statement answers our challenge, and the evidence is of it. None: refused."""
        bundle = EvidenceBundle.parse(evidence)
        statement = Statement.parse(bundle.statement)
        wrong = misstated(
            statement,
            bundle,
            job=self._job,
            verifier=verifier,
            purpose=purpose,
            nonces=self._nonces.get((verifier, purpose), []),
        )
        result = self._verify(bundle, statement)
        self._facts.misstated[purpose.value] = wrong
        self._facts.results[purpose.value] = result
        if self._facts.accepted or wrong or not result.accepted:
            self._judged.set()
        return statement if not wrong and result.accepted else None

    def _verify(self, bundle: EvidenceBundle, statement: Statement) -> AttestationResult:
        return verify_evidence(
            Evidence.of(bundle),
            self._policy,
            Expected.of(statement),
            now=self._bench.now,
        )

    # --- blobs -----------------------------------------------------------------------------------

    async def _blobs(self, stream: Stream) -> None:
        weights = set(self._job.weights)
        while (request := await read_blob_request(stream)) is not None:
            if not isinstance(request, BlobRead):
                await stream.sendall(blob_answer(BlobStatus.OK))
                continue
            content = self._job.blobs.get(request.digest)
            if request.digest in weights and self._first_read is None:
                self._first_read = time.monotonic()  # (6)
            if content is None or request.offset > len(content):
                await stream.sendall(blob_answer(BlobStatus.NOT_FOUND))
                continue
            part = content[request.offset : request.offset + request.length]
            await stream.sendall(blob_answer(BlobStatus.OK, part))
            if request.digest in weights:
                self._read.add(request.digest)
                if self._read == weights and self._first_read is not None:
                    seconds = max(time.monotonic() - self._first_read, 1e-3)
                    self._facts.open_bytes_per_second = int(self._job.weights_bytes / seconds)


def misstated(
    statement: Statement,
    bundle: EvidenceBundle,
    *,
    job: SelftestJob,
    verifier: bytes,
    purpose: Purpose,
    nonces: list[bytes],
) -> str:
    """Which field of a statement is not this session's; empty: all are."""
    launch = job.launch
    wanted = {
        "verifier": (statement.verifier, verifier),
        "purpose": (statement.purpose, purpose),
        "job": (statement.job, launch.job),
        "lease": (statement.lease, launch.lease),
        "generation": (statement.generation, launch.generation),
        "rank": (statement.rank, launch.rank),
        "ranks": (statement.ranks, launch.ranks),
        "launch": (statement.launch, launch.digest),
        "launch document": (bundle.launch, launch.encode()),
    }
    wrong = [name for name, (found, ours) in wanted.items() if found != ours]
    if statement.nonce not in nonces:
        wrong.insert(0, "nonce")
    return ", ".join(wrong)
