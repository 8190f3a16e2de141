"""Keys at rest: they open for whom they should, survive, and can be destroyed one by one."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from client.files import HomeError
from client.home import Config, Home
from client.keystore import KeyFile, Keystore, KeystoreError, Passphrase
from client.sealed import seal_file
from trust.artifacts import ArtifactKind, ArtifactOpener
from trust.custody import LineageKind, artifact_key, input_share, lineage_kind
from trust.errors import CustodyError

WORDS = Passphrase(text="correct horse battery staple")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    config = Config(market_url="http://127.0.0.1:1", market=bytes(32))
    return Home.create(tmp_path / "home", config)


def test_passphrase_opens_the_same_keys_and_another_does_not(home: Home) -> None:
    made = Keystore.create(home.folder, WORDS)
    entry = made.new_lineage(LineageKind.SIMULATED)
    again = Keystore.open(home.folder, WORDS)
    assert again.party.identity == made.party.identity
    assert again.progress.public == made.progress.public
    assert again.lineage_key(entry) == made.lineage_key(entry)
    with pytest.raises(KeystoreError, match="does not open"):
        Keystore.open(home.folder, Passphrase(text="correct horse battery stable"))


def test_short_passphrase_is_refused(home: Home) -> None:
    with pytest.raises(KeystoreError, match="12 characters"):
        Keystore.create(home.folder, Passphrase(text="hunter2"))


def test_key_file_opens_and_a_readable_one_is_refused(home: Home, tmp_path: Path) -> None:
    opener = KeyFile(path=tmp_path / "stick")
    Keystore.create(home.folder, opener)
    assert Keystore.open(home.folder, opener).entries() == ()
    opener.path.chmod(0o640)
    with pytest.raises(HomeError, match="0640"):
        Keystore.open(home.folder, opener)
    opener.path.chmod(0o600)
    opener.path.write_bytes(secrets.token_bytes(32))
    with pytest.raises(KeystoreError, match="does not open"):
        Keystore.open(home.folder, opener)


def test_keystore_is_never_overwritten(home: Home) -> None:
    Keystore.create(home.folder, home.key_file)
    with pytest.raises(HomeError, match="never overwritten"):
        Keystore.create(home.folder, home.key_file)


def test_no_secret_stands_in_the_home_in_the_clear(home: Home, tmp_path: Path) -> None:
    keys = Keystore.create(home.folder, KeyFile(path=tmp_path / "elsewhere"))
    entry = keys.new_lineage(LineageKind.SIMULATED)
    hidden = (keys.party.to_bytes(), keys.progress.to_bytes(), keys.lineage_key(entry))
    files = [path for path in home.folder.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        assert not any(each in path.read_bytes() for each in hidden), path


def test_home_that_others_may_read_is_refused(home: Home) -> None:
    home.folder.chmod(0o755)
    with pytest.raises(HomeError, match="0755"):
        Home.open(home.folder)


def test_changed_lineage_file_does_not_open(home: Home) -> None:
    keys = Keystore.create(home.folder, home.key_file)
    one, two = (keys.new_lineage(LineageKind.SIMULATED) for _ in range(2))
    folder = home.folder / "lineages"
    first, second = sorted(folder.iterdir())
    from client.keystore import LineageFile

    files = {path: LineageFile.parse(path.read_bytes()) for path in (first, second)}
    import dataclasses

    swapped = dataclasses.replace(files[first], sealed=files[second].sealed)
    first.write_bytes(swapped.encode())
    with pytest.raises(KeystoreError):
        keys.lineage_keys()
    assert one != two


def seal(home: Home, keys: Keystore, entry: object, content: bytes, tmp_path: Path) -> object:
    path = tmp_path / "plain"
    path.write_bytes(content)
    return seal_file(
        home,
        keys,
        kind=ArtifactKind.DATASET,
        custodian=entry,  # type: ignore[arg-type]
        path=path,
        public_files={},
        step=lambda *_: None,
    )


def opened(home: Home, keys: Keystore, signed: object) -> bytes:
    manifest = signed.document  # type: ignore[attr-defined]
    folder = home.folder / "sealed" / signed.digest.hex()  # type: ignore[attr-defined]
    core = manifest.core
    key = artifact_key((input_share(keys.lineage_key(core.custodians[0]), core),), core)
    segments = [(folder / f"{n:08d}").read_bytes() for n in range(manifest.segments)]
    opener = ArtifactOpener(
        manifest=manifest,
        segment_list=(folder / "list").read_bytes(),
        key=key,
        first_segment=segments[0],
    )
    return b"".join(opener.open(n, each)[1] for n, each in enumerate(segments))


def test_shredded_lineages_artifacts_do_not_open_and_its_neighbours_do(
    home: Home, tmp_path: Path
) -> None:
    keys = Keystore.create(home.folder, home.key_file)
    gone, kept = (keys.new_lineage(LineageKind.SIMULATED) for _ in range(2))
    lost = seal(home, keys, gone, b"lost", tmp_path)
    found = seal(home, keys, kept, b"found" * 400_000, tmp_path)
    assert opened(home, keys, lost) == b"lost"
    assert keys.shred_lineage(gone.lineage) == 1
    for again in (keys, home.keystore()):
        with pytest.raises(CustodyError, match="no key"):
            opened(home, again, lost)
        assert opened(home, again, found) == b"found" * 400_000
        assert (gone.lineage, gone.epoch) not in again.lineage_keys()


def test_new_epoch_has_a_key_of_its_own_and_the_old_one_still_opens(
    home: Home, tmp_path: Path
) -> None:
    keys = Keystore.create(home.folder, home.key_file)
    first = keys.new_lineage(LineageKind.REAL)
    old = seal(home, keys, first, b"old", tmp_path)
    second = keys.new_epoch(first.lineage)
    assert (second.lineage, second.epoch) == (first.lineage, 2)
    assert keys.lineage_key(first) != keys.lineage_key(second)
    assert opened(home, keys, old) == b"old"
    assert lineage_kind(second.lineage) is LineageKind.REAL
    with pytest.raises(CustodyError):
        keys.new_epoch(bytes(33))
