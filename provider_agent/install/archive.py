"""A bundle's tar, written and read in one canonical form.

Rules:
- The archive is a function of the signed manifest and the files' contents: the reader rebuilds
  every header, every byte of padding and the end, and compares. A link, a device, a path that leads
  out, an extra file, a byte changed anywhere: none of them is what the manifest yields.
- Everything is verified before anything is written; and what is written is hashed again, because
  the file could have been changed in between.
- ``tar -xf`` reads it too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

from provider_agent.install.ed25519 import KEY_BYTES, SIGNATURE_BYTES
from provider_agent.install.errors import BundleError
from provider_agent.install.release import (
    BUNDLE_BYTES_MAX,
    FILES_MAX,
    MANIFEST_BYTES_MAX,
    ReleaseFile,
    VerifiedRelease,
    verify_release,
)

MANIFEST: Final = "manifest"
_BLOCK: Final = 512
_CHUNK_BYTES: Final = 1 << 20
_SIGNED_BYTES_MAX: Final = MANIFEST_BYTES_MAX + SIGNATURE_BYTES + KEY_BYTES
ARCHIVE_BYTES_MAX: Final = BUNDLE_BYTES_MAX + _SIGNED_BYTES_MAX + (FILES_MAX + 22) * 2 * _BLOCK


def header(path: str, size: int) -> bytes:
    """The one header of a file: 512 bytes of POSIX ustar."""
    found = tarfile.TarInfo(path)
    found.size, found.mode = size, 0o644
    return found.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(size: int) -> bytes:
    """Zeros after `size` bytes of content."""
    return bytes(-size % _BLOCK)


def ending(size: int) -> bytes:
    """Zeros after `size` bytes of archive: two blocks, then up to a record of 10,240 bytes."""
    return bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % tarfile.RECORDSIZE)


class Bundle:
    """An open bundle, verified to its last byte."""

    def __init__(self, file: BinaryIO, release: VerifiedRelease, places: dict[str, int]) -> None:
        self._file = file
        self._places = places
        self.release = release

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, path: str) -> bytes:
        """A file's content. Raises BundleError if the bundle has changed since it was verified."""
        return b"".join(self._chunks(path))

    def unpack(self, folder: Path) -> None:
        """Write every file below `folder`, which is the caller's alone. Raises BundleError."""
        for each in self.release.files:
            place = folder / each.path
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with open(descriptor, "wb") as out:  # noqa: PTH123 - opened with its mode, and only once
                out.writelines(self._chunks(each.path))

    def _chunks(self, path: str) -> Iterator[bytes]:
        (wanted,) = (each for each in self.release.files if each.path == path)
        self._file.seek(self._places[path])
        yield from _read_file(self._file, wanted)


def open_bundle(path: Path, *, release_key: bytes) -> Bundle:
    """Open and verify a bundle.

    (1) Size of the archive. (2) The first member is the manifest, in the canonical form, and the
    release key signed it. (3) Then exactly the listed files, in that order, each header canonical,
    each content of the listed size and hash. (4) Then the canonical end, and nothing after it.

    Raises BundleError. The caller closes what is returned.
    """
    file = _open_regular(path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size > ARCHIVE_BYTES_MAX:  # (1)
            raise BundleError(f"{path.name} has {size} bytes; at most {ARCHIVE_BYTES_MAX}")
        signed = _read_manifest(file)  # (2)
        release = verify_release(
            signed, release_key=release_key, digest=hashlib.sha256(signed).digest()
        )
        places = {}
        for each in release.files:  # (3)
            _expect(file, header(each.path, each.size), f"header of {each.path}")
            places[each.path] = file.tell()
            for _ in _read_file(file, each):
                pass
            _expect(file, padding(each.size), f"padding of {each.path}")
        _expect(file, ending(file.tell()), "end")  # (4)
        if file.read(1):
            raise BundleError("something follows the end of the archive")
    except BaseException:
        file.close()
        raise
    return Bundle(file, release, places)


def _open_regular(path: Path) -> BinaryIO:
    """Open a plain file. A link or a pipe, as an unprivileged fetcher could leave, is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{path.name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path.name} is no plain file")
    return open(descriptor, "rb")  # noqa: PTH123 - not its path; the bundle owns it


def _read_manifest(file: BinaryIO) -> bytes:
    head = file.read(_BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(head, "ascii", "strict").size
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise BundleError("not a tar archive, or it is cut off") from error
    if not 0 < size <= _SIGNED_BYTES_MAX:
        raise BundleError(f"manifest of {size} bytes; at most {_SIGNED_BYTES_MAX}")
    if head != header(MANIFEST, size):
        raise BundleError("the first member is not a manifest in canonical form")
    signed = file.read(size)
    if len(signed) != size:
        raise BundleError("cut off within the manifest")
    _expect(file, padding(size), "padding of the manifest")
    return signed


def _expect(file: BinaryIO, wanted: bytes, what: str) -> None:
    if file.read(len(wanted)) != wanted:
        raise BundleError(f"{what} is not what the manifest yields, or is cut off")


def _read_file(file: BinaryIO, wanted: ReleaseFile) -> Iterator[bytes]:
    hashed, left = hashlib.sha256(), wanted.size
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise BundleError(f"cut off within {wanted.path}")
        hashed.update(chunk)
        left -= len(chunk)
        yield chunk
    if hashed.digest() != wanted.sha256:
        raise BundleError(f"{wanted.path} is not what the release key signed")
