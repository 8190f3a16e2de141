"""``blindhost-agent maintenance``: plan an absence, list what is planned, take one back."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
from pathlib import Path
from typing import Any, Final

from marketplace.wire import LeaseBriefing, OfferDraft
from provider_agent.commands.connect import add_home, home_of, say, wall_clock
from provider_agent.earnings.maintenance import Committed, Phase, Plan, Window, new_id, posture
from provider_agent.earnings.render import moment
from provider_agent.errors import AgentError
from provider_agent.journal import BRIEFING_FILE, FILE_BYTES_MAX, RECORD_FILE, LeaseRecord, Stage
from trust.encoding import parse_json
from trust.errors import BlindhostError
from trust.identity import verify_signed
from trust.jobs import JobManifest

NAME: Final = "maintenance"
LEASES_FOLDER: Final = "leases"
OFFER_FILE: Final = "offer"
_UNITS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OVER: Final = (Stage.ENDED, Stage.REPORTED, Stage.DONE)


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="windows in which this host takes no lease")
    verbs = parser.add_subparsers(dest="verb", required=True)
    plan = verbs.add_parser("plan", help="announce a window")
    add_home(plan)
    plan.add_argument("--at", required=True, help="UTC, e.g. 2026-12-01T03:00, or 'now'")
    plan.add_argument("--for", dest="length", required=True, help="e.g. 90m, 4h, 2d")
    plan.add_argument("--reason", required=True)
    plan.add_argument("--drain", action="store_true", help="end what runs at its start")
    listed = verbs.add_parser("list", help="what is planned")
    add_home(listed)
    cancel = verbs.add_parser("cancel", help="take a window back, or end it now")
    add_home(cancel)
    cancel.add_argument("window")


def run(options: argparse.Namespace) -> int:
    """Do what the verb says."""
    home, now = home_of(options), wall_clock()
    plan = Plan(home)
    match options.verb:
        case "plan":
            _plan(options, home, plan, now)
        case "cancel":
            say(f"cancelled {plan.cancel(options.window).id}")
        case _:
            say("\n".join(_row(each, now) for each in plan.windows()) or "nothing is planned")
    return os.EX_OK


def _plan(options: argparse.Namespace, home: Path, plan: Plan, now: int) -> None:
    window = Window(
        id=new_id(),
        at=now if options.at == "now" else moment_of(options.at),
        milliseconds=length_of(options.length),
        reason=options.reason,
        drain=options.drain,
        planned_at=now,
    )
    leases = committed(home)
    plan.add(window, leases)
    say(_row(window, now))
    for each in leases:
        if each.until > window.at:
            say(f"  {each.lease} is ended at the start if it still runs, and counts as failed then")


def _row(window: Window, now: int) -> str:
    state = posture((window,), now).phase.value
    if window.end <= now:
        state = "over"
    elif state == Phase.OPEN.value:
        state = "planned"
    drain = "  drains" if window.drain else ""
    span = f"{moment(window.at)} to {moment(window.end)}"
    return f"{window.id}  {state}  {span}{drain}  {window.reason}"


def moment_of(text: str) -> int:
    """A time in UTC, in Unix milliseconds. Raises AgentError."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise AgentError(f"--at {text[:32]!r}: a time like 2026-12-01T03:00 is wanted") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=dt.UTC)
    return int(found.timestamp()) * 1000


def length_of(text: str) -> int:
    """A length of time, in milliseconds. Raises AgentError."""
    found = re.fullmatch(r"([1-9]\d{0,4})([mhd])", text)
    if found is None:
        raise AgentError(f"--for {text[:32]!r}: a length like 90m, 4h or 2d is wanted")
    return int(found[1]) * _UNITS[found[2]]


def committed(home: Path) -> tuple[Committed, ...]:
    """What running leases may still take, by the agent's journal, which is only read here.

    The earlier of the offer's end and the job's: nobody says when a run is done. A lease without a
    briefing yet has the offer's.
    """
    ends = _read(OfferDraft, home / OFFER_FILE)
    until = None if ends is None else ends.ends_at
    found = []
    folders = sorted((home / LEASES_FOLDER).glob("leas_*")) if until is not None else []
    for folder in folders:
        record = _read(LeaseRecord, folder / RECORD_FILE)
        if record is None or record.stage in _OVER or until is None:
            continue
        briefing = _read(LeaseBriefing, folder / BRIEFING_FILE)
        job_until = until
        if briefing is not None:
            signed = verify_signed(JobManifest, briefing.job, signer=None)
            job_until = signed.document.expires_at
        found.append(Committed(lease=record.lease, until=min(until, job_until)))
    return tuple(found)


def _read(kind: Any, file: Path) -> Any:
    """A file of the agent's; None: it is not there. Raises AgentError where it does not parse."""
    try:
        with file.open("rb") as opened:
            return kind.from_json(parse_json(opened.read(FILE_BYTES_MAX)))
    except FileNotFoundError:
        return None
    except BlindhostError as error:
        raise AgentError(f"{file.name} of {file.parent.name} does not parse: {error}") from error
