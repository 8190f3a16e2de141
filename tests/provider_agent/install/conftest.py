"""A machine for each test, and two releases for all."""

import os
from pathlib import Path

import pytest

from tests.provider_agent.install.machine import FakeMachine, contents, write_bundle


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill of a process loses nothing of what it wrote; `test_system` sees to power cuts."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture
def host(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "host")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "old.tar", "0.1.0")


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A release whose agent's unit differs, and that has a unit more."""
    files = contents("0.2.0", extra=b"[Service]\nExecStart=/bin/true\n")
    agent = "files/etc/systemd/system/blindhost-agent.service"
    files[agent] = files[agent].replace(b"WatchdogSec=60", b"WatchdogSec=45")
    return write_bundle(tmp_path / "new.tar", "0.2.0", files=files)
