"""What a custodian's broker knows when it decides: its holdings and its memory.

- *Holdings* are what the party itself put into its home: keys, signed manifests of its own, terms,
  policies, jobs of its own. Kind, lineage, epoch and custodians of an input come from there.
- *Memory* is a fold over the release log's entries, and over nothing else: `remember` is the only
  way that it changes, so a broker that has replayed its log knows all that it ever let out.
- Both are frozen. A decision looks at one `State` and returns the entries that would change it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, TypeVar

from trust.artifacts import ArtifactKind, Core, Custodian, LineageId, Manifest
from trust.encoding import (
    Count,
    Digest,
    Document,
    Size,
    Struct,
    Uint16,
    UnixMilliseconds,
)
from trust.identity import PartyKey, Signed, verify_signed
from trust.image_release import ReleaseDemands, ReleaseMemory
from trust.jobs import (
    INPUTS_MAX,
    Close,
    GenerationOrder,
    JobManifest,
    Terms,
    UsePolicy,
)
from trust.messages import (
    Account,
    Allowance,
    Attachment,
    Attachments,
    CheckpointAt,
    CheckpointReport,
    FollowUpKind,
    HandOverRequest,
    Purpose,
    Receipt,
    Statement,
)
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.reference import ReferenceValues

ORDERS_MAX: Final = 1024  # a job's highest number of generations (trust/jobs.py)
STORED_BYTES_MAX: Final = 1 << 18  # a grant is two attachments and a signature
COLLATERAL_MAX: Final = 16  # certificates and lists of one piece of evidence

StoredGrant = Annotated[bytes, Size(least=1, most=STORED_BYTES_MAX)]
SeatName = tuple[bytes, int, int]
"""Job digest, generation, rank."""
NOTHING_USED: Final = Account(tokens=0, steps=0, reports=0)


# --- entries of the log --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opened(Struct):
    """A new incarnation of this broker. The log's first entry is incarnation 1."""

    TAG: ClassVar[str | None] = "opened"

    incarnation: Count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Released(Struct):
    """A seat's grant, whole: who got what, for which job, on which chip, by which verdict."""

    TAG: ClassVar[str | None] = "released"

    job: Attachment
    """Signed `JobManifest`."""
    orders: Annotated[tuple[Attachment, ...], Size(least=1, most=ORDERS_MAX)]
    """Signed generation orders that were new to this log; the last is the seat's."""
    statement: Attachment
    terms: Digest
    model: LineageId
    """Lineage of the job's model: budgets count by it."""
    policies: Annotated[tuple[Digest, ...], Size(least=1, most=INPUTS_MAX)]
    verdicts: Annotated[tuple[Digest, ...], Size(least=1, most=INPUTS_MAX)]
    """Digests of the appraisal policies, and of the attestation results under them."""
    collateral: Annotated[tuple[Digest, ...], Size(least=0, most=COLLATERAL_MAX)]
    chip_id: Annotated[bytes, Size(least=1, most=64)] | None
    """None: the evidence names no chip."""
    custodians: Annotated[tuple[Custodian, ...], Size(least=1, most=8)]
    """Of whatever the job makes."""
    allowance: Allowance
    checkpoint: CheckpointAt | None
    """The one that the grant states."""
    grant: StoredGrant
    """The `Grant` as it was sent."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FollowedUp(Struct):
    """A follow-up and its answer."""

    TAG: ClassVar[str | None] = "followed-up"

    job: Digest
    generation: Count
    rank: Uint16
    number: Count
    question: Digest
    """Of the follow-up: the same question gets the same answer."""
    kind: FollowUpKind
    account: Account
    allowance: Allowance
    """Cumulative, since the enclave's start."""
    artifacts: Attachments
    """SHARE: the signed manifests whose shares were given; else empty."""
    grant: StoredGrant


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Noted(Struct):
    """A checkpoint that counts here: its every segment was in the blob store."""

    TAG: ClassVar[str | None] = "noted"

    report: Attachment
    """Signed `CheckpointReport`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ordered(Struct):
    """A generation order that this broker signed, as the job's buyer."""

    TAG: ClassVar[str | None] = "ordered"

    order: Attachment


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Received(Struct):
    """A receipt whose key, chain and counts hold."""

    TAG: ClassVar[str | None] = "received"

    receipt: Attachment


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Closed(Struct):
    """A job that its buyer closed."""

    TAG: ClassVar[str | None] = "closed"

    close: Attachment


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandedOver(Struct):
    """Shares of one adapter that left for a party's own key, outside any enclave."""

    TAG: ClassVar[str | None] = "handed-over"

    request: Attachment
    """Signed `HandOverRequest`: it names the receiver, and holds the adapter's manifest."""
    answer: StoredGrant
    """The message as it was sent."""


Body = Opened | Released | FollowedUp | Noted | Ordered | Received | Closed | HandedOver


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LogEntry(Document):
    """One line of the release log; its digest is the log's chain up to it."""

    LABEL: ClassVar[str] = "log"

    number: Count
    before: Digest | None
    """Digest of entry number-1; None for the first."""
    at: UnixMilliseconds
    body: Body


# --- memory --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The stored answer to one follow-up."""

    question: bytes
    grant: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """Who holds (job, generation, rank), and all that it was given."""

    statement: Statement
    terms: bytes
    model: bytes
    custodians: tuple[Custodian, ...]
    checkpoint: CheckpointAt | None
    grant: bytes
    allowance: Allowance
    """Granted so far, cumulative."""
    account: Account
    """Last told by its holder."""
    answers: tuple[Answer, ...]
    """Follow-up number n is at n-1."""
    closed: bool
    receipt: Receipt | None
    """The newest."""

    @property
    def name(self) -> SeatName:
        """Job digest, generation, rank."""
        return self.statement.job, self.statement.generation, self.statement.rank


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The newest checkpoint of a job that counts here."""

    at: CheckpointAt
    core: Core
    report: bytes
    """Digest of the report."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A hand-over that was made."""

    artifact: bytes
    receiver: bytes
    answer: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """An allowance, counted as spent when it was granted."""

    at: int
    buyer: bytes
    model: bytes
    seat: SeatName
    tokens: int
    steps: int
    reports: int


K = TypeVar("K")
V = TypeVar("V")


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


def _with(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    return MappingProxyType({**mapping, key: value})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """All that the release log says."""

    incarnation: int = 0
    opened_at: int = 0
    """When this incarnation was opened: Unix milliseconds."""
    jobs: Mapping[bytes, JobManifest] = dataclasses.field(default_factory=_empty)
    """Jobs that something was released for."""
    seats: Mapping[SeatName, Seat] = dataclasses.field(default_factory=_empty)
    newest: Mapping[tuple[bytes, int], int] = dataclasses.field(default_factory=_empty)
    """(Job, rank) → highest generation released for."""
    orders: Mapping[bytes, tuple[Signed[GenerationOrder], ...]] = dataclasses.field(
        default_factory=_empty
    )
    """Job → its orders, number n at n-1."""
    checkpoints: Mapping[bytes, Checkpoint] = dataclasses.field(default_factory=_empty)
    """Job → the newest that counts."""
    noted: Mapping[bytes, CheckpointAt] = dataclasses.field(default_factory=_empty)
    """Artifact id → where it stands, of every checkpoint that ever counted."""
    outputs: Mapping[bytes, Signed[Manifest]] = dataclasses.field(default_factory=_empty)
    """Artifact id → the manifest that its maker signed, of every adapter that was reopened."""
    terms: Mapping[bytes, bytes] = dataclasses.field(default_factory=_empty)
    """Job → the terms of its first release: later generations keep them."""
    spending: tuple[Spending, ...] = ()
    closed: Mapping[bytes, bytes] = dataclasses.field(default_factory=_empty)
    """Job → its buyer's signed `Close`."""
    receipts: Mapping[bytes, tuple[Signed[Receipt], ...]] = dataclasses.field(
        default_factory=_empty
    )
    """Job → receipts in the order in which they came."""
    handed: Mapping[bytes, Handed] = dataclasses.field(default_factory=_empty)
    """Digest of a hand-over request → what it got."""

    def generation(self, job: bytes) -> int:
        """Highest generation that anything of this job was released for; 0: none."""
        return max((n for (name, _), n in self.newest.items() if name == job), default=0)

    def made_by(self, job: bytes, generation: int, key: bytes) -> Seat | None:
        """The seat of one generation whose holder has this signing key; None: this log has none."""
        return next(
            (
                seat
                for (name, number, _), seat in self.seats.items()
                if (name, number) == (job, generation) and seat.statement.signing_key == key
            ),
            None,
        )

    def enclave_keys(self, job: bytes, generation: int) -> frozenset[bytes]:
        """Signing keys that this log shows as attested for one generation."""
        return frozenset(
            seat.statement.signing_key
            for (name, number, _), seat in self.seats.items()
            if (name, number) == (job, generation)
        )


def remember(memory: Memory, entry: LogEntry) -> Memory:
    """Memory after one more entry. The log's chain is checked by whoever reads it."""
    match entry.body:
        case Opened(incarnation=incarnation):
            return dataclasses.replace(memory, incarnation=incarnation, opened_at=entry.at)
        case Released() as body:
            return _after_release(memory, body, entry.at)
        case FollowedUp() as body:
            return _after_follow_up(memory, body, entry.at)
        case Noted(report=data):
            return _after_report(memory, verify_signed(CheckpointReport, data, signer=None))
        case Ordered(order=data):
            order = verify_signed(GenerationOrder, data, signer=None)
            orders = _with_orders(memory, order.document.job, (order,))
            return dataclasses.replace(memory, orders=orders)
        case Received(receipt=data):
            return _after_receipt(memory, verify_signed(Receipt, data, signer=None))
        case Closed(close=data):
            job = verify_signed(Close, data, signer=None).document.job
            return dataclasses.replace(memory, closed=_with(memory.closed, job, data))
        case HandedOver(request=data, answer=answer):
            return _after_hand_over(
                memory, verify_signed(HandOverRequest, data, signer=None), answer
            )


def _with_orders(
    memory: Memory, job: bytes, orders: tuple[Signed[GenerationOrder], ...]
) -> Mapping[bytes, tuple[Signed[GenerationOrder], ...]]:
    known = memory.orders.get(job, ())
    fresh = tuple(each for each in orders if each.document.number > len(known))
    return _with(memory.orders, job, known + fresh)


def _after_release(memory: Memory, body: Released, at: int) -> Memory:
    job = verify_signed(JobManifest, body.job, signer=None).document
    statement = Statement.parse(body.statement)
    orders = tuple(verify_signed(GenerationOrder, each, signer=None) for each in body.orders)
    seat = Seat(
        statement=statement,
        terms=body.terms,
        model=body.model,
        custodians=body.custodians,
        checkpoint=body.checkpoint,
        grant=body.grant,
        allowance=body.allowance,
        account=NOTHING_USED,
        answers=(),
        closed=False,
        receipt=None,
    )
    return dataclasses.replace(
        memory,
        jobs=_with(memory.jobs, statement.job, job),
        seats=_with(memory.seats, seat.name, seat),
        newest=_with(memory.newest, (statement.job, statement.rank), statement.generation),
        orders=_with_orders(memory, statement.job, orders),
        terms=_with(memory.terms, statement.job, memory.terms.get(statement.job, body.terms)),
        spending=(*memory.spending, _spending(job, seat, NOTHING_USED, at)),
    )


def _after_follow_up(memory: Memory, body: FollowedUp, at: int) -> Memory:
    old = memory.seats[body.job, body.generation, body.rank]
    new = dataclasses.replace(
        old,
        allowance=body.allowance,
        account=body.account,
        answers=(*old.answers, Answer(question=body.question, grant=body.grant)),
        closed=old.closed or body.kind is FollowUpKind.CLOSE,
    )
    before = _as_account(old.allowance)
    spending = (*memory.spending, _spending(memory.jobs[body.job], new, before, at))
    if new.closed:
        spending = _give_back(memory.spending, new)
    return dataclasses.replace(
        memory,
        seats=_with(memory.seats, new.name, new),
        outputs=_with_outputs(memory, body.artifacts),
        spending=spending,
    )


def _with_outputs(memory: Memory, artifacts: Sequence[bytes]) -> Mapping[bytes, Signed[Manifest]]:
    outputs = memory.outputs
    for data in artifacts:
        manifest = verify_signed(Manifest, data, signer=None)
        if manifest.document.core.kind is ArtifactKind.ADAPTER:
            outputs = _with(outputs, manifest.digest, manifest)
    return outputs


def _after_report(memory: Memory, report: Signed[CheckpointReport]) -> Memory:
    said = report.document
    manifest = verify_signed(Manifest, said.manifest, signer=None)
    checkpoint = Checkpoint(
        at=CheckpointAt(generation=said.generation, step=said.step, artifact=manifest.digest),
        core=manifest.document.core,
        report=report.digest,
    )
    return dataclasses.replace(
        memory,
        checkpoints=_with(memory.checkpoints, said.job, checkpoint),
        noted=_with(memory.noted, manifest.digest, checkpoint.at),
    )


def _after_receipt(memory: Memory, receipt: Signed[Receipt]) -> Memory:
    said = receipt.document
    name = (said.job, said.generation, said.rank)
    seat = dataclasses.replace(memory.seats[name], receipt=said)
    known = memory.receipts.get(said.job, ())
    return dataclasses.replace(
        memory,
        seats=_with(memory.seats, name, seat),
        receipts=_with(memory.receipts, said.job, (*known, receipt)),
    )


def _after_hand_over(memory: Memory, request: Signed[HandOverRequest], answer: bytes) -> Memory:
    said = request.document
    artifact = verify_signed(Manifest, said.manifest, signer=None).digest
    handed = Handed(artifact=artifact, receiver=said.to.identity, answer=answer)
    return dataclasses.replace(memory, handed=_with(memory.handed, request.digest, handed))


# --- what was spent ------------------------------------------------------------------------------


def _as_account(allowance: Allowance) -> Account:
    return Account(
        tokens=allowance.tokens or 0, steps=allowance.steps or 0, reports=allowance.reports or 0
    )


def _spending(job: JobManifest, seat: Seat, before: Account, at: int) -> Spending:
    """What an allowance adds to what the same seat had already."""
    total = _as_account(seat.allowance)
    return Spending(
        at=at,
        buyer=job.buyer,
        model=seat.model,
        seat=seat.name,
        tokens=max(0, total.tokens - before.tokens),
        steps=max(0, total.steps - before.steps),
        reports=max(0, total.reports - before.reports),
    )


def _give_back(spending: tuple[Spending, ...], seat: Seat) -> tuple[Spending, ...]:
    """A closing account leaves the seat's spending at what was used, its oldest grants first."""
    left = seat.account
    result = []
    for each in spending:
        if each.seat != seat.name:
            result.append(each)
            continue
        kept = Account(
            tokens=min(each.tokens, left.tokens),
            steps=min(each.steps, left.steps),
            reports=min(each.reports, left.reports),
        )
        left = Account(
            tokens=left.tokens - kept.tokens,
            steps=left.steps - kept.steps,
            reports=left.reports - kept.reports,
        )
        result.append(
            dataclasses.replace(each, tokens=kept.tokens, steps=kept.steps, reports=kept.reports)
        )
    return tuple(result)


# --- the snapshot --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AcceptedReleases:
    """Releases of images that this party accepted, and under which demands."""

    demands: ReleaseDemands
    memory: ReleaseMemory

    def values(self, policy: AppraisalPolicy, now: int) -> ReferenceValues | None:
        """What counts for this policy: if it makes these very demands; None: nothing does.

        Raises RefusedError if all of it has become too old.
        """
        return self.memory.values(self.demands, now) if policy.releases == self.demands else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Holdings:
    """What the party put into its home."""

    key: PartyKey
    market: bytes
    """Identity of the market that enclaves are metered by."""
    lineage_keys: Mapping[tuple[bytes, int], bytes]
    """(Lineage, epoch) → 32 bytes. A shredded one is absent."""
    manifests: Mapping[bytes, Signed[Manifest]]
    """Own registry: artifact id → manifest signed by this party."""
    terms: Mapping[bytes, Signed[Terms]]
    """Own terms by digest, old ones too: running jobs keep theirs."""
    policies: tuple[Signed[UsePolicy], ...]
    appraisal_policies: Mapping[bytes, AppraisalPolicy]
    jobs: Mapping[bytes, Signed[JobManifest]]
    """Jobs that this party submitted."""
    releases: AcceptedReleases | None = None
    """Images that it took from a log; None: it pins its own alone."""

    @property
    def identity(self) -> bytes:
        """The custodian's name."""
        return self.key.identity

    def newest_terms(self, lineage: bytes) -> Terms | None:
        """The highest-numbered terms of a model; None: it has none."""
        own = (each.document for each in self.terms.values() if lineage in each.document.lineages)
        return max(own, key=lambda each: each.number, default=None)

    def use_policy(self, lineage: bytes) -> UsePolicy | None:
        """The highest-numbered use policy of a lineage; None: it has none."""
        own = (each.document for each in self.policies if lineage in each.document.lineages)
        return max(own, key=lambda each: each.number, default=None)


class Standing(enum.Enum):
    """Whether this log is the newest that this custodian ever wrote, as far as anybody knows."""

    CURRENT = "current"
    BEHIND = "behind"
    """Somebody holds a head of it that it does not reach: it was restored or copied."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Challenged:
    """A nonce that was handed out, kept in memory alone."""

    purpose: Purpose
    at: int
    """When: Unix milliseconds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All that one decision looks at."""

    holdings: Holdings
    memory: Memory
    challenges: Mapping[bytes, Challenged]
    """Nonce → challenge, of those not used yet."""
    standing: Standing
    heads_from: frozenset[bytes]
    """Other custodians that have said, since this start, how far they saw this log go."""
