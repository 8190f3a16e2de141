"""An owner, a buyer, a chip and an enclave, with real keys, evidence and decisions."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tests.trust import makers
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest, Origin
from trust.custody import LineageKind, lineage_id, output_custodians
from trust.identity import PartyKey, Signed
from trust.jobs import (
    GenerationOrder,
    Input,
    InputRole,
    JobManifest,
    LaunchDocument,
    LaunchPurpose,
    RankLease,
    Terms,
    UsePolicy,
)
from trust.messages import (
    Account,
    CheckpointReport,
    Endorsement,
    EvidenceBundle,
    FollowUp,
    FollowUpKind,
    Grant,
    GrantInfo,
    GrantSecret,
    Purpose,
    Receipt,
    ReleaseRequest,
    Statement,
)
from trust.release import Decision, Refusal, ReleaseAsked, Request, decide
from trust.release_state import (
    Body,
    Challenged,
    Holdings,
    LogEntry,
    Memory,
    Opened,
    Standing,
    State,
    remember,
)
from trust.sealing import HpkePrivateKey, segment_count
from trust.simulated.chip import SimulatedChip
from trust.simulated.root import SimulatedRoot
from trust.verifier.policy import AppraisalPolicy, simulated_policy

NOW = 1_800_000_000_000
HOUR = 3_600_000
IMAGE = bytes(range(48))
MARKET = bytes([9]) * 32
JOB_ENDS = NOW + 1000 * HOUR


@functools.cache
def root() -> SimulatedRoot:
    return SimulatedRoot.create(dt.datetime.fromtimestamp(NOW / 1000 - 3600, dt.UTC))


@functools.cache
def chip() -> SimulatedChip:
    return root().issue_chip(bytes(64), dt.datetime.fromtimestamp(NOW / 1000 - 3600, dt.UTC))


def lease(number: int) -> str:
    return "leas_" + f"{number:026d}"


class Enclave:
    """Two keys, and what they sign."""

    def __init__(self) -> None:
        self.hpke = HpkePrivateKey.generate()
        self.party = PartyKey.generate()

    def open(self, grant: bytes) -> tuple[GrantInfo, GrantSecret]:
        parsed = Grant.parse(grant)
        secret = self.hpke.open(parsed.sealed, info=parsed.info)
        return GrantInfo.parse(parsed.info), GrantSecret.parse(secret)


def manifest(core: Core) -> Manifest:
    return Manifest(
        core=core,
        padded_bytes=1 << 16,
        segments=segment_count(1 << 16),
        segment_list=secrets.token_bytes(32),
        commitment=secrets.token_bytes(32),
        public_files=(),
    )


def sealed(key: PartyKey, kind: ArtifactKind, entry: Custodian) -> Signed[Manifest]:
    core = Core(kind=kind, seal_id=secrets.token_bytes(32), custodians=(entry,), origin=None)
    return key.sign(manifest(core))


@dataclasses.dataclass
class Party:
    """A custodian with what it holds, and the decisions that it made."""

    key: PartyKey
    entry: Custodian
    lineage_key: bytes
    manifests: dict[bytes, Signed[Manifest]]
    terms: dict[bytes, Signed[Terms]]
    policies: list[Signed[UsePolicy]]
    appraisal: AppraisalPolicy
    jobs: dict[bytes, Signed[JobManifest]]
    memory: Memory = dataclasses.field(default_factory=Memory)
    entries: list[LogEntry] = dataclasses.field(default_factory=list)
    challenges: dict[bytes, Challenged] = dataclasses.field(default_factory=dict)
    standing: Standing = Standing.CURRENT
    heads_from: frozenset[bytes] = frozenset()
    market: bytes = MARKET

    def __post_init__(self) -> None:
        if not self.entries:
            self.write((Opened(incarnation=1),), NOW - HOUR)

    @property
    def holdings(self) -> Holdings:
        return Holdings(
            key=self.key,
            market=self.market,
            lineage_keys={(self.entry.lineage, self.entry.epoch): self.lineage_key},
            manifests=self.manifests,
            terms=self.terms,
            policies=tuple(self.policies),
            appraisal_policies={self.appraisal.digest: self.appraisal},
            jobs=self.jobs,
        )

    def state(self) -> State:
        return State(
            holdings=self.holdings,
            memory=self.memory,
            challenges=MappingProxyType(dict(self.challenges)),
            standing=self.standing,
            heads_from=self.heads_from,
        )

    def write(self, bodies: Sequence[Body], now: int) -> None:
        for body in bodies:
            before = self.entries[-1].digest if self.entries else None
            entry = LogEntry(number=len(self.entries) + 1, before=before, at=now, body=body)
            entry = LogEntry.parse(entry.encode())
            self.entries.append(entry)
            self.memory = remember(self.memory, entry)

    def challenge(self, now: int = NOW, purpose: Purpose = Purpose.RELEASE) -> bytes:
        nonce = secrets.token_bytes(32)
        self.challenges[nonce] = Challenged(purpose=purpose, at=now)
        return nonce

    def ask(self, request: Request, now: int = NOW) -> Decision | Refusal:
        """Decide, and do what a broker does: use the nonce up, and write before sending."""
        result = decide(self.state(), request, now)
        if isinstance(request, ReleaseAsked):
            bundle = EvidenceBundle.parse(request.request.evidence)
            self.challenges.pop(Statement.parse(bundle.statement).nonce, None)
        if isinstance(result, Decision):
            self.write(result.entries, now)
        return result


def party(kind: LineageKind = LineageKind.SIMULATED) -> Party:
    key = PartyKey.generate()
    entry = Custodian(
        identity=key.identity, lineage=lineage_id(kind, key.identity, bytes(32)), epoch=1
    )
    appraisal = simulated_policy(root().fingerprint, [IMAGE])
    policy = UsePolicy(
        version=1,
        custodian=key.identity,
        number=1,
        lineages=(entry.lineage,),
        appraisal_policy=appraisal.digest,
        jobs_signed_by=None,
        adapter_to=(),
    )
    return Party(
        key=key,
        entry=entry,
        lineage_key=secrets.token_bytes(32),
        manifests={},
        terms={},
        policies=[key.sign(policy)],
        appraisal=appraisal,
        jobs={},
    )


class World:
    """One job of a buyer on an owner's model."""

    def __init__(
        self, *, kind: LineageKind = LineageKind.SIMULATED, data_kind: LineageKind | None = None
    ) -> None:
        self.owner, self.buyer = party(kind), party(data_kind or kind)
        self.owner.heads_from = frozenset({self.buyer.key.identity})
        self.buyer.heads_from = frozenset({self.owner.key.identity})
        self.model = sealed(self.owner.key, ArtifactKind.WEIGHTS, self.owner.entry)
        self.rows = sealed(self.buyer.key, ArtifactKind.DATASET, self.buyer.entry)
        self.heldout = sealed(self.buyer.key, ArtifactKind.DATASET, self.buyer.entry)
        self.owner.manifests[self.model.digest] = self.model
        for each in (self.rows, self.heldout):
            self.buyer.manifests[each.digest] = each
        self.terms = self.publish(number=1)
        self.job = self.submit()
        self.orders: list[Signed[GenerationOrder]] = []

    # --- documents -------------------------------------------------------------------------------

    def publish(self, **changed: Any) -> Signed[Terms]:
        fields = {
            "owner": self.owner.key.identity,
            "lineages": (self.owner.entry.lineage,),
            "expires_at": JOB_ENDS,
            **changed,
        }
        terms = self.owner.key.sign(dataclasses.replace(makers.terms(), **fields))
        self.owner.terms[terms.digest] = terms
        return terms

    def submit(self, *, signer: PartyKey | None = None, **changed: Any) -> Signed[JobManifest]:
        artifacts = {
            InputRole.MODEL: self.model,
            InputRole.DATASET: self.rows,
            InputRole.HELDOUT: self.heldout,
        }
        fields = {
            "buyer": self.buyer.key.identity,
            "nonce": secrets.token_bytes(32),
            "inputs": tuple(Input(role=r, artifact=m.digest) for r, m in artifacts.items()),
            "terms": self.terms.digest,
            "images": (IMAGE,),
            "expires_at": JOB_ENDS,
            **changed,
        }
        job = (signer or self.buyer.key).sign(dataclasses.replace(makers.job_manifest(), **fields))
        self.buyer.jobs[job.digest] = job
        return job

    def order(self, number: int, *, signer: PartyKey | None = None, **changed: Any) -> Signed[Any]:
        """Order generation `number`; an honest one goes on the chain."""
        ranks = self.job.document.enclaves
        before = self.orders[number - 2].digest if number > 1 else None
        fields = {
            "job": self.job.digest,
            "number": number,
            "leases": tuple(RankLease(rank=r, lease=lease(100 * number + r)) for r in range(ranks)),
            "expires_at": NOW + HOUR,
            "before": before,
            **changed,
        }
        signed = (signer or self.buyer.key).sign(GenerationOrder(**fields))
        if signer is None and not changed and len(self.orders) == number - 1:
            self.orders.append(signed)
        return signed

    @property
    def manifests(self) -> tuple[bytes, ...]:
        return tuple(each.encode() for each in (self.model, self.rows, self.heldout))

    # --- an enclave asks -------------------------------------------------------------------------

    def launch(self, generation: int, rank: int = 0, /, **changed: Any) -> LaunchDocument:
        fields = {
            "version": 1,
            "purpose": LaunchPurpose.RUN,
            "job": self.job.digest,
            "lease": lease(100 * generation + rank),
            "generation": generation,
            "rank": rank,
            "ranks": self.job.document.enclaves,
            "market": MARKET,
            **changed,
        }
        return LaunchDocument(**fields)

    def request(
        self,
        to: Party,
        enclave: Enclave,
        generation: int = 1,
        rank: int = 0,
        *,
        nonce: bytes | None = None,
        statement: Mapping[str, Any] = MappingProxyType({}),
        launch: bytes | None = None,
        launch_fields: Mapping[str, Any] = MappingProxyType({}),
        measurement: bytes = IMAGE,
        host_data: bytes | None = None,
        report_data: bytes | None = None,
        chip: SimulatedChip | None = None,
        order: Signed[GenerationOrder] | None = None,
        orders: Sequence[Signed[GenerationOrder]] | None = None,
        **documents: Any,
    ) -> ReleaseAsked:
        """The request of an honest enclave, but for what the test changes."""
        if launch is None:
            launch = self.launch(generation, rank, **launch_fields).encode()
        from trust.encoding import digest

        said = Statement(
            **{
                "version": 1,
                "purpose": Purpose.RELEASE,
                "verifier": to.key.identity,
                "nonce": nonce or to.challenge(),
                "hpke_key": enclave.hpke.public,
                "signing_key": enclave.party.identity,
                "job": self.job.digest,
                "lease": lease(100 * generation + rank),
                "generation": generation,
                "rank": rank,
                "ranks": self.job.document.enclaves,
                "launch": digest(launch),
                "gpu_evidence": None,
                **statement,
            }
        )
        a_chip = chip or globals()["chip"]()
        report = a_chip.report(
            report_data=report_data or said.report_data,
            host_data=host_data or digest(launch),
            measurement=measurement,
        )
        bundle = EvidenceBundle(
            statement=said.encode(),
            launch=launch,
            platform="sev-snp",
            report=report,
            gpu=None,
            endorsements=tuple(
                Endorsement(kind=kind, content=content) for kind, content in a_chip.endorsements()
            ),
        )
        while len(self.orders) < generation and order is None:
            self.order(len(self.orders) + 1)
        the_order = order or self.orders[generation - 1]
        fields = {
            "evidence": bundle.encode(),
            "job": self.job.encode(),
            "order": the_order.encode(),
            "terms": self.terms.encode(),
            "manifests": self.manifests,
            **documents,
        }
        chain = self.orders if orders is None else orders
        return ReleaseAsked(
            request=ReleaseRequest(**fields), orders=tuple(each.encode() for each in chain)
        )

    def seat(self, to: Party, enclave: Enclave, generation: int = 1, rank: int = 0) -> bytes:
        """Release honestly; returns the grant."""
        result = to.ask(self.request(to, enclave, generation, rank))
        assert isinstance(result, Decision), result
        assert result.answer is not None
        return result.answer

    # --- afterwards ------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[Custodian, ...]:
        cores = [each.document.core for each in (self.model, self.rows, self.heldout)]
        return output_custodians(cores)

    def derived(
        self, maker: PartyKey, kind: ArtifactKind, generation: int = 1, **changed: Any
    ) -> Signed[Manifest]:
        fields = {
            "kind": kind,
            "seal_id": secrets.token_bytes(32),
            "custodians": self.entries,
            "origin": Origin(job=self.job.digest, generation=generation),
            **changed,
        }
        return maker.sign(manifest(Core(**fields)))

    def report(
        self,
        enclave: Enclave,
        step: int,
        generation: int = 1,
        *,
        before: bytes | None = None,
        signed: Signed[Manifest] | None = None,
        **changed: Any,
    ) -> Signed[CheckpointReport]:
        made = signed or self.derived(enclave.party, ArtifactKind.CHECKPOINT, generation)
        fields = {
            "job": self.job.digest,
            "generation": generation,
            "rank": 0,
            "step": step,
            "manifest": made.encode(),
            "before": before,
            **changed,
        }
        return enclave.party.sign(CheckpointReport(**fields))

    def follow_up(
        self,
        to: Party,
        enclave: Enclave,
        number: int,
        kind: FollowUpKind,
        *,
        generation: int = 1,
        artifacts: Sequence[Signed[Manifest]] = (),
        used: tuple[int, int, int] = (0, 0, 0),
        **changed: Any,
    ) -> Signed[FollowUp]:
        seat = to.memory.seats.get((self.job.digest, generation, 0))
        tokens, steps, reports = used
        fields = {
            "custodian": to.key.identity,
            "nonce": bytes(32) if seat is None else seat.statement.nonce,
            "job": self.job.digest,
            "generation": generation,
            "rank": 0,
            "number": number,
            "kind": kind,
            "account": Account(tokens=tokens, steps=steps, reports=reports),
            "artifacts": tuple(each.encode() for each in artifacts),
            **changed,
        }
        return enclave.party.sign(FollowUp(**fields))

    def receipt(
        self, enclave: Enclave, number: int, step: int, *, generation: int = 1, **changed: Any
    ) -> Signed[Receipt]:
        job = self.job.document
        rows = job.recipe.rows_per_step  # type: ignore[union-attr]
        first = changed.get("first_step", 0)
        fields = {
            "job": self.job.digest,
            "lease": lease(100 * generation),
            "generation": generation,
            "rank": 0,
            "number": number,
            "before": None,
            "milliseconds": 1000 * number,
            "first_step": 0,
            "step": step,
            "tokens": (step - first) * rows * job.length_max,
            "committed": None,
            "world_size": job.world_size,
            "compute_class": "cpu",
            "same_class": True,
            "end": None,
            "outputs": (),
            **changed,
        }
        return enclave.party.sign(Receipt(**fields))


def code(result: Decision | Refusal) -> str:
    """The refusal's word; a decision is none."""
    assert isinstance(result, Refusal), "it was not refused"
    return result.code
