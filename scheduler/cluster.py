"""The one file that names Ray: a private local Ray of the operator, and the actors on it.

- Ray never meets a host, a buyer or an enclave: this Ray listens on loopback alone, demands a
  token that only the scheduler's 0700 home holds, and is the scheduler's child. No dashboard, no
  usage statistics, nothing but database rows and ids ever passes through it.
- Actors are shards, not one for each job: an actor costs 50 MiB and most of a second. Matcher i
  places the machine kinds of shard i, supervisor i looks after the jobs of shard i.
- An actor holds a connection and nothing else. One that dies is started again by Ray, reads the
  rows, and goes on; one whose round hangs is killed, and then the same. One that does not come
  back at all means that Ray itself is gone: we end, and whoever runs us starts us again.
- What Ray starts ends with us: we adopt orphans (PR_SET_CHILD_SUBREAPER), and `stop` ends and
  reaps every process that came after `start`, then removes the session's folder. A session that
  an earlier scheduler left behind by SIGKILL is removed at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from scheduler.reconciler import RoundReport, open_store, place_orders, supervise_jobs
from trust.errors import BlindhostError

LOG: Final = logging.getLogger("blindhost.scheduler")
SHARDS_MAX: Final = 8  # Ray on one machine carries about ten actors well (marketplace.md §5.1)
OBJECT_STORE_BYTES: Final = 80 << 20  # Ray's least; nothing of ours is put there
ROUND_SECONDS_MAX: Final = 60.0  # a round takes milliseconds; SQLite waits at most 10 s for a lock
DEAD_SECONDS_MAX: Final = 60.0  # an actor is back within ten, on a busy machine within thirty
STOP_SECONDS_MAX: Final = 10.0  # Ray ends in under two
SESSION_PREFIX: Final = "bh-"
PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h


class ClusterError(BlindhostError):
    """Ray or an actor does not start."""


class StartInterruptedError(ClusterError):
    """A signal came while Ray was starting."""


class Role(enum.StrEnum):
    """What an actor does."""

    MATCHER = "matcher"
    SUPERVISOR = "supervisor"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """What a cluster is started with."""

    home: Path
    """The scheduler's own folder, 0700."""
    database: str
    """URL of the market's database."""
    matchers: int = 1
    supervisors: int = 1

    def __post_init__(self) -> None:
        for name, found in (("matchers", self.matchers), ("supervisors", self.supervisors)):
            if not 1 <= found <= SHARDS_MAX:
                raise ValueError(f"{name}: {found}, wanted 1 to {SHARDS_MAX}")


class ShardActor:
    """What runs on Ray: one round after another, each from the rows alone."""

    def __init__(self, database: str, role: str, shard: int, shards: int) -> None:
        self._store = open_store(database)
        self._role, self._shard, self._shards = Role(role), shard, shards

    def round(self, now: int) -> RoundReport:
        """One round at Unix milliseconds `now`."""
        step = place_orders if self._role is Role.MATCHER else supervise_jobs
        return step(self._store, shard=self._shard, shards=self._shards, now=now)

    def pid(self) -> int:
        """The process it runs in."""
        return os.getpid()


@dataclasses.dataclass(kw_only=True, slots=True)
class _Slot:
    """An actor, and the round that it has not answered yet."""

    role: Role
    shard: int
    actor: Any
    asked: Any = None
    since: float = 0.0
    dead_since: float | None = None
    """When its process died, if no round of it was answered since."""

    @property
    def name(self) -> str:
        return f"{self.role.value} {self.shard}"


class Cluster:
    """A running Ray with its actors; `running` is the way to have one."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._ray: Any = None
        self._slots: list[_Slot] = []
        self._before: frozenset[int] = frozenset()
        self.session: Path | None = None
        """Ray's folder while it runs."""

    @classmethod
    @contextlib.contextmanager
    def running(cls, config: ClusterConfig) -> Iterator[Self]:
        """A cluster for the length of a block; whatever ends the block ends the cluster."""
        cluster = cls(config)
        try:
            try:
                cluster.start()
            except SystemExit as error:  # what Ray's own handler makes of SIGTERM while it starts
                raise StartInterruptedError("interrupted while Ray was starting") from error
            yield cluster
        finally:
            cluster.stop()

    def start(self) -> None:
        """Start Ray and one actor for each shard.

        (1) What an earlier run left is removed. (2) The environment says token, loopback and no
        statistics before Ray is imported: it reads them then, and hands them to its processes.
        (3) Ray starts in a folder of its own, short enough for its sockets' names. (4) Actors.
        """
        remove_stale_session(self._config.home)  # (1)
        _adopt_orphans()
        self._before = children()
        os.environ.update(_environment(self._config.home))  # (2)  # noqa: TID251
        import ray

        self._ray = ray
        # 107 bytes are the most for a socket's name, and Ray adds 66 to this.
        folder = tempfile.mkdtemp(prefix=SESSION_PREFIX, dir="/tmp")  # (3)
        self.session = Path(folder)
        _session_note(self._config.home).write_text(folder)
        actors = self._config.matchers + self._config.supervisors
        ray.init(
            num_cpus=actors,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            namespace="blindhost",
            _temp_dir=folder,
        )
        remote = ray.remote(ShardActor)
        for role, shards in (  # (4)
            (Role.MATCHER, self._config.matchers),
            (Role.SUPERVISOR, self._config.supervisors),
        ):
            for shard in range(shards):
                options = remote.options(num_cpus=1, max_restarts=-1, max_task_retries=0)
                actor = options.remote(self._config.database, role.value, shard, shards)
                self._slots.append(_Slot(role=role, shard=shard, actor=actor))

    def pids(self) -> dict[str, int]:
        """Process of each actor, by its name; an actor that is starting is waited for.

        Raises ClusterError for one that does not start: a database that it can't open, say.
        """
        found = {}
        for slot in self._slots:
            try:
                found[slot.name] = self._ray.get(slot.actor.pid.remote(), timeout=ROUND_SECONDS_MAX)
            except self._ray.exceptions.RayError as error:
                raise ClusterError(f"{slot.name} does not start: {_last_line(error)}") from error
        return found

    def round(self, now: int) -> tuple[RoundReport, ...]:
        """Ask every idle actor for a round; give back what was answered since the last call.

        A slow actor holds up nobody but itself. Never raises for an actor's death; raises
        ClusterError once an actor has been dead for `DEAD_SECONDS_MAX`.
        """
        clock = time.monotonic()
        for slot in self._slots:
            if slot.asked is None:
                slot.asked, slot.since = slot.actor.round.remote(now), clock
        asked = [slot.asked for slot in self._slots]
        done, _ = self._ray.wait(asked, num_returns=len(asked), timeout=0.1)
        reports = []
        for slot in self._slots:
            if slot.asked in done:
                reports += self._answer(slot, clock)
                slot.asked = None
            elif clock - slot.since > ROUND_SECONDS_MAX:
                LOG.warning("%s: no answer for %d s; started again", slot.name, ROUND_SECONDS_MAX)
                self._ray.kill(slot.actor, no_restart=False)
                slot.asked = None
        return tuple(reports)

    def _answer(self, slot: _Slot, clock: float) -> list[RoundReport]:
        try:
            found = [self._ray.get(slot.asked)]
        except self._ray.exceptions.RayTaskError as error:
            LOG.warning("%s: %s", slot.name, _last_line(error))
            found = []
        except self._ray.exceptions.RayError:
            if slot.dead_since is None:
                LOG.warning("%s: its process died; started again from the database", slot.name)
                slot.dead_since = clock
            if clock - slot.dead_since > DEAD_SECONDS_MAX:
                text = f"{slot.name} is not back after {DEAD_SECONDS_MAX:.0f} s: Ray is gone"
                raise ClusterError(text) from None
            return []
        slot.dead_since = None
        return found

    def stop(self) -> None:
        """End Ray, every process that it left, and its folder. Good after a start half done."""
        self._slots = []
        try:
            if self._ray is not None:
                self._ray.shutdown()
        finally:
            self._ray = None
            end_children(self._before)
            if self.session is not None:
                shutil.rmtree(self.session, ignore_errors=True)
                _session_note(self._config.home).unlink(missing_ok=True)
                self.session = None


def _last_line(error: BaseException) -> str:
    """A remote error's own line, without its traceback."""
    return str(error).strip().rpartition("\n")[2][:200]


# --- environment and session ---------------------------------------------------------------------


def _environment(home: Path) -> dict[str, str]:
    token = home / "ray.token"
    if not token.exists():
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray takes 127.0.0.1 for its own address then, and its servers bind to that alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def _session_note(home: Path) -> Path:
    return home / "ray.session"


def remove_stale_session(home: Path) -> None:
    """Remove the folder that a scheduler which was killed has noted; nothing but such a folder."""
    note = _session_note(home)
    if not note.exists():
        return
    folder = Path(note.read_text())
    if folder.parent == Path("/tmp") and folder.name.startswith(SESSION_PREFIX):  # noqa: S108
        shutil.rmtree(folder, ignore_errors=True)
    note.unlink()


# --- processes -----------------------------------------------------------------------------------


def _adopt_orphans() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> frozenset[int]:
    """Processes whose parent we are, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            found.update(int(each) for each in (task / "children").read_text().split())
    return frozenset(found)


def end_children(spared: frozenset[int]) -> None:
    """Kill and reap every child but the spared ones, and what they leave to us, until none is left.

    Raises TimeoutError if one is still there after `STOP_SECONDS_MAX`.
    """
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while left := children() - spared:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # reaped by its own Popen
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} processes are still there after SIGKILL")
        time.sleep(0.01)
