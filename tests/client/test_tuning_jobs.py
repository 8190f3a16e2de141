"""A buyer's jobs after they were submitted: followed, believed, stopped, forgotten."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from client.gateway.ports import NotFoundError, TuneEventKind
from client.market_api import MarketApi, MarketUnreachableError
from client.tuning_store import token_digest
from marketplace.wire import JobState
from tests.client.gateway.tune_rig import left_in, served
from tests.client.tuning_rig import BASE, rows, setting
from trust.identity import verify_signed
from trust.jobs import Close
from trust.messages import End, ProgressEvent, parse_message

# --- following -----------------------------------------------------------------------------------


async def test_job_is_followed_by_records_that_the_attested_key_signed(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        heldout = (await at.add()).id
        job = await at.port.submit(await at.request(heldout=heldout))
        enclave = await at.run(at.manifest())
        await at.tell(enclave, 1, ProgressEvent.STARTED)
        await at.move(job.job, JobState.PLACED, JobState.STARTING, JobState.RUNNING)
        assert (await at.port.job(job.job)).state is JobState.RUNNING
        await at.tell(enclave, 2, ProgressEvent.STEP, loss="1.25")
        await at.tell(enclave, 3, ProgressEvent.STEP)
        await at.tell(enclave, 4, ProgressEvent.CHECKPOINT)
        events = await at.port.events(job.job, after=0)
        assert [each.number for each in events] == list(range(1, len(events) + 1))
        kinds = [each.kind for each in events]
        assert kinds[0] is TuneEventKind.STATE
        assert kinds[-3:] == [
            TuneEventKind.MEASURE,
            TuneEventKind.TEXT,
            TuneEventKind.CHECKPOINT,
        ]
        assert dict(events[-3].measures) == {"loss": 1.25}
        assert (events[-1].step, events[-1].steps) == (4, 10)
        at.restart()
        assert await at.port.events(job.job, after=0) == events  # numbers and times stay
        assert await at.port.events(job.job, after=len(events) - 1) == events[-1:]


async def test_success_is_one_only_with_a_receipt_in_the_own_log(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        heldout = (await at.add()).id
        job = await at.port.submit(await at.request(heldout=heldout))
        enclave = await at.run(at.manifest())
        await at.move(job.job, JobState.PLACED, JobState.STARTING, JobState.RUNNING)
        await at.move(job.job, JobState.SUCCEEDED)
        found = await at.port.job(job.job)
        assert (found.state, found.tuned_model, found.finished_at) == (
            JobState.RUNNING,
            None,
            None,
        )
        assert "not in the own log" in found.message
        adapter = bytes(range(32))
        steps = at.manifest().document.steps
        last = at.stage.receipt(enclave, 1, steps, end=End.DONE, outputs=(adapter,))
        await at.stage.say("buyer", last.encode())
        found = await at.port.job(job.job)
        assert found.state is JobState.SUCCEEDED
        assert found.tuned_model == f"ft:{BASE}:{adapter.hex()[:16]}"
        assert found.trained_tokens == last.document.tokens > 0
        assert found.finished_at is not None
        at.restart()
        assert await at.port.job(job.job) == found


async def test_failed_job_says_what_its_enclave_said(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        heldout = (await at.add()).id
        job = await at.port.submit(await at.request(heldout=heldout))
        enclave = await at.run(at.manifest())
        await at.tell(enclave, 1, ProgressEvent.FAILED, text="line 3 is too long")
        last = at.stage.receipt(enclave, 1, 0, end=End.REFUSED)
        await at.stage.say("buyer", last.encode())
        await at.move(job.job, JobState.FAILED)
        found = await at.port.job(job.job)
        assert (found.state, found.code) == (JobState.FAILED, "refused")
        assert found.message == "line 3 is too long"
        assert found.finished_at is not None


async def test_record_that_no_attested_key_signed_says_nothing(tmp_path: Path) -> None:
    """Somebody writes into the progress file: what stands there is not shown."""
    from client.progress import append_progress

    async with setting(tmp_path) as at:
        heldout = (await at.add()).id
        job = await at.port.submit(await at.request(heldout=heldout))
        enclave = await at.run(at.manifest())
        append_progress(at.home.progress_path(bytes.fromhex(job.job)), b"x" * 2048)
        await at.tell(enclave, 1, ProgressEvent.STEP, loss="1.25")
        forged, good = (await at.port.events(job.job, after=0))[-2:]
        assert forged.kind is TuneEventKind.TEXT
        assert "does not hold" in forged.text
        assert dict(good.measures) == {"loss": 1.25}


async def test_job_is_shown_as_last_heard_while_the_market_is_silent(tmp_path: Path) -> None:
    class Silent(MarketApi):
        async def get_job(self, job):
            raise MarketUnreachableError("gone")

    async with setting(tmp_path) as at:
        job = await at.port.submit(await at.request())
        await at.move(job.job, JobState.PLACED)
        assert (await at.port.job(job.job)).state is JobState.PLACED
        silent = Silent.__new__(Silent)
        silent.__dict__.update(at.rig.api(at.keys.party).__dict__)
        at.restart(silent)
        assert (await at.port.job(job.job)).state is JobState.PLACED


# --- stopping ------------------------------------------------------------------------------------


async def test_cancel_closes_the_job_everywhere_once(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        job = await at.port.submit(await at.request())
        assert await at.port.cancel(job.job)
        found = await at.port.job(job.job)
        assert (found.state, found.tuned_model) == (JobState.CANCELLED, None)
        assert not await at.port.cancel(job.job)
        documents = await at.rig.api(at.keys.party).get_job_documents(bytes.fromhex(job.job))
        close = verify_signed(Close, documents.close, signer=at.keys.party.identity)
        for name in ("owner", "buyer"):
            party = at.stage.custody[name].keys.party
            messages = await at.rig.api(party).get_messages(party.identity, after=0)
            assert [parse_message(each.payload).signed for each in messages] == [close.encode()]
        with pytest.raises(NotFoundError):
            await at.port.cancel("0" * 64)


async def test_cancel_that_breaks_off_is_the_same_close_when_asked_again(tmp_path: Path) -> None:
    class Breaks(MarketApi):
        async def close_job(self, close, *, key):
            raise MarketUnreachableError("gone")

    async with setting(tmp_path) as at:
        request = await at.request()
        job = await at.port.submit(request)
        broken = Breaks.__new__(Breaks)
        broken.__dict__.update(at.rig.api(at.keys.party).__dict__)
        at.restart(broken)
        with pytest.raises(MarketUnreachableError):
            await at.port.cancel(job.job)
        stored = at.store.submissions[token_digest(request.token)].close
        assert stored is not None
        at.restart()
        assert await at.port.cancel(job.job)
        documents = await at.rig.api(at.keys.party).get_job_documents(bytes.fromhex(job.job))
        assert documents.close == stored


async def test_ended_job_is_forgotten_and_one_that_runs_is_not(tmp_path: Path) -> None:
    async with setting(tmp_path) as at:
        job = await at.port.submit(await at.request())
        assert not await at.port.forget(job.job)
        await at.port.cancel(job.job)
        assert await at.port.forget(job.job)
        at.restart()
        assert await at.port.jobs() == []
        with pytest.raises(NotFoundError):
            await at.port.job(job.job)
        with pytest.raises(NotFoundError):
            await at.port.events(job.job, after=0)


async def test_list_asks_the_market_once_and_shows_what_was_heard_while_it_is_silent(
    tmp_path: Path,
) -> None:
    class Counting(MarketApi):
        async def get_jobs(self):
            self.asked.append("jobs")
            if self.silent:
                raise MarketUnreachableError("gone")
            return await super().get_jobs()

        async def get_job(self, job):
            self.asked.append("job")
            return await super().get_job(job)

    async with setting(tmp_path) as at:
        training = (await at.add()).id
        made = [
            await at.port.submit(await at.request(token=str(n), training=training))
            for n in range(3)
        ]
        await at.move(made[0].job, JobState.PLACED)
        counting = Counting.__new__(Counting)
        counting.__dict__.update(at.rig.api(at.keys.party).__dict__)
        counting.asked, counting.silent = [], False
        at.restart(counting)
        shown = await at.port.jobs()
        assert [each.state for each in shown] == [
            JobState.QUEUED,
            JobState.QUEUED,
            JobState.PLACED,
        ]
        counting.silent = True
        assert await at.port.jobs() == shown
        assert counting.asked == ["jobs", "jobs"]


async def test_openais_client_tunes_over_a_real_market_and_is_charged_once(tmp_path: Path) -> None:
    async with setting(tmp_path) as at, served(at.port, at.home.folder / "gateway") as client:
        content = rows(64)
        made = await client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
        assert (await client.files.content(made.id)).read() == content
        job = await client.fine_tuning.jobs.create(
            model=BASE,
            training_file=made.id,
            hyperparameters={"learning_rate_multiplier": 0.5, "n_epochs": 2},
            extra_body={"blindhost": {"manifest": {"spend_max_microcredits": 123_456}}},
        )
        headers = {"x-stainless-retry-count": "1"}
        again = await client.fine_tuning.jobs.create(
            model=BASE,
            training_file=made.id,
            hyperparameters={"learning_rate_multiplier": 0.5, "n_epochs": 2},
            extra_body={"blindhost": {"manifest": {"spend_max_microcredits": 123_456}}},
            extra_headers=headers,
        )
        assert again.id == job.id
        assert await at.jobs_at_the_market() == [bytes.fromhex(job.id.removeprefix("ftjob-"))]
        assert (await at.rig.api(at.keys.party).get_account()).held == 123_456
        assert job.hyperparameters.n_epochs == 2
        assert job.hyperparameters.learning_rate_multiplier == 0.5
        [event] = (await client.fine_tuning.jobs.list_events(job.id)).data
        assert event.message.startswith("queued")
        with pytest.raises(openai.BadRequestError, match="rank"):
            await client.fine_tuning.jobs.create(
                model=BASE,
                training_file=made.id,
                extra_body={"blindhost": {"recipe": {"rank": 1000}}},
            )
        with pytest.raises(openai.APIStatusError) as poor:
            await client.fine_tuning.jobs.create(
                model=BASE,
                training_file=made.id,
                extra_body={"blindhost": {"manifest": {"spend_max_microcredits": 1 << 50}}},
            )
        assert poor.value.status_code == 402
        assert (await client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
        assert [each.id async for each in client.fine_tuning.jobs.list()] == [job.id]
        assert left_in(at.home.folder / "gateway") == []
