"""Runs a whole job through `Work`, as the session would, and returns what came out."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from enclave_runtime.work import (
    CheckpointReady,
    Evaluated,
    Failed,
    Finished,
    Ready,
    Stepped,
    Work,
    WorkEvent,
)
from tests.assets import Model, Sealed, chat_rows, job_manifest, seal, tiny_model
from trust.artifacts import ArtifactKind
from trust.jobs import InputRole, JobManifest

SECONDS_MAX = 120


@dataclasses.dataclass
class Outcome:
    """Everything that a job's events said."""

    events: list[WorkEvent]
    compute_class: str

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.of(Stepped)]

    @property
    def failure(self) -> str:
        (failed,) = self.of(Failed)
        return failed.text

    @property
    def finished(self) -> Finished:
        assert not self.of(Failed), self.of(Failed)
        (finished,) = self.of(Finished)
        return finished

    def checkpoint(self, step: int) -> bytes:
        (content,) = [e.content for e in self.of(CheckpointReady) if e.step == step]
        return content


def inputs(
    job: JobManifest, model: Model, *, rows: bytes | None = None, heldout: bytes | None = None
) -> dict[InputRole, Sealed]:
    """Sealed inputs for the job's roles."""
    made = {
        InputRole.MODEL: model.sealed,
        InputRole.DATASET: lambda: seal(
            ArtifactKind.DATASET, chat_rows(job.rows) if rows is None else rows
        ),
        InputRole.HELDOUT: lambda: seal(
            ArtifactKind.DATASET, chat_rows(9, first=900) if heldout is None else heldout
        ),
    }
    return {each.role: made[each.role]() for each in job.inputs}


def run_job(
    job: JobManifest | None = None,
    *,
    model: Model | None = None,
    rows: bytes | None = None,
    heldout: bytes | None = None,
    checkpoint: bytes | None = None,
    generation: int = 1,
    kill_at: int | None = None,
    allowed: int = 1 << 30,
    on_prepared: Callable[[Work], None] | None = None,
) -> Outcome:
    """Run to the end or to a failure; SIGKILL to the last rank once `kill_at` was reported."""
    job = job_manifest() if job is None else job
    model = tiny_model() if model is None else model
    sealed = inputs(job, model, rows=rows, heldout=heldout)
    manifests = {role: each.manifest for role, each in sealed.items()}
    work = Work.prepare(job, manifests, model.files, generation=generation)
    outcome = Outcome(events=[], compute_class=work.compute_class)
    try:
        if on_prepared:
            on_prepared(work)
        for role, each in sealed.items():
            work.fill(role, each.opener(), each.read)
        work.begin(checkpoint)
        work.allow_until(allowed)
        while not outcome.of(Finished) and not outcome.of(Failed):
            ready, _, _ = select.select([work], [], [], SECONDS_MAX)
            assert ready, f"nothing happened after {outcome.events[-1:]}"
            new = work.events()
            outcome.events += new
            if kill_at in [e.step for e in new if isinstance(e, Stepped)]:
                os.kill(work._ranks[-1].pid, signal.SIGKILL)
    finally:
        work.stop()
    assert outcome.of(Failed) or isinstance(outcome.events[0], Ready)
    return outcome


def evaluations(outcome: Outcome) -> dict[str, Evaluated]:
    """By phase."""
    return {event.phase: event for event in outcome.of(Evaluated)}
