"""What enclave, verifiers and market say to each other: every message, with every field.

Rules:
- A message is a document; its label says what it is. `parse_message` knows the whole list.
- Nothing here is believed for having arrived. Each class says who signs it, and over what.
- The *statement* is what hardware signs: its SHA-512 is the report data. There is one for each
  relying party, all over the same two keys.
- A *grant* is two documents: `GrantInfo`, public, which is HPKE's ``info``, and `GrantSecret`,
  sealed. The custodian signs (digest of the info, digest of the sealed bytes).
- Receipts and reports are cumulative and chained, so a lost one costs nothing but time.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Annotated, ClassVar, Final

from trust.encoding import (
    LABEL_PREFIX,
    Bytes32,
    Bytes64,
    Count,
    Decimal,
    Digest,
    Document,
    Name,
    Range,
    Size,
    Struct,
    Text,
    Uint16,
    Uint32,
    Uint53,
    UnixMilliseconds,
    digest,
    label_bytes,
)
from trust.errors import DocumentError
from trust.jobs import RANKS_MAX, ComputeClass, HpkeKey, LeaseId, Version

ATTACHMENT_BYTES_MAX: Final = 1 << 16  # a signed manifest has about 2 KiB, a job manifest 8
REPORT_BYTES_MAX: Final = 1 << 14
ENDORSEMENTS_MAX: Final = 64  # seven of Intel's; of each GPU four OCSP responses, two RIMs
ENDORSEMENT_BYTES_MAX: Final = 1 << 19  # a RIM has some 30 KiB; the verifier takes no longer one
GPU_DEVICES_MAX: Final = 16  # eight GPUs and four switches in the largest machine
GPU_REPORT_BYTES_MAX: Final = 1 << 14
GPU_CHAIN_BYTES_MAX: Final = 1 << 15
GPU_EVIDENCE_BYTES_MAX: Final = 1 << 19
SCOPES_MAX: Final = 32
ARTIFACTS_MAX: Final = 16

Attachment = Annotated[bytes, Size(least=1, most=ATTACHMENT_BYTES_MAX)]
Attachments = Annotated[tuple[Attachment, ...], Size(least=0, most=ARTIFACTS_MAX)]


class Purpose(enum.StrEnum):
    """What evidence is for. Evidence for one purpose is none for another."""

    RELEASE = "release"
    METER = "meter"
    SERVE = "serve"
    """For a client key, which then seals requests to the enclave (trust/serving.py)."""


# --- evidence ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hello(Document):
    """Enclave → verifier: I should like to be asked. A wish; nothing in it is believed."""

    LABEL: ClassVar[str] = "session/hello"

    version: Version
    purpose: Purpose
    verifier: Bytes32
    lease: LeaseId
    """Where the answer goes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Challenge(Document):
    """Verifier → enclave: a nonce of 32 random bytes, kept in memory, used once."""

    LABEL: ClassVar[str] = "session/challenge"

    verifier: Bytes32
    purpose: Purpose
    nonce: Bytes32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Statement(Document):
    """What the hardware signs for an enclave."""

    LABEL: ClassVar[str] = "statement"

    version: Version
    purpose: Purpose
    verifier: Bytes32
    nonce: Bytes32
    hpke_key: HpkeKey
    signing_key: Bytes32
    job: Digest
    lease: LeaseId
    generation: Count
    rank: Uint16
    ranks: Annotated[int, Range(least=1, most=RANKS_MAX)]
    launch: Digest
    gpu_evidence: Digest | None
    """None: the enclave shows no GPU."""

    @property
    def report_data(self) -> bytes:
        """SHA-512 of the document: all 64 bytes of the report data."""
        return hashlib.sha512(self.encode()).digest()

    @property
    def gpu_nonce(self) -> bytes:
        """What the GPU's evidence is made with: verifier's nonce and all the other fields."""
        blank = dataclasses.replace(self, gpu_evidence=None)
        return digest(label_bytes("gpu-nonce") + self.nonce + blank.digest)


class GpuDeviceKind(enum.StrEnum):
    """What an NVIDIA device is."""

    GPU = "gpu"
    SWITCH = "switch"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GpuDevice(Struct):
    """What one device said for one nonce, as it came from the driver: not yet believed."""

    kind: GpuDeviceKind
    report: Annotated[bytes, Size(least=1, most=GPU_REPORT_BYTES_MAX)]
    """SPDM: the request of GET_MEASUREMENTS (37 bytes), and the response with its signature."""
    chain: Annotated[bytes, Size(least=1, most=GPU_CHAIN_BYTES_MAX)]
    """Its certificates in PEM, its own first, the root last."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GpuEvidence(Document):
    """Evidence of all GPUs of one enclave, over `Statement.gpu_nonce`; its digest is stated."""

    LABEL: ClassVar[str] = "gpu-evidence"

    devices: Annotated[tuple[GpuDevice, ...], Size(least=1, most=GPU_DEVICES_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Endorsement(Struct):
    """A vendor's certificate, list or reference value, carried by the host.

    Believed by the vendor's signature. `docs/spec/evidence.md` lists the kinds.
    """

    kind: Name
    content: Annotated[bytes, Size(least=1, most=ENDORSEMENT_BYTES_MAX)]


Endorsements = Annotated[tuple[Endorsement, ...], Size(least=0, most=ENDORSEMENTS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceBundle(Document):
    """Enclave → verifier: evidence, with what is needed to check it. Signed by the chip."""

    LABEL: ClassVar[str] = "session/evidence"

    statement: Attachment
    """Bytes of a `Statement`."""
    launch: Attachment
    """Bytes of a `LaunchDocument`."""
    platform: Name
    report: Annotated[bytes, Size(least=1, most=REPORT_BYTES_MAX)]
    gpu: Annotated[bytes, Size(least=1, most=GPU_EVIDENCE_BYTES_MAX)] | None
    """Bytes of a `GpuEvidence`; None: the enclave shows no GPU."""
    endorsements: Endorsements


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeterRequest(Document):
    """Enclave → market: evidence for the market's own challenge, purpose *meter*."""

    LABEL: ClassVar[str] = "session/meter-request"

    evidence: Annotated[bytes, Size(least=1, most=1 << 19)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Metered(Document):
    """Market → enclave: receipts under this signing key will be believed."""

    LABEL: ClassVar[str] = "session/metered"

    signing_key: Bytes32
    nonce: Bytes32


# --- release -------------------------------------------------------------------------------------


class ScopeKind(enum.StrEnum):
    """What a share is for (trust/custody.py)."""

    INPUT = "input"
    OUTPUT = "output"
    DERIVED = "derived"
    GROUP = "group"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scope(Struct):
    """One share of a grant: which entry gives it, and what for."""

    scope: ScopeKind
    lineage: Annotated[bytes, Size(least=33, most=33)]
    epoch: Uint32
    core: Digest | None
    """Digest of the core that an input or derived share opens; None for output and group."""

    def _check(self) -> None:
        names_core = self.scope in (ScopeKind.INPUT, ScopeKind.DERIVED)
        if names_core != (self.core is not None):
            raise DocumentError(f"scope {self.scope.value} with{'' if self.core else 'out'} a core")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointAt(Struct):
    """A checkpoint in the order that counts: by generation, then by step."""

    generation: Count
    step: Uint53
    artifact: Digest

    @property
    def order(self) -> tuple[int, int]:
        """What "newer" compares."""
        return self.generation, self.step


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Allowance(Struct):
    """What the enclave may use before it asks again; None: this custodian sets no bound."""

    tokens: Uint53 | None
    steps: Uint53 | None
    reports: Uint53 | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseRequest(Document):
    """Enclave → custodian: evidence for its challenge, and the documents to decide on."""

    LABEL: ClassVar[str] = "session/release-request"

    evidence: Annotated[bytes, Size(least=1, most=1 << 19)]
    """Bytes of an `EvidenceBundle`."""
    job: Attachment
    """Signed `JobManifest`."""
    order: Attachment
    """Signed `GenerationOrder`."""
    terms: Attachment
    """Signed `Terms`."""
    manifests: Attachments
    """Signed `Manifest` of each input, in the job's order."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantInfo(Document):
    """The public half of a grant; HPKE's ``info``."""

    LABEL: ClassVar[str] = "grant"

    custodian: Bytes32
    scopes: Annotated[tuple[Scope, ...], Size(least=0, most=SCOPES_MAX)]
    nonce: Bytes32
    hpke_key: HpkeKey
    job: Digest
    generation: Count
    rank: Uint16
    number: Uint32
    """0: the seat's grant; else the number of the follow-up that it answers."""
    checkpoint: CheckpointAt | None
    """The newest checkpoint that this custodian knows of; None: it knows of none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantSecret(Document):
    """The sealed half of a grant."""

    LABEL: ClassVar[str] = "grant/secret"

    shares: Annotated[tuple[Bytes32, ...], Size(least=0, most=SCOPES_MAX)]
    """In the order of the info's scopes."""
    allowance: Allowance
    terms: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrantSigned(Document):
    """What the custodian signs: neither half can be swapped."""

    LABEL: ClassVar[str] = "grant/signed"

    info: Digest
    sealed: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grant(Document):
    """Custodian → enclave: a whole grant."""

    LABEL: ClassVar[str] = "session/grant"

    info: Attachment
    """Bytes of a `GrantInfo`."""
    sealed: Attachment
    """HPKE of a `GrantSecret` under that info."""
    signature: Bytes64
    """By the custodian, over a `GrantSigned`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Refused(Document):
    """Verifier → enclave: no, and why. `nonce` tells which question; never a secret in it."""

    LABEL: ClassVar[str] = "session/refused"

    verifier: Bytes32
    nonce: Bytes32
    code: Name
    text: Text


class FollowUpKind(enum.StrEnum):
    """What the holder of a seat asks next."""

    ACCOUNT = "account"
    SHARE = "share"
    CLOSE = "close"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Account(Struct):
    """What an enclave has used since its start: cumulative."""

    tokens: Uint53
    steps: Uint53
    reports: Uint53


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FollowUp(Document):
    """Enclave → custodian: numbered, signed by the seat's key, answered once and stored."""

    LABEL: ClassVar[str] = "session/follow-up"

    custodian: Bytes32
    nonce: Bytes32
    """The granted statement's."""
    job: Digest
    generation: Count
    rank: Uint16
    number: Count
    kind: FollowUpKind
    account: Account
    artifacts: Attachments
    """SHARE: signed manifests of the derived artifacts to open; else empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointReport(Document):
    """Enclave → both custodians, signed by the seat's key: this checkpoint is in the blob store."""

    LABEL: ClassVar[str] = "session/checkpoint"

    job: Digest
    generation: Count
    rank: Uint16
    step: Uint53
    manifest: Attachment
    """Signed `Manifest` of the checkpoint."""
    before: Digest | None
    """The report before, of this generation."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LogHead(Document):
    """Signed by a custodian: how far its release log goes."""

    LABEL: ClassVar[str] = "head"

    custodian: Bytes32
    incarnation: Uint32
    entries: Uint53
    chain: Digest
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement(Document):
    """Custodian → enclave, signed: this report is remembered, durably."""

    LABEL: ClassVar[str] = "session/acknowledgement"

    custodian: Bytes32
    report: Digest
    head: Attachment
    """Signed `LogHead` that covers it."""


# --- progress and receipts -----------------------------------------------------------------------


class ProgressEvent(enum.StrEnum):
    """What a progress record tells."""

    STARTED = "started"
    EVALUATED = "evaluated"
    STEP = "step"
    CHECKPOINT = "checkpoint"
    FINISHED = "finished"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Measure(Struct):
    """One number that leaves, sealed to the buyer, within the owner's terms."""

    measure: Name
    value: Decimal
    over_tokens: Uint53
    over_rows: Uint53


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Document):
    """Enclave → buyer: signed by the attested key *inside*, sealed to the job's progress key."""

    LABEL: ClassVar[str] = "progress"

    job: Digest
    generation: Count
    rank: Uint16
    number: Count
    event: ProgressEvent
    step: Uint53
    steps: Uint53
    tokens: Uint53
    milliseconds: Uint53
    measures: Annotated[tuple[Measure, ...], Size(least=0, most=16)]
    text: Text
    """For people: e.g. which line of the dataset is broken. Sealed, like all of this."""
    tensors: Digest | None
    """FINISHED: SHA-256 of the adapter's tensors."""
    resumed_from: CheckpointAt | None
    """STARTED: where this generation began; None: at the beginning."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealedProgress(Document):
    """The envelope that market and host carry: padded, opaque."""

    LABEL: ClassVar[str] = "session/progress"

    job: Digest
    sealed: Attachment


class End(enum.StrEnum):
    """The five ways in which a run ends, and all that market and hosts learn of it."""

    DONE = "done"
    STOPPED = "stopped"
    OUT_OF_BUDGET = "out_of_budget"
    REFUSED = "refused"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Receipt(Document):
    """Signed by the attested key; cumulative since this enclave's start, and chained."""

    LABEL: ClassVar[str] = "receipt"

    job: Digest
    lease: LeaseId
    generation: Count
    rank: Uint16
    number: Count
    before: Digest | None
    milliseconds: Uint53
    """By the enclave's own monotonic clock, since it had its shares."""
    first_step: Uint53
    """The step it started after."""
    step: Uint53
    tokens: Uint53
    """Training: steps of this run × rows a step × length_max, from the manifest alone. Serving:
    what was used, rounded up to a multiple of 2¹⁶, at least one, and at most hourly anew."""
    committed: Digest | None
    """The newest checkpoint that both custodians acknowledged."""
    world_size: Count
    compute_class: ComputeClass
    same_class: bool
    end: End | None
    outputs: Annotated[tuple[Digest, ...], Size(least=0, most=4)]
    """Artifact ids of what the job made; in the last receipt alone."""

    def _check(self) -> None:
        if self.step < self.first_step:
            raise DocumentError(f"receipt: step {self.step} is before {self.first_step}")
        if self.outputs and self.end is not End.DONE:
            raise DocumentError("receipt: outputs without the end 'done'")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptPosted(Document):
    """Market → enclave: this receipt is stored."""

    LABEL: ClassVar[str] = "session/receipt-posted"

    receipt: Digest


# --- serving -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RequestKey(Document):
    """Signed by the attested key: requests are sealed to this one until the next."""

    LABEL: ClassVar[str] = "request-key"

    job: Digest
    generation: Count
    rank: Uint16
    number: Count
    hpke_key: HpkeKey


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeOffer(Document):
    """Enclave → client: evidence for the client's own challenge, and the newest request key."""

    LABEL: ClassVar[str] = "session/serve-offer"

    evidence: Annotated[bytes, Size(least=1, most=1 << 19)]
    """Bytes of an `EvidenceBundle` of purpose *serve*."""
    request_key: Attachment
    """Signed `RequestKey`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeRequest(Document):
    """Client → enclave: one sealed request. Its *exchange* is the digest of the sealed bytes."""

    LABEL: ClassVar[str] = "session/serve-request"

    request_key: Digest
    """Of the `RequestKey` that it is sealed to."""
    sealed: Annotated[bytes, Size(least=1, most=1 << 19)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeFrame(Struct):
    """One frame of one reply."""

    exchange: Digest
    number: Uint32
    """From 0, without a gap."""
    chunk: Annotated[bytes, Size(least=1, most=1 << 15)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeFrames(Document):
    """Enclave → client: the frames of one tick, one for each reply that goes on."""

    LABEL: ClassVar[str] = "session/serve-frames"

    frames: Annotated[tuple[ServeFrame, ...], Size(least=1, most=256)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeRefused(Document):
    """Enclave → client: a request that did not open, so that nothing could be sealed in answer.

    Nobody signs it: it is a hint to renew the request key, and never the end of a reply.
    """

    LABEL: ClassVar[str] = "session/serve-refused"

    exchange: Digest
    code: Name


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeCancel(Document):
    """Client → enclave, signed by the client key: this reply is not wanted any more."""

    LABEL: ClassVar[str] = "session/serve-cancel"

    job: Digest
    generation: Count
    exchange: Digest


# --- hand-over -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Receiver(Struct):
    """Who is to have an adapter, and a key of its own that the shares are sealed to."""

    identity: Bytes32
    hpke_key: HpkeKey


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOverRequest(Document):
    """Receiver → custodian, signed by the receiver: give me your shares of this adapter."""

    LABEL: ClassVar[str] = "hand-over"

    version: Version
    custodian: Bytes32
    manifest: Attachment
    """Signed `Manifest` of the adapter, by the enclave that made it."""
    to: Receiver
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOverInfo(Document):
    """The public half of a hand-over; HPKE's ``info``."""

    LABEL: ClassVar[str] = "hand-over/info"

    custodian: Bytes32
    request: Digest
    to: Receiver
    scopes: Annotated[tuple[Scope, ...], Size(least=1, most=SCOPES_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOverSecret(Document):
    """The sealed half of a hand-over."""

    LABEL: ClassVar[str] = "hand-over/secret"

    shares: Annotated[tuple[Bytes32, ...], Size(least=1, most=SCOPES_MAX)]
    """In the order of the info's scopes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOver(Document):
    """Custodian → receiver, signed by the custodian."""

    LABEL: ClassVar[str] = "hand-over/answer"

    info: Attachment
    """Bytes of a `HandOverInfo`."""
    sealed: Attachment
    """HPKE of a `HandOverSecret` under that info."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HandOverRefused(Document):
    """Custodian → receiver, signed by the custodian: no, and whose policy or terms say so."""

    LABEL: ClassVar[str] = "hand-over/refused"

    custodian: Bytes32
    request: Digest
    code: Name
    text: Text


# --- the door ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Briefing(Document):
    """Agent → enclave, unasked for by anybody else: documents that prove themselves."""

    LABEL: ClassVar[str] = "session/briefing"

    job: Attachment
    order: Attachment
    terms: Attachment
    manifests: Attachments
    """Signed manifests of the inputs, in the job's order."""
    checkpoints: Attachments
    """Signed manifests of checkpoints of this job that the agent knows of."""
    endorsements: Endorsements


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignedMessage(Document):
    """A signed document inside a message stream: its bytes, as `trust.identity.Signed` encodes."""

    LABEL: ClassVar[str] = "session/signed"

    signed: Annotated[bytes, Size(least=1, most=1 << 19)]


Message = (
    Hello
    | Challenge
    | MeterRequest
    | Metered
    | ReleaseRequest
    | Grant
    | Refused
    | SealedProgress
    | ReceiptPosted
    | Briefing
    | ServeOffer
    | ServeRequest
    | ServeFrames
    | ServeRefused
    | SignedMessage
)

_MESSAGES: Final[dict[bytes, type[Message]]] = {
    label_bytes(kind.LABEL): kind
    for kind in (
        Hello,
        Challenge,
        MeterRequest,
        Metered,
        ReleaseRequest,
        Grant,
        Refused,
        SealedProgress,
        ReceiptPosted,
        Briefing,
        ServeOffer,
        ServeRequest,
        ServeFrames,
        ServeRefused,
        SignedMessage,
    )
}


def parse_message(data: bytes) -> Message:
    """Parse any message by its label. Raises DocumentError for a label that is no message's."""
    label = data[:64].partition(b"\x00")[0] + b"\x00"
    kind = _MESSAGES.get(label)
    if kind is None:
        raise DocumentError(f"no message of ours: label {label[:-1][:48]!r}")
    return kind.parse(data)


def signed_label(data: bytes) -> str:
    """Which document a signed document holds, from its bytes, before it is verified."""
    label = data[96:160].partition(b"\x00")[0].decode("ascii", "replace")
    return label.removeprefix(LABEL_PREFIX)


def lease_address(lease: str) -> bytes:
    """The mailbox of whatever runs under a lease: 32 bytes, derived, so nobody announces it."""
    return digest(label_bytes("address/lease") + lease.encode("ascii"))
