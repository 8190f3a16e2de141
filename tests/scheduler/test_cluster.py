"""The real command on the real Ray: actors die and jobs go on; nothing is left behind."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import scheduler
from marketplace.models import JobState, LeaseState
from marketplace.store import Store
from scheduler import __main__ as command
from scheduler import cluster
from tests.marketplace import world
from tests.scheduler.town import TICK, Town
from trust.errors import DocumentError, EncodingError

PATIENCE_SECONDS = 120.0  # Ray starts in 3 to 17 s; the machine may be busy
PACKAGE = Path(scheduler.__file__).parent


def wait_until(check: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.05)


def now() -> int:
    return int(time.time() * 1000)


# --- ray is named in one file --------------------------------------------------------------------


def test_ray_is_named_in_cluster_alone() -> None:
    for path in sorted(PACKAGE.glob("*.py")):
        named = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert ("ray" in named) is (path.name == "cluster.py"), path.name


def test_no_other_module_loads_ray_or_what_the_import_law_forbids() -> None:
    names = [f"scheduler.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "cluster"]
    code = f"import sys, {', '.join(names)}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {each.partition(".")[0] for each in done.stdout.split()}
    forbidden = {"ray", "client", "provider_agent", "enclave_runtime", "tui", "torch"}
    assert "scheduler" in loaded
    assert not loaded & forbidden


# --- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 9])
def test_a_cluster_has_one_to_eight_shards(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=f"supervisors: {count}, wanted 1 to 8"):
        cluster.ClusterConfig(home=tmp_path, database="sqlite://", supervisors=count)


def test_only_a_session_of_our_own_is_removed(tmp_path: Path) -> None:
    precious = tmp_path / "bh-precious"
    precious.mkdir()
    note = tmp_path / "ray.session"
    note.write_text(str(precious))
    cluster.remove_stale_session(tmp_path)
    assert precious.exists()
    assert not note.exists()
    stale = Path("/tmp") / f"{cluster.SESSION_PREFIX}test-{os.getpid()}"
    (stale / "session").mkdir(parents=True)
    note.write_text(str(stale))
    cluster.remove_stale_session(tmp_path)
    assert not stale.exists()


ORPHANS = """
import os, subprocess, sys
from scheduler import cluster
spared = subprocess.Popen(["sleep", "60"])
cluster._adopt_orphans()
before = cluster.children()
stubborn = (
    "import os, signal, time; signal.signal(15, signal.SIG_IGN);"
    "print(os.getpid(), flush=True); time.sleep(60)"
)
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}])"
shell = subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE, text=True)
orphan = int(shell.stdout.readline())
shell.wait()
cluster.end_children(before)
assert not os.path.exists(f"/proc/{orphan}"), "the orphan lives"
assert spared.poll() is None, "a child from before was killed"
spared.kill(); spared.wait()
"""


def test_what_a_child_leaves_to_us_is_ended_and_what_was_there_before_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_scheduler_without_a_market_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(command, "MARKET_WAIT_SECONDS", 0.0)
    with pytest.raises(command.SchedulerError, match="it does not run"):
        command._await_market(tmp_path, threading.Event())


def test_a_signal_ends_the_wait_for_the_market(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert command._await_market(tmp_path, stop) is None


@pytest.mark.parametrize("content", ["{}", '{"identity": 7}', '{"identity": "00"}', "[]", "{"])
def test_a_broken_endpoint_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoint.json").write_text(content)
    with pytest.raises((DocumentError, EncodingError)):
        command._await_market(tmp_path, threading.Event())


def test_a_home_has_one_scheduler(tmp_path: Path) -> None:
    with (
        command._locked(tmp_path / "lock"),
        pytest.raises(command.SchedulerError, match="another scheduler runs"),
        command._locked(tmp_path / "lock"),
    ):
        pass
    with command._locked(tmp_path / "lock"):
        pass


# --- the real thing ------------------------------------------------------------------------------


class Running:
    """The command in a process of its own."""

    def __init__(self, home: Path, market_home: Path) -> None:
        self.home, self.log = home, home.parent / "scheduler.log"
        options = ["serve", "--home", str(home), "--market-home", str(market_home)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scheduler", *options],
                stderr=log,
                stdout=log,
                start_new_session=True,
                env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "1"},
            )

    def ready(self) -> dict[str, object]:
        path = self.home / "ready.json"
        wait_until(lambda: path.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return json.loads(path.read_text())

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def market_home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(world, "NOW", now())
    home = tmp_path / "market"
    home.mkdir()
    Store.open_file(home / "market.db").close()
    identity = world.MARKET.identity.hex()
    (home / "endpoint.json").write_text(json.dumps({"url": "http://x", "identity": identity}))
    return home


@pytest.fixture
def running(tmp_path: Path, market_home: Path) -> Iterator[Running]:
    started = Running(tmp_path / "home", market_home)
    yield started
    if started.process.poll() is None:
        started.end()


def tree(root: int) -> set[int]:
    """A process and all that descend from it."""
    found, new = set(), {root}
    while new:
        found |= new
        new = {
            int(child)
            for pid in new
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for child in path.read_text().split()
        } - found
    return found


def listeners(pids: set[int]) -> set[str]:
    """Addresses, in the kernel's hex, at which these processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(link.readlink().name.removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same, mapped into IPv6
    "00000000000000000000000001000000",  # ::1
}


ASK = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=f"127.0.0.1:{sys.argv[1]}").internal_kv_keys(b"", namespace=b"", timeout=30)
    print("keys")
except Exception as error:
    print(type(error).__name__)
"""


def asks_ray(port: str, token: Path) -> str:
    """What Ray's own client of another process gets with this token."""
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, port],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_supervisor_is_killed_and_its_job_goes_on(running: Running, market_home: Path) -> None:
    store = Store.open_file(market_home / "market.db")
    town = Town.make(store)
    ready = running.ready()
    assert ready["market"] == world.MARKET.identity.hex()
    session = Path(str(ready["session"]))
    pids = tree(running.process.pid)

    # loopback alone, a token of its own, no statistics, no dashboard's server
    assert listeners(pids)
    assert listeners(pids) <= LOOPBACK
    actors = ready["actors"]
    assert isinstance(actors, dict)
    assert set(actors) == {"matcher 0", "supervisor 0"}
    environment = Path(f"/proc/{actors['supervisor 0']}/environ").read_bytes().split(b"\0")
    token = running.home / "ray.token"
    assert b"RAY_AUTH_MODE=token" in environment
    assert f"RAY_AUTH_TOKEN_PATH={token}".encode() in environment
    assert b"RAY_USAGE_STATS_ENABLED=0" in environment
    assert token.stat().st_mode & 0o777 == 0o600
    assert running.home.stat().st_mode & 0o777 == 0o700

    stranger = running.home.parent / "other.token"
    stranger.write_text("0" * 64)
    (port,) = (each.read_text() for each in session.glob("session_2*/gcs_server_port_*"))
    assert asks_ray(port, token) == "keys"
    assert asks_ray(port, stranger) == "AuthenticationError"

    def live(until: Callable[[], bool]) -> None:
        def check() -> bool:
            town.now = now() - TICK
            town.tick()
            return until()

        wait_until(check)

    town.buyer_orders = False
    live(lambda: town.state() is JobState.PLACED)
    os.kill(int(actors["supervisor 0"]), signal.SIGKILL)
    town.buyer_orders = True
    live(lambda: town.state() is JobState.STARTING)
    live(lambda: town.leases()[0].state is not LeaseState.CLAIMED)  # by the new supervisor alone
    live(lambda: town.state() is JobState.SUCCEEDED)
    assert "supervisor 0: its process died" in running.log.read_text()
    store.close()

    pids |= tree(running.process.pid)
    assert running.end() == 0, running.log.read_text()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not session.exists()
    assert sorted(each.name for each in running.home.iterdir()) == ["lock", "ray.token"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_scheduler_that_is_interrupted_while_it_starts_leaves_nothing(
    running: Running, number: int
) -> None:
    note = running.home / "ray.session"
    wait_until(note.exists)
    session = Path(note.read_text() or "/nowhere")
    wait_until(lambda: any(session.glob("session_*/logs/gcs_server.out")))  # half of Ray is up
    pids = tree(running.process.pid)
    assert len(pids) > 1
    assert running.end(number) == 0, running.log.read_text()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not session.exists()
    assert sorted(each.name for each in running.home.iterdir()) == ["lock", "ray.token"]
