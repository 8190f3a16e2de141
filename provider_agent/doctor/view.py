"""The machine's files, all below one root; each read is bounded in bytes, and never waits.

Rules:
- A path that leads out of the root, by whatever link, is not read.
- Only a regular file is read: no device, no pipe, no socket. It is opened without waiting, and its
  bytes are counted as they come: a file that never ends is *unread*, not memory.
- A file that vanishes between two looks, or refuses, is unread, with the kernel's word for it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.errors import AgentError

TEXT_BYTES_MAX: Final = 4 << 20  # cpuinfo of 512 processors is 1 MiB; nothing else comes near
ENTRIES_MAX: Final = 4096  # a big host has some 600 PCI functions
IMAGE_BYTES_MAX: Final = 8 << 30  # root image of a GPU runtime, and room
READ_SECONDS_MAX: Final = 3.0  # sysfs answers within milliseconds
IMAGE_SECONDS_MAX: Final = 600.0  # 8 GiB from a slow disk
PIECE_BYTES: Final = 1 << 16


class UnreadError(AgentError):
    """What was asked for could not be read: the check is *unknown*, and this is why."""


class AbsentError(UnreadError):
    """It is not there. A judge for whom that is an answer catches it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostView:
    """The files of one machine, real (`/`) or laid out by a test."""

    root: Path

    def text(self, path: str, *, most: int = TEXT_BYTES_MAX) -> str:
        """A file's text, whole, without the white space around it. Raises UnreadError."""
        return self.content(path, most=most).decode("utf-8", "replace").strip()

    def content(self, path: str, *, most: int = TEXT_BYTES_MAX) -> bytes:
        """A file's bytes, whole. Raises UnreadError: longer than `most` is not read at all."""
        content = bytearray()
        for piece in self._pieces(path):
            content += piece
            if len(content) > most:
                raise UnreadError(f"{path}: longer than {most} bytes")
        return bytes(content)

    def sha256(self, path: str, *, most: int = IMAGE_BYTES_MAX) -> str:
        """SHA-256 of a file, hex, however long up to `most`. Raises UnreadError."""
        found, length = hashlib.sha256(), 0
        for piece in self._pieces(path, IMAGE_SECONDS_MAX):
            length += len(piece)
            if length > most:
                raise UnreadError(f"{path}: longer than {most} bytes")
            found.update(piece)
        return found.hexdigest()

    def number(self, path: str) -> int:
        """A file that holds one number, decimal or 0x. Raises UnreadError."""
        text = self.text(path, most=256)
        try:
            return int(text, 0)
        except ValueError as error:
            raise UnreadError(f"{path}: {text[:40]!r} is no number") from error

    def names(self, path: str) -> tuple[str, ...]:
        """Names in a folder, sorted. Raises UnreadError."""
        with self._told(path):
            resolved = self._resolve(path)
            found = []
            with os.scandir(resolved) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) > ENTRIES_MAX:
                        raise UnreadError(f"{path}: over {ENTRIES_MAX} entries")
        return tuple(sorted(found))

    def exists(self, path: str) -> bool:
        """Whether something is there. Raises UnreadError where the kernel will not say."""
        try:
            with self._told(path):
                self._resolve(path).stat()
        except AbsentError:
            return False
        return True

    def mode(self, path: str) -> int:
        """Permission bits of what is there. Raises UnreadError."""
        with self._told(path):
            return stat.S_IMODE(self._resolve(path).stat().st_mode)

    def link(self, path: str) -> str:
        """The last name in the target of a symbolic link. Raises UnreadError."""
        with self._told(path):
            return (self.root / path).readlink().name

    # --- inside ----------------------------------------------------------------------------------

    def _resolve(self, path: str) -> Path:
        root = os.path.realpath(self.root)
        found = os.path.realpath(self.root / path)
        if os.path.commonpath((root, found)) != root:
            raise UnreadError(f"{path}: leads out of the tree")
        return Path(found)

    def _pieces(self, path: str, seconds: float = READ_SECONDS_MAX) -> Iterator[bytes]:
        deadline = time.monotonic() + seconds
        with self._told(path):
            found = self._resolve(path)
            if not stat.S_ISREG(found.stat().st_mode):  # to open a device may already act
                raise UnreadError(f"{path}: no regular file")
            descriptor = os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise UnreadError(f"{path}: no regular file")
                while piece := os.read(descriptor, PIECE_BYTES):
                    yield piece
                    if time.monotonic() > deadline:
                        raise UnreadError(f"{path}: no end after {seconds:g} s")
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """The kernel's errors as ours; absent apart from refused."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise AbsentError(f"{path}: absent") from error
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            name = errno.errorcode.get(number or 0, type(error).__name__)
            raise UnreadError(f"{path}: {name}") from error
