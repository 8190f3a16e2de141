"""Who opened a job's data, on what evidence, and what nobody checked. Verdicts are made here.

- Verdicts are made from lines (`tui.state.verdicts`). Of several of one generation, by several
  policies, the worst is shown.
- A custodian's own entry is its word; ours is our own record. Each line says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tui.facts import (
    Attestation,
    CheckLine,
    Exported,
    Fact,
    Failure,
    ReleaseEntry,
    Verdict,
)
from tui.state.job import concerns, newer, nothing
from tui.state.rows import Row, Tone, say
from tui.state.verdicts import SIGNS, changed, headline, in_order, severity

APPRAISALS_MAX: Final = 64
RELEASES_MAX: Final = 1_000
ASKED_MAX: Final = 32

FOLDED: Final = (Verdict.PASSED, Verdict.NOT_DEMANDED)
"""These are shown by groups."""


Key = tuple[int, str]
"""Generation and policy."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One job's evidence."""

    job: str = ""
    """Empty: none was chosen yet."""
    appraisals: Mapping[Key, Attestation] = dataclasses.field(default_factory=nothing)
    """By generation and policy, each the newest."""
    before: Mapping[Key, Attestation] = dataclasses.field(default_factory=nothing)
    """The one before, where a verdict of it was another."""
    releases: Mapping[str, ReleaseEntry] = dataclasses.field(default_factory=nothing)
    generation: int | None = None
    """Chosen by a person; None: the newest."""
    only_open: bool = False
    """Only what did not pass."""
    unfolded: frozenset[str] = frozenset()
    """Keys of groups whose lines are shown."""
    asked: tuple[str, ...] = ()
    said: str = ""
    failure: Failure | None = None
    heard_at: int | None = None

    @property
    def generations(self) -> tuple[int, ...]:
        """Those of which there is an appraisal."""
        return tuple(sorted({generation for generation, _ in self.appraisals}))

    def of(self, generation: int) -> tuple[Attestation, ...]:
        """Appraisals of a generation, the worst first."""
        found = [each for key, each in self.appraisals.items() if key[0] == generation]
        return tuple(sorted(found, key=lambda each: (severity(each), each.policy), reverse=True))

    @property
    def shown(self) -> Attestation | None:
        """The appraisal that is looked at."""
        known = self.generations
        if not known:
            return None
        chosen = self.generation if self.generation in known else known[-1]
        return self.of(chosen)[0]

    @property
    def lines(self) -> tuple[CheckLine, ...]:
        """All checks of it, failed ones first; each as it came within its verdict."""
        shown = self.shown
        return () if shown is None else in_order(shown.lines)


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case Attestation(job=state.job):
            return _appraised(state, fact)
        case ReleaseEntry(job=state.job):
            held = {**state.releases, fact.key: newer(state.releases.get(fact.key), fact)}
            while len(held) > RELEASES_MAX:
                del held[min(held, key=lambda key: (held[key].generation, held[key].number))]
            return _heard(dataclasses.replace(state, releases=MappingProxyType(held)), fact)
        case Exported() if fact.command in state.asked:
            return dataclasses.replace(state, said=f"{fact.words}: {fact.path}")
        case Failure() if fact.where in state.asked:
            return dataclasses.replace(state, said=f"not done: {fact.words} ({fact.code})")
        case Failure() if concerns(fact, "trust", state.job):
            return dataclasses.replace(state, failure=newer(state.failure, fact))
        case _:
            return state


def _heard(state: State, fact: Fact) -> State:
    return dataclasses.replace(state, heard_at=max(fact.as_of, state.heard_at or fact.as_of))


def _appraised(state: State, fact: Attestation) -> State:
    """The newest verdict stands, of two as new the worse; the one before is kept if it differs."""
    key = key_of(fact)
    old = state.appraisals.get(key)
    if old is not None and fact.verified_at < old.verified_at:
        return state
    if old is not None and fact.verified_at == old.verified_at and severity(fact) < severity(old):
        return state
    before, said = state.before, state.said
    if old is not None and old.verified_at < fact.verified_at:
        if changed(old, fact):
            before = _bounded({**before, key: old})
            said = f"verified again: it was {headline(old)}, it is {headline(fact)}"
        else:
            said = "verified again: the same"
    appraisals = _bounded({**state.appraisals, key: fact})
    return _heard(dataclasses.replace(state, appraisals=appraisals, before=before, said=said), fact)


def key_of(fact: Attestation) -> Key:
    """Under what it is held."""
    return (fact.generation, fact.policy)


def _bounded(held: dict[Key, Attestation]) -> Mapping[Key, Attestation]:
    while len(held) > APPRAISALS_MAX:
        del held[min(held)]
    return MappingProxyType(held)


def asking(state: State, command: str, words: str) -> State:
    """A command was posted: its answer is this screen's."""
    return dataclasses.replace(state, asked=(*state.asked, command)[-ASKED_MAX:], said=words)


def choose(state: State, job: str) -> State:
    """Another job: nothing of the one before stays."""
    return state if job == state.job else State(job=job, only_open=state.only_open)


def step_generation(state: State, by: int) -> State:
    """The generation before, or after."""
    shown, known = state.shown, state.generations
    if shown is None:
        return state
    at = max(0, min(known.index(shown.generation) + by, len(known) - 1))
    return dataclasses.replace(state, generation=known[at])


# --- rows ----------------------------------------------------------------------------------------


def rows(state: State) -> tuple[tuple[Row, CheckLine | None], ...]:
    """Rows of the table, each with its check; a group has none.

    What did not pass stands line by line; the rest by groups, folded until somebody opens one.
    """
    found: list[tuple[Row, CheckLine | None]] = []
    lines = state.lines
    for at, each in enumerate(lines):
        if each.verdict not in FOLDED:
            found.append((_check_row(each, at), each))
    if state.only_open:
        return tuple(found)
    for verdict in FOLDED:
        groups = dict.fromkeys(each.group for each in lines if each.verdict is verdict)
        for group in groups:
            key = f"group:{verdict.value}:{group}"
            members = [
                (at, each)
                for at, each in enumerate(lines)
                if each.verdict is verdict and each.group == group
            ]
            is_open = key in state.unfolded
            sign, colour = SIGNS[verdict]
            words = f"{'▾' if is_open else '▸'} {group or 'other'} ({len(members)})"
            found.append((Row(key=key, cells=(say(sign, colour), words)), None))
            if is_open:
                found += [(_check_row(each, at), each) for at, each in members]
    return tuple(found)


def _check_row(check: CheckLine, at: int) -> Row:
    sign, colour = SIGNS[check.verdict]
    folded = "  " if check.verdict in FOLDED else ""
    words = f"{folded}{check.group}: {check.id}" if check.group else f"{folded}{check.id}"
    return Row(
        key=f"{at}:{check.id}",
        cells=(say(sign, colour), words, check.found, say(check.wanted, Tone.FAINT)),
    )


def groups_of(state: State) -> frozenset[str]:
    """Keys of all groups."""
    return frozenset(
        f"group:{each.verdict.value}:{each.group}" for each in state.lines if each.verdict in FOLDED
    )


def turn(state: State, key: str) -> State:
    """Open a group, or fold it."""
    return dataclasses.replace(state, unfolded=state.unfolded ^ {key})


def unfold_where_it_fits(state: State, room: int) -> State:
    """All groups open where so many rows hold them, and folded where they do not."""
    every = groups_of(state)
    unfolded = every if len(state.lines) + len(every) <= room else frozenset()
    return state if unfolded == state.unfolded else dataclasses.replace(state, unfolded=unfolded)


def turn_all(state: State) -> State:
    """Open all groups, or fold them all."""
    every = groups_of(state)
    unfolded = frozenset() if state.unfolded & every == every else every
    return dataclasses.replace(state, unfolded=unfolded)
