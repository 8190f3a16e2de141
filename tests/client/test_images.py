"""Publisher, rebuilders, witnesses, auditor and custodian, each in a home of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from client.cli import image as image_commands
from client.files import HomeError
from client.home import Config, Home
from client.image_log import (
    LogFolder,
    Tree,
    entry_bundles,
    parse_entry_bundle,
    tile_path,
)
from client.image_rebuild import (
    Rebuilt,
    SnpBuild,
    image_digest,
    measure_snp,
    sign_rebuilt,
)
from client.images import ImageFolder, audit, make_bundle, publish
from client.keystore import Keystore
from tests.trust.release_makers import DAY, MARKET, NAME, NOW, measurement, registers, release
from trust.errors import (
    BlindhostError,
    EncodingError,
    PolicyError,
    RefusedError,
    SignatureError,
)
from trust.image import LOCK_PATH
from trust.image_release import ImageRelease, ReleaseBundle, ReleaseDemands
from trust.merkle import leaf_hash, root_hash
from trust.transparency import NoteKey, parse_note, verify_checkpoint, verify_cosignatures

ORIGIN = "log.example/images"


class Party:
    """A home, its keys, and its folder of images."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.create(folder, Config(market_url="http://m", market=MARKET.identity))
        self.keys = Keystore.create(folder, self.home.key_file)
        self.images = ImageFolder(self.home)

    @property
    def identity(self) -> bytes:
        return self.keys.party.identity


class Stage:
    """Seven parties and a log."""

    def __init__(self, folder: Path) -> None:
        self.publisher, self.custodian, *others = (
            Party(folder / name) for name in ("pub", "cust", "r1", "r2", "r3", "w1", "w2")
        )
        self.rebuilders, self.witnesses = others[:3], others[3:]
        self.log = LogFolder(folder / "log")
        self.folder = folder / "log"
        self.signer = self.publisher.images.new_signer(self.publisher.keys, "log", ORIGIN)
        self.key = self.signer.key
        self.witness_keys = [
            each.images.new_signer(each.keys, "witness", f"w{n}.example").key
            for n, each in enumerate(self.witnesses, 1)
        ]
        self.custodian.images.keep_demands(self.demands())

    def demands(self, **changes: Any) -> ReleaseDemands:
        made = ReleaseDemands(
            name=NAME,
            rebuilders=tuple(each.identity for each in self.rebuilders),
            rebuilders_least=2,
            log=str(self.key),
            witnesses=tuple(str(each) for each in self.witness_keys),
            witnesses_least=2,
            days_least=7,
            age_days_max=180,
            previous_allowed=True,
            never=(MARKET.identity,),
        )
        return dataclasses.replace(made, **changes)

    def publish(self, made: ImageRelease) -> None:
        publish(self.log, self.signer, made)

    def witness(self, now: int) -> None:
        for party, key in zip(self.witnesses, self.witness_keys, strict=True):
            line = party.images.witness(party.keys, self.log, self.key, now)
            self.log.gather(line, self.key, key)

    def signed(self, made: ImageRelease, count: int = 2) -> list[bytes]:
        rebuilt = rebuilt_of(made)
        return [
            sign_rebuilt(each.home, each.keys, made, rebuilt).encode()
            for each in self.rebuilders[:count]
        ]

    def bundle(self, made: ImageRelease, **changes: Any) -> ReleaseBundle:
        return make_bundle(
            self.log, self.key, made, self.signed(made), **({"witnesses": 2} | changes)
        )

    def accept(self, bundle: ReleaseBundle, now: int = NOW, **rest: Any) -> Any:
        return self.custodian.images.accept(bundle.encode(), self.custodian.keys, now, **rest)


def rebuilt_of(made: ImageRelease) -> Rebuilt:
    values = made.values
    return Rebuilt(
        image=made.image,
        snp=frozenset(values.snp),
        tdx=frozenset(values.tdx),
        simulated=frozenset(values.simulated),
    )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# --- the whole way -------------------------------------------------------------------------------


def test_a_release_goes_from_publisher_to_custodian_in_files(stage: Stage) -> None:
    first, second = release(1), release(2)
    stage.publish(first)
    stage.witness(NOW - 9 * DAY)
    assert stage.accept(stage.bundle(first)).release == first
    stage.publish(second)
    stage.witness(NOW - 8 * DAY)
    accepted = stage.accept(stage.bundle(second))
    assert accepted.values.snp == (measurement("snp 2"), measurement("snp 1"))
    assert stage.custodian.images.values(NOW) == accepted.values
    assert stage.custodian.images.memory() == accepted.memory
    assert [each.number for each in audit(stage.log, stage.key, accepted.memory).releases] == [1, 2]
    with pytest.raises(RefusedError, match="release-rollback"):
        stage.accept(stage.bundle(first))
    assert stage.custodian.images.memory() == accepted.memory


def test_a_release_that_was_logged_yesterday_waits_until_its_days_are_over(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW - DAY)
    bundle = stage.bundle(release(1))
    with pytest.raises(RefusedError, match="release-too-young"):
        stage.accept(bundle)
    assert stage.custodian.images.memory() is None
    stage.accept(bundle, NOW + 6 * DAY)


def test_an_unwitnessed_release_is_refused(stage: Stage) -> None:
    stage.publish(release(1))
    with pytest.raises(RefusedError, match="release-witnesses"):
        stage.accept(stage.bundle(release(1)))


def test_a_custodian_says_yes_to_an_emergency_once_and_it_is_kept(stage: Stage) -> None:
    urgent = release(1, emergency=True)
    stage.publish(urgent)
    stage.witness(NOW)
    bundle = stage.bundle(urgent)
    with pytest.raises(RefusedError, match="release-emergency"):
        stage.accept(bundle)
    assert stage.accept(bundle, emergency_yes=True).by_consent
    assert stage.accept(bundle).by_consent


def test_a_yes_to_a_release_that_is_refused_is_not_kept(stage: Stage) -> None:
    urgent = release(1, emergency=True)
    stage.publish(urgent)
    with pytest.raises(RefusedError, match="release-witnesses"):
        stage.accept(stage.bundle(urgent), emergency_yes=True)
    stage.witness(NOW)
    with pytest.raises(RefusedError, match="release-emergency"):
        stage.accept(stage.bundle(urgent))


def test_demands_that_let_the_homes_market_count_are_not_kept(stage: Stage) -> None:
    forgetful = stage.demands(never=(bytes(32),))
    with pytest.raises(PolicyError, match="market"):
        stage.custodian.images.keep_demands(forgetful)
    path = stage.custodian.home.folder / "images" / "demands"
    path.write_bytes(forgetful.encode())
    with pytest.raises(PolicyError, match="market"):
        stage.custodian.images.demands()


def test_a_custodian_finds_a_fork_that_its_witnesses_signed(stage: Stage, tmp_path: Path) -> None:
    """Log and witnesses collude: what a custodian accepted before still stands against them."""
    stage.publish(release(1))
    stage.witness(NOW - 9 * DAY)
    stage.accept(stage.bundle(release(1)))
    shutil.rmtree(stage.folder)
    for party in stage.witnesses:
        for path in (party.home.folder / "images").glob("witnessed-*"):
            path.unlink()
    stage.publish(release(1, notes=bytes([7]) * 32))
    stage.publish(release(2))
    stage.witness(NOW - 9 * DAY)
    with pytest.raises(RefusedError, match="release-fork"):
        stage.accept(stage.bundle(release(2), since=(1,)))
    memory = stage.custodian.images.memory()
    with pytest.raises(RefusedError, match="audit-memory"):
        audit(stage.log, stage.key, memory)


def test_a_custodian_that_skipped_many_checkpoints_is_led_on_by_since(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW - 9 * DAY)
    stage.accept(stage.bundle(release(1)))
    stage.publish(release(2))
    stage.witness(NOW - 8 * DAY)
    (stage.folder / "checkpoints" / "1").unlink()
    with pytest.raises(RefusedError, match="--since 1"):
        stage.accept(stage.bundle(release(2)))
    stage.accept(stage.bundle(release(2), since=(1,)))


# --- rebuilding ----------------------------------------------------------------------------------


def test_a_rebuilder_signs_what_came_out_equal_and_nothing_else(stage: Stage) -> None:
    made, good = release(1), rebuilt_of(release(1))
    party = stage.rebuilders[0]
    assert sign_rebuilt(party.home, party.keys, made, good).document == made
    for changes, code in (
        ({"snp": frozenset()}, "not-rebuilt"),
        ({"tdx": frozenset()}, "not-rebuilt"),
        ({"simulated": frozenset()}, "not-rebuilt"),
        ({"snp": frozenset({measurement("else")})}, "rebuilt-otherwise"),
        ({"snp": good.snp | {measurement("more")}}, "rebuilt-otherwise"),
        ({"tdx": frozenset({registers("else")})}, "rebuilt-otherwise"),
        ({"image": bytes(32)}, "rebuilt-otherwise"),
    ):
        with pytest.raises(RefusedError) as refused:
            sign_rebuilt(party.home, party.keys, made, dataclasses.replace(good, **changes))
        assert refused.value.code == code


def test_the_market_rebuilds_nothing(stage: Stage) -> None:
    party = stage.rebuilders[0]
    config = Config(market_url="http://m", market=party.identity)
    home = Home(party.home.folder, config)
    with pytest.raises(RefusedError, match="rebuild-market"):
        sign_rebuilt(home, party.keys, release(1), rebuilt_of(release(1)))


def measuring_program(folder: Path, body: str) -> str:
    path = folder / "measure"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o700)
    return str(path)


def snp_build(folder: Path, *shapes: tuple[int, str]) -> SnpBuild:
    for name in ("firmware", "kernel", "initrd"):
        (folder / name).write_bytes(name.encode())
    return SnpBuild(
        firmware=folder / "firmware",
        kernel=folder / "kernel",
        initrd=folder / "initrd",
        command_line="quiet root=/dev/vda",
        shapes=shapes or ((8, "EPYC-v4"),),
    )


def test_each_shape_is_measured_by_a_program_of_its_own(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = measuring_program(
        tmp_path,
        f'echo "$@" >> {asked}; printf "%s" "$7$(echo $6 | tr -d -c 0-9)" | sha384sum | cut -c1-96',
    )
    build = snp_build(tmp_path, (8, "EPYC-v4"), (4, "EPYC-v4"))
    found = measure_snp(build, program)
    assert len(found) == 2
    assert {len(each) for each in found} == {48}
    first = asked.read_text(encoding="utf-8").splitlines()[0]
    assert "--mode snp --output-format hex --vcpus 8 --vcpu-type EPYC-v4" in first
    assert first.endswith("--append quiet root=/dev/vda")


@pytest.mark.parametrize("body", ["exit 3", "echo 00", "echo hello; exit 0"])
def test_a_measurement_that_fails_is_no_measurement(tmp_path: Path, body: str) -> None:
    program = measuring_program(tmp_path, body)
    with pytest.raises(BlindhostError):
        measure_snp(snp_build(tmp_path), program)


def test_without_the_program_or_the_files_nothing_is_rebuilt(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not-rebuilt"):
        measure_snp(snp_build(tmp_path), str(tmp_path / "absent"))
    build = snp_build(tmp_path)
    build.kernel.unlink()
    with pytest.raises(RefusedError, match="kernel is not here"):
        measure_snp(build, measuring_program(tmp_path, "true"))


def test_an_image_is_named_by_its_manifest_or_its_measurement() -> None:
    assert image_digest(b"manifest", b"m") != image_digest(None, b"m")
    with pytest.raises(HomeError):
        image_digest(None, None)


# --- the log's folder ----------------------------------------------------------------------------


def test_tile_paths_are_those_of_tlog_tiles() -> None:
    assert tile_path("0", 1234067, 256) == "tile/0/x001/x234/067"
    assert tile_path("0", 273, 112) == "tile/0/273.p/112"
    assert tile_path("entries", 0, 1) == "tile/entries/000.p/1"


def test_tiles_of_seventy_thousand_entries_are_those_of_tlog_tiles() -> None:
    leaf = leaf_hash(b"")
    names = list(Tree([leaf] * 70_000).tiles(70_000))
    levels = [[n for n in names if n.startswith(f"tile/{level}/")] for level in range(4)]
    assert [len(each) for each in levels] == [274, 2, 1, 0]
    assert levels[0][-1] == "tile/0/273.p/112"
    assert levels[1] == ["tile/1/000", "tile/1/001.p/17"]
    assert levels[2] == ["tile/2/000.p/1"]
    small = Tree([leaf] * 256).tiles(256)
    assert list(small) == ["tile/0/000", "tile/1/000.p/1"]
    assert small["tile/1/000.p/1"] == root_hash([leaf] * 256)
    assert len(small["tile/0/000"]) == 8192


def test_entry_bundles_are_used_up_exactly() -> None:
    entries = [b"a", b"", b"ccc"]
    (content,) = entry_bundles(entries).values()
    assert parse_entry_bundle(content, 3) == entries
    for bad in (content[:-1], content + b"\x00", content[:1]):
        with pytest.raises(EncodingError):
            parse_entry_bundle(bad, 3)


def test_a_full_tile_takes_the_place_of_partial_ones(tmp_path: Path) -> None:
    log, tree = LogFolder(tmp_path), Tree([leaf_hash(bytes([n])) for n in range(256)])
    entries = [bytes([n]) for n in range(256)]
    for name, content in {**tree.tiles(256), **entry_bundles(entries)}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert log.leaves(100) == list(tree.leaves[:100])
    assert log.entries(100) == entries[:100]


def test_everything_in_a_log_can_be_served_to_everybody(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW)
    files = [each for each in stage.folder.rglob("*") if each.is_file() and each.name != ".lock"]
    assert {each.relative_to(stage.folder).as_posix() for each in files} == {
        "checkpoint",
        "checkpoints/1",
        "tile/0/000.p/1",
        "tile/entries/000.p/1",
    }
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o644}


def test_numbers_in_a_log_rise_by_one(stage: Stage) -> None:
    stage.publish(release(1))
    for wrong in (1, 3):
        with pytest.raises(RefusedError, match="log-number"):
            stage.publish(release(wrong))
    with pytest.raises(RefusedError, match="log-date"):
        stage.publish(release(2, released_at=0))
    stage.publish(release(1, name="other"))
    head = stage.log.head()
    assert head is not None
    assert verify_checkpoint(head, stage.key).size == 2


def test_nothing_is_appended_to_a_folder_that_somebody_changed(stage: Stage) -> None:
    stage.publish(release(1))
    path = stage.folder / "tile/entries/000.p/1"
    path.write_bytes(path.read_bytes().replace(b"simulated", b"simulatex", 1))
    with pytest.raises(HomeError, match="root"):
        stage.publish(release(2))


def test_a_crash_before_the_checkpoint_leaves_the_log_as_it_was(stage: Stage) -> None:
    stage.publish(release(1))
    before = stage.folder / "checkpoint"
    kept = before.read_bytes()
    stage.publish(release(2))
    before.write_bytes(kept)
    (stage.folder / "checkpoints" / "2").unlink()
    stage.publish(release(2, notes=bytes([7]) * 32))
    assert audit(stage.log, stage.key).checkpoint.size == 2


# --- witnesses -----------------------------------------------------------------------------------


def test_a_witness_does_not_cosign_a_fork(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW)
    shutil.rmtree(stage.folder)
    stage.publish(release(1, notes=bytes([7]) * 32))
    party = stage.witnesses[0]
    for name in ("other", "third"):
        with pytest.raises(RefusedError, match="witness-fork"):
            party.images.witness(party.keys, stage.log, stage.key, NOW)
        stage.publish(release(1, name=name))


def test_a_witness_does_not_cosign_a_log_that_got_shorter(stage: Stage) -> None:
    stage.publish(release(1))
    shorter = (stage.folder / "checkpoint").read_bytes()
    stage.publish(release(2))
    stage.witness(NOW)
    (stage.folder / "checkpoint").write_bytes(shorter)
    party = stage.witnesses[0]
    with pytest.raises(RefusedError, match="witness-fork"):
        party.images.witness(party.keys, stage.log, stage.key, NOW)


def test_a_witness_does_not_cosign_a_root_that_the_tiles_do_not_have(stage: Stage) -> None:
    stage.publish(release(1))
    (stage.folder / "tile/0/000.p/1").write_bytes(bytes(32))
    party = stage.witnesses[0]
    with pytest.raises(RefusedError, match="witness-tiles"):
        party.images.witness(party.keys, stage.log, stage.key, NOW)


def test_a_witness_whose_clock_went_back_cosigns_nothing(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW)
    party = stage.witnesses[0]
    with pytest.raises(RefusedError, match="witness-clock"):
        party.images.witness(party.keys, stage.log, stage.key, NOW - 1)


def test_a_witness_does_not_follow_a_log_that_changed_its_key(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW)
    shutil.rmtree(stage.folder)
    thief = stage.custodian.images.new_signer(stage.custodian.keys, "log", ORIGIN)
    publish(stage.log, thief, release(1))
    party = stage.witnesses[0]
    with pytest.raises(SignatureError):
        party.images.witness(party.keys, stage.log, stage.key, NOW)
    with pytest.raises(RefusedError, match="witness-key"):
        party.images.witness(party.keys, stage.log, thief.key, NOW)


def test_a_witness_remembers_before_it_signs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: nothing was cosigned."""
    stage.publish(release(1))
    party = stage.witnesses[0]

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.images.write_durably", full)
    with pytest.raises(OSError, match="No space"):
        party.images.witness(party.keys, stage.log, stage.key, NOW)


def test_only_a_witnesss_own_line_is_gathered(stage: Stage) -> None:
    stage.publish(release(1))
    one, two = stage.witnesses
    line = one.images.witness(one.keys, stage.log, stage.key, NOW)
    with pytest.raises(HomeError, match="none of the log's checkpoints"):
        stage.log.gather(line, stage.key, stage.witness_keys[1])
    broken = dataclasses.replace(line, value=bytes(72))
    with pytest.raises(HomeError, match="none of the log's checkpoints"):
        stage.log.gather(broken, stage.key, stage.witness_keys[0])
    stage.publish(release(2))
    assert stage.log.gather(line, stage.key, stage.witness_keys[0]).size == 1
    later = two.images.witness(two.keys, stage.log, stage.key, NOW + 5000)
    assert stage.log.gather(later, stage.key, stage.witness_keys[1]).size == 2
    head = parse_note((stage.folder / "checkpoint").read_bytes())
    (found,) = verify_cosignatures(head, stage.witness_keys)
    assert found.at == NOW // 1000 + 5


def test_a_later_line_of_a_witness_does_not_replace_its_first(stage: Stage) -> None:
    stage.publish(release(1))
    stage.witness(NOW)
    stage.witness(NOW + DAY)
    found = verify_cosignatures(stage.log.checkpoint(1), stage.witness_keys)
    assert [each.at for each in found] == [NOW // 1000] * 2
    assert len(stage.log.checkpoint(1).signatures) == 3  # its own, and one of each witness


def test_keys_are_drawn_once_and_sealed(stage: Stage) -> None:
    with pytest.raises(HomeError, match="never overwritten"):
        stage.publisher.images.new_signer(stage.publisher.keys, "log", "again.example")
    with pytest.raises(HomeError, match="no log key"):
        stage.custodian.images.signer(stage.custodian.keys, "log")
    assert stage.publisher.images.signer(stage.publisher.keys, "log").key == stage.key


# --- auditors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("tile/0/000.p/2", "audit-tile"),
        ("checkpoints/1", "audit-fork"),
    ],
)
def test_an_auditor_finds_what_was_changed(stage: Stage, name: str, refusal: str) -> None:
    stage.publish(release(1))
    stage.publish(release(2))
    content = (
        bytes(64) if name.startswith("tile") else (stage.folder / "checkpoints" / "2").read_bytes()
    )
    (stage.folder / name).write_bytes(content)
    with pytest.raises(RefusedError, match=refusal):
        audit(stage.log, stage.key)


def test_an_auditor_finds_two_releases_of_one_number(stage: Stage) -> None:
    """The operator's own program would not write it; its key could."""
    for made in (release(1), release(1, notes=bytes([7]) * 32)):
        stage.log.append(made.encode(), stage.signer, lambda _: None)
    with pytest.raises(RefusedError, match="log-number"):
        audit(stage.log, stage.key)


def test_an_auditor_finds_an_entry_that_is_no_release(stage: Stage) -> None:
    stage.log.append(b"no release", stage.signer, lambda _: None)
    with pytest.raises(EncodingError):
        audit(stage.log, stage.key)


# --- the commands --------------------------------------------------------------------------------


def says(*words: object, status: int = 0) -> Any:
    app = typer.Typer()
    image_commands.add_to(app)
    done = CliRunner().invoke(app, [str(each) for each in words], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return json.loads(done.stdout.splitlines()[-1]) if "--json" in words else done.stdout


def test_the_commands_lead_from_a_checkout_to_accepted_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [NOW - 8 * DAY]
    monkeypatch.setattr(image_commands, "now_milliseconds", lambda: clock[0])
    source = tmp_path / "source"
    for package in ("enclave_runtime", "trust"):
        (source / package).mkdir(parents=True)
        (source / package / "__init__.py").write_bytes(b"")
    (source / LOCK_PATH).write_bytes(b"torch==1\n")
    (tmp_path / "notes").write_bytes(b"first\n")
    parties = {n: Party(tmp_path / n) for n in ("pub", "cust", "r1", "r2", "w1", "w2")}
    homes = {name: ("--home", each.home.folder) for name, each in parties.items()}
    log = tmp_path / "log"
    key = says("key", "log", ORIGIN, *homes["pub"], "--json")["verifier_key"]
    at = ("--log", log, "--log-key", key)
    made = tmp_path / "release"
    published = says(
        *("publish", NAME, "--number", 1, "--notes", tmp_path / "notes", "--checkout", source),
        *("--log", log, "--out", made, *homes["pub"], "--json"),
    )
    witnesses = []
    for name in ("w1", "w2"):
        theirs = says("key", "witness", f"{name}.example", *homes[name], "--json")["verifier_key"]
        line = tmp_path / f"{name}.line"
        says("witness", *at, "--out", line, *homes[name])
        says("gather", line, "--witness-key", theirs, *at)
        witnesses += ["--witness", theirs]
    signed = []
    for name in ("r1", "r2"):
        out = tmp_path / f"{name}.signed"
        says("rebuild", made, "--checkout", source, "--out", out, *homes[name])
        signed += ["--signed", out]
    bundle = tmp_path / "bundle"
    says("bundle", made, *at, *signed, "--out", bundle)
    rebuilders = [each for n in ("r1", "r2") for each in ("--rebuilder", parties[n].identity.hex())]
    says("demand", NAME, *rebuilders, *witnesses, "--log-key", key, *homes["cust"])
    with pytest.raises(RefusedError, match="release-too-young"):
        says("accept", bundle, *homes["cust"])
    clock[0] = NOW
    accepted = says("accept", bundle, *homes["cust"], "--json")
    assert accepted["release"] == published["release"]
    assert accepted["witnesses"] == ["w1.example", "w2.example"]
    shown = says("show", *homes["cust"], "--json")
    assert shown["values"] == accepted["values"]
    assert len(bytes.fromhex(shown["values"]["simulated"][0])) == 48
    assert "all of it holds" in says("audit", *at, *homes["cust"])
    assert says("show", bundle, "--json")["signers"] == [
        parties[n].identity.hex() for n in ("r1", "r2")
    ]
    assert says("show", made, "--json")["says"]["number"] == 1


def test_a_rebuilder_whose_source_differs_signs_nothing(stage: Stage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in ("enclave_runtime", "trust"):
        (source / package).mkdir(parents=True)
        (source / package / "__init__.py").write_bytes(b"")
    (source / LOCK_PATH).write_bytes(b"torch==1\n")
    made = tmp_path / "release"
    made.write_bytes(release(1, values=simulated_alone("elsewhere")).encode())
    party = stage.rebuilders[0]
    out = tmp_path / "out"
    with pytest.raises(RefusedError, match="rebuilt-otherwise"):
        says(*("rebuild", made, "--checkout", source, "--out", out, "--home", party.home.folder))
    assert not out.exists()


def simulated_alone(text: str) -> Any:
    values = release(1).values
    return dataclasses.replace(values, snp=(), tdx=(), simulated=(measurement(text),))


def test_a_verifier_key_that_a_command_shows_is_the_one_that_signs(stage: Stage) -> None:
    stage.publish(release(1))
    head = stage.log.head()
    assert head is not None
    assert verify_checkpoint(head, NoteKey.parse(str(stage.key))).size == 1
