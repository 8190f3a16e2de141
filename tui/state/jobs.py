"""All jobs of one's own, as lines: state, name, steps, loss, money, and for whom each waits.

- The newest word about a job wins; one that is *gone* is hidden. At most `JOBS_MAX` are held: the
  oldest that are over make room.
- A link names a job by the beginning of its id. What is asked for is found as soon as it is told;
  until then a sentence says so, with the three nearest ids.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from tui.facts import Fact, Failure, JobHead
from tui.state.job import ENDED, concerns, newer, nothing
from tui.state.rows import Row, Tone, Words, say
from tui.text import ago, cost, left, short, span

JOBS_MAX: Final = 2_000
NEAREST: Final = 3
PATIENCE_MILLISECONDS: Final = 3_000
"""Nothing says that there is no job; so long after asking, none is taken for none."""


class Which(enum.StrEnum):
    """Which jobs are shown."""

    ALL = "all"
    OPEN = "not over"
    ENDED = "over"
    BAD = "failed or exhausted"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The list."""

    heads: Mapping[str, JobHead] = dataclasses.field(default_factory=nothing)
    filter: str = ""
    """Parts of a name or an id; all must be there."""
    which: Which = Which.ALL
    wanted: str = ""
    """The beginning of an id that a link named, and that is not found yet."""
    failure: Failure | None = None
    heard_at: int | None = None


def apply(state: State, fact: Fact, now: int) -> State:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case JobHead():
            old = state.heads.get(fact.id)
            if old is not None and old.state in ENDED and fact.state != old.state and not fact.gone:
                return state  # an end absorbs
            heads = {**state.heads, fact.id: newer(old, fact)}
            while len(heads) > JOBS_MAX:
                del heads[min(heads, key=lambda key: _worth(heads[key]))]
            heard = max(fact.as_of, state.heard_at or fact.as_of)
            return dataclasses.replace(state, heads=MappingProxyType(heads), heard_at=heard)
        case Failure() if concerns(fact, "jobs", ""):
            return dataclasses.replace(state, failure=newer(state.failure, fact))
        case _:
            return state


def _worth(head: JobHead) -> tuple[bool, bool, int, str]:
    return (not head.gone, head.state not in ENDED, head.created_at, head.id)


def listed(state: State) -> tuple[JobHead, ...]:
    """Those that are to be seen: what is not over first, the newest first."""
    words = state.filter.lower().split()
    found = [
        each
        for each in state.heads.values()
        if not each.gone
        and _shown(state.which, each)
        and all(word in f"{each.name} {each.id} {each.state}".lower() for word in words)
    ]
    return tuple(sorted(found, key=_worth, reverse=True))


def _shown(which: Which, head: JobHead) -> bool:
    match which:
        case Which.ALL:
            return True
        case Which.OPEN:
            return head.state not in ENDED
        case Which.ENDED:
            return head.state in ENDED
        case _:
            return head.state in {"failed", "exhausted"}


def next_which(state: State) -> State:
    """The next choice of states."""
    choices = list(Which)
    after = choices[(choices.index(state.which) + 1) % len(choices)]
    return dataclasses.replace(state, which=after)


# --- links ---------------------------------------------------------------------------------------


def found(state: State, word: str) -> tuple[str, ...]:
    """Ids that begin so; else those of jobs with just this name."""
    known = [each for each in state.heads.values() if not each.gone]
    ids = tuple(sorted(each.id for each in known if each.id.startswith(word.lower())))
    return ids or tuple(sorted(each.id for each in known if each.name == word))


def nearest(state: State, word: str) -> tuple[str, ...]:
    """The three ids that are most like what was named."""

    def likeness(name: str) -> tuple[float, str]:
        head = name[: len(word)]
        common = next((at for at in range(len(head)) if head[at] != word[at]), len(head))
        return (-common - difflib.SequenceMatcher(None, word, head).ratio(), name)

    known = [each.id for each in state.heads.values() if not each.gone]
    return tuple(sorted(known, key=likeness)[:NEAREST])


def link_words(state: State) -> str:
    """What became of a link's word; empty: nothing is wanted."""
    word = state.wanted
    if not word:
        return ""
    ids = found(state, word)
    if len(ids) > 1:
        return f"{len(ids)} jobs begin with {word!r}: {_some(ids)}. Choose one."
    if ids:
        return ""
    if not state.heads:
        return f"looking for job {word!r}"
    return f"no job of yours begins with {word!r}. Nearest: {_some(nearest(state, word))}"


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(short(each, 16) for each in ids[:NEAREST])


# --- words ---------------------------------------------------------------------------------------


def reason(head: JobHead) -> str:
    """For whom it waits, or what is special about it."""
    if head.state in ENDED:
        return ""
    if head.waiting_for:
        return f"waiting for {head.waiting_for}"
    if head.hosts > 1:
        return f"on host number {head.hosts}: the ones before were lost"
    return "serves: ⏎ opens the chat" if head.kind == "serve" else ""


def tone_of(head: JobHead) -> Tone:
    """How its state looks."""
    tones = {"succeeded": Tone.GOOD, "failed": Tone.BAD, "exhausted": Tone.BAD}
    return tones.get(head.state, Tone.STRONG if head.state == "running" else Tone.PLAIN)


def steps_words(head: JobHead) -> str:
    """``1,180/2,400``."""
    if head.step is None:
        return ""
    return f"{head.step:,}" + ("" if head.steps is None else f"/{head.steps:,}")


def money_words(head: JobHead) -> str:
    """What is captured, of what is held at most."""
    return f"{cost(head.captured)}/{left(head.reserved)}"


def row_of(head: JobHead, now: int) -> Row:
    """A row of the table; its key is the job."""
    why = reason(head)
    return Row(
        key=head.id,
        cells=(
            say(head.state.upper(), tone_of(head)),
            head.name or short(head.id),
            say(why, Tone.WARN if head.waiting_for else Tone.FAINT),
            steps_words(head),
            head.loss,
            money_words(head),
            say(ago(head.created_at, now), Tone.FAINT),
            say(short(head.id), Tone.FAINT),
            say("SIMULATED" if head.simulated else "", Tone.LOUD),
        ),
    )


def strip(head: JobHead | None, now: int) -> list[Words]:
    """The job under the cursor, whole: what a narrow table has no room for."""
    if head is None:
        return []
    loss = f"loss {head.loss}, " if head.loss else ""
    money = f"cost {cost(head.captured)} of at most {left(head.reserved)} cr"
    lines = [say(f"job {short(head.id, 16)}  {loss}{money}, begun {ago(head.created_at, now)}")]
    if why := reason(head):
        lines.append(say(why, Tone.WARN if head.waiting_for else Tone.FAINT))
    return lines


def summary(state: State, since: int, now: int, *, online: bool) -> list[Words]:
    """What stands over the table."""
    lines: list[Words] = []
    if words := link_words(state):
        lines.append(say(words, Tone.WARN))
    known = [each for each in state.heads.values() if not each.gone]
    if not known:
        lines.append(say(_none_words(since, now, online=online)))
    else:
        shown = listed(state)
        open_count = sum(each.state not in ENDED for each in known)
        words = f"{len(shown)} of {len(known)} jobs, {open_count} not over"
        if state.which is not Which.ALL:
            words += f"; shown: {state.which.value}"
        if state.filter:
            words += f"; with {state.filter!r}"
        lines.append(say(words, Tone.STRONG))
    failure = state.failure
    if failure is not None and failure.as_of >= (state.heard_at or 0):
        lines.append(say(f"not read: {failure.words} ({failure.code}); old below", Tone.BAD))
    if not online and state.heard_at is not None:
        lines.append(say(f"OFFLINE: as of {ago(state.heard_at, now)}", Tone.WARN))
    return lines


def _none_words(since: int, now: int, *, online: bool) -> str:
    waited = max(0, now - since)
    if not online:
        return "no job is known here, and the market does not answer: they come when it does"
    if waited < PATIENCE_MILLISECONDS:
        return f"asking the market for your jobs, {span(waited)}; it ends with an answer"
    return "no job yet: n begins one, 2 shows what it would cost"


def plain(state: State, since: int, now: int, *, online: bool) -> Iterator[str]:
    """The screen in lines."""
    for each in summary(state, since, now, online=online):
        yield each.text
    for head in listed(state):
        parts = [head.state.upper(), head.name, f"job {head.id}", reason(head)]
        if steps := steps_words(head):
            parts.append(f"step {steps}")
        if head.loss:
            parts.append(f"loss {head.loss}")
        parts.append(f"cost {cost(head.captured)} of {left(head.reserved)} cr")
        parts.append(f"begun {ago(head.created_at, now)}")
        if head.simulated:
            parts.append("SIMULATED")
        yield ", ".join(each for each in parts if each)
