"""``/v1/fine_tuning/jobs`` over a `TunePort`, in the shapes that OpenAI's clients read.

- A create that a client sends again neither runs nor costs twice (`client.gateway.creations`).
- What is not done here is refused by name: integrations, methods but *supervised*, pause, resume.
- ``blindhost`` in the body (the client's ``extra_body``) has ``recipe`` and ``manifest``: fields of
  `LoraRecipe` and `JobManifest` to replace, as their JSON has them, decimals as strings.
- A checkpoint's model name is a name and no more: checkpoints are sealed, and nothing serves them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from client.gateway.asked import parse_object
from client.gateway.creations import Creations
from client.gateway.errors import ApiError, unsupported, wrong
from client.gateway.files import find
from client.gateway.guard import read_body
from client.gateway.pages import page
from client.gateway.ports import (
    NotFoundError,
    TuneEvent,
    TuneEventKind,
    TuneJob,
    TunePort,
)
from client.gateway.tune_body import TuneBody, parse_tune
from client.market_api import MarketRefusedError, MarketUnreachableError
from marketplace.wire import ErrorCode, JobState
from trust.errors import RefusedError

LIMIT: Final = 20
LIMIT_MAX: Final = 1000
CHECKPOINTS_LIMIT: Final = 10
BODY_BYTES_MAX: Final = 1 << 18
ORGANIZATION: Final = "org-blindhost"  # a client wants one; there are none here
_JOB: Final = "ftjob-"
_EVENT: Final = "ftevent-"
_CHECKPOINT: Final = "ftckpt-"
_STATUS: Final[Mapping[JobState, str]] = {
    JobState.QUEUED: "queued",
    JobState.PLACED: "queued",
    JobState.STARTING: "queued",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.EXHAUSTED: "failed",
    JobState.CANCELLED: "cancelled",
}
_MEASURES: Final = {"loss": "train_loss", "loss_tuned": "full_valid_loss"}
"""Measures of the enclave by OpenAI's names; the others keep their own."""


def unix_milliseconds() -> int:
    """The wall clock: what it says is compared with itself alone, across restarts too."""
    return time.time_ns() // 1_000_000


def routes(
    port: TunePort, *, folder: Path | None = None, clock: Callable[[], int] = unix_milliseconds
) -> list[web.RouteDef]:
    """The eight routes. `folder`: where creates are remembered; None: in memory alone."""
    return FineTuning(port, Creations(folder, clock)).routes()


class FineTuning:
    """The routes, over one port."""

    def __init__(self, port: TunePort, creations: Creations) -> None:
        self._port, self._creations = port, creations

    def routes(self) -> list[web.RouteDef]:
        """What clients ask."""
        jobs = "/v1/fine_tuning/jobs"
        return [
            web.post(jobs, self._create),
            web.get(jobs, self._list, allow_head=False),
            web.get(f"{jobs}/{{job}}", self._show, allow_head=False),
            web.post(f"{jobs}/{{job}}/cancel", self._cancel),
            web.post(f"{jobs}/{{job}}/pause", _pause),
            web.post(f"{jobs}/{{job}}/resume", _pause),
            web.get(f"{jobs}/{{job}}/events", self._events, allow_head=False),
            web.get(f"{jobs}/{{job}}/checkpoints", self._checkpoints, allow_head=False),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        """Submit a job.

        (1) The body is read whole and strictly. (2) Model and files are there. (3) A body that was
        sent before, and is sent again, is the same submission. (4) What is refused is refused with
        the word of whoever refused.
        """
        data = await read_body(request, BODY_BYTES_MAX)
        body = parse_tune(parse_object(data))  # (1)
        await self._check_names(body)  # (2)
        is_retry = request.headers.get("x-stainless-retry-count", "0") not in {"", "0"}
        try:
            job = await self._creations.run(  # (3)
                data, lambda token: self._port.submit(body.request(token)), is_retry=is_retry
            )
        except MarketRefusedError as error:  # (4)
            raise _refused_by_market(error) from error
        except MarketUnreachableError as error:
            raise ApiError(503, "market_unreachable", str(error)) from error
        except RefusedError as error:
            status = 400 if error.code in {"malformed", "no-evaluation"} else 403
            raise ApiError(status, error.code, error.text) from error
        return web.json_response(shown(job))

    async def _check_names(self, body: TuneBody) -> None:
        if body.model not in await self._port.base_models():
            text = f"the model {body.model[:128]!r} cannot be tuned here"
            raise ApiError(404, "model_not_found", text, param="model")
        files = await self._port.files()
        for param, file in (("training_file", body.training), ("validation_file", body.heldout)):
            try:
                if file is not None:
                    find(files, file)
            except NotFoundError as error:
                raise wrong(param, str(error), "file_not_found") from error

    async def _list(self, request: web.Request) -> web.Response:
        """A page of jobs, newest first; ``metadata[key]=value`` chooses among them."""
        chosen = {
            name: value
            for name, value in request.query.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        rows = [
            shown(each)
            for each in await self._port.jobs()
            if all(each.metadata.get(name[9:-1]) == value for name, value in chosen.items())
        ]
        return web.json_response(page(request.query, rows, *chosen, limit=LIMIT, most=LIMIT_MAX))

    async def _show(self, request: web.Request) -> web.Response:
        """One job."""
        return web.json_response(shown(await self._port.job(_digest(request))))

    async def _cancel(self, request: web.Request) -> web.Response:
        """Stop one for good."""
        job = _digest(request)
        if not await self._port.cancel(job):
            raise ApiError(400, "job_ended", "the job has ended: there is nothing to cancel")
        return web.json_response(shown(await self._port.job(job)))

    async def _events(self, request: web.Request) -> web.Response:
        """A page of events, newest first."""
        job = _digest(request)
        events = await self._port.events(job, after=0)
        rows = [_event(job, each) for each in reversed(events)]
        return web.json_response(page(request.query, rows, limit=LIMIT, most=LIMIT_MAX))

    async def _checkpoints(self, request: web.Request) -> web.Response:
        """A page of checkpoints, newest first, each with the newest measures before it."""
        job = await self._port.job(_digest(request))
        rows, measures = [], dict[str, float]()
        for each in await self._port.events(job.job, after=0):
            if each.kind is TuneEventKind.MEASURE:
                measures |= _named(each.measures)
            elif each.kind is TuneEventKind.CHECKPOINT:
                rows.append(_checkpoint(job, each, measures))
        rows.reverse()
        return web.json_response(page(request.query, rows, limit=CHECKPOINTS_LIMIT, most=LIMIT_MAX))


async def _pause(request: web.Request) -> web.Response:
    verb = request.path.rpartition("/")[2]
    text = (
        f"{verb} is not supported: a job that is interrupted goes on from its checkpoint by "
        "itself, and `cancel` ends it for good"
    )
    raise unsupported(verb, text)


def _digest(request: web.Request) -> str:
    job = request.match_info["job"]
    if not job.startswith(_JOB):
        raise NotFoundError(f"no fine-tuning job {job[:80]!r} here")
    return job.removeprefix(_JOB)


def _refused_by_market(error: MarketRefusedError) -> ApiError:
    """What the market refuses, with a status that a client asks again for only where it helps."""
    if error.error_code is ErrorCode.NO_FUNDS:
        return ApiError(402, "no-funds", error.text)
    if error.error_code in {ErrorCode.TOO_MANY, ErrorCode.INTERNAL}:
        return ApiError(503, error.code, error.text)
    return ApiError(403, error.code, error.text)


# --- shapes --------------------------------------------------------------------------------------


def shown(job: TuneJob) -> dict[str, object]:
    """A job as OpenAI's clients read it."""
    multiplier = job.recipe.get("learning_rate_multiplier")
    hyperparameters = {
        "n_epochs": _or_auto(job.recipe.get("epochs")),
        "batch_size": _or_auto(job.recipe.get("rows_per_step")),
        "learning_rate_multiplier": "auto" if multiplier is None else float(str(multiplier)),
    }
    status = _STATUS[job.state]
    error = {"code": job.code or job.state.value, "message": job.message, "param": None}
    answer: dict[str, object] = {
        "id": _JOB + job.job,
        "object": "fine_tuning.job",
        "created_at": job.created_at // 1000,
        "finished_at": None if job.finished_at is None else job.finished_at // 1000,
        "model": job.model,
        "fine_tuned_model": job.tuned_model,
        "organization_id": ORGANIZATION,
        "status": status,
        "training_file": job.training,
        "validation_file": job.heldout,
        "result_files": [],
        "trained_tokens": job.trained_tokens,
        "error": error if status == "failed" else None,
        "seed": job.recipe.get("seed", 0),
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "metadata": dict(job.metadata),
        "integrations": [],
        "blindhost": {"state": job.state.value, "message": job.message},
    }
    return answer | ({"user_provided_suffix": job.label} if job.label else {})


def _or_auto(value: object) -> object:
    return "auto" if value is None else value


def _event(job: str, event: TuneEvent) -> dict[str, object]:
    is_measure = event.kind is TuneEventKind.MEASURE
    failed = event.kind is TuneEventKind.STATE and event.text.startswith(("failed", "exhausted"))
    data = {"step": event.step, "total_steps": event.steps, **_named(event.measures)}
    shown_event: dict[str, object] = {
        "id": f"{_EVENT}{job[:32]}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": event.at // 1000,
        "level": "error" if failed else "info",
        "message": event.text or f"step {event.step} of {event.steps}",
        "type": "metrics" if is_measure else "message",
    }
    return shown_event | {"data": data if is_measure else {}}


def _checkpoint(job: TuneJob, event: TuneEvent, measures: Mapping[str, float]) -> dict[str, object]:
    return {
        "id": f"{_CHECKPOINT}{job.job[:32]}-{event.number}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": event.at // 1000,
        "fine_tuned_model_checkpoint": f"ft:{job.model}:{job.job[:16]}:step-{event.step}",
        "fine_tuning_job_id": _JOB + job.job,
        "step_number": event.step,
        "metrics": {"step": event.step, **measures},
    }


def _named(measures: Mapping[str, float]) -> dict[str, float]:
    return {_MEASURES.get(name, name): value for name, value in measures.items()}
