"""A backup of what can't be made again: keystore, lineage keys, client key, release log, documents.

- Secrets stand in it as they lie in the home: sealed under the passphrase or the key file. The key
  file is never in it: whoever finds the backup has nothing without it.
- Own log heads are left out (client/release_log.py): a home that comes back from a backup has to
  learn from others that it is older than they.
- One tar, mode 0600, never over another file.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Final

from client.files import FILE_MODE, HomeError, sync_folder, write_durably
from client.home import Home

KEPT: Final = (
    "config",
    "keystore",
    "lineages",
    "client-key",
    "release-log",
    "manifests",
    "terms",
    "policies",
    "appraisal",
    "jobs",
    "submissions",
    "names",
)
MARK: Final = "backed-up"
FILES_MAX: Final = 32_768
BYTES_MAX: Final = 1 << 30


def back_up(home: Home, path: Path) -> int:
    """Write a backup, and note that there is one; returns its bytes.

    Raises HomeError if something has that name, or if the home holds more than a backup takes.
    """
    if path.exists() or path.is_symlink():
        raise HomeError(f"{path.name} is there already; it is never overwritten")
    files = [each for name in KEPT for each in _files(home.folder / name)]
    if len(files) > FILES_MAX or sum(each.stat().st_size for each in files) > BYTES_MAX:
        raise HomeError(f"over {FILES_MAX} files or {BYTES_MAX} bytes: copy the folder yourself")
    beside = path.with_name(f".{path.name}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for each in files:
                    _add(tar, home.folder, each)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    write_durably(home.folder / MARK, b"")
    return path.stat().st_size


def is_backed_up(home: Home) -> bool | None:
    """Whether a backup was made here since keys last changed; None: never here, perhaps elsewhere.

    What became of the backup is not known.
    """
    mark = home.folder / MARK
    if not mark.exists():
        return None
    made = mark.stat().st_mtime_ns
    keys = [home.folder / "keystore", *_files(home.folder / "lineages")]
    return all(each.stat().st_mtime_ns <= made for each in keys if each.exists())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(e for e in path.iterdir() if e.is_file() and not e.name.startswith("."))
    return [path] if path.is_file() else []


def _add(tar: tarfile.TarFile, folder: Path, path: Path) -> None:
    content = path.read_bytes()
    entry = tarfile.TarInfo(str(path.relative_to(folder)))
    entry.size, entry.mode = len(content), FILE_MODE
    tar.addfile(entry, io.BytesIO(content))
