"""Ray's own client, unmodified, runs sealed fine-tunes through the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from client.gateway import ray_jobs, ray_logs
from client.gateway.ports import NotFoundError, UnavailableError
from client.market_api import MarketRefusedError, MarketUnreachableError
from marketplace import wire
from marketplace.wire import JobState
from tests.client.gateway.fakes import BASE, NOW
from tests.client.gateway.ray_rig import (
    ENTRYPOINT,
    HEADERS,
    JOB,
    Rig,
    package_name,
    ray_rig,
    until,
    working_files,
    write_files,
    zipped,
)
from trust.errors import RefusedError


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(ray_logs, "POLL_SECONDS", 0.01)
    async with ray_rig(tmp_path / "uploads") as served:
        yield served


@pytest.fixture
async def client(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray's JobSubmissionClient, made in a thread: it blocks, and the gateway is in this loop."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    from ray.job_submission import JobSubmissionClient

    return await asyncio.to_thread(JobSubmissionClient, rig.url, headers=dict(HEADERS))


# --- Ray's client --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
async def test_ray_client_runs_a_sealed_fine_tune_to_its_end(
    rig: Rig, client: Any, tmp_path: Path
) -> None:
    folder = write_files(tmp_path / "work")
    submitted = await asyncio.to_thread(
        client.submit_job,
        entrypoint=ENTRYPOINT,
        submission_id="first",
        runtime_env={"working_dir": str(folder)},
        metadata={"team": "a", "max_price": "2500000", "budget": "4000000"},
        entrypoint_num_gpus=2.0,
    )
    assert submitted == "first"
    (request,) = rig.port.submitted
    assert (request.model, request.label) == (BASE, "ray:first")
    assert request.recipe == {"epochs": 2, "steps": None, "learning_rate": "0.002"}
    assert request.manifest == {
        "spend_max_microcredits": 4_000_000,
        "bid": {"price_microcredits_per_gpu_hour": 2_500_000},
        "resources": {"gpus": 2},
    }
    by_id = {each.id: each for each in await rig.port.files()}
    assert (by_id[request.training].name, by_id[request.training].rows) == ("train.jsonl", 5)
    assert request.heldout is not None
    assert (by_id[request.heldout].name, by_id[request.heldout].rows) == ("rows/eval.jsonl", 2)
    assert rig.leftovers() == []

    (job,) = await rig.port.jobs()
    heard: list[str] = []

    async def follow() -> None:
        async for chunk in client.tail_job_logs("first"):
            heard.append(chunk)  # noqa: PERF401  # seen while it grows

    following = asyncio.create_task(follow())
    await until(lambda: heard or following.done())
    assert (await asyncio.to_thread(client.get_job_status, "first")).value == "PENDING"
    for _ in range(3):
        rig.port.advance(job.job)
    assert (await asyncio.to_thread(client.get_job_status, "first")).value == "RUNNING"
    rig.port.advance(job.job)
    await following
    info = await asyncio.to_thread(client.get_job_info, "first")
    assert (info.status.value, info.driver_exit_code) == ("SUCCEEDED", 0)
    assert (info.job_id, info.entrypoint) == (job.job, ENTRYPOINT)
    assert (info.start_time, info.end_time) == (NOW, NOW + 4000)
    assert info.metadata == {"team": "a", "max_price": "2500000", "budget": "4000000"}
    whole = await asyncio.to_thread(client.get_job_logs, "first")
    assert "".join(heard) == whole
    assert "step 2/2 loss=1.25\n" in whole
    assert whole.endswith(f"ended: succeeded tokens=4096 model=ft:{BASE}:{job.job[:16]}\n")
    assert [each.submission_id for each in await asyncio.to_thread(client.list_jobs)] == ["first"]
    assert await asyncio.to_thread(client.stop_job, "first") is False
    assert await asyncio.to_thread(client.delete_job, "first") is True
    assert await asyncio.to_thread(client.list_jobs) == []


async def test_ray_client_shows_the_line_why_an_entrypoint_is_refused(
    rig: Rig, client: Any, tmp_path: Path
) -> None:
    folder = write_files(tmp_path / "work")
    with pytest.raises(RuntimeError, match="status code 400: entrypoint: wanted `blindhost run"):
        await asyncio.to_thread(
            client.submit_job,
            entrypoint="python train.py",
            runtime_env={"working_dir": str(folder)},
        )
    assert rig.port.submitted == []
    assert "add_file" not in rig.port.calls


async def test_two_directories_with_one_package_name_are_two_packages(
    rig: Rig, client: Any, tmp_path: Path
) -> None:
    """Ray's name is an XOR of hashes of path ‖ content, with nothing between the two."""
    from ray._private.runtime_env.packaging import get_uri_for_directory

    one = write_files(tmp_path / "one", working_files() | {"train.p": b"y print(1)"})
    two = write_files(tmp_path / "two", working_files() | {"train.py": b" print(1)"})
    name = get_uri_for_directory(str(one), include_gitignore=True)
    assert name == get_uri_for_directory(str(two), include_gitignore=True)
    for folder in (one, two):
        await asyncio.to_thread(
            client.submit_job,
            entrypoint=ENTRYPOINT,
            runtime_env={"working_dir": str(folder)},
        )
    assert len({each.token for each in rig.port.submitted}) == 2


# --- statuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "error", "code"),
    [
        (JobState.QUEUED, "PENDING", None, None),
        (JobState.PLACED, "PENDING", None, None),
        (JobState.STARTING, "PENDING", None, None),
        (JobState.RUNNING, "RUNNING", None, None),
        (JobState.SUCCEEDED, "SUCCEEDED", None, 0),
        (JobState.FAILED, "FAILED", "row-too-long", 1),
        (JobState.EXHAUSTED, "FAILED", "row-too-long", 1),
        (JobState.CANCELLED, "STOPPED", None, None),
    ],
)
async def test_every_state_is_one_of_rays_words(rig: Rig, state, status, error, code) -> None:
    job = await rig.started("a")
    rig.port.move(job, state, message="why\x1b[2J", code="row-too-long" if error else "")
    found = await rig.details("a")
    assert (found["status"], found["error_type"], found["driver_exit_code"]) == (
        status,
        error,
        code,
    )
    assert found["message"].startswith(f"{state.value}: why\\x1b[2J")
    assert set(ray_jobs.STATUS) == set(JobState)


async def test_a_job_is_found_by_its_digest_too_and_others_jobs_are_not(rig: Rig) -> None:
    job = await rig.started("a")
    assert (await rig.details(job))["submission_id"] == "a"
    (request,) = rig.port.submitted
    import dataclasses

    other = await rig.port.submit(dataclasses.replace(request, label="", token="another"))
    assert await rig.ask("GET", f"/api/jobs/{other.job}") == (
        404,
        f"Job {other.job} does not exist",
    )
    assert len(json.loads((await rig.ask("GET", "/api/jobs/"))[1])) == 1


async def test_every_route_of_an_unknown_job_is_a_plain_404(rig: Rig) -> None:
    for method, path in (
        ("GET", ""),
        ("POST", "/stop"),
        ("DELETE", ""),
        ("GET", "/logs"),
        ("GET", "/logs/tail"),
    ):
        assert await rig.ask(method, f"/api/jobs/x{path}") == (404, "Job x does not exist")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await rig.tail("x")
    assert refused.value.status == 404


# --- stop and delete -----------------------------------------------------------------------------


async def test_stop_ends_the_job_and_says_no_the_second_time(rig: Rig) -> None:
    await rig.started("a")
    assert await rig.ask("POST", "/api/jobs/a/stop") == (200, '{"stopped": true}')
    assert (await rig.details("a"))["status"] == "STOPPED"
    assert await rig.ask("POST", "/api/jobs/a/stop") == (200, '{"stopped": false}')


async def test_a_stop_that_the_market_never_confirms_shows_within_its_deadline(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await rig.started("a")
    rig.port.move(job, JobState.RUNNING)

    async def sent(name: str) -> bool:
        return name == job

    monkeypatch.setattr(rig.port, "cancel", sent)
    assert await rig.ask("POST", "/api/jobs/a/stop") == (200, '{"stopped": true}')
    assert (await rig.details("a"))["status"] == "RUNNING"
    socket = await rig.tail()
    monkeypatch.setattr(ray_jobs, "STOP_SECONDS", 0.0)
    found = await rig.details("a")
    assert found["status"] == "STOPPED"
    assert "the market has not confirmed it yet" in found["message"]
    async for message in socket:
        assert message.type is WSMsgType.TEXT
    assert socket.close_code == 1000
    rig.port.move(job, JobState.SUCCEEDED)
    assert (await rig.details("a"))["status"] == "SUCCEEDED"


async def test_a_stop_that_hangs_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.started("a")

    async def hang(_: str) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(rig.port, "cancel", hang)
    monkeypatch.setattr(ray_jobs, "STOP_SECONDS", 0.01)
    status, _ = await rig.ask("POST", "/api/jobs/a/stop")
    assert status == 504
    assert (await rig.details("a"))["status"] == "PENDING"


async def test_a_job_that_goes_on_is_not_deleted(rig: Rig) -> None:
    await rig.started("a")
    assert await rig.ask("DELETE", "/api/jobs/a") == (
        500,
        "Attempted to delete job 'a', but it is in a non-terminal state PENDING.",
    )


async def test_the_id_of_a_deleted_job_runs_no_other(rig: Rig) -> None:
    job = await rig.started("a")
    rig.port.finish(job)
    assert await rig.ask("DELETE", "/api/jobs/a") == (200, '{"deleted": true}')
    status, text = await rig.submit("a")
    assert (status, "already exists" in text) == (400, True)
    assert len(rig.port.submitted) == 1


async def test_after_a_restart_too_a_deleted_job_is_not_given_for_a_new_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port knows the token, and answers with the job that it forgot."""
    job = await rig.port.job(await rig.started("a"))
    rig.port.finish(job.job)
    await rig.port.forget(job.job)

    async def known(_):
        return job

    monkeypatch.setattr(rig.port, "submit", known)
    assert await rig.submit("a") == (
        400,
        "submission_id a: its job was deleted; use a different one",
    )


# --- once ----------------------------------------------------------------------------------------


async def test_a_submission_id_names_one_job(rig: Rig) -> None:
    await rig.started("a")
    assert await rig.submit("a") == (
        400,
        "Job with submission_id a already exists. Please use a different submission_id.",
    )
    assert len(rig.port.submitted) == 1


async def test_of_ten_that_submit_one_id_at_once_exactly_one_runs(rig: Rig) -> None:
    content = zipped()
    for _ in range(8):
        uri = await rig.put(content)
    body = {"entrypoint": ENTRYPOINT, "runtime_env": {"working_dir": uri}, "submission_id": "a"}
    answers = await asyncio.gather(*(rig.post(**body) for _ in range(10)))
    assert sorted(status for status, _ in answers) == [200, *[400] * 7, 409, 409]
    assert len(rig.port.submitted) == 1
    assert len(await rig.port.files()) == 2
    assert rig.leftovers() == []


async def test_a_client_that_leaves_while_submitting_changes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gate, reached = rig.port.submit, asyncio.Event(), asyncio.Event()

    async def slow(request):
        reached.set()
        await gate.wait()
        return await real(request)

    monkeypatch.setattr(rig.port, "submit", slow)
    first = asyncio.create_task(rig.submit("a"))
    await reached.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await rig.submit("a"))[0] == 400
    gate.set()
    await until(lambda: rig.port.submitted)
    await until(lambda: not rig.ray._tasks)
    assert (await rig.details("a"))["status"] == "PENDING"
    assert (await rig.submit("a"))[0] == 400
    assert len(rig.port.submitted) == 1


async def test_an_attempt_of_unknown_outcome_is_repeated_as_the_same_submission(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rig.port.submit

    async def stored_but_unheard(request):
        await real(request)
        raise MarketUnreachableError("the market did not answer")

    async def not_yet_shown():
        return []

    with monkeypatch.context() as patched:
        patched.setattr(rig.port, "submit", stored_but_unheard)
        patched.setattr(rig.port, "jobs", not_yet_shown)
        status, text = await rig.submit("a")
        assert (status, text) == (503, "the market did not answer")
        other = zipped(working_files() | {"train.jsonl": working_files()["rows/eval.jsonl"]})
        body = {"entrypoint": ENTRYPOINT, "submission_id": "a"}
        status, text = await rig.post(**body, runtime_env={"working_dir": await rig.put(other)})
        assert (status, "other content" in text) == (400, True)
        patched.setattr(rig.port, "submit", real)
        assert (await rig.submit("a"))[0] == 200
    assert len(rig.port.submitted) == 1
    assert len(await rig.port.files()) == 2
    assert (await rig.details("a"))["status"] == "PENDING"


@pytest.mark.parametrize(
    ("error", "status", "kept"),
    [
        (NotFoundError("no such model"), 404, 0),
        (RefusedError("no-use-policy", "publish one"), 409, 0),
        (MarketRefusedError(wire.WireError(code=wire.ErrorCode.NO_FUNDS, text="poor")), 402, 0),
        (MarketRefusedError(wire.WireError(code=wire.ErrorCode.FORBIDDEN, text="no")), 409, 0),
        (MarketRefusedError(wire.WireError(code=wire.ErrorCode.TOO_MANY, text="slow")), 429, 2),
        (MarketUnreachableError("gone"), 503, 2),
        (UnavailableError("gone"), 503, 2),
        (RuntimeError("secret"), 500, 2),
    ],
)
async def test_a_refused_submission_is_one_line_and_leaves_no_file_that_nobody_needs(
    rig: Rig, error, status, kept, caplog: pytest.LogCaptureFixture
) -> None:
    rig.port.refuse = error
    found, text = await rig.submit("a")
    assert (found, "\n" in text, "secret" in text + caplog.text) == (status, False, False)
    assert found not in {401, 403}
    assert len(await rig.port.files()) == kept
    assert rig.leftovers() == []
    assert (await rig.submit("a"))[0] == 200


# --- the guard -----------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/api/version"),
    ("GET", f"/api/packages/gcs/{package_name(b'')}"),
    ("PUT", f"/api/packages/gcs/{package_name(b'')}"),
    ("POST", "/api/jobs/"),
    ("GET", "/api/jobs/"),
    ("GET", "/api/jobs/a"),
    ("POST", "/api/jobs/a/stop"),
    ("DELETE", "/api/jobs/a"),
    ("GET", "/api/jobs/a/logs"),
    ("GET", "/api/jobs/a/logs/tail"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer nothing"}, 401),
        (HEADERS | {"Origin": "http://evil.example"}, 403),
        (HEADERS | {"Host": "evil.example"}, 403),
        (HEADERS | {"Content-Type": "text/plain"}, 415),
    ],
)
async def test_no_route_answers_a_web_page(rig: Rig, method, path, headers, status) -> None:
    await rig.started("a")
    rig.port.calls.clear()
    found, _ = await rig.ask(method, path, headers=headers, data=b"{}")
    assert found == status
    assert rig.port.calls == []


async def test_there_are_ten_routes_and_no_redirect(rig: Rig) -> None:
    known = {(each.method, each.path) for each in rig.ray.routes()}
    assert len(known) == len(ROUTES) == 10
    assert (await rig.ask("POST", "/api/jobs", json={}, allow_redirects=False))[0] == 404
    assert JOB["model"] == BASE
