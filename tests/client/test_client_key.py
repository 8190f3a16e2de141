"""The gateway's own key: drawn once, sealed like the others, and nobody else's to read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.client_key import ClientKeyFile, load_client_key
from client.files import HomeError
from client.keystore import KeyFile, Keystore, KeystoreError
from trust.identity import PartyKey


@pytest.fixture
def keys(tmp_path: Path) -> Keystore:
    (tmp_path / "home").mkdir(mode=0o700)
    return Keystore.create(tmp_path / "home", KeyFile(path=tmp_path / "home" / "key"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_client_key_is_drawn_once_and_is_not_the_partys(folder: Path, keys: Keystore) -> None:
    key = load_client_key(folder, keys)
    assert key.identity != keys.party.identity
    again = load_client_key(folder, Keystore.open(folder, KeyFile(path=folder / "key")))
    assert again.to_bytes() == key.to_bytes()


def test_client_key_lies_sealed_in_a_private_file(folder: Path, keys: Keystore) -> None:
    key = load_client_key(folder, keys)
    path = folder / "client-key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert key.to_bytes() not in path.read_bytes()
    assert [each.name for each in folder.iterdir() if each.name.startswith(".")] == []
    path.chmod(0o640)
    with pytest.raises(HomeError, match="only its owner"):
        load_client_key(folder, keys)


def test_processes_that_draw_at_once_get_one_key(folder: Path, keys: Keystore) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_client_key(folder, keys).identity, range(8)))
    assert len(set(found)) == 1


def test_client_key_of_another_keystore_does_not_open(
    folder: Path, keys: Keystore, tmp_path: Path
) -> None:
    load_client_key(folder, keys)
    (tmp_path / "other").mkdir(mode=0o700)
    other = Keystore.create(tmp_path / "other", KeyFile(path=tmp_path / "other" / "key"))
    with pytest.raises(KeystoreError, match="client"):
        load_client_key(folder, other)


def test_file_that_names_another_identity_is_refused(folder: Path, keys: Keystore) -> None:
    key = load_client_key(folder, keys)
    sealed = ClientKeyFile.parse((folder / "client-key").read_bytes()).sealed
    forged = ClientKeyFile(identity=PartyKey.generate().identity, sealed=sealed)
    (folder / "client-key").write_bytes(forged.encode())
    with pytest.raises(KeystoreError, match="not the one"):
        load_client_key(folder, keys)
    assert key.identity != forged.identity


def test_secret_opens_for_its_own_purpose_alone(keys: Keystore) -> None:
    sealed = keys.seal_secret(b"secret", "one")
    assert keys.open_secret(sealed, "one") == b"secret"
    for purpose in ("two", "lineage one", "identity"):
        with pytest.raises(KeystoreError):
            keys.open_secret(sealed, purpose)
