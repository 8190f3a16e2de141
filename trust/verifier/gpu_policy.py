"""What a policy demands of a VM's GPUs: which, how many, how new, how they work together.

Rules (docs/spec/evidence-nvidia.md §7):
- An architecture is allowed by standing in `architectures`, with its floors.
- All GPUs of a VM are in one mode, and that is one of `modes`. MPT is Blackwell's alone. In PPCIE
  the host can read what GPUs say to each other: no shipped policy allows it, and one that does
  demands the whole machine with its switches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from trust.encoding import Pattern, Range, Size, Struct
from trust.errors import PolicyError
from trust.evidence.nvidia import FeatureMode
from trust.messages import GPU_DEVICES_MAX
from trust.verifier.gpu_device import Architecture
from trust.verifier.snp_policy import require_distinct

PPCIE_GPUS: Final = 8
PPCIE_SWITCHES: Final = 4
OCSP_AGE_HOURS_MAX: Final = 24 * 366

DriverVersion = Annotated[str, Pattern(expression=r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")]
VbiosVersion = Annotated[str, Pattern(expression=r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")]


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFloor(Struct):
    """An architecture that is allowed, and the least that its software must be."""

    architecture: Architecture
    driver: DriverVersion | None
    """As in ``580.95.05``, compared number by number; None for switches, which have none."""
    vbios: VbiosVersion
    """As in ``96.00.9F.00.01``, compared number by number (they are hexadecimal)."""

    def _check(self) -> None:
        """GPUs have drivers, and switches have none. Raises PolicyError."""
        if (self.driver is None) is not (self.architecture is Architecture.SWITCH_LS10):
            raise PolicyError(
                f"{self.architecture.value}: driver floor {self.driver}; GPUs have drivers, "
                "switches have none"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuDemands(Struct):
    """Demands of all GPUs that a VM shows, and of the switches between them."""

    architectures: Annotated[tuple[GpuFloor, ...], Size(least=1, most=len(Architecture))]
    gpus_least: Annotated[int, Range(least=1, most=GPU_DEVICES_MAX)]
    gpus_most: Annotated[int, Range(least=1, most=GPU_DEVICES_MAX)]
    """The same as `gpus_least`: exactly so many. Switches are not counted."""
    modes: Annotated[tuple[FeatureMode, ...], Size(least=1, most=len(FeatureMode))]
    fwid_demanded: bool
    """A GPU must say which firmware signed; drivers before 550 don't. No switch says it."""
    hold_allowed: bool
    """A certificate that is revoked for a time (certificateHold) will do."""
    ocsp_age_hours_most: Annotated[int, Range(least=1, most=OCSP_AGE_HOURS_MAX)]
    """How old the oldest OCSP response may be, whatever it says of its own end."""

    def _check(self) -> None:
        """Nothing is said twice, and modes fit architectures. Raises PolicyError."""
        allowed = {floor.architecture for floor in self.architectures}
        require_distinct("architecture", [floor.architecture.value for floor in self.architectures])
        require_distinct("mode", [mode.value for mode in self.modes])
        if allowed == {Architecture.SWITCH_LS10}:
            raise PolicyError("a policy about GPUs allows switches alone")
        if self.gpus_least > self.gpus_most:
            raise PolicyError(f"GPUs: at least {self.gpus_least} and at most {self.gpus_most}")
        if FeatureMode.MPT in self.modes and Architecture.BLACKWELL not in allowed:
            raise PolicyError("MPT is Blackwell's mode, and Blackwell is not allowed")
        with_switches = Architecture.SWITCH_LS10 in allowed
        if (FeatureMode.PPCIE in self.modes) is not with_switches:
            raise PolicyError("PPCIE is the mode with switches: allow both, or neither")
        if FeatureMode.PPCIE in self.modes and Architecture.HOPPER not in allowed:
            raise PolicyError("PPCIE is Hopper's mode, and Hopper is not allowed")

    def floor_of(self, architecture: Architecture) -> GpuFloor | None:
        """The floors of an architecture; None if it is not allowed."""
        matching = (each for each in self.architectures if each.architecture is architecture)
        return next(matching, None)


# As of 2026-11. Driver 580 is the first production branch that reports its mode (FEATURE_FLAG).
# NVIDIA publishes no table of least VBIOS versions: these are what real evidence with current
# manifests shows, and other boards count apart; who rents one writes a floor of his own.
HOPPER_FLOOR: Final = GpuFloor(
    architecture=Architecture.HOPPER, driver="580.95.05", vbios="96.00.9F.00.01"
)
BLACKWELL_FLOOR: Final = GpuFloor(
    architecture=Architecture.BLACKWELL, driver="580.95.05", vbios="97.00.88.00.0F"
)


def gpu_demands(
    *floors: GpuFloor, gpus_least: int = 1, gpus_most: int = 1, ocsp_age_hours_most: int = 24
) -> GpuDemands:
    """What shipped policies demand of these architectures: SPT, or MPT where Blackwell is allowed.

    NVIDIA's responses last a day.
    """
    blackwell = any(floor.architecture is Architecture.BLACKWELL for floor in floors)
    return GpuDemands(
        architectures=floors,
        gpus_least=gpus_least,
        gpus_most=gpus_most,
        modes=(FeatureMode.SPT, FeatureMode.MPT) if blackwell else (FeatureMode.SPT,),
        fwid_demanded=True,
        hold_allowed=False,
        ocsp_age_hours_most=ocsp_age_hours_most,
    )


def driver_number(version: str) -> tuple[int, ...]:
    """A driver's version as numbers, for an order."""
    return tuple(int(part) for part in version.split("."))


def vbios_number(version: str) -> tuple[int, ...]:
    """A VBIOS's version as numbers, for an order."""
    return tuple(int(part, 16) for part in version.split("."))
