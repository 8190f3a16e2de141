"""Do the steps of a plan, and take them back, each so that a kill anywhere costs nothing.

Rules:
- A step is on record before it is done, and does nothing where it is done already: an install or an
  uninstall that was killed is run again, and ends the same.
- What somebody changed since is never overwritten and never removed: an uninstall says so.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from provider_agent.install import units
from provider_agent.install.actions import ACTIONS, run_action
from provider_agent.install.applied import INSTALLER_COPY, Applied, Entry, Kind, is_ours
from provider_agent.install.archive import Bundle
from provider_agent.install.errors import InstallError
from provider_agent.install.plan import (
    BuildTree,
    MakeFolder,
    PlaceFile,
    PlaceLink,
    PlaceSecret,
    RunAction,
    Step,
)
from provider_agent.install.release import INSTALLER
from provider_agent.install.system import ABSENT, FOLDER, System, file_state, partial_name

SECRET_BYTES: Final = 32
SECRET_MODE: Final = 0o600
DEPTH_MAX: Final = 8  # folders above a file of ours

Builder = Callable[[System, Bundle, str], None]
"""Makes the environment of the bundle's version at this name; `environment.build` is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hand:
    """What steps are done with."""

    system: System
    applied: Applied
    bundle: Bundle | None
    """None: no step of this plan unpacks anything."""
    builder: Builder


def apply_all(hand: Hand, steps: tuple[Step, ...]) -> None:
    """Do every step. Raises InstallError or OSError; what was done is on record."""
    if hand.bundle is not None:
        # With it an uninstall goes on even when the environment that began it is gone.
        installer = hand.bundle.read(INSTALLER)
        hand.applied.open_folder()
        if hand.system.observe(INSTALLER_COPY) != file_state(installer, 0o600):
            hand.system.write_file(INSTALLER_COPY, installer, 0o600)
    for step in steps:
        apply_step(hand, step)


def apply_step(hand: Hand, step: Step) -> None:
    """Do one step, on record."""
    system, applied = hand.system, hand.applied
    match step:
        case MakeFolder(name=name, mode=mode, ours=ours):
            _make_parents(hand, name)
            applied.note(Kind.FOLDER, name, after=FOLDER, ours=ours)
            if system.observe(name) != FOLDER or mode != _mode(system, name):
                system.make_folder(name, mode)
        case BuildTree(version=version):
            assert hand.bundle is not None
            name = f"{units.HOME}/{version}"
            applied.note(Kind.TREE, name, after=f"tree {hand.bundle.release.digest.hex()}")
            hand.builder(system, hand.bundle, name)
        case PlaceFile(name=name, content=content, mode=mode):
            _make_parents(hand, name)
            after = file_state(content, mode)
            applied.note(Kind.FILE, name, after=after)
            if system.observe(name) != after:
                system.write_file(name, content, mode)
        case PlaceSecret(name=name):
            _make_parents(hand, name)
            applied.note(Kind.SECRET, name, after="secret", ours=True)
            if system.observe(name) == ABSENT:
                system.write_file(name, secrets.token_bytes(SECRET_BYTES), SECRET_MODE)
        case PlaceLink(name=name, target=target):
            _make_parents(hand, name)
            applied.note(Kind.LINK, name, after=f"link {target}")
            if system.observe(name) != f"link {target}":
                system.write_link(name, target)
        case RunAction(name=name):
            applied.note(Kind.COMMAND, name, after="done")
            run_action(system, name)


def _make_parents(hand: Hand, name: str) -> None:
    missing: list[str] = []
    parent = name.rpartition("/")[0]
    while parent and hand.system.observe(parent) == ABSENT:
        missing.append(parent)
        if len(missing) > DEPTH_MAX:
            raise InstallError(f"{name}: over {DEPTH_MAX} folders above it are missing")
        parent = parent.rpartition("/")[0]
    for each in reversed(missing):
        hand.applied.note(Kind.FOLDER, each, after=FOLDER)
        hand.system.make_folder(each, 0o755)


def _mode(system: System, name: str) -> int:
    return stat.S_IMODE(system.at(name).stat().st_mode)


# --- taking back ---------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Left:
    """What an uninstall did not remove, each with the reason."""

    lines: list[str] = field(default_factory=list)


def undo_all(hand: Hand, *, purge: bool) -> Left:
    """Take every entry back, from the last. Raises InstallError; what is left stays on record."""
    left = Left()
    for entry in reversed(tuple(hand.applied.entries.values())):
        undo_entry(hand, entry, left, purge=purge)
        hand.applied.forget(entry)
    hand.applied.remove_all()
    return left


def undo_entry(hand: Hand, entry: Entry, left: Left, *, purge: bool) -> None:
    """Take one entry back; its record is the caller's to remove."""
    system = hand.system
    match entry.kind:
        case Kind.COMMAND:
            if entry.name in ACTIONS:
                run_action(system, entry.name, undo=True)
        case Kind.TREE:
            system.remove_tree(entry.name)
        case Kind.SECRET:
            partial_name(system.at(entry.name)).unlink(missing_ok=True)
            if purge:
                system.remove(entry.name)
            elif system.observe(entry.name) != ABSENT:
                left.lines.append(f"{entry.name}: kept; --purge removes it")
        case Kind.FOLDER:
            _undo_folder(system, entry, left, purge=purge)
        case Kind.FILE | Kind.LINK:
            _undo_file(hand, entry, left, purge=purge)


def _undo_folder(system: System, entry: Entry, left: Left, *, purge: bool) -> None:
    if entry.before == FOLDER or system.observe(entry.name) != FOLDER:
        return
    if purge and entry.name == units.CONFIGURATION:
        system.remove_tree(entry.name)  # the operator's own settings there too
    if not system.remove_folder(entry.name):
        found = sorted(path.name for path in system.at(entry.name).iterdir())
        left.lines.append(f"{entry.name}: kept, it holds {', '.join(found[:8])}")


def _undo_file(hand: Hand, entry: Entry, left: Left, *, purge: bool) -> None:
    system, now = hand.system, hand.system.observe(entry.name)
    partial_name(system.at(entry.name)).unlink(missing_ok=True)
    if now == entry.before:
        return
    own = entry.name.startswith(f"{units.CONFIGURATION}/")
    if not is_ours(entry, now) and now != ABSENT and not (purge and own):
        left.lines.append(f"{entry.name}: kept, it was changed since")
    elif entry.before == ABSENT:
        system.remove(entry.name)
    elif entry.before.startswith("link "):
        system.write_link(entry.name, entry.before.removeprefix("link "))
    elif entry.before.startswith("file "):
        system.write_file(entry.name, hand.applied.kept(entry), entry.mode)
        os.chown(system.at(entry.name), *entry.owner)
