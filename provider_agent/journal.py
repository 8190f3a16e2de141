"""What an agent must not forget: one small file for each lease, replaced atomically and durably.

Rules:
- A record is written after each step and before the next: an agent killed anywhere finds the last
  one whole, and every step can be done again.
- A lease has a folder of mode 0700: record, briefing, and the door's sockets. A record that does
  not parse stops the agent with its name: it is never guessed.
"""

from __future__ import annotations

import enum
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from marketplace.wire import LeaseBriefing, LeaseEvent
from marketplace.wire import encode as encode_body
from provider_agent.errors import AgentError
from trust.encoding import Bytes16, Name, Size, Struct, UnixMilliseconds, canonical_json, parse_json
from trust.errors import EncodingError
from trust.jobs import LeaseId

RECORD_FILE: Final = "record"
BRIEFING_FILE: Final = "briefing"
DOOR_FOLDER: Final = "door"
LEASES_MAX: Final = (
    64  # a host runs a few at a time; ended ones go once the market lists them no more
)
FILE_BYTES_MAX: Final = 4 << 20  # a briefing: up to 35 attachments of 64 KiB, in base64


class Stage(enum.StrEnum):
    """How far a lease is."""

    NEW = "new"
    """Seen at the market."""
    BRIEFED = "briefed"
    """Its documents are stored."""
    STARTING = "starting"
    """The chip is about to be asked, or was."""
    STARTED = "started"
    """The enclave ran; the market may not know."""
    SERVING = "serving"
    """The enclave ran, and the market knows."""
    ENDED = "ended"
    """It is over, for `reason`; the market may not know."""
    REPORTED = "reported"
    """The market knows, or would not hear it; what was made for it may still lie here."""
    DONE = "done"
    """Nothing is left but this record, until the market lists the lease no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRecord(Struct):
    """Where a lease stands."""

    lease: LeaseId
    stage: Stage
    since: UnixMilliseconds
    """When this stage began."""
    incarnation: Bytes16 | None
    """From STARTING on: the chip that was asked. None: no chip was."""
    event: LeaseEvent | None
    """From ENDED on: how it ended."""
    reason: Annotated[Name, Size(least=1, most=128)] | None
    """From ENDED on: a word for it."""


class Journal:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def records(self) -> tuple[LeaseRecord, ...]:
        """Every record, oldest lease first. Raises AgentError for one that does not parse."""
        found = []
        for folder in sorted(self._folder.iterdir()):
            path = folder / RECORD_FILE
            if not path.exists():  # an agent was killed before its first record, or after the last
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                record = LeaseRecord.from_json(parse_json(_read(path)))
            except EncodingError as error:
                raise AgentError(f"record of {folder.name} does not parse: {error}") from error
            if record.lease != folder.name:
                raise AgentError(f"record of {folder.name} is of {record.lease}")
            found.append(record)
        return tuple(found)

    def write(self, record: LeaseRecord) -> None:
        """Make a record durable."""
        folder = self._folder / record.lease
        folder.mkdir(mode=0o700, exist_ok=True)
        content: Any = record.to_json()
        replace_file(folder / RECORD_FILE, canonical_json(content))

    def remove(self, lease: str) -> None:
        """Forget a lease."""
        folder = self._folder / lease
        (folder / RECORD_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def write_briefing(self, lease: str, briefing: LeaseBriefing) -> None:
        """Store what to launch and brief with."""
        replace_file(self._folder / lease / BRIEFING_FILE, encode_body(briefing))

    def briefing(self, lease: str) -> LeaseBriefing:
        """What was stored. Raises AgentError where it does not parse."""
        try:
            return LeaseBriefing.from_json(parse_json(_read(self._folder / lease / BRIEFING_FILE)))
        except (OSError, EncodingError) as error:
            raise AgentError(f"briefing of {lease}: {error}") from error

    def door(self, lease: str) -> Path:
        """The folder for the door's sockets, made if need be."""
        folder = self._folder / lease / DOOR_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def clear(self, lease: str) -> None:
        """Remove all but the record."""
        folder = self._folder / lease
        (folder / BRIEFING_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / DOOR_FOLDER, ignore_errors=True)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise AgentError(f"{path.parent.name}/{path.name}: over {FILE_BYTES_MAX} bytes")
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably; it has mode 0600."""
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - opened with its mode
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
