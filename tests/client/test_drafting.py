"""A form becomes a manifest and a price; consents, backups and what one sees of custodians."""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.backup import back_up, is_backed_up
from client.consents import answer, consents, find, in_sentences, others_say
from client.custodians import broker_runs, other_custodians
from client.drafting import TuneDraft, prepare, quote
from client.files import HomeError
from client.home import Home
from client.market_api import MarketRefusedError
from client.named import Named, keep_name, names, shortened
from client.release_log import ReleaseLog
from marketplace import wire
from tests.client.stage import Stage
from tests.trust import release_world as rw
from trust.artifacts import ArtifactKind
from trust.errors import BlindhostError, RefusedError
from trust.identity import Signed, verify_signed
from trust.jobs import LoraRecipe, Terms, UsePolicy
from trust.messages import LogHead

HOUR = 3_600_000


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Homes and brokers of an owner and a buyer."""
    stage = Stage(tmp_path)
    for name in ("owner", "buyer"):
        await stage.start(name)
    stage.order(1)
    yield stage
    for name in ("owner", "buyer"):
        stage.stop(name)


class Market:
    """Documents, heads and policies, as the market has them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.policies: dict[bytes, Signed[UsePolicy]] = {}

    async def get_document(self, sha256: bytes) -> bytes:
        assert sha256 == self.stage.model.digest
        return self.stage.model.encode()

    async def get_terms(self, owner: bytes, lineage: bytes) -> Signed[Terms]:
        assert lineage in self.stage.terms.document.lineages
        return self.stage.terms

    async def get_head(self, custodian: bytes) -> Signed[LogHead] | None:
        data = self.stage.market.heads.get(custodian)
        return None if data is None else verify_signed(LogHead, data, signer=custodian)

    async def get_use_policy(self, custodian: bytes, lineage: bytes) -> Signed[UsePolicy]:
        if custodian not in self.policies:
            error = wire.WireError(code=wire.ErrorCode.NOT_FOUND, text="none")
            raise MarketRefusedError(error)
        return self.policies[custodian]


def offer(**changes: object) -> wire.OfferView:
    values = {
        "offer": "offr_" + "0" * 26,
        "platform": "sev-snp",
        "compute_class": "cpu",
        "gpu_model": "cpu",
        "gpus": 2,
        "memory_mib": 512,
        "ask_microcredits_per_gpu_hour": 1_800_000,
        "floor_microcredits_per_gpu_hour": None,
        "ends_at": rw.NOW + HOUR,
    }
    return wire.OfferView(
        host=bytes(32),
        state=wire.OfferState.LISTED,
        terms_number=1,
        draft=wire.OfferDraft(**values | changes),
        deadline=None,
    )


def draft(stage: Stage, **changes: object) -> TuneDraft:
    values = {
        "model": stage.model.digest,
        "data": stage.rows.digest,
        "heldout": stage.heldout.digest,
        "rows": 64,
        "rank": 8,
        "alpha": 16,
        "steps": 100,
        "rows_per_step": 8,
        "learning_rate": "0.0002",
        "length_max": 128,
        "seed": 7,
        "precision": "fp32",
        "checkpoint_steps": 10,
        "spend_max": 6_000_000,
        "price_max": 2_000_000,
        "images": (),
    }
    return TuneDraft(**values | changes)


async def test_a_draft_becomes_a_manifest_that_own_brokers_would_release_for(stage: Stage) -> None:
    each = stage.custody["buyer"]
    made = await prepare(Market(stage), each.home, each.keys, draft(stage), offer(), rw.NOW)
    job = made.manifest
    assert job.images == (rw.IMAGE,)
    assert (job.resources.gpus, job.resources.platform) == (2, "sev-snp")
    assert (job.spend_max_microcredits, job.ceiling_microcredits_per_step) == (6_000_000, 60_000)
    log = each.log
    assert log is not None
    signed = made.sign(each.home, each.keys, now=rw.NOW, memory=log.memory)
    assert signed.digest in each.home.holdings(each.keys).jobs
    assert isinstance(job.recipe, LoraRecipe)
    assert job.steps == 100


async def test_a_draft_with_anothers_data_or_without_an_image_is_refused(stage: Stage) -> None:
    each = stage.custody["buyer"]
    with pytest.raises(HomeError, match="sealed no dataset"):
        await prepare(
            Market(stage), each.home, each.keys, draft(stage, data=bytes(32)), offer(), rw.NOW
        )
    for path in (each.home.folder / "appraisal").iterdir():
        path.unlink()
    with pytest.raises(RefusedError, match="no image"):
        await prepare(Market(stage), each.home, each.keys, draft(stage), offer(), rw.NOW)


async def test_an_estimate_rests_on_own_receipts_for_this_model_and_machine(stage: Stage) -> None:
    each, enclave = stage.custody["buyer"], rw.Enclave()
    made = await prepare(Market(stage), each.home, each.keys, draft(stage), offer(), rw.NOW)
    assert each.log is not None
    job, terms = made.manifest, stage.terms.document

    def quoted(**machine: object) -> tuple[int | None, int | None, int | None]:
        assert each.log is not None
        found = quote(job, terms, offer(**machine), each.log.memory, rw.NOW)
        assert found.cost_max == 6_000_000
        return found.cost_low, found.cost_high, found.milliseconds

    assert quoted() == (None, None, None)
    assert isinstance(await stage.ask("buyer", enclave), bytes)
    receipt = stage.receipt(enclave, 1, 10, milliseconds=10_000)
    await stage.say("buyer", receipt.encode())
    tokens = 100 * 8 * 128
    took = -(-tokens * 10_000 // receipt.document.tokens)
    royalty = terms.royalty_microcredits_per_million_tokens * tokens // 1_000_000
    host = min(2 * 1_800_000 * took // HOUR, 6_000_000)
    cost = min(6_000_000, host + terms.price_microcredits_per_job + royalty)
    assert quoted() == (cost, cost, took)
    assert quoted(compute_class="cpu=other") == (None, None, None)


# --- consents ------------------------------------------------------------------------------------


async def test_a_consent_is_a_line_of_the_next_use_policy_and_can_be_taken_back(
    stage: Stage,
) -> None:
    enclave, each = rw.Enclave(), stage.custody["buyer"]
    assert isinstance(await stage.ask("buyer", enclave), bytes)
    assert each.log is not None
    adapter = stage.derived(enclave.party, ArtifactKind.ADAPTER)
    memory = dataclasses.replace(each.log.memory, outputs={adapter.digest: adapter})
    holdings = each.home.holdings(each.keys)
    (found,) = consents(holdings, memory)
    assert (found.mine, found.to, found.handed) == (False, each.keys.party.identity, False)
    assert find((found,), found.id) is found
    with pytest.raises(BlindhostError):
        find((found,), "other")
    owner = stage.custody["owner"].keys.party.identity
    market = Market(stage)
    ((who, said),) = await others_say(market, found)
    assert (who, said) == (owner, "not answered: no use policy of it is published")
    (policy,) = stage.custody["owner"].home.load(UsePolicy, owner).values()
    market.policies[owner] = policy
    assert (await others_say(market, found))[0][1] == "no"
    (signed,) = answer(each.home, each.keys, found, adapter, yes=True)
    assert signed.document.number == 2
    assert answer(each.home, each.keys, found, adapter, yes=True) == ()
    (now,) = consents(each.home.holdings(each.keys), memory)
    assert now.mine
    (signed,) = answer(each.home, each.keys, found, adapter, yes=False)
    assert (signed.document.number, signed.document.adapter_to) == (3, ())
    assert "can't be taken back" in " ".join(in_sentences(found))


# --- custodians, backups, names ------------------------------------------------------------------


async def test_of_another_custodian_one_sees_how_far_its_log_goes_and_no_more(
    stage: Stage,
) -> None:
    owner = stage.custody["owner"].keys.party.identity
    market = Market(stage)
    (other,) = await other_custodians(market, [owner])
    assert other.entries == 1
    assert "is not seen here" in other.words
    (unknown,) = await other_custodians(market, [bytes(32)])
    assert (unknown.entries, unknown.said_at) == (None, None)


def test_whether_a_broker_runs_is_told_without_taking_its_lock(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    home = stage.custody["buyer"].home
    assert broker_runs(home) is False
    log = ReleaseLog.open(home.log_path, now=rw.NOW)
    assert broker_runs(home) is True
    log.close()
    assert broker_runs(home) is False
    ReleaseLog.open(home.log_path, now=rw.NOW).close()
    assert broker_runs(home, tmp_path / "no-such-file") is None


def test_a_backup_has_what_cannot_be_made_again_and_no_key_file(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    each = stage.custody["buyer"]
    assert is_backed_up(each.home) is None
    path = tmp_path / "backup.tar"
    assert back_up(each.home, path) == path.stat().st_size
    with tarfile.open(path) as tar:
        kept = tar.getnames()
        tar.extractall(tmp_path / "again", filter="data")
    assert {"config", "keystore"} <= set(kept)
    assert not {each for each in kept if each == "key" or each.startswith(("heads", "sealed"))}
    assert (each.home.folder / "key").read_bytes() not in path.read_bytes()
    assert is_backed_up(each.home) is True
    with pytest.raises(HomeError, match="never overwritten"):
        back_up(each.home, path)
    each.keys.new_epoch(each.entry.lineage)
    assert is_backed_up(each.home) is False
    again = tmp_path / "again"
    again.chmod(0o700)
    for folder in ("lineages", "manifests", "terms", "policies", "appraisal", "jobs"):
        (again / folder).mkdir(exist_ok=True)
        (again / folder).chmod(0o700)
    keys = Home.open(again).keystore(each.home.key_file)
    assert keys.party.identity == each.keys.party.identity


def test_names_stay_here_and_a_broken_one_is_passed_over(tmp_path: Path) -> None:
    home = Stage(tmp_path).custody["buyer"].home
    named = Named(about=bytes(32), name=shortened("é" * 400), rows=3, bytes=9, at=rw.NOW)
    assert names(home) == {}
    keep_name(home, named)
    (home.folder / "names" / ("00" * 31 + "01")).write_bytes(b"x")
    assert names(home) == {bytes(32): named}
    assert len(named.name.encode()) <= 255
