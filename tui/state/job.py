"""What is known of one job: head, stages, curve, cost, what is safe, events, receipts.

- A fact of another job changes nothing.
- Any order, any number of times: newest word wins, events stand by their offsets, records by their
  steps. An end absorbs: what is said of an ended job afterwards is not taken.
- At most `EVENTS_MAX` events, `RECORDS_MAX` records, `RECEIPTS_MAX` receipts; the oldest go. Points
  of the curve are folded, so their number is no matter.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from tui.facts import (
    STAGES,
    Attestation,
    Checkpoint,
    Cost,
    Evaluation,
    Exported,
    Fact,
    Failure,
    JobEvent,
    JobHead,
    Progress,
    ReceiptView,
    ResultFetch,
    Stage,
    StageState,
)
from tui.state.curve import Curve, Mark, add
from tui.state.verdicts import severity

EVENTS_MAX: Final = 20_000
RECORDS_MAX: Final = 5_000
SAME_STEP_MAX: Final = 16  # records of one step: its measure, a checkpoint, an evaluation
RECEIPTS_MAX: Final = 1_000
GENERATIONS_MAX: Final = 64
ASKED_MAX: Final = 32

_GENERATION: Final = re.compile(r"generation (\d{1,9})")

ENDED: Final = ("succeeded", "failed", "cancelled", "exhausted")

F = TypeVar("F", bound=Fact)


def nothing() -> Mapping[Any, Any]:
    """An empty mapping that nobody can change."""
    return MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One job."""

    job: str
    """Its whole id."""
    head: JobHead | None = None
    stages: Mapping[str, Stage] = dataclasses.field(default_factory=nothing)
    curve: Curve = Curve()  # noqa: RUF009 - frozen
    progress: Progress | None = None
    """The newest record."""
    records: tuple[Progress, ...] = ()
    """By generation and step."""
    starts: Mapping[int, int] = dataclasses.field(default_factory=nothing)
    """Generation → the first step that was heard of it."""
    evaluation: Evaluation | None = None
    cost: Cost | None = None
    checkpoint: Checkpoint | None = None
    events: tuple[JobEvent, ...] = ()
    """By offset."""
    attestation: Attestation | None = None
    """Of the newest generation."""
    receipts: Mapping[str, ReceiptView] = dataclasses.field(default_factory=nothing)
    result: ResultFetch | None = None
    failure: Failure | None = None
    """The newest; what came before it stays."""
    asked: tuple[str, ...] = ()
    """Ids of commands that were posted for this job."""
    said: str = ""
    """The newest answer to one of them."""
    heard_at: int | None = None
    """The newest time at which anything of it was true."""

    @property
    def ended(self) -> bool:
        """It is over."""
        return self.head is not None and self.head.state in ENDED

    @property
    def generation(self) -> int:
        """The newest that anything was heard of; 0: none."""
        said = 0 if self.head is None else self.head.generation
        return max(said, *self.starts, 0)

    @property
    def step(self) -> int | None:
        """Where it stands."""
        if self.progress is not None:
            return self.progress.step
        return None if self.head is None else self.head.step

    @property
    def steps(self) -> int | None:
        """Where it ends."""
        if self.progress is not None:
            return self.progress.steps
        return None if self.head is None else self.head.steps


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    if isinstance(fact, Failure | Exported):
        return _answered(state, fact)
    of = fact.id if isinstance(fact, JobHead) else getattr(fact, "job", None)
    if of != state.job:
        return state
    taken = _taken(state, fact)
    if taken is state or (state.heard_at is not None and fact.as_of <= state.heard_at):
        return taken
    return dataclasses.replace(taken, heard_at=fact.as_of)


def _taken(state: State, fact: Fact) -> State:
    match fact:
        case JobHead():
            return _headed(state, fact)
        case Stage() if fact.name in STAGES:
            held = newer(state.stages.get(fact.name), fact)
            stages = MappingProxyType({**state.stages, fact.name: held})
            return dataclasses.replace(state, stages=stages)
        case Progress():
            return _progressed(state, fact)
        case JobEvent():
            events = inserted(state.events, fact, _offset, _one_event, EVENTS_MAX)
            return dataclasses.replace(state, events=events)
        case Evaluation():
            return dataclasses.replace(state, evaluation=newer(state.evaluation, fact))
        case Cost():
            return dataclasses.replace(state, cost=newer(state.cost, fact))
        case Checkpoint():
            return dataclasses.replace(state, checkpoint=newer(state.checkpoint, fact))
        case ResultFetch():
            return dataclasses.replace(state, result=newer(state.result, fact))
        case Attestation():
            return _attested(state, fact)
        case ReceiptView():
            return _received(state, fact)
        case _:
            return state


def _headed(state: State, fact: JobHead) -> State:
    """An end absorbs."""
    if state.ended and state.head is not None and fact.state != state.head.state:
        return state
    return dataclasses.replace(state, head=newer(state.head, fact))


def _attested(state: State, fact: Attestation) -> State:
    held = state.attestation
    if held is not None and held.generation > fact.generation:
        return state
    if held is None or held.generation < fact.generation:
        return dataclasses.replace(state, attestation=fact)
    if fact.verified_at == held.verified_at:  # by two policies: the worse one counts
        worse = max(held, fact, key=severity)
        return dataclasses.replace(state, attestation=worse)
    return dataclasses.replace(state, attestation=newer(held, fact))


def _received(state: State, fact: ReceiptView) -> State:
    receipts = {**state.receipts, fact.id: newer(state.receipts.get(fact.id), fact)}
    while len(receipts) > RECEIPTS_MAX:
        del receipts[min(receipts, key=lambda key: _age(receipts[key]))]
    return dataclasses.replace(state, receipts=MappingProxyType(receipts))


def newer(old: F | None, new: F) -> F:
    """The newer word of two about one thing; of two as old, the one that came last."""
    return new if old is None or new.as_of >= old.as_of else old


def _age(receipt: ReceiptView) -> tuple[int, int]:
    return (receipt.generation, receipt.number)


def _answered(state: State, fact: Failure | Exported) -> State:
    if isinstance(fact, Exported):
        if fact.command in state.asked:
            return dataclasses.replace(state, said=f"{fact.words}: {fact.path}")
        return state
    if fact.where in state.asked:
        return dataclasses.replace(state, said=f"not done: {fact.words} ({fact.code})")
    if concerns(fact, "job", state.job):
        return dataclasses.replace(state, failure=newer(state.failure, fact))
    return state


def concerns(fact: Failure, kind: str, of: str) -> bool:
    """It is about looking at this subject, or at what belongs to it."""
    return fact.where in {kind, f"look:{kind}:{of}", f"others:{of}"}


def asking(state: State, command: str) -> State:
    """A command was posted: its answer is this job's."""
    return dataclasses.replace(state, asked=(*state.asked, command)[-ASKED_MAX:], said="")


def _progressed(state: State, fact: Progress) -> State:
    at = bisect.bisect_left(state.records, _place(fact), key=_place)
    held = next((e for e in state.records[at : at + SAME_STEP_MAX] if _one_record(e, fact)), None)
    if held is not None:  # a record that is told again may say more, or less, of its speed
        fact = _joined(held, fact)
    records = inserted(state.records, fact, _place, _one_record, RECORDS_MAX)
    if records is state.records:
        return state
    starts = dict(state.starts)
    if fact.generation > 0:
        starts[fact.generation] = min(fact.step, starts.get(fact.generation, fact.step))
        while len(starts) > GENERATIONS_MAX:
            del starts[min(starts)]
    newest = state.progress
    if newest is None or _place(fact) >= _place(newest):
        newest = fact
    curve = add(state.curve, fact.step, fact.loss, fact.generation) if fact.loss else state.curve
    return dataclasses.replace(
        state,
        records=records,
        starts=MappingProxyType(starts),
        progress=newest,
        curve=curve,
    )


def _place(record: Progress) -> tuple[int, int]:
    return (record.generation, record.step)


def _one_record(first: Progress, second: Progress) -> bool:
    return _place(first) == _place(second) and (first.loss, first.words) == (
        second.loss,
        second.words,
    )


def _joined(held: Progress, new: Progress) -> Progress:
    if new.as_of < held.as_of:
        held, new = new, held
    speed, to_go = new.tokens_per_second, new.milliseconds_left
    return dataclasses.replace(
        new,
        tokens_per_second=held.tokens_per_second if speed is None else speed,
        milliseconds_left=held.milliseconds_left if to_go is None else to_go,
    )


def _offset(event: JobEvent) -> int:
    return event.offset


def _one_event(first: JobEvent, second: JobEvent) -> bool:
    return first.offset == second.offset


def inserted(
    held: tuple[F, ...],
    new: F,
    place: Callable[[F], Any],
    same: Callable[[F, F], bool],
    most: int,
) -> tuple[F, ...]:
    """`held`, in order of `place`, with `new` in its place; the first go above `most`.

    Of what is the `same`, the newer word stands. If nothing changes, `held` itself comes back.
    """
    if not held or place(new) > place(held[-1]):  # facts come in order, nearly always
        grown = held + (new,)  # noqa: RUF005 - one copy of a long tuple, where * makes two
        return grown if len(grown) <= most else grown[-most:]
    at = bisect.bisect_left(held, place(new), key=place)
    while at < len(held) and place(held[at]) == place(new):
        if same(held[at], new):
            if held[at] == new or held[at].as_of > new.as_of:
                return held
            return (*held[:at], new, *held[at + 1 :])
        at += 1
    if at == 0 and len(held) >= most:
        return held  # older than all that there is room for
    return (*held[:at], new, *held[at:])[-most:]


def marks(state: State) -> tuple[Mark, ...]:
    """Where the run went on after it was cut: ``host lost, resumed at 600``."""
    cuts = {}
    for event in state.events:
        if (cause := _cause(event)) and (said := _GENERATION.search(event.words)):
            cuts[int(said[1])] = cause
    found = []
    for generation in sorted(each for each in state.starts if each > 1):
        step = state.starts[generation]
        cause = cuts.get(generation - 1, "another host")
        again = f"resumed at {step:,}"
        found.append(Mark(step=step, words=f"{cause}, {again}", short=again))
    return tuple(found)


def _cause(event: JobEvent) -> str:
    """Why a host stopped; empty: the event is not about that."""
    if event.kind.replace("_", "-") != "host-lost":
        return ""
    words = event.words.lower()
    return "outbid" if "outbid" in words else "revoked" if "revoked" in words else "host lost"


def stage_now(state: State) -> Stage | None:
    """The stage that runs or failed, else the first that waits and was heard of."""
    for wanted in ({StageState.FAILED}, {StageState.RUNNING}, {StageState.WAITING}):
        for name in STAGES:
            stage = state.stages.get(name)
            if stage is not None and stage.state in wanted:
                return stage
    return None


def trains(state: State) -> bool:
    """There is a curve to draw."""
    return not state.curve.empty


def cause_of_end(state: State) -> Stage | None:
    """The stage that failed."""
    return next(
        (
            state.stages[name]
            for name in STAGES
            if name in state.stages and state.stages[name].state is StageState.FAILED
        ),
        None,
    )
