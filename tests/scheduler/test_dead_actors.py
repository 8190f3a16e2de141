"""An actor that dies is waited for, and one that does not come back ends the scheduler."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from scheduler import cluster
from scheduler.cluster import DEAD_SECONDS_MAX, Cluster, ClusterConfig, ClusterError, Role


class RayError(Exception):
    """Like Ray's: the process that was asked is dead."""


class RayTaskError(RayError):
    """Like Ray's: the process is alive, and raised."""


class DeadRay:
    """Answers every question at once: by `answer`, or by what it raises."""

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self) -> None:
        self.answer: Exception | str = RayError("the raylet is gone")

    def wait(self, asked: list[Any], **_options: Any) -> tuple[list[Any], list[Any]]:
        return asked, []

    def get(self, _asked: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def ray() -> DeadRay:
    return DeadRay()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(cluster, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def running(ray: DeadRay, tmp_path: Path) -> Cluster:
    found = Cluster(ClusterConfig(home=tmp_path, database="sqlite://"))
    found._ray = ray
    actor = types.SimpleNamespace(round=types.SimpleNamespace(remote=lambda _now: object()))
    found._slots.append(cluster._Slot(role=Role.MATCHER, shard=0, actor=actor))
    return found


def test_an_actor_that_does_not_come_back_ends_the_scheduler(
    running: Cluster, clock: list[float]
) -> None:
    assert running.round(0) == ()
    clock[0] += DEAD_SECONDS_MAX
    assert running.round(0) == ()
    clock[0] += 1
    with pytest.raises(ClusterError, match=r"matcher 0 is not back .* Ray is gone"):
        running.round(0)


@pytest.mark.parametrize("answer", ["a report", RayTaskError("database is locked")])
def test_an_actor_that_answers_again_was_never_dead(
    running: Cluster, ray: DeadRay, clock: list[float], answer: Exception | str
) -> None:
    dead = ray.answer
    running.round(0)
    clock[0] += DEAD_SECONDS_MAX
    ray.answer = answer
    running.round(0)
    ray.answer = dead
    clock[0] += 1
    assert running.round(0) == ()
    clock[0] += DEAD_SECONDS_MAX
    assert running.round(0) == ()
