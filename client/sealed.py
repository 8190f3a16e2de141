"""Sealing a file into one's own home, and carrying the ciphertext to the market.

- Plaintext is read once, in pieces, and leaves this module only as ciphertext.
- A sealed artifact lies under ``sealed/<artifact id>``: its segments in order, the list of their
  digests, its public files. The folder takes that name once all of it is on the disk.
- Uploading asks first what is missing, so an interrupted upload goes on where it stopped. The
  signed manifest goes last: what it names is then there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from client.files import HomeError, make_folder, sync_folder, write_durably
from client.home import Home
from client.keystore import Keystore
from marketplace.wire import BLOB_BYTES_MAX, BLOBS_ASKED_MAX
from trust.artifacts import (
    ENTROPY_BYTES,
    ArtifactKind,
    ArtifactSealer,
    Core,
    Custodian,
    Manifest,
    PublicFile,
)
from trust.custody import artifact_key, input_share
from trust.encoding import digest
from trust.errors import DocumentError, SealingError
from trust.identity import Signed

READ_BYTES: Final = 1 << 20

Step = Callable[[int, int], None]
"""Called with (done, total) after each piece."""


class UploadPort(Protocol):
    """The market, as an uploader sees it."""

    async def missing_blobs(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """Those of these that the blob store does not have."""

    async def put_blob(self, content: bytes) -> None:
        """Store a blob under its SHA-256."""

    async def put_document(self, signed: bytes) -> None:
        """Store a signed document under its digest."""


def seal_file(
    home: Home,
    keys: Keystore,
    *,
    kind: ArtifactKind,
    custodian: Custodian,
    path: Path,
    public_files: Mapping[str, bytes],
    step: Step,
) -> Signed[Manifest]:
    """Seal a file under a new core of this custodian; keeps ciphertext and signed manifest.

    Raises DocumentError for a public file that no blob can hold, SealingError if the file changes
    meanwhile, CustodyError if the lineage was shredded.
    """
    for name, content in public_files.items():
        if len(content) > BLOB_BYTES_MAX:
            raise DocumentError(f"{name}: {len(content)} bytes; at most {BLOB_BYTES_MAX}")
    core = Core(kind=kind, seal_id=secrets.token_bytes(32), custodians=(custodian,), origin=None)
    key = artifact_key((input_share(keys.lineage_key(custodian), core),), core)
    size = path.stat().st_size
    sealer = ArtifactSealer(
        core=core, key=key, content_bytes=size, entropy=secrets.token_bytes(ENTROPY_BYTES)
    )
    folder = home.folder / "sealed" / f".{secrets.token_hex(8)}"
    make_folder(folder)
    try:
        _write_segments(sealer, folder, path, size, step)
        described = tuple(
            PublicFile(name=name, bytes=len(content), sha256=digest(content))
            for name, content in sorted(public_files.items())
        )
        signed = keys.party.sign(sealer.manifest(described))
        if len(sealer.segment_list()) > BLOB_BYTES_MAX:
            raise SealingError(f"{path.name}: its segment list has over {BLOB_BYTES_MAX} bytes")
        write_durably(folder / "list", sealer.segment_list())
        for name, content in public_files.items():
            write_durably(folder / f"public-{name}", content)
        folder.rename(home.folder / "sealed" / signed.digest.hex())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(home.folder / "sealed")
    home.keep(signed)
    return signed


def _write_segments(
    sealer: ArtifactSealer, folder: Path, path: Path, size: int, step: Step
) -> None:
    for index, segment in enumerate(sealer.segments(_pieces(path, size, step))):
        with (folder / f"{index:08d}").open("wb") as file:
            file.write(segment)
            file.flush()
            os.fsync(file.fileno())


def _pieces(path: Path, size: int, step: Step) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            done += len(piece)
            yield piece
            step(done, size)


async def upload(home: Home, signed: Signed[Manifest], market: UploadPort, step: Step) -> int:
    """Bring an own artifact to the market; returns how many blobs were new to it.

    Raises HomeError if its ciphertext is not in this home, MarketUnreachableError or
    MarketRefusedError.
    """
    folder = home.folder / "sealed" / signed.digest.hex()
    if not folder.exists():
        raise HomeError(f"the ciphertext of {signed.digest.hex()[:16]}… is not in this home")
    paths = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    named = {digest(path.read_bytes()): path for path in paths}
    digests = sorted(named)
    missing: list[bytes] = []
    for start in range(0, len(digests), BLOBS_ASKED_MAX):
        missing += await market.missing_blobs(digests[start : start + BLOBS_ASKED_MAX])
    for done, name in enumerate(missing, start=1):
        await market.put_blob(named[name].read_bytes())
        step(done, len(missing))
    await market.put_document(signed.encode())
    return len(missing)
