"""Opens a sealed artifact in a process of its own: ciphertext from a folder, the key from stdin.

    python -m demo.opener FOLDER MANIFEST < key

Prints the SHA-256 of the content. Nothing is written.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from trust.artifacts import ArtifactOpener, Manifest


def main() -> None:
    """Entry point."""
    folder = Path(sys.argv[1])
    manifest = Manifest.parse(bytes.fromhex(sys.argv[2]))
    segment_list = (folder / manifest.segment_list.hex()).read_bytes()
    names = [segment_list[i : i + 32].hex() for i in range(0, len(segment_list), 32)]
    opener = ArtifactOpener(
        manifest=manifest,
        segment_list=segment_list,
        key=sys.stdin.buffer.read(),
        first_segment=(folder / names[0]).read_bytes(),
    )
    content = bytearray(opener.content_bytes)
    for index, name in enumerate(names):
        start, part = opener.open(index, (folder / name).read_bytes())
        content[start : start + len(part)] = part
    print(hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
