"""`first_step.seconds`: from the buyer's command to the end of a job's first step, by stage.

The job is the demo's, cut to one step; everybody is the demo's process. Nobody is asked to measure
anything: the times are those that the market wrote down (transitions, orders, messages), by its
clock, and those of the enclave's own sealed progress, which begin when it has all shares.

- *submit*: the command starts → the market has the job; *queue*: → both brokers said that they are
  ready; *match*: → a lease; *order*: → the buyer's broker ordered its generation.
- *launch*: → the host says that the enclave was started; *imports*: → its first hello.
- *evidence*: → its last request with evidence; *grants*: → the last verifier's answer.
- *ciphertext*: → inputs are opened, in memory; *step*: → the first step is done.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlmodel import Session, col, select

from benchmarks.arms import Look, Parties, await_idle, follow, parties, train_job
from marketplace.jobs import find_job, generation_orders
from marketplace.leases import leases_of
from marketplace.models import LeaseState, Transition
from marketplace.models_exchange import Message, Readiness
from trust.encoding import base64url
from trust.messages import ProgressEvent, lease_address

STAGES: Final = (
    "submit", "queue", "match", "order", "launch", "imports", "evidence", "grants", "ciphertext",
    "step",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """A message between the enclave and a verifier, without what it says."""

    sender: str
    box: str
    at_ms: int


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """`first_step.seconds`, the median of `runs` jobs, with the medians of its stages."""
    seen: list[dict[str, float]] = []
    with parties() as told:
        for _ in range(runs):
            started_ms = time.time_ns() // 1_000_000
            job = told.submit(train_job(1, warmup_steps=0))
            looks = follow(told, job)
            seen.append(stages(told, bytes.fromhex(job), started_ms, looks))
            await_idle(told, job)
    medians = {name: statistics.median(each[name] for each in seen) for name in STAGES}
    yield {
        "figure": "first_step.seconds",
        "value": round(statistics.median(sum(each.values()) for each in seen), 2),
        "unit": "s",
        "better": "lower",
        "runs": runs,
        "stages": {name: round(seconds, 3) for name, seconds in medians.items()},
    }


def stages(told: Parties, job: bytes, started_ms: int, looks: Sequence[Look]) -> dict[str, float]:
    """Seconds of each stage of one job. `started_ms`: when its buyer's command was started."""
    with told.store() as store, store.reading() as session:
        created_ms = find_job(session, job).created_at_ms
        (lease,) = leases_of(session, job)
        (order,) = generation_orders(session, job)
        ready_ms = max(
            session.exec(select(Readiness.at_ms).where(col(Readiness.job) == base64url(job))).all()
        )
        launched_ms = session.exec(
            select(Transition.at_ms).where(
                col(Transition.subject_id) == lease.id,
                col(Transition.to_state) == LeaseState.ATTESTING.value,
            )
        ).one()
        address = base64url(lease_address(lease.id))
        hello_ms, request_ms, answer_ms = opening(_carried(session, address), address)
    points = (
        started_ms, created_ms, ready_ms, lease.created_at_ms, order.created_at_ms, launched_ms,
        hello_ms, request_ms, answer_ms,
    )  # fmt: skip
    records = [each.record for each in looks if not each.record.text]
    inside = [
        next(record.milliseconds for record in records if record.event is event)
        for event in (ProgressEvent.STARTED, ProgressEvent.STEP)
    ]
    passed = [after - before for before, after in itertools.pairwise(points)]
    passed += [inside[0], inside[1] - inside[0]]
    return {name: each / 1000 for name, each in zip(STAGES, passed, strict=True)}


def _carried(session: Session, address: str) -> list[Carried]:
    """All messages from and to a lease's address, in the order in which the market took them."""
    rows = session.exec(
        select(Message)
        .where((col(Message.box) == address) | (col(Message.sender) == address))
        .order_by(col(Message.at_ms), col(Message.number))
    )
    return [Carried(sender=row.sender, box=row.box, at_ms=row.at_ms) for row in rows]


def opening(messages: Sequence[Carried], address: str) -> tuple[int, int, int]:
    """When the first hello, the last request with evidence, and the last answer to one came.

    An enclave says two things to each verifier before it has its shares: a hello and a request.
    Each verifier says two things to it: a challenge, and an answer to the request.
    """
    said: dict[str, list[int]] = {}
    heard: dict[str, list[int]] = {}
    for each in messages:
        if each.sender == address:
            said.setdefault(each.box, []).append(each.at_ms)
        else:
            heard.setdefault(each.sender, []).append(each.at_ms)
    return (
        min(times[0] for times in said.values()),
        max(times[1] for times in said.values()),
        max(heard[box][1] for box in said),
    )
