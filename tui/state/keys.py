"""What the keys screen knows: the keystore, brokers, releases, consents; and their words. Pure.

- A broken chain stays broken whatever comes after: `broken` is the first entry that does not hold,
  `damage` is what a log says that can't be read at all.
- Releases are kept by custodian and number, at most `RELEASES_MAX`, the newest.
- Another custodian's release is that custodian's word, and is called so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from tui.facts import BrokerState, Consent, Exported, Fact, Failure, KeyState, ReleaseEntry, Setup
from tui.state.rows import Row, Tone, Words, say
from tui.text import ago, short, span

RELEASES_MAX: Final = 5000
CONSENTS_MAX: Final = 500
BROKERS_MAX: Final = 64
PLAIN_ROWS_MAX: Final = 40


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Facts of keys."""

    keys: KeyState | None = None
    brokers: Mapping[str, BrokerState] = dataclasses.field(default_factory=dict)
    releases: Mapping[str, ReleaseEntry] = dataclasses.field(default_factory=dict)
    """By `ReleaseEntry.key`."""
    consents: Mapping[str, Consent] = dataclasses.field(default_factory=dict)
    broken: ReleaseEntry | None = None
    damage: str = ""
    """Why one's own log can't be read, in its reader's words; empty: it can."""
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Commands that are awaited: what for, by their id."""
    asked_at: int = 0
    failure: Failure | None = None
    exported: Exported | None = None

    @property
    def is_broken(self) -> bool:
        """One's own log is not to be believed."""
        return self.broken is not None or bool(self.damage)


ASKED_MAX: Final = 16
DAMAGED: Final = "ReleaseLogError"
"""The code of a failure that says so: what `client.release_log` raises for any damage."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """What a chip ever opened."""

    chip: str
    entries: tuple[ReleaseEntry, ...]
    """The newest first."""


def asked(state: State, *, command: str, words: str, now: int) -> State:
    """A command was posted."""
    kept = dict(list(state.asked.items())[-(ASKED_MAX - 1) :])
    return dataclasses.replace(
        state, asked={**kept, command: words}, asked_at=now, failure=None, exported=None
    )


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case KeyState():
            if state.keys is not None and fact.as_of < state.keys.as_of:
                return state
            return dataclasses.replace(state, keys=fact, asked=_without(state, "keys"))
        case Setup():
            return dataclasses.replace(state, asked=_without(state, "keys"))
        case BrokerState():
            return _broker(state, fact)
        case ReleaseEntry():
            return _release(state, fact)
        case Consent():
            return _consent(state, fact)
        case Failure() if fact.code == DAMAGED:
            return dataclasses.replace(state, damage=state.damage or fact.words or "it is damaged")
        case Failure() if fact.where in state.asked:
            left = {name: words for name, words in state.asked.items() if name != fact.where}
            return dataclasses.replace(state, failure=fact, asked=left)
        case Exported() if fact.command in state.asked:
            left = {name: words for name, words in state.asked.items() if name != fact.command}
            return dataclasses.replace(state, exported=fact, asked=left)
        case _:
            return state


def _without(state: State, start: str) -> dict[str, str]:
    """What is awaited, without what such a fact answers."""
    return {name: words for name, words in state.asked.items() if not words.startswith(start)}


def _broker(state: State, fact: BrokerState) -> State:
    old = state.brokers.get(fact.custodian)
    if (old is not None and fact.as_of < old.as_of) or (
        old is None and len(state.brokers) >= BROKERS_MAX
    ):
        return state
    return dataclasses.replace(state, brokers={**state.brokers, fact.custodian: fact})


def _consent(state: State, fact: Consent) -> State:
    old = state.consents.get(fact.id)
    if old is not None and fact.as_of < old.as_of:
        return state
    consents = {**state.consents, fact.id: fact}
    while len(consents) > CONSENTS_MAX:  # one that waits for an answer goes last
        goes = min(consents.values(), key=lambda each: (each.mine_to_answer, each.as_of))
        consents.pop(goes.id)
    waits = old is not None and fact.mine_to_answer and fact.answers == old.answers
    asked = state.asked if waits else _without(state, f"consent {fact.id}")
    return dataclasses.replace(state, consents=consents, asked=asked)


def _release(state: State, fact: ReleaseEntry) -> State:
    broken = state.broken
    if fact.mine and not fact.chain_holds and (broken is None or fact.number < broken.number):
        broken = fact
    old = state.releases.get(fact.key)
    if old is not None and fact.as_of < old.as_of:
        return state if broken is state.broken else dataclasses.replace(state, broken=broken)
    releases = {**state.releases, fact.key: fact}
    if len(releases) > RELEASES_MAX:
        releases.pop(min(releases.values(), key=_newness).key)
    return dataclasses.replace(state, releases=releases, broken=broken)


def _newness(entry: ReleaseEntry) -> tuple[int, str, int]:
    return (entry.at or 0, entry.custodian, entry.number)


# --- lists ----------------------------------------------------------------------------------------


def listed(state: State) -> tuple[ReleaseEntry, ...]:
    """All releases, the newest first."""
    return tuple(sorted(state.releases.values(), key=_newness, reverse=True))


def chips(entries: tuple[ReleaseEntry, ...]) -> tuple[Chip, ...]:
    """By chip, in the order of their newest release."""
    found: dict[str, list[ReleaseEntry]] = {}
    for each in entries:
        if each.chip:  # another custodian's word may name none
            found.setdefault(each.chip, []).append(each)
    return tuple(Chip(chip=chip, entries=tuple(its)) for chip, its in found.items())


def consents(state: State) -> tuple[Consent, ...]:
    """Those that wait for this party first, then the newest."""
    return tuple(
        sorted(
            state.consents.values(),
            key=lambda each: (not each.mine_to_answer, -each.as_of, each.id),
        )
    )


def answer_fault(consent: Consent) -> str:
    """Why this one can't be answered here; empty: it can. What can't be read is not answered."""
    if not consent.mine_to_answer:
        return "it does not wait for you"
    if not any(each.strip() for each in consent.sentences):
        return "it says nothing of what it would open: not answered"
    return ""


# --- words ----------------------------------------------------------------------------------------


def consent_line(consent: Consent) -> Words:
    """A consent in one line."""
    answers = "   ".join(f"{short(who, 6)}: {what}" for who, what in consent.answers)
    sign = "!" if consent.mine_to_answer else " "
    tone = Tone.STRONG if consent.mine_to_answer else Tone.FAINT
    text = f"{sign} {short(consent.id)}  {consent.what} to {short(consent.to)}   {answers}"
    return say(text, tone)


def consent_sentences(consent: Consent) -> list[Words]:
    """A consent to read: what opens, to whom, for how long, what can't be taken back."""
    lines = [say(f"{consent.what}, to {consent.to}", Tone.STRONG)]
    lines += [say(each) for each in consent.sentences]
    return lines + [say(f"{who}: {what}", Tone.FAINT) for who, what in consent.answers]


def consents_head(state: State) -> list[Words]:
    """How many wait."""
    waiting = sum(each.mine_to_answer for each in state.consents.values())
    if not state.consents:
        return [say("CONSENTS   none: nobody asked to open anything", Tone.FAINT)]
    verb = "waits" if waiting == 1 else "wait"
    words = f"{waiting} {verb} for you" if waiting else "none waits for you"
    return [say(f"CONSENTS   {words}", Tone.STRONG if waiting else Tone.PLAIN)]


def releases_head(state: State, *, by_chip: bool, loading: str = "") -> list[Words]:
    """How many entries, and whether the chain holds."""
    others = [each for each in state.releases.values() if not each.mine and not each.chain_holds]
    if not state.releases:
        return [say(f"RELEASES   {loading or 'none yet: no key has left'}", Tone.FAINT)]
    mine = [each.number for each in state.releases.values() if each.mine]
    holds = f", your chain holds from {max(mine)} to {min(mine)}" if mine else ""
    view = "m: entry by entry" if by_chip else "m: by chip"
    lines = [say(f"RELEASES   {len(state.releases):,} entries{holds}   {view}", Tone.STRONG)]
    if others:
        who = short(others[0].custodian)
        words = f"the log of {who} does not hold at entry {others[0].number}: its word counts less"
        lines.append(say(words, Tone.LOUD))
    return lines


def release_row(entry: ReleaseEntry, now: int) -> Row:
    """A release as a row."""
    whose = "yours" if entry.mine else f"word of {short(entry.custodian, 6)}"
    said = f"{entry.words} FENCED" if entry.fenced else entry.words
    return Row(
        key=entry.key,
        tone=Tone.PLAIN if entry.mine else Tone.FAINT,
        cells=(
            f"#{entry.number}",
            "-" if entry.at is None else ago(entry.at, now),
            short(entry.artifact, 8),
            short(entry.job, 14),
            str(entry.generation),
            short(entry.chip, 10),
            short(entry.policy, 8),
            say(said, Tone.WARN) if entry.fenced else said,
            whose,
        ),
    )


def chip_row(chip: Chip, now: int) -> Row:
    """A chip as a row: how much it opened, and when last."""
    artifacts = len({each.artifact for each in chip.entries})
    jobs = len({each.job for each in chip.entries})
    last = chip.entries[0].at
    return Row(
        key=chip.chip,
        cells=(
            short(chip.chip, 24),
            f"{artifacts:,}",
            f"{jobs:,}",
            f"{len(chip.entries):,}",
            "-" if last is None else ago(last, now),
        ),
    )


def chip_lines(chip: Chip, now: int) -> list[Words]:
    """All that a chip ever opened."""
    lines = [say(f"chip {chip.chip}: {len(chip.entries):,} releases", Tone.STRONG)]
    return lines + [say(entry_words(each, now)) for each in chip.entries]


def entry_words(entry: ReleaseEntry, now: int) -> str:
    """A release in one sentence."""
    when = "at a time not told" if entry.at is None else ago(entry.at, now)
    whose = "your log" if entry.mine else f"the word of {short(entry.custodian)}"
    fenced = ", FENCED: a newer generation took its place" if entry.fenced else ""
    return (
        f"#{entry.number} {when}: {short(entry.artifact)} to {entry.job} generation "
        f"{entry.generation} on chip {short(entry.chip)}, policy {short(entry.policy)}: "
        f"{entry.words}{fenced} ({whose})"
    )


def keys_lines(state: State, *, locked: bool) -> list[Words]:
    """The keystore."""
    keys = state.keys
    if keys is None:
        words = "LOCKED: l opens them" if locked else "not known yet"
        return [say(f"KEYS       {words}", Tone.WARN if locked else Tone.FAINT)]
    backed = {True: "yes", False: "NO", None: "not known"}[keys.backed_up]
    how = "LOCKED" if locked or keys.locked else "unlocked"
    words = f"KEYS       epoch {keys.epoch} · {how} · backed up: {backed}"
    return [say(words, Tone.WARN if how == "LOCKED" or not keys.backed_up else Tone.PLAIN)]


def broker_lines(state: State, now: int) -> list[Words]:
    """Brokers, one's own first, and what waits for them."""
    lines = []
    for each in sorted(state.brokers.values(), key=lambda one: (not one.mine, one.custodian)):
        who = "yours" if each.mine else short(each.custodian)
        seen = "" if each.last_seen is None else f" · last seen {ago(each.last_seen, now)}"
        count = len(each.waiting_jobs)
        named = ", ".join(short(job) for job in each.waiting_jobs[:3])
        waiting = f" · {count} waiting" + (f": {named}" if named else "")
        tone = Tone.WARN if count and not each.words.startswith("running") else Tone.PLAIN
        lines.append(say(f"BROKER     {who}: {each.words}{seen}{waiting}", tone))
    return lines


def news(state: State, now: int) -> list[Words]:
    """What is awaited, what failed, what was written."""
    lines = [
        say(f"{words}, {span(max(0, now - state.asked_at))}; it ends with its answer")
        for words in state.asked.values()
    ]
    if state.failure is not None:
        lines.append(say(f"FAILED {state.failure.code}: {state.failure.words}", Tone.BAD))
    if state.exported is not None:
        lines.append(say(f"written: {state.exported.path}  {state.exported.words}", Tone.GOOD))
    return lines


def broken_lines(state: State) -> list[Words]:
    """The whole screen, where one's own chain does not hold."""
    entry = state.broken
    if not state.is_broken:
        return []
    at = "" if entry is None else f" AT ENTRY {entry.number}"
    why = state.damage if entry is None else f"entry {entry.number}: {entry.words}"
    return [
        say(f" THE RELEASE LOG IS BROKEN{at} ", Tone.LOUD),
        say(""),
        say(
            "An entry does not follow from the one before it: something was cut or changed. What "
            "this log says of who opened your data is not to be believed from there on."
        ),
        say(""),
        say(why, Tone.BAD),
        say(""),
        say(
            "Nothing else works here. Stop your broker, keep the home as it is, and compare it "
            "with your newest backup."
        ),
    ]


ROTATION: Final = (
    say("A new epoch is begun: what is sealed from now on is sealed under new keys."),
    say("What was sealed before stays under the old ones, and can still be opened with them."),
    say("Jobs that run go on under the epoch that they began with."),
    say("Your backup does not hold the new epoch: make another one at once."),
    say("An epoch can't be taken back."),
)


def plain(state: State, now: int, *, locked: bool = False, loading: str = "") -> list[str]:
    """The screen in lines."""
    if state.is_broken:
        return [each.text.strip() for each in broken_lines(state) if each.text.strip()]
    lines = [each.text for each in (*keys_lines(state, locked=locked), *broker_lines(state, now))]
    lines += [each.text for each in consents_head(state)]
    for consent in consents(state):
        lines += [each.text for each in consent_sentences(consent)]
    lines += [each.text for each in releases_head(state, by_chip=False, loading=loading)]
    lines += [entry_words(each, now) for each in listed(state)[:PLAIN_ROWS_MAX]]
    return lines + [each.text for each in news(state, now)]
