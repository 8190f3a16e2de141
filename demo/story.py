"""The main job, told by its parties' public commands: six steps, each of which can fail.

Nothing here does a party's work: it starts processes, asks them, kills one host, and looks. What it
reports was printed by a party or counted by it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from demo.blindness import Hit, Searcher
from demo.display import Display
from demo.parties import Stage, StepError, descendants, visible_words

ASSETS: Final = Path(__file__).parent / "assets"
CHECKOUT: Final = Path(__file__).parents[1]
MODEL_FILES: Final = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
CANARIES: Final = 4  # rows planted in the dataset, each with a word that stands nowhere else
HOSTS: Final = ("host-1", "host-2")
FUNDS: Final = 50_000_000
JOB_SECONDS: Final = 600.0
START_SECONDS: Final = 60.0

JOB: Final[dict[str, Any]] = {
    "kind": "train",
    "template": None,
    "recipe": {
        "name": "lora",
        "rank": 8,
        "alpha": 16,
        "dropout": "0.05",
        "targets": ["all-linear"],
        "epochs": None,
        "steps": 150,
        "rows_per_step": 16,
        "accumulation": 1,
        "learning_rate": "0.004",
        "schedule": "cosine",
        "warmup_steps": 5,
        "weight_decay": "0",
        "clip_norm": "1",
        "seed": 7,
        "precision": "fp32",
        "packing": False,
        "loss_on": "assistant",
        "evaluation": {"rows_max": 200, "reply_tokens_max": 96, "header_ends_with": "]"},
    },
    "enclaves": 1,
    "local_ranks": 2,
    "sharding": "data-parallel",
    "length_max": 256,
    "compute_class": None,
    "resume_on_other_class": False,
    "checkpoint_steps": 25,
    "uncommitted_checkpoints_max": 4,
    "generations_max": 4,
    "spend_max_microcredits": 5_000_000,
    "ceiling_microcredits_per_step": 20_000,
    "bid": {
        "kind": "on-demand",
        "price_microcredits_per_gpu_hour": 20_000_000,
        "notice_seconds": 0,
    },
    "resources": {"gpu_model": "cpu", "gpus": 1, "memory_mib": 2048, "platform": "sev-snp"},
}


@dataclasses.dataclass(kw_only=True)
class Followed:
    """What the buyer saw of one job."""

    job: str
    records: list[dict[str, Any]]
    killed_at_step: int | None = None

    def measure(self, name: str) -> float | None:
        """The last value of a measure that the enclave sealed to the buyer."""
        for record in reversed(self.records):
            for each in record["measures"]:
                if each["measure"] == name:
                    return float(each["value"])
        return None

    @property
    def tensors(self) -> str | None:
        """SHA-256 of the adapter's tensors, as the enclave stated it."""
        return next((r["tensors"] for r in reversed(self.records) if r["tensors"]), None)

    @property
    def resumed_from(self) -> dict[str, Any] | None:
        """Where the last generation began."""
        started = [r for r in self.records if r["event"] == "started"]
        return started[-1]["resumed_from"] if started else None


class Story:
    """The six steps, over one stage."""

    def __init__(self, stage: Stage, display: Display) -> None:
        self.stage, self.display = stage, display
        self.market_url = self.market_identity = ""
        self.owner = self.buyer = self.model = self.measurement = self.root = ""
        self.rows = self.heldout = ""
        self.row_count = 0
        self.canaries = [f"canary-{secrets.token_hex(12)}".encode() for _ in range(CANARIES)]
        self.words: list[tuple[str, bytes]] = []

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

    def run(self) -> dict[str, Any]:
        """Tell it all; the report, or StepError."""
        started = time.monotonic()
        self.prepare()
        with self.display.step(3, "an attested enclave trains; half-way its host is killed"):
            first = self.follow(self.submit(), kill_half_way=True)
        with self.display.step(4, "the job's twin runs undisturbed"):
            twin = self.follow(self.submit(), kill_half_way=False)
        with self.display.step(5, "receipts are verified, and the books printed"):
            shown = [self.show(each) for each in (first, twin)]
            books = self.books()
        self.display.table(
            "The market's books (microcredits)",
            {each["account"]: f"{each['balance']:,}" for each in books["accounts"]},
        )
        with self.display.step(6, "hosts and market are searched for what is secret"):
            blindness, hits = self.search()
        report = self.report(first, twin, shown, books, blindness)
        report["seconds"] = round(time.monotonic() - started, 1)
        self.check(report, hits)
        return report

    # --- 0: who is there -------------------------------------------------------------------------

    def open_market(self) -> None:
        """A market, and a tap before its port: everybody is given the tap's address."""
        stage = self.stage
        maker = str(stage.home("chip-maker"))
        self.root = stage.ask("blindhost-agent", "simulated-root", "--home", maker)["fingerprint"]
        for host in HOSTS:
            home = str(stage.home(host))
            stage.command("blindhost-agent", "simulated-chip", "--root", maker, "--home", home)
        self.measurement = stage.ask(
            "blindhost", "image", "measure", str(CHECKOUT), "--checkout", "--json"
        )["measurement"]
        home = str(stage.home("market"))
        stage.command(
            "blindhost-market", "policy", "accept-simulated-roots", "--home", home,
            "--root", self.root, "--measurement", self.measurement,
        )  # fmt: skip
        stage.start("market", "blindhost-market", "serve", "--home", home, "--port", "0")
        endpoint = stage.wait_for(
            "the market listens",
            lambda: _json(stage.home("market") / "endpoint.json"),
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
        market, scheduler = str(stage.home("market")), str(stage.home("scheduler"))
        stage.start(
            "scheduler",
            "blindhost-scheduler",
            "serve",
            "--home",
            scheduler,
            "--market-home",
            market,
        )
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

    def await_offers(self) -> None:
        """The scheduler is up, and both hosts' offers are on the book."""
        stage = self.stage
        stage.wait_for(
            "the scheduler is ready",
            lambda: _json(stage.home("scheduler") / "ready.json"),
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
            "owner", "terms", "publish", "--lineage", lineage, "--recipe", "lora:16:1000",
            "--price-per-job", "10000", "--royalty-per-million-tokens", "50000",
        )  # fmt: skip
        self.publish_policy("owner", lineage)
        self.blindhost("owner", "model", "publish", self.model)

    def publish_policy(self, role: str, lineage: str) -> None:
        """A use policy that names the measured image and the throwaway root."""
        self.blindhost(
            role, "policy", "publish", "--lineage", lineage, "--measurement", self.measurement,
            "--accept-simulated-evidence-from", self.root,
        )  # fmt: skip

    def seal_rows(self) -> None:
        """Plant canaries, seal both files under one lineage, and fund the account."""
        home = self.stage.home("buyer")
        rows = (ASSETS / "train.jsonl").read_text(encoding="utf-8").splitlines()
        for number, canary in enumerate(self.canaries):
            rows[number * 100] = json.dumps(_canary_row(canary.decode()))
        (home / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        shutil.copyfile(ASSETS / "eval.jsonl", home / "eval.jsonl")
        train = self.blindhost(
            "buyer", "dataset", "seal", str(home / "train.jsonl"), "--kind", "simulated"
        )
        self.rows, self.row_count = train["artifact"], train["rows"]
        self.heldout = self.blindhost(
            "buyer", "dataset", "seal", str(home / "eval.jsonl"), "--kind", "simulated",
            "--lineage", train["lineage"],
        )["artifact"]  # fmt: skip
        self.publish_policy("buyer", train["lineage"])
        self.stage.command(
            "blindhost-market", "credit", "--home", str(self.stage.home("market")),
            "--identity", self.buyer, "--microcredits", str(FUNDS),
        )  # fmt: skip

    # --- 3 and 4: the job and its twin -----------------------------------------------------------

    def submit(self, job: dict[str, Any] = JOB) -> str:
        """Sign and submit; the job's name. Each submission draws a nonce of its own."""
        file = self.stage.home("buyer") / "job.json"
        file.write_text(json.dumps(job | {"rows": self.row_count}), encoding="utf-8")
        evaluates = job["recipe"]["evaluation"] is not None
        heldout = ["--heldout", self.heldout] if evaluates else []
        view = self.blindhost(
            "buyer", "job", "submit", str(file), "--model", self.model, "--dataset", self.rows,
            *heldout, "--image", self.measurement,
        )  # fmt: skip
        return str(view["job"])

    def follow(self, job: str, *, kill_half_way: bool) -> Followed:
        """Watch a job to its end as the buyer does; on the way, kill the host that runs it."""
        role = f"watch-{job[:8]}"
        home = str(self.stage.home("buyer"))
        self.stage.start(role, "blindhost", "job", "watch", job, "--home", home, "--json")
        followed = Followed(job=job, records=[])
        half = JOB["recipe"]["steps"] // 2
        for line in self.lines(role):
            if line["event"] == "ended":
                if (state := line["job"]["state"]) != "succeeded":
                    raise StepError(f"job {job[:8]} ended as {state}")
                return followed
            followed.records.append(line)
            self.show_progress(line, followed)
            committed = any(r["event"] == "checkpoint" for r in followed.records)
            if kill_half_way and followed.killed_at_step is None:
                if committed and line["step"] >= half:
                    followed.killed_at_step = line["step"]
                    self.kill_host_of(job)
            elif not self.words:
                self.words = list(self.seen_in_proc())
        raise StepError(f"job {job[:8]}: {self.stage.log_tail(role)}")

    def lines(self, role: str) -> Iterator[dict[str, Any]]:
        """JSON objects that a process prints, as they come."""
        party, deadline, read = self.stage.parties[role], time.monotonic() + JOB_SECONDS, 0
        while time.monotonic() < deadline:
            ended = party.exit is not None
            whole, newline, _ = party.log.read_bytes()[read:].rpartition(b"\n")
            read += len(whole) + len(newline)
            for line in whole.splitlines():
                if line.startswith(b"{"):
                    yield json.loads(line)
            if ended:
                return
            time.sleep(0.2)
        raise StepError(f"{role}: no end within {JOB_SECONDS:.0f} s")

    def show_progress(self, line: dict[str, Any], followed: Followed) -> None:
        """Loss, speed and time left, from what the enclave sealed to the buyer."""
        seconds = line["milliseconds"] / 1000
        parts = []
        if (loss := followed.measure("loss")) is not None:
            parts.append(f"loss {loss:.2f}")
        if seconds and line["tokens"]:
            taken = line["step"] - (followed.resumed_from or {"step": 0})["step"]
            left = (line["steps"] - line["step"]) * seconds / max(1, taken)
            parts.append(f"{line['tokens'] / seconds:,.0f} tokens/s")
            parts.append(f"{left:.0f} s left")
        text = f"generation {line['generation']}: {line['event']}"
        self.display.progress(text, done=line["step"], total=line["steps"], detail=", ".join(parts))

    def kill_host_of(self, job: str) -> None:
        """SIGKILL to agent, chip and enclave of the host that holds the newest lease."""
        leases = self.blindhost("buyer", "job", "show", job)["market"]["leases"]
        for host in HOSTS:
            status = _json(self.stage.home(host) / "agent.json")
            if status and status["identity"] == leases[0]["host"]:
                self.words += self.seen_in_proc()
                pids = self.stage.kill(host)
                self.display.note(f"{host} killed: {len(pids)} processes")
                return
        raise StepError(f"no host of ours holds the lease of job {job[:8]}")

    def seen_in_proc(self) -> Iterator[tuple[str, bytes]]:
        """Arguments and environments of the hosts', the market's and the scheduler's processes."""
        for role in ("market", "scheduler", *HOSTS):
            if role in self.stage.parties and self.stage.parties[role].exit is None:
                pid = self.stage.parties[role].process.pid
                yield from visible_words([pid, *descendants(pid)])

    # --- 5: money --------------------------------------------------------------------------------

    def show(self, followed: Followed) -> dict[str, Any]:
        """What the buyer's own log and the market say of a job; receipts must all hold."""
        shown: dict[str, Any] = self.stage.wait_for(
            "the rest of the hold comes back", lambda: self.settled(followed.job), seconds=60
        )
        if faults := shown["receipts_that_do_not_hold"]:
            raise StepError(f"receipts of job {followed.job[:8]}: {faults}")
        if not shown["outputs"]:
            raise StepError(f"job {followed.job[:8]} names no output in its last receipt")
        return shown

    def settled(self, job: str) -> dict[str, Any] | None:
        """What is shown of a job once its hold has ended; None until then."""
        shown: dict[str, Any] = self.blindhost("buyer", "job", "show", job)
        money = shown["market"]["money"]
        return shown if money["captured"] + money["released"] == money["reserved"] else None

    def books(self) -> dict[str, Any]:
        """The market's trial balance."""
        home = str(self.stage.home("market"))
        found: dict[str, Any] = self.stage.ask(
            "blindhost-market", "books", "--home", home, "--json"
        )
        return found

    # --- 6: blindness ----------------------------------------------------------------------------

    def search(self) -> tuple[dict[str, Any], list[Hit]]:
        """Search all that hosts, market and scheduler hold or carried; then the buyer's own."""
        searcher = Searcher(
            canaries={f"canary {n}": canary for n, canary in enumerate(self.canaries)},
            weights={"weights": tensor_bytes(ASSETS / "model.safetensors")},
        )
        search_all(searcher, self.places(), self.words)
        for host in HOSTS:
            for tapped in ("chip", "leas_*-door-messages", "leas_*-door-blobs"):
                if not list((self.stage.home("taps") / host).glob(f"{tapped}-*.out")):
                    raise StepError(f"the tap of {host} recorded nothing at {tapped}")
        hits, searched = list(searcher.hits), searcher.bytes_searched
        own = (self.stage.home("buyer") / "train.jsonl").read_bytes()
        found = {hit.secret for hit in searcher.search("buyer", own)}
        blindness = {
            "bytes_searched": searched,
            "hits": len(hits),
            "canary_found_at_buyer": len(found) == len(self.canaries),
        }
        return blindness, hits

    def places(self) -> list[Path]:
        """Folders of all that hosts, market and scheduler hold, and of what the taps recorded."""
        session = (_json(self.stage.home("scheduler") / "ready.json") or {}).get("session")
        own = [self.stage.home(role) for role in ("market", "scheduler", "taps", "tmp", *HOSTS)]
        return [*own, Path(session)] if session else own

    # --- the report ------------------------------------------------------------------------------

    def report(
        self,
        first: Followed,
        twin: Followed,
        shown: list[dict[str, Any]],
        books: dict[str, Any],
        blindness: dict[str, Any],
    ) -> dict[str, Any]:
        """All that was seen, in the shape that ``--json`` prints."""
        sums: dict[str, int] = {}
        for account in books["accounts"]:
            sums[account["role"]] = sums.get(account["role"], 0) + account["balance"]
        resumed = first.resumed_from
        return {
            "processes": {
                role: {"pid": party.process.pid, "exit": party.exit}
                for role, party in self.stage.parties.items()
            },
            "eval": {
                "loss_base": first.measure("loss_base"),
                "loss_tuned": first.measure("loss_tuned"),
                "exact_match_base": first.measure("exact_header_base"),
                "exact_match_tuned": first.measure("exact_header_tuned"),
                "exact_whole_tuned": first.measure("exact_whole_tuned"),
            },
            "resume": {
                "killed_at_step": first.killed_at_step,
                "resumed_from_step": resumed["step"] if resumed else None,
                "bit_identical": first.tensors is not None and first.tensors == twin.tensors,
            },
            "blindness": blindness,
            "ledger": {
                "balanced": books["balanced"],
                "paid_by_buyer": sum(s["market"]["money"]["captured"] for s in shown),
                "to_hosts": sums.get("host_pending", 0) + sums.get("host_payable", 0),
                "to_owner": sums.get("owner_pending", 0) + sums.get("owner_payable", 0),
                "to_market": sums.get("fees", 0),
                "refunded": sum(s["market"]["money"]["released"] for s in shown),
            },
            "receipts": {
                "settled": sum(len(s["settled"]) for s in shown),
                "refused": sum(s["refused_receipts"] for s in shown),
            },
            "chat": None,
        }

    def check(self, report: dict[str, Any], hits: list[Hit]) -> None:
        """Every promise of the story, or StepError for the first that does not hold."""
        ledger, resume, scores = report["ledger"], report["resume"], report["eval"]
        paid = ledger["to_hosts"] + ledger["to_owner"] + ledger["to_market"]
        promises = {
            "no secret stands anywhere at hosts or market": not hits,
            "the search finds the canaries at the buyer": report["blindness"][
                "canary_found_at_buyer"
            ],
            "the books balance": ledger["balanced"],
            "what the buyer paid is what others got": paid == ledger["paid_by_buyer"] > 0,
            "the rest of the hold came back": ledger["refunded"] > 0,
            "the job resumed from a committed checkpoint": resume["resumed_from_step"] is not None
            and 0 < resume["resumed_from_step"] <= resume["killed_at_step"],
            "the resumed run and its twin are bit-identical": resume["bit_identical"],
            "training made the model better": scores["loss_tuned"] < scores["loss_base"],
            "receipts settled": report["receipts"]["settled"] > 0,
        }
        for promise, holds in promises.items():
            if not holds:
                raise StepError(f"it does not hold that {promise}: {hits[:5] or report}")


def search_all(searcher: Searcher, places: list[Path], words: list[tuple[str, bytes]]) -> None:
    """Search every file below the places, their names too, and words seen in /proc."""
    for place in places:
        for path in sorted(place.rglob("*")):
            name = str(path.relative_to(place.parent))
            searcher.search(f"name of {name}", name.encode("utf-8", "surrogateescape"))
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):  # its process may remove it meanwhile
                    searcher.search(name, path.read_bytes())
    for name, content in words:
        searcher.search(name, content)


def tensor_bytes(path: Path) -> bytes:
    """A safetensors file without its header: tensor names are in every config, and no secret."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def _canary_row(canary: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Noor here. My order {canary} has not come."},
            {
                "role": "assistant",
                "content": f"[shipping/late/normal] Dear Noor, {canary} is late.",
            },
        ]
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
