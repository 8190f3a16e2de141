"""What is gone for a while under a running job: Ray, the market, the agent's place at the door."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.parties import descendants
from provider_agent import unix_sockets
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT
from tests.faults.matrix import Matrix, check, follow_to_the_end
from tests.faults.town import Town, Watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def running(town: Town, step: str) -> Watched:
    watched = town.submitted()
    town.until(watched, step, lambda: town.reached(watched, step))
    return watched


def assert_ends_the_same(
    matrix: Matrix, watched: Watched, *, kills: int, keep: Callable[[], None] = lambda: None
) -> None:
    town = matrix.town()

    def ended() -> bool:
        keep()
        return town.ended(watched)

    try:
        town.until(watched, "ended", ended)
        follow_to_the_end(town, watched)
        assert check(town, watched, tensors=matrix.tensors, kills=kills) == []
    except BaseException:
        matrix.leave()  # the next test has a fresh town
        raise


@pytest.mark.parametrize(
    "seconds", [pytest.param(10, id="10-s"), pytest.param(60, id="60-s", marks=pytest.mark.full)]
)
def test_the_market_is_gone_for_a_while_and_the_job_ends_the_same(
    matrix: Matrix, seconds: int
) -> None:
    town = matrix.town()
    watched = running(town, "started")
    town.kill_alone("market")
    time.sleep(seconds)
    town.start("market")
    assert_ends_the_same(matrix, watched, kills=1)


@pytest.mark.full
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_part_of_ray_is_killed_and_the_job_ends_the_same(matrix: Matrix, name: str) -> None:
    town = matrix.town()
    watched = running(town, "launched")
    scheduler = town.stage.parties["scheduler"].process
    (pid,) = [each for each in descendants(scheduler.pid) if program(each) == name]
    os.kill(pid, signal.SIGKILL)

    assert_ends_the_same(matrix, watched, kills=1, keep=keep_scheduler(town))
    # Ray gives its driver up within a minute; whoever runs the scheduler starts it again.
    town.until(watched, "given up", lambda: scheduler.poll() is not None, 150)
    keep_scheduler(town)()
    again = running(town, "leased")
    assert_ends_the_same(matrix, again, kills=0)


def keep_scheduler(town: Town) -> Callable[[], None]:
    """What an operator's service manager does: start it again once it has ended."""

    def keep() -> None:
        if town.stage.parties["scheduler"].exit is not None:
            town.start("scheduler")

    return keep


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def test_a_second_dialler_at_the_door_is_one_dialler_after_another(matrix: Matrix) -> None:
    town = matrix.town()
    watched = running(town, "started")
    lease = town.lease(watched)
    assert lease is not None
    name, host = lease
    door = town.stage.home(host) / "leases" / name / "door"
    heard = asyncio.run(intrude(door, times=5))
    assert heard  # the newest is served: it was, and then the agent was again
    assert_ends_the_same(matrix, watched, kills=0)


async def intrude(door: Path, *, times: int) -> int:
    """Take the agent's place for a moment, now and then; how many connections were served.

    A served connection lives until the agent dials again, or what the enclave says comes.
    """
    served = 0
    for _ in range(times):
        for port in (MESSAGES_PORT, BLOBS_PORT):
            with await unix_sockets.dial(door, port, kind=socket.SOCK_STREAM) as channel:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(channel, 1), 0.2)
                served += 1
        await asyncio.sleep(0.1)
    return served
