"""The record of what was applied to a host, kept so that all of it can be taken back.

Rules:
- An entry is durable before the thing that it describes is done, so nothing is done off the record.
- `before` is what lay there when we first came, and is never overwritten; content that would be
  lost is copied aside first. `prior` is what we wrote the last time: a kill between record and
  write leaves that.
- A record that does not parse stops everything: it is never guessed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import Any, Final

from provider_agent.install.errors import InstallError
from provider_agent.install.system import ABSENT, FILE_BYTES_MAX, FOLDER, System
from provider_agent.install.units import RECORDS

RECORD: Final = f"{RECORDS}/manifest.json"
KEPT: Final = f"{RECORDS}/kept"
INSTALLER_COPY: Final = f"{RECORDS}/installer.pyz"
UPGRADE_RECORD: Final = f"{RECORDS}/upgrade.json"
SCHEMA: Final = 1
ENTRIES_MAX: Final = 200


class Kind(enum.StrEnum):
    """What an entry is about."""

    FOLDER = "folder"
    FILE = "file"
    SECRET = "secret"  # noqa: S105 - a kind of file, made here and kept at an uninstall
    LINK = "link"
    TREE = "tree"
    COMMAND = "command"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing that was done, or was about to be."""

    kind: Kind
    name: str
    """Absolute path below the root; a command's name for `COMMAND`."""
    before: str
    """As `System.observe` says it, when we first came."""
    after: str
    """As it is to be."""
    prior: str | None
    """As we left it the last time, if that differs."""
    mode: int
    """Permission bits of the content that was copied aside; 0 where there is none."""
    owner: tuple[int, int]
    """Uid and gid of what lay there before; root's where nothing did."""


class Applied:
    """The entries, oldest first."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.entries: dict[tuple[Kind, str], Entry] = {}
        path = system.at(RECORD)
        if path.exists():
            for entry in _parse(path.read_bytes()):
                self.entries[entry.kind, entry.name] = entry

    def find(self, kind: Kind, name: str) -> Entry | None:
        """The entry of a thing; None: we have not touched it."""
        return self.entries.get((kind, name))

    def note(self, kind: Kind, name: str, *, after: str, ours: bool = False) -> Entry:
        """Record that `name` is about to become `after`. Raises InstallError.

        `ours`: the name is the product's own, so whatever lay there was left by it.
        """
        entry = self.find(kind, name)
        if entry is None:
            entry = self._new(kind, name, after, ours=ours)
        elif entry.after != after:
            entry = dataclasses.replace(entry, prior=entry.after, after=after)
        else:
            return entry
        self.entries[kind, name] = entry
        if len(self.entries) > ENTRIES_MAX:
            raise InstallError(f"over {ENTRIES_MAX} entries in {RECORD}")
        self._write()
        return entry

    def forget(self, entry: Entry) -> None:
        """The thing was taken back."""
        del self.entries[entry.kind, entry.name]
        self._write()

    def kept(self, entry: Entry) -> bytes:
        """The content that lay there before. Raises InstallError if it is not what it was."""
        wanted = entry.before.rpartition(" ")[2]
        path = self._system.at(f"{KEPT}/{wanted}")
        content = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(content).hexdigest() != wanted:
            raise InstallError(f"{entry.name}: the copy of what lay there before is damaged")
        return content

    def remove_all(self) -> None:
        """Remove the records themselves: the last step of an uninstall."""
        self._system.fault("before remove records")
        if self._system.at(RECORDS).exists():
            shutil.rmtree(self._system.at(RECORDS))

    def _new(self, kind: Kind, name: str, after: str, *, ours: bool) -> Entry:
        mode, owner = 0, (0, 0)
        before = ABSENT if ours else self._system.observe(name)
        if kind is Kind.COMMAND:
            before = ""  # its name is no path
        if before.startswith(("file ", "other ")):
            found = self._system.at(name).lstat()
            mode, owner = found.st_mode & 0o7777, (found.st_uid, found.st_gid)
        if kind is Kind.FILE and before.startswith("file ") and before != after:
            content = self._system.at(name).read_bytes()
            if len(content) > FILE_BYTES_MAX:
                raise InstallError(f"{name}: over {FILE_BYTES_MAX} bytes, no file of its kind")
            self.open_folder()
            self._system.write_file(f"{KEPT}/{before.rpartition(' ')[2]}", content, 0o600)
        return Entry(
            kind=kind, name=name, before=before, after=after, prior=None, mode=mode, owner=owner
        )

    def open_folder(self) -> None:
        """Make the folder of the records."""
        for folder in (RECORDS, KEPT):
            self._system.at(folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self) -> None:
        self.open_folder()
        value = {
            "schema": SCHEMA,
            "entries": [dataclasses.asdict(entry) for entry in self.entries.values()],
        }
        text = json.dumps(value, sort_keys=True, indent=1)
        self._system.write_file(RECORD, text.encode(), 0o600)


def _parse(content: bytes) -> tuple[Entry, ...]:
    try:
        value: Any = json.loads(content)
        if value["schema"] != SCHEMA or len(value["entries"]) > ENTRIES_MAX:
            raise InstallError(f"{RECORD} is of another schema than {SCHEMA}, or too long")
        return tuple(
            Entry(
                **{
                    **each,
                    "kind": Kind(each["kind"]),
                    "owner": (each["owner"][0], each["owner"][1]),
                }
            )
            for each in value["entries"]
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InstallError(f"{RECORD} does not parse: {type(error).__name__}") from error


def is_ours(entry: Entry, now: str) -> bool:
    """Whether what lies there now is what we wrote, at the last change or the one before."""
    return now in (entry.after, entry.prior) or (entry.kind is Kind.FOLDER and now == FOLDER)
