"""The service manager hears what sd_notify(3) says, and its absence costs nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from provider_agent.install.health import _HEARTBEAT
from provider_agent.install.notify import Notifier, Pulse


def test_a_service_manager_hears_every_word(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(5)
        notifier = Notifier(str(path))
        notifier.ready()
        notifier.ping()
        notifier.heartbeat(1_764_000_000_000)
        notifier.stopping()
        heard = [manager.recv(200) for _ in range(4)]
    assert heard == [
        b"READY=1",
        b"WATCHDOG=1",
        b"STATUS=market heartbeat 1764000000000",
        b"STOPPING=1",
    ]
    assert _HEARTBEAT.fullmatch(heard[2].decode().removeprefix("STATUS="))


def test_an_abstract_socket_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # autobind (unix(7)): an abstract address that is free
        manager.settimeout(5)
        name = manager.getsockname()
        Notifier("@" + name[1:].decode()).ready()
        assert manager.recv(200) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/absent/socket", "/" + "x" * 200])
def test_no_service_manager_is_no_error(address: str | None) -> None:
    notifier = Notifier(address)
    notifier.ready()
    notifier.heartbeat(1)


def test_a_loop_that_runs_and_does_no_work_pings_no_more(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(0)
        pulse = Pulse(Notifier(str(path)), clock=lambda: now, stall_seconds=300)
        now = 300.0
        assert pulse.ping()
        assert manager.recv(20) == b"WATCHDOG=1"
        now = 300.1
        assert not pulse.ping()
        with pytest.raises(BlockingIOError):
            manager.recv(20)
        pulse.beat()
        assert pulse.ping()
