"""What a runtime image on the simulated platform consists of, and the number that names it.

Rules (docs/spec/evidence-snp.md, "simulated"):
- An image is a folder: `MAIN_PATH`, `LOCK_PATH`, and every ``*.py`` file of `PACKAGES`. `belongs`
  is the whole rule; chip and relying parties share it, so both measure the same files.
- Nothing else may lie in the folder but the launch document `LAUNCH_PATH`, which HOST_DATA covers.
  Compiled files do not belong: Python would run one in place of the source that was measured.
- The measurement is SHA-384 over ``label ‖ 0x00`` and, for each file sorted by path,
  ``u32be length of path ‖ path ‖ SHA-256 of content``: 48 bytes, as MEASUREMENT in a real report.
- It covers our code and the lock file. Third-party packages are the host's own on this platform:
  the lock file names them, and a real image holds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from trust.encoding import DIGEST_BYTES, label_bytes
from trust.errors import EvidenceFormatError

MEASUREMENT_BYTES: Final = 48
FILES_MAX: Final = 1024  # the two packages have under a hundred
FILE_BYTES_MAX: Final = 1 << 20  # our longest source file has some 30 KiB
PATH_BYTES_MAX: Final = 255

MAIN_PATH: Final = "__main__.py"
LOCK_PATH: Final = "constraints.txt"
LAUNCH_PATH: Final = "launch"
PACKAGES: Final = ("enclave_runtime", "trust")
REQUIRED: Final = (MAIN_PATH, LOCK_PATH, "enclave_runtime/__init__.py", "trust/__init__.py")

MAIN_CONTENT: Final = b'''"""Boot of the simulated image: this folder comes first in sys.path."""

import ctypes

# PR_SET_DUMPABLE: no core file, not even into a pipe, which no limit on core files forbids, and no
# ptrace by processes of the same user. execve undoes it, so it is the first act after.
if ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) != 0:
    raise SystemExit(71)

from enclave_runtime.simulated import main  # noqa: E402

main()
'''


def belongs(path: str) -> bool:
    """Whether the file at this path (POSIX, relative to the folder) is part of an image."""
    if path in (MAIN_PATH, LOCK_PATH):
        return True
    parts = path.split("/")
    return (
        len(parts) >= 2
        and parts[0] in PACKAGES
        and path.endswith(".py")
        and len(path.encode("utf-8", "surrogateescape")) <= PATH_BYTES_MAX
        and all(part.removesuffix(".py").isidentifier() for part in parts)
        and "__pycache__" not in parts
    )


def image_measurement(files: Mapping[str, bytes]) -> bytes:
    """Measure an image, given each file's path and the SHA-256 of its content: 48 bytes.

    (1) Every file belongs, and has a whole digest. (2) None that an image needs is missing.
    (3) Hash them in the order of their paths' bytes.

    Raises EvidenceFormatError. That the digests are those of the files that run is the caller's.
    """
    if len(files) > FILES_MAX:
        raise EvidenceFormatError(f"image of {len(files)} files; at most {FILES_MAX}")
    for path, content in files.items():  # (1)
        if not belongs(path):
            raise EvidenceFormatError(f"image: {path[:64]!r} does not belong in it")
        if len(content) != DIGEST_BYTES:
            raise EvidenceFormatError(f"image: {path}: digest of {len(content)} bytes, wanted 32")
    if missing := [path for path in REQUIRED if path not in files]:  # (2)
        raise EvidenceFormatError(f"image: {missing[0]} is missing")
    measurement = hashlib.sha384(label_bytes("image"))  # (3)
    for name, content in sorted((path.encode("utf-8"), each) for path, each in files.items()):
        measurement.update(len(name).to_bytes(4, "big") + name + content)
    return measurement.digest()
