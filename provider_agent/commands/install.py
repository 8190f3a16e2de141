"""``install``, ``status``, ``logs``, ``upgrade``, ``uninstall``: plan, print, confirm, do, check.

Rules:
- Preflight says every reason at once, before anything is changed; ``--dry-run`` stops at the plan.
- One of these runs at a time on a machine.
- The wall clock is read here, as an entry point. The module also runs from the bundle's zipapp, so
  it imports the standard library and provider_agent.install alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import fcntl
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.install import environment, units
from provider_agent.install.actions import ACTIONS
from provider_agent.install.applied import Applied, Kind
from provider_agent.install.apply import Builder, Hand, apply_all, undo_all
from provider_agent.install.archive import Bundle, open_bundle
from provider_agent.install.errors import BusyError, InstallError, PreflightError
from provider_agent.install.fetch import FETCHED, fetch
from provider_agent.install.gate import live_leases, parse_window
from provider_agent.install.health import read_service
from provider_agent.install.logs import journal_command, redact
from provider_agent.install.plan import Settings, describe, installation
from provider_agent.install.preflight import check_install, conflicts, installed_version
from provider_agent.install.release import HOST_FILES, parse_release_key
from provider_agent.install.status import as_json, read_status
from provider_agent.install.status import describe as describe_status
from provider_agent.install.system import System
from provider_agent.install.upgrade import (
    WATCH_SECONDS,
    Clock,
    Stage,
    Terms,
    UpgradeRecord,
    read_record,
    resume,
    upgrade,
)

COMMANDS: Final = ("install", "status", "logs", "upgrade", "uninstall")
DRAIN_SECONDS: Final = 86_400
DRAIN_PAUSE_SECONDS: Final = 5.0
WATCH_SECONDS_MAX: Final = 3_600


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a command works on; a test brings its own."""

    system: System
    builder: Builder
    clock: Clock
    say: Callable[[str], None]


def wall_clock() -> int:
    """Unix milliseconds."""
    return int(dt.datetime.now(dt.UTC).timestamp() * 1000)  # noqa: TID251 - the entry point


def main(arguments: list[str] | None = None) -> int:
    """The zipapp's entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="installer.pyz", description=__doc__)
    add_parser(parser.add_subparsers(dest="command", required=True))
    return run(parser.parse_args(arguments))


# --- arguments -----------------------------------------------------------------------------------


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the five commands."""
    install = commands.add_parser("install", help="install a release on this machine")
    _add_consent(install)
    install.add_argument("--bundle", type=Path, required=True, help="blindhost-agent-X.Y.Z.tar")
    install.add_argument("--release-key", help="hex; the installer's own must be the same")
    install.add_argument("--market", help="URL of the market; with it the agent starts")
    install.add_argument("--market-identity", help="hex")
    install.add_argument("--ask", type=int, help="microcredits per GPU-hour")
    install.add_argument("--serve-arguments", default="", help="further arguments of `serve`")
    install.add_argument(
        "--replace",
        action="store_true",
        help="of files in our places keep copies, and put them back",
    )
    status = commands.add_parser("status", help="one screen")
    status.add_argument("--json", action="store_true")
    _add_prefix(status)
    logs = commands.add_parser("logs", help="the units' journal, redacted")
    logs.add_argument("--lines", type=int, default=200)
    logs.add_argument("--follow", action="store_true")
    logs.add_argument("--since", help="as journalctl takes it")
    change = commands.add_parser("upgrade", help="change to a newer release; goes back by itself")
    change.add_argument("--bundle", type=Path, help="default: what was fetched")
    change.add_argument("--window", action="append", default=[], help="HH:MM-HH:MM in UTC")
    change.add_argument("--watch-seconds", type=int, default=WATCH_SECONDS)
    change.add_argument(
        "--doctor", default="doctor --json", help="arguments of the versions' check; empty: none"
    )
    change.add_argument("--unattended", action="store_true", help="as the timer does it")
    change.add_argument("--fetch", metavar="URL", help="only fetch what is newer, into --into")
    change.add_argument("--into", type=Path)
    _add_prefix(change)
    away = commands.add_parser("uninstall", help="take everything back")
    _add_consent(away)
    away.add_argument("--purge", action="store_true", help="the host's identity too")
    away.add_argument("--after-drain", action="store_true", help="wait until no lease lives")
    away.add_argument("--drain-seconds", type=int, default=DRAIN_SECONDS)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix", type=Path, help="a folder that is laid out as a machine; nothing is started"
    )


def _add_consent(parser: argparse.ArgumentParser) -> None:
    consent = parser.add_mutually_exclusive_group()
    consent.add_argument("--dry-run", action="store_true", help="print what would be done")
    consent.add_argument("--yes", action="store_true", help="do not ask")
    _add_prefix(parser)


def run(options: argparse.Namespace) -> int:
    """Run one of the five commands on this machine; the exit status."""
    if options.command == "logs":
        return _logs(options)
    prefix = getattr(options, "prefix", None)
    os.umask(0o022)  # the agent is another user, and reads what is installed here
    system = System() if prefix is None else System(root=prefix.resolve(), offline=True)
    machine = Machine(
        system=system,
        builder=environment.build,
        clock=Clock(now=wall_clock, pause=time.sleep),
        say=_say,
    )
    return run_on(machine, options)


def run_on(machine: Machine, options: argparse.Namespace) -> int:
    """Run a command on `machine`: 0 done, 1 gone back from, 75 ask again later, 78 refused."""
    commands = {
        "install": _install,
        "status": _status,
        "upgrade": _upgrade,
        "uninstall": _uninstall,
    }
    try:
        return commands[options.command](machine, options)
    except PreflightError as error:
        machine.say("refused; nothing was changed:")
        for problem in error.problems:
            machine.say(f"  - {problem}")
        return os.EX_CONFIG
    except BusyError as error:
        machine.say(f"later: {error}")
        return os.EX_TEMPFAIL
    except (InstallError, OSError) as error:
        machine.say(f"refused: {error}")
        return os.EX_CONFIG


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- install -------------------------------------------------------------------------------------


def _install(machine: Machine, options: argparse.Namespace) -> int:
    system, settings = machine.system, _settings(options)
    key = _release_key(options.release_key)
    with _alone(system), open_bundle(options.bundle, release_key=key) as bundle:
        release = bundle.release
        files = {
            each.path: bundle.read(each.path)
            for each in release.files
            if each.path.startswith(HOST_FILES)
        }
        steps = installation(release.version, files, release_key=key, settings=settings)
        applied = Applied(system)
        machine.say(f"blindhost-agent {release.version}, signed by {key.hex()}")
        check_install(system, applied, bundle, steps, replace=options.replace)
        for step in steps:
            machine.say(f"  {describe(step)}")
        if options.dry_run or not _confirmed(machine, options, "Install?"):
            return os.EX_OK
        apply_all(_hand(machine, applied, bundle), steps)
        if problems := conflicts(system, Applied(system), steps):
            raise InstallError("after the install: " + "; ".join(problems))
    machine.say(f"installed {release.version}")
    if settings is None:
        machine.say(
            f"not configured: install again with --market, or write {units.AGENT_ENVIRONMENT}"
        )
    elif not system.offline:
        machine.say(f"agent: {read_service(system).active}; `blindhost-agent status` says more")
    return os.EX_OK


def _settings(options: argparse.Namespace) -> Settings | None:
    given = (options.market, options.market_identity, options.ask)
    if all(each is None for each in given):
        return None
    if any(each is None for each in given):
        raise PreflightError(("--market, --market-identity and --ask go together",))
    values = (options.market, options.market_identity, options.serve_arguments)
    if any(ord(c) < 32 for value in values for c in value) or options.ask < 0:
        raise PreflightError(("a control character, or a price below 0",))
    return Settings(
        market=options.market,
        market_identity=options.market_identity,
        ask=options.ask,
        more=options.serve_arguments,
    )


def _release_key(given: str | None) -> bytes:
    """The key that this installer carries, or the one that is named where it carries none."""
    try:
        pinned = pkgutil.get_data("provider_agent.install", "release-key")
    except OSError:
        pinned = None
    if pinned is None and given is None:
        raise PreflightError(("this installer carries no release key: name one by --release-key",))
    carried = None if pinned is None else parse_release_key(pinned.decode("ascii", "replace"))
    named = None if given is None else parse_release_key(given)
    if carried is not None and named is not None and carried != named:
        raise PreflightError((f"this installer believes {carried.hex()}, not {named.hex()}",))
    found = carried or named
    assert found is not None
    return found


def _confirmed(machine: Machine, options: argparse.Namespace, question: str) -> bool:
    if options.yes:
        return True
    if not sys.stdin.isatty():
        machine.say("nothing was changed: nobody to ask; --yes does it")
        return False
    machine.say(f"{question} Write yes:")
    return sys.stdin.readline().strip() == "yes"


def _hand(machine: Machine, applied: Applied, bundle: Bundle | None) -> Hand:
    return Hand(system=machine.system, applied=applied, bundle=bundle, builder=machine.builder)


@contextlib.contextmanager
def _alone(system: System) -> Iterator[None]:
    """Hold the machine's lock: a folder that is always there, so that nothing is left behind."""
    descriptor = os.open(system.at("/var/lib"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError("another install, upgrade or uninstall runs") from error
    finally:
        os.close(descriptor)


# --- status and logs -----------------------------------------------------------------------------


def _status(machine: Machine, options: argparse.Namespace) -> int:
    applied = Applied(machine.system)
    record = read_record(_hand(machine, applied, None))
    found = read_status(machine.system, applied, record)
    if options.json:
        machine.say(as_json(found))
    else:
        for line in describe_status(found, machine.clock.now()):
            machine.say(line)
    return os.EX_OK if found.version is not None else 1


def _logs(options: argparse.Namespace) -> int:
    argv = journal_command(lines=options.lines, follow=options.follow, since=options.since)
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:  # noqa: S603 - a list of ours
            assert process.stdout is not None
            for line in process.stdout:
                _say(redact(line.decode(errors="replace").rstrip("\n")))
    except KeyboardInterrupt:
        return os.EX_OK
    except OSError as error:
        _say(f"refused: {error}")
        return os.EX_UNAVAILABLE
    return process.returncode


# --- upgrade -------------------------------------------------------------------------------------


def _upgrade(machine: Machine, options: argparse.Namespace) -> int:
    if options.fetch is not None:
        return _fetch(machine, options)
    system = machine.system
    if not 0 < options.watch_seconds <= WATCH_SECONDS_MAX:
        raise PreflightError((f"--watch-seconds is 1 to {WATCH_SECONDS_MAX}",))
    terms = Terms(
        windows=tuple(parse_window(each) for each in options.window),
        watch_seconds=options.watch_seconds,
        doctor=tuple(options.doctor.split()),
        unattended=options.unattended,
    )
    with _alone(system):
        applied = Applied(system)
        if (resumed := resume(_hand(machine, applied, None), terms, machine.clock)) is not None:
            return _report(machine, resumed)
        path = options.bundle or system.at(f"{units.SPOOL}/{FETCHED}")
        if options.bundle is None and not path.exists():
            machine.say("nothing was fetched")
            return os.EX_OK
        key = parse_release_key(system.at(units.RELEASE_KEY).read_text(encoding="ascii"))
        with open_bundle(path, release_key=key) as bundle:
            record = upgrade(_hand(machine, applied, bundle), terms, machine.clock)
    if record is None:
        machine.say(f"version {installed_version(system)} stays")
        return os.EX_OK
    return _report(machine, record)


def _report(machine: Machine, record: UpgradeRecord) -> int:
    if record.stage is Stage.DONE:
        machine.say(f"changed from {record.before} to {record.after}: {record.reason}")
        return os.EX_OK
    machine.say(f"went back from {record.after} to {record.before}: {record.reason}")
    return 1


def _fetch(machine: Machine, options: argparse.Namespace) -> int:
    if options.into is None:
        raise PreflightError(("--fetch and --into go together",))
    version = fetch(options.fetch, options.into, running=installed_version(machine.system))
    machine.say(f"fetched {version}" if version else "nothing newer")
    return os.EX_OK


# --- uninstall -----------------------------------------------------------------------------------


def _uninstall(machine: Machine, options: argparse.Namespace) -> int:
    system = machine.system
    with _alone(system):
        applied = Applied(system)
        if not applied.entries:
            machine.say("nothing of ours is on record")
            applied.remove_all()
            return os.EX_OK
        for entry in reversed(tuple(applied.entries.values())):
            if entry.kind is not Kind.COMMAND:
                machine.say(f"  take back  {entry.name}")
            elif entry.name in ACTIONS:
                for argv in ACTIONS[entry.name].undo:
                    machine.say(f"  run        {' '.join(argv)}")
        if options.dry_run or not _confirmed(machine, options, "Uninstall?"):
            return os.EX_OK
        _wait_for_leases(machine, options)
        left = undo_all(_hand(machine, applied, None), purge=options.purge)
    for line in left.lines:
        machine.say(f"left: {line}")
    machine.say("uninstalled")
    return os.EX_OK


def _wait_for_leases(machine: Machine, options: argparse.Namespace) -> None:
    """Refuse while a lease lives; with ``--after-drain`` wait for its end. Raises BusyError."""
    deadline = machine.clock.now() + 1000 * options.drain_seconds
    while leases := live_leases(machine.system):
        if not options.after_drain:
            raise BusyError(f"{len(leases)} lease(s) live; --after-drain waits for their end")
        if machine.clock.now() >= deadline:
            raise BusyError(f"{len(leases)} lease(s) live after {options.drain_seconds} s")
        machine.clock.pause(DRAIN_PAUSE_SECONDS)
