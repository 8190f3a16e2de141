"""Where a job stands: stages, who acts, what it costs, what is safe. Pure, from what is known.

- Nine stages, always in one order. Each says who acts in it, or who is waited for, and since when.
- The market's word, one's own log and the enclave's sealed records are told apart in the words.
- An estimate says what it rests on; where there is nothing to estimate from it is None.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from client.account import CheckedReceipt, burn, lasts
from client.dry_run import Seated
from client.story import EventKind, Happening, StoryEvent
from marketplace.wire import JobState, JobView, LeaseState, LeaseView
from trust.encoding import digest
from trust.messages import CheckpointAt, Progress, ProgressEvent

ENDED: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
)
LOST: Final = frozenset({LeaseState.HOST_LOST, LeaseState.PREEMPTED, LeaseState.REVOKED})
_FAILED_AT: Final[Mapping[LeaseState, str]] = {
    LeaseState.CLAIM_LOST: "match",
    LeaseState.PROVISION_FAILED: "launch",
    LeaseState.ATTEST_FAILED: "evidence",
}
_ATTESTED: Final = frozenset(
    {LeaseState.READY, LeaseState.DRAINING, LeaseState.EXHAUSTED, LeaseState.CLOSED} | LOST
)
_LAUNCHED: Final = frozenset({LeaseState.ATTESTING, LeaseState.ATTEST_FAILED} | _ATTESTED)


class StageState(enum.StrEnum):
    """Where a stage stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


STAGES: Final = (
    "seal",
    "queue",
    "match",
    "launch",
    "evidence",
    "release",
    "train",
    "receipt",
    "settle",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a job's newest generation."""

    name: str
    state: StageState
    started_at: int | None
    """Unix milliseconds; None: not known."""
    milliseconds: int | None
    """How long it took, or has taken so far."""
    actor: str
    """Who acts, or is waited for."""
    words: str
    ref: str
    """Id of what it decided; may be empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Safe:
    """The newest checkpoint that counts in one's own log: what a dead host can't take."""

    at: CheckpointAt
    noted_at: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """All that is known of a job at one moment."""

    view: JobView
    seats: tuple[Seated, ...] = ()
    """Own releases for it, oldest first."""
    progress: tuple[Progress, ...] = ()
    """Records that hold, in the order in which they came."""
    faults: tuple[str, ...] = ()
    """Records that do not."""
    receipts: tuple[CheckedReceipt, ...] = ()
    safe: Safe | None = None
    closed_at: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a job has cost, and can; microcredits."""

    spent: int
    cap: int
    """Never more than this."""
    projected: int | None
    """At the end, at the price of the steps that were paid for so far."""
    cap_lasts: int | None
    """Milliseconds until the cap is reached at the present burn."""


def hosts_of(view: JobView) -> tuple[bytes, ...]:
    """The different hosts that had it, in the order of their generations."""
    leases = sorted(
        (each for each in view.leases if each.generation is not None),
        key=lambda each: (each.generation, each.rank),
    )
    return tuple(dict.fromkeys(each.host for each in leases))


def cost_of(known: Known) -> Cost:
    """What a job has cost so far, at most, and at the end."""
    money = known.view.money
    paid = [each.receipt.step for each in known.receipts if each.receipt and each.total]
    steps = max((each.steps for each in known.progress), default=0)
    reached = max(paid, default=0)
    projected = None
    if money.captured and reached and steps:
        projected = min(money.reserved, -(-money.captured * max(steps, reached) // reached))
    left = money.reserved - money.captured - money.released
    return Cost(
        spent=money.captured,
        cap=money.reserved,
        projected=projected,
        cap_lasts=lasts(left, burn([known.view])),
    )


# --- what happened -------------------------------------------------------------------------------


def happenings(known: Known) -> Iterator[Happening]:
    """All that can be told of a job now. Most of it was told before: a story keeps what is new."""
    view = known.view
    yield Happening(
        about="submitted",
        at=view.created_at,
        kind=EventKind.SUBMITTED,
        words=f"submitted; at most {view.money.reserved} microcredits are held for it",
        refs=(view.job.hex(),),
    )
    yield from _market_says(view)
    yield from _log_says(known)
    yield from _enclave_says(known)
    yield from _settled(known)
    if view.state in ENDED:
        yield Happening(
            about=f"ended:{view.state.value}",
            at=None,
            kind=EventKind.ENDED,
            words=f"{view.state.value}; spent {view.money.captured} of {view.money.reserved}",
        )


def _market_says(view: JobView) -> Iterator[Happening]:
    if view.state not in ENDED:
        yield Happening(
            about=f"state:{view.generation}:{view.state.value}",
            at=None,
            kind=EventKind.STATE,
            words=f"the market says: {view.state.value}",
        )
    if view.waiting_for:
        named = digest(view.waiting_for.encode()).hex()[:16]
        yield Happening(
            about=f"waiting:{view.generation}:{named}",
            at=None,
            kind=EventKind.WAITING,
            words=f"waits for {view.waiting_for}",
        )
    for lease in reversed(view.leases):
        yield Happening(
            about=f"matched:{lease.lease}",
            at=None,
            kind=EventKind.MATCHED,
            words=f"matched host {lease.host.hex()[:16]} for rank {lease.rank}",
            refs=(lease.lease, lease.offer, lease.host.hex()),
        )
        lost = lease.state in LOST
        yield Happening(
            about=f"lease:{lease.lease}:{lease.state.value}",
            at=lease.ready_at if lease.state is LeaseState.READY else None,
            kind=EventKind.HOST_LOST if lost else EventKind.LEASE,
            words=_lease_in_words(lease),
            refs=(lease.lease,),
        )


def _lease_in_words(lease: LeaseView) -> str:
    run = "" if lease.generation is None else f", generation {lease.generation}"
    if lease.state is LeaseState.HOST_LOST:
        return f"HOST LOST{run}: no word of it in time; work up to its last receipt is paid, once"
    if lease.state is LeaseState.PREEMPTED:
        return f"outbid{run}: another order pays more for this machine"
    if lease.state is LeaseState.REVOKED:
        return f"revoked{run}"
    return f"lease {lease.state.value}{run}"


def _log_says(known: Known) -> Iterator[Happening]:
    newest = max((each.statement.generation for each in known.seats), default=0)
    for each in known.seats:
        said, chip = each.statement, each.released.chip_id
        fenced = f"; generation {newest} fences it" if said.generation < newest else ""
        named = "a chip that it does not name" if chip is None else f"chip {chip.hex()[:16]}"
        yield Happening(
            about=f"released:{said.generation}:{said.rank}",
            at=each.entry.at,
            kind=EventKind.RELEASED,
            words=f"your broker released for generation {said.generation} to {named}{fenced}",
            refs=(f"log {each.entry.number}", "" if chip is None else chip.hex(), said.lease),
        )
    if known.safe is not None:
        at = known.safe.at
        yield Happening(
            about=f"checkpoint:{at.generation}:{at.step}",
            at=known.safe.noted_at,
            kind=EventKind.CHECKPOINT,
            words=f"step {at.step} is safe: its checkpoint is sealed and counts in your log",
            refs=(at.artifact.hex(),),
        )
    if known.closed_at is not None:
        yield Happening(
            about="closed",
            at=known.closed_at,
            kind=EventKind.CLOSED,
            words="closed by its buyer: nothing is released for it again",
        )


_KINDS: Final[Mapping[ProgressEvent, EventKind]] = {
    ProgressEvent.STARTED: EventKind.STARTED,
    ProgressEvent.EVALUATED: EventKind.EVALUATED,
    ProgressEvent.FINISHED: EventKind.FINISHED,
    ProgressEvent.FAILED: EventKind.FAILED,
}
"""Steps are no events, and a checkpoint counts when the own log has it."""


def _enclave_says(known: Known) -> Iterator[Happening]:
    hosts = hosts_of(known.view)
    for record in known.progress:
        kind = _KINDS.get(record.event)
        if kind is None:
            continue
        words = f"generation {record.generation}: {record.event.value} at step {record.step}"
        if record.event is ProgressEvent.STARTED and record.resumed_from is not None:
            kind = EventKind.RESUMED
            step, place = record.resumed_from.step, _place(known.view, record.generation, hosts)
            words = f"resumed at step {step}{place}: the same run, generation {record.generation}"
        yield Happening(
            about=f"progress:{record.generation}:{record.rank}:{record.number}",
            at=None,
            kind=kind,
            words=words,
        )
    for fault in known.faults:
        yield Happening(
            about=f"fault:{digest(fault.encode()).hex()[:16]}",
            at=None,
            kind=EventKind.FAULT,
            words=f"a progress record does not hold: {fault}",
        )


def _place(view: JobView, generation: int, hosts: Sequence[bytes]) -> str:
    """On which host a generation runs, in words: ``on a second host``."""
    host = next((each.host for each in view.leases if each.generation == generation), None)
    if host is None or hosts.index(host) == 0:
        return " on the same host" if host is not None else ""
    number = hosts.index(host) + 1
    names = {2: "a second", 3: "a third"}
    return f" on {names.get(number, f'host number {number}')}{' host' if number < 4 else ''}"


def _settled(known: Known) -> Iterator[Happening]:
    for each in known.receipts:
        said = each.receipt
        named = "a receipt" if said is None else f"receipt {said.number}"
        words = f"{named} settled: {each.total} microcredits"
        yield Happening(
            about=f"receipt:{each.digest.hex()[:32]}",
            at=None,
            kind=EventKind.FAULT if each.fault else EventKind.RECEIPT,
            words=f"{words}; it DOES NOT HOLD: {each.fault}" if each.fault else words,
            refs=(each.digest.hex(),),
        )


# --- stages --------------------------------------------------------------------------------------


def stages_of(known: Known, events: Sequence[StoryEvent], now: int) -> tuple[Stage, ...]:
    """The nine stages of the newest generation, at `now` (Unix milliseconds).

    (1) How far it got, and whether it broke there. (2) Who acts in each stage, in words. (3) When
    each began, by the story.
    """
    at, failed = _reached(known)  # (1)
    ended = known.view.state in ENDED
    begun = _begun(known, events)  # (3)
    found = []
    for number, name in enumerate(STAGES):
        if number < at:
            state = StageState.DONE
        elif number > at:
            state = StageState.SKIPPED if ended else StageState.WAITING
        elif failed:
            state = StageState.FAILED
        else:
            state = StageState.SKIPPED if ended else StageState.RUNNING
        actor, words, ref = _who(name, known)  # (2)
        started = begun.get(name) if number <= at else None
        later = [begun[each] for each in STAGES[number + 1 : at + 1] if each in begun]
        until = min(later, default=None if number < at else now)
        took = None if started is None or until is None else max(0, until - started)
        found.append(
            Stage(
                name=name,
                state=state,
                started_at=started,
                milliseconds=took,
                actor=actor,
                words=words,
                ref=ref,
            )
        )
    return tuple(found)


def _reached(known: Known) -> tuple[int, bool]:
    """Place of the stage that goes on, and whether it failed; beyond the last: all are done."""
    view = known.view
    lease = _newest(view)
    if view.state is JobState.SUCCEEDED:
        return len(STAGES), False
    failed = view.state in {JobState.FAILED, JobState.EXHAUSTED}
    place = "queue"
    if view.state is JobState.PLACED:
        place = "match"
    elif lease is not None and view.state is not JobState.QUEUED:
        place = _place_of_lease(known, lease)
    return STAGES.index(place), failed


def _place_of_lease(known: Known, lease: LeaseView) -> str:
    if lease.state in _FAILED_AT:
        return _FAILED_AT[lease.state]
    records = [each.event for each in known.progress if each.generation == lease.generation]
    if ProgressEvent.FINISHED in records:
        last = any(r.receipt is not None and r.receipt.end is not None for r in known.receipts)
        return "settle" if last else "receipt"
    if ProgressEvent.STARTED in records:
        return "train"
    if any(each.statement.generation == lease.generation for each in known.seats):
        return "release"
    if lease.state in _ATTESTED:
        return "release"
    return "evidence" if lease.state in _LAUNCHED else "launch"


def _newest(view: JobView) -> LeaseView | None:
    return view.leases[0] if view.leases else None


def _who(name: str, known: Known) -> tuple[str, str, str]:
    """Who acts in a stage, what it is about, and the id of what it decided."""
    view = known.view
    lease = _newest(view)
    host = "a host" if lease is None else f"host {lease.host.hex()[:16]}"
    ref = "" if lease is None else lease.lease
    seat = next(
        (each for each in reversed(known.seats) if each.statement.generation == view.generation),
        None,
    )
    last = known.progress[-1] if known.progress else None
    match name:
        case "seal":
            return "you", "inputs are sealed; the market holds ciphertext", view.job.hex()
        case "queue":
            return "the market", view.waiting_for or "waits for an offer that fits", ""
        case "match":
            return "your broker", "orders the generation for the lease that was claimed", ref
        case "launch":
            return host, "starts a confidential machine", ref
        case "evidence":
            return "the enclave", "shows its evidence to market and custodians", ref
        case "release":
            if seat is None:
                return "the custodians' brokers", "appraise, and then release", ""
            return "the custodians' brokers", "yours has released", f"log {seat.entry.number}"
        case "train":
            step = "" if last is None else f"step {last.step} of {last.steps}"
            return "the enclave", step or "works once it has every share", ""
        case "receipt":
            return "the enclave", f"{len(known.receipts)} receipts settled so far", ""
        case _:
            money = view.money
            return "the market", f"{money.captured} of {money.reserved} microcredits posted", ""


def _begun(known: Known, events: Sequence[StoryEvent]) -> dict[str, int]:
    """When each stage of the newest generation began, as far as the story says."""
    lease = _newest(known.view)
    name = "" if lease is None else lease.lease
    run = known.view.generation
    wanted = {
        "submitted": "queue",
        f"matched:{name}": "match",
        f"lease:{name}:{LeaseState.PROVISIONING.value}": "launch",
        f"lease:{name}:{LeaseState.ATTESTING.value}": "evidence",
        f"released:{run}:0": "release",
        f"ended:{known.view.state.value}": "settle",
    }
    found: dict[str, int] = {}
    for each in events:
        stage = wanted.get(each.about)
        if stage is None and each.about.startswith(f"progress:{run}:0:"):
            started = {EventKind.STARTED: "train", EventKind.RESUMED: "train"}
            stage = (started | {EventKind.FINISHED: "receipt"}).get(each.kind)
        if stage is not None:
            found.setdefault(stage, each.at)
    return found
