"""Each process of a town killed at each step of the flow: the job ends the same, and is paid once.

`make test` runs a seeded sample of six cells, `make test-full` the whole matrix; docs/faults.md has
a run's table.
"""

from __future__ import annotations

import pytest

from tests.faults.matrix import CELLS, FLOW, SAMPLE, VICTIMS, WITHOUT_ENCLAVE, Matrix, sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLED = sample()


def test_the_matrix_is_every_step_by_every_process_that_runs_then() -> None:
    assert len(set(CELLS)) == len(FLOW) * len(VICTIMS) - len(WITHOUT_ENCLAVE)
    assert len({victim for victim, _ in SAMPLED}) == SAMPLE == 6
    assert set(SAMPLED) <= set(CELLS)


def test_six_jobs_end_the_same_though_six_processes_are_killed(matrix: Matrix) -> None:
    ended = []
    for cell in SAMPLED:  # each job's money settles while the next one runs
        ended.append(matrix.disturb(*cell))
        assert ended[-1].faults == []
    assert [matrix.outcome(each).faults for each in ended] == [()] * SAMPLE


@pytest.mark.full
@pytest.mark.parametrize(("victim", "step"), CELLS)
def test_a_job_ends_the_same_whoever_is_killed(matrix: Matrix, victim: str, step: str) -> None:
    assert matrix.run(victim, step).faults == ()
