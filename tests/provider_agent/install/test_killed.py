"""Killed at any moment, and run again, an install or an uninstall ends as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.provider_agent.install.machine import (
    KEY_OPTION,
    KILLED,
    MARKET,
    FakeMachine,
    snapshot,
)

SAMPLE = 17  # of the moments at which a run is killed, every 17th in the quick test
MOMENTS_MAX = 600


def _kill_everywhere(
    tmp_path: Path, *, before: tuple[str, ...], killed: tuple[str, ...], step: int, first: int
) -> int:
    """Kill `killed` at each moment, run it again: the machine is as if it had not been killed."""
    done = FakeMachine(tmp_path / "done")
    if before:
        assert done.run(*before) == 0
    done.lease("done")
    assert done.run(*killed) == 0
    wanted = _shape(done)
    for moment in range(first, MOMENTS_MAX, step):
        host = FakeMachine(tmp_path / f"kill-{moment}")
        if before:
            assert host.run(*before) == 0
        host.lease("done")  # what a service leaves
        status = host.run_killed(moment, *killed)
        if status == 0:
            return moment
        assert status == KILLED
        assert host.run(*killed) == 0, (moment, host.lines)
        assert _shape(host) == wanted, moment
    raise AssertionError("it never ended")


def _shape(host: FakeMachine) -> dict[str, str]:
    found = snapshot(host.root)
    active = sorted(path.name for path in (host.tools / "active").iterdir())
    return {k: v.replace(str(host.root), "") for k, v in found.items()} | {"active": str(active)}


def _install(old: Path) -> tuple[str, ...]:
    return ("install", "--yes", "--bundle", str(old), *KEY_OPTION, *MARKET)


def test_an_install_that_is_killed_ends_the_same_when_it_is_run_again(
    tmp_path: Path, old: Path
) -> None:
    moments = _kill_everywhere(tmp_path, before=(), killed=_install(old), step=SAMPLE, first=0)
    assert moments > 100


def test_an_uninstall_that_is_killed_ends_the_same_when_it_is_run_again(
    tmp_path: Path, old: Path
) -> None:
    away = ("uninstall", "--yes", "--purge")
    moments = _kill_everywhere(tmp_path, before=_install(old), killed=away, step=SAMPLE, first=0)
    assert moments > 100


@pytest.mark.full
@pytest.mark.parametrize("first", range(1, SAMPLE))
def test_at_every_other_moment_too(tmp_path: Path, old: Path, first: int) -> None:
    _kill_everywhere(tmp_path, before=(), killed=_install(old), step=SAMPLE, first=first)
    away = ("uninstall", "--yes", "--purge")
    _kill_everywhere(tmp_path / "away", before=_install(old), killed=away, step=SAMPLE, first=first)


def test_an_install_that_was_killed_anywhere_can_be_taken_back(tmp_path: Path, old: Path) -> None:
    for moment in range(0, MOMENTS_MAX, 11):
        host = FakeMachine(tmp_path / f"kill-{moment}")
        before = snapshot(host.root)
        status = host.run_killed(moment, *_install(old))
        assert host.run("uninstall", "--yes", "--purge") == 0, (moment, host.lines)
        assert snapshot(host.root) == before, moment
        if status == 0:
            return
    raise AssertionError("it never ended")
