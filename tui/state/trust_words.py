"""Trust in words: headline, found over wanted with bytes that differ marked, releases."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len

from tui.facts import Attestation, CheckLine, ReleaseEntry, Verdict
from tui.hints import check_hint
from tui.state.lines import Line, apart, clock, fit, line, one, text_of
from tui.state.rows import Tone, Words, say
from tui.state.trust import State, key_of
from tui.state.verdicts import SIGNS, changed, counts, headline, tone
from tui.text import ago, short, span

LABEL_CELLS: Final = 8
NOT_PROTECTED: Final = "a probe on the memory bus, side channels, what the model says"
_HEX: Final = re.compile(r"[0-9a-f]{8,}")
DIFFERENT_SHOWN: Final = 64
NOTE_BESIDE_CELLS: Final = 18
"""With less room than that beside it, bytes stand alone."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two hex values of one length, byte by byte."""

    found: str
    wanted: str
    bytes_at: tuple[int, ...]
    """Which bytes differ."""


def difference(found: str, wanted: str) -> Difference | None:
    """Where two hex values differ; of several wanted ones, the nearest. None: not comparable."""
    if not _HEX.fullmatch(found) or len(found) % 2:
        return None
    nearest: Difference | None = None
    for each in wanted.split(" or "):
        if len(each) != len(found) or not _HEX.fullmatch(each):
            continue
        places = tuple(
            at // 2 for at in range(0, len(found), 2) if found[at : at + 2] != each[at : at + 2]
        )
        if nearest is None or len(places) < len(nearest.bytes_at):
            nearest = Difference(found=found, wanted=each, bytes_at=places)
    return nearest


def strip(check: CheckLine | None, cells: int) -> list[Line]:
    """Found over wanted, aligned, with the bytes that differ marked; and what is at risk."""
    if check is None:
        return []
    room = max(8, cells - LABEL_CELLS)
    differs = difference(check.found, check.wanted)
    if differs is not None and differs.bytes_at:
        body = _marked(differs, room)
    else:
        body = [
            _labelled("found", say(fit(check.found or "-", room).rstrip())),
            _labelled("wanted", say(fit(check.wanted or "-", room).rstrip())),
        ]
    return [*body, _labelled("risk", say(fit(risk(check), room).rstrip(), Tone.FAINT))]


def _labelled(label: str, *parts: Words) -> Line:
    return (say(fit(label, LABEL_CELLS), Tone.FAINT), *parts)


def _marked(differs: Difference, room: int) -> list[Line]:
    count = len(differs.found) // 2
    first = differs.bytes_at[0]
    note = f"  {len(differs.bytes_at)} of {count} bytes differ, first byte {first}"
    note = note if room >= cell_len(note) + NOTE_BESIDE_CELLS else ""
    shown = max(4, (room - cell_len(note) - 2) // 2)
    start = 0 if count <= shown else max(0, min(first - min(4, shown // 2), count - shown))
    end = min(count, start + shown)
    lines = []
    for label, value in (("found", differs.found), ("wanted", differs.wanted)):
        parts = [say("…" if start else "")]
        for at in range(start, end):
            byte = value[2 * at : 2 * at + 2]
            parts.append(say(byte, Tone.LOUD if at in differs.bytes_at else Tone.PLAIN))
        parts.append(say("…" if end < count else ""))
        if label == "found" and note:
            parts.append(say(note, Tone.WARN))
        lines.append(_labelled(label, *parts))
    return lines


def risk(check: CheckLine) -> str:
    """What an attacker gains where the check is not made."""
    hint = check_hint(check.id)
    return hint.gains if hint is not None else check.words


def explain(check: CheckLine, shown: Attestation, job: str) -> list[Words]:
    """A check whole: what it means, what was found, how to repeat it."""
    hint, (sign, colour) = check_hint(check.id), SIGNS[check.verdict]
    found = [say(f"{sign}   {check.group}: {check.id}", colour)]
    if hint is not None:
        found += [say(""), say(hint.means), say(f"If it were skipped: {hint.gains}.")]
    if check.words and (hint is None or check.words not in {hint.means, hint.gains}):
        found.append(say(check.words))
    found += [say(""), say("found", Tone.FAINT), say(check.found or "-")]
    found += [say("wanted", Tone.FAINT), say(check.wanted or "-")]
    differs = difference(check.found, check.wanted)
    if differs is not None and differs.bytes_at:
        places = ", ".join(str(each) for each in differs.bytes_at[:DIFFERENT_SHOWN])
        found.append(say(f"bytes that differ: {places}", Tone.WARN))
    if check.verdict is Verdict.NOT_DEMANDED:
        found += [say(""), say("Your policy asks for nothing here: it is shown, and not judged.")]
    found += [say(""), say("by this machine, from stored evidence; to repeat it:", Tone.FAINT)]
    found.append(say(repeat_line(job, shown.generation)))
    return found


def repeat_line(job: str, generation: int) -> str:
    """The command that makes the same checks."""
    return f"blindhost trust show {job} --generation {generation}"


# --- the head ------------------------------------------------------------------------------------


def counts_words(shown: Attestation) -> str:
    """``38 passed   0 failed   3 not checked   12 not demanded``."""
    found = counts(shown.lines)
    order = (Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED, Verdict.NOT_DEMANDED)
    return "   ".join(f"{found[each]} {each.value.lower()}" for each in order)


def head(state: State, since: int, now: int, cells: int) -> list[Line]:
    """Headline, counts, and what they mean."""
    shown = state.shown
    where = f"{short(state.job)}" + ("" if shown is None else f" gen {shown.generation}")
    if shown is None:
        waited = span(max(0, now - since))
        words = f"no evidence yet: the host has not answered ({waited}); it ends with its evidence"
        top = apart(one(headline(None), Tone.WARN), one(where, Tone.FAINT), cells)
        return [top, one(words)]
    title = one(headline(shown), tone(shown))
    top = apart((*title, say(f"   {counts_words(shown)}")), one(where, Tone.FAINT), cells)
    if len(text_of(top)) > cells:
        found = [apart(title, one(where, Tone.FAINT), cells), one(counts_words(shown))]
    else:
        found = [top]
    found.append(one(_meaning(state, shown)))
    if key_of(shown) in state.before:
        old = state.before[key_of(shown)]
        differing = ", ".join(
            f"{name}: was {was}, is {new}" for name, was, new in changed(old, shown)[:4]
        )
        found.append(one(f"changed: was {headline(old)}; {differing}", Tone.WARN))
    elif shown.was:
        found.append(one(f"it was: {shown.was}", Tone.WARN))
    if state.said:
        found.append(one(state.said, Tone.STRONG))
    return found


def _meaning(state: State, shown: Attestation) -> str:
    released = [e for e in releases_of(state, shown.generation) if e.generation]
    others = sum(not each.mine for each in released)
    if not released:
        words = "No custodian released keys to this enclave that is known here."
    else:
        mine = "you" if any(each.mine for each in released) else ""
        who = " and ".join(
            each
            for each in (
                mine,
                f"{others} other custodian{'s' if others > 1 else ''}" if others else "",
            )
            if each
        )
        words = f"Keys were released to this enclave by {who}."
    missing = counts(shown.lines)[Verdict.NOT_CHECKED]
    if missing:
        words += f" Your policy demands none of the {missing} that were not made."
    if shown.simulated:
        words += " Simulated roots prove nothing about hardware."
    return words


def tab_words(state: State, *, online: bool, now: int) -> list[Line]:
    """Old, offline, refused: what stands over the table beside the verdict."""
    found = []
    failure = state.failure
    if failure is not None and failure.as_of >= (state.heard_at or 0):
        found.append(one(f"not read: {failure.words} ({failure.code}); old below", Tone.BAD))
    if not online and state.heard_at is not None:
        words = f"OFFLINE: as of {ago(state.heard_at, now)}; r verifies what is stored here"
        found.append(one(words, Tone.WARN))
    return found


# --- releases ------------------------------------------------------------------------------------


def releases_of(state: State, generation: int) -> tuple[ReleaseEntry, ...]:
    """Own entries first, then others' words; the newest first.

    A word of generation 0 is about a custodian's whole log, and stands with every generation.
    """
    found = [each for each in state.releases.values() if each.generation in {generation, 0}]
    return tuple(sorted(found, key=lambda each: (not each.mine, each.custodian, -each.number)))


def release_lines(entry: ReleaseEntry, zone: dt.tzinfo) -> list[Line]:
    """One release, labelled as its custodian's word or as our own record."""
    who = "you" if entry.mine else f"custodian {short(entry.custodian, 8)}"
    at = "" if entry.at is None else f"  {clock(entry.at, zone)}"
    number = f"  #{entry.number}" if entry.number else ""
    fenced = "  FENCED: a newer generation took its place" if entry.fenced else ""
    found = [line(say(f"{who}{at}{number}", Tone.STRONG), say(fenced, Tone.WARN))]
    if entry.policy or entry.chip:
        named = f"policy {short(entry.policy, 8)}  " if entry.policy else ""
        chip = f"chip {short(entry.chip, 8)}" if entry.chip else ""
        found.append(one(f"  {named}{chip}"))
    if entry.words:
        found.append(one(f"  {entry.words}"))
    if not entry.chain_holds:
        found.append(one("  CHAIN BROKEN at this entry: don't rely on it", Tone.BAD))
    label = "its own word, signed; not ours"
    if entry.mine:
        label = "our own record: your broker's log"
    elif not entry.generation:
        label = "its own word of its log; its release isn't seen here"
    return [*found, one(f"  {label}", Tone.FAINT)]


def side(state: State, now: int, zone: dt.tzinfo) -> list[Line]:
    """Who released, to which enclave, verified when, and what is not protected."""
    shown = state.shown
    generation = state.generation if shown is None else shown.generation
    found = [one("RELEASED BY", Tone.STRONG)]
    entries = releases_of(state, generation or 0)
    for entry in entries:
        found += release_lines(entry, zone)
    if not entries:
        found.append(one("  nobody that is known here"))
    if shown is not None:
        found += [
            one("ENCLAVE", Tone.STRONG),
            one(f"  chip    {short(shown.chip, 16) or 'none named'}  {shown.platform}"),
            one(f"  image   {short(shown.image, 16) or 'not known'}"),
            one(f"  policy  {short(shown.policy, 16) or 'none'}"),
            one("VERIFIED", Tone.STRONG),
            one(f"  {clock(shown.verified_at, zone)} here, {ago(shown.verified_at, now)}"),
            one("  our own computation, on this machine", Tone.FAINT),
        ]
    found += [one("NOT PROTECTED", Tone.STRONG), one(f"  {NOT_PROTECTED}")]
    beside = [] if shown is None else state.of(shown.generation)[1:]
    for each in beside:
        words = f"  by policy {short(each.policy, 8) or 'none'}: {headline(each)}"
        found.append(one(words, tone(each)))
    if len(state.generations) > 1:
        known = ", ".join(str(each) for each in state.generations)
        found.append(one(f"generations {known}: p and n go to them, d compares", Tone.FAINT))
    return found


# --- comparing -----------------------------------------------------------------------------------


def compare(state: State) -> list[Words]:
    """The shown generation beside the one before it, and each custodian's policy and chip."""
    shown = state.shown
    earlier = [each for each in state.generations if shown and each < shown.generation]
    found: list[Words] = []
    if shown is None:
        return [say("there is no evidence to compare yet")]
    if not earlier:
        found.append(say(f"only generation {shown.generation} is known: there is none before it"))
    else:
        old = state.of(earlier[-1])[0]
        found.append(say(f"generation {old.generation}: {headline(old)}", tone(old)))
        found.append(say(f"generation {shown.generation}: {headline(shown)}", tone(shown)))
        for name in ("chip", "platform", "image", "policy"):
            was, now = getattr(old, name), getattr(shown, name)
            same = f"{name}: the same, {was or '-'}"
            found.append(say(same if was == now else f"{name}: {was or '-'} → {now or '-'}"))
        found += _lines_compared(old, shown)
    for each in releases_of(state, shown.generation):
        who = "you" if each.mine else f"custodian {each.custodian}"
        found.append(say(f"{who}: policy {each.policy or '-'}, chip {each.chip or '-'}"))
    return found


def _lines_compared(old: Attestation, new: Attestation) -> list[Words]:
    differing = changed(old, new)
    found = [say(f"{name}: {was} → {now}", Tone.WARN) for name, was, now in differing]
    was_found = {each.id: each.found for each in old.lines}
    names = {name for name, _, _ in differing}
    for each in new.lines:
        was = was_found.get(each.id)
        if each.id not in names and was is not None and was != each.found:
            found.append(say(f"{each.id}: found {was} → {each.found}"))
    if not found:
        found.append(say("every check found the same"))
    return found


# --- all of it -----------------------------------------------------------------------------------


def plain(state: State, since: int, now: int, zone: dt.tzinfo, *, online: bool) -> Iterator[str]:
    """The screen in lines: no boxes; every check, folded or not."""
    for each in (*head(state, since, now, 10_000), *tab_words(state, online=online, now=now)):
        yield re.sub(r" {4,}", "   ", text_of(each))
    for check in state.lines:
        yield (
            f"{check.verdict.value}, {check.group}: {check.id}: "
            f"found {check.found or '-'}; wanted {check.wanted or '-'}"
        )
    for each in side(state, now, zone):
        yield text_of(each)
    if state.shown is not None:
        yield f"to repeat it: {repeat_line(state.job, state.shown.generation)}"
