"""The host's cache of ciphertext objects: files named by the SHA-256 of what is in them.

Rules:
- An object is verified before it is written and each time it is read: a file that is not what its
  name says, or that the disk does not give, is removed, said as ``storage.corrupt``, and counts as
  absent. So nothing is synced: what a power cut tears is noticed like any other bad disk.
- At most `bytes_max`. Once that is passed, what the lease used longest ago used goes first, down to
  `LOW_WATER_PERCENT`; what a running lease used and what the host pinned stays.
- A full or broken disk, an index that is lost or no index, and a folder that somebody emptied make
  the cache forget. They never make a lease fail: they cost the time to fetch again.
- One file for each object, in 256 folders. Extents of many would save the open of each read, a
  fiftieth of what its SHA-256 costs (docs/host/earnings.md), and would have to be compacted, since
  objects go one by one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from provider_agent.cache_index import CachedObject, Index, may_pass
from provider_agent.errors import AgentError
from provider_agent.frames import OBJECT_BYTES_MAX
from trust.encoding import DIGEST_BYTES, digest

INDEX_FILE: Final = "index.sqlite3"
OBJECTS_FOLDER: Final = "objects"
PARTIAL_FOLDER: Final = "partial"
BOOT_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
LOW_WATER_PERCENT: Final = 90
QUOTA_PERCENT: Final = 60
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_log = logging.getLogger("blindhost.storage")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheView:
    """How full a cache is."""

    bytes: int
    bytes_max: int
    objects: int


def quota(folder: Path, mib: int | None) -> int:
    """How many bytes a cache may hold: what the host says, else 60 % of what is free or its own.

    Its own bytes count as free, so that the quota does not shrink as the cache fills.
    """
    if mib is not None:
        return mib << 20
    near = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    own = 0
    with contextlib.suppress(sqlite3.Error):
        if (folder / INDEX_FILE).exists():
            index = Index(folder / INDEX_FILE)
            try:
                own = index.size
            finally:
                index.close()
    return (shutil.disk_usage(near).free + own) * QUOTA_PERCENT // 100


class BlobCache:
    """Objects by digest, in one folder of mode 0700.

    `agent` False: a command beside a running agent; it changes rows, and repairs nothing. Raises
    AgentError then, where the index does not open.
    """

    def __init__(self, folder: Path, *, bytes_max: int, agent: bool = True) -> None:
        self._folder, self._bytes_max, self._agent = folder, bytes_max, agent
        self._partials = itertools.count()
        self._stuck = False
        """All that is here must stay: looking for what may go would find nothing."""
        for each in (folder, folder / OBJECTS_FOLDER, folder / PARTIAL_FOLDER):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not agent:
            self._index = self._open_beside_agent()
            return
        for partial in (folder / PARTIAL_FOLDER).iterdir():  # an agent was killed while it wrote
            partial.unlink(missing_ok=True)
        try:
            self._index = Index(folder / INDEX_FILE)
            self._index.end_all()
            boot = _boot()
            if not boot or self._index.note("boot") != boot:
                self._look_through(self._index)
        except sqlite3.Error as error:
            self._index = self._made_again(error)
        self._make_room(0)

    @property
    def view(self) -> CacheView:
        """How full it is."""
        size = self._ask(lambda index: index.size, 0)
        objects = self._ask(lambda index: index.objects, 0)
        return CacheView(bytes=size, bytes_max=self._bytes_max, objects=objects)

    def close(self) -> None:
        """Let the index go."""
        self._index.close()

    # --- objects ---------------------------------------------------------------------------------

    def get(self, sha256: bytes, *, lease: str | None = None) -> bytes | None:
        """The object, verified; None where there is none, or what was there is another."""
        if not self._ask(lambda index: index.has(sha256), other=False):
            return None
        try:
            with self._path(sha256).open("rb") as file:
                content = file.read(OBJECT_BYTES_MAX + 1)
        except FileNotFoundError:  # its row came first, and the agent was killed
            self._ask(lambda index: index.remove(sha256), None)
            return None
        except OSError as error:
            self._say_corrupt(sha256, errno.errorcode.get(error.errno or 0, "unknown"))
            return None
        if digest(content) != sha256:
            self._say_corrupt(sha256, f"{len(content)} bytes of another digest")
            return None
        self._ask(lambda index: index.touch(sha256, lease), None)
        return content

    def put(self, sha256: bytes, content: bytes, *, lease: str | None = None) -> bool:
        """Keep an object; False where its digest is another, or there is no room for it.

        (1) It is what its name says. (2) Room is made. (3) The row, (4) the file, under a name of
        its own until it is whole.
        """
        most = min(self._bytes_max, OBJECT_BYTES_MAX)
        if len(content) > most or digest(content) != sha256:  # (1)
            return False
        if self._ask(lambda index: index.has(sha256), other=False):
            self._ask(lambda index: index.touch(sha256, lease), None)
            return True
        if not self._make_room(len(content)):  # (2)
            return False
        if not self._ask(lambda index: _added(index, sha256, len(content), lease), other=False):
            return False  # (3)
        partial = self._folder / PARTIAL_FOLDER / f"{os.getpid()}-{next(self._partials)}"
        try:
            write_whole(partial, content)  # (4)
            path = self._path(sha256)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            partial.replace(path)
        except OSError as error:
            _log.warning("storage.refused reason=%s", errno.errorcode.get(error.errno or 0, "?"))
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            self._ask(lambda index: index.remove(sha256), None)
            if error.errno in _FULL:  # others need the disk too, the agent's journal first
                self._shrink(self._bytes() * LOW_WATER_PERCENT // 100)
            return False
        return True

    def drop(self, sha256: bytes) -> bool:
        """Remove an object and its pin, whoever uses it; whether it was there."""
        known = self._ask(lambda index: index.has(sha256), other=False)
        self._ask(lambda index: index.unpin([sha256]), None)
        self._remove(sha256)
        return known

    def listed(self) -> tuple[CachedObject, ...]:
        """Every object, what was used last first."""
        return self._ask(lambda index: index.listed(), ())

    # --- what stays ------------------------------------------------------------------------------

    def pin(self, digests: Iterable[bytes]) -> None:
        """Keep these, here already or not."""
        names = tuple(digests)
        self._ask(lambda index: index.pin(names), None)
        self._stuck = False

    def unpin(self, digests: Iterable[bytes]) -> None:
        """Let these go in their turn."""
        names = tuple(digests)
        self._ask(lambda index: index.unpin(names), None)
        self._stuck = False

    def begin(self, lease: str) -> None:
        """What this lease uses stays while it runs."""
        self._ask(lambda index: index.begin(lease), None)

    def end(self, lease: str) -> None:
        """It runs no more."""
        self._ask(lambda index: index.end(lease), None)
        self._stuck = False

    # --- room ------------------------------------------------------------------------------------

    def _bytes(self) -> int:
        return self._ask(lambda index: index.size, 0)

    def _make_room(self, wanted: int) -> bool:
        """Whether so many bytes more may be kept."""
        if self._bytes() + wanted <= self._bytes_max:
            return True
        if self._stuck:
            return False
        self._shrink(max(0, self._bytes_max * LOW_WATER_PERCENT // 100 - wanted))
        self._stuck = self._bytes() + wanted > self._bytes_max
        return not self._stuck

    def _shrink(self, bytes_wanted: int) -> None:
        left = self._bytes()
        while left > bytes_wanted:
            nothing: list[tuple[bytes, int]] = []
            oldest = self._ask(lambda index: index.oldest(), nothing)
            if not oldest:
                return
            for name, size in oldest:
                self._remove(name)
                left -= size
                if left <= bytes_wanted:
                    return

    def _remove(self, sha256: bytes) -> None:
        with contextlib.suppress(OSError):
            self._path(sha256).unlink(missing_ok=True)
        self._ask(lambda index: index.remove(sha256), None)

    def _say_corrupt(self, sha256: bytes, found: str) -> None:
        _log.warning("storage.corrupt digest=%s found=%s", sha256.hex(), found)
        self._remove(sha256)

    def _path(self, sha256: bytes) -> Path:
        name = sha256.hex()
        return self._folder / OBJECTS_FOLDER / name[:2] / name

    # --- the index -------------------------------------------------------------------------------

    def _ask(self, call: Callable[[Index], T], other: T) -> T:
        """What the index says; `other` where it cannot. A broken one is made again, once."""
        for _ in range(2):
            try:
                return call(self._index)
            except sqlite3.Error as error:
                if may_pass(error) or not self._agent:
                    _log.warning("storage.waiting reason=%s", error)
                    return other
                self._index.close()
                self._index = self._made_again(error)
        return other

    def _open_beside_agent(self) -> Index:
        try:
            return Index(self._folder / INDEX_FILE)
        except sqlite3.Error as error:
            text = f"the cache's index does not open ({error}); a started agent makes it again"
            raise AgentError(text) from error

    def _made_again(self, error: sqlite3.Error) -> Index:
        """An index of the files that are here; in memory, if the disk keeps none."""
        _log.warning("storage.corrupt index reason=%s", error)
        with contextlib.suppress(OSError):
            for suffix in ("", "-wal", "-shm", "-journal"):
                (self._folder / f"{INDEX_FILE}{suffix}").unlink(missing_ok=True)
        for file in (self._folder / INDEX_FILE, None):
            try:
                index = Index(file)
                self._look_through(index)
            except sqlite3.Error as again:
                _log.warning("storage.corrupt index reason=%s", again)
            else:
                return index
        raise AgentError("the cache has no index, not even in memory")

    def _look_through(self, index: Index) -> None:
        index.found(self._files())
        index.set_note("boot", _boot())

    def _files(self) -> Iterator[tuple[bytes, int]]:
        """What lies in the folder under a name of ours, with its size."""
        with contextlib.suppress(OSError):
            for folder in os.scandir(self._folder / OBJECTS_FOLDER):
                for entry in os.scandir(folder) if folder.is_dir(follow_symlinks=False) else ():
                    with contextlib.suppress(OSError, ValueError):
                        name = bytes.fromhex(entry.name)
                        if name.hex() == entry.name and len(name) == DIGEST_BYTES:
                            yield name, entry.stat(follow_symlinks=False).st_size


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - opened with its mode
        file.write(content)


def _added(index: Index, sha256: bytes, size: int, lease: str | None) -> bool:
    index.add(sha256, size, lease)
    return True


def _boot() -> str:
    """The name of the machine's boot; empty where it has none, so that each start looks through."""
    try:
        return BOOT_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return ""
