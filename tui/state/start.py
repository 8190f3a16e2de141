"""From nothing to the first job: five steps, and which are done. Pure.

Steps are read off the newest `Setup`, `Balance` and `Connection` (`tui.state.shared`); of its own,
this screen knows what it asked for and what came of that.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

from tui.facts import Exported, Fact, Failure, JobHead, Link, Setup
from tui.state.rows import Tone, Words, say
from tui.state.shared import Shared
from tui.text import ago, cost, left, short, span

PASSPHRASE_CHARACTERS_MIN: Final = 12
"""Of new keys: a shorter one is guessed from a stolen disk."""
FIRST_JOB: Final = 3_000_000
"""Microcredits: what a first fine-tune costs, about."""


class StepName(enum.StrEnum):
    """The five steps, and the two ways round them."""

    KEYS = "keys"
    MARKET = "market"
    MONEY = "money"
    MODEL = "model"
    DATA = "data"
    LOOK = "look"
    REHEARSE = "rehearse"


STEPS: Final = tuple(StepName)[:5]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One line of the screen."""

    name: StepName
    done: bool
    waits: bool
    """It is this one's turn, and a person's."""
    words: str
    does: str
    """What Enter does here."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What was asked for, and what became of it."""

    command: str = ""
    """Id of the newest `Unlock` or `MakeKeys`."""
    asked_at: int | None = None
    asked_for: str = ""
    """In words: what is awaited."""
    failure: Failure | None = None
    exported: Exported | None = None
    jobs: frozenset[str] = frozenset()
    """Jobs that there are: who has one needs no first job."""


PINNING: Final = "naming the market"
"""What is asked for where only the market is named."""
HOME: Final = "home"
"""Where a failure says that it happened, when this home can't be read."""
JOBS_MAX: Final = 64  # more than one is all that matters


def asked(state: State, *, command: str, words: str, now: int) -> State:
    """A command was posted."""
    return dataclasses.replace(state, command=command, asked_at=now, asked_for=words, failure=None)


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case Setup() if fact.identity and not fact.locked:
            return dataclasses.replace(state, asked_at=None, asked_for="", failure=None)
        case Setup() if fact.market_url and state.asked_for == PINNING:
            return dataclasses.replace(state, asked_at=None, asked_for="", failure=None)
        case Failure() if state.command and fact.where == state.command:
            return dataclasses.replace(state, asked_at=None, asked_for="", failure=fact)
        case Failure() if fact.where == HOME:
            return dataclasses.replace(state, failure=fact)
        case Exported():
            return dataclasses.replace(state, exported=fact)
        case JobHead() if not fact.gone and len(state.jobs) < JOBS_MAX:
            return dataclasses.replace(state, jobs=state.jobs | {fact.id})
        case _:
            return state


def steps(shared: Shared, now: int) -> tuple[Step, ...]:
    """The five steps and the two ways round them, as things stand."""
    found = [
        _keys(shared.setup, now),
        _market(shared, now),
        _money(shared),
        _model(shared.setup),
        _data(shared.setup),
    ]
    turn = next((at for at, each in enumerate(found) if not each.done), None)
    lines = [dataclasses.replace(each, waits=at == turn) for at, each in enumerate(found)]
    return (
        *lines,
        _step(StepName.LOOK, "Look at offers: no keys and no money needed", "Offers"),
        _step(StepName.REHEARSE, "Rehearse on this machine: simulated, free", "How to"),
    )


def _step(name: StepName, words: str, does: str, *, done: bool = False) -> Step:
    return Step(name=name, done=done, waits=False, words=words, does=does)


def _keys(setup: Setup | None, now: int) -> Step:
    if setup is None:
        return _step(StepName.KEYS, "looking at this home", "Make keys")
    if not setup.identity and not setup.locked:
        return _step(StepName.KEYS, "none in this home yet", "Make keys")
    who = f"{short(setup.identity)} · " if setup.identity else ""
    made = "" if setup.keys_made_at is None else f"made {ago(setup.keys_made_at, now)} · "
    backed = {True: "yes", False: "NO", None: "not known"}[setup.backed_up]
    words = f"{who}{made}backed up: {backed}"
    if setup.locked:
        return _step(StepName.KEYS, f"LOCKED · {words}", "Unlock")
    return _step(StepName.KEYS, words, "Keys", done=True)


def _market(shared: Shared, now: int) -> Step:
    setup, link = shared.setup, shared.connection
    if setup is not None and setup.locked and not setup.market_url:
        return _step(StepName.MARKET, "known once the keys are open", "Unlock")
    if setup is None or not setup.market_url:
        return _step(StepName.MARKET, "address and key are in your invite", "Enter them")
    key = f", key {short(setup.market_identity)}" if setup.market_identity else ", NO KEY"
    where = f"{setup.market_url}{key}"
    if link is not None and link.link is Link.OFFLINE:
        heard = f"no answer for {span(max(0, now - link.since))}"
        return _step(StepName.MARKET, f"{where} · OFFLINE, {heard}", "Offers, as last seen")
    done = bool(setup.market_identity) and shared.online
    return _step(StepName.MARKET, where, "Offers", done=done)


def _money(shared: Shared) -> Step:
    balance = shared.balance
    if balance is None:
        return _step(StepName.MONEY, "not known before the market answers", "Money")
    words = f"{left(balance.free)} cr free"
    if balance.free < FIRST_JOB and not balance.held:
        words = f"{words} · a first fine-tune costs about {cost(FIRST_JOB)}"
        return _step(StepName.MONEY, words, "How to pay in", done=False)
    held = f" · {cost(balance.held)} held" if balance.held else ""
    return _step(StepName.MONEY, words + held, "Money", done=True)


def _model(setup: Setup | None) -> Step:
    tunable = [each for each in (setup.models if setup else ()) if each.tunable]
    if not tunable:
        return _step(StepName.MODEL, "none yet that you may tune", "Choose")
    names = ", ".join(each.name for each in tunable[:3])
    plural = "model" if len(tunable) == 1 else "models"
    words = f"{len(tunable)} {plural} that you may tune: {names}"
    return _step(StepName.MODEL, words, "Choose", done=True)


def _data(setup: Setup | None) -> Step:
    if setup is None or not setup.data:
        words = "a JSONL file; sealed here before it leaves"
        return _step(StepName.DATA, words, "Choose a file")
    newest = setup.data[-1]
    rows = "" if newest.rows is None else f", {newest.rows:,} rows"
    words = f"{len(setup.data)} sealed; the last: {newest.name}{rows}"
    return _step(StepName.DATA, words, "New job", done=True)


def headline(state: State, shared: Shared, now: int) -> list[Words]:
    """The sentence on top: how far one is."""
    found = steps(shared, now)
    done = sum(each.done for each in found)
    words = "Rent a GPU from someone you don't trust."
    if state.jobs:
        plural = "job" if len(state.jobs) == 1 else "jobs"
        return [say(words, Tone.STRONG), say(f"{len(state.jobs)} {plural} so far: 3 shows them")]
    return [say(words, Tone.STRONG), say(f"five steps, {done} done")]


def step_line(number: int, step: Step, width: int) -> Words:
    """A step in one line: its sign, number, name, words, and what Enter does."""
    if step.name not in STEPS:
        return say(f"    [{step.words}]")
    sign = "✓" if step.done else "!" if step.waits else " "
    start = f"{sign} {number} {step.name.value.title():<7} "
    end = f"  [{step.does}]"
    room = max(8, width - len(start) - len(end))
    words = step.words if len(step.words) <= room else f"{step.words[: room - 1]}…"
    tone = Tone.GOOD if step.done else Tone.STRONG if step.waits else Tone.PLAIN
    return say(f"{start}{words:<{room}}{end}", tone)


def news(state: State, shared: Shared, now: int) -> list[Words]:
    """What is awaited, what failed, what was written, and whether the market answers."""
    lines = []
    if state.asked_at is not None:
        waited = span(max(0, now - state.asked_at))
        lines.append(say(f"{state.asked_for}, {waited}; it ends by itself"))
    if state.failure is not None:
        lines.append(say(f"FAILED {state.failure.code}: {state.failure.words}", Tone.BAD))
    if state.exported is not None:
        lines.append(say(f"written: {state.exported.path}", Tone.GOOD))
    link = shared.connection
    if shared.setup is None:
        lines.append(say("reading this home; it ends with the first facts of it", Tone.FAINT))
    elif link is not None and link.link is Link.OFFLINE and link.words:
        lines.append(say(f"OFFLINE: {link.words}", Tone.WARN))
    return lines


LIMITS: Final = (
    say("The host can see      sizes, times, prices"),
    say("The host can't see    rows, prompts, answers, losses, weights"),
    say("Not protected         probes on the memory bus, side channels, what a model says"),
)


def plain(state: State, shared: Shared, now: int) -> list[str]:
    """The screen in lines."""
    lines = [each.text for each in headline(state, shared, now)]
    for number, each in enumerate(steps(shared, now), start=1):
        if each.name in STEPS:
            how = "done" if each.done else "next" if each.waits else "later"
            lines.append(f"Step {number}, {each.name.value}: {how}. {each.words}")
    lines += [each.text for each in news(state, shared, now)]
    return [*lines, *(each.text for each in LIMITS)]


def passphrase_fault(passphrase: str) -> str:
    """Why a new passphrase is not taken; empty: it is. It says lengths, never what was typed."""
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        return f"at least {PASSPHRASE_CHARACTERS_MIN} characters are wanted, got {len(passphrase)}"
    return ""


def market_fault(url: str, identity: str) -> str:
    """Why an address or key of a market is not taken; empty: they are."""
    if not url.startswith(("http://", "https://")) or len(url) > 512 or not url.isprintable():
        return f"an address that starts with https:// is wanted, got {url[:40] or 'nothing'}"
    if len(identity) != 64 or set(identity) - set("0123456789abcdef"):
        return f"the market's key is 64 hex digits of your invite, got {len(identity)} characters"
    return ""
