"""The Ray Job Submission API on the buyer's own loopback: ten routes for Ray's unmodified clients.

- A job is a working directory with a job file and its rows (`ray_requests`); the rows are sealed
  here, and what leaves is a signed manifest. Nothing that a client sends is ever executed.
- A submission id names one job for good: it stands in the job's label, ``ray:<submission id>``.
- Whoever stops a job sees it stopped within `STOP_SECONDS`: `ray job stop` asks until it is.

Facts about the client: ray 2.60.0, dashboard/modules/job/{sdk,cli,pydantic_models}.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from client.dataset import RowError
from client.gateway.ports import (
    NotFoundError,
    TuneJob,
    TunePort,
    TuneRequest,
)
from client.gateway.ray_answers import line, plain
from client.gateway.ray_logs import ENDED, Tails, log_text, shown
from client.gateway.ray_packages import (
    PACKAGE_BYTES_MAX,
    PIECE_BYTES,
    Package,
    Packages,
    PackageSizeError,
)
from client.gateway.ray_requests import (
    BODY_BYTES_MAX,
    ENTRYPOINT_KEY,
    JOB_FILE_BYTES_MAX,
    PACKAGE_NAME,
    RequestError,
    Submission,
    package_name,
    parse_body,
    parse_job_file,
    parse_submission,
)
from client.market_api import MarketRefusedError
from marketplace.wire import ErrorCode, JobState
from trust.encoding import Json
from trust.errors import EncodingError, RefusedError

VERSION: Final = {
    "version": "4",  # of the job API; from 4 on `ray job delete` is there
    "ray_version": "2.60.0",
    "ray_commit": "blindhost",
    "session_name": "blindhost",
}
LABEL: Final = "ray:"
ID_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz123456789"  # Ray's own
STOP_SECONDS: Final = 15.0
TAILS_MAX: Final = 32  # one gateway has one buyer
UNKNOWN_MAX: Final = 1024  # submissions whose outcome is not known
STATUS: Final[Mapping[JobState, str]] = {
    JobState.QUEUED: "PENDING",
    JobState.PLACED: "PENDING",
    JobState.STARTING: "PENDING",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "SUCCEEDED",
    JobState.FAILED: "FAILED",
    JobState.EXHAUSTED: "FAILED",
    JobState.CANCELLED: "STOPPED",
}
_FINAL: Final = frozenset(
    {
        ErrorCode.NO_FUNDS,
        ErrorCode.REFUSED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.OUTDATED,
        ErrorCode.MALFORMED,
        ErrorCode.TOO_LARGE,
    }
)
"""Refusals after which the market has stored nothing; after any other it may have."""
_EXIT_CODES: Final = {"SUCCEEDED": 0, "FAILED": 1}


class NoSuchJobError(NotFoundError):
    """No job of these routes has this name."""


class DuplicateError(EncodingError):
    """A submission id that has been used."""


def routes(port: TunePort, *, folder: Path | None = None) -> list[web.RouteDef]:
    """The ten routes. Whoever has an application to close uses `RayJobs` itself."""
    return RayJobs(port, folder=folder).routes()


class RayJobs:
    """The ten routes and what they keep in memory. `folder`: for uploads, as `Packages` has it."""

    def __init__(self, port: TunePort, *, folder: Path | None = None) -> None:
        self._port = port
        self._packages = Packages(folder)
        self._tails = Tails(port, self._look)
        self._submitting: set[str] = set()
        self._tasks: set[asyncio.Task[str]] = set()
        self._unknown: dict[str, TuneRequest] = {}
        self._deleted: set[str] = set()
        self._stops: dict[str, float] = {}

    def routes(self) -> list[web.RouteDef]:
        """The routes; Ray's client wants ``/api/jobs/`` with its slash, and follows no redirect."""
        job = "/api/jobs/{job}"
        package = "/api/packages/{protocol}/{name}"
        return [
            web.get("/api/version", plain(self._version), allow_head=False),
            web.get(package, plain(self._get_package), allow_head=False),
            web.put(package, plain(self._put_package)),
            web.post("/api/jobs/", plain(self._submit)),
            web.get("/api/jobs/", plain(self._list), allow_head=False),
            web.get(job, plain(self._show), allow_head=False),
            web.post(f"{job}/stop", plain(self._stop)),
            web.delete(job, plain(self._delete)),
            web.get(f"{job}/logs", plain(self._logs), allow_head=False),
            web.get(f"{job}/logs/tail", plain(self._tail), allow_head=False),
        ]

    def attach(self, app: web.Application) -> None:
        """Add the routes to an application that closes them at its end."""
        app.add_routes(self.routes())
        app[RAY_JOBS] = self

        async def close(_app: web.Application) -> None:
            await self.close()

        app.on_shutdown.append(close)

    async def close(self) -> None:
        """End what is being followed, wait for what is being submitted, drop every upload."""
        await self._tails.close()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._packages.close()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response(VERSION)

    # --- packages --------------------------------------------------------------------------------

    async def _get_package(self, request: web.Request) -> web.Response:
        """Always 404: the name is no hash of the content, so it tells nothing of what is here."""
        _package_of(request)
        return line(404, "packages are uploaded for each job")

    async def _put_package(self, request: web.Request) -> web.Response:
        name = _package_of(request)
        if "Content-Encoding" in request.headers:  # aiohttp would unpack it
            return line(415, "package: its bytes are wanted as they are, not encoded")
        if (request.content_length or 0) > PACKAGE_BYTES_MAX:
            return line(413, f"package: over {PACKAGE_BYTES_MAX} bytes")
        await self._packages.receive(name, request.content.iter_chunked(PIECE_BYTES))
        return web.Response()

    # --- submission ------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        """Submit the job. What was begun goes on to its end, though the client be gone."""
        if request.content_type != "application/json":
            return line(415, "request: application/json is wanted")
        body = parse_body(await _read_body(request))
        package = self._packages.take(package_name(body))
        task = asyncio.create_task(self._submit_package(body, package))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        submission_id = await asyncio.shield(task)
        return web.json_response({"job_id": submission_id, "submission_id": submission_id})

    def _ended(self, task: asyncio.Task[str]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: a client that left hears of none

    async def _submit_package(self, body: Mapping[str, Json], package: Package) -> str:
        try:
            submission = parse_submission(body)
            submission_id = submission.submission_id or _new_id()
            await self._claim(submission_id)
            try:
                await self._submit_once(submission, submission_id, package)
            finally:
                self._submitting.discard(submission_id)
        finally:
            package.file.close()
        return submission_id

    async def _claim(self, submission_id: str) -> None:
        """Raise DuplicateError if the id was used. There is no await between look and claim."""
        text = (
            f"Job with submission_id {submission_id} already exists. Please use a different "
            "submission_id."
        )
        if submission_id in self._submitting or submission_id in self._deleted:
            raise DuplicateError(text)
        self._submitting.add(submission_id)
        try:
            if any(each.label == LABEL + submission_id for each in await self._port.jobs()):
                raise DuplicateError(text)
        except BaseException:
            self._submitting.discard(submission_id)
            raise

    async def _submit_once(self, said: Submission, submission_id: str, package: Package) -> None:
        """Seal what the job file names, and submit.

        (1) The same id with other content, after an attempt whose outcome is not known, could be a
        second job: it is refused. (2) Rows are sealed, their plaintext removed. (3) The token makes
        the same submission the same job. (4) A job that a client deleted stays deleted.
        """
        token = said.token(submission_id, package.sha256)
        request = self._unknown.get(submission_id)
        if request is not None and request.token != token:  # (1)
            raise DuplicateError(
                f"submission_id {submission_id}: an attempt with other content may still run; "
                "repeat that one exactly, or use a different submission_id"
            )
        if request is None:
            request = await self._prepare(said, submission_id, token, package)  # (2)
        files = [each for each in (request.training, request.heldout) if each is not None]
        if len(self._unknown) < UNKNOWN_MAX:
            self._unknown[submission_id] = request
        try:
            job = await self._port.submit(request)  # (3)
        except (RefusedError, NotFoundError, EncodingError) as error:
            if isinstance(error, MarketRefusedError) and error.error_code not in _FINAL:
                raise  # it may be stored: what it needs is kept
            self._unknown.pop(submission_id, None)
            await self._forget(files)
            raise
        self._unknown.pop(submission_id, None)
        await self._forget([each for each in files if each not in {job.training, job.heldout}])
        try:
            await self._port.job(job.job)  # (4)
        except NotFoundError as error:
            raise DuplicateError(
                f"submission_id {submission_id}: its job was deleted; use a different one"
            ) from error

    async def _prepare(
        self, said: Submission, submission_id: str, token: str, package: Package
    ) -> TuneRequest:
        """Parse the job file, and seal the rows that it names."""
        content = await asyncio.to_thread(package.read, said.job_file, bytes_max=JOB_FILE_BYTES_MAX)
        file = parse_job_file(content)
        if file.model not in await self._port.base_models():
            raise RequestError(f"job file: there is no base model {shown(file.model)} here")
        training = await self._seal(package, file.training)
        try:
            heldout = None if file.heldout is None else await self._seal(package, file.heldout)
        except BaseException:
            await self._forget([training])
            raise
        return TuneRequest(
            model=file.model,
            training=training,
            heldout=heldout,
            recipe=file.recipe,
            manifest=said.manifest(file),
            label=LABEL + submission_id,
            metadata={**said.metadata, ENTRYPOINT_KEY: said.entrypoint},
            token=token,
        )

    async def _seal(self, package: Package, name: str) -> str:
        try:
            async with self._packages.copied(package, name) as path:
                stored = await self._port.add_file(path, name=name, purpose="fine-tune")
        except RowError as error:
            raise RequestError(f"{shown(name)}: {error}") from error
        return stored.id

    async def _forget(self, files: list[str]) -> None:
        for each in files:
            await self._port.delete_file(each)

    # --- jobs ------------------------------------------------------------------------------------

    async def _list(self, _request: web.Request) -> web.Response:
        jobs = [each for each in await self._port.jobs() if each.label.startswith(LABEL)]
        return web.json_response([details(self._as_stopped(each)) for each in jobs])

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(details(await self._find(request)))

    async def _stop(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        if job.state in ENDED:
            return web.json_response({"stopped": False})
        async with asyncio.timeout(STOP_SECONDS):
            stopped = await self._port.cancel(job.job)
        self._stops.setdefault(job.job, asyncio.get_running_loop().time())
        return web.json_response({"stopped": stopped})

    async def _delete(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        submission_id = job.label.removeprefix(LABEL)
        if not await self._port.forget(job.job):
            return line(
                500,  # what Ray says, in its own words
                f"Attempted to delete job '{submission_id}', but it is in a non-terminal state "
                f"{STATUS[(await self._port.job(job.job)).state]}.",
            )
        self._deleted.add(submission_id)
        self._stops.pop(job.job, None)
        return web.json_response({"deleted": True})

    async def _logs(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        return web.json_response({"logs": log_text(job, await self._port.events(job.job, after=0))})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        job = await self._find(request)
        if not web.WebSocketResponse().can_prepare(request):
            return line(400, "logs: a WebSocket is wanted")
        if len(self._tails) >= TAILS_MAX:
            return line(429, f"logs: {TAILS_MAX} are being followed; end one")
        return await self._tails.tail(request, job.job)

    async def _find(self, request: web.Request) -> TuneJob:
        """A job by submission id, or by digest. Raises NoSuchJobError."""
        name = request.match_info["job"]
        jobs = [each for each in await self._port.jobs() if each.label.startswith(LABEL)]
        for each in jobs:
            if name in {each.label.removeprefix(LABEL), each.job}:
                return self._as_stopped(each)
        raise NoSuchJobError(f"Job {shown(name[:128])} does not exist")

    async def _look(self, job: str) -> TuneJob:
        return self._as_stopped(await self._port.job(job))

    def _as_stopped(self, job: TuneJob) -> TuneJob:
        """A job that was stopped `STOP_SECONDS` ago counts as cancelled, whatever the market says.

        Its close is signed and sent: no broker releases for it again. An end on record counts more.
        """
        if job.state in ENDED:
            self._stops.pop(job.job, None)
            return job
        asked = self._stops.get(job.job)
        if asked is None or asyncio.get_running_loop().time() - asked < STOP_SECONDS:
            return job
        message = "stopped by its buyer; the market has not confirmed it yet"
        return dataclasses.replace(job, state=JobState.CANCELLED, message=message)


RAY_JOBS: Final = web.AppKey("ray_jobs", RayJobs)


def details(job: TuneJob) -> dict[str, object]:
    """A job as Ray's JobDetails: it is nothing but what the job's own state says."""
    status = STATUS[job.state]
    failed = status == "FAILED"
    words = [job.state.value, shown(job.message)]
    if job.tuned_model is not None:
        words.append(f"model {shown(job.tuned_model)}")
    return {
        "type": "SUBMISSION",
        "job_id": job.job,
        "submission_id": job.label.removeprefix(LABEL),
        "driver_info": None,
        "status": status,
        "entrypoint": job.metadata.get(ENTRYPOINT_KEY, "blindhost run"),
        "message": ": ".join(word for word in words if word),
        "error_type": (job.code or job.state.value) if failed else None,
        "start_time": job.created_at,
        "end_time": job.finished_at,
        "metadata": {k: v for k, v in job.metadata.items() if k != ENTRYPOINT_KEY},
        "runtime_env": {},
        "driver_agent_http_address": None,
        "driver_node_id": None,
        "driver_exit_code": _EXIT_CODES.get(status),
    }


# --- requests ------------------------------------------------------------------------------------


def _package_of(request: web.Request) -> str:
    name = request.match_info["name"]
    if request.match_info["protocol"] != "gcs" or not PACKAGE_NAME.fullmatch(name):
        raise RequestError("package: wanted /api/packages/gcs/_ray_pkg_<hex digits>.zip")
    return name


async def _read_body(request: web.Request) -> bytes:
    data = bytearray()
    if "Content-Encoding" in request.headers:
        raise RequestError("request: its bytes are wanted as they are, not encoded")
    async for piece in request.content.iter_chunked(PIECE_BYTES):
        data += piece
        if len(data) > BODY_BYTES_MAX:
            raise PackageSizeError(f"request: over {BODY_BYTES_MAX} bytes")
    return bytes(data)


def _new_id() -> str:
    return "raysubmit_" + "".join(secrets.choice(ID_LETTERS) for _ in range(16))
