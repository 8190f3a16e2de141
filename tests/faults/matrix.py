"""Every process of a town, killed at every step of the flow: ``python -m tests.faults.matrix``.

    python -m tests.faults.matrix --records FILE [--part 0/2] [--backwards] [--cells …]
    python -m tests.faults.matrix --records FILE --table docs/faults.md

A cell is one job in a long-lived town, with one SIGKILL. A town in which a cell went wrong is left,
and the next cell has a fresh one. Records are JSON lines, one for each cell, appended as it ends;
a cell that is on record is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from demo.parties import StepError
from tests.faults.town import INTERVAL, JOB_SECONDS, STEPS, Town, Watched

VICTIMS: Final = (
    "market",
    "scheduler",
    "broker-owner",
    "broker-buyer",
    "agent",
    "chip",
    "enclave",
)
FLOW: Final = {
    "submitted": "the market took the job",
    "leased": "a lease is on the market's book",
    "ordered": "the buyer's broker ordered a generation",
    "launched": "the chip started the enclave",
    "released": "the owner's broker wrote that it gave its share",
    "started": "the enclave told the buyer that it begins",
    "stepped": "it told of step 1",
    "checkpointed": "the checkpoint of step 1 is committed",
    "finished": "it told the digest of the adapter",
    "settled": "the market has its last receipt",
}
WITHOUT_ENCLAVE: Final = frozenset({"submitted", "leased", "ordered"})
CELLS: Final = tuple(
    (victim, step)
    for step in FLOW
    for victim in VICTIMS
    if not (victim == "enclave" and step in WITHOUT_ENCLAVE)
)
SEED: Final = 14
SAMPLE: Final = 6

INTRODUCTION: Final = f"""\
# Faults

One process of a town is killed with SIGKILL at one step of the flow, and started again: a chip and
an enclave by their agent, all others at once by whoever runs them. Parties are real processes,
started by public commands; the job has {STEPS} LoRA steps on a tiny model, with a checkpoint
every {INTERVAL}. Agent, chip and enclave are those of the host that has the job's newest lease.

A cell is *same* if the job succeeded, the adapter's tensors have the undisturbed run's digest,
every settled receipt is by an attested enclave, the hold was captured or given back to the last
microcredit, at most {STEPS} + {INTERVAL} steps were paid, and the market's books balance. Fewer
than {STEPS} are paid where a receipt died with its enclave after its checkpoint was committed: the
host's loss. Then: generations used, steps paid, and seconds from submission to the job's end, on a
machine that was shared: no benchmark.

"""
OUTAGES: Final = """
## In process

[Faults in process](faults-in-process.md): every commit and every send, before and after, with the
counts; brokers put back to every earlier commit; hosts that drop, repeat and starve.

## Outages

What is gone for a while under a running job is not of this table; each is a test:

- `test_the_market_is_gone_for_a_while_and_the_job_ends_the_same`: for ten seconds, and for sixty.
- `test_a_part_of_ray_is_killed_and_the_job_ends_the_same`: Ray's head, and its raylet. The
  scheduler ends about a minute later, and whoever runs it has to start it again.
- `test_a_second_dialler_at_the_door_is_one_dialler_after_another`: the enclave serves the newest.
"""
ALL_RUN: Final = "`make test-full` runs all of them, `make test` a seeded sample of six."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one cell came to."""

    victim: str
    step: str
    hit: str
    """Whom the kill hit: a role of the town."""
    state: str
    """The job's at that moment, by the market's row."""
    faults: tuple[str, ...]
    """What was not as in the undisturbed run; empty: nothing."""
    generations: int
    paid: int
    """Steps in settled receipts."""
    seconds: float
    """From the submission until the job had ended."""
    ran: str
    """When, UTC."""


@dataclasses.dataclass(kw_only=True)
class Disturbed:
    """A job during which somebody was killed, and that has ended."""

    victim: str
    step: str
    watched: Watched
    hit: str = ""
    state: str = ""
    seconds: float = 0.0
    faults: list[str] = dataclasses.field(default_factory=list)


def sample(seed: int = SEED, count: int = SAMPLE) -> tuple[tuple[str, str], ...]:
    """A seeded sample of cells, each of another victim."""
    draw = random.Random(seed)
    victims = draw.sample(VICTIMS, count)
    return tuple(draw.choice([c for c in CELLS if c[0] == victim]) for victim in victims)


class Matrix:
    """A town, and the digest that every job in it must come to."""

    def __init__(self) -> None:
        self._town: Town | None = None
        self.tensors: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the town; the next cell has a fresh one."""
        if self._town is not None:
            self._town.close()
        self._town = self.tensors = None

    def town(self) -> Town:
        """A town in which one job has run undisturbed: all others must make what it made."""
        if self._town is None:
            self._town = Town()
            self._town.prepare()
            watched = self._town.submitted()
            follow_to_the_end(self._town, watched)
            self.tensors = watched.tensors
            if faults := check(self._town, watched, tensors=self.tensors, kills=0):
                raise StepError(f"undisturbed: {faults}")
        return self._town

    def run(self, victim: str, step: str) -> Outcome:
        """One cell, to the end of its money. One that goes wrong costs the town."""
        outcome = self.outcome(self.disturb(victim, step))
        if outcome.faults:
            self.leave()
        return outcome

    def disturb(self, victim: str, step: str) -> Disturbed:
        """One job, one kill, and the job's end. What goes wrong is among its faults."""
        town = self.town()
        watched = town.submitted()
        disturbed = Disturbed(victim=victim, step=step, watched=watched)
        began = time.monotonic()
        try:
            town.until(watched, step, lambda: town.reached(watched, step))
            disturbed.state = town.state(watched)
            disturbed.hit = town.kill(victim, watched)
            follow_to_the_end(town, watched)
        except StepError as error:
            disturbed.faults.append(str(error))
        disturbed.seconds = time.monotonic() - began
        return disturbed

    def outcome(self, disturbed: Disturbed) -> Outcome:
        """What is to be said of it once its money is settled."""
        town, watched, faults = self.town(), disturbed.watched, disturbed.faults
        if not faults:
            try:
                faults += check(town, watched, tensors=self.tensors, kills=1)
            except StepError as error:
                faults.append(str(error))
        generations, paid = town.generation(watched), town.paid_steps(watched)
        return Outcome(
            victim=disturbed.victim,
            step=disturbed.step,
            hit=disturbed.hit,
            state=disturbed.state,
            faults=tuple(faults),
            generations=generations,
            paid=paid,
            seconds=round(disturbed.seconds, 1),
            ran=dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        )


def run_cells(matrix: Matrix, cells: Iterable[tuple[str, str]]) -> Iterator[Outcome]:
    """One cell after another. A job's money settles while the next job runs, if all goes well."""
    before: Disturbed | None = None
    for victim, step in cells:
        now = matrix.disturb(victim, step)
        is_spoilt = bool(now.faults)
        if before is not None:
            outcome = matrix.outcome(before)
            is_spoilt = is_spoilt or bool(outcome.faults)
            yield outcome
        before = now
        if is_spoilt:
            yield matrix.outcome(now)
            matrix.leave()
            before = None
    if before is not None:
        yield matrix.outcome(before)


def follow_to_the_end(town: Town, watched: Watched) -> None:
    """Until the market says that the job has ended and the buyer was told of its adapter."""
    town.until(watched, "ended", lambda: town.ended(watched))
    if town.state(watched) == "succeeded":
        town.until(watched, "told", lambda: watched.tensors is not None, 30)


def check(town: Town, watched: Watched, *, tensors: str | None, kills: int) -> list[str]:
    """What is not as it should be once a job has ended.

    (1) It succeeded, and (2) made the same tensors. (3) Its hold is captured or given back, all of
    it. (4) Every settled receipt is by an attested enclave, the last says *done*, and the buyer's
    own log names the output. (5) No more was paid than its steps and one interval for each kill;
    no less than its steps but one interval for each kill, whose receipt may have died with its
    enclave. (6) The market's books balance.
    """
    faults = []
    if (state := town.state(watched)) != "succeeded":  # (1)
        return [f"ended as {state}: {town.standing(watched)}"]
    if watched.tensors != tensors:  # (2)
        faults.append(f"tensors {watched.tensors}, undisturbed {tensors}")
    shown = town.until(watched, "settled", lambda: town.shown(watched), JOB_SECONDS)  # (3)
    if shown["receipts_that_do_not_hold"]:  # (4)
        faults.append(f"receipts: {shown['receipts_that_do_not_hold']}")
    if not shown["outputs"] or shown["last_receipt"]["end"] != "done":
        faults.append("the buyer's log names no output")
    least, most = STEPS - INTERVAL * kills, STEPS + INTERVAL * kills
    if not least <= (paid := town.paid_steps(watched)) <= most:  # (5)
        faults.append(f"{paid} steps paid, wanted {least} to {most}")
    books = town.asked(town.books)
    if not books["balanced"]:  # (6)
        faults.append(f"books: {books['findings']}")
    return faults


# --- the table -----------------------------------------------------------------------------------


def read(path: Path) -> list[Outcome]:
    """Outcomes on record, in the order in which they ran; a cell may have run twice."""
    if not path.exists():
        return []
    values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Outcome(**(value | {"faults": tuple(value["faults"])})) for value in values]


def table(outcomes: list[Outcome]) -> str:
    """`docs/faults.md`: how it was made, the matrix, and what went wrong."""
    by_cell = {(each.victim, each.step): each for each in outcomes}
    ran = [each for each in CELLS if each in by_cell]
    wrong = [each for each in outcomes if each.faults]
    times = sorted(each.ran for each in outcomes)
    when = f", run from {times[0]} to {times[-1]}" if times else ""
    made = f"{len(ran)} of {len(CELLS)} cells{when}"
    lines = [
        *INTRODUCTION.splitlines(),
        f"Made by `python -m tests.faults.matrix`, from {made}. {ALL_RUN}",
        "",
        "| step | " + " | ".join(VICTIMS) + " |",
        "|---|" + "---|" * len(VICTIMS),
    ]
    for step in FLOW:
        cells = [_cell(by_cell.get((victim, step)), victim, step) for victim in VICTIMS]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    lines += ["", "A step is where a party wrote it:", ""]
    lines += [f"- *{step}*: {meaning}." for step, meaning in FLOW.items()]
    lines += ["", "## What went wrong", ""]
    for each in wrong:
        last = by_cell[each.victim, each.step]
        again = "" if last is each else " It ran again, and the table has its last run."
        lines.append(f"- {each.victim} at {each.step}: {'; '.join(each.faults)}.{again}")
    if not wrong:
        lines.append("Nothing.")
    return "\n".join([*lines, *OUTAGES.splitlines()]) + "\n"


def _cell(outcome: Outcome | None, victim: str, step: str) -> str:
    if victim == "enclave" and step in WITHOUT_ENCLAVE:
        return "no enclave yet"
    if outcome is None:
        return "did not run"
    said = f"{outcome.generations} gen, {outcome.paid} paid, {outcome.seconds:.0f} s"
    if outcome.faults:
        return f"**wrong**: {said}"
    if outcome.hit == "none runs":
        return f"none runs: {said}"
    return f"same: {said}"


def main(arguments: list[str] | None = None) -> int:
    """The command: 1 if a cell went wrong."""
    parser = argparse.ArgumentParser(prog="tests.faults.matrix", description=__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--table", type=Path, help="write all records as a table; run nothing")
    parser.add_argument("--part", default="0/1", help="N/OF: every OF-th cell, from the N-th on")
    parser.add_argument("--backwards", action="store_true", help="from the last cell on")
    parser.add_argument("--cells", default="", help="VICTIM/STEP,… instead of all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after")
    options = parser.parse_args(arguments)
    if options.table:
        options.table.write_text(table(read(options.records)), encoding="utf-8")
        return 0
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # and close the town
    number, of = (int(each) for each in options.part.split("/"))
    named = [(v, s) for v, _, s in (e.partition("/") for e in options.cells.split(",") if e)]
    until, wrong = time.monotonic() + options.seconds, 0
    cells = named or (CELLS[::-1] if options.backwards else CELLS)[number::of]

    def left() -> Iterator[tuple[str, str]]:
        for cell in cells:
            if time.monotonic() > until:
                return
            if named or cell not in {(each.victim, each.step) for each in read(options.records)}:
                yield cell

    with Matrix() as matrix:
        for outcome in run_cells(matrix, left()):
            wrong += bool(outcome.faults)
            line = json.dumps(dataclasses.asdict(outcome))
            with options.records.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
