"""A town of real processes by public commands, any one of which can be killed and started again.

- One market, one scheduler, two brokers, two hosts with their chips; a tiny model and sixteen rows.
- What a job has come to is read from what parties write: the market's rows, the agents' logs, the
  owner's release log, the buyer's sealed progress. Nobody tells the town anything else.
- Only processes that name the town's own folder are killed. All of it is gone when it closes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from client.buyer import Follower
from client.cli.shared import open_home
from client.files import HomeError
from client.release_log import replay
from demo.display import Display
from demo.jobs import JOB
from demo.opening import CHECKOUT, HOSTS, START_SECONDS, each, read_json
from demo.parties import Stage, StepError, descendants
from demo.story import Story
from scheduler.cluster import remove_stale_session
from tests.assets import chat_rows
from trust.encoding import base64url
from trust.messages import Progress, ProgressEvent

STEPS: Final = 4
INTERVAL: Final = 1  # steps between checkpoints
JOB_SECONDS: Final = 240.0
LOOK_SECONDS: Final = 0.05

JOB_OF_FOUR: Final[dict[str, Any]] = JOB | {
    "recipe": JOB["recipe"]
    | {
        "steps": STEPS,
        "rows_per_step": 8,
        "rank": 4,
        "alpha": 8,
        "warmup_steps": 1,
        "evaluation": None,
    },
    "local_ranks": 1,
    "length_max": 128,
    "checkpoint_steps": INTERVAL,
    "uncommitted_checkpoints_max": 1,
    "generations_max": 8,
}


@dataclasses.dataclass
class Watched:
    """One job, followed by what parties write."""

    job: str
    """Hex."""
    follower: Follower
    records: list[Progress] = dataclasses.field(default_factory=list)
    at: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """The job as the market's rows name it."""
        return base64url(bytes.fromhex(self.job))

    def read(self) -> list[Progress]:
        """All records so far."""
        with contextlib.suppress(HomeError):
            self.records += self.follower.new()
        return self.records

    def step(self, event: ProgressEvent) -> int:
        """The highest step of a record of this event; -1: there is none."""
        return max((r.step for r in self.read() if r.event is event), default=-1)

    @property
    def tensors(self) -> str | None:
        """SHA-256 of the adapter's tensors, as the enclave stated it to the buyer."""
        found = [r.tensors for r in self.read() if r.tensors is not None]
        return found[-1].hex() if found else None


class Town(Story):
    """All parties, without taps."""

    def __init__(self) -> None:
        super().__init__(Stage(), Display())
        self._port = 0
        self.left: set[tuple[int, str]] = set()
        """What schedulers had started that were killed, and when each was born."""
        self.identities: dict[str, str] = {}
        """Of each host, as the market's rows name it."""

    def __enter__(self) -> Self:
        try:
            self.prepare()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, orphans of killed agents too, and remove every file."""
        self.stage.stop(*reversed(self.stage.parties))
        for pid in (*self.naming(str(self.stage.root)), *self.leavings()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remove_stale_session(self.stage.home("scheduler"))
        self.stage.close()

    # --- the opening -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everybody is there, everything is sealed and published, and money is there."""
        self.open_market()
        self.make_parties()
        self.start_daemons()
        self.publish_model()
        self.seal_rows()
        self.await_offers()
        for host in HOSTS:
            said = read_json(self.stage.home(host) / "agent.json")["identity"]
            self.identities[host] = base64url(bytes.fromhex(said))

    def open_market(self) -> None:
        stage = self.stage
        maker = str(stage.home("chip-maker"))
        self.make_roots(maker)
        for host in HOSTS:
            home = str(stage.home(host))
            stage.command("blindhost-agent", "simulated-chip", "--root", maker, "--home", home)
        self.measurement = stage.ask(
            "blindhost", "image", "measure", str(CHECKOUT), "--checkout", "--json"
        )["measurement"]
        stage.command(
            "blindhost-market", "policy", "accept-simulated-roots",
            "--home", str(stage.home("market")),
            *each("--root", self.roots), "--measurement", self.measurement,
        )  # fmt: skip
        self.start("market")
        endpoint = stage.wait_for(
            "the market listens",
            lambda: read_json(stage.home("market") / "endpoint.json"),
            seconds=START_SECONDS,
            watch=["market"],
        )
        self.market_identity, self.market_url = endpoint["identity"], endpoint["url"].rstrip("/")
        self._port = int(self.market_url.rpartition(":")[2])

    def start_daemons(self) -> None:
        for role in ("scheduler", "broker-owner", "broker-buyer", *HOSTS):
            self.start(role)

    def publish_model(self) -> None:
        folder = self.stage.home("owner") / "model"
        self.stage.command("python", "-m", "tests.faults.tiny", str(folder))
        sealed = self.blindhost("owner", "model", "seal", str(folder), "--kind", "simulated")
        self.model, lineage = sealed["artifact"], sealed["lineage"]
        self.blindhost(
            "owner", "terms", "publish", "--lineage", lineage, "--recipe", "lora:16:1000",
            "--price-per-job", "10000", "--royalty-per-million-tokens", "50000",
            "--report-rows-min", "8", "--report-tokens-min", "8",  # every step is told
        )  # fmt: skip
        self.publish_policy("owner", lineage)
        self.blindhost("owner", "model", "publish", self.model)

    def seal_rows(self) -> None:
        rows = self.stage.home("buyer") / "train.jsonl"
        rows.write_bytes(chat_rows(16))
        sealed = self.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")
        self.rows, self.row_count = sealed["artifact"], sealed["rows"]
        self.publish_policy("buyer", sealed["lineage"])
        self.stage.command(
            "blindhost-market", "credit", "--home", str(self.stage.home("market")),
            "--identity", self.buyer, "--microcredits", "5000000000",
        )  # fmt: skip

    def start(self, role: str) -> None:
        """Start a daemon, at first or again: its home is all that it has."""
        stage = self.stage
        home = str(stage.home(role.removeprefix("broker-")))
        words: tuple[str, ...]
        match role:
            case "market":
                words = ("blindhost-market", "serve", "--home", home, "--port", str(self._port))
            case "scheduler":
                market = str(stage.home("market"))
                words = ("blindhost-scheduler", "serve", "--home", home, "--market-home", market)
            case "broker-owner" | "broker-buyer":
                words = ("blindhost", "broker", "--home", home)
            case _:
                words = (
                    "blindhost-agent", "serve", "--home", home, "--market", self.market_url,
                    "--market-identity", self.market_identity, "--ask", "3600000",
                )  # fmt: skip
        stage.start(role, *words)

    # --- what parties write ----------------------------------------------------------------------

    def rows_of(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query on the market's own file."""
        path = self.stage.home("market") / "market.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The first row of a query, else an empty one."""
        return next(iter(self.rows_of(query, *values)), ())

    def state(self, watched: Watched) -> str:
        (state,) = self.row("SELECT lower(state) FROM job WHERE digest = ?", watched.key)
        return str(state)

    def lease(self, watched: Watched) -> tuple[str, str] | None:
        """The newest lease of a job, and the role of its host."""
        found = self.row(
            "SELECT id, host FROM lease WHERE job_digest = ? ORDER BY created_at_ms DESC, id DESC",
            watched.key,
        )
        if not found:
            return None
        for host in HOSTS:
            if found[1] == self.identities[host]:
                return found[0], host
        raise StepError(f"no host of ours has lease {found[0]}")

    def reached(self, watched: Watched, step: str) -> bool:
        """Whether a job has come to a step of the flow, as far as anybody wrote so."""
        match step:
            case "submitted":
                return True
            case "leased":
                return self.lease(watched) is not None
            case "ordered":
                query = "SELECT generation FROM job WHERE digest = ? AND generation > 0"
                return self.row(query, watched.key) != ()
            case "launched":
                return self.enclave(watched) is not None
            case "released":
                log = (self.stage.home("owner") / "release-log").read_bytes()
                return any(job.hex() == watched.job for job, _, _ in replay(log).memory.seats)
            case "started":
                return watched.step(ProgressEvent.STARTED) >= 0
            case "stepped":
                return any(record.step >= 1 for record in watched.read())
            case "checkpointed":
                return watched.step(ProgressEvent.CHECKPOINT) >= 1
            case "finished":
                return watched.tensors is not None
            case "settled":
                query = "SELECT 1 FROM receipt WHERE job_digest = ? AND end IS NOT NULL"
                return self.row(query, watched.key) != ()
        raise StepError(f"there is no step {step}")

    def enclave(self, watched: Watched) -> int | None:
        """Process of the enclave of the newest lease, as its agent said; None: not yet."""
        if (lease := self.lease(watched)) is None:
            return None
        name, host = lease
        log = (self.stage.home(host) / "log").read_text("utf-8", "replace")
        found = re.findall(rf"launched lease={name} pid=(\d+)", log)
        return int(found[-1]) if found else None

    # --- jobs ------------------------------------------------------------------------------------

    def submitted(self, job: dict[str, Any] = JOB_OF_FOUR) -> Watched:
        """A new job."""
        name = self.asked(lambda: self.submit(job))
        home, keys = open_home(self.stage.home("buyer"), None)
        return Watched(job=name, follower=Follower(home, keys, bytes.fromhex(name)))

    def paid_steps(self, watched: Watched) -> int:
        """Steps in receipts that settled, of all of a job's leases."""
        query = (
            "SELECT max(step) - min(first_step) FROM receipt WHERE job_digest = ? GROUP BY lease_id"
        )
        return sum(steps for (steps,) in self.rows_of(query, watched.key))

    def until(
        self, watched: Watched, what: str, ready: Callable[[], Any], seconds: float = JOB_SECONDS
    ) -> Any:
        """Wait for something of a job; StepError says where the job stands if it doesn't come."""
        deadline = time.monotonic() + seconds
        while True:
            if found := ready():
                return found
            if time.monotonic() > deadline:
                raise StepError(f"not {what} within {seconds:.0f} s: {self.standing(watched)}")
            time.sleep(LOOK_SECONDS)

    def standing(self, watched: Watched) -> str:
        """Where a job stands, in a line."""
        query = "SELECT lower(state), generation, waiting_for FROM job WHERE digest = ?"
        state, generation, waits = self.row(query, watched.key)
        leases = self.row(
            "SELECT group_concat(lower(state), ', ') FROM lease WHERE job_digest = ?", watched.key
        )
        last = watched.read()[-1:]
        said = [f"{each.event.value} {each.step} {each.text}" for each in last]
        return f"{state}, generation {generation}, waits for {waits}; leases {leases}; said {said}"

    def generation(self, watched: Watched) -> int:
        """Generations used so far."""
        (found,) = self.row("SELECT generation FROM job WHERE digest = ?", watched.key)
        return int(found)

    def shown(self, watched: Watched) -> dict[str, Any] | None:
        """`job show`, once its hold has ended and the buyer's log has the last receipt."""
        query = "SELECT 1 FROM lease WHERE job_digest = ? AND lower(state) IN ('ready', 'draining')"
        if self.row(query, watched.key):
            return None  # a command takes a second of the machine, this look none
        with contextlib.suppress(StepError):  # a market that was just killed
            found = self.settled(watched.job)
            if found is not None and found["outputs"]:
                return found
        time.sleep(1)
        return None

    def ended(self, watched: Watched) -> bool:
        return self.state(watched) in {"succeeded", "failed", "cancelled", "exhausted"}

    def asked(self, ask: Callable[[], Any]) -> Any:
        """Ask by a public command until a market that was killed answers again."""
        for _ in range(5):
            with contextlib.suppress(StepError):
                return ask()
            time.sleep(1)
        return ask()

    # --- killing ---------------------------------------------------------------------------------

    def naming(self, words: str) -> list[int]:
        """Processes that have these words in their arguments, and are not this one."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid() and words in _said(entry)
        ]

    def chip(self, host: str) -> int:
        """Process of a host's chip."""
        words = f"simulated_chip\0--home\0{self.stage.home(host)}/chip"
        found = self.stage.wait_for(
            f"the chip of {host} runs", lambda: self.naming(words), seconds=START_SECONDS
        )
        return int(found[0])

    def kill(self, victim: str, watched: Watched) -> str:
        """SIGKILL one process and start it again, or let its agent do so; says whom it hit."""
        host = (self.lease(watched) or ("", HOSTS[0]))[1]
        match victim:
            case "enclave":
                pid = self.enclave(watched)
                if pid is None or pid not in descendants(self.chip(host)):
                    return "none runs"
                os.kill(pid, signal.SIGKILL)
            case "chip":
                os.kill(self.chip(host), signal.SIGKILL)
            case "agent":
                self.kill_alone(host)
                self.start(host)
            case _:
                self.kill_alone(victim)
                self.start(victim)
        return host if victim in {"agent", "chip", "enclave"} else victim

    def kill_alone(self, role: str) -> None:
        """SIGKILL a daemon, and nothing that it started."""
        party = self.stage.parties[role]
        if role == "scheduler":  # Ray's agents notice within a minute
            below = descendants(party.process.pid)
            self.left |= {(pid, born) for pid in below if (born := _born(pid)) is not None}
        party.process.kill()
        party.process.wait()

    def leavings(self) -> list[int]:
        """Processes of killed schedulers that have not ended yet."""
        return [pid for pid, born in self.left if _born(pid) == born]


def _said(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process started, as the kernel counts; None: it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]  # starttime, proc(5)
