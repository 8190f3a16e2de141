"""What simulated NVIDIA GPUs are: names, versions, and what good ones measure.

Rules:
- Names, versions and which indices are measured are those of real evidence; the digests are made
  from a label, so they are no real firmware's.
- A reference value at index k is compared with the measurement block k+1.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trust.encoding import label_bytes

MEASUREMENTS: Final = 64
"""Blocks of a report, and indices of a reference manifest."""
MEASUREMENT_BYTES: Final = 48
VBIOS_INDICES: Final = (*range(7), *range(8, 13))
DRIVER_INDICES: Final = (7, *range(21, 41))
ZEROS: Final = frozenset((0, 8, 10, 28))
"""Indices whose good value is zeros, as in NVIDIA's own manifests."""
ALTERNATIVES: Final = MappingProxyType({12: 4, 23: 2, 24: 2, 32: 2, 33: 2, 34: 2, 35: 4, 36: 3})
"""How many good values an index has; others have one. A good GPU shows the last."""


class GpuArchitecture(enum.StrEnum):
    """A generation of GPUs that can be simulated."""

    HOPPER = "hopper"
    BLACKWELL = "blackwell"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuModel:
    """One product, with one driver and one VBIOS."""

    architecture: GpuArchitecture
    chip: str
    """As in the names of reference manifests."""
    stepping: str
    driver: str
    vbios: str
    board: int
    project: str
    project_sku: str
    chip_sku: str
    gpu_info: bytes
    protected_registers: bytes
    """CPRINFO."""

    @property
    def part(self) -> str:
        """As in the names of certificates: ``GH100 A01``."""
        return f"{self.chip} {self.stepping}"


MODELS: Final = MappingProxyType(
    {
        GpuArchitecture.HOPPER: GpuModel(
            architecture=GpuArchitecture.HOPPER,
            chip="GH100",
            stepping="A01",
            driver="580.95.05",
            vbios="96.00.9F.00.01",
            board=0x03B1,
            project="1010",
            project_sku="0200",
            chip_sku="882",
            gpu_info=bytes.fromhex("8001000000000000"),
            protected_registers=bytes.fromhex("00c00100"),
        ),
        GpuArchitecture.BLACKWELL: GpuModel(
            architecture=GpuArchitecture.BLACKWELL,
            chip="GB100",
            stepping="A01",
            driver="580.95.05",
            vbios="97.00.88.00.0F",
            board=0x066F,
            project="G525",
            project_sku="0220",
            chip_sku="886",
            gpu_info=bytes.fromhex("a001000000000000"),
            protected_registers=bytes.fromhex("00000400"),
        ),
    }
)


def golden(model: GpuModel, index: int) -> tuple[bytes, ...]:
    """The good values of an index, 48 bytes each; none if nobody measures there."""
    if index not in VBIOS_INDICES and index not in DRIVER_INDICES:
        return ()
    if index in ZEROS:
        return (bytes(MEASUREMENT_BYTES),)
    count = ALTERNATIVES.get(index, 1)
    return tuple(made_up(model, "measurement", f"{index}/{number}") for number in range(count))


def measurement(model: GpuModel, index: int) -> bytes:
    """What a good GPU measures there, 48 bytes: zeros where nobody measures."""
    return golden(model, index)[-1] if golden(model, index) else bytes(MEASUREMENT_BYTES)


def fwid(model: GpuModel) -> bytes:
    """SHA-384 of the firmware that the leaf's key belongs to."""
    return made_up(model, "fwid", "")


def made_up(model: GpuModel, what: str, which: str) -> bytes:
    """48 bytes that stand for a digest of NVIDIA's."""
    name = f"{model.chip}/{model.driver}/{model.vbios}/{what}/{which}"
    return hashlib.sha384(label_bytes("simulated-gpu") + name.encode("ascii")).digest()
