"""The client key: in whose name this home's gateway speaks to enclaves.

- A market identity of its own, with a box of its own: serve jobs name it in their `client_keys`,
  and whoever has it can ask in the buyer's name, and nothing else. It opens no lineage and signs no
  job.
- Drawn at first use, sealed under the keystore's own key, in a file of its own. It is never
  replaced: running serve jobs name it.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from pathlib import Path
from typing import ClassVar, Final

from client.files import check_private, sync_folder, write_durably
from client.keystore import Keystore, KeystoreError, Sealed
from trust.encoding import Bytes32, Document
from trust.identity import PartyKey

FILE_NAME: Final = "client-key"
PURPOSE: Final = "client"  # no lineage's, and no other secret's


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClientKeyFile(Document):
    """The client key on disk."""

    LABEL: ClassVar[str] = "keystore/client-key"

    identity: Bytes32
    sealed: Sealed


def load_client_key(folder: Path, keys: Keystore) -> PartyKey:
    """The home's client key, drawn at the first call.

    Raises HomeError if others may read it, KeystoreError if it is not this keystore's.
    """
    path = folder / FILE_NAME
    if not path.exists():
        _draw(path, keys)
    check_private(path)
    file = ClientKeyFile.parse(path.read_bytes())
    key = PartyKey.from_bytes(keys.open_secret(file.sealed, PURPOSE))
    if key.identity != file.identity:
        raise KeystoreError("the client key is not the one that its file names")
    return key


def _draw(path: Path, keys: Keystore) -> None:
    """Write a new key, unless another process was first: then that one's stands."""
    key = PartyKey.generate()
    file = ClientKeyFile(identity=key.identity, sealed=keys.seal_secret(key.to_bytes(), PURPOSE))
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    write_durably(beside, file.encode())
    try:
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    sync_folder(path.parent)
