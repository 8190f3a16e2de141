"""What an agent may ask of the launcher, over the launcher's own UNIX socket: a closed list.

Rules:
- One packet asks, one answers, in turn: canonical JSON, as with a simulated chip (`chip_wire`).
- No path, no flag and no text of QEMU's stands in an ask. An image is named by digest, a GPU by its
  PCI address, a platform by a word; sizes are numbers. All else is the host's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from provider_agent.chip_wire import LAUNCH_BYTES_MAX, ChipRefusal, Status, Stop, Stopped, Wait
from provider_agent.machines.config import MACHINES_MAX
from provider_agent.machines.gpus import GpuState
from provider_agent.machines.records import MachineRecord, PciAddress
from provider_agent.machines.spec import GPUS_MAX, Platform
from trust.encoding import (
    Bytes16,
    Count,
    Digest,
    Size,
    Struct,
    Text,
    Uint16,
    canonical_json,
    parse_canonical_json,
)
from trust.errors import DocumentError
from trust.jobs import LeaseId

GpuList = Annotated[tuple[PciAddress, ...], Size(least=0, most=GPUS_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchMachine(Struct):
    """Start a machine. Two listening UNIX sockets come with it: messages, blobs."""

    TAG: ClassVar[str | None] = "launch-machine"

    platform: Platform
    """What the agent is enrolled as: another launcher refuses it."""
    image: Digest
    memory_mib: Count
    vcpus: Count
    gpus: GpuList
    document: Annotated[bytes, Size(least=1, most=LAUNCH_BYTES_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareGpu(Struct):
    """Claim GPUs for a lease and prove that they are fit, before its launch does it again."""

    TAG: ClassVar[str | None] = "prepare-gpu"

    lease: LeaseId
    gpus: Annotated[tuple[PciAddress, ...], Size(least=1, most=GPUS_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe(Struct):
    """What can this host's QEMU do?"""

    TAG: ClassVar[str | None] = "probe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Read(Struct):
    """Read something of the host's that the agent may not: a word of `readings.READINGS`."""

    TAG: ClassVar[str | None] = "read"

    reading: Text


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineView(Struct):
    """One machine, as its record has it."""

    TAG: ClassVar[str | None] = "machine"

    record: MachineRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuView(Struct):
    """One GPU of the host."""

    address: PciAddress
    state: GpuState
    detail: Text
    """The lease that has it, or the code it is quarantined for."""
    remedy: Text
    """What a person does about a quarantine; empty: nothing is to be done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinesView(Struct):
    """The host, and all that runs on it."""

    TAG: ClassVar[str | None] = "machines"

    incarnation: Bytes16
    """This boot of the host: machines outlive their launcher, and not their host."""
    platform: Platform
    machines: Annotated[tuple[MachineRecord, ...], Size(least=0, most=4 * MACHINES_MAX)]
    gpus: Annotated[tuple[GpuView, ...], Size(least=0, most=GPUS_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared(Struct):
    """They are the lease's, and fit."""

    TAG: ClassVar[str | None] = "prepared"

    lease: LeaseId


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed(Struct):
    """What QEMU answered."""

    TAG: ClassVar[str | None] = "probed"

    platform: Platform
    qemu_major: Uint16
    qemu_minor: Uint16
    cbitpos: Uint16 | None
    """Position of the C-bit; None: not on SNP."""
    reduced_phys_bits: Uint16 | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WasRead(Struct):
    """What was read."""

    TAG: ClassVar[str | None] = "was-read"

    answer: Text
    """JSON: a number, a text, or an object of them."""


Ask = LaunchMachine | PrepareGpu | Probe | Read | Status | Wait | Stop
Answer = MachineView | MachinesView | Prepared | Probed | Stopped | WasRead | ChipRefusal

ASKS: Final[tuple[type[Struct], ...]] = (
    *(LaunchMachine, PrepareGpu, Probe, Read),
    *(Status, Wait, Stop),
)
ANSWERS: Final[tuple[type[Struct], ...]] = (
    *(MachineView, MachinesView, Prepared, Probed),
    *(Stopped, WasRead, ChipRefusal),
)


def encode_packet(value: Ask | Answer) -> bytes:
    """One packet: canonical JSON."""
    content: Any = value.to_json()
    return canonical_json(content)


def parse_ask(content: bytes) -> Ask:
    """Parse what a caller asks. Raises EncodingError."""
    ask: Ask = _parse(ASKS, content)
    return ask


def parse_answer(content: bytes) -> Answer:
    """Parse what a launcher answers. Raises EncodingError."""
    answer: Answer = _parse(ANSWERS, content)
    return answer


def _parse(kinds: tuple[type[Struct], ...], content: bytes) -> Any:
    value = parse_canonical_json(content)
    name = value.get("name") if isinstance(value, dict) else None
    for kind in kinds:
        if name == kind.TAG:
            return kind.from_json(value)
    wanted = ", ".join(str(kind.TAG) for kind in kinds)
    raise DocumentError(f"packet {str(name)[:32]!r} is none of {wanted}")
