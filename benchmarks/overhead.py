"""`overhead.steady`: training speed in the enclave ÷ a plain accelerate + peft script's.

The arms are benchmarks/arms.py's; their blocks alternate. Speed is optimizer steps over seconds
from step `WARM_UP` to the last one, which is tokens over seconds, as both take the same rows: by
the enclave's own clock, in its sealed progress, and by the script's. `overhead.steady_cpu` is the
same with seconds of processors in place of the wall's.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks.arms import (
    Look,
    PlainRun,
    await_idle,
    follow,
    parties,
    plain_plan,
    run_plain,
    train_job,
)
from trust.messages import ProgressEvent

WARM_UP: Final = 20
STEPS: Final = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Steps a second of one block, after its warm-up."""

    wall: float
    cpu: float
    """Steps for each second of a processor."""
    cpu_host: float
    """The same with the chip's and the agent's own work; the plain arm has no such thing."""


def plain_speed(run: PlainRun, warm_up: int) -> Speed:
    """Of the plain script, from the end of step `warm_up` to that of its last step."""
    steps = len(run.ended) - warm_up
    cpu = steps / (run.used[-1] - run.used[warm_up - 1])
    return Speed(wall=steps / (run.ended[-1] - run.ended[warm_up - 1]), cpu=cpu, cpu_host=cpu)


def enclave_speed(looks: Sequence[Look], warm_up: int) -> Speed:
    """Of a job, from its first record of step `warm_up` or later to the last one of a step."""
    seen = [
        each
        for each in looks
        if each.record.event is ProgressEvent.STEP
        and not each.record.text  # else it says for whom the run waits
        and each.record.step >= warm_up
    ]
    first, last = seen[0], seen[-1]
    steps = last.record.step - first.record.step
    milliseconds = last.record.milliseconds - first.record.milliseconds
    return Speed(
        wall=1000 * steps / milliseconds,
        cpu=steps / (last.cpu_enclave - first.cpu_enclave),
        cpu_host=steps / (last.cpu_host - first.cpu_host),
    )


def figures(runs: int, *, steps: int = STEPS, warm_up: int = WARM_UP) -> Iterator[dict[str, Any]]:
    """`overhead.steady` and `overhead.steady_cpu`, with each block's speeds."""
    plain, enclave = list[Speed](), list[Speed]()
    with parties() as told:
        job = train_job(steps)
        plan = plain_plan(told, job, told.stage.home("plain"))
        for _ in range(runs):
            plain.append(plain_speed(run_plain(told, plan), warm_up))
            name = told.submit(job)
            enclave.append(enclave_speed(follow(told, name), warm_up))
            await_idle(told, name)
    yield _figure("overhead.steady", plain, enclave, "wall", unit="steps_per_second")
    yield _figure("overhead.steady_cpu", plain, enclave, "cpu", unit="steps_per_cpu_second") | {
        "with_chip_and_agent": round(_ratio(plain, enclave, "cpu_host"), 3)
    }


def _ratio(plain: list[Speed], enclave: list[Speed], kind: str) -> float:
    """The median of the blocks' ratios, ours over the plain script's."""
    pairs = zip(enclave, plain, strict=True)
    ratios: list[float] = [getattr(ours, kind) / getattr(theirs, kind) for ours, theirs in pairs]
    return statistics.median(ratios)


def _figure(
    name: str, plain: list[Speed], enclave: list[Speed], kind: str, *, unit: str
) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(_ratio(plain, enclave, kind), 3),
        "unit": "ratio",
        "better": "higher",
        "runs": len(plain),
        f"plain_{unit}": [round(getattr(each, kind), 3) for each in plain],
        f"enclave_{unit}": [round(getattr(each, kind), 3) for each in enclave],
    }
