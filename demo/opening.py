"""Steps 0 to 2: everybody is there, everything is sealed and published, and money is there.

Nothing here does a party's work: it starts processes and asks them by their public commands.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

from demo.display import Display
from demo.jobs import ASSETS, CANARIES, MODEL_FILES, planted_rows
from demo.loopback import SUMMARY
from demo.parties import Stage, StepError

CHECKOUT: Final = Path(__file__).parents[1]
HOSTS: Final = ("host-1", "host-2")
FUNDS: Final = 50_000_000
START_SECONDS: Final = 60.0


class Opening:
    """A stage with all parties on it, made ready step by step."""

    def __init__(self, stage: Stage, display: Display) -> None:
        self.stage, self.display = stage, display
        self.market_url = self.market_identity = ""
        self.owner = self.buyer = self.model = self.measurement = self.root = ""
        self.rows = self.heldout = self.lineage = ""
        self.roots: list[str] = []
        """As a policy names them: of processors, of GPUs, and of GPUs' reference measurements."""
        self.row_count = 0
        self.canaries = [f"canary-{secrets.token_hex(12)}".encode() for _ in range(CANARIES)]
        self.words: list[tuple[str, bytes]] = []
        self.forgeries: list[dict[str, Any]] = []
        self._cost_asked = float("-inf")

    def prepare(self) -> None:
        """Steps 0 to 2: everybody is there, everything sealed and published."""
        with self.display.step(0, "a market, a scheduler, two hosts, two brokers start"):
            self.open_market()
            self.make_parties()
            self.start_daemons()
        with self.display.step(1, "the owner seals its model, and publishes terms and policy"):
            self.publish_model()
        with self.display.step(2, "the buyer seals its rows, and funds an account"):
            self.seal_rows()
            self.await_offers()

    # --- 0: who is there -------------------------------------------------------------------------

    def open_market(self) -> None:
        """A market, and a tap before its port: everybody is given the tap's address."""
        stage = self.stage
        maker = str(stage.home("chip-maker"))
        self.make_roots(maker)
        for host in HOSTS:
            home = str(stage.home(host))
            stage.command("blindhost-agent", "simulated-chip", "--root", maker, "--home", home)
        self.measurement = stage.ask(
            "blindhost", "image", "measure", str(CHECKOUT), "--checkout", "--json"
        )["measurement"]
        home = str(stage.home("market"))
        stage.command(
            "blindhost-market", "policy", "accept-simulated-roots", "--home", home,
            *each("--root", self.roots), "--measurement", self.measurement,
        )  # fmt: skip
        stage.start("market", "blindhost-market", "serve", "--home", home, "--port", "0")
        endpoint = stage.wait_for(
            "the market listens",
            lambda: read_json(stage.home("market") / "endpoint.json"),
            seconds=START_SECONDS,
            watch=["market"],
        )
        self.market_identity = endpoint["identity"]
        port = endpoint["url"].rpartition(":")[2].strip("/")
        record = str(stage.home("taps") / "market")
        stage.start(
            "tap-market", "python", "-m", "demo.tap", "listen", "--to", port, "--record", record
        )
        said = stage.wait_for(
            "the tap listens",
            lambda: stage.log_tail("tap-market").strip(),
            seconds=START_SECONDS,
            watch=["tap-market"],
        )
        self.market_url = f"http://127.0.0.1:{int(said)}"

    def make_roots(self, maker: str) -> None:
        """The throwaway roots of a make-believe AMD and NVIDIA."""
        made = self.stage.ask("blindhost-agent", "simulated-root", "--home", maker)
        self.root = made["fingerprint"]
        self.roots = [
            self.root,
            f"nvidia-device={made['nvidia_device_fingerprint']}",
            f"nvidia-rim={made['nvidia_rim_fingerprint']}",
        ]

    def make_parties(self) -> None:
        """Keys for owner and buyer, each in its own home."""
        for role in ("owner", "buyer"):
            found = self.blindhost(
                role, "init", "--market", self.market_url, "--market-identity", self.market_identity
            )
            setattr(self, role, found["identity"])

    def blindhost(self, role: str, *arguments: str) -> Any:
        """Run a command of a party in its own home."""
        home = str(self.stage.home(role))
        return self.stage.ask("blindhost", *arguments, "--home", home, "--json")

    def start_daemons(self) -> None:
        """Brokers, scheduler, agents, and a tap before each door."""
        stage = self.stage
        for role in ("owner", "buyer"):
            home = str(stage.home(role))
            stage.start(f"broker-{role}", "blindhost", "broker", "--home", home)
        self.start_scheduler()
        for host in HOSTS:
            folder, record = stage.home(host), str(stage.home("taps") / host)
            stage.start(
                f"tap-{host}", "python", "-m", "demo.tap", "host",
                "--home", str(folder), "--record", record,
            )  # fmt: skip
            stage.start(
                host, "blindhost-agent", "serve", "--home", str(folder),
                "--market", self.market_url, "--market-identity", self.market_identity,
                "--ask", "3600000",
            )  # fmt: skip

    def start_scheduler(self) -> None:
        """The scheduler, and before it an ear on all that Ray will say over loopback."""
        stage = self.stage
        pid_file, record = stage.home("taps") / "scheduler.pid", stage.home("taps") / "ray"
        stage.start(
            "tap-ray", "python", "-m", "demo.loopback",
            "--pid-file", str(pid_file), "--record", str(record),
        )  # fmt: skip
        said = stage.wait_for(
            "the recorder of loopback says whether it may listen",
            lambda: stage.log_tail("tap-ray").strip(),
            seconds=START_SECONDS,
        )
        if said != "listening":
            why = (read_json(record / SUMMARY) or {}).get("why", said)
            self.display.note(f"Ray's own connections are not recorded: {why}")
        scheduler = stage.start(
            "scheduler", "blindhost-scheduler", "serve",
            "--home", str(stage.home("scheduler")), "--market-home", str(stage.home("market")),
        )  # fmt: skip
        pid_file.write_text(str(scheduler.process.pid))

    def await_offers(self) -> None:
        """The scheduler is up, and both hosts' offers are on the book."""
        stage = self.stage
        stage.wait_for(
            "the scheduler is ready",
            lambda: read_json(stage.home("scheduler") / "ready.json"),
            seconds=START_SECONDS,
            watch=["scheduler"],
        )
        stage.wait_for(
            "two offers are listed",
            lambda: len(self.blindhost("buyer", "offers")) == len(HOSTS),
            seconds=START_SECONDS,
            watch=HOSTS,
        )

    # --- 1 and 2: sealing ------------------------------------------------------------------------

    def publish_model(self) -> None:
        """Seal, publish, and say under which terms and on what machine."""
        folder = self.stage.home("owner") / "model"
        folder.mkdir()
        for name in MODEL_FILES:
            shutil.copyfile(ASSETS / name, folder / name)
        sealed = self.blindhost("owner", "model", "seal", str(folder), "--kind", "simulated")
        self.model, lineage = sealed["artifact"], sealed["lineage"]
        self.blindhost(
            "owner", "terms", "publish", "--lineage", lineage,
            "--recipe", "lora:16:1000", "--recipe", "generate:16:1",
            "--price-per-job", "10000", "--royalty-per-million-tokens", "50000",
        )  # fmt: skip
        self.publish_policy("owner", lineage)
        self.blindhost("owner", "model", "publish", self.model)

    def publish_policy(self, role: str, lineage: str) -> None:
        """A use policy that names the measured image and the throwaway root."""
        self.blindhost(
            role, "policy", "publish", "--lineage", lineage, "--measurement", self.measurement,
            *each("--accept-simulated-evidence-from", self.roots),
        )  # fmt: skip

    def seal_rows(self) -> None:
        """Plant canaries, seal both files under one lineage, and fund the account."""
        home = self.stage.home("buyer")
        (home / "train.jsonl").write_text(planted_rows(self.canaries), encoding="utf-8")
        shutil.copyfile(ASSETS / "eval.jsonl", home / "eval.jsonl")
        train = self.blindhost(
            "buyer", "dataset", "seal", str(home / "train.jsonl"), "--kind", "simulated"
        )
        self.rows, self.row_count = train["artifact"], train["rows"]
        self.heldout = self.blindhost(
            "buyer", "dataset", "seal", str(home / "eval.jsonl"), "--kind", "simulated",
            "--lineage", train["lineage"],
        )["artifact"]  # fmt: skip
        self.lineage = str(train["lineage"])
        self.publish_policy("buyer", self.lineage)
        self.stage.command(
            "blindhost-market", "credit", "--home", str(self.stage.home("market")),
            "--identity", self.buyer, "--microcredits", str(FUNDS),
        )  # fmt: skip

    def host_of(self, job: str) -> str:
        """Which host of ours holds the newest lease of a job."""
        leases = self.blindhost("buyer", "job", "show", job)["market"]["leases"]
        for host in HOSTS:
            status = read_json(self.stage.home(host) / "agent.json")
            if status and status["identity"] == leases[0]["host"]:
                return host
        raise StepError(f"no host of ours holds the lease of job {job[:8]}")


def read_json(path: Path) -> Any:
    """What a party wrote about itself; None where it has not yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def each(option: str, values: list[str]) -> list[str]:
    """An option that is repeated."""
    return [word for value in values for word in (option, value)]
