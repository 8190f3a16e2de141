"""GPUs that have a confidential mode, by PCI device id; memory decides how big a BAR must be.

Sources: NVIDIA/gpu-admin-tools gpu/devid_properties.py; the PCI ID repository. The last word is
NVIDIA's own measurements inside the enclave: a card that is missing here is refused, never guessed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

NVSWITCHES: Final = frozenset({0x22A3})
SWITCHES_OF_A_BOARD: Final = 4
GPUS_OF_A_BOARD: Final = 8


class Generation(enum.StrEnum):
    """What its confidential mode can do."""

    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One model."""

    name: str
    generation: Generation
    memory_gib: int


MODELS: Final = {
    0x2321: Model(name="H100 NVL", generation=Generation.HOPPER, memory_gib=94),
    0x2330: Model(name="H100 SXM", generation=Generation.HOPPER, memory_gib=80),
    0x2331: Model(name="H100 PCIe", generation=Generation.HOPPER, memory_gib=80),
    0x2335: Model(name="H200 SXM", generation=Generation.HOPPER, memory_gib=141),
    0x233B: Model(name="H200 NVL", generation=Generation.HOPPER, memory_gib=141),
    0x2901: Model(name="B200", generation=Generation.BLACKWELL, memory_gib=180),
    0x2BB5: Model(
        name="RTX PRO 6000 Server Edition", generation=Generation.BLACKWELL, memory_gib=96
    ),
}
