"""Change to a newer release, watch it, and go back by itself where it does not do its work.

Rules:
- What is going on is on record before it is done. A run that was killed is taken up by the next: a
  change that nobody has seen working is watched again, a way back is gone to its end.
- Unpacking and doctor happen beside the running version; the change itself is host files, then one
  link, then a restart, and waits until no lease lives or it is a maintenance window.
- A version that was gone back from is not tried again unattended.
- VMs are not touched: their units belong to no version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from provider_agent.install import units
from provider_agent.install.applied import UPGRADE_RECORD, Kind
from provider_agent.install.apply import Hand, Left, apply_all, apply_step, undo_entry
from provider_agent.install.environment import host_files_of
from provider_agent.install.errors import InstallError, PreflightError
from provider_agent.install.gate import Window, check_idle, live_leases
from provider_agent.install.health import (
    Verdict,
    check_no_worse,
    failed_blockers,
    judge,
    read_service,
)
from provider_agent.install.plan import BuildTree, PlaceFile, activation
from provider_agent.install.preflight import conflicts, installed_version
from provider_agent.install.release import HOST_FILES, parse_version

WATCH_SECONDS: Final = 120
PAUSE_SECONDS: Final = 1.0
REFUSED_MAX: Final = 20
REASON_CHARACTERS_MAX: Final = 300
VERSIONS_KEPT: Final = 2  # the running one, and the one to go back to
_DOCTOR: Final = ("doctor", "--json")


class Stage(enum.StrEnum):
    """How far a change is."""

    CHANGING = "changing"
    """Nobody has seen it working yet."""
    GOING_BACK = "going-back"
    DONE = "done"
    WENT_BACK = "went-back"


@dataclass(frozen=True, kw_only=True, slots=True)
class UpgradeRecord:
    """The last change, or the one that is going on."""

    stage: Stage
    before: str
    """Version that ran before."""
    after: str
    """Version to run after."""
    was_active: bool
    """Whether the agent ran when it began; one that was stopped by hand stays stopped."""
    reason: str
    """For people: how it ended."""
    at: int
    """Unix milliseconds."""
    refused: tuple[str, ...]
    """Versions that were gone back from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How an upgrade is to be done."""

    windows: tuple[Window, ...] = ()
    watch_seconds: int = WATCH_SECONDS
    doctor: tuple[str, ...] = _DOCTOR
    """Arguments of the agent's command; empty: no doctor is asked."""
    unattended: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Time, as a parameter."""

    now: Callable[[], int]
    """Unix milliseconds."""
    pause: Callable[[float], None]
    """Wait this many seconds."""


def read_record(hand: Hand) -> UpgradeRecord | None:
    """The record of the last change; None: there was none. Raises InstallError."""
    path = hand.system.at(UPGRADE_RECORD)
    if not path.exists():
        return None
    try:
        value: Any = json.loads(path.read_bytes())
        return UpgradeRecord(
            **{**value, "stage": Stage(value["stage"]), "refused": tuple(value["refused"])}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InstallError(f"{UPGRADE_RECORD} does not parse") from error


def _write(hand: Hand, record: UpgradeRecord) -> None:
    text = json.dumps(dataclasses.asdict(record), sort_keys=True, indent=1)
    hand.system.write_file(UPGRADE_RECORD, text.encode(), 0o600)


def resume(hand: Hand, terms: Terms, clock: Clock) -> UpgradeRecord | None:
    """Take up a change that was killed; the record as it ends, None where none was going on."""
    record = read_record(hand)
    if record is None or record.stage in (Stage.DONE, Stage.WENT_BACK):
        return None
    if record.stage is Stage.CHANGING:
        return _change(hand, record, terms, clock)
    return _go_back(hand, record, clock)


def upgrade(hand: Hand, terms: Terms, clock: Clock) -> UpgradeRecord | None:
    """Change to the bundle's version. None: it runs already, or is not tried unattended.

    (1) It is newer than what runs. (2) It was not gone back from, if nobody looks on. (3) Host
    files that somebody changed stop it here. (4) Unpack beside. (5) Doctor finds nothing worse.
    (6) No lease lives, or it is a window. (7) On record, then change, restart and watch; back where
    that does not go well: the record says so.

    Raises PreflightError, BusyError, InstallError: then the running version was not touched.
    """
    assert hand.bundle is not None
    release = hand.bundle.release
    running = installed_version(hand.system)
    if running is None:
        raise PreflightError(("nothing is installed: use `install`",))
    if release.version == running:
        return None
    if parse_version(release.version) < parse_version(running):  # (1)
        raise PreflightError((f"{release.version} is older than {running}, which runs",))
    last = read_record(hand)
    refused = last.refused if last else ()
    if terms.unattended and release.version in refused:  # (2)
        return None
    files = {
        each.path: hand.bundle.read(each.path)
        for each in release.files
        if each.path.startswith(HOST_FILES)
    }
    steps = (BuildTree(version=release.version), *activation(release.version, files))
    if problems := conflicts(hand.system, hand.applied, steps):  # (3)
        raise PreflightError(tuple(problems))
    apply_all(hand, steps[:1])  # (4)
    if terms.doctor:  # (5)
        new, old = (
            failed_blockers(hand.system, (*_agent(hand, version), *terms.doctor))
            for version in (release.version, running)
        )
        check_no_worse(new, old)
    check_idle(live_leases(hand.system), windows=terms.windows, now=clock.now())  # (6)
    record = UpgradeRecord(  # (7)
        stage=Stage.CHANGING,
        before=running,
        after=release.version,
        was_active=read_service(hand.system).active in ("active", "activating", "reloading"),
        reason="",
        at=clock.now(),
        refused=refused,
    )
    _write(hand, record)
    return _change(hand, record, terms, clock)


def _agent(hand: Hand, version: str) -> tuple[str, ...]:
    return (str(hand.system.at(f"{units.HOME}/{version}/bin/blindhost-agent")),)


def _change(hand: Hand, record: UpgradeRecord, terms: Terms, clock: Clock) -> UpgradeRecord:
    try:
        verdict, reason = _start_and_watch(hand, record, terms, clock)
    except InstallError as error:
        verdict, reason = Verdict.BACK, str(error)
    if verdict is Verdict.GOOD:
        done = dataclasses.replace(record, stage=Stage.DONE, reason=reason, at=clock.now())
        _prune(hand, keep=(record.before, record.after))
        _write(hand, done)
        return done
    refused = (*(v for v in record.refused if v != record.after), record.after)[-REFUSED_MAX:]
    back = dataclasses.replace(
        record,
        stage=Stage.GOING_BACK,
        reason=reason[:REASON_CHARACTERS_MAX],
        refused=refused,
        at=clock.now(),
    )
    _write(hand, back)
    return _go_back(hand, back, clock)


def _go_back(hand: Hand, record: UpgradeRecord, clock: Clock) -> UpgradeRecord:
    _activate(hand, record.before)
    _restart(hand, record)
    went = dataclasses.replace(record, stage=Stage.WENT_BACK, at=clock.now())
    _write(hand, went)
    return went


def _start_and_watch(
    hand: Hand, record: UpgradeRecord, terms: Terms, clock: Clock
) -> tuple[Verdict, str]:
    since = clock.now()
    _activate(hand, record.after)
    _restart(hand, record)
    if not record.was_active:
        return Verdict.GOOD, "the agent was not running, and was left so"
    while True:
        verdict, reason = judge(
            read_service(hand.system),
            since=since,
            now=clock.now(),
            limit=1000 * terms.watch_seconds,
        )
        if verdict is not Verdict.WAIT:
            return verdict, reason
        clock.pause(PAUSE_SECONDS)


def _restart(hand: Hand, record: UpgradeRecord) -> None:
    """The launcher first: its socket starts the new one as soon as the agent asks."""
    hand.system.run(("systemctl", "try-restart", units.LAUNCHER))
    if record.was_active:
        # After a crash loop systemd refuses a start until the counter is reset.
        with contextlib.suppress(InstallError):
            hand.system.run(("systemctl", "reset-failed", units.AGENT))
        hand.system.run(("systemctl", "restart", units.AGENT))


def _activate(hand: Hand, version: str) -> None:
    """Put a version's host files and the link in place; take away what it does not have."""
    steps = activation(version, host_files_of(hand.system, f"{units.HOME}/{version}"))
    wanted = {step.name for step in steps if isinstance(step, PlaceFile)}
    for entry in tuple(hand.applied.entries.values()):
        is_host_file = entry.kind is Kind.FILE and not entry.name.startswith(
            f"{units.CONFIGURATION}/"
        )
        if is_host_file and entry.name not in wanted:
            undo_entry(hand, entry, Left(), purge=False)
            hand.applied.forget(entry)
    for step in steps:
        apply_step(hand, step)


def _prune(hand: Hand, *, keep: tuple[str, ...]) -> None:
    assert len(keep) == VERSIONS_KEPT
    for entry in tuple(hand.applied.entries.values()):
        if entry.kind is Kind.TREE and PurePosixPath(entry.name).name not in keep:
            undo_entry(hand, entry, Left(), purge=False)
            hand.applied.forget(entry)
