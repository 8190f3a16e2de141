"""Working directories that Ray's client uploads: zip files that nobody unpacks.

- A package lies in a file of mode 0600 without a name: it is gone with this process, however that
  ends. What a job names is copied out of it, one file at a time, under a name of ours.
- A zip is checked whole before anything in it is read: its listing, every name, every size.
- Ray's package name is a 64-bit XOR, no content hash: two directories can have one name. So nobody
  is told that a package *exists*; each upload is for one job, known by the SHA-256 of its bytes.
- Two uploads of different bytes under one name, both waiting: neither can be told to be the next
  job's, so that job is refused, and both are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from client.files import FILE_MODE, HomeError, make_folder
from trust.errors import BlindhostError

PACKAGE_BYTES_MAX: Final = 512 << 20  # Ray's own limit (GCS_STORAGE_MAX_SIZE)
UNPACKED_BYTES_MAX: Final = 2 << 30  # by the listing, all entries together
LISTING_BYTES_MAX: Final = 4 << 20  # zipfile keeps all of it in memory
ENTRIES_MAX: Final = 4096
NAME_CHARACTERS_MAX: Final = 1024
PACKAGES_MAX: Final = 8  # waiting for their jobs, or arriving
WAIT_SECONDS: Final = 120.0  # Ray's client posts the job right after its package
IDLE_SECONDS: Final = 60.0  # between two pieces of an upload
PIECE_BYTES: Final = 1 << 18
_END_BYTES: Final = 22  # end of central directory, APPNOTE.TXT §4.3.16
_LOCATOR_BYTES: Final = 20  # ZIP64 locator, §4.3.15
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class PackageError(BlindhostError):
    """A package that is no plain zip of plain files."""


class PackageSizeError(PackageError):
    """A package, or what it unpacks to, above a named maximum."""


class PackageMissingError(BlindhostError):
    """No upload waits under this name, or more than one."""


class PackagesFullError(BlindhostError):
    """As many packages wait as may."""


# --- zips ----------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Raise PackageError unless `name` is a plain relative path with single slashes."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise PackageError(
            f"package: a name of {len(name)} characters, wanted 1 to {NAME_CHARACTERS_MAX}"
        )
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in parts[0]:
        raise PackageError("package: a name with a backslash, a drive or a control character")
    if any(part in {"", ".", ".."} for part in parts):
        raise PackageError("package: a name that is no plain path inside the working directory")


def _check_end(file: IO[bytes], size: int) -> int:
    """Check where the listing lies; returns how many entries it says it has.

    (1) The file ends with a listing's end that has no comment. (2) There is no ZIP64 locator, whose
    numbers would count instead. (3) The listing ends where its end begins, and has a bounded size.
    """
    if size < _END_BYTES:
        raise PackageError(f"package: {size} bytes are no zip")
    file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES))
    tail = file.read()
    signature, disk, first, here, entries, length, offset, comment = struct.unpack(
        "<4s4H2LH", tail[-_END_BYTES:]
    )
    if signature != b"PK\x05\x06" or comment or disk or first or here != entries:  # (1)
        raise PackageError("package: no zip in one piece without a comment")
    if tail[:-_END_BYTES].startswith(b"PK\x06\x07"):  # (2)
        raise PackageError("package: ZIP64 is not taken")
    if length > LISTING_BYTES_MAX or entries > ENTRIES_MAX:  # (3)
        raise PackageSizeError(f"package: {entries} entries; at most {ENTRIES_MAX}")
    if offset + length + _END_BYTES != size:
        raise PackageError("package: its listing does not lie where its end says")
    return int(entries)


def _check_entry(info: zipfile.ZipInfo) -> None:
    if info.orig_filename != info.filename:  # zipfile cuts a name at its first NUL
        raise PackageError("package: a name with a NUL")
    check_name(info.filename.removesuffix("/"))
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise PackageError("package: a link or a device; plain files are wanted")
    if (kind == stat.S_IFDIR) != info.is_dir() and kind:
        raise PackageError("package: an entry that is file and folder")
    if info.flag_bits & 0x1:
        raise PackageError("package: an encrypted entry")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise PackageError(f"package: compression {info.compress_type}; wanted stored or deflated")


def list_files(file: IO[bytes], size: int) -> Mapping[str, zipfile.ZipInfo]:
    """The plain files of a zip, by name.

    (1) The listing is where it should be, and bounded. (2) Each entry is a plain file or folder
    with a plain name. (3) No name stands twice, or is both a file and the folder of another.
    (4) All together unpack to a bounded size. Raises PackageError.
    """
    entries = _check_end(file, size)  # (1)
    try:
        with zipfile.ZipFile(file) as archive:
            listing = archive.infolist()
    except _BROKEN as error:
        raise PackageError(f"package: no zip that can be read ({type(error).__name__})") from error
    if len(listing) != entries:
        raise PackageError(f"package: {len(listing)} entries, and says that it has {entries}")
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in listing:
        _check_entry(info)  # (2)
        name = info.filename.removesuffix("/")
        parents = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if name in files or parents & files.keys():  # (3)
            raise PackageError("package: one name stands twice")
        folders |= parents | ({name} if info.is_dir() else set())
        if info.is_dir():
            continue
        if name in folders:
            raise PackageError("package: one name stands twice")
        files[name] = info
    total = sum(info.file_size for info in files.values())
    if total > UNPACKED_BYTES_MAX:  # (4)
        raise PackageSizeError(f"package: unpacks to {total} bytes; at most {UNPACKED_BYTES_MAX}")
    return files


# --- packages ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Package:
    """An upload, checked. Its file has no name."""

    file: IO[bytes]
    sha256: bytes
    """Of the bytes of the zip."""
    files: Mapping[str, zipfile.ZipInfo]

    def read(self, name: str, *, bytes_max: int) -> bytes:
        """One whole file. Raises PackageError if there is none, or if it is longer."""
        info = self._info(name)
        if info.file_size > bytes_max:
            raise PackageSizeError(
                f"package: {name} has {info.file_size} bytes; at most {bytes_max}"
            )
        return b"".join(self._pieces(info))

    def copy(self, name: str, path: Path) -> None:
        """Copy one file to a new file of mode 0600."""
        info = self._info(name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as target:
            for piece in self._pieces(info):
                target.write(piece)

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self.files:
            raise PackageError(f"package: there is no file {name!r} in the working directory")
        return self.files[name]

    def _pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """What an entry unpacks to: as many bytes as the listing says, never one more."""
        left = info.file_size
        try:
            with zipfile.ZipFile(self.file) as archive, archive.open(info) as entry:
                while piece := entry.read(min(PIECE_BYTES, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        break
                    yield piece
        except _BROKEN as error:
            raise PackageError(
                f"package: {info.filename} does not unpack ({type(error).__name__})"
            ) from error
        if left:
            raise PackageError(f"package: {info.filename} has another length than its listing says")


class Packages:
    """Uploads that wait for their jobs, and the folder for what is copied out of them.

    `folder` is this object's alone while it lives: what lies there at the start is removed. None: a
    new private folder, removed at the end; what a killed process leaves there is swept by nobody.
    Raises HomeError if another process has the folder.
    """

    def __init__(self, folder: Path | None) -> None:
        own = folder is None
        self._folder = Path(tempfile.mkdtemp(prefix="blindhost-")) if folder is None else folder
        make_folder(self._folder)
        lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise HomeError("this folder for uploads is another gateway's") from error
        _empty(self._folder)
        self._finalizer = weakref.finalize(self, _leave, self._folder, lock, remove=own)
        self._waiting: dict[str, list[Package]] = {}
        self._arriving = 0
        self._timers: set[asyncio.TimerHandle] = set()

    def __len__(self) -> int:
        return self._arriving + sum(map(len, self._waiting.values()))

    async def receive(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        """Take an upload in, check it, and keep it for the next job that names it.

        Raises PackageSizeError, PackageError, PackagesFullError, TimeoutError.
        """
        if len(self) >= PACKAGES_MAX:
            raise PackagesFullError(f"packages: {PACKAGES_MAX} wait for their jobs; try again")
        self._arriving += 1
        file: IO[bytes] | None = None
        try:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # outlives this call
            package = await _receive(file, pieces)
            self._keep(name, package)
        except BaseException:
            if file is not None:
                file.close()
            raise
        finally:
            self._arriving -= 1

    def _keep(self, name: str, package: Package) -> None:
        self._waiting.setdefault(name, []).append(package)

        def expire() -> None:
            self._timers.discard(handle)
            if package in self._waiting.get(name, ()):
                self._remove(name, package)
                package.file.close()

        handle = asyncio.get_running_loop().call_later(WAIT_SECONDS, expire)
        self._timers.add(handle)

    def take(self, name: str) -> Package:
        """The upload under this name, for one job alone; the caller closes its file.

        Raises PackageMissingError.
        """
        waiting = self._waiting.get(name, [])
        if not waiting:
            raise PackageMissingError("package: none is waiting under this name; upload it again")
        if len({each.sha256 for each in waiting}) > 1:
            self._drop(name)
            raise PackageMissingError(
                "package: two different ones were uploaded under this name; submit again, one job "
                "after the other"
            )
        package = waiting[0]
        self._remove(name, package)
        return package

    def _remove(self, name: str, package: Package) -> None:
        self._waiting[name].remove(package)
        if not self._waiting[name]:
            del self._waiting[name]

    def _drop(self, name: str) -> None:
        for package in self._waiting.pop(name):
            package.file.close()

    @contextlib.asynccontextmanager
    async def copied(self, package: Package, name: str) -> AsyncIterator[Path]:
        """One file of a package under a path of ours, gone afterwards, whatever happens."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            path = folder / "rows.jsonl"
            await asyncio.to_thread(package.copy, name, path)
            yield path
        finally:
            shutil.rmtree(folder)

    def close(self) -> None:
        """Drop everything."""
        for handle in self._timers:
            handle.cancel()
        for name in list(self._waiting):
            self._drop(name)
        self._finalizer()


async def _receive(file: IO[bytes], pieces: AsyncIterator[bytes]) -> Package:
    sha256, size = hashlib.sha256(), 0
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            piece = await anext(pieces, b"")
        if not piece:
            break
        size += len(piece)
        if size > PACKAGE_BYTES_MAX:
            raise PackageSizeError(f"package: over {PACKAGE_BYTES_MAX} bytes")
        sha256.update(piece)
        await asyncio.to_thread(file.write, piece)
    file.flush()
    files = await asyncio.to_thread(list_files, file, size)
    return Package(file=file, sha256=sha256.digest(), files=files)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _leave(folder: Path, lock: int, *, remove: bool) -> None:
    with contextlib.suppress(OSError):  # at the end of the process there is nobody to tell
        _empty(folder)
        if remove:
            folder.rmdir()
    os.close(lock)
