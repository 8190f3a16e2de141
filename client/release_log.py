"""The release log: who opened what, when, for which job, on which chip, under which verdict.

- Append-only, hash-chained: an entry names the digest of the one before it.
- `append` returns once the entry is on the disk; whoever answers an enclave calls it before.
- A record is ``u32 length ‖ its check, 4 bytes ‖ SHA-256 of body ‖ body``. Half a record at the end
  is what a crash leaves: it was never answered, and is cut off. Any other damage is refused: a log
  that was edited, cut in the middle, or has another chain, opens for nobody. The length has a check
  of its own, or a flipped bit in it would pass for half a record and take all that follows along.
- One process at a time: the file is locked.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from client.files import (
    FILE_MODE,
    HomeError,
    check_private,
    make_folder,
    sync_folder,
    write_durably,
)
from trust.encoding import DOCUMENT_BYTES_MAX, digest
from trust.errors import BlindhostError
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import LogHead
from trust.release_state import Body, LogEntry, Memory, Opened, remember

_CHECK_BYTES: Final = 4
_LENGTH_BYTES: Final = 4 + _CHECK_BYTES
_FRAME_BYTES: Final = _LENGTH_BYTES + 32


class ReleaseLogError(BlindhostError):
    """A release log that is damaged beyond what a crash leaves."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What a log's bytes say."""

    chain: tuple[bytes, ...]
    """Digest of entry n at n-1."""
    memory: Memory
    good_bytes: int
    """Length of the whole records; what follows is half of one."""


def replay(data: bytes) -> Replayed:
    """Read a whole log. Raises ReleaseLogError for any damage but half a record at the end."""
    memory, chain, offset = Memory(), list[bytes](), 0
    for entry, end in read_entries(data):
        memory, offset = remember(memory, entry), end
        chain.append(entry.digest)
    return Replayed(chain=tuple(chain), memory=memory, good_bytes=offset)


def read_entries(data: bytes) -> Iterator[tuple[LogEntry, int]]:
    """Each whole entry of a log, chained to the one before, and the offset at which it ends.

    Raises ReleaseLogError for any damage but half a record at the end.
    """
    number, offset = 0, 0
    before: bytes | None = None
    while offset < len(data):
        frame = data[offset : offset + _FRAME_BYTES]
        if len(frame) < _FRAME_BYTES:
            break  # the write that a crash cut off: `append` had not returned
        length = int.from_bytes(frame[:4], "big")
        if length > DOCUMENT_BYTES_MAX or frame[:_LENGTH_BYTES] != _length_field(length):
            raise ReleaseLogError(f"entry {number + 1}: its length is not what was written")
        body = data[offset + _FRAME_BYTES : offset + _FRAME_BYTES + length]
        if len(body) < length:
            break  # the same
        if digest(body) != frame[_LENGTH_BYTES:]:
            raise ReleaseLogError(f"entry {number + 1} is not what was written")
        entry = LogEntry.parse(body)
        if (entry.number, entry.before) != (number + 1, before):
            raise ReleaseLogError(f"entry {number + 1} does not follow on the one before")
        number, before = entry.number, entry.digest
        offset += _FRAME_BYTES + length
        yield entry, offset


def _length_field(length: int) -> bytes:
    data = length.to_bytes(4, "big")
    return data + digest(data)[:_CHECK_BYTES]


class ReleaseLog:
    """An open log: its memory, its head, and the way to append."""

    def __init__(self, descriptor: int, replayed: Replayed) -> None:
        self._descriptor = descriptor
        self._chain = list(replayed.chain)
        self._broken = False
        self.memory = replayed.memory

    @classmethod
    def open(cls, path: Path, *, now: int) -> Self:
        """Open a log, or begin one with incarnation 1. Raises HomeError if another has it open."""
        fresh = not path.exists()
        if not fresh:
            check_private(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            log = cls(descriptor, _locked(descriptor))
            if fresh:
                sync_folder(path.parent)
            if not len(log):
                log.append((Opened(incarnation=1),), now=now)
        except BaseException:
            os.close(descriptor)
            raise
        return log

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    def append(self, bodies: Sequence[Body], *, now: int) -> None:
        """Write entries; they are on the disk when this returns.

        One write for all of them, so that a crash keeps a first part at most; then, whatever an
        entry says was released, its grant is in the entry itself. After a failed write the log
        takes no more: what is on the disk is then known only to whoever opens it again.
        """
        if self._broken:
            raise ReleaseLogError("an earlier write failed; the log has to be opened again")
        if not bodies:
            return
        memory, chain, frames = self.memory, list(self._chain), bytearray()
        for body in bodies:
            before = chain[-1] if chain else None
            entry = LogEntry(number=len(chain) + 1, before=before, at=now, body=body)
            data = entry.encode()
            memory = remember(memory, entry)
            chain.append(entry.digest)
            frames += _length_field(len(data)) + digest(data) + data
        self._broken = True
        self._write(bytes(frames))
        self._broken = False
        self.memory, self._chain = memory, chain

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)

    def __len__(self) -> int:
        return len(self._chain)

    def head(self, key: PartyKey, *, now: int) -> Signed[LogHead]:
        """How far this log goes, signed."""
        return key.sign(
            LogHead(
                custodian=key.identity,
                incarnation=self.memory.incarnation,
                entries=len(self._chain),
                chain=self._chain[-1],
                at=now,
            )
        )

    def is_behind(self, head: LogHead) -> bool:
        """A head of this custodian that this log does not reach.

        Behind = a lower incarnation, or fewer entries, or another chain at the same number. A head
        of an incarnation that this log has left is behind *it*, whatever its number.
        """
        if head.incarnation != self.memory.incarnation:
            return head.incarnation > self.memory.incarnation
        if head.entries > len(self._chain):
            return True
        return head.entries > 0 and self._chain[head.entries - 1] != head.chain


def _locked(descriptor: int) -> Replayed:
    """Lock a log, replay it, and cut off the half record that a crash left."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise HomeError("another broker has this release log open") from error
    with os.fdopen(os.dup(descriptor), "rb") as file:
        data = file.read()
    replayed = replay(data)
    if replayed.good_bytes < len(data):
        os.ftruncate(descriptor, replayed.good_bytes)
        os.fsync(descriptor)
    os.lseek(descriptor, replayed.good_bytes, os.SEEK_SET)
    return replayed


HEADS_MAX: Final = 4096  # custodians that a broker ever shared a job with


class HeadPlace:
    """The newest heads that were seen: one's own, in a place outside one's backups, and others'.

    Own heads must not be restored together with the log; other custodians' are kept for them.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder

    def newest(self, custodian: bytes) -> Signed[LogHead] | None:
        """The newest head of a custodian; None: none was ever seen."""
        path = self._folder / custodian.hex()
        if not path.exists():
            return None
        return verify_signed(LogHead, path.read_bytes(), signer=custodian)

    def keep(self, head: Signed[LogHead]) -> bool:
        """Keep a head if it is newer than the one that is kept; says whether it is now the newest.

        Raises SignatureError unless its custodian signed it.
        """
        if head.signer != head.document.custodian:
            verify_signed(LogHead, head.encode(), signer=head.document.custodian)
        kept = self.newest(head.signer)
        if kept is not None and _order(kept.document) >= _order(head.document):
            return kept.digest == head.digest
        if kept is None and len(list(self._folder.iterdir())) >= HEADS_MAX:
            raise HomeError(f"heads of {HEADS_MAX} custodians are kept; no more")
        write_durably(self._folder / head.signer.hex(), head.encode())
        return True

    def ahead(self, custodian: bytes) -> Signed[LogHead] | None:
        """A head of one's own that one's log did not reach; None: none was ever seen."""
        path = self._ahead(custodian)
        if not path.exists():
            return None
        return verify_signed(LogHead, path.read_bytes(), signer=custodian)

    def note_ahead(self, head: Signed[LogHead]) -> None:
        """Remember a head that one's own log does not reach: the newest of those that were seen."""
        noted = self.ahead(head.signer)
        if noted is None or _order(noted.document) < _order(head.document):
            write_durably(self._ahead(head.signer), head.encode())

    def _ahead(self, custodian: bytes) -> Path:
        return self._folder / f"{custodian.hex()}-ahead"


def _order(head: LogHead) -> tuple[int, int]:
    return head.incarnation, head.entries
