"""One job in words: what the widgets show and what `plain` prints are the same lines.

- Costs are rounded up, what is left is rounded down (`tui.text`).
- While nothing is known yet, a sentence says what is awaited and since when; never a spinner.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Final

from tui.facts import STAGES, JobEvent, Progress, Stage, StageState
from tui.hints import StageHint, check_hint, hints, refusal_hint
from tui.state import curve
from tui.state.job import State, cause_of_end, marks, stage_now, trains
from tui.state.lines import Line, apart, clock, line, one, ordinal
from tui.state.rows import Tone, say
from tui.state.verdicts import headline
from tui.text import ago, bytes_in_words, cost, left, short, span

CAP_WORDS: Final = (
    "The cap can't be raised: it stands in the manifest that you signed, and the digest of that "
    "manifest is the job's name. A job with a higher cap is another job: submit one on New job; "
    "model and data are sealed already."
)
SAMPLES_WORDS: Final = (
    "There are no samples to show: of a run only steps, measures and sealed artifacts leave the "
    "enclave. Compare base and tuned on held-out rows below, or serve the adapter and chat with it."
)
NARROW_CELLS: Final = 96
ONLY_YOU: Final = "only you see this: the loss was sealed to your key"
SERVE_WORDS: Final = (
    "An adapter is spoken to through a job that serves it: submit a serve job with this job's "
    "output (`blindhost job submit --adapter …`), then `n` there opens the chat."
)


def state_words(state: State, *, narrow: bool = False) -> str:
    """``RUNNING on its 2nd host``."""
    head = state.head
    if head is None:
        return "NOT KNOWN YET"
    words = head.state.upper()
    if head.hosts > 1 and not state.ended:
        host = f"{ordinal(head.hosts)} host"
        words += f", {host}" if narrow else f" on its {host}"
    return words


def header(state: State, cells: int) -> Line:
    """Id and name; state and SIMULATED at the right."""
    head, narrow = state.head, cells < NARROW_CELLS
    name = "" if head is None else head.name
    words = (f"{name}  " if narrow else "") + short(state.job) + ("" if narrow else f"  {name}")
    if head is not None and head.kind == "serve":
        words += "  serves"
    tone = Tone.STRONG
    if state.ended and head is not None:
        tone = Tone.GOOD if head.state == "succeeded" else Tone.BAD
    last = [say(state_words(state, narrow=narrow), tone)]
    if head is not None and head.simulated:
        last += [say("   "), say("SIMULATED", Tone.LOUD)]
    return apart(line(say(words, Tone.STRONG)), tuple(last), cells)


def loading(since: int, now: int) -> str:
    """Nothing came yet."""
    return f"asking the market about this job, {span(max(0, now - since))}; it ends with an answer"


def stage_hint(name: str) -> StageHint | None:
    """What is written of a stage."""
    return hints().stages.get(name)


def stage_sentence(stage: Stage, now: int) -> str:
    """A stage in one sentence: who acts or is waited for, since when, and why."""
    since = "" if stage.started_at is None else f", {span(max(0, now - stage.started_at))}"
    words = f": {stage.words}" if stage.words else ""
    match stage.state:
        case StageState.WAITING:
            return f"! waiting for {stage.actor or 'its turn'}{since}{words}"
        case StageState.RUNNING:
            return f"{stage.actor or 'somebody'} acts ({stage.name}{since}){words}"
        case StageState.FAILED:
            return f"✗ FAILED at {stage.name}, {stage.actor or 'nobody named'}{words}"
        case StageState.DONE:
            time = "" if stage.milliseconds is None else f" in {span(stage.milliseconds)}"
            return f"✓ {stage.name}, done{time} by {stage.actor or 'nobody named'}{words}"
        case _:
            return f"- {stage.name} was not needed{words}"


def explain(state: State, name: str, now: int) -> list[Line]:
    """A stage under the cursor: what it is, who acts, what was decided, its id."""
    stage, hint = state.stages.get(name), stage_hint(name)
    number = STAGES.index(name) + 1
    found = [one(f"stage {number} of {len(STAGES)}: {name}. {hint.means if hint else ''}")]
    if stage is None:
        found.append(one("nothing was heard of it yet"))
    else:
        found.append(one(stage_sentence(stage, now), _stage_tone(stage)))
        if stage.ref:
            found.append(one(f"decided: {stage.ref}", Tone.FAINT))
        code = stage.words.partition(":")[0]
        if (check := check_hint(code.removeprefix("evidence-"))) is not None:
            found.append(one(f"{check.means} If it were skipped: {check.gains}."))
        if (refusal := refusal_hint(code)) is not None:
            found.append(one(f"{refusal.means} Who can end it: {refusal.ends}."))
    if hint is not None and (stage is None or stage.state is not StageState.DONE):
        found.append(one(hint.waits, Tone.FAINT))
    return found


def _stage_tone(stage: Stage) -> Tone:
    tones = {StageState.FAILED: Tone.BAD, StageState.WAITING: Tone.WARN}
    return tones.get(stage.state, Tone.PLAIN)


def waiting(state: State, since: int, now: int) -> list[Line]:
    """What stands in the plot's place while there is no curve."""
    stage = stage_now(state)
    if state.head is None and stage is None:
        return [one(loading(since, now))]
    if stage is None:
        reason = state.head.waiting_for if state.head is not None else ""
        if not reason:
            return [one(loading(since, now))]
        return [one(f"! waiting for {reason}", Tone.WARN)]
    found = explain(state, stage.name, now)
    if state.head is not None and state.head.waiting_for:
        found.insert(0, one(f"! waiting for {state.head.waiting_for}", Tone.WARN))
    return found


def numbers(state: State, now: int, *, narrow: bool = False) -> list[tuple[str, str]]:
    """Label and value; in a narrow window some share a line."""
    step = _step(state)
    speed = None if state.progress is None else state.progress.tokens_per_second
    to_go = None if state.progress is None or state.ended else state.progress.milliseconds_left
    rows = [("step", step), ("speed", "" if speed is None else f"{speed:,} tok/s")]
    rows.append(("done in", "" if to_go is None else span(to_go)))
    rows += _money(state)
    rows.append(("safe", _safe(state, now)))
    rows.append(("trust", "" if state.attestation is None else headline(state.attestation)))
    if narrow:
        held = dict(rows)
        cost_words = held["cost"].replace("of at most", "of")
        if held["at the end"]:
            cost_words += f", {held['at the end']}"
        rows = [
            ("step", ", ".join(each for each in (step, held["speed"]) if each)),
            ("done", f"in {held['done in']}" if held["done in"] else ""),
            ("cost", cost_words),
            ("cap", f"lasts {held['cap lasts']}" if held["cap lasts"] else ""),
            ("safe", held["safe"]),
            ("trust", held["trust"]),
        ]
    return [(label, value) for label, value in rows if value]


def _step(state: State) -> str:
    if state.step is None:
        return ""
    return f"{state.step:,}" + ("" if state.steps is None else f" of {state.steps:,}")


def _money(state: State) -> list[tuple[str, str]]:
    held = state.cost
    if held is None:
        return [("cost", ""), ("at the end", ""), ("cap lasts", "")]
    projected = "" if held.projected is None or state.ended else f"about {cost(held.projected)}"
    lasts = "" if held.cap_lasts is None or state.ended else span(held.cap_lasts)
    return [
        ("cost", f"{cost(held.spent)} of at most {left(held.cap)} cr"),
        ("at the end", projected),
        ("cap lasts", lasts),
    ]


def _safe(state: State, now: int) -> str:
    held = state.checkpoint
    if state.ended:
        return ""
    if held is None:
        return "nothing yet: no checkpoint was sealed" if trains(state) else ""
    when = "" if held.sealed_at is None else f", sealed {ago(held.sealed_at, now)}"
    return f"step {held.step:,}{when}"


def event_line(event: JobEvent, zone: dt.tzinfo) -> Line:
    """``05:12:11 HOST LOST …``."""
    kind = f"{event.kind.replace('_', ' ')}: " if event.kind else ""
    lost = "lost" in event.kind or "fail" in event.kind
    return line(
        say(f"{clock(event.at, zone)} ", Tone.FAINT),
        say(kind, Tone.WARN if lost else Tone.STRONG),
        event.words,
    )


def event_lines(event: JobEvent, zone: dt.tzinfo) -> list[str]:
    """An event whole."""
    words = f"{clock(event.at, zone)}  number {event.offset:,}  {event.kind}"
    return [words, event.words, *(f"  {each}" for each in event.refs)]


def record_line(record: Progress) -> Line:
    """One line of the log that the enclave sealed to you."""
    loss = f"  loss {record.loss}" if record.loss else ""
    words = f"  {record.words}" if record.words else ""
    return line(say(f"gen {record.generation} step {record.step:,}", Tone.FAINT), f"{loss}{words}")


def resumed(state: State) -> list[str]:
    """What a host's death did to this run."""
    return [
        f"{each.words}: the same run goes on; steps before are paid once" for each in marks(state)
    ]


# --- ends ----------------------------------------------------------------------------------------


def page(state: State) -> list[Line]:
    """What a person wants to know of a job that is over; empty: it is not."""
    if state.head is None or not state.ended:
        return []
    of = {
        "succeeded": _succeeded,
        "failed": _failed,
        "exhausted": _exhausted,
        "cancelled": _cancelled,
    }
    title = state.head.state.upper()
    tone = Tone.GOOD if title == "SUCCEEDED" else Tone.BAD
    return [one(title, tone), *of[state.head.state](state), *_receipts(state)]


def spent(state: State) -> int | None:
    """What it cost; microcredits, None: not known."""
    if state.cost is not None:
        return state.cost.spent
    return None if state.head is None else state.head.captured


def _cost_words(state: State) -> str:
    got = spent(state)
    return "not known yet" if got is None else f"{cost(got)} cr"


def _succeeded(state: State) -> list[Line]:
    result, held = state.result, state.evaluation
    found = []
    if result is not None and result.path:
        found.append(one(f"adapter   {result.path}"))
    elif result is not None:
        done, total = bytes_in_words(result.bytes_done), bytes_in_words(result.bytes_total)
        found.append(one(f"adapter   on its way: {done} of {total}"))
    else:
        found.append(one("adapter   sealed at the market; g gets it, once all custodians agree"))
    if held is not None and (held.base or held.tuned):
        exact = ""
        if held.exact_base or held.exact_tuned:
            exact = f"; exact {held.exact_base or '-'} / {held.exact_tuned or '-'}"
        found.append(one(f"held-out  base {held.base or '-'} / tuned {held.tuned or '-'}{exact}"))
    return [*found, one(f"cost      {_cost_words(state)}")]


def _failed(state: State) -> list[Line]:
    stage = cause_of_end(state)
    hint = None if stage is None else stage_hint(stage.name)
    found = []
    if stage is not None:
        found.append(one(f"at        {stage.name}, {stage.actor or 'nobody named'}", Tone.STRONG))
        found.append(one(f"why       {stage.words or 'no reason was given'}"))
    elif state.head is not None and state.head.waiting_for:
        found.append(one(f"why       {state.head.waiting_for}"))
    else:
        found.append(one("why       no reason was given; the last events may say it"))
    if hint is not None:
        found.append(one(f"class     {hint.fault}"))
        found.append(one(f"change    {hint.change}"))
    return [*found, one(f"cost      {_cost_words(state)}")]


def _exhausted(state: State) -> list[Line]:
    held = state.checkpoint
    kept = "no checkpoint was sealed: the steps are lost"
    if held is not None:
        kept = f"step {held.step:,} is sealed ({short(held.artifact)}) and stays yours"
    return [
        one("why       the cap that you signed is used up", Tone.STRONG),
        one(f"kept      {kept}"),
        one("go on     submit a job with a higher cap; this one's cap is part of its name"),
        one(f"cost      {_cost_words(state)}"),
    ]


def _cancelled(state: State) -> list[Line]:
    held = state.checkpoint
    kept = "nothing was sealed" if held is None else f"step {held.step:,} is sealed"
    return [
        one("why       its buyer closed it", Tone.STRONG),
        one(f"kept      {kept}; the rest of the hold came back"),
        one(f"cost      {_cost_words(state)}"),
    ]


def _receipts(state: State) -> list[Line]:
    if not state.receipts:
        return [one("receipts  none came here yet", Tone.FAINT)]
    bad = [each for each in state.receipts.values() if not each.holds]
    words = f"receipts  {len(state.receipts)}, "
    words += "all signatures hold here" if not bad else f"{len(bad)} DO NOT HOLD: {bad[0].words}"
    return [one(words, Tone.BAD if bad else Tone.PLAIN)]


def close_sentence(state: State) -> str:
    """What closing the job does, in one sentence."""
    held = state.checkpoint
    kept = "nothing is sealed yet" if held is None else f"step {held.step:,} stays sealed for you"
    money = "what has a receipt is paid"
    if state.cost is not None:
        back = left(max(0, state.cost.cap - state.cost.spent))
        money = f"{cost(state.cost.spent)} cr are spent, and about {back} cr come back"
    return f"Close job {short(state.job)} for good: {kept}, {money}."


# --- all of it -----------------------------------------------------------------------------------


def plain(state: State, since: int, now: int, zone: dt.tzinfo, *, online: bool) -> Iterator[str]:
    """The screen in lines: no boxes, no braille."""
    head = state.head
    name = "" if head is None else f", {head.name}"
    yield f"job {state.job}{name}: {state_words(state)}"
    if head is not None and head.simulated:
        yield "SIMULATED: proves nothing about hardware"
    if not online and state.heard_at is not None:
        yield f"offline: last heard {clock(state.heard_at, zone)}"
    if state.failure is not None:
        yield f"not read: {state.failure.words} ({state.failure.code})"
    for each in page(state) or ([] if trains(state) else waiting(state, since, now)):
        yield "".join(part.text for part in each)
    for number, stage_name in enumerate(STAGES, start=1):
        stage = state.stages.get(stage_name)
        words = "waiting" if stage is None else stage_sentence(stage, now)
        yield f"stage {number} of {len(STAGES)}, {stage_name}: {words}"
    if trains(state):
        yield curve.sentence(state.curve)
        yield curve.numbers(state.curve)
        yield from resumed(state)
    for label, value in numbers(state, now):
        yield f"{label}: {value}"
    for event in state.events[-10:]:
        yield "".join(part.text for part in event_line(event, zone))
