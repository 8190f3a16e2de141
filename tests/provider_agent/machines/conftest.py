"""A small host for each test, and no process left behind by any."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.provider_agent.machines.doubles import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture(autouse=True)
def nothing_runs_on(tmp_path: Path) -> Iterator[None]:
    """A machine names its test's folder in its command line: its image, or QEMU's stand-in."""
    yield
    left = [pid for pid in processes_of(tmp_path) if pid != os.getpid()]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"processes {left} run on after the test"


def processes_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(f"{folder}/") in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
