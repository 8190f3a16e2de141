"""A buyer's fine-tunes over a real market: sealed, submitted once, and believed by the own log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client import tuning
from client.dataset import RowError
from client.files import HomeError
from client.gateway.ports import NotFoundError
from client.market_api import MarketApi, MarketRefusedError, MarketUnreachableError
from client.tuning_store import token_digest
from marketplace.wire import ErrorCode, JobState
from tests.client.stage import Crash
from tests.client.tuning_rig import BASE, rows, setting
from tests.marketplace.world import CREDIT, fund
from trust.encoding import parse_base64url
from trust.errors import CustodyError, RefusedError
from trust.jobs import JobManifest

# --- files ---------------------------------------------------------------------------------------


async def test_file_is_sealed_at_once_and_opens_again_with_the_own_key(tmp_path: Path) -> None:
    content = rows(5000)
    async with setting(tmp_path) as at:
        stored = await at.add(content)
        assert (stored.rows, stored.size, stored.name) == (5000, len(content), "rows.jsonl")
        assert stored.id == f"file-{stored.artifact.hex()[:32]}"
        at.restart()
        assert await at.port.files() == [stored]
        pieces = [each async for each in at.port.read_file(stored.id)]
        assert b"".join(pieces) == content


async def test_no_file_of_the_home_has_the_plaintext_or_another_mode(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        await at.port.submit(await at.request())
        paths = [each for each in at.home.folder.rglob("*") if each.is_file()]
        assert len(paths) > 10
        for path in paths:
            assert b'"content": "a7"' not in path.read_bytes(), path
        for path in (at.home.folder / "tuning").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


async def test_broken_row_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        with pytest.raises(RowError, match=r"^line 3: "):
            await at.add(rows(2) + b"{}\n")
        assert await at.port.files() == []
        assert list((at.home.folder / "sealed").iterdir()) == []


async def test_deleted_file_is_gone_here_with_its_ciphertext(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        first, second = await at.add(), await at.add(name="second")
        await at.port.delete_file(first.id)
        at.restart()
        assert await at.port.files() == [second]
        assert [p.name for p in (at.home.folder / "sealed").iterdir()] == [second.artifact.hex()]
        with pytest.raises(NotFoundError):
            await at.port.delete_file(first.id)
        with pytest.raises(NotFoundError):
            await anext(aiter(at.port.read_file(first.id)))
        with pytest.raises(NotFoundError):
            await at.port.submit(await at.request(training=first.id))


async def test_lineage_is_made_at_first_use_and_once(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        at.config = type(at.config)(
            models={
                n: type(m)(
                    name=m.name,
                    model=m.model,
                    images=m.images,
                    lineage=None,
                    kind=m.kind,
                    job=m.job,
                )
                for n, m in at.config.models.items()
            }
        )
        before = len(at.keys.entries())
        for _ in range(2):
            at.restart()
            stored = await at.add()
        assert len(at.keys.entries()) == before + 1
        request = await at.request(training=stored.id)
        with pytest.raises(RefusedError, match="no-use-policy"):  # it would wait for ever
            await at.port.submit(request)
        assert await at.jobs_at_the_market() == []
        at.keys.shred_lineage(at.store.lineage)
        with pytest.raises(CustodyError):
            await at.add()


# --- submitting ----------------------------------------------------------------------------------


async def test_submission_makes_the_manifest_of_configuration_and_request(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        training, heldout = await at.add(rows(80)), await at.add(rows(64))
        request = await at.request(
            training=training.id,
            heldout=heldout.id,
            recipe={"rank": 8, "learning_rate_multiplier": "0.3", "epochs": 3},
            manifest={
                "spend_max_microcredits": 2_000_000,
                "bid": {"price_microcredits_per_gpu_hour": 5},
            },
        )
        job = await at.port.submit(request)
        assert (job.state, job.model, job.label) == (JobState.QUEUED, BASE, "mine")
        assert dict(job.metadata) == {"team": "a"}
        assert await at.jobs_at_the_market() == [bytes.fromhex(job.job)]
        said = at.manifest().document
        assert said.recipe.rank == 8
        assert (said.recipe.epochs, said.recipe.steps) == (3, None)
        assert said.recipe.evaluation is not None
        base = at.config.models[BASE].job
        configured = base["recipe"]["learning_rate"]
        assert float(said.recipe.learning_rate) == pytest.approx(float(configured) * 0.3)
        assert job.recipe["learning_rate_multiplier"] == "0.3"
        assert said.spend_max_microcredits == 2_000_000
        assert said.bid.price_microcredits_per_gpu_hour == 5
        assert said.bid.kind.value == base["bid"]["kind"]
        assert said.rows == 80
        assert [each.artifact for each in said.inputs[1:]] == [training.artifact, heldout.artifact]
        assert 0 < said.expires_at - at.stage.clock.now < 86_400_000 + 1000
        blobs = list((at.home.folder / "sealed" / training.artifact.hex()).iterdir())
        assert blobs
        account = await at.rig.api(at.keys.party).get_account()
        assert account.held == 2_000_000


async def test_without_held_out_rows_nothing_is_evaluated(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        await at.port.submit(await at.request())
        assert at.manifest().document.recipe.evaluation is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"recipe": {"strange": 1}}, "malformed"),
        ({"recipe": {"rank": 1000}}, "malformed"),
        ({"recipe": {"rank": 64}}, "recipe-rank"),
        ({"recipe": {"rows_per_step": 7}}, "malformed"),
        ({"recipe": {"learning_rate_multiplier": "-1"}}, "malformed"),
        ({"recipe": {"learning_rate_multiplier": "0.000000000001"}}, "malformed"),
        ({"recipe": {"learning_rate_multiplier": "2", "learning_rate": "1"}}, "malformed"),
        ({"manifest": {"buyer": ""}}, "malformed"),
        ({"manifest": {"nonce": ""}}, "malformed"),
        ({"manifest": {"kind": "evaluate"}}, "malformed"),
        ({"manifest": {"images": []}}, "malformed"),
        ({"manifest": {"rows": 1}}, "malformed"),
        ({"manifest": {"strange": 1}}, "malformed"),
    ],
)
async def test_request_that_makes_no_good_manifest_is_refused_before_it_is_signed(
    tmp_path: Path, changes: dict, code: str
) -> None:
    async with setting(tmp_path) as at:
        with pytest.raises(RefusedError, match=f"^{code}: "):
            await at.port.submit(await at.request(**changes))
        assert at.store.submissions == {}
        assert await at.jobs_at_the_market() == []


async def test_unknown_base_and_file_are_not_found(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        for changes in ({"model": "other"}, {"training": "file-0"}, {"heldout": "file-0"}):
            with pytest.raises(NotFoundError):
                await at.port.submit(await at.request(**changes))


async def test_same_token_is_the_same_job_and_another_is_another(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        request = await at.request()
        first, again = await asyncio.gather(at.port.submit(request), at.port.submit(request))
        at.restart()
        later = await at.port.submit(request)
        assert first.job == again.job == later.job
        other = await at.port.submit(await at.request(token="another"))
        assert set(await at.jobs_at_the_market()) == {
            bytes.fromhex(first.job),
            bytes.fromhex(other.job),
        }
        assert [each.job for each in await at.port.jobs()] == [other.job, first.job]


async def test_refused_submission_is_forgotten_and_may_be_made_again(tmp_path: Path) -> None:
    async with setting(tmp_path, amount=0) as at:
        request = await at.request()
        before = set(at.home.holdings(at.keys).jobs)
        with pytest.raises(MarketRefusedError) as caught:
            await at.port.submit(request)
        assert caught.value.error_code is ErrorCode.NO_FUNDS
        assert at.store.submissions == {}
        # No broker of ours orders it, should the market have kept what it says it refused.
        assert set(at.home.holdings(at.keys).jobs) == before
        assert await at.port.jobs() == []
        await at.rig.write(lambda session: fund(session, 20 * CREDIT, at.keys.party))
        job = await at.port.submit(request)
        assert await at.jobs_at_the_market() == [bytes.fromhex(job.job)]


class Breaking(MarketApi):
    """The process ends, or the line breaks, at one place of a submission."""

    at = ""
    error: BaseException = Crash()

    @classmethod
    def of(cls, api: MarketApi, at: str, error: BaseException) -> Breaking:
        broken = cls.__new__(cls)
        broken.__dict__.update(api.__dict__)
        broken.at, broken.error = at, error
        return broken

    async def missing_blobs(self, digests):
        if self.at == "before the upload":
            raise self.error
        return await super().missing_blobs(digests)

    async def submit_job(self, manifest, *, key):
        if self.at == "before the submission":
            raise self.error
        view = await super().submit_job(manifest, key=key)
        if self.at == "after the submission":
            raise self.error
        return view


PLACES = ("before the upload", "before the submission", "after the submission")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [Crash(), MarketUnreachableError("gone")])
async def test_submission_that_breaks_off_is_made_again_with_the_very_same_manifest(
    tmp_path: Path, place: str, error: BaseException
) -> None:
    async with setting(tmp_path) as at:
        request = await at.request()
        at.restart(Breaking.of(at.rig.api(at.keys.party), place, error))
        with pytest.raises(type(error)):
            await at.port.submit(request)
        stored = at.store.submissions[token_digest(request.token)]
        assert not stored.sent
        at.restart()
        job = await at.port.submit(request)
        assert at.store.submissions[token_digest(request.token)].job == stored.job
        assert job.job == stored.name.hex()
        assert await at.jobs_at_the_market() == [stored.name]
        account = await at.rig.api(at.keys.party).get_account()
        assert account.held == at.manifest().document.spend_max_microcredits


async def test_job_whose_acceptance_was_not_heard_is_found_and_one_never_sent_is_not_shown(
    tmp_path: Path,
) -> None:
    async with setting(tmp_path) as at:
        for place, shown in (("after the submission", 1), ("before the submission", 1)):
            request = await at.request(token=place)
            at.restart(Breaking.of(at.rig.api(at.keys.party), place, Crash()))
            with pytest.raises(Crash):
                await at.port.submit(request)
            at.restart()
            assert len(await at.port.jobs()) == shown
        unsent = at.store.submissions[token_digest("before the submission")].name.hex()
        with pytest.raises(NotFoundError):
            await at.port.job(unsent)


async def test_home_is_not_filled_beyond_what_its_broker_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setting(tmp_path) as at:
        first = await at.add()
        request = await at.request(training=first.id)
        monkeypatch.setattr(tuning, "ROOM_MAX", 1)
        with pytest.raises(HomeError, match="jobs: "):
            await at.port.submit(request)
        with pytest.raises(HomeError, match="manifests: "):
            await at.add()
        assert await at.port.files() == [first]


async def test_manifest_of_a_deleted_file_stays_while_a_job_names_it(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        used, unused = await at.add(), await at.add()
        await at.port.submit(await at.request(training=used.id))
        for each in (used, unused):
            await at.port.delete_file(each.id)
        held = at.home.holdings(at.keys).manifests
        assert used.artifact in held
        assert unused.artifact not in held


async def test_nonce_is_fresh_for_each_token(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        training = (await at.add()).id
        for token in ("one", "two"):
            await at.port.submit(await at.request(token=token, training=training))
        one, two = (at.manifest(each).document for each in ("one", "two"))
        assert one.nonce != two.nonce
        assert len(parse_base64url(one.to_json()["nonce"])) == 32
        assert isinstance(one, JobManifest)
