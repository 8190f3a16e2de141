"""A party's secrets at rest: identity key, progress key, lineage keys, and what has its own file.

- Everything is AES-256-GCM under a key of the keystore's own, wrapped under a passphrase
  (Argon2id, RFC 9106 §4, second choice) or under a key file of 32 random bytes.
- Each lineage key lies in a file of its own, so that one can be shredded and its neighbours live.
- A nonce is 12 fresh random bytes; each key seals far fewer than 2³² things (NIST SP 800-38D §8.3).
- A lineage key leaves this module for the broker's memory alone, and never a machine.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from client.files import HomeError, check_private, make_folder, shred, sync_folder, write_durably
from trust.artifacts import Custodian
from trust.custody import LineageKind, lineage_id
from trust.encoding import Bytes32, Document, Range, Size, Uint32, label_bytes, labelled_digest
from trust.errors import BlindhostError, CustodyError
from trust.identity import PartyKey
from trust.sealing import HpkePrivateKey

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 16
PASSPHRASE_CHARACTERS_MIN: Final = 12
ARGON2_ITERATIONS: Final = 3
ARGON2_LANES: Final = 4
ARGON2_MEMORY_KIB: Final = 1 << 16
ARGON2_MEMORY_KIB_MAX: Final = 1 << 20  # a forged keystore must not eat a laptop's memory

Sealed = Annotated[bytes, Size(least=NONCE_BYTES + 16, most=1024)]


class KeystoreError(BlindhostError):
    """A keystore that does not open, or lacks what is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeystoreFile(Document):
    """The keystore on disk."""

    LABEL: ClassVar[str] = "keystore"

    salt: Annotated[bytes, Size(least=SALT_BYTES, most=SALT_BYTES)] | None
    """Of the passphrase; None: a key file opens it."""
    iterations: Annotated[int, Range(least=1, most=64)]
    lanes: Annotated[int, Range(least=1, most=64)]
    memory_kib: Annotated[int, Range(least=8, most=ARGON2_MEMORY_KIB_MAX)]
    wrapped: Sealed
    """The keystore's own key."""
    identity_key: Sealed
    progress_key: Sealed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineageFile(Document):
    """One lineage key on disk."""

    LABEL: ClassVar[str] = "keystore/lineage"

    identity: Bytes32
    lineage: Annotated[bytes, Size(least=33, most=33)]
    epoch: Uint32
    sealed: Sealed

    @property
    def entry(self) -> Custodian:
        """As it stands in cores."""
        return Custodian(identity=self.identity, lineage=self.lineage, epoch=self.epoch)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Passphrase:
    """What a person knows."""

    text: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeyFile:
    """Where 32 random bytes lie: on a stick, say, or in a daemon's credentials folder."""

    path: Path


Opener = Passphrase | KeyFile


class Keystore:
    """An opened keystore."""

    def __init__(self, folder: Path, own: bytes, file: KeystoreFile) -> None:
        self._folder, self._own = folder, own
        self.party = PartyKey.from_bytes(_open(own, file.identity_key, "identity"))
        self.progress = HpkePrivateKey.from_bytes(_open(own, file.progress_key, "progress"))

    @classmethod
    def create(cls, folder: Path, opener: Opener) -> Keystore:
        """Draw a party's keys. Raises HomeError if a keystore is there already."""
        path = folder / "keystore"
        if path.exists():
            raise HomeError("a keystore is there already; it is never overwritten")
        make_folder(folder / "lineages")
        salt = secrets.token_bytes(SALT_BYTES) if isinstance(opener, Passphrase) else None
        own = secrets.token_bytes(KEY_BYTES)
        if isinstance(opener, Passphrase) and len(opener.text) < PASSPHRASE_CHARACTERS_MIN:
            raise KeystoreError(f"a passphrase has at least {PASSPHRASE_CHARACTERS_MIN} characters")
        if isinstance(opener, KeyFile) and not opener.path.exists():
            write_durably(opener.path, secrets.token_bytes(KEY_BYTES))
        wrapping = _wrapping_key(opener, salt, ARGON2_ITERATIONS, ARGON2_LANES, ARGON2_MEMORY_KIB)
        file = KeystoreFile(
            salt=salt,
            iterations=ARGON2_ITERATIONS,
            lanes=ARGON2_LANES,
            memory_kib=ARGON2_MEMORY_KIB,
            wrapped=_seal(wrapping, own, "wrapped"),
            identity_key=_seal(own, PartyKey.generate().to_bytes(), "identity"),
            progress_key=_seal(own, HpkePrivateKey.generate().to_bytes(), "progress"),
        )
        write_durably(path, file.encode())
        return cls(folder, own, file)

    @classmethod
    def open(cls, folder: Path, opener: Opener) -> Keystore:
        """Open a keystore. Raises KeystoreError under a wrong passphrase or key file."""
        path = folder / "keystore"
        if not path.exists():
            raise HomeError("no keystore here: `blindhost init` makes one")
        check_private(path)
        file = KeystoreFile.parse(path.read_bytes())
        if (file.salt is None) != isinstance(opener, KeyFile):
            wanted = "key file" if file.salt is None else "passphrase"
            raise KeystoreError(f"this keystore opens with a {wanted}")
        wrapping = _wrapping_key(opener, file.salt, file.iterations, file.lanes, file.memory_kib)
        return cls(folder, _open(wrapping, file.wrapped, "wrapped"), file)

    # --- other secrets of this party -------------------------------------------------------------

    def seal_secret(self, secret: bytes, purpose: str) -> bytes:
        """Seal a secret that lies in a file of its own; it opens for this purpose alone."""
        return _seal(self._own, secret, f"other {purpose}")

    def open_secret(self, sealed: bytes, purpose: str) -> bytes:
        """Open what `seal_secret` made. Raises KeystoreError."""
        return _open(self._own, sealed, f"other {purpose}")

    # --- lineages --------------------------------------------------------------------------------

    def new_lineage(self, kind: LineageKind) -> Custodian:
        """Draw a lineage, epoch 1; real or simulated for ever."""
        lineage = lineage_id(kind, self.party.identity, secrets.token_bytes(32))
        return self._add(lineage, 1)

    def new_epoch(self, lineage: bytes) -> Custodian:
        """Draw the lineage's next key, for what is sealed from now on. Old ones still open."""
        epochs = [each.epoch for each in self.entries() if each.lineage == lineage]
        if not epochs:
            raise CustodyError(f"no lineage {lineage.hex()} in this keystore")
        return self._add(lineage, max(epochs) + 1)

    def entries(self) -> tuple[Custodian, ...]:
        """All lineages and epochs that this keystore holds, sorted."""
        return tuple(sorted(each.entry for each in self._files().values()))

    def lineage_keys(self) -> Mapping[tuple[bytes, int], bytes]:
        """(Lineage, epoch) → key."""
        return {
            (each.lineage, each.epoch): self._open_lineage(each) for each in self._files().values()
        }

    def lineage_key(self, entry: Custodian) -> bytes:
        """One lineage key. Raises CustodyError if it was shredded, or never was."""
        for each in self._files().values():
            if each.entry == entry:
                return self._open_lineage(each)
        raise CustodyError(f"no key for epoch {entry.epoch} of lineage {entry.lineage.hex()}")

    def shred_lineage(self, lineage: bytes) -> int:
        """Destroy every epoch's key of one lineage, and no other. Returns how many there were."""
        paths = [path for path, each in self._files().items() if each.lineage == lineage]
        if not paths:
            raise CustodyError(f"no lineage {lineage.hex()} in this keystore")
        for path in paths:
            shred(path)
        return len(paths)

    def _add(self, lineage: bytes, epoch: int) -> Custodian:
        identity = self.party.identity
        purpose = _purpose(lineage, epoch)
        file = LineageFile(
            identity=identity,
            lineage=lineage,
            epoch=epoch,
            sealed=_seal(self._own, secrets.token_bytes(KEY_BYTES), purpose),
        )
        name = labelled_digest("keystore/name", lineage, epoch.to_bytes(4, "big")).hex()
        write_durably(self._folder / "lineages" / name, file.encode())
        sync_folder(self._folder)
        return file.entry

    def _files(self) -> dict[Path, LineageFile]:
        paths = sorted((self._folder / "lineages").iterdir())
        return {
            path: LineageFile.parse(path.read_bytes())
            for path in paths
            if not path.name.startswith(".")
        }

    def _open_lineage(self, file: LineageFile) -> bytes:
        return _open(self._own, file.sealed, _purpose(file.lineage, file.epoch))


def _purpose(lineage: bytes, epoch: int) -> str:
    return f"lineage {lineage.hex()} {epoch}"


def _wrapping_key(
    opener: Opener, salt: bytes | None, iterations: int, lanes: int, memory_kib: int
) -> bytes:
    if isinstance(opener, KeyFile):
        if not opener.path.exists():
            raise KeystoreError("the key file is not there")
        check_private(opener.path)
        key = opener.path.read_bytes()
        if len(key) != KEY_BYTES:
            raise KeystoreError(f"a key file of {len(key)} bytes, wanted {KEY_BYTES}")
        return key
    assert salt is not None
    argon2 = Argon2id(
        salt=salt, length=KEY_BYTES, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    )
    return argon2.derive(opener.text.encode("utf-8"))


def _seal(key: bytes, secret: bytes, purpose: str) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, secret, _bound(purpose))


def _open(key: bytes, sealed: bytes, purpose: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(purpose))
    except InvalidTag as error:
        what = purpose.removeprefix("other ").split(" ", maxsplit=1)[0]
        raise KeystoreError(
            f"the {what} key does not open: wrong passphrase or key file, or a changed keystore"
        ) from error


def _bound(purpose: str) -> bytes:
    return label_bytes("keystore/sealed") + purpose.encode("ascii")
