"""The host's cache of ciphertext objects: files named by the SHA-256 of what is in them.

Rules:
- An object is verified when it is written and each time it is read: a file that is not what its
  name says is removed and counts as absent.
- At most `bytes_max`; what was used longest ago goes first. A full or broken disk makes the cache
  forget, and never makes a lease fail.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from pathlib import Path
from typing import Final

from provider_agent.frames import OBJECT_BYTES_MAX
from trust.encoding import digest

_PARTIAL: Final = ".partial"


class BlobCache:
    """Objects by digest, in one folder of mode 0700."""

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        for file in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns):
            if file.suffix == _PARTIAL:  # an agent was killed while it wrote this
                file.unlink(missing_ok=True)
            else:
                self._sizes[file.name] = file.stat().st_size
        self._bytes = sum(self._sizes.values())
        self._make_room(0)

    def get(self, sha256: bytes) -> bytes | None:
        """The object, verified; None where there is none, or what was there is another."""
        name = sha256.hex()
        if name not in self._sizes:
            return None
        content = b""
        with contextlib.suppress(OSError), (self._folder / name).open("rb") as file:
            content = file.read(OBJECT_BYTES_MAX + 1)
        if digest(content) != sha256:
            self._drop(name)
            return None
        self._sizes.move_to_end(name)
        return content

    def put(self, sha256: bytes, content: bytes) -> bool:
        """Keep an object; False where its digest is another, or there is no room for it."""
        name = sha256.hex()
        if digest(content) != sha256 or len(content) > min(self._bytes_max, OBJECT_BYTES_MAX):
            return False
        if name in self._sizes:
            return True
        self._make_room(len(content))
        partial = self._folder / (name + _PARTIAL)
        try:
            partial.write_bytes(content)
            partial.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            return False
        self._sizes[name] = len(content)
        self._bytes += len(content)
        return True

    def _make_room(self, wanted: int) -> None:
        while self._sizes and self._bytes + wanted > self._bytes_max:
            self._drop(next(iter(self._sizes)))

    def _drop(self, name: str) -> None:
        self._bytes -= self._sizes.pop(name)
        with contextlib.suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)
