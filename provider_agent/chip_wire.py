"""What agent and chip say to each other, over the chip's own UNIX socket.

One packet asks, one answers, in turn. A chip answers for what it started; it takes no measurement,
no report data and no endorsement from its caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from provider_agent.sandbox import Isolation
from trust.encoding import (
    Bytes16,
    Count,
    Digest,
    Name,
    Size,
    Struct,
    Text,
    Uint32,
    canonical_json,
    parse_canonical_json,
)
from trust.errors import DocumentError
from trust.image import MEASUREMENT_BYTES
from trust.jobs import LeaseId
from trust.messages import ENDORSEMENTS_MAX, Endorsement

ENCLAVES_MAX: Final = 64  # running and ended ones that nobody has stopped yet
LAUNCH_BYTES_MAX: Final = 4096  # a launch document has some 400 bytes

Measurement = Annotated[bytes, Size(least=MEASUREMENT_BYTES, most=MEASUREMENT_BYTES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch(Struct):
    """Start an enclave. Two listening sockets come with it: messages, blobs."""

    TAG: ClassVar[str | None] = "launch"

    document: Annotated[bytes, Size(least=1, most=LAUNCH_BYTES_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Status(Struct):
    """What runs?"""

    TAG: ClassVar[str | None] = "status"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait(Struct):
    """Answer once this enclave has ended."""

    TAG: ClassVar[str | None] = "wait"

    lease: LeaseId


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop(Struct):
    """Kill this enclave if it runs, remove its image and forget it."""

    TAG: ClassVar[str | None] = "stop"

    lease: LeaseId


@dataclass(frozen=True, kw_only=True, slots=True)
class EnclaveView(Struct):
    """One enclave, as the chip knows it."""

    TAG: ClassVar[str | None] = "enclave"

    lease: LeaseId
    pid: Count
    measurement: Measurement
    host_data: Digest
    """The launch document's digest."""
    isolation: Isolation
    exit: Uint32 | None
    """Exit status, or 128 + signal; None: it runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipView(Struct):
    """The chip, and all that it started."""

    TAG: ClassVar[str | None] = "chip"

    incarnation: Bytes16
    """Drawn at the chip's start: what an older one started has died with it."""
    pid: Count
    root: Digest
    """Fingerprint of the root that certified it."""
    endorsements: Annotated[tuple[Endorsement, ...], Size(least=0, most=ENDORSEMENTS_MAX)]
    """Of the chip, and of its GPU."""
    enclaves: Annotated[tuple[EnclaveView, ...], Size(least=0, most=ENCLAVES_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped(Struct):
    """It is gone, and so is its image."""

    TAG: ClassVar[str | None] = "stopped"

    lease: LeaseId
    known: bool
    """False: the chip had no such enclave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipRefusal(Struct):
    """The chip does not do it."""

    TAG: ClassVar[str | None] = "refusal"

    code: Name
    text: Text


Ask = Launch | Status | Wait | Stop
Answer = EnclaveView | ChipView | Stopped | ChipRefusal

_ASKS: Final[tuple[type[Struct], ...]] = (Launch, Status, Wait, Stop)
_ANSWERS: Final[tuple[type[Struct], ...]] = (EnclaveView, ChipView, Stopped, ChipRefusal)


def encode_packet(value: Ask | Answer) -> bytes:
    """One packet: canonical JSON."""
    content: Any = value.to_json()
    return canonical_json(content)


def parse_ask(content: bytes) -> Ask:
    """Parse what a caller asks. Raises EncodingError."""
    ask: Ask = _parse(_ASKS, content)
    return ask


def parse_answer(content: bytes) -> Answer:
    """Parse what a chip answers. Raises EncodingError."""
    answer: Answer = _parse(_ANSWERS, content)
    return answer


def _parse(kinds: tuple[type[Struct], ...], content: bytes) -> Any:
    value = parse_canonical_json(content)
    name = value.get("name") if isinstance(value, dict) else None
    for kind in kinds:
        if name == kind.TAG:
            return kind.from_json(value)
    raise DocumentError(
        f"packet {str(name)[:32]!r} is none of {', '.join(str(k.TAG) for k in kinds)}"
    )
