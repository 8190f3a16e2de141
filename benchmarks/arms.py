"""The two arms of `overhead.*`: a job in the enclave, and a plain accelerate + peft script.

- Both take the same rows in the same order, on 2 ranks × 1 thread, compute the head on the same
  positions, and make a checkpoint as often: sealed and stored by one, saved to disk by the other.
- Market, scheduler on Ray, brokers and agents run idle beside both, since in life they stand on
  other machines. The demo's taps and the buyer's ``job watch`` run beside neither: a job is
  followed by looking at the file in which the buyer's broker keeps its progress.
- Seconds of processors are user and system time of a whole tree of processes, from /proc for the
  enclave (all that the chip started), from the kernel's own account for the script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from client.buyer import Follower
from client.cli.shared import open_home
from demo.chat import Chat
from demo.display import Display
from demo.jobs import JOB
from demo.opening import HOSTS, START_SECONDS, read_json
from demo.parties import Stage, StepError, descendants
from enclave_runtime.recipes.plan import Plan, learning_rate
from marketplace.jobs import find_job
from marketplace.models import JobState
from marketplace.store import Store
from trust.encoding import Json
from trust.jobs import LoraRecipe
from trust.messages import Progress, ProgressEvent

PLAIN: Final = Path(__file__).parent / "plain_lora.py"
JOB_SECONDS: Final = 1800.0
LOOK_SECONDS: Final = 0.02  # between two looks at the progress file; a window is many seconds
STATE_SECONDS: Final = 2.0  # between two looks at the job's state
LOST: Final = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED})
TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
RANKS: Final = 2


class Parties(Chat):
    """The demo's parties without its taps: everybody speaks to the market's own port."""

    def open_market(self) -> None:
        """A market; the tap before it is taken away again."""
        super().open_market()
        said = read_json(self.stage.home("market") / "endpoint.json")
        self.market_url = str(said["url"]).rstrip("/")
        self.stage.stop("tap-market")

    def start_daemons(self) -> None:
        """Brokers, scheduler and agents."""
        self.start_brokers()
        self.stage.start(
            "scheduler", "blindhost-scheduler", "serve",
            "--home", str(self.stage.home("scheduler")),
            "--market-home", str(self.stage.home("market")),
        )  # fmt: skip
        for host in HOSTS:
            self.stage.start(
                host, "blindhost-agent", "serve", "--home", str(self.stage.home(host)),
                "--market", self.market_url, "--market-identity", self.market_identity,
                "--ask", "3600000",
            )  # fmt: skip

    def start_brokers(self) -> None:
        """A key broker for each custodian."""
        for role in ("owner", "buyer"):
            home = str(self.stage.home(role))
            self.stage.start(f"broker-{role}", "blindhost", "broker", "--home", home)

    def submit(self, job: dict[str, Any]) -> str:
        """Sign and submit a train job over the buyer's rows; its name."""
        file = self.stage.home("buyer") / "job.json"
        file.write_text(json.dumps(job | {"rows": self.row_count}), encoding="utf-8")
        view = self.blindhost(
            "buyer", "job", "submit", str(file), "--model", self.model, "--dataset", self.rows,
            "--image", self.measurement,
        )  # fmt: skip
        return str(view["job"])

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The market's own database: what happened when, by its clock, at no process's cost."""
        opened = Store.open_file(self.stage.home("market") / "market.db")
        try:
            yield opened
        finally:
            opened.close()

    def fund(self, microcredits: int) -> None:
        """More money for the buyer than one story costs."""
        self.stage.command(
            "blindhost-market", "credit", "--home", str(self.stage.home("market")),
            "--identity", self.buyer, "--microcredits", str(microcredits),
        )  # fmt: skip


@contextlib.contextmanager
def parties() -> Iterator[Parties]:
    """All parties, ready, until the block ends."""
    with Stage() as stage:
        told = Parties(stage, Display())
        told.prepare()
        told.fund(1_000_000_000)
        yield told


def train_job(steps: int, **recipe: Any) -> dict[str, Any]:
    """The demo's job over so many steps, and nothing but training.

    Without dropout: the arms draw their masks from other streams of random numbers.
    """
    changed = {"steps": steps, "evaluation": None, "dropout": "0", **recipe}
    return JOB | {"recipe": JOB["recipe"] | changed}


# --- the enclave's arm ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One progress record, and how it stood with processors when it came."""

    record: Progress
    at: float
    """Seconds of this machine's monotonic clock."""
    cpu_enclave: float
    """Seconds of processors that the enclave's processes have used since their start."""
    cpu_host: float
    """The same with the chip and the agent, whose relay carries the enclave's messages."""


def follow(told: Parties, job: str) -> list[Look]:
    """A job's records until it has finished: its adapter is sealed, stored and was reopened.

    Raises StepError if the job fails, or does not end within `JOB_SECONDS`.
    """
    home, keys = open_home(told.stage.home("buyer"), None)
    path, seen = home.progress_path(bytes.fromhex(job)), 0
    follower, looks = Follower(home, keys, bytes.fromhex(job)), list[Look]()
    started = time.monotonic()
    next_state = started + STATE_SECONDS
    with told.store() as store:
        while time.monotonic() < started + JOB_SECONDS:
            size = path.stat().st_size if path.exists() else 0
            if size == seen:
                if time.monotonic() > next_state:
                    next_state = time.monotonic() + STATE_SECONDS
                    if (state := state_of(store, job)) in LOST:
                        raise StepError(f"job {job[:8]} ended as {state.value}")
                time.sleep(LOOK_SECONDS)
                continue
            seen, now, enclave, host = size, time.monotonic(), *_cpu_of_hosts(told)
            for record in follower.new():
                looks.append(Look(record=record, at=now, cpu_enclave=enclave, cpu_host=host))
                if record.event is ProgressEvent.FAILED:
                    raise StepError(f"job {job[:8]} failed: {record.text}")
                if record.event is ProgressEvent.FINISHED:
                    return looks
    raise StepError(f"job {job[:8]}: no end within {JOB_SECONDS:.0f} s")


def state_of(store: Store, job: str) -> JobState:
    """A job's state, by the market's database."""
    with store.reading() as session:
        return find_job(session, bytes.fromhex(job)).state


def await_idle(told: Parties, job: str) -> None:
    """Wait until the job has settled and its enclave is gone: the next arm runs alone."""
    with told.store() as store:
        told.stage.wait_for(
            f"job {job[:8]} ends",
            lambda: state_of(store, job) is JobState.SUCCEEDED,
            seconds=START_SECONDS * 2,
        )
    told.stage.wait_for(
        "the enclave is gone",
        lambda: not any(descendants(chip) for chip in _chips(told)),
        seconds=START_SECONDS,
    )


def _chips(told: Parties) -> list[int]:
    """Pids of the hosts' chips."""
    said = (read_json(told.stage.home(host) / "agent.json") for host in HOSTS)
    return [int(each["chip_pid"]) for each in said if each]


def _cpu_of_hosts(told: Parties) -> tuple[float, float]:
    """Seconds used by all that the chips started; and by agents, chips and all that, together."""
    agents = [told.stage.parties[host].process.pid for host in HOSTS]
    chips = _chips(told)
    enclaves = [pid for chip in chips for pid in descendants(chip)]
    return cpu_seconds(enclaves), cpu_seconds({*agents, *chips, *enclaves})


def cpu_seconds(pids: list[int] | set[int]) -> float:
    """User and system time of these processes and of their children that have ended (proc(5)).

    A process that is gone counts where its parent has waited for it, and nowhere else.
    """
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            fields = text.rpartition(")")[2].split()
            ticks += sum(int(each) for each in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / TICKS_A_SECOND


# --- the plain arm -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlainRun:
    """One run of the plain script."""

    seconds: float
    """From its start to its exit, imports and all."""
    cpu: float
    """Seconds of processors of torchrun and its ranks."""
    ended: list[float]
    """When each step ended: seconds of the monotonic clock."""
    used: list[float]
    """Seconds of processors that both ranks had used at the end of each step."""


def plain_plan(told: Parties, job: dict[str, Any], folder: Path) -> Path:
    """What the plain arm needs, in files of its own: it imports nothing of ours."""
    from transformers import AutoTokenizer

    model = told.stage.home("owner") / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids, labels = [], []
    text = (told.stage.home("buyer") / "train.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        encoded = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids.append(encoded["input_ids"])
        masks = encoded["assistant_masks"]
        labels.append([i if m else -100 for i, m in zip(ids[-1], masks, strict=True)])
    fields: dict[str, Json] = job["recipe"]
    recipe, steps = LoraRecipe.from_json(fields), int(job["recipe"]["steps"])
    plan = Plan(
        rows=len(ids),
        seed=recipe.seed,
        rows_per_step=recipe.rows_per_step,
        accumulation=recipe.accumulation,
        world_size=RANKS,
    )
    content = {
        "model": str(model),
        "output": str(folder / "output"),
        "ranks": RANKS,
        "seed": recipe.seed,
        "rank": recipe.rank,
        "alpha": recipe.alpha,
        "dropout": float(recipe.dropout),
        "learning_rate": float(recipe.learning_rate),
        "learning_rates": [learning_rate(recipe, step, steps) for step in range(1, steps + 1)],
        "clip_norm": float(recipe.clip_norm),
        "checkpoint_steps": job["checkpoint_steps"],
        "ids": ids,
        "labels": labels,
        "steps": [
            [[plan.micro_rows(s, m, r) for r in range(RANKS)] for m in range(recipe.accumulation)]
            for s in range(1, steps + 1)
        ],
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def run_plain(told: Parties, plan: Path) -> PlainRun:
    """Run the plain script to its end."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(RANKS),
            "--master_port", "29655", str(PLAIN), str(plan),
        ],
        capture_output=True,
        check=True,
        text=True,
        env=told.stage.environment | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return PlainRun(
        seconds=seconds,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        ended=said["ended"],
        used=said["cpu"],
    )
