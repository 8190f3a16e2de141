"""When the agent may be stopped or changed: no lease lives, or it is a maintenance window.

Rules:
- A record of a lease that can't be read counts as a lease that lives: what is unknown never passes.
- Leases are looked for twice, in the agent's own records and among the units of VMs that run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.install import units
from provider_agent.install.errors import BusyError, InstallError
from provider_agent.install.system import System

LEASES: Final = f"{units.STATE}/leases"
_RECORD_BYTES_MAX: Final = 1 << 16
_DONE: Final = "done"  # journal.Stage.DONE; a test holds the two together
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_MINUTE_MS: Final = 60_000
_DAY_MINUTES: Final = 1440


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A time of day, in UTC, in minutes; past midnight where `end` is before `start`."""

    start: int
    end: int

    def holds(self, now: int) -> bool:
        """Whether `now`, in Unix milliseconds, is in it."""
        minute = now // _MINUTE_MS % _DAY_MINUTES
        if self.start <= self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def parse_window(text: str) -> Window:
    """``HH:MM-HH:MM``, in UTC. Raises InstallError."""
    found = _WINDOW.fullmatch(text)
    if not found:
        raise InstallError(f"window is {text[:40]!r}, wanted HH:MM-HH:MM in UTC")
    h1, m1, h2, m2 = (int(part) for part in found.groups())
    return Window(start=60 * h1 + m1, end=60 * h2 + m2)


def live_leases(system: System) -> tuple[str, ...]:
    """Names of leases that are not over, and of VMs that run."""
    found = []
    folder = system.at(LEASES)
    if folder.is_dir():
        found += [path.name for path in sorted(folder.iterdir()) if not _is_done(path / "record")]
    if not system.offline:
        pattern = f"{units.VM_PREFIX}*"
        ran = system.run(
            ("systemctl", "list-units", "--plain", "--no-legend", "--state=active", pattern)
        )
        found += [line.split()[0] for line in ran.out.splitlines() if line.strip()]
    return tuple(found)


def _is_done(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_RECORD_BYTES_MAX))
        return bool(value["stage"] == _DONE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_idle(leases: tuple[str, ...], *, windows: tuple[Window, ...], now: int) -> None:
    """Whether the agent may be restarted now. Raises BusyError."""
    if leases and not any(window.holds(now) for window in windows):
        raise BusyError(
            f"{len(leases)} lease(s) live ({', '.join(leases[:3])}), outside any maintenance window"
        )
