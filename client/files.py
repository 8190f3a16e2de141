"""Files that must survive a crash, readable by their owner alone.

- A folder of ours is 0700 and a file 0600, whatever the umask is.
- A file is replaced whole or not at all: written beside, fsynced, renamed, its folder fsynced.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from trust.errors import BlindhostError

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


class HomeError(BlindhostError):
    """A home that is missing, readable by others, in use, or holds what it should not."""


def make_folder(path: Path) -> None:
    """Make a folder of ours, 0700; one that is there must be so already."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    check_private(path)


def check_private(path: Path) -> None:
    """Raise HomeError if a file or folder is not ours alone."""
    status = path.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise HomeError(f"{path.name}: mode {mode:04o}; only its owner may read and write it")


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file: after this returns its new content is on the disk, and never half of it."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shred(path: Path) -> None:
    """Overwrite a small file with zeros and remove it.

    On flash and on copying file systems old blocks may live on; so may backups: what was shredded
    is gone once those are gone too.
    """
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_folder(path.parent)
