"""All that the checks of NVIDIA's evidence look at: devices, manifests, responses, parsed.

Rules:
- Kinds of endorsements that are not NVIDIA's are not looked at; the same bytes twice count once.
- What the responses say of each chain is worked out once, since it is the most of the work.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from trust.errors import EvidenceFormatError
from trust.evidence.nvidia import NONCE_BYTES
from trust.messages import GpuDeviceKind, GpuEvidence
from trust.verifier.certificates import Certificate
from trust.verifier.gpu_device import Device, chip_of, parse_device
from trust.verifier.ocsp import OcspResponse, Standing, parse_ocsp, standing_of
from trust.verifier.rims import Rim, parse_rim
from trust.verifier.roots import PinnedRoot

RIM_KIND: Final = "gpu-rim"
OCSP_KIND: Final = "gpu-ocsp"
RIMS_MAX: Final = 16  # two for each kind of board, and few machines have two kinds
RESPONSES_MAX: Final = 64

_EDITIONS: Final = MappingProxyType({GpuDeviceKind.GPU: "GPU", GpuDeviceKind.SWITCH: "SWITCH"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """All that the checks look at."""

    devices: tuple[Device, ...]
    rims: tuple[Rim, ...]
    roots: tuple[PinnedRoot, ...]
    nonce: bytes
    now: dt.datetime
    of_devices: tuple[Standing, ...]
    """What the responses say of each device, in the order of `devices`."""
    of_rims: tuple[Standing, ...]
    """The same of each manifest, in the order of `used`."""

    def drivers(self, device: Device) -> list[Rim]:
        """Manifests of this device's driver."""
        version = device.report.driver_version
        return [] if version is None else self._manifests(device, version)

    def vbioses(self, device: Device) -> list[Rim]:
        """Manifests of this device's VBIOS."""
        return self._manifests(device, device.report.vbios_version)

    def used(self) -> tuple[Rim, ...]:
        """Manifests of anything that a device reports, each once."""
        found = {
            rim.sha256: rim
            for device in self.devices
            for rim in (*self.drivers(device), *self.vbioses(device))
        }
        return tuple(found.values())

    def _manifests(self, device: Device, version: str) -> list[Rim]:
        wanted = (chip_of(device), _EDITIONS[device.kind], version)
        return [each for each in self.rims if (each.product, each.edition, each.version) == wanted]


def parse_subject(
    evidence: GpuEvidence,
    endorsements: Iterable[tuple[str, bytes]],
    roots: tuple[PinnedRoot, ...],
    nonce: bytes,
    now: dt.datetime,
) -> Subject:
    """Parse everything. Raises SizeLimitError or EvidenceFormatError; ValueError for our mistakes.

    `now` is aware, `nonce` has 32 bytes.
    """
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce of {len(nonce)} bytes, wanted {NONCE_BYTES}")
    # The same bytes twice say the same once.
    kinds = list(dict.fromkeys(endorsements))
    rims = [content for kind, content in kinds if kind == RIM_KIND]
    responses = [content for kind, content in kinds if kind == OCSP_KIND]
    if len(rims) > RIMS_MAX or len(responses) > RESPONSES_MAX:
        raise EvidenceFormatError(
            f"{len(rims)} manifests and {len(responses)} OCSP responses, at most {RIMS_MAX} and "
            f"{RESPONSES_MAX}"
        )
    subject = Subject(
        devices=tuple(parse_device(i, each) for i, each in enumerate(evidence.devices)),
        rims=tuple(parse_rim(each) for each in rims),
        roots=roots,
        nonce=nonce,
        now=now,
        of_devices=(),
        of_rims=(),
    )
    parsed = tuple(parse_ocsp(each) for each in responses)
    # A leaf was certified by the chip itself, which answers nobody: NVIDIA serves no status of it.
    return replace(
        subject,
        of_devices=tuple(_standing(each.chain, 1, parsed, now) for each in subject.devices),
        of_rims=tuple(_standing(each.chain, 0, parsed, now) for each in subject.used()),
    )


def _standing(
    chain: Sequence[Certificate], first: int, responses: Sequence[OcspResponse], now: dt.datetime
) -> Standing:
    """Of a chain from place `first` on; the root is pinned, and nobody is asked about it."""
    return standing_of(chain, range(first, len(chain) - 1), responses, now)
