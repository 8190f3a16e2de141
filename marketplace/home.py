"""The operator's folder: everything that a market keeps, readable by its owner alone.

key             the market's identity: 32 private bytes, mode 0600
market.db       the book of record (SQLite, WAL)
blobs/          ciphertext and public files, by digest
meter-policy    the appraisal policy of purpose *meter*; it may be replaced while the market runs
endpoint.json   where a running market listens: {"url", "identity", "certificate_sha256"}
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from marketplace.blobs import BlobFolder
from marketplace.store import Store
from trust.errors import BlindhostError
from trust.identity import PartyKey
from trust.verifier.policy import AppraisalPolicy

HOME_MODE: Final = 0o700
FILE_MODE: Final = 0o600
KEY_BYTES: Final = 32


class HomeError(BlindhostError):
    """A folder that is not what a market's home must be."""


class Home:
    """One market's folder; it is made if it is not there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=HOME_MODE, parents=True, exist_ok=True)
        mode = folder.stat().st_mode & 0o777
        if mode & 0o077:
            raise HomeError(f"{folder} has mode {mode:o}, wanted 700: it holds the market's key")
        self.folder = folder

    def load_key(self) -> PartyKey:
        """The market's key, made at the first call and never replaced."""
        path = self.folder / "key"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except FileExistsError:
            content = path.read_bytes()
            if len(content) != KEY_BYTES:
                raise HomeError(f"{path} has {len(content)} bytes, wanted {KEY_BYTES}") from None
            return PartyKey.from_bytes(content)
        key = PartyKey.generate()
        with os.fdopen(handle, "wb") as file:
            file.write(key.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        return key

    def open_store(self) -> Store:
        """The database, migrated."""
        return Store.open_file(self.folder / "market.db")

    def open_blobs(self) -> BlobFolder:
        """The blob folder."""
        return BlobFolder(self.folder / "blobs")

    def load_policy(self) -> AppraisalPolicy | None:
        """The operator's policy; None: none is named, and nothing is metered."""
        try:
            content = (self.folder / "meter-policy").read_bytes()
        except FileNotFoundError:
            return None
        return AppraisalPolicy.parse(content)

    def save_policy(self, policy: AppraisalPolicy) -> None:
        """Name a policy, in place of the one before."""
        self._replace("meter-policy", policy.encode())

    def save_endpoint(self, *, url: str, identity: bytes, certificate_sha256: bytes | None) -> None:
        """Say where the market listens, once it does."""
        pin = None if certificate_sha256 is None else certificate_sha256.hex()
        value = {"url": url, "identity": identity.hex(), "certificate_sha256": pin}
        self._replace("endpoint.json", json.dumps(value).encode())

    def remove_endpoint(self) -> None:
        """The market listens no more."""
        (self.folder / "endpoint.json").unlink(missing_ok=True)

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file whole, or leave the one before."""
        beside = self.folder / f".{name}.new"
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.folder / name)
