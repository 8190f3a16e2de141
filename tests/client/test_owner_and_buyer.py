"""Sealing, terms, policies and jobs on one's own machine: what is refused before it costs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from client.buyer import check_receipts, last_receipt, outputs, seal_dataset, sign_job
from client.dataset import RowError, count_rows
from client.files import HomeError
from client.home import Config, Home
from client.keystore import Keystore
from client.owner import seal_model, sign_terms, sign_use_policy
from client.sealed import upload
from tests.client.stage import FakeMarket, Faults, Port
from tests.trust.release_world import IMAGE, NOW, Enclave, World, lease, root
from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.custody import LineageKind
from trust.encoding import digest
from trust.errors import BlindhostError, CustodyError, EncodingError, PolicyError, RefusedError
from trust.identity import PartyKey
from trust.jobs import Screen, UsePolicy
from trust.messages import End
from trust.release import Decision, ReceiptHeard
from trust.verifier.policy import any_facility, simulated_policy

ASSETS = Path(__file__).parents[2] / "demo" / "assets"
MODEL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def step(_done: int, _total: int) -> None:
    return


@pytest.fixture
def home(tmp_path: Path) -> Home:
    config = Config(market_url="http://127.0.0.1:1", market=bytes(32))
    return Home.create(tmp_path / "home", config)


@pytest.fixture
def keys(home: Home) -> Keystore:
    return Keystore.create(home.folder, home.key_file)


@pytest.fixture
def entry(keys: Keystore) -> Custodian:
    return keys.new_lineage(LineageKind.SIMULATED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    target.mkdir()
    for name in MODEL_FILES:
        shutil.copyfile(ASSETS / name, target / name)
    return target


# --- models --------------------------------------------------------------------------------------


def test_model_is_sealed_with_its_public_files_and_uploaded_whole(
    home: Home, keys: Keystore, entry: Custodian, folder: Path
) -> None:
    signed = seal_model(home, keys, folder, entry, step)
    names = [each.name for each in signed.document.public_files]
    assert names == sorted(set(MODEL_FILES) - {"model.safetensors"})
    weights = (folder / "model.safetensors").read_bytes()
    sealed = home.folder / "sealed" / signed.digest.hex()
    at = len(weights) // 2
    assert not any(weights[at : at + 32] in path.read_bytes() for path in sealed.iterdir())
    assert home.holdings(keys).manifests == {signed.digest: signed}


async def test_interrupted_upload_goes_on_where_it_stopped(
    home: Home, keys: Keystore, entry: Custodian, folder: Path
) -> None:
    signed = seal_model(home, keys, folder, entry, step)
    market = FakeMarket()
    port = Port(market, keys.party.identity, Faults())
    whole = await upload(home, signed, port, step)
    assert whole == len(market.blobs) > 5
    assert signed.document.segment_list in market.blobs
    gone = next(iter(market.blobs))
    del market.blobs[gone]
    assert await upload(home, signed, port, step) == 1
    assert market.documents[signed.digest][0] == signed.encode()


def broken_header(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def overlap(header: dict[str, object]) -> None:
    first, second = [each for name, each in header.items() if name != "__metadata__"][:2]
    second["data_offsets"] = first["data_offsets"]  # type: ignore[index]
    second["shape"] = first["shape"]  # type: ignore[index]


def config(folder: Path, **changed: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def pattern(folder: Path) -> None:
    path = folder / "tokenizer.json"
    text = path.read_text()
    value = json.loads(text)
    value["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": r"(?<=acquisition)(\s?\w+\s?)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    path.write_text(json.dumps(value))


def template(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_text(text)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": text}))


BAD_MODELS: dict[str, Callable[[Path], object]] = {
    "pickle": lambda f: (f / "pytorch_model.bin").write_bytes(b"\x80\x04."),
    "remote code": lambda f: (f / "modeling_evil.py").write_text("import os"),
    "auto_map": lambda f: config(f, auto_map={"AutoModel": "evil--repo.Model"}),
    "kernel from a hub": lambda f: config(f, attn_implementation="evil-org/kernel"),
    "unknown config key": lambda f: config(f, surprise=1),
    "endless layers": lambda f: config(f, num_hidden_layers=100_000),
    "tokenizer pattern outside the list": pattern,
    "unknown file": lambda f: (f / "notes.txt").write_text("x"),
    "folder inside": lambda f: (f / "sub").mkdir(),
    "missing tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "foreign template": lambda f: template(f, "{{ range(9) }}"),
    "trailing bytes": lambda f: (f / "model.safetensors").write_bytes(
        (ASSETS / "model.safetensors").read_bytes() + bytes(8)
    ),
    "cut off": lambda f: (f / "model.safetensors").write_bytes(
        (ASSETS / "model.safetensors").read_bytes()[:-8]
    ),
    "overlapping tensors": lambda f: broken_header(f, overlap),
    "huge header": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64),
}


@pytest.mark.parametrize("fault", sorted(BAD_MODELS))
def test_model_folder_is_refused_at_seal_time(
    home: Home, keys: Keystore, entry: Custodian, folder: Path, fault: str
) -> None:
    BAD_MODELS[fault](folder)
    with pytest.raises(EncodingError):
        seal_model(home, keys, folder, entry, step)
    assert list((home.folder / "sealed").iterdir()) == []
    assert home.holdings(keys).manifests == {}


def test_own_template_is_sealed_only_when_said(
    home: Home, keys: Keystore, entry: Custodian, folder: Path
) -> None:
    BAD_MODELS["foreign template"](folder)
    assert seal_model(home, keys, folder, entry, step, own_template=True)


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"messages": []}',
        '{"messages": "x"}',
        '{"text": "x"}',
        '{"messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": 1}]}',
        '{"messages": [{"role": "root", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": "a", "x": 1}]}',
        '{"messages": [], "messages": [{"role": "assistant", "content": "a"}]}',
        '{"messages": [{"role": "assistant", "content": "\\ud800"}]}',
        "\udcff",
        "x" * (2 << 20),
    ],
)
def test_broken_line_of_a_dataset_is_named(
    home: Home, keys: Keystore, entry: Custodian, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "rows.jsonl"
    text = ROW * 6 + line + "\n" + ROW
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RowError, match=r"^line 7: ") as caught:
        seal_dataset(home, keys, path, entry, step)
    assert caught.value.line == 7
    assert list((home.folder / "sealed").iterdir()) == []


def test_rows_are_counted_and_an_empty_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW * 3 + ROW.strip())
    assert count_rows(path) == 4
    path.write_text("")
    with pytest.raises(RowError):
        count_rows(path)


def test_the_demos_rows_are_all_good() -> None:
    assert count_rows(ASSETS / "train.jsonl") == 1200


# --- terms and policies --------------------------------------------------------------------------


def test_terms_are_numbered_without_gaps(home: Home, keys: Keystore, entry: Custodian) -> None:
    base = dataclasses.replace(
        World().terms.document, owner=keys.party.identity, lineages=(entry.lineage,)
    )
    first = sign_terms(home, keys, base)
    for number in (1, 3):
        with pytest.raises(HomeError, match="the next number is 2"):
            sign_terms(home, keys, dataclasses.replace(base, number=number))
    second = sign_terms(home, keys, dataclasses.replace(base, number=2))
    newest = home.holdings(keys).newest_terms(entry.lineage)
    assert newest == second.document
    assert first.digest in home.holdings(keys).terms


def test_terms_that_name_a_screen_are_not_even_signed(
    home: Home, keys: Keystore, entry: Custodian
) -> None:
    screen = Screen(guard=bytes(32), policy_text=bytes(32))
    base = dataclasses.replace(World().terms.document, owner=keys.party.identity, screen=screen)
    with pytest.raises(HomeError, match="screening does not exist yet"):
        sign_terms(home, keys, base)


def test_real_lineage_gets_no_simulated_policy_and_the_other_way_round(
    home: Home, keys: Keystore
) -> None:
    policies = {
        LineageKind.REAL: simulated_policy(root().fingerprint, [IMAGE]),
        LineageKind.SIMULATED: any_facility([IMAGE]),
    }
    for kind, appraisal in policies.items():
        lineage = keys.new_lineage(kind).lineage
        policy = UsePolicy(
            version=1,
            custodian=keys.party.identity,
            number=1,
            lineages=(lineage,),
            appraisal_policy=appraisal.digest,
            jobs_signed_by=None,
            adapter_to=(),
        )
        with pytest.raises(PolicyError):
            sign_use_policy(home, keys, policy, appraisal)


def test_mixed_policy_does_not_load() -> None:
    simulated = simulated_policy(root().fingerprint, [IMAGE])
    real = any_facility([IMAGE])
    with pytest.raises(PolicyError, match="never both"):
        dataclasses.replace(simulated, roots=(*simulated.roots, *real.roots))


def test_document_of_another_party_in_a_home_is_refused(home: Home, keys: Keystore) -> None:
    forged = PartyKey.generate().sign(World().terms.document)
    home.keep(forged)
    with pytest.raises(BlindhostError):
        home.holdings(keys)


# --- jobs ----------------------------------------------------------------------------------------


def job_of(world: World, home: Home, keys: Keystore, **changed: object) -> object:
    fields = {
        "buyer": keys.party.identity,
        "progress_key": keys.progress.public,
        **changed,
    }
    return dataclasses.replace(world.job.document, **fields)


def world_of(keys: Keystore) -> World:
    """A world whose buyer is this home's party."""
    world = World()
    for name in ("rows", "heldout"):
        manifest = getattr(world, name).document
        entry = dataclasses.replace(world.buyer.entry, identity=keys.party.identity)
        core = dataclasses.replace(manifest.core, custodians=(entry,))
        setattr(world, name, keys.party.sign(dataclasses.replace(manifest, core=core)))
    world.job = world.submit()
    return world


def submit(world: World, home: Home, keys: Keystore, **changed: object) -> object:
    inputs = (world.model, world.rows, world.heldout)
    return sign_job(
        home,
        keys,
        job_of(world, home, keys, **changed),  # type: ignore[arg-type]
        terms=world.terms,
        manifests={each.digest: each for each in inputs},
        now=NOW,
    )


def test_signed_job_is_kept_for_its_broker(home: Home, keys: Keystore) -> None:
    signed = submit(world_of(keys), home, keys)
    assert list(home.holdings(keys).jobs.values()) == [signed]


def test_job_with_anothers_progress_key_is_not_signed(home: Home, keys: Keystore) -> None:
    with pytest.raises(RefusedError, match="job-not-own"):
        submit(world_of(keys), home, keys, progress_key=bytes(1216))


def test_job_over_a_strangers_dataset_is_not_signed(home: Home, keys: Keystore) -> None:
    world = World()
    with pytest.raises(RefusedError, match="input-not-own"):
        submit(world, home, keys)


def test_real_and_simulated_do_not_meet_at_submit(home: Home, keys: Keystore) -> None:
    world = world_of(keys)
    manifest = world.rows.document
    entry = manifest.core.custodians[0]
    real = dataclasses.replace(entry, lineage=b"r" + entry.lineage[1:])
    core = dataclasses.replace(manifest.core, custodians=(real,))
    world.rows = keys.party.sign(dataclasses.replace(manifest, core=core))
    world.job = world.submit()
    with pytest.raises(CustodyError, match="real and simulated"):
        submit(world, home, keys)


def test_job_under_anothers_or_other_or_expired_terms_is_not_signed(
    home: Home, keys: Keystore
) -> None:
    world = world_of(keys)
    good = world.terms
    world.terms = PartyKey.generate().sign(good.document)
    with pytest.raises(RefusedError, match="terms-not-by-the-owner"):
        submit(world, home, keys)
    world.terms = world.publish(number=2)
    with pytest.raises(RefusedError, match="terms-other"):
        submit(world, home, keys)
    world.terms = world.publish(number=3, expires_at=NOW)
    with pytest.raises(RefusedError, match="terms-expired"):
        submit(world, home, keys, terms=world.terms.digest)
    world.terms = world.publish(number=4, screen=Screen(guard=bytes(32), policy_text=bytes(32)))
    with pytest.raises(RefusedError, match="screening does not exist yet"):
        submit(world, home, keys, terms=world.terms.digest)


# --- outputs and receipts ------------------------------------------------------------------------


def test_outputs_come_from_the_last_receipt_alone() -> None:
    world, enclave = World(), Enclave()
    world.seat(world.buyer, enclave)
    adapter = world.derived(enclave.party, ArtifactKind.ADAPTER)
    first = world.receipt(enclave, 1, 4)
    last = world.receipt(
        enclave, 2, 10, before=first.digest, end=End.DONE, outputs=(adapter.digest,)
    )
    for receipt, wanted in ((first, None), (last, (adapter.digest,))):
        result = world.buyer.ask(ReceiptHeard(signed=receipt.encode(), at=NOW))
        assert isinstance(result, Decision)
        assert outputs(world.buyer.memory, world.job.digest) == wanted
    assert last_receipt(world.buyer.memory, world.job.digest) == last.document


def test_market_names_another_adapter_client_refuses() -> None:
    """The market shows a receipt of its own making, with an older or poisoned adapter."""
    world, enclave = World(), Enclave()
    world.seat(world.buyer, enclave)
    genuine = world.receipt(enclave, 1, 10, end=End.DONE, outputs=(digest(b"adapter"),))
    forged = world.receipt(Enclave(), 1, 10, end=End.DONE, outputs=(digest(b"poison"),))
    moved = world.receipt(enclave, 1, 10, lease=lease(9), end=End.DONE, outputs=(bytes(32),))
    shown = [genuine.encode(), forged.encode(), moved.encode(), b"\x00" * 200]
    assert len(check_receipts(world.buyer.memory, world.job.digest, shown)) == 3
    for receipt in (forged, moved):
        world.buyer.ask(ReceiptHeard(signed=receipt.encode(), at=NOW))
    assert outputs(world.buyer.memory, world.job.digest) is None


def test_a_document_that_goes_while_it_is_read_does_not_end_a_broker(
    home: Home, keys: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROW, encoding="utf-8")
    entry = keys.new_lineage(LineageKind.SIMULATED)
    kept, gone = (seal_dataset(home, keys, rows, entry, step).manifest for _ in range(2))
    real = Path.read_bytes

    def vanishes(path: Path) -> bytes:
        if path.name == gone.digest.hex():
            path.unlink()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", vanishes)
    assert set(home.load(Manifest, keys.party.identity)) == {kept.digest}
