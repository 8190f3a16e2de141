"""What power cost while leases held the machine: an estimate from the host's own two figures.

Rules:
- It is the host's word alone, stands beside a statement, and changes no line of it.
- Time is wall time of leases, times their GPUs. What a machine draws while it is idle is not in it:
  the host pays that with or without a lease.
- Without both figures there is no estimate, rather than one from a guess.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.earnings.lines import Statement

HOST_SETTINGS: Final = Path("/etc/blindhost/host.json")
PRICE_FIELD: Final = "power_microcredits_per_kwh"
WATTS_FIELD: Final = "power_watts_per_gpu"
SETTINGS_BYTES_MAX: Final = 1 << 16
FIGURE_MAX: Final = 1 << 40
_WATT_MS_PER_KWH: Final = 3_600_000_000  # 1000 W for 3,600,000 ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """The host's figures."""

    watts_per_gpu: int
    """Of the whole machine at load, its share for each GPU."""
    microcredits_per_kwh: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """An estimate."""

    watt_hours: int
    cost: int
    """Microcredits, rounded up."""
    margin: int
    """The statement's net, less the cost."""


def estimate(statement: Statement, power: Power) -> Energy:
    """Power of all lines of a statement."""
    gpu_ms = sum(each.wall_ms * each.gpus for each in statement.lines)
    watt_ms = gpu_ms * power.watts_per_gpu
    cost = -(-watt_ms * power.microcredits_per_kwh // _WATT_MS_PER_KWH)
    return Energy(
        watt_hours=watt_ms * 1000 // _WATT_MS_PER_KWH, cost=cost, margin=statement.net - cost
    )


def read_power(path: Path) -> Power | None:
    """The figures in the host's settings; None: not both are there, or not as numbers."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(SETTINGS_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    watts, price = (value.get(each) for each in (WATTS_FIELD, PRICE_FIELD))
    for figure in (watts, price):
        if not isinstance(figure, int) or isinstance(figure, bool) or not 0 <= figure < FIGURE_MAX:
            return None
    assert isinstance(watts, int)
    assert isinstance(price, int)
    return Power(watts_per_gpu=watts, microcredits_per_kwh=price)
