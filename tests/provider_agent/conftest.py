"""A simulated root and chip, made once: RSA keys take seconds."""

import datetime as dt
from pathlib import Path

import pytest

from tests.provider_agent.fakes import make_runtime
from trust.simulated import SimulatedChip, SimulatedRoot

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def simulated_chip() -> SimulatedChip:
    return SimulatedRoot.create(NOW).issue_chip(b"\x07" * 64, NOW)


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runtime(tmp_path_factory.mktemp("runtime") / "runtime")
