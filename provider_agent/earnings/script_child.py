"""Runs in the child before a pricing script: closes the world, then becomes the script.

Standard library alone: this file is run by its path, in a Python that imports nothing of ours.
Exit status 70: the system grants no network namespace, and without one no script is run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

NEW_NETWORK: Final = 0x40000000
NEW_USER: Final = 0x10000000
NO_NEW_PRIVILEGES: Final = 38
MEMORY_BYTES: Final = 512 << 20
PROCESSOR_SECONDS: Final = 2
FILES: Final = 64
REFUSED: Final = 70


def main(script: str) -> None:
    """Leave the network, bound what is used, and become the script."""
    libc = ctypes.CDLL(None, use_errno=True)
    # As root a network namespace needs no other; as anybody else it needs a user namespace.
    if libc.unshare(NEW_NETWORK) != 0 and libc.unshare(NEW_USER | NEW_NETWORK) != 0:
        os._exit(REFUSED)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for kind, most in (
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, FILES),
    ):
        resource.setrlimit(kind, (most, most))
    os.execve(script, [script], {})  # noqa: S606 - that is what this file is for


if __name__ == "__main__":
    main(sys.argv[1])
