"""Fine-tunes by OpenAI's unmodified client: its shapes, its retries, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import openai
import pytest
from aiohttp import web

from client.gateway.creations import WINDOW_MS, Creations
from client.market_api import MarketRefusedError, MarketUnreachableError
from marketplace.wire import ErrorCode, JobState, WireError
from tests.client.gateway.fakes import BASE, NOW, FakeTunePort
from tests.client.gateway.tune_rig import ROWS, body_of, served
from trust.errors import RefusedError


@pytest.fixture
def port() -> FakeTunePort:
    return FakeTunePort()


async def file_of(client: openai.AsyncOpenAI) -> str:
    made = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    return made.id


# --- a job's course ------------------------------------------------------------------------------


async def test_job_is_created_followed_and_found_in_openais_shape(
    port: FakeTunePort, tmp_path: Path
) -> None:
    async with served(port, tmp_path / "g") as client:
        rows, heldout = await file_of(client), await file_of(client)
        job = await client.fine_tuning.jobs.create(
            model=BASE,
            training_file=rows,
            validation_file=heldout,
            suffix="mine",
            seed=7,
            metadata={"team": "a"},
        )
        assert job.id.startswith("ftjob-")
        assert (job.object, job.status, job.model) == ("fine_tuning.job", "queued", BASE)
        assert (job.training_file, job.validation_file) == (rows, heldout)
        assert (job.seed, job.metadata, job.result_files) == (7, {"team": "a"}, [])
        assert (job.error, job.finished_at, job.fine_tuned_model) == (None, None, None)
        assert job.created_at == NOW // 1000
        name = job.id.removeprefix("ftjob-")
        for state, status in (
            (JobState.PLACED, "queued"),
            (JobState.STARTING, "queued"),
            (JobState.RUNNING, "running"),
            (JobState.SUCCEEDED, "succeeded"),
        ):
            port.advance(name)
            found = await client.fine_tuning.jobs.retrieve(job.id)
            assert found.status == status, state
        assert found.fine_tuned_model == f"ft:{BASE}:{name[:16]}"
        assert (found.trained_tokens, found.finished_at) == (4096, port.now // 1000)
        [request] = port.submitted
        assert (request.label, dict(request.metadata)) == ("mine", {"team": "a"})
        assert (request.training, request.heldout) == (rows, heldout)
        assert dict(request.recipe) == {"seed": 7}


async def test_failed_and_exhausted_jobs_say_why(port: FakeTunePort, tmp_path: Path) -> None:
    async with served(port, tmp_path / "g") as client:
        rows = await file_of(client)
        for state, code in ((JobState.FAILED, "refused"), (JobState.EXHAUSTED, "")):
            job = await client.fine_tuning.jobs.create(model=BASE, training_file=rows)
            port.move(job.id.removeprefix("ftjob-"), state, message="line 3 is broken", code=code)
            found = await client.fine_tuning.jobs.retrieve(job.id)
            assert found.status == "failed"
            assert found.error is not None
            assert found.error.message == "line 3 is broken"
            assert found.error.code == (code or "exhausted")
            events = await client.fine_tuning.jobs.list_events(job.id)
            assert events.data[0].level == "error"


async def test_cancel_ends_a_job_once(port: FakeTunePort, tmp_path: Path) -> None:
    async with served(port, tmp_path / "g") as client:
        job = await client.fine_tuning.jobs.create(model=BASE, training_file=await file_of(client))
        assert (await client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="has ended"):
            await client.fine_tuning.jobs.cancel(job.id)
        for name in ("ftjob-" + "0" * 64, "0" * 64, job.id.removeprefix("ftjob-")):
            with pytest.raises(openai.NotFoundError):
                await client.fine_tuning.jobs.cancel(name)
            with pytest.raises(openai.NotFoundError):
                await client.fine_tuning.jobs.retrieve(name)


async def test_events_and_checkpoints_are_paged_newest_first(
    port: FakeTunePort, tmp_path: Path
) -> None:
    async with served(port, tmp_path / "g") as client:
        job = await client.fine_tuning.jobs.create(model=BASE, training_file=await file_of(client))
        for _ in range(3):
            port.advance(job.id.removeprefix("ftjob-"))
        first = await client.fine_tuning.jobs.list_events(job.id, limit=2)
        assert first.has_more
        every = [each async for each in client.fine_tuning.jobs.list_events(job.id, limit=2)]
        assert every[:2] == first.data
        assert len({each.id for each in every}) == len(every) == 7
        assert every[-1].message == "queued"
        measures = [each for each in every if each.type == "metrics"]
        assert [each.data["train_loss"] for each in measures] == [1.25, 2.5]
        assert [each.data["step"] for each in measures] == [2, 1]
        [checkpoint] = (await client.fine_tuning.jobs.checkpoints.list(job.id)).data
        assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (2, 1.25)
        assert checkpoint.fine_tuning_job_id == job.id
        for query in ({"limit": 0}, {"after": "ftevent-x"}):
            with pytest.raises(openai.BadRequestError):
                await client.fine_tuning.jobs.list_events(job.id, **query)
        with pytest.raises(openai.NotFoundError):
            await client.fine_tuning.jobs.list_events("ftjob-0")


async def test_jobs_are_paged_newest_first_and_chosen_by_metadata(
    port: FakeTunePort, tmp_path: Path
) -> None:
    async with served(port, tmp_path / "g") as client:
        rows = await file_of(client)
        made = []
        for number in range(3):
            metadata = {"n": str(number)}
            made.append(
                await client.fine_tuning.jobs.create(
                    model=BASE, training_file=rows, metadata=metadata
                )
            )
        found = [each.id async for each in client.fine_tuning.jobs.list(limit=1)]
        assert found == [each.id for each in reversed(made)]
        [one] = (await client.fine_tuning.jobs.list(metadata={"n": "1"})).data
        assert one.id == made[1].id


# --- what is asked -------------------------------------------------------------------------------

SETTINGS = {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 0.1}
WANTED = {"epochs": 3, "rows_per_step": 16, "learning_rate_multiplier": "0.1"}


@pytest.mark.parametrize(
    "asked",
    [
        {"hyperparameters": SETTINGS},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": SETTINGS}}},
        {
            "hyperparameters": SETTINGS,
            "method": {"type": "supervised", "supervised": {"hyperparameters": SETTINGS}},
        },
    ],
)
async def test_hyperparameters_come_in_the_old_and_the_new_shape(
    port: FakeTunePort, tmp_path: Path, asked: dict
) -> None:
    async with served(port, tmp_path / "g") as client:
        job = await client.fine_tuning.jobs.create(
            model=BASE, training_file=await file_of(client), **asked
        )
    assert dict(port.submitted[0].recipe) == WANTED
    assert job.hyperparameters.n_epochs == 3
    assert job.hyperparameters.batch_size == 16
    assert job.hyperparameters.learning_rate_multiplier == 0.1
    assert job.method is not None
    assert job.method.supervised.hyperparameters.batch_size == 16


async def test_auto_is_what_is_configured(port: FakeTunePort, tmp_path: Path) -> None:
    async with served(port, tmp_path / "g") as client:
        await client.fine_tuning.jobs.create(
            model=BASE,
            training_file=await file_of(client),
            hyperparameters=dict.fromkeys(SETTINGS, "auto"),
        )
    assert dict(port.submitted[0].recipe) == {}


async def test_own_fields_pass_through(port: FakeTunePort, tmp_path: Path) -> None:
    own = {"recipe": {"rank": 4}, "manifest": {"spend_max_microcredits": 5, "bid": {"kind": "x"}}}
    async with served(port, tmp_path / "g") as client:
        await client.fine_tuning.jobs.create(
            model=BASE,
            training_file=await file_of(client),
            seed=1,
            extra_body={"blindhost": own},
        )
    [request] = port.submitted
    assert dict(request.recipe) == {"rank": 4, "seed": 1}
    assert dict(request.manifest) == own["manifest"]


BAD = {
    "integrations": {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
    "dpo": {"method": {"type": "dpo", "dpo": {}}},
    "reinforcement": {"method": {"type": "reinforcement"}},
    "no epochs": {"hyperparameters": {"n_epochs": 0}},
    "half an epoch": {"hyperparameters": {"n_epochs": 0.5}},
    "a true batch": {"hyperparameters": {"batch_size": True}},
    "a negative rate": {"hyperparameters": {"learning_rate_multiplier": -1}},
    "a vanishing rate": {"hyperparameters": {"learning_rate_multiplier": 1e-300}},
    "an unknown setting": {"hyperparameters": {"beta": 1}},
    "two opinions": {
        "hyperparameters": {"n_epochs": 1},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    },
    "a long suffix": {"suffix": "x" * 65},
    "a seed too large": {"seed": 1 << 32},
    "metadata of numbers": {"metadata": {"a": 1}},
    "much metadata": {"metadata": {str(n): "x" for n in range(17)}},
    "an unknown field": {"extra_body": {"strange": 1}},
    "a float of ours": {"extra_body": {"blindhost": {"recipe": {"learning_rate": 0.1}}}},
    "an unknown field of ours": {"extra_body": {"blindhost": {"strange": {}}}},
    "no object of ours": {"extra_body": {"blindhost": {"recipe": []}}},
    "said twice": {"seed": 1, "extra_body": {"blindhost": {"recipe": {"seed": 2}}}},
    "a file that is not there": {"validation_file": "file-0"},
}


@pytest.mark.parametrize("what", sorted(BAD))
async def test_what_cannot_be_meant_is_refused_and_submits_nothing(
    port: FakeTunePort, tmp_path: Path, what: str
) -> None:
    async with served(port, tmp_path / "g") as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.fine_tuning.jobs.create(
                model=BASE, training_file=await file_of(client), **BAD[what]
            )
    error = body_of(caught.value)
    assert error["type"] == "invalid_request_error"
    assert error["param"]
    assert "submit" not in port.calls
    if what in {"integrations", "dpo", "reinforcement"}:
        assert error["code"] == "unsupported_parameter"


async def test_unknown_model_and_training_file_are_named(
    port: FakeTunePort, tmp_path: Path
) -> None:
    async with served(port, tmp_path / "g") as client:
        rows = await file_of(client)
        with pytest.raises(openai.NotFoundError) as caught:
            await client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=rows)
        assert body_of(caught.value)["param"] == "model"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.fine_tuning.jobs.create(model=BASE, training_file="file-0")
        assert body_of(bad.value)["param"] == "training_file"


async def test_pause_and_resume_are_refused_in_words(port: FakeTunePort, tmp_path: Path) -> None:
    async with served(port, tmp_path / "g") as client:
        job = await client.fine_tuning.jobs.create(model=BASE, training_file=await file_of(client))
        for call in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume):
            with pytest.raises(openai.BadRequestError, match="is not supported") as caught:
                await call(job.id)
            assert body_of(caught.value)["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (RefusedError("recipe-rank", "rank 64; the terms allow 8"), 403, "recipe-rank"),
        (RefusedError("malformed", "job: unknown field"), 400, "malformed"),
        (MarketRefusedError(WireError(code=ErrorCode.NO_FUNDS, text="poor")), 402, "no-funds"),
        (MarketRefusedError(WireError(code=ErrorCode.REFUSED, text="no")), 403, "refused"),
        (MarketUnreachableError("gone"), 503, "market_unreachable"),
    ],
)
async def test_refusal_passes_through_with_its_code(
    port: FakeTunePort, tmp_path: Path, refusal: Exception, status: int, code: str
) -> None:
    async with served(port, tmp_path / "g") as client:
        port.refuse = refusal
        with pytest.raises(openai.APIStatusError) as caught:
            await client.fine_tuning.jobs.create(model=BASE, training_file=await file_of(client))
    assert caught.value.status_code == status
    assert body_of(caught.value)["code"] == code


# --- one create, one submission ------------------------------------------------------------------


class Losing:
    """Drops the connection of the first creates before, or after, they reached the gateway."""

    def __init__(self, times: int, *, after: bool) -> None:
        self.times, self.after, self.seen = times, after, []

    @web.middleware
    async def __call__(self, request, handler):
        if request.method != "POST" or not request.path.endswith("/jobs"):
            return await handler(request)
        self.seen.append(request.headers.get("x-stainless-retry-count"))
        lost = len(self.seen) <= self.times
        if lost and not self.after:
            request.transport.abort()
            raise ConnectionResetError
        answer = await handler(request)
        if lost:
            request.transport.abort()
        return answer


async def test_create_whose_answer_is_lost_is_submitted_once(
    port: FakeTunePort, tmp_path: Path
) -> None:
    losing = Losing(2, after=True)
    async with served(port, tmp_path / "g", losing.__call__) as client:
        rows = await file_of(client)
        patient = client.with_options(max_retries=2)
        job = await patient.fine_tuning.jobs.create(model=BASE, training_file=rows)
        assert losing.seen == ["0", "1", "2"]
        assert len(port.submitted) == 1
        assert [each.id async for each in client.fine_tuning.jobs.list()] == [job.id]


async def test_create_that_times_out_joins_the_one_that_is_still_running(tmp_path: Path) -> None:
    """The facts' own case: one create against a slow server was submitted three times."""
    release = asyncio.Event()

    class Slow(FakeTunePort):
        async def submit(self, request):
            self.calls.append("asked")
            await release.wait()
            return await super().submit(request)

    port = Slow()
    arrived = []

    @web.middleware
    async def third_lets_go(request, handler):
        if request.path.endswith("/jobs"):
            arrived.append(request)
            if len(arrived) >= 3:
                release.set()
        return await handler(request)

    async with served(port, tmp_path / "g", third_lets_go) as client:
        rows = await file_of(client)
        hasty = client.with_options(max_retries=9, timeout=0.5)
        job = await hasty.fine_tuning.jobs.create(model=BASE, training_file=rows)
        assert len(arrived) >= 3
        assert port.calls.count("asked") == 1
        assert len(port.submitted) == 1
        assert job.status == "queued"


async def test_same_create_asked_anew_is_a_new_job(port: FakeTunePort, tmp_path: Path) -> None:
    async with served(port, tmp_path / "g") as client:
        rows = await file_of(client)

        def create():
            return client.fine_tuning.jobs.create(model=BASE, training_file=rows)

        first, second = await create(), await create()
        assert first.id != second.id
        assert len(port.submitted) == 2
        other = await client.fine_tuning.jobs.create(model=BASE, training_file=rows, seed=1)
        assert other.id not in {first.id, second.id}


async def test_same_create_asked_while_the_first_is_on_its_way_is_one_job(tmp_path: Path) -> None:
    class Slow(FakeTunePort):
        async def submit(self, request):
            while self.calls.count("files") < 2:  # noqa: ASYNC110  the second has come that far
                await asyncio.sleep(0.01)
            return await super().submit(request)

    port = Slow()
    async with served(port, tmp_path / "g") as client:
        rows = await file_of(client)
        asked = [client.fine_tuning.jobs.create(model=BASE, training_file=rows) for _ in range(2)]
        first, second = await asyncio.gather(*asked)
    assert first.id == second.id
    assert len(port.submitted) == 1


async def test_client_that_leaves_stops_no_submission() -> None:
    going, left, begun, done = asyncio.Event(), asyncio.Event(), [], []

    async def submit(token):
        begun.append(token)
        going.set()
        await left.wait()
        done.append(token)
        return token

    creations = Creations(None, lambda: NOW)
    first = asyncio.create_task(creations.run(b"body", submit, is_retry=False))
    await going.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.create_task(creations.run(b"body", submit, is_retry=True))
    await asyncio.sleep(0)
    left.set()
    assert [await again] == done == begun


async def test_retry_after_a_restart_is_the_same_submission(
    port: FakeTunePort, tmp_path: Path
) -> None:
    """The gateway is killed after the market had the job, and before its client had the answer."""
    now = [NOW]
    tokens = []
    for is_retry in (False, True, True):
        creations = Creations(tmp_path / "g", lambda: now[0])

        async def submit(token):
            tokens.append(token)
            return token

        await creations.run(b"body", submit, is_retry=is_retry)
        now[0] += WINDOW_MS
    assert len(set(tokens)) == 1
    now[0] += 1
    await Creations(tmp_path / "g", lambda: now[0]).run(b"body", submit, is_retry=True)
    assert len(set(tokens)) == 2


async def test_what_is_remembered_of_a_create_does_not_tell_its_body(tmp_path: Path) -> None:
    async def submit(token):
        return token

    await Creations(tmp_path / "g", lambda: NOW).run(b"secret body", submit, is_retry=False)
    kept = (tmp_path / "g" / "creations").read_bytes()
    assert b"secret" not in kept
    assert (tmp_path / "g" / "creations").stat().st_mode & 0o777 == 0o600
    guess = hashlib.sha256(b"secret body").hexdigest().encode()
    assert guess not in kept


async def test_create_that_failed_on_the_way_is_the_same_submission_when_it_comes_again(
    port: FakeTunePort, tmp_path: Path
) -> None:
    tokens = []

    async def submit(token):
        tokens.append(token)
        if len(tokens) < 3:
            raise MarketUnreachableError("gone")
        return token

    creations = Creations(None, lambda: NOW)
    for is_retry in (False, True):
        with pytest.raises(MarketUnreachableError):
            await creations.run(b"body", submit, is_retry=is_retry)
    await creations.run(b"body", submit, is_retry=True)
    assert len(set(tokens)) == 1
