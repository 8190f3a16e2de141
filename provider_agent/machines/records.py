"""What a launcher must not forget: one record for each machine, replaced durably at each stage.

Rules:
- A stage is on record before its work begins, and a process before it becomes QEMU: a launcher
  killed anywhere finds what it left behind, and clears it up or takes it over.
- A record stays until the agent stops the lease: so an enclave is started at most once for a lease.
"""

from __future__ import annotations

import enum
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from provider_agent.journal import replace_file
from provider_agent.machines.errors import MachineError
from provider_agent.machines.spec import BDF_EXPRESSION, GPUS_MAX, Platform
from trust.encoding import (
    Bytes16,
    Count,
    Digest,
    Name,
    Pattern,
    Size,
    Struct,
    Uint16,
    Uint32,
    Uint53,
    UnixMilliseconds,
    canonical_json,
    parse_json,
)
from trust.errors import DocumentError, EncodingError
from trust.image import MEASUREMENT_BYTES
from trust.jobs import LeaseId

RECORD_FILE: Final = "machine"
RECORD_BYTES_MAX: Final = 1 << 16
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

PciAddress = Annotated[str, Pattern(expression=BDF_EXPRESSION)]


class MachineStage(enum.StrEnum):
    """How far a machine is."""

    CLAIMED = "claimed"
    """Its GPUs are being proven; nothing runs."""
    STARTING = "starting"
    """QEMU is about to run, or runs and has not been looked at."""
    BOOTING = "booting"
    """The guest runs; its door is shut."""
    READY = "ready"
    """The guest has opened its door."""
    ENDED = "ended"
    """Nothing runs; its GPUs are back, or in quarantine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineRecord(Struct):
    """One machine."""

    lease: LeaseId
    platform: Platform
    stage: MachineStage
    since: UnixMilliseconds
    """When this stage began."""
    boot: Bytes16
    """The host's boot: a machine of another one is gone."""
    pid: Count | None
    started: Uint53 | None
    """With `pid`: QEMU's start, in clock ticks since boot. Both or none."""
    image: Digest
    measurement: Annotated[bytes, Size(least=MEASUREMENT_BYTES, most=MEASUREMENT_BYTES)]
    """By the image's publisher, for this shape."""
    host_data: Digest
    memory_mib: Count
    vcpus: Uint16
    gpus: Annotated[tuple[PciAddress, ...], Size(least=0, most=GPUS_MAX)]
    quarantined: Annotated[tuple[PciAddress, ...], Size(least=0, most=GPUS_MAX)]
    """At the end: those of its GPUs that are not free again."""
    exit: Uint32 | None
    """At the end: how, by `MachineExit`."""
    reason: Name | None
    """At the end: a word for it."""

    def _check(self) -> None:
        if (self.pid is None) != (self.started is None):
            raise DocumentError("machine: a process has both a number and a start")


def boot_id(path: Path = BOOT_ID) -> bytes:
    """The id of this boot of this host, 16 bytes. Raises MachineError."""
    try:
        return uuid.UUID(path.read_text().strip()).bytes
    except (OSError, ValueError) as error:
        raise MachineError("boot-id", "the kernel does not tell its boot's id") from error


class Records:
    """The machines' folders below one home: record, sockets and console of each."""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder(self, lease: str) -> Path:
        """A machine's folder."""
        return self._home / lease

    def load(self) -> tuple[MachineRecord, ...]:
        """Every record. Raises MachineError for one that does not parse: it is never guessed."""
        found = []
        for folder in sorted(self._home.iterdir()):
            path = folder / RECORD_FILE
            if not path.exists():  # killed before its first record, or after its last
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with path.open("rb") as file:
                content = file.read(RECORD_BYTES_MAX)
            try:
                record = MachineRecord.from_json(parse_json(content))
            except EncodingError as error:
                raise MachineError("broken-record", f"{folder.name}: {error}") from error
            if record.lease != folder.name:
                raise MachineError("broken-record", f"{folder.name} holds {record.lease}'s")
            found.append(record)
        return tuple(found)

    def write(self, record: MachineRecord) -> None:
        """Make a record durable."""
        folder = self.folder(record.lease)
        folder.mkdir(mode=0o700, exist_ok=True)
        content: Any = record.to_json()
        replace_file(folder / RECORD_FILE, canonical_json(content))

    def remove(self, lease: str) -> None:
        """Forget a machine, and remove what was made for it."""
        folder = self.folder(lease)
        (folder / RECORD_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
