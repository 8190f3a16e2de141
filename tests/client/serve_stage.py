"""A buyer's home with a serve job in its release log, a market in memory, and a fake enclave."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from client.client_key import load_client_key
from client.home import Config, Home
from client.keystore import Keystore
from client.market_api import MarketUnreachableError
from client.release_log import ReleaseLog
from client.serve_books import Books
from client.serving import MarketServePort
from marketplace.wire import JobDocuments, JobState, JobView, MoneyView, StoredMessage
from tests.trust import makers
from tests.trust import release_world as rw
from trust.artifacts import ArtifactKind, Core, Custodian, Origin
from trust.custody import LineageKind, lineage_id, output_custodians
from trust.encoding import digest
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import (
    ClientKey,
    Close,
    GenerateRecipe,
    GenerationOrder,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LaunchDocument,
    LaunchPurpose,
    Precision,
    RankLease,
    UsePolicy,
)
from trust.messages import (
    Allowance,
    Challenge,
    Endorsement,
    EvidenceBundle,
    Purpose,
    RequestKey,
    ServeCancel,
    ServeFrame,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
    SignedMessage,
    Statement,
    lease_address,
    parse_message,
    signed_label,
)
from trust.release_state import Closed, Ordered, Released
from trust.sealing import HpkePrivateKey
from trust.serving import (
    ChatMessage,
    Finish,
    FinishReason,
    GenerateRequest,
    OpenRequest,
    RecordKind,
    ReplayWindow,
    ReplySealer,
    Role,
    open_request,
    record,
)
from trust.verifier.policy import simulated_policy

RECIPE = GenerateRecipe(
    slots=8,
    reply_tokens_max=32,
    precision=Precision.FP32,
    fixed_shapes=False,
    tick_milliseconds=20,
    frame_bytes=256,
)


def asked(text: str = "hello") -> GenerateRequest:
    return GenerateRequest(
        adapter=None,
        messages=(ChatMessage(role=Role.USER, content=text),),
        prompt=None,
        tokens_max=8,
        temperature="0",
        top_p="1",
        seed=None,
        stop=(),
    )


class Mail:
    """The market's mailboxes in memory; numbers rise, what is acknowledged goes."""

    def __init__(self) -> None:
        self.boxes: dict[bytes, list[StoredMessage]] = defaultdict(list)
        self.posted = asyncio.Condition()
        self.acknowledged: dict[bytes, int] = defaultdict(int)
        self.fails = 0
        """How many of the next readings do not reach the market."""

    async def post(self, box: bytes, payload: bytes, sender: bytes) -> None:
        async with self.posted:
            found = self.boxes[box]
            found.append(
                StoredMessage(
                    number=len(found) + 1,
                    message=secrets.token_bytes(16),
                    sender=sender,
                    payload=payload,
                    at=rw.NOW,
                )
            )
            self.posted.notify_all()

    async def read(self, box: bytes, after: int) -> Sequence[StoredMessage]:
        async with self.posted:
            await self.posted.wait_for(lambda: len(self.boxes[box]) > after)
            return self.boxes[box][after : after + 64]


@dataclasses.dataclass
class MailOf:
    """One identity's way to the mailboxes."""

    mail: Mail
    identity: bytes

    async def post_message(self, box: bytes, payload: bytes) -> None:
        await self.mail.post(box, payload, self.identity)

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        if self.mail.fails:
            self.mail.fails -= 1
            raise MarketUnreachableError("gone for a moment")
        return await self.mail.read(
            self.identity, max(after, self.mail.acknowledged[self.identity])
        )

    async def acknowledge(self, through: int) -> None:
        self.mail.acknowledged[self.identity] = through


class ServeStage:
    """Everything but the enclave: owner's base, buyer's home, adapter, serve job, market."""

    def __init__(self, folder: Path, *, adapters: int = 1) -> None:
        self.now = rw.NOW
        self.mail = Mail()
        self.home = Home.create(
            folder / "buyer", Config(market_url="http://127.0.0.1:1", market=rw.MARKET)
        )
        self.keys = Keystore.create(self.home.folder, self.home.key_file)
        self.client = load_client_key(self.home.folder, self.keys)
        self.entry = self.keys.new_lineage(LineageKind.SIMULATED)
        self.owner = PartyKey.generate()
        owner = Custodian(
            identity=self.owner.identity,
            lineage=lineage_id(LineageKind.SIMULATED, self.owner.identity, bytes(32)),
            epoch=1,
        )
        self.base = rw.sealed(self.owner, ArtifactKind.WEIGHTS, owner)
        self.trainer = PartyKey.generate()
        self.adapters = [self.adapter(owner) for _ in range(adapters)]
        self.appraise(simulated_policy(rw.root().fingerprint, [rw.IMAGE]), number=1)
        self.log = ReleaseLog.open(self.home.log_path, now=rw.NOW - rw.HOUR)
        self.states: dict[bytes, JobState] = {}
        self.jobs: list[Signed[JobManifest]] = []
        self.orders: dict[bytes, list[Signed[GenerationOrder]]] = defaultdict(list)
        self.job = self.enter()

    def clock(self) -> int:
        return self.now

    def adapter(self, owner: Custodian) -> Any:
        core = Core(
            kind=ArtifactKind.ADAPTER,
            seal_id=secrets.token_bytes(32),
            custodians=tuple(sorted((owner, self.entry))),
            origin=Origin(job=bytes(32), generation=1),
        )
        return self.trainer.sign(rw.manifest(core))

    def appraise(self, policy: Any, *, number: int) -> None:
        """Name an appraisal policy for the buyer's lineage."""
        self.home.keep_appraisal(policy)
        said = UsePolicy(
            version=1,
            custodian=self.keys.party.identity,
            number=number,
            lineages=(self.entry.lineage,),
            appraisal_policy=policy.digest,
            jobs_signed_by=None,
            adapter_to=(),
        )
        self.home.keep(self.keys.party.sign(said))

    def enter(self, **changed: Any) -> Signed[JobManifest]:
        """A serve job, signed by the buyer and running as far as the market shows."""
        inputs = [Input(role=InputRole.MODEL, artifact=self.base.digest)]
        inputs += [Input(role=InputRole.ADAPTER, artifact=a.digest) for a in self.adapters]
        fields: dict[str, Any] = {
            "kind": JobKind.SERVE,
            "recipe": RECIPE,
            "nonce": secrets.token_bytes(32),
            "buyer": self.keys.party.identity,
            "progress_key": self.keys.progress.public,
            "inputs": tuple(inputs),
            "local_ranks": 1,
            "rows": 1,
            "images": (rw.IMAGE,),
            "client_keys": (ClientKey(identity=self.client.identity, tokens=None),),
            "expires_at": rw.JOB_ENDS,
            **changed,
        }
        job = self.keys.party.sign(dataclasses.replace(makers.job_manifest(), **fields))
        self.home.keep(job)
        self.jobs.append(job)
        self.states[job.digest] = JobState.RUNNING
        return job

    def order(self, job: Signed[JobManifest]) -> Signed[GenerationOrder]:
        """The buyer's broker orders the next generation."""
        orders = self.orders[job.digest]
        number = len(orders) + 1
        lease = rw.lease(1000 * (self.jobs.index(job) + 1) + number)
        order = self.keys.party.sign(
            GenerationOrder(
                job=job.digest,
                number=number,
                leases=(RankLease(rank=0, lease=lease),),
                expires_at=rw.NOW + rw.HOUR,
                before=orders[-1].digest if orders else None,
            )
        )
        orders.append(order)
        self.log.append((Ordered(order=order.encode()),), now=self.now)
        return order

    def release(self, job: Signed[JobManifest], statement: Statement) -> None:
        """The buyer's broker gives the newest generation's seat away."""
        cores = [each.document.core for each in (self.base, *self.adapters)]
        entry = Released(
            job=job.encode(),
            orders=(self.orders[job.digest][-1].encode(),),
            statement=statement.encode(),
            terms=bytes(32),
            model=self.base.document.core.custodians[0].lineage,
            policies=(bytes(32),),
            verdicts=(bytes(32),),
            collateral=(),
            chip_id=None,
            custodians=output_custodians(cores),
            allowance=Allowance(tokens=None, steps=None, reports=None),
            checkpoint=None,
            grant=b"a grant",
        )
        self.log.append((entry,), now=self.now)

    def close(self, job: Signed[JobManifest]) -> None:
        signed = self.keys.party.sign(Close(job=job.digest, at=self.now))
        self.log.append((Closed(close=signed.encode()),), now=self.now)

    # --- the market's records --------------------------------------------------------------------

    async def get_jobs(self) -> Sequence[JobView]:
        return [
            JobView(
                job=job.digest,
                buyer=job.signer,
                owner=self.owner.identity,
                state=self.states[job.digest],
                generation=len(self.orders[job.digest]),
                generation_digest=None,
                waiting_for=None,
                money=MoneyView(reserved=0, captured=0, released=0),
                leases=(),
                created_at=rw.NOW + 1000 * number,
                deadline=None,
            )
            for number, job in enumerate(self.jobs)
        ]

    async def get_job_documents(self, job: bytes) -> JobDocuments:
        found = next(each for each in self.jobs if each.digest == job)
        manifests = {each.digest: each.encode() for each in (self.base, *self.adapters)}
        return JobDocuments(
            job=found.encode(),
            terms=b"terms",
            manifests=tuple(manifests[each.artifact] for each in found.document.inputs),
            orders=tuple(each.encode() for each in self.orders[job]),
            close=None,
        )

    def port(self, **changed: Any) -> MarketServePort:
        fields: dict[str, Any] = {
            "books": Books(self.home, self.keys),
            "client": self.client,
            "jobs": self,
            "mail": MailOf(self.mail, self.client.identity),
            "clock": self.clock,
            "names": {self.base.digest: "tiny"},
            "silence_seconds": 5.0,
            "offer_seconds": 5.0,
            **changed,
        }
        return MarketServePort(**fields)


Change = Callable[[Any], Any]


class FakeEnclave:
    """Serves one generation of a job as the protocol says, but for what a test changes."""

    def __init__(
        self, stage: ServeStage, job: Signed[JobManifest] | None = None, *, seated: bool = True
    ) -> None:
        self.stage, self.job = stage, job or stage.job
        self.order = stage.order(self.job).document
        self.lease = self.order.leases[0].lease
        self.box = lease_address(self.lease)
        self.party, self.hpke = PartyKey.generate(), HpkePrivateKey.generate()
        self.keys: dict[bytes, HpkePrivateKey] = {}
        self.request_key = self.renew()
        self.statements: set[bytes] = set()
        self.requests: list[OpenRequest] = []
        self.refused: list[str] = []
        self.cancelled: list[bytes] = []
        self.challenges = 0
        self.windows: dict[bytes, ReplayWindow] = defaultdict(ReplayWindow)
        # What a test changes:
        self.statement_fields: dict[str, Any] = {}
        self.launch_fields: dict[str, Any] = {}
        self.measurement, self.chip, self.report_data = rw.IMAGE, rw.chip(), b""
        self.change_offer: Change = lambda offer: offer
        self.change_frames: Callable[[list[ServeFrame]], list[ServeFrame]] = lambda frames: frames
        self.replies: Callable[[OpenRequest], Sequence[str]] = lambda _: ("Hel", "lo")
        self.before_offer: Callable[[ServeOffer], Awaitable[None]] | None = None
        self.before_reply: Callable[[ServeRequest], Awaitable[None]] | None = None
        self.silent, self.begins_after = False, 0
        self.error = ""
        if seated:
            stage.release(self.job, self.statement(stage.keys.party.identity, bytes(32)))

    def renew(self) -> RequestKey:
        """The next request key; those before are erased."""
        key = HpkePrivateKey.generate()
        number = self.request_key.number + 1 if self.keys else 1
        self.request_key = RequestKey(
            job=self.job.digest,
            generation=self.order.number,
            rank=0,
            number=number,
            hpke_key=key.public,
        )
        self.keys = {self.request_key.digest: key}
        return self.request_key

    def launch(self) -> LaunchDocument:
        fields: dict[str, Any] = {
            "version": 1,
            "purpose": LaunchPurpose.RUN,
            "job": self.job.digest,
            "lease": self.lease,
            "generation": self.order.number,
            "rank": 0,
            "ranks": 1,
            "market": rw.MARKET,
            **self.launch_fields,
        }
        return LaunchDocument(**fields)

    def statement(self, verifier: bytes, nonce: bytes, /, **changed: Any) -> Statement:
        fields: dict[str, Any] = {
            "version": 1,
            "purpose": Purpose.RELEASE,
            "verifier": verifier,
            "nonce": nonce,
            "hpke_key": self.hpke.public,
            "signing_key": self.party.identity,
            "job": self.job.digest,
            "lease": self.lease,
            "generation": self.order.number,
            "rank": 0,
            "ranks": 1,
            "launch": self.launch().digest,
            "gpu_evidence": None,
            **changed,
        }
        return Statement(**fields)

    def offer(self, client: bytes, nonce: bytes) -> ServeOffer:
        said = self.statement(client, nonce, **{"purpose": Purpose.SERVE, **self.statement_fields})
        self.statements.add(said.digest)
        report = self.chip.report(
            report_data=self.report_data or said.report_data,
            host_data=said.launch,
            measurement=self.measurement,
        )
        bundle = EvidenceBundle(
            statement=said.encode(),
            launch=self.launch().encode(),
            platform="sev-snp",
            report=report,
            gpu=None,
            endorsements=tuple(
                Endorsement(kind=kind, content=content)
                for kind, content in self.chip.endorsements()
            ),
        )
        offer = ServeOffer(
            evidence=bundle.encode(), request_key=self.party.sign(self.request_key).encode()
        )
        changed: ServeOffer = self.change_offer(offer)
        return changed

    # --- at work ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer whatever comes, until cancelled."""
        after = 0
        async with asyncio.TaskGroup() as group:
            while True:
                for message in await self.stage.mail.read(self.box, after):
                    after = message.number
                    await self.take(message, group)

    async def take(self, message: StoredMessage, group: asyncio.TaskGroup) -> None:
        match parse_message(message.payload):
            case SignedMessage(signed=signed) if signed_label(signed) == Challenge.LABEL:
                challenge = verify_signed(Challenge, signed, signer=message.sender).document
                self.challenges += 1
                if self.challenges <= self.begins_after:
                    return
                offer = self.offer(challenge.verifier, challenge.nonce)
                if self.before_offer is not None:
                    await self.before_offer(offer)
                await self.send(message.sender, offer.encode())
            case SignedMessage(signed=signed) if signed_label(signed) == ServeCancel.LABEL:
                cancel = verify_signed(ServeCancel, signed, signer=message.sender).document
                self.cancelled.append(cancel.exchange)
            case ServeRequest() as request:
                await self.answer(message.sender, request, group)

    async def answer(self, sender: bytes, request: ServeRequest, group: asyncio.TaskGroup) -> None:
        if self.before_reply is not None:
            await self.before_reply(request)
        exchange = digest(request.sealed)
        key = self.keys.get(request.request_key)
        if key is None:
            await self.refuse(sender, exchange, "request-key-unknown")
            return
        opened = open_request(request.sealed, key, key=request.request_key)
        clients = {each.identity for each in self.job.document.client_keys}
        if opened.client not in clients or opened.header.statement not in self.statements:
            await self.refuse(sender, exchange, "statement-unknown")
            return
        assert self.windows[opened.header.session].take(opened.header.sequence)
        self.requests.append(opened)
        if not self.silent:
            group.create_task(self.reply(sender, exchange, opened))

    async def refuse(self, sender: bytes, exchange: bytes, code: str) -> None:
        self.refused.append(code)
        await self.send(sender, ServeRefused(exchange=exchange, code=code).encode())

    def frames(self, exchange: bytes, opened: OpenRequest) -> list[ServeFrame]:
        sealer = ReplySealer(opened.header, salt=secrets.token_bytes(32), frame_bytes=256)
        texts = self.replies(opened)
        chunks = [sealer.chunk(record(RecordKind.TEXT, each.encode())) for each in texts]
        chunks.append(sealer.chunk(b""))  # a tick in which nothing was written
        finish = Finish(
            reason=FinishReason.ERROR if self.error else FinishReason.STOP,
            code=self.error,
            text="",
            prompt_tokens=3,
            completion_tokens=len(texts),
        )
        chunks.append(sealer.chunk(record(RecordKind.FINISH, finish.encode()), final=True))
        chunks.append(sealer.chunk(b""))
        return [
            ServeFrame(exchange=exchange, number=n, chunk=chunk) for n, chunk in enumerate(chunks)
        ]

    async def reply(self, sender: bytes, exchange: bytes, opened: OpenRequest) -> None:
        for frame in self.change_frames(self.frames(exchange, opened)):
            await self.send(sender, ServeFrames(frames=(frame,)).encode())
            await asyncio.sleep(0)

    async def send(self, box: bytes, payload: bytes) -> None:
        await self.stage.mail.post(box, payload, self.box)
