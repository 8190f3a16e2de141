"""What the gateway remembers of files and jobs: small documents in the buyer's home.

- One file for each document, replaced whole or not at all (`client.files.write_durably`), 0600 in
  a folder 0700: whenever the process is killed, each is the old one or the new one.
- ``tuning/files/<artifact>``, ``tuning/submissions/<digest of the token>``, ``tuning/lineage``, and
  ``tuning/heard/<job>``: a line of JSON for each thing heard of a job; half a line is cut off.
- No row, measure or text of an enclave is kept here: a line names a record of the sealed progress.
- One process has it open. Not a token is kept, but its digest: it may derive from what is secret.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self, TypeVar

from client.files import FILE_MODE, HomeError, make_folder, sync_folder, write_durably
from trust.artifacts import LineageId
from trust.encoding import (
    Bytes32,
    Count,
    Digest,
    Document,
    Size,
    Struct,
    Text,
    Uint53,
    UnixMilliseconds,
    canonical_json,
    labelled_digest,
    parse_canonical_json,
)
from trust.errors import EncodingError

RECORDS_MAX: Final = 4096  # of one kind: what a home has room for (client.home.DOCUMENTS_MAX)
HEARD_MAX: Final = 1 << 18  # of one job: what its progress file holds, and changes of state
LINE_BYTES_MAX: Final = 1 << 14

Word = Annotated[str, Size(least=0, most=64)]
LongText = Annotated[str, Size(least=0, most=1 << 16)]
SignedBytes = Annotated[bytes, Size(least=97, most=1 << 18)]

D = TypeVar("D", bound=Document)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord(Document):
    """A dataset that was sealed here."""

    LABEL: ClassVar[str] = "client/tuning/file"

    artifact: Digest
    name: Text
    size: Uint53
    """Bytes of the plaintext."""
    rows: Count
    purpose: Word
    created_at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Struct):
    """A line of a client's metadata."""

    key: LongText
    value: LongText


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission(Document):
    """A token and the job that it is, stored before the job is sent."""

    LABEL: ClassVar[str] = "client/tuning/submission"

    token: Digest
    """Digest of the token (`token_digest`)."""
    job: SignedBytes
    """Signed `JobManifest`: what is sent, however often."""
    name: Digest
    """Digest of the job."""
    sent: bool
    """The market has it."""
    close: SignedBytes | None
    """Signed `Close`, stored before it is sent; None: it was never cancelled from here."""
    told: Annotated[tuple[Bytes32, ...], Size(least=1, most=32)]
    """Custodians of the inputs, sorted: who is told of a close."""
    model: Word
    training: Word
    heldout: Word | None
    rate_multiplier: Word | None
    """What the configured learning rate was multiplied by; a decimal."""
    label: LongText
    metadata: Annotated[tuple[Pair, ...], Size(least=0, most=1024)]
    created_at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Heard(Struct):
    """One thing that was heard of a job: a state, or a record of its sealed progress."""

    at: UnixMilliseconds
    state: Word | None
    """A `JobState`, by the market; None: it is a record."""
    text: Text
    """What the market says that the job waits for."""
    record: Uint53 | None
    """Which record of the progress file, from 0; None: it is a state."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineageRecord(Document):
    """The lineage of this gateway's files, made at first use."""

    LABEL: ClassVar[str] = "client/tuning/lineage"

    lineage: LineageId


def token_digest(token: str) -> bytes:
    """What stands for a token here: 32 bytes."""
    return labelled_digest("client/tuning/token", token.encode("utf-8"))


class TuningStore:
    """The open store."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder, self._descriptor = folder, descriptor
        self.files = {each.artifact: each for each in self._load(FileRecord, "files")}
        self.submissions = {each.token: each for each in self._load(Submission, "submissions")}
        self._heard: dict[bytes, list[Heard]] = {}

    @classmethod
    def open(cls, home: Path) -> Self:
        """Open a home's store, or begin one. Raises HomeError if another process has it open."""
        folder = home / "tuning"
        for each in (folder, *(folder / name for name in ("files", "submissions", "heard"))):
            make_folder(each)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(folder, descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise HomeError("another gateway has this home's jobs open") from error
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    def job(self, name: bytes) -> Submission | None:
        """The submission of a job."""
        return next((each for each in self.submissions.values() if each.name == name), None)

    # --- documents -------------------------------------------------------------------------------

    def keep_file(self, record: FileRecord) -> None:
        """Remember a file."""
        self._check_room(self.files, record.artifact)
        write_durably(self._folder / "files" / record.artifact.hex(), record.encode())
        self.files[record.artifact] = record

    def drop_file(self, artifact: bytes) -> None:
        """Forget a file."""
        self._remove(self._folder / "files" / artifact.hex())
        del self.files[artifact]

    def keep_submission(self, submission: Submission) -> None:
        """Remember a submission, or what has become of it."""
        self._check_room(self.submissions, submission.token)
        path = self._folder / "submissions" / submission.token.hex()
        write_durably(path, submission.encode())
        self.submissions[submission.token] = submission

    def drop_submission(self, submission: Submission) -> None:
        """Forget a submission, and what was heard of it."""
        self._remove(self._folder / "submissions" / submission.token.hex())
        del self.submissions[submission.token]
        self._remove(self._folder / "heard" / submission.name.hex())
        self._heard.pop(submission.name, None)

    @property
    def lineage(self) -> bytes | None:
        """The lineage that was made at first use; None: none was."""
        path = self._folder / "lineage"
        return LineageRecord.parse(path.read_bytes()).lineage if path.exists() else None

    def keep_lineage(self, lineage: bytes) -> None:
        """Remember the lineage that was made."""
        write_durably(self._folder / "lineage", LineageRecord(lineage=lineage).encode())

    # --- what was heard --------------------------------------------------------------------------

    def heard(self, job: bytes) -> Sequence[Heard]:
        """All that was heard of a job, oldest first."""
        if job not in self._heard:
            self._heard[job] = _read_lines(self._folder / "heard" / job.hex())
        return self._heard[job]

    def hear(self, job: bytes, heard: Sequence[Heard]) -> None:
        """Remember more; beyond `HEARD_MAX` nothing is."""
        known = self.heard(job)
        heard = heard[: max(0, HEARD_MAX - len(known))]
        if not heard:
            return
        path = self._folder / "heard" / job.hex()
        fresh = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        with os.fdopen(descriptor, "ab") as file:
            file.write(b"".join(canonical_json(each.to_json()) + b"\n" for each in heard))
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync_folder(path.parent)
        self._heard[job] += heard

    # --- the folder ------------------------------------------------------------------------------

    def _load(self, kind: type[D], name: str) -> list[D]:
        found = []
        for path in sorted((self._folder / name).iterdir()):
            if path.name.startswith("."):  # a write that was cut off: nobody was told of it
                path.unlink()
            else:
                found.append(kind.parse(path.read_bytes()))
        return found

    def _check_room(
        self, known: dict[bytes, FileRecord] | dict[bytes, Submission], name: bytes
    ) -> None:
        if name not in known and len(known) >= RECORDS_MAX:
            raise HomeError(f"{RECORDS_MAX} are kept here already; delete some first")

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def _read_lines(path: Path) -> list[Heard]:
    """Whole lines; the half line that a crash left is cut off, so that the next begins afresh."""
    if not path.exists():
        return []
    data = path.read_bytes()
    good = data.rfind(b"\n") + 1
    if good < len(data):
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
    found = []
    for number, line in enumerate(data[:good].splitlines(), start=1):
        try:
            found.append(Heard.from_json(parse_canonical_json(line, bytes_max=LINE_BYTES_MAX)))
        except EncodingError as error:
            raise HomeError(f"heard, line {number}: not what was written: {error}") from error
    return found
