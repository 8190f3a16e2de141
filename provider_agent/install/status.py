"""One screen: what is installed, what runs, what is wrong with it. Facts, then lines for people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from provider_agent.install import units
from provider_agent.install.applied import Applied, Kind, is_ours
from provider_agent.install.errors import CommandError
from provider_agent.install.gate import live_leases
from provider_agent.install.health import read_service
from provider_agent.install.preflight import installed_version
from provider_agent.install.system import ABSENT, System
from provider_agent.install.upgrade import UpgradeRecord

LINES_MAX: Final = 23  # one screen of 24 rows, and the prompt
_SHOWN_MAX: Final = 4
_UNITS: Final = (units.AGENT, units.SOCKET, units.LAUNCHER, units.TIMER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What there is to say."""

    version: str | None
    """The version that runs; None: nothing is installed."""
    configured: bool
    """Whether there is an ``agent.env``."""
    states: tuple[tuple[str, str], ...]
    """Unit and ActiveState."""
    heartbeat: int | None
    """Unix milliseconds of the market's last answer; None: none."""
    leases: tuple[str, ...]
    """Leases and VMs that live."""
    changed: tuple[str, ...]
    """Files of ours that somebody changed."""
    upgrade: UpgradeRecord | None
    """The last change of version; None: there was none."""


def read_status(system: System, applied: Applied, upgrade: UpgradeRecord | None) -> Status:
    """Look. Raises InstallError."""
    version = installed_version(system)
    states, heartbeat = [], None
    if version is not None and not system.offline:
        for name in _UNITS:
            ran = system.run(("systemctl", "is-active", name), allowed=tuple(range(128)))
            states.append((name, ran.out.strip() or "unknown"))
        try:
            heartbeat = read_service(system).heartbeat
        except CommandError:
            heartbeat = None
    changed = [
        entry.name
        for entry in applied.entries.values()
        if entry.kind in (Kind.FILE, Kind.LINK) and not is_ours(entry, system.observe(entry.name))
    ]
    return Status(
        version=version,
        configured=system.observe(units.AGENT_ENVIRONMENT) != ABSENT,
        states=tuple(states),
        heartbeat=heartbeat,
        leases=live_leases(system) if version is not None else (),
        changed=tuple(changed),
        upgrade=upgrade,
    )


def describe(status: Status, now: int) -> tuple[str, ...]:
    """At most `LINES_MAX` lines for people. `now` is in Unix milliseconds."""
    if status.version is None:
        return ("blindhost-agent is not installed",)
    lines = [f"version    {status.version}"]
    if not status.configured:
        lines.append(f"not configured: {units.AGENT_ENVIRONMENT} is absent, so nothing is offered")
    lines += [f"unit       {name:32} {state}" for name, state in status.states]
    if status.heartbeat is None:
        lines.append("market     no answer since the agent started")
    else:
        lines.append(f"market     answered {max(0, now - status.heartbeat) // 1000} s ago")
    lines.append(f"leases     {len(status.leases)} live")
    lines += [f"           {name}" for name in status.leases[:_SHOWN_MAX]]
    lines += [f"changed    {name}" for name in status.changed[:_SHOWN_MAX]]
    if (last := status.upgrade) is not None:
        lines.append(f"upgrade    {last.before} -> {last.after}: {last.stage.value}")
        if last.reason:
            lines.append(f"           {last.reason[:100]}")
    return tuple(lines[:LINES_MAX])


def as_json(status: Status) -> str:
    """The same for programs."""
    return json.dumps(
        {
            "version": status.version,
            "configured": status.configured,
            "units": dict(status.states),
            "heartbeat": status.heartbeat,
            "leases": list(status.leases),
            "changed": list(status.changed),
            "upgrade": None
            if status.upgrade is None
            else {
                "stage": status.upgrade.stage.value,
                "before": status.upgrade.before,
                "after": status.upgrade.after,
                "reason": status.upgrade.reason,
            },
        },
        sort_keys=True,
    )
