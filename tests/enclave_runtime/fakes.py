"""Small parties for the session's tests: real keys, documents and sealing; no evidence check.

`World` is one job with its owner, buyer and market. `FakeBroker` and `FakeMarket` answer messages
as the real ones do, with switches for what can go wrong. `FakeWork` is a run that computes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import os
import socket
from collections.abc import Callable, Iterable

from enclave_runtime.actions import Action, NeedEvidence, Send
from enclave_runtime.briefing import Brief, check_briefing
from enclave_runtime.session import Session
from enclave_runtime.transport import AGENT, Frame, FrameReader
from enclave_runtime.vault import Vault
from enclave_runtime.work import CheckpointReady, Evaluated, Finished, Stepped
from trust.artifacts import (
    ArtifactKind,
    ArtifactOpener,
    ArtifactSealer,
    Core,
    Custodian,
    Manifest,
    Origin,
    PublicFile,
)
from trust.custody import (
    LineageKind,
    artifact_key,
    artifact_share,
    derived_share,
    input_share,
    lineage_id,
    output_custodians,
    output_share,
)
from trust.encoding import digest, label_bytes
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import (
    Bid,
    BidKind,
    Budgets,
    ClientKey,
    EvaluateRecipe,
    Evaluation,
    GenerateRecipe,
    GenerationOrder,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LaunchDocument,
    LaunchPurpose,
    LoraRecipe,
    LossOn,
    OutputTerms,
    Precision,
    RankLease,
    RecipeTerms,
    Resources,
    Schedule,
    Sharding,
    Terms,
    Undertaking,
)
from trust.messages import (
    Acknowledgement,
    Allowance,
    Briefing,
    Challenge,
    CheckpointAt,
    CheckpointReport,
    EvidenceBundle,
    FollowUp,
    FollowUpKind,
    Grant,
    GrantInfo,
    GrantSecret,
    GrantSigned,
    Hello,
    LogHead,
    Metered,
    MeterRequest,
    Progress,
    Receipt,
    ReceiptPosted,
    Refused,
    ReleaseRequest,
    Scope,
    ScopeKind,
    SealedProgress,
    SignedMessage,
    Statement,
    parse_message,
    signed_label,
)
from trust.sealing import HpkePrivateKey, hpke_seal

LEASE = "leas_" + "0" * 26
UNBOUNDED = Allowance(tokens=None, steps=None, reports=None)
CLASS = "cpu/test/1"

RECIPE = LoraRecipe(
    rank=4,
    alpha=8,
    dropout="0",
    targets=("q_proj",),
    epochs=None,
    steps=12,
    rows_per_step=4,
    accumulation=1,
    learning_rate="0.001",
    schedule=Schedule.CONSTANT,
    warmup_steps=0,
    weight_decay="0",
    clip_norm="0",
    seed=1,
    precision=Precision.FP32,
    packing=False,
    loss_on=LossOn.ASSISTANT,
    evaluation=None,
)
GENERATE = GenerateRecipe(
    slots=4,
    reply_tokens_max=12,
    precision=Precision.FP32,
    fixed_shapes=False,
    tick_milliseconds=20,
    frame_bytes=64,
)
_KIND_OF = {
    LoraRecipe: JobKind.TRAIN,
    EvaluateRecipe: JobKind.EVALUATE,
    GenerateRecipe: JobKind.SERVE,
}
EVALUATION = Evaluation(rows_max=8, reply_tokens_max=4, header_ends_with=":")


def seal(core: Core, key: bytes, content: bytes, blobs: dict[bytes, bytes], files=()) -> Manifest:
    """Seal `content` into `blobs`, with its list and manifest."""
    sealer = ArtifactSealer(core=core, key=key, content_bytes=len(content), entropy=os.urandom(39))
    for segment in sealer.segments([content]):
        blobs[digest(segment)] = segment
    blobs[digest(sealer.segment_list())] = sealer.segment_list()
    public = tuple(
        PublicFile(name=name, bytes=len(data), sha256=digest(data)) for name, data in files
    )
    for _name, data in files:
        blobs[digest(data)] = data
    return sealer.manifest(public)


class Lineage:
    """One custodian entry with its lineage key."""

    def __init__(self, party: PartyKey, kind: LineageKind = LineageKind.SIMULATED) -> None:
        self.party, self.key = party, os.urandom(32)
        self.entry = Custodian(
            identity=party.identity,
            lineage=lineage_id(kind, party.identity, os.urandom(32)),
            epoch=1,
        )


class World:
    """One job, everything signed and sealed, and the ciphertext in `blobs`."""

    def __init__(
        self,
        *,
        recipe: LoraRecipe | EvaluateRecipe | GenerateRecipe = RECIPE,
        adapters: int = 0,
        generation: int = 1,
        job_changes: dict | None = None,
        terms_changes: dict | None = None,
        one_party: bool = False,
        weights: bytes | None = None,
        files: dict[str, bytes] | None = None,
        rows: bytes | None = None,
        kinds: tuple[LineageKind, LineageKind] = (LineageKind.SIMULATED, LineageKind.SIMULATED),
    ) -> None:
        self.owner, self.market = PartyKey.generate(), PartyKey.generate()
        self.buyer = self.owner if one_party else PartyKey.generate()
        self.progress_key = HpkePrivateKey.generate()
        self.model = Lineage(self.owner, kinds[0])
        self.dataset = Lineage(self.buyer, kinds[1])
        self.lineages = [self.model, self.dataset]
        self.blobs: dict[bytes, bytes] = {}
        self.weights = weights or os.urandom(3000)
        self.files = files or {"config.json": b"{}"}
        self.rows = rows or b'{"messages": []}\n' * 20
        self.generation = generation
        self.terms = self._terms(terms_changes or {})
        self.inputs = self._inputs(recipe)
        self.clients = [PartyKey.generate() for _ in range(2)]
        self.adapters = [self._adapter(number) for number in range(1, adapters + 1)]
        self.job = self.buyer.sign(self._job(recipe, job_changes or {}))
        self.launch = LaunchDocument(
            version=1,
            purpose=LaunchPurpose.RUN,
            job=self.job.digest,
            lease=LEASE,
            generation=generation,
            rank=0,
            ranks=1,
            market=self.market.identity,
        )
        self.checkpoints: list[Signed[Manifest]] = []

    def _inputs(self, recipe) -> dict[InputRole, Signed[Manifest]]:
        roles = [(InputRole.MODEL, self.model, ArtifactKind.WEIGHTS, self.weights)]
        if isinstance(recipe, LoraRecipe):
            roles.append((InputRole.DATASET, self.dataset, ArtifactKind.DATASET, self.rows))
        if recipe.evaluation is not None:
            roles.append((InputRole.HELDOUT, self.dataset, ArtifactKind.DATASET, self.rows))
        signed = {}
        for role, lineage, kind, content in roles:
            core = Core(kind=kind, seal_id=os.urandom(32), custodians=(lineage.entry,), origin=None)
            key = artifact_key([input_share(lineage.key, core)], core)
            files = sorted(self.files.items()) if role is InputRole.MODEL else []
            signed[role] = lineage.party.sign(seal(core, key, content, self.blobs, files))
        return signed

    def _adapter(self, number: int) -> Signed[Manifest]:
        """What an earlier job of these two made."""
        core = Core(
            kind=ArtifactKind.ADAPTER,
            seal_id=os.urandom(32),
            custodians=output_custodians(
                [
                    Core(
                        kind=ArtifactKind.WEIGHTS,
                        seal_id=bytes(32),
                        custodians=tuple(each.entry for each in self.lineages),
                        origin=None,
                    )
                ]
            ),
            origin=Origin(job=os.urandom(32), generation=1),
        )
        by_entry = {each.entry: each for each in self.lineages}
        shares = [artifact_share(by_entry[e].key, core) for e in core.custodians]
        content = b"adapter %d" % number
        return PartyKey.generate().sign(seal(core, artifact_key(shares, core), content, self.blobs))

    @property
    def all_inputs(self) -> list[tuple[InputRole, Signed[Manifest]]]:
        """In the job's order."""
        return [*self.inputs.items(), *((InputRole.ADAPTER, each) for each in self.adapters)]

    def _terms(self, changes: dict) -> Signed[Terms]:
        fields = {
            "version": 1,
            "owner": self.owner.identity,
            "number": 1,
            "lineages": (self.model.entry.lineage,),
            "price_microcredits_per_job": 1,
            "royalty_microcredits_per_million_tokens": 1,
            "recipes": tuple(
                RecipeTerms(recipe=name, rank_max=8, steps_max=1000)
                for name in ("evaluate", "generate", "lora")
            ),
            "reports_max": 2000,
            "report_tokens_min": 256,
            "report_rows_min": 64,
            "output": OutputTerms(adapter_leaves=False, reply_tokens_max=64),
            "screen": None,
            "budgets": Budgets(tokens=1 << 40, steps=1 << 20, reports=1 << 20, period_seconds=60),
            "undertaking": Undertaking(until=0, price_microcredits_per_million_tokens=0),
            "expires_at": 1 << 42,
        }
        return self.owner.sign(Terms(**(fields | changes)))

    def _job(self, recipe, changes: dict) -> JobManifest:
        fields = {
            "version": 1,
            "kind": _KIND_OF[type(recipe)],
            "nonce": os.urandom(32),
            "buyer": self.buyer.identity,
            "progress_key": self.progress_key.public,
            "inputs": tuple(Input(role=r, artifact=m.digest) for r, m in self.all_inputs),
            "terms": self.terms.digest,
            "template": None,
            "recipe": recipe,
            "enclaves": 1,
            "local_ranks": 1 if isinstance(recipe, GenerateRecipe) else 2,
            "sharding": Sharding.DATA_PARALLEL,
            "rows": 20,
            "length_max": 16,
            "images": (bytes(48),),
            "compute_class": None,
            "resume_on_other_class": False,
            "checkpoint_steps": 2,
            "uncommitted_checkpoints_max": 2,
            "generations_max": 8,
            "spend_max_microcredits": 1,
            "ceiling_microcredits_per_step": 1,
            "bid": Bid(kind=BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=1, notice_seconds=0),
            "resources": Resources(gpu_model="cpu", gpus=1, memory_mib=1, platform="sev-snp"),
            "client_keys": tuple(
                ClientKey(identity=each, tokens=None)
                for each in sorted(client.identity for client in self.clients)
            )
            if isinstance(recipe, GenerateRecipe)
            else (),
            "expires_at": 1 << 42,
        }
        return JobManifest(**(fields | changes))

    def order(self, **changes) -> GenerationOrder:
        fields = {
            "job": self.job.digest,
            "number": self.generation,
            "leases": (RankLease(rank=0, lease=LEASE),),
            "expires_at": 1 << 42,
            "before": None if self.generation == 1 else bytes(32),
        }
        return GenerationOrder(**(fields | changes))

    def briefing(self, **changes) -> Briefing:
        fields = {
            "job": self.job.encode(),
            "order": self.buyer.sign(self.order()).encode(),
            "terms": self.terms.encode(),
            "manifests": tuple(m.encode() for _role, m in self.all_inputs),
            "checkpoints": tuple(m.encode() for m in self.checkpoints),
            "endorsements": (),
        }
        return Briefing(**(fields | changes))

    def brief(self) -> Brief:
        return check_briefing(self.launch, self.briefing())

    @property
    def entries(self) -> tuple[Custodian, ...]:
        return output_custodians(m.document.core for _role, m in self.all_inputs)

    def make_checkpoint(
        self, *, generation: int, step: int, content: bytes, offered: bool = True, **core_changes
    ) -> CheckpointAt:
        """A checkpoint that an earlier generation of this job sealed."""
        core = Core(
            kind=ArtifactKind.CHECKPOINT,
            seal_id=os.urandom(32),
            custodians=self.entries,
            origin=Origin(job=self.job.digest, generation=generation),
        )
        core = dataclasses.replace(core, **core_changes)
        by_entry = {each.entry: each for each in self.lineages}
        shares = [
            derived_share(
                output_share(by_entry[e].key, core.origin.job, core.origin.generation), core
            )
            for e in core.custodians
        ]
        manifest = seal(core, artifact_key(shares, core), content, self.blobs)
        signed = PartyKey.generate().sign(manifest)
        self.blobs[signed.digest] = manifest.encode()
        if offered:
            self.checkpoints.append(signed)
        return CheckpointAt(generation=generation, step=step, artifact=signed.digest)

    def checkpoint_core(self, at: CheckpointAt) -> Core:
        return Manifest.parse(self.blobs[at.artifact]).core

    def brokers(self) -> dict[bytes, FakeBroker]:
        return {p.identity: FakeBroker(self, p) for p in {self.owner, self.buyer}}

    def open_progress(self, payload: bytes) -> Signed[Progress]:
        sealed = SealedProgress.parse(payload)
        info = label_bytes("progress") + self.job.digest
        padded = self.progress_key.open(sealed.sealed, info=info)
        assert len(padded) % 256 == 0
        length = int.from_bytes(padded[:4], "big")
        assert not any(padded[4 + length :])
        return verify_signed(Progress, padded[4 : 4 + length], signer=None)


# --- parties -------------------------------------------------------------------------------------


class FakeBroker:
    """A custodian that believes every evidence. Switches say what it does wrong."""

    def __init__(self, world: World, party: PartyKey) -> None:
        self.world, self.party = world, party
        self.lineages = [each for each in world.lineages if each.party is party]
        self.stated: CheckpointAt | None = None
        self.shares_stated_checkpoint = True
        self.allowances: list[Allowance] = [UNBOUNDED]
        """The seat's, then one for each account; when they are used up, accounts are refused."""
        self.junk_output = False
        self.deaf_to: set[type] = set()
        """Kinds of documents that never arrive."""
        self.refuses: dict[type | FollowUpKind, str] = {}
        self.change_info: Callable[[GrantInfo], GrantInfo] = lambda info: info
        self.seal_info: Callable[[GrantInfo], GrantInfo] = lambda info: info
        self.change_secret: Callable[[GrantSecret], GrantSecret] = lambda secret: secret
        self.signer = party
        self.statement: Statement | None = None
        self.seat_grant: bytes | None = None
        self.heard: list[object] = []
        self.reports: list[CheckpointReport] = []

    def receive(self, payload: bytes) -> list[bytes]:
        message = parse_message(payload)
        document = message
        if isinstance(message, SignedMessage):
            kinds = {k.LABEL: k for k in (FollowUp, CheckpointReport, Receipt)}
            kind = kinds[signed_label(message.signed)]
            document = verify_signed(
                kind, message.signed, signer=self.statement.signing_key
            ).document
        if type(document) in self.deaf_to:
            return []
        self.heard.append(document)
        match document:
            case Hello():
                assert document.verifier == self.party.identity
                nonce = os.urandom(32)
                return [
                    Challenge(
                        verifier=self.party.identity, purpose=document.purpose, nonce=nonce
                    ).encode()
                ]
            case ReleaseRequest():
                return [self._release(document)]
            case FollowUp():
                return [self._follow_up(document)]
            case CheckpointReport():
                self.reports.append(document)
                return [self.acknowledge(document)]
        return []

    def _refusal(self, nonce: bytes, code: str) -> bytes:
        return Refused(verifier=self.party.identity, nonce=nonce, code=code, text="no").encode()

    def _release(self, request: ReleaseRequest) -> bytes:
        bundle = EvidenceBundle.parse(request.evidence)
        statement = Statement.parse(bundle.statement)
        if code := self.refuses.get(ReleaseRequest):
            return self._refusal(statement.nonce, code)
        assert bundle.report.startswith(statement.report_data)
        if self.seat_grant is None:
            self.statement = statement
            self.seat_grant = self.grant(number=0)
        return self.seat_grant

    def _follow_up(self, asked: FollowUp) -> bytes:
        if code := self.refuses.get(asked.kind):
            return self._refusal(asked.nonce, code)
        cores = [
            verify_signed(Manifest, data, signer=None).document.core for data in asked.artifacts
        ]
        if asked.kind is FollowUpKind.ACCOUNT and not self.allowances:
            return self._refusal(asked.nonce, "budget-steps")
        return self.grant(number=asked.number, kind=asked.kind, cores=cores)

    def grant(
        self, *, number: int, kind: FollowUpKind | None = None, cores: Iterable[Core] = ()
    ) -> bytes:
        """A whole grant, encoded."""
        pairs = self._seat() if kind is None else self._derived(cores)
        statement = self.statement
        info = GrantInfo(
            custodian=self.party.identity,
            scopes=tuple(scope for scope, _share in pairs),
            nonce=statement.nonce,
            hpke_key=statement.hpke_key,
            job=statement.job,
            generation=statement.generation,
            rank=statement.rank,
            number=number,
            checkpoint=self.stated,
        )
        info = self.change_info(info)
        allowance = UNBOUNDED
        if kind in (None, FollowUpKind.ACCOUNT):
            allowance = self.allowances.pop(0)
        secret = self.change_secret(
            GrantSecret(
                shares=tuple(share for _scope, share in pairs),
                allowance=allowance,
                terms=self.world.terms.digest,
            )
        )
        sealed = hpke_seal(secret.encode(), statement.hpke_key, info=self.seal_info(info).encode())
        covered = GrantSigned(info=info.digest, sealed=digest(sealed))
        return Grant(
            info=info.encode(), sealed=sealed, signature=self.signer.sign(covered).signature
        ).encode()

    def _seat(self) -> list[tuple[Scope, bytes]]:
        pairs = []
        for each in self.lineages:
            names = {"lineage": each.entry.lineage, "epoch": each.entry.epoch}
            for _role, manifest in self.world.all_inputs:
                core = manifest.document.core
                if each.entry in core.custodians and core.origin is None:
                    scope = Scope(scope=ScopeKind.INPUT, core=core.digest, **names)
                    pairs.append((scope, input_share(each.key, core)))
            if each.entry not in self.world.entries:
                continue
            share = output_share(each.key, self.statement.job, self.statement.generation)
            if self.junk_output:
                share = os.urandom(32)
            pairs.append((Scope(scope=ScopeKind.OUTPUT, core=None, **names), share))
        pairs += self._derived(m.document.core for m in self.world.adapters)
        if self.stated is not None and self.shares_stated_checkpoint:
            pairs += self._derived([self.world.checkpoint_core(self.stated)])
        return pairs

    def _derived(self, cores: Iterable[Core]) -> list[tuple[Scope, bytes]]:
        return [
            (
                Scope(
                    scope=ScopeKind.DERIVED,
                    lineage=each.entry.lineage,
                    epoch=each.entry.epoch,
                    core=core.digest,
                ),
                artifact_share(each.key, core),
            )
            for core in cores
            for each in self.lineages
            if each.entry in core.custodians
        ]

    def acknowledge(self, report: CheckpointReport) -> bytes:
        head = LogHead(
            custodian=self.party.identity, incarnation=1, entries=1, chain=bytes(32), at=1
        )
        ack = Acknowledgement(
            custodian=self.party.identity,
            report=report.digest,
            head=self.party.sign(head).encode(),
        )
        return SignedMessage(signed=self.signer.sign(ack).encode()).encode()


class FakeMarket:
    """Meters whoever asks, and posts receipts of the key that it metered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.receipts: list[Receipt] = []
        self.signing_key: bytes | None = None
        self.posts = True

    def receive(self, payload: bytes) -> list[bytes]:
        message = parse_message(payload)
        match message:
            case Hello():
                return [
                    Challenge(
                        verifier=self.world.market.identity,
                        purpose=message.purpose,
                        nonce=os.urandom(32),
                    ).encode()
                ]
            case MeterRequest():
                bundle = EvidenceBundle.parse(message.evidence)
                statement = Statement.parse(bundle.statement)
                self.signing_key = statement.signing_key
                return [Metered(signing_key=self.signing_key, nonce=statement.nonce).encode()]
            case SignedMessage():
                receipt = verify_signed(Receipt, message.signed, signer=self.signing_key).document
                self.receipts.append(receipt)
                return [ReceiptPosted(receipt=receipt.digest).encode()] if self.posts else []
        return []


class FakeAttester:
    """Hardware whose report is the report data and zeros."""

    platform = "sev-snp"
    writes_under = None

    gpu: bytes | None = None

    def __init__(self) -> None:
        self.ready = 0

    def report(self, report_data: bytes) -> bytes:
        return report_data + bytes(1184 - 64)

    def gpu_evidence(self, nonce: bytes) -> bytes | None:
        return None if self.gpu is None else self.gpu + nonce

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        return ()

    def set_ready(self) -> None:
        self.ready += 1


def open_output(world: World, artifact: bytes) -> bytes:
    """Open a derived artifact as its custodians can, from the blob store alone."""
    manifest = Manifest.parse(world.blobs[artifact])
    by_entry = {each.entry: each for each in world.lineages}
    shares = [artifact_share(by_entry[e].key, manifest.core) for e in manifest.core.custodians]
    listed = world.blobs[manifest.segment_list]
    opener = ArtifactOpener(
        manifest=manifest,
        segment_list=listed,
        key=artifact_key(shares, manifest.core),
        first_segment=world.blobs[listed[:32]],
    )
    return b"".join(opener.open(i, world.blobs[opener.list[i]])[1] for i in range(len(opener)))


# --- a session among its parties -----------------------------------------------------------------


class Table:
    """A session with its parties around it, without a transport. Messages arrive at once."""

    def __init__(self, world: World) -> None:
        self.world, self.clock = world, 0
        self.brokers, self.market = world.brokers(), FakeMarket(world)
        self.vault, self.hpke, self.signing = (
            Vault(),
            HpkePrivateKey.generate(),
            PartyKey.generate(),
        )
        self.session = Session(
            world.brief(),
            hpke_key=self.hpke,
            signing_key=self.signing,
            vault=self.vault,
            compute_class=CLASS,
            same_class=True,
        )
        self.actions: list[Action] = []
        self.log: list[tuple[bytes, bytes]] = []
        """(peer, payload) of everything that came to the enclave."""

    @property
    def owner(self) -> FakeBroker:
        return self.brokers[self.world.owner.identity]

    @property
    def buyer(self) -> FakeBroker:
        return self.brokers[self.world.buyer.identity]

    def party(self, identity: bytes) -> FakeBroker | FakeMarket:
        return self.market if identity == self.world.market.identity else self.brokers[identity]

    def follow(self, actions: list[Action]) -> list[Action]:
        """Carry out actions, and what follows from them; returns all of them."""
        done, todo = [], list(actions)
        while todo:
            action = todo.pop(0)
            done.append(action)
            match action:
                case Send(peer=peer, payload=payload):
                    for answer in self.party(peer).receive(payload):
                        self.log.append((peer, answer))
                        todo += self.session.receive(peer, answer, self.clock)
                case NeedEvidence(statement=statement):
                    todo += self.session.evidence_ready(
                        statement,
                        platform="sev-snp",
                        report=FakeAttester().report(statement.report_data),
                        clock_ms=self.clock,
                    )
        self.actions += done
        return done

    def start(self) -> list[Action]:
        return self.follow(self.session.start(self.clock))

    def begin(self) -> list[Action]:
        return self.follow(self.session.begun(same_class=True, clock_ms=self.clock))

    def step_to(self, step: int) -> list[Action]:
        done = []
        for each in range(self.session.step + 1, step + 1):
            done += self.follow(self.session.stepped(each, self.clock))
        return done

    def tick(self, milliseconds: int) -> list[Action]:
        self.clock += milliseconds
        return self.follow(self.session.tick(self.clock))

    def seal_checkpoint(self, step: int) -> Signed[Manifest]:
        return self._seal(ArtifactKind.CHECKPOINT, f"at {step}".encode())

    def seal_adapter(self) -> Signed[Manifest]:
        return self._seal(ArtifactKind.ADAPTER, b"adapter")

    def _seal(self, kind: ArtifactKind, content: bytes) -> Signed[Manifest]:
        origin = Origin(job=self.world.job.digest, generation=self.world.generation)
        core = Core(kind=kind, seal_id=os.urandom(32), custodians=self.world.entries, origin=origin)
        manifest = seal(core, self.vault.output_key(core), content, self.world.blobs)
        return self.signing.sign(manifest)

    def checkpoint(self, step: int) -> tuple[Signed[Manifest], list[Action]]:
        manifest = self.seal_checkpoint(step)
        return manifest, self.follow(self.session.checkpoint_stored(step, manifest, self.clock))


def of(kind: type, actions: Iterable[Action]) -> list:
    return [each for each in actions if isinstance(each, kind)]


# --- time, agent, work ---------------------------------------------------------------------------


class ManualClock:
    """Time moves when the test says so."""

    def __init__(self) -> None:
        self._now, self._order = 0, itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        due = self._now + max(1, int(seconds * 1000))
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        await future

    async def advance(self, milliseconds: int) -> None:
        """Move on, and let everybody who wakes up act."""
        end = self._now + milliseconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _number, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle(turns: int = 20) -> None:
    for _turn in range(turns):
        await asyncio.sleep(0)


def listener(path: str) -> socket.socket:
    """A listening UNIX socket in the abstract namespace: it leaves no file."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind("\0" + path)
    listening.listen()
    return listening


class FakeAgent:
    """Dials both ports and pumps: messages to `parties`, blobs from `blobs`."""

    def __init__(self, name: str, blobs: dict[bytes, bytes]) -> None:
        self.name, self.blobs = name, blobs
        self.parties: dict[bytes, Callable[[bytes], list[bytes]]] = {}
        self.carried: list[Frame] = []
        self.distort: Callable[[bytes], bytes] = lambda answer: answer
        """What becomes of an answer of the blob port."""
        self.later: int = 0
        """How many blob requests are answered "try later" first."""
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def dial(self, briefing: Briefing | None = None) -> None:
        reader, self._writer = await asyncio.open_unix_connection("\0" + self.name + "-messages")
        blob_reader, blob_writer = await asyncio.open_unix_connection("\0" + self.name + "-blobs")
        if briefing is not None:
            self.say(AGENT, briefing.encode())
        self._tasks = [
            asyncio.create_task(self._messages(reader, self._writer)),
            asyncio.create_task(self._serve_blobs(blob_reader, blob_writer)),
        ]

    def say(self, peer: bytes, payload: bytes, *, identity: bytes | None = None) -> None:
        frame = Frame(peer=peer, id=identity or os.urandom(16), payload=payload)
        self._writer.write(frame.encode())

    async def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _messages(self, reader, writer) -> None:
        frames = FrameReader()
        try:
            while chunk := await reader.read(1 << 16):
                for frame in frames.feed(chunk):
                    self.carried.append(frame)
                    answer = self.parties.get(frame.peer)
                    for payload in answer(frame.payload) if answer else []:
                        self.say(frame.peer, payload)
        finally:
            await _close(writer)

    async def _serve_blobs(self, reader, writer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                while True:
                    answer = await self._answer_blob(reader)
                    writer.write(self.distort(answer))
            finally:
                await _close(writer)

    async def _answer_blob(self, reader) -> bytes:
        kind, name = await reader.readexactly(1), await reader.readexactly(32)
        if kind == b"\x01":
            offset = int.from_bytes(await reader.readexactly(4), "big")
            length = int.from_bytes(await reader.readexactly(4), "big")
            content = None
        else:
            length = int.from_bytes(await reader.readexactly(4), "big")
            content = await reader.readexactly(length)
        if self.later:
            self.later -= 1
            return b"\x02" + bytes(4)
        if content is not None:
            assert digest(content) == name
            self.blobs[name] = content
            return bytes(5)
        if name not in self.blobs:
            return b"\x01" + bytes(4)
        part = self.blobs[name][offset : offset + length]
        return b"\x00" + len(part).to_bytes(4, "big") + part


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class FakeWork:
    """A run that computes nothing: it steps as far as it may, and makes content by name."""

    compute_class = CLASS

    def __init__(self, job: JobManifest, *, make_checkpoint: Callable[[int], bytes]) -> None:
        self.job, self._make_checkpoint = job, make_checkpoint
        self.filled: dict[InputRole, bytes] = {}
        self.begun_with: list[bytes | None] = []
        self.allowed: list[int] = []
        self.stopped = 0
        self.step = 0
        self.breaks_at: InputRole | None = None
        self.error: Exception | None = None
        self._events: list[object] = []
        self._readable, self._writable = os.pipe()

    def fill(self, role, opener, read) -> None:
        if role is self.breaks_at:
            raise self.error
        content = b"".join(opener.open(i, read(i))[1] for i in range(len(opener)))
        self.filled[role] = content

    def begin(self, checkpoint: bytes | None) -> None:
        self.begun_with.append(checkpoint)
        if self.job.recipe.evaluation is not None:
            self._say(evaluated("base"))
        if not self.job.steps:
            self._say(Finished(step=0, adapter=b"", tensors_digest=b""))

    def allow_until(self, step: int) -> None:
        self.allowed.append(step)
        for each in range(self.step + 1, step + 1):
            self.step = each
            self._say(Stepped(step=each, loss=2.5, tokens=100, rows=4))
            if each % self.job.checkpoint_steps == 0:
                self._say(CheckpointReady(step=each, content=self._make_checkpoint(each)))
            if each == self.job.steps:
                self._say(
                    Finished(step=each, adapter=b"an adapter", tensors_digest=bytes([7] * 32))
                )

    def fileno(self) -> int:
        return self._readable

    def events(self) -> list:
        if self._events:
            os.read(self._readable, 1 << 16)
        found, self._events = self._events, []
        return found

    def stop(self) -> None:
        self.stopped += 1
        if self.stopped == 1:
            os.close(self._readable)
            os.close(self._writable)

    def _say(self, event: object) -> None:
        self._events.append(event)
        os.write(self._writable, b"\x00")


def evaluated(phase: str) -> Evaluated:
    return Evaluated(
        phase=phase, loss=3.14159, tokens=4000, rows=80, exact_header=40, exact_whole=8
    )
