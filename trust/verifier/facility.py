"""Facility endorsements: somebody who was there says in which building a machine stands.

Rules (docs/spec/facility.md):
- A machine is its processor and its GPUs together. One endorsement has to name both: a CPU from one
  building with a GPU from another is two machines.
- What names no processor can't be endorsed: a VLEK's report, or a masked chip id, is refused.
- An endorser counts if the demands name it. The market never does: demands that name a key of it
  do not load, and an endorsement by it is refused by a line of its own.
- One line for each check, about the one endorsement that fits best; all lines are made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar, Final

from trust.encoding import (
    Bytes16,
    Bytes32,
    Bytes64,
    Document,
    Range,
    Size,
    Struct,
    Text,
)
from trust.errors import EncodingError, EvidenceFormatError, PolicyError, SignatureError
from trust.identity import IDENTITY_BYTES, SIGNATURE_BYTES, SIGNED_BYTES_MAX, verify
from trust.verifier.results import CheckLine, line, not_demanded

CHIP_ID_BYTES: Final = 64
PPID_BYTES: Final = 16
GPUS_MAX: Final = 16
ENDORSERS_MAX: Final = 16
NEVER_MAX: Final = 16
ENDORSEMENTS_MAX: Final = 16  # of one machine; a host shows one for each building that vouched
SKEW: Final = dt.timedelta(minutes=5)  # of the endorser's clock, into the future alone
_HEAD_BYTES: Final = SIGNATURE_BYTES + IDENTITY_BYTES
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

# None of the 37 checks that evidence can break: what an endorsement says is not the evidence's.
CHECK_NUMBERS: Final[Mapping[str, int]] = MappingProxyType({})

Moment = Annotated[int, Range(least=0, most=253_402_300_799_999)]
"""Unix milliseconds, up to the end of the year 9999: what a datetime holds."""
GpuSerial = Annotated[bytes, Size(least=1, most=20)]
"""Serial of a GPU's device certificate, big endian, without leading zeros (RFC 5280: 20 bytes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FacilityEndorsement(Document):
    """A machine, and where it stands. Signed by its endorser, and it expires."""

    LABEL: ClassVar[str] = "facility-endorsement"

    version: Annotated[int, Range(least=1, most=1)]
    endorser: Bytes32
    """Identity; its signature makes the document count."""
    facility: Annotated[Text, Size(least=1, most=256)]
    """Which building, in the endorser's words."""
    chip_id: Bytes64 | None
    """CHIP_ID of an AMD processor."""
    ppid: Bytes16 | None
    """PPID of an Intel processor. Exactly one of the two stands here."""
    gpus: Annotated[tuple[GpuSerial, ...], Size(least=0, most=GPUS_MAX)]
    """Serials of the GPUs in it, rising."""
    issued_at: Moment
    expires_at: Moment

    def _check(self) -> None:
        """Rules between fields. Raises EvidenceFormatError."""
        if (self.chip_id is None) == (self.ppid is None):
            raise EvidenceFormatError("an endorsement names a CHIP_ID or a PPID, and one of them")
        if not any(self.chip_id or self.ppid or b""):
            raise EvidenceFormatError("an endorsement of a masked processor: its id is all zero")
        if list(self.gpus) != sorted(set(self.gpus)):
            raise EvidenceFormatError("an endorsement lists its GPUs rising, and none twice")
        if any(each[0] == 0 for each in self.gpus):
            raise EvidenceFormatError("a GPU's serial has no leading zeros")
        if self.issued_at >= self.expires_at:
            raise EvidenceFormatError("an endorsement expires before it is issued")

    @property
    def machine(self) -> bytes:
        """The processor's id: 64 or 16 bytes."""
        machine = self.chip_id or self.ppid
        assert machine is not None
        return machine


@dataclass(frozen=True, kw_only=True, slots=True)
class FacilityDemands(Struct):
    """Whose word about buildings is believed, and for how long."""

    endorsers: Annotated[tuple[Bytes32, ...], Size(least=1, most=ENDORSERS_MAX)]
    age_days_max: Annotated[int, Range(least=1, most=3650)]
    """An older endorsement is refused, however long it says that it is good."""
    never: Annotated[tuple[Bytes32, ...], Size(least=1, most=NEVER_MAX)]
    """Identities that count for nothing: the market's."""

    def _check(self) -> None:
        """Rules between fields. Raises PolicyError."""
        if len(set(self.endorsers)) != len(self.endorsers):
            raise PolicyError("an endorser is named twice")
        if any(each in self.never for each in self.endorsers):
            raise PolicyError("an endorser is one of the keys that never count")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Offered:
    """An endorsement as it came: parsed, and whether its signature holds."""

    document: FacilityEndorsement
    signer: bytes
    refusal: str
    """Why the signature does not hold; empty: it does."""


def appraise_facility(
    *,
    chip_id: bytes | None,
    ppid: bytes | None,
    gpu_serials: Sequence[bytes],
    endorsements: Sequence[bytes],
    demands: FacilityDemands,
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    """Make the lines ``facility-…`` about one machine.

    `chip_id` (64 bytes) or `ppid` (16 bytes) and `gpu_serials` are those of verified evidence; None
    where it names none. `endorsements` are signed `FacilityEndorsement`s, `now` is aware.

    (1) ``facility-processor``: the evidence names one. (2) ``facility-machine``: an endorsement
    names that one. Then, of the endorsement that fails the fewest: (3) ``facility-signature``,
    (4) ``facility-endorser``, (5) ``facility-market``, (6) ``facility-issued``,
    (7) ``facility-expires``, (8) ``facility-age``, (9) ``facility-gpus``.

    Raises EvidenceFormatError for bytes that are no endorsement.
    """
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    if len(endorsements) > ENDORSEMENTS_MAX:
        raise EvidenceFormatError(
            f"{len(endorsements)} facility endorsements; at most {ENDORSEMENTS_MAX}"
        )
    offered = [_open(each) for each in endorsements]
    machine, first = _processor(chip_id, ppid)  # (1)
    named = [each for each in offered if machine is not None and each.document.machine == machine]
    second = line(  # (2)
        "facility-machine",
        f"{len(named)} of {len(offered)} endorsements name it",
        "an endorsement of this processor",
        good=bool(named),
    )
    if not named:
        return (first, second)
    elsewhere = {serial for each in offered for serial in each.document.gpus}
    made = [_lines(each, gpu_serials, elsewhere, demands, now) for each in named]
    best = min(made, key=lambda lines: sum(not each.passed for each in lines))
    return (first, second, *best)


def _open(data: bytes) -> _Offered:
    if not _HEAD_BYTES < len(data) <= SIGNED_BYTES_MAX:
        raise EvidenceFormatError(f"a facility endorsement of {len(data)} bytes")
    signature, signer = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:_HEAD_BYTES]
    body = data[_HEAD_BYTES:]
    try:
        document = FacilityEndorsement.parse(body)
    except EncodingError as error:
        raise EvidenceFormatError(f"a facility endorsement: {error}") from error
    refusal = ""
    try:
        verify(signer, signature, body)
    except SignatureError as error:
        refusal = str(error)
    if signer != document.endorser:
        refusal = f"signed by {signer.hex()}, and its endorser is {document.endorser.hex()}"
    return _Offered(document=document, signer=signer, refusal=refusal)


def _processor(chip_id: bytes | None, ppid: bytes | None) -> tuple[bytes | None, CheckLine]:
    """The processor that the evidence names; None: it names none, several, or a masked one."""
    named = [each for each in (chip_id, ppid) if each is not None]
    wanted = f"a CHIP_ID of {CHIP_ID_BYTES} bytes or a PPID of {PPID_BYTES}, not all zero"
    sized = (chip_id is None or len(chip_id) == CHIP_ID_BYTES) and (
        ppid is None or len(ppid) == PPID_BYTES
    )
    good = len(named) == 1 and sized and any(named[0])
    found = " and ".join(each.hex() for each in named) or "none named (a VLEK, or a masked chip)"
    return (named[0] if good else None), line("facility-processor", found, wanted, good=good)


def _lines(
    offered: _Offered,
    gpu_serials: Sequence[bytes],
    elsewhere: set[bytes],
    demands: FacilityDemands,
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    said = offered.document
    issued, expires = _time(said.issued_at), _time(said.expires_at)
    age = dt.timedelta(days=demands.age_days_max)
    return (
        line(
            "facility-signature",
            offered.refusal or f"good, by {offered.signer.hex()}",
            "a good signature by the endorser that it names",
            good=not offered.refusal,
        ),
        line(
            "facility-endorser",
            offered.signer.hex(),
            " or ".join(each.hex() for each in demands.endorsers),
            good=offered.signer in demands.endorsers,
        ),
        line(
            "facility-market",
            offered.signer.hex(),
            "no key of the market",
            good=offered.signer not in demands.never and said.endorser not in demands.never,
        ),
        line("facility-issued", issued, f"at {now} or before", good=issued <= now + SKEW),
        line("facility-expires", expires, f"after {now}", good=now < expires),
        line("facility-age", issued, f"at {now - age} or after", good=issued >= now - age),
        _gpus_line(said, gpu_serials, elsewhere),
    )


def _gpus_line(
    said: FacilityEndorsement, gpu_serials: Sequence[bytes], elsewhere: set[bytes]
) -> CheckLine:
    """Every GPU shown stands in the same endorsement as the processor."""
    if not gpu_serials:
        return not_demanded("facility-gpus", "no GPU evidence shown")
    found = [
        each.hex()
        if each in said.gpus
        else f"{each.hex()} (in another endorsement)"
        if each in elsewhere
        else f"{each.hex()} (in none)"
        for each in gpu_serials
    ]
    wanted = "GPUs of the same endorsement: " + (", ".join(e.hex() for e in said.gpus) or "none")
    good = all(each in said.gpus for each in gpu_serials)
    return line("facility-gpus", ", ".join(found), wanted, good=good)


def _time(milliseconds: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(milliseconds=milliseconds)
