"""The main job, told by its parties' public commands: seven steps, each of which can fail.

Nothing here does a party's work: it starts processes, asks them, kills one host, and looks. What it
reports was printed by a party or counted by it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from demo.blindness import Hit, Searcher, search_all, tensor_bytes
from demo.chat import Chat
from demo.display import Display
from demo.jobs import ASSETS, JOB
from demo.loopback import SUMMARY
from demo.opening import HOSTS, read_json
from demo.parties import Stage, StepError, descendants, visible_words
from demo.report import Followed, Told, check_report, make_report

JOB_SECONDS: Final = 600.0
COST_SECONDS: Final = 10.0  # between two looks at what a job has cost: each starts a command


class Story(Chat):
    """All seven steps, over one stage."""

    def __init__(
        self, stage: Stage, display: Display, when_prepared: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(stage, display)
        self.when_prepared = when_prepared
        """Called once everything is sealed and published, before the first job."""

    def run(self) -> dict[str, Any]:
        """Tell it all; the report, or StepError."""
        started = time.monotonic()
        self.prepare()
        self.when_prepared()
        with self.display.step(3, "an attested enclave trains; half-way its host is killed"):
            first = self.follow(self.submit(), kill_half_way=True)
        with self.display.step(4, "the job's twin runs undisturbed"):
            twin = self.follow(self.submit(), kill_half_way=False)
        with self.display.step(5, "a fresh enclave serves the adapter, and the buyer chats"):
            (adapter,) = self.show(first)["outputs"]
            self.serve(adapter)
            self.talk()
            self.ask_unsigned()
            self.stop_serving()
        with self.display.step(6, "receipts are verified, and the books printed"):
            shown = [self.show(each) for each in (first, twin)]
            shown.append(self.show_served(self.spoken.job))
            books = self.books()
        self.display.table(
            "The market's books (microcredits)",
            {each["account"]: f"{each['balance']:,}" for each in books["accounts"]},
        )
        with self.display.step(7, "hosts and market are searched for what is secret"):
            blindness, hits = self.search()
        told = Told(
            parties=self.stage.parties,
            first=first,
            twin=twin,
            shown=shown,
            forgeries=self.forgeries,
            spoken=self.spoken,
            books=books,
            blindness=blindness,
            hits=hits,
        )
        report = make_report(told)
        report["seconds"] = round(time.monotonic() - started, 1)
        check_report(report, told)
        return report

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
            self.ask_cost(followed)
            self.show_progress(followed)
            committed = any(r["event"] == "checkpoint" for r in followed.records)
            if kill_half_way and followed.killed_at_step is None:
                if committed and line["step"] >= half:
                    followed.killed_at_step = line["step"]
                    self.kill_host_of(job)
            elif kill_half_way and not self.forgeries and line["event"] == "checkpoint":
                self.forge_receipts(job)  # both hosts have receipts of this job by now
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

    def show_progress(self, followed: Followed) -> None:
        """One line from the newest record."""
        line = followed.records[-1]
        text = f"generation {line['generation']}: {line['event']}"
        detail = followed.progress()
        self.display.progress(text, done=line["step"], total=line["steps"], detail=detail)

    def ask_cost(self, followed: Followed) -> None:
        """What the job has cost so far, by the buyer's own command; not more than now and then."""
        if (now := time.monotonic()) - self._cost_asked >= COST_SECONDS:
            view = self.blindhost("buyer", "job", "show", followed.job)["market"]
            followed.money, self._cost_asked = view["money"], now

    def forge_receipts(self, job: str) -> None:
        """Every host of the job forges and replays receipts, the dead one's owner too."""
        for host in HOSTS:
            self.forgeries += self.stage.ask(
                "python", "-m", "demo.dishonest", "--home", str(self.stage.home(host)),
                "--market", self.market_url, "--market-identity", self.market_identity,
                "--job", job,
            )  # fmt: skip

    def kill_host_of(self, job: str) -> None:
        """SIGKILL to agent, chip and enclave of the host that holds the newest lease."""
        host = self.host_of(job)
        self.words += self.seen_in_proc()
        pids = self.stage.kill(host)
        self.display.note(f"{host} killed: {len(pids)} processes")

    def seen_in_proc(self) -> Iterator[tuple[str, bytes]]:
        """Arguments and environments of the hosts', the market's and the scheduler's processes."""
        for role in ("market", "scheduler", *HOSTS):
            if role in self.stage.parties and self.stage.parties[role].exit is None:
                pid = self.stage.parties[role].process.pid
                yield from visible_words([pid, *descendants(pid)])

    # --- 6: money --------------------------------------------------------------------------------

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

    def show_served(self, job: str) -> dict[str, Any]:
        """Likewise of a serve job, which makes nothing."""
        shown: dict[str, Any] = self.stage.wait_for(
            "the rest of the serve job's hold comes back", lambda: self.settled(job), seconds=60
        )
        if faults := shown["receipts_that_do_not_hold"]:
            raise StepError(f"receipts of job {job[:8]}: {faults}")
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

    # --- 7: blindness ----------------------------------------------------------------------------

    def search(self) -> tuple[dict[str, Any], list[Hit]]:
        """Search all that hosts, market and scheduler hold or carried; then the buyer's own."""
        searcher = Searcher(
            canaries={
                **{f"canary {n}": canary for n, canary in enumerate(self.canaries)},
                **{f"chat {n}": word for n, word in enumerate(self.spoken.words)},
            },
            weights={"weights": tensor_bytes(ASSETS / "model.safetensors")},
        )
        search_all(searcher, self.places(), self.words)
        for host in HOSTS:
            for tapped in ("chip", "leas_*-door-messages", "leas_*-door-blobs"):
                if not list((self.stage.home("taps") / host).glob(f"{tapped}-*.out")):
                    raise StepError(f"the tap of {host} recorded nothing at {tapped}")
        ray = read_json(self.stage.home("taps") / "ray" / SUMMARY)
        if ray["recorded"] and not ray["bytes"]:
            raise StepError("the recorder of loopback heard nothing of Ray")
        hits, searched = list(searcher.hits), searcher.bytes_searched
        own = (self.stage.home("buyer") / "train.jsonl").read_bytes()
        found = {hit.secret for hit in searcher.search("buyer", own)}
        blindness = {
            "bytes_searched": searched,
            "ray": ray,
            "hits": len(hits),
            "canary_found_at_buyer": len(found) == len(self.canaries),
        }
        return blindness, hits

    def places(self) -> list[Path]:
        """Folders of all that hosts, market and scheduler hold, and of what the taps recorded."""
        session = (read_json(self.stage.home("scheduler") / "ready.json") or {}).get("session")
        own = [self.stage.home(role) for role in ("market", "scheduler", "taps", "tmp", *HOSTS)]
        return [*own, Path(session)] if session else own
