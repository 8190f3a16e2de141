"""Blobs: ciphertext and public files by their SHA-256, in a local folder. Nobody trusts it.

- A blob is at most `BLOB_BYTES_MAX`, and stored only if its bytes are what its name says. They are
  written beside, synced, renamed, and the folder synced, before anybody is told that they are
  there: a custodian's acknowledgement rests on that.
- Bytes are put down first and the row after them. A crash in between leaves bytes without a row:
  the same PUT again adds the row, and nobody was told anything.
- What is read is hashed again when it is read whole, so a flipped bit on the disk is an error.
- Each party has a share of the store, `SHARE_BYTES_MAX`; a blob counts for who stored it first.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlmodel import Session, col, select

from marketplace.models_exchange import Blob, BlobShare
from marketplace.refusals import MarketError
from marketplace.wire import BLOB_BYTES_MAX, ErrorCode, StoredResult
from trust.encoding import base64url, digest

SHARE_BYTES_MAX: Final = 1 << 40  # one party's ciphertext: several 140 GB models
_FOLDER_MODE: Final = 0o700
_TEMPORARY: Final = ".arriving-"


class BlobFolder:
    """The bytes. Two levels of folders, so that none grows beyond what a file system likes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        for left in folder.glob(f"{_TEMPORARY}*"):  # of a process that was killed
            left.unlink()

    def path(self, sha256: bytes) -> Path:
        """Where a blob's bytes stand, if they do."""
        name = sha256.hex()
        return self._folder / name[:2] / name

    def has(self, sha256: bytes) -> bool:
        """Whether its bytes are there; the store's row says whether anybody was told so."""
        return self.path(sha256).is_file()

    def write(self, sha256: bytes, content: bytes) -> None:
        """Put down a blob's bytes, durably. They are checked already."""
        target = self.path(sha256)
        if target.is_file():
            return
        target.parent.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise
        _sync_folder(target.parent)
        _sync_folder(self._folder)

    def read(self, sha256: bytes, *, first: int = 0, last: int | None = None) -> bytes:
        """Read a blob whole, or its bytes from `first` to `last`, both included.

        Raises MarketError: NOT_FOUND if it is not there or is damaged, MALFORMED for a range that
        is not inside it.
        """
        try:
            content = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise MarketError(ErrorCode.NOT_FOUND, f"no blob {sha256.hex()}") from None
        if digest(content) != sha256:
            raise MarketError(ErrorCode.NOT_FOUND, f"blob {sha256.hex()} is damaged on the disk")
        if last is None:
            return content
        if not 0 <= first <= last < len(content):
            raise MarketError(
                ErrorCode.MALFORMED, f"bytes {first}-{last} of a blob of {len(content)}"
            )
        return content[first : last + 1]


def check(sha256: bytes, content: bytes) -> None:
    """Raises MarketError (TOO_LARGE, MALFORMED) unless these are that blob's bytes."""
    if not 1 <= len(content) <= BLOB_BYTES_MAX:
        raise MarketError(
            ErrorCode.TOO_LARGE, f"a blob of {len(content)} bytes, wanted 1 to {BLOB_BYTES_MAX}"
        )
    if (found := digest(content)) != sha256:
        raise MarketError(
            ErrorCode.MALFORMED, f"these are the bytes of {found.hex()}, not {sha256.hex()}"
        )


def check_room(session: Session, size: int, party: bytes) -> BlobShare:
    """The party's share, if `size` more bytes fit it. Raises MarketError (FULL)."""
    name = base64url(party)
    share = session.get(BlobShare, name) or BlobShare(party=name, bytes=0)
    if share.bytes + size > SHARE_BYTES_MAX:
        raise MarketError(
            ErrorCode.FULL, f"this party's share is full: {share.bytes} of {SHARE_BYTES_MAX} bytes"
        )
    return share


def record(session: Session, sha256: bytes, size: int, party: bytes, now: int) -> StoredResult:
    """Count a blob for its party. Raises MarketError (FULL)."""
    if session.get(Blob, base64url(sha256)) is not None:
        return StoredResult.EXISTS
    share = check_room(session, size, party)
    share.bytes += size
    session.add(share)
    session.add(Blob(digest=base64url(sha256), bytes=size, stored_by=share.party, at_ms=now))
    session.flush()
    return StoredResult.CREATED


def missing(session: Session, digests: Sequence[bytes]) -> tuple[bytes, ...]:
    """Those of `digests` that are not stored, in their order."""
    names = {base64url(each) for each in digests}
    query = select(Blob.digest).where(col(Blob.digest).in_(names))
    found = set(session.exec(query))
    return tuple(each for each in digests if base64url(each) not in found)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
