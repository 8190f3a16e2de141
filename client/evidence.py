"""Evidence that a broker decided on, kept so that its verdict can be made again.

- It is kept beside the release log and decides nothing: a release stands with or without it.
- One piece for each seat (job, generation, rank) that was released for, and the newest refused ones
  apart: whoever sends evidence fills no disk.
- What lies here is believed no more than on the day when it came: whoever reads it appraises it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
from pathlib import Path
from typing import Annotated, ClassVar, Final

from client.files import FILE_MODE, HomeError, make_folder
from trust.encoding import Document, Size, Text, UnixMilliseconds
from trust.errors import BlindhostError
from trust.messages import EvidenceBundle, Statement
from trust.release import Decision, Refusal
from trust.release_state import Released, SeatName

EVIDENCE_BYTES_MAX: Final = 1 << 17  # a report, its certificates and lists have about 8 KiB
KEPT_MAX: Final = 1024  # seats that were released for; the oldest make room
REFUSED_MAX: Final = 64
_REFUSED: Final = "-refused"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeptEvidence(Document):
    """One piece of evidence, and what was decided on it."""

    LABEL: ClassVar[str] = "client/evidence"

    decided_at: UnixMilliseconds
    """The `now` of that decision: its verdict comes out the same again."""
    evidence: Annotated[bytes, Size(least=1, most=EVIDENCE_BYTES_MAX)]
    """Bytes of an `EvidenceBundle`."""
    refused: Text | None
    """Code and text of the refusal; None: it was released for."""

    @property
    def bundle(self) -> EvidenceBundle:
        """The evidence, parsed and not believed."""
        return EvidenceBundle.parse(self.evidence)


class EvidenceFolder:
    """The folder ``evidence`` of a home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "evidence"

    def keep(
        self, bundle: EvidenceBundle, statement: Statement, result: Decision | Refusal, now: int
    ) -> None:
        """Keep what a decision was made on, if it is one about evidence. Never raises for a disk.

        A repeated answer was decided on before, and is not kept again.
        """
        if isinstance(result, Decision):
            if not any(isinstance(entry, Released) for entry in result.entries):
                return
            refused = None
        elif result.code.startswith("evidence-"):
            refused = f"{result.code}: {result.text}"[:1024]
        else:
            return
        content = bundle.encode()
        if len(content) > EVIDENCE_BYTES_MAX:
            log.info("evidence of %d bytes is not kept", len(content))
            return
        name = (statement.job, statement.generation, statement.rank)
        kept = KeptEvidence(decided_at=now, evidence=content, refused=refused)
        try:
            self._write(_file_name(name, refused is not None), kept.encode())
        except (OSError, HomeError) as error:
            log.warning("evidence is not kept: %s", error)

    def find(self, name: SeatName) -> KeptEvidence | None:
        """What was released on; else what was refused last; None: nothing is kept.

        Raises DocumentError for a file that is none of ours.
        """
        for refused in (False, True):
            path = self._folder / _file_name(name, refused)
            if path.exists():
                return KeptEvidence.parse(path.read_bytes())
        return None

    def _write(self, name: str, content: bytes) -> None:
        make_folder(self._folder)
        beside = self._folder / f".{secrets.token_hex(8)}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        beside.replace(self._folder / name)
        self._make_room()

    def _make_room(self) -> None:
        paths = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        for refused, most in ((False, KEPT_MAX), (True, REFUSED_MAX)):
            found = [path for path in paths if path.name.endswith(_REFUSED) is refused]
            if len(found) <= most:
                continue
            found.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in found[: len(found) - most]:
                path.unlink(missing_ok=True)


def _file_name(name: SeatName, refused: bool) -> str:  # noqa: FBT001
    job, generation, rank = name
    return f"{job.hex()}-{generation}-{rank}{_REFUSED if refused else ''}"


def kept_seats(home: Path, job: bytes) -> tuple[SeatName, ...]:
    """Seats of a job of which evidence is kept, released or refused, sorted."""
    folder = home / "evidence"
    if not folder.is_dir():
        return ()
    found: set[SeatName] = set()
    for path in folder.glob(f"{job.hex()}-*"):
        try:
            generation, rank = path.name.removesuffix(_REFUSED).split("-")[1:]
            found.add((job, int(generation), int(rank)))
        except ValueError as error:
            raise BlindhostError(f"evidence/{path.name[:24]}… is no file of ours") from error
    return tuple(sorted(found))
