"""Whether a version that was just started does its work: the service manager's word, and doctor's.

Rules:
- Good is: active, which for this unit means that it said READY, and a market heartbeat later than
  the change. Anything else, until the deadline, is a reason to go back.
- Doctor's word counts by comparison: a new version is refused for a blocker that it fails and the
  running one does not. A host that is not well stays as well as it was.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from provider_agent.install.errors import CommandError
from provider_agent.install.notify import HEARTBEAT
from provider_agent.install.system import System
from provider_agent.install.units import AGENT

RESTARTS_MAX: Final = 2  # then it is a loop, and the deadline need not be waited for
DOCTOR_SECONDS_MAX: Final = 120
_HEARTBEAT = re.compile(rf"{HEARTBEAT} ([0-9]{{1,15}})")
_USAGE_ERROR: Final = 2  # argparse: a version without such a command


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceFacts:
    """What the service manager says of the agent."""

    active: str
    """ActiveState."""
    restarts: int
    """NRestarts: by the service manager itself, since the last start by hand."""
    heartbeat: int | None
    """Unix milliseconds of the last answer of the market; None: none yet."""


class Verdict(enum.Enum):
    """What to do about a version that was started."""

    GOOD = "good"
    WAIT = "wait"
    BACK = "back"


def judge(facts: ServiceFacts, *, since: int, now: int, limit: int) -> tuple[Verdict, str]:
    """A verdict and its reason; times in Unix milliseconds, `limit` in milliseconds."""
    if facts.active == "failed":
        return Verdict.BACK, "the unit failed"
    if facts.restarts > RESTARTS_MAX:
        return Verdict.BACK, f"it was restarted {facts.restarts} times"
    beats = facts.heartbeat is not None and facts.heartbeat >= since
    if facts.active == "active" and beats:
        return Verdict.GOOD, "ready, and the market answers"
    if now - since > limit:
        missing = "it is ready, but no market answered" if facts.active == "active" else "not ready"
        return Verdict.BACK, f"{missing} within {limit // 1000} s"
    return Verdict.WAIT, "not yet"


def read_service(system: System) -> ServiceFacts:
    """Ask the service manager about the agent. Raises CommandError."""
    ran = system.run(("systemctl", "show", "-p", "ActiveState,NRestarts,StatusText", AGENT))
    values = dict(line.partition("=")[::2] for line in ran.out.splitlines())
    found = _HEARTBEAT.fullmatch(values.get("StatusText", ""))
    restarts = values.get("NRestarts", "0")
    return ServiceFacts(
        active=values.get("ActiveState", "unknown"),
        restarts=int(restarts) if restarts.isdigit() else 0,
        heartbeat=int(found.group(1)) if found else None,
    )


def failed_blockers(system: System, command: tuple[str, ...]) -> frozenset[str] | None:
    """Ids of blockers that a version's doctor does not pass; None: it has no doctor.

    Raises CommandError for one that gives no report that can be read.
    """
    ran = system.run(command, allowed=tuple(range(128)), seconds=DOCTOR_SECONDS_MAX)
    try:
        value: Any = json.loads(ran.out)
        checks = value["checks"] if isinstance(value, dict) else value
        return frozenset(
            str(each["id"])
            for each in checks
            if each["severity"] == "blocker" and each["status"] in ("fail", "unknown")
        )
    except (ValueError, KeyError, TypeError) as error:
        if ran.status == _USAGE_ERROR and "usage:" in ran.err:
            return None
        raise CommandError(f"doctor: no report (status {ran.status})") from error


def check_no_worse(new: frozenset[str] | None, running: frozenset[str] | None) -> None:
    """Whether the new version's doctor finds nothing that the running one's does not.

    Raises CommandError.
    """
    if running is None:
        return  # nothing to compare with: an agent from before doctor
    if new is None:
        raise CommandError("doctor: the new version has none, the running one has")
    if worse := sorted(new - running):
        raise CommandError(f"doctor: the new version does not pass {', '.join(worse[:5])}")
