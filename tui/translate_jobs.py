"""From what client knows of a job to facts; as tui/translate.py does for all else."""

from __future__ import annotations

from collections.abc import Sequence

import client
from client.text import clean
from tui import facts
from tui.translate import VALUE_CHARACTERS_MAX, label, words


def job_head(
    view: client.JobView,
    *,
    name: str,
    kind: str,
    record: client.Progress | None,
    simulated: bool,
    now: int,
) -> facts.JobHead:
    """A job in one line."""
    lease = view.leases[0] if view.leases else None
    hosts = {each.host for each in view.leases if each.generation is not None}
    return facts.JobHead(
        as_of=now,
        id=view.job.hex(),
        name=label(name),
        kind=kind or "train",
        state=view.state.value,
        waiting_for=words(view.waiting_for or ""),
        generation=view.generation,
        offer="" if lease is None else lease.offer,
        host="" if lease is None else lease.host.hex(),
        hosts=len(hosts),
        simulated=simulated,
        step=None if record is None else record.step,
        steps=None if record is None else record.steps,
        loss="" if record is None else measure(record, "loss"),
        captured=view.money.captured,
        reserved=view.money.reserved,
        created_at=view.created_at,
        gone=False,
    )


def measure(record: client.Progress, name: str) -> str:
    """One number of a record; empty: it has none of this name."""
    return next((each.value for each in record.measures if each.measure == name), "")


def stage(job: str, each: client.Stage, now: int) -> facts.Stage:
    """One stage."""
    return facts.Stage(
        as_of=now,
        job=job,
        name=each.name,
        state=facts.StageState(each.state.value),
        started_at=each.started_at,
        milliseconds=each.milliseconds,
        actor=label(each.actor),
        words=words(each.words),
        ref=label(each.ref),
    )


def progress(record: client.Progress, left: int | None, now: int) -> facts.Progress:
    """One sealed record, opened."""
    speed = None
    if record.milliseconds and record.tokens:
        speed = record.tokens * 1000 // record.milliseconds
    return facts.Progress(
        as_of=now,
        job=record.job.hex(),
        generation=record.generation,
        step=record.step,
        steps=record.steps,
        loss=measure(record, "loss"),
        tokens_per_second=speed,
        milliseconds_left=left,
        words=words(record.text),
    )


def evaluation(records: Sequence[client.Progress], now: int) -> facts.Evaluation | None:
    """Base and tuned, from the records that have them; None: none has."""
    names = {"base": "loss_base", "tuned": "loss_tuned"}
    names |= {"exact_base": "exact_whole_base", "exact_tuned": "exact_whole_tuned"}
    found = dict.fromkeys(names, "")
    for record in records:
        if record.event is client.ProgressEvent.EVALUATED:
            for field, name in names.items():
                found[field] = measure(record, name) or found[field]
    if not any(found.values()):
        return None
    return facts.Evaluation(as_of=now, job=records[0].job.hex(), **found)


def standing(each: client.JobStanding) -> tuple[facts.Fact, ...]:
    """Stages, cost, and what is safe."""
    job, now = each.view.job.hex(), each.as_of
    found: list[facts.Fact] = [stage(job, one, now) for one in each.stages]
    cost = each.cost
    found.append(
        facts.Cost(
            as_of=now,
            job=job,
            spent=cost.spent,
            cap=cost.cap,
            projected=cost.projected,
            cap_lasts=cost.cap_lasts,
        )
    )
    safe = each.known.safe
    if safe is not None:
        found.append(
            facts.Checkpoint(
                as_of=now,
                job=job,
                step=safe.at.step,
                artifact=safe.at.artifact.hex(),
                sealed_at=safe.noted_at,
            )
        )
    measured = evaluation(each.known.progress, now)
    if measured is not None:
        found.append(measured)
    return tuple(found)


def event(job: str, each: client.StoryEvent, now: int) -> facts.JobEvent:
    """One thing that happened."""
    return facts.JobEvent(
        as_of=now,
        job=job,
        offset=each.number,
        at=each.at,
        kind=each.kind.value,
        words=words(each.words),
        refs=tuple(clean(ref, limit=VALUE_CHARACTERS_MAX) for ref in each.refs),
    )
