"""Makes the image of one enclave: copies the runtime's files, and measures the very bytes copied.

Rules:
- A file is read once. What is hashed is what is written, so no change of the source in between can
  give an image that differs from its measurement.
- `trust.image.belongs` decides what is copied. Links are not followed; compiled files stay behind.
- The enclave runs from the copy, in which nothing else lies but the launch document.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from provider_agent.errors import LaunchError
from trust.encoding import digest
from trust.errors import EvidenceFormatError
from trust.image import (
    FILE_BYTES_MAX,
    FILES_MAX,
    LAUNCH_PATH,
    LOCK_PATH,
    MAIN_CONTENT,
    MAIN_PATH,
    PACKAGES,
    belongs,
    image_measurement,
)

_FOLDER_MODE: Final = 0o755  # the enclave's user is another one than the chip's
_FILE_MODE: Final = 0o444


def find_runtime() -> Path:
    """The folder that holds both packages and the lock file, found without importing the enclave's.

    Raises LaunchError where they are not installed side by side.
    """
    spec = find_spec(PACKAGES[0])
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(f"no package {PACKAGES[0]} to start; name a folder with --runtime")
    runtime = Path(next(iter(spec.submodule_search_locations))).resolve().parent
    for name in (*PACKAGES, LOCK_PATH):
        if not (runtime / name).exists():
            raise LaunchError(f"the runtime's folder has no {name}; name another with --runtime")
    return runtime


def copy_image(runtime: Path, image: Path, *, launch: bytes) -> bytes:
    """Copy the runtime to the new folder `image`; the measurement of what was copied, 48 bytes.

    (1) The folder is new. (2) Each file is read once, hashed, and written as it was hashed.
    (3) The launch document goes beside them. (4) Measure.

    Raises LaunchError.
    """
    try:
        image.mkdir(mode=_FOLDER_MODE)  # (1)
        image.chmod(_FOLDER_MODE)
        digests: dict[str, bytes] = {}
        for path, content in _sources(runtime):  # (2)
            if len(digests) >= FILES_MAX:
                raise LaunchError(f"the runtime has over {FILES_MAX} files")
            _write(image, path, content)
            digests[path] = digest(content)
        _write(image, LAUNCH_PATH, launch)  # (3)
        return image_measurement(digests)  # (4)
    except (OSError, EvidenceFormatError) as error:
        raise LaunchError(f"image: {error}") from error


def measure_runtime(runtime: Path) -> bytes:
    """The measurement that an image of this runtime has: 48 bytes. Raises LaunchError."""
    try:
        return image_measurement({path: digest(content) for path, content in _sources(runtime)})
    except (OSError, EvidenceFormatError) as error:
        raise LaunchError(f"image: {error}") from error


def _sources(runtime: Path) -> Iterator[tuple[str, bytes]]:
    yield MAIN_PATH, MAIN_CONTENT
    yield LOCK_PATH, _read(runtime / LOCK_PATH)
    for package in PACKAGES:
        for folder, folders, names in os.walk(runtime / package):
            folders.sort()
            for name in sorted(names):
                file = Path(folder, name)
                path = file.relative_to(runtime).as_posix()
                if belongs(path):
                    yield path, _read(file)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - the file that was opened, not its path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LaunchError(f"image: {path.name} is no regular file")
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise LaunchError(f"image: {path.name} is longer than {FILE_BYTES_MAX} bytes")
    return content


def _write(image: Path, path: str, content: bytes) -> None:
    target = image / path
    for parent in reversed(target.relative_to(image).parents[:-1]):
        folder = image / parent
        if not folder.exists():
            folder.mkdir()
            folder.chmod(_FOLDER_MODE)  # whatever this process's umask is
    with target.open("xb") as file:
        file.write(content)
    target.chmod(_FILE_MODE)
