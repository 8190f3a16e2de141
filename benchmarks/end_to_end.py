"""`overhead.end_to_end`: a whole job, submit to sealed adapter, ÷ the plain script's whole time.

The arms are benchmarks/arms.py's. Ours begins when the buyer's command is started, and ends when
the enclave says that the adapter is sealed, stored and was reopened with shares given again: a
match, a launch, evidence, grants and sealing are in it. The plain one is from start to exit, on
rows that were tokenized before. `overhead.end_to_end_cpu` has seconds of processors in place of the
wall's. A ratio counts only if the plain run took `PLAIN_SECONDS_MIN`: a short job would show the
start alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.arms import await_idle, follow, parties, plain_plan, run_plain, train_job

STEPS: Final = 900  # the demo's terms allow a thousand; some four minutes on two cores
PLAIN_SECONDS_MIN: Final = 180.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Seconds of one plain run and of the job after it: by the wall, and of processors."""

    plain: float
    plain_cpu: float
    job: float
    job_cpu: float
    """Of the enclave's processes."""


def figures(
    runs: int, *, steps: int = STEPS, plain_seconds_min: float = PLAIN_SECONDS_MIN
) -> Iterator[dict[str, Any]]:
    """Both figures. Raises ValueError where a plain run was too short to be compared with."""
    pairs = []
    with parties() as told:
        job = train_job(steps)
        plan = plain_plan(told, job, told.stage.home("plain"))
        for _ in range(runs):
            plain = run_plain(told, plan)
            if plain.seconds < plain_seconds_min:
                raise ValueError(
                    f"the plain run took {plain.seconds:.0f} s, wanted {plain_seconds_min:.0f}: "
                    f"{steps} steps are too few for this machine"
                )
            started = time.monotonic()
            name = told.submit(job)
            looks = follow(told, name)
            if not (job_cpu := max(each.cpu_enclave for each in looks)):
                raise ValueError("no enclave's processor time was seen: nothing to compare with")
            pairs.append(
                Pair(
                    plain=plain.seconds,
                    plain_cpu=plain.cpu,
                    job=looks[-1].at - started,
                    job_cpu=job_cpu,
                )
            )
            await_idle(told, name)
    yield _figure("overhead.end_to_end", [(each.job, each.plain) for each in pairs])
    yield _figure("overhead.end_to_end_cpu", [(each.job_cpu, each.plain_cpu) for each in pairs])


def _figure(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(statistics.median(ours / plain for ours, plain in pairs), 3),
        "unit": "ratio",
        "better": "lower",
        "runs": len(pairs),
        "plain_seconds": [round(plain, 1) for _, plain in pairs],
        "job_seconds": [round(ours, 1) for ours, _ in pairs],
    }
