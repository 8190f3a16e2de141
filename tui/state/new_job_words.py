"""The words of the new job screen. Pure."""

from __future__ import annotations

from typing import Final

from tui.facts import Balance, DatasetCheck, Quote, SealProgress, Setup, Submitted
from tui.state.job_fields import FIELDS, microcredits
from tui.state.new_job import STEPS, State, Step, cannot_sign, step_faults
from tui.state.rows import Tone, Words, say
from tui.text import bytes_in_words, cost, left, short, span

FAULTS_SHOWN_MAX: Final = 8
BAR_CELLS: Final = 20


def heads(state: State, setup: Setup | None) -> list[Words]:
    """One head for each step: its number, name and sign."""
    found = []
    for number, step in enumerate(STEPS, start=1):
        here = step is state.step
        fine = not step_faults(state, step, setup) and step is not Step.SIGN
        sign = "✓" if fine or (step is Step.SIGN and state.accepted) else "▸" if here else "·"
        tone = Tone.LOUD if here else Tone.GOOD if fine else Tone.PLAIN
        found.append(say(f" {number} {step.value.title()} {sign} ", tone))
    return found


def model_lines(state: State, setup: Setup | None) -> list[Words]:
    """A line for each model; what may not be tuned says why."""
    lines = []
    for each in setup.models if setup else ():
        sign = "✓" if each.id == state.model else " "
        owner = "your own" if each.mine else f"of {short(each.owner)}"
        may = "" if each.tunable else "NOT TUNABLE: "
        text = f"{sign} {each.name:<24} {owner:<17} {may}{each.words}"
        lines.append(say(text, Tone.PLAIN if each.tunable else Tone.FAINT))
    return lines


def model_notes(setup: Setup | None) -> list[Words]:
    """What stands where there is no model."""
    if setup is None:
        return [say("reading this home; it ends with the first facts of it", Tone.FAINT)]
    if setup.locked:
        return [say("The keys are locked: 1 Start opens them.", Tone.WARN)]
    if not setup.models:
        return [
            say("No sealed model is known in this home."),
            say("A model's owner gives you its id and terms; with an open model, you are owner:"),
            say("blindhost publish seals one of your own.", Tone.STRONG),
        ]
    return [say("⏎ takes a model. Its owner's terms stand on the page that you sign.", Tone.FAINT)]


def data_lines(state: State, setup: Setup | None) -> list[Words]:
    """A line for each sealed dataset."""
    lines = []
    for each in setup.data if setup else ():
        sign = "✓" if each.id == state.data else "h" if each.id == state.heldout else " "
        rows = "" if each.rows is None else f"{each.rows:,} rows"
        size = bytes_in_words(each.bytes)
        lines.append(say(f"{sign} {each.name:<24} {rows:>14}  {size:>9}  {short(each.id)}"))
    return lines


def file_lines(state: State, now: int) -> list[Words]:
    """What is known of the file: its check, its faults, its sealing."""
    lines: list[Words] = []
    if state.check is not None:
        lines += _check_lines(state.check)
    elif state.check_asked_at is not None:
        waited = span(max(0, now - state.check_asked_at))
        lines.append(say(f"checking every line, {waited}; it ends with the file"))
    if state.sealing is not None:
        lines.append(seal_line(state.sealing))
    elif state.seal_asked_at is not None:
        waited = span(max(0, now - state.seal_asked_at))
        lines.append(say(f"sealing begins, {waited}; Esc stops it, nothing has left yet"))
    lines += failure_lines(state, state.check_id, state.seal_id)
    if state.data:
        held = f" · held-out {short(state.heldout)}" if state.heldout else " · no held-out rows"
        lines.append(say(f"dataset {short(state.data)}{held}", Tone.GOOD))
    lines.append(
        say("the host will see padded sizes and times. Not a row, not a word, not a loss.")
    )
    return lines


def _check_lines(check: DatasetCheck) -> list[Words]:
    part = _percent(check.bytes, check.bytes_total)
    if not check.done:
        words = f"checking  {part}  {check.rows:,} rows so far"
        lines = [say(words)]
    elif check.faults_total:
        lines = [say(f"✗ FAILED: {check.faults_total:,} lines can't be used", Tone.BAD)]
    else:
        size, longest = bytes_in_words(check.bytes_total), bytes_in_words(check.longest)
        words = f"✓ {check.rows:,} rows · {size} · longest row {longest}"
        lines = [say(words, Tone.GOOD)]
    shown = check.faults[:FAULTS_SHOWN_MAX]
    lines += [say(f"  line {each.line:,}: {each.words}", Tone.BAD) for each in shown]
    if check.faults_total > len(shown):
        lines.append(say(f"  and {check.faults_total - len(shown):,} more", Tone.BAD))
    return lines


def seal_line(sealing: SealProgress, *, bar: bool = True) -> Words:
    """Sealing or sending, in one line."""
    if sealing.stage == "done":
        return say(f"✓ sealed and stored as {short(sealing.artifact, 16)}", Tone.GOOD)
    part = _percent(sealing.bytes_done, sealing.bytes_total)
    done, whole = bytes_in_words(sealing.bytes_done), bytes_in_words(sealing.bytes_total)
    speed = (
        f"  {bytes_in_words(sealing.bytes_per_second)}/s" if sealing.bytes_per_second > 0 else ""
    )
    cells = 0
    if sealing.bytes_total > 0:
        cells = max(0, min(BAR_CELLS, sealing.bytes_done * BAR_CELLS // sealing.bytes_total))
    drawn = f"{'█' * cells}{'░' * (BAR_CELLS - cells)}  " if bar else ""
    return say(f"{sealing.stage:<9} {drawn}{part}  {done} of {whole}{speed}")


def _percent(done: int, whole: int) -> str:
    return "  0 %" if whole <= 0 else f"{max(0, min(100, done * 100 // whole)):>3} %"


def failure_lines(state: State, *commands: str) -> list[Words]:
    """A failure of one of these commands."""
    found = state.failure
    if found is None or found.where not in [each for each in commands if each]:
        return []
    again = "" if found.retry_in is None else f"; tried again in {span(found.retry_in)}"
    return [say(f"FAILED {found.code}: {found.words}{again}", Tone.BAD)]


def quote_lines(state: State, now: int, *, online: bool) -> list[Words]:
    """What it would cost: under the form, as it is typed."""
    quote = state.current_quote
    failed = failure_lines(state, state.quote_id)
    if failed:
        return [*failed, say("r asks for a quote again", Tone.FAINT)]
    if quote is None:
        if state.draft is None:
            return [say("no estimate: the draft is not whole yet", Tone.FAINT)]
        if not online:
            return [say("OFFLINE: no quote until the market answers", Tone.WARN)]
        if state.quote_asked_at is not None and state.quote_for == state.draft:
            waited = span(max(0, now - state.quote_asked_at))
            return [say(f"asking for a quote, {waited}; it ends with the market's answer")]
        return [say("no quote yet: r asks for one", Tone.FAINT)]
    lines = [
        say(f"never more than {cost(quote.cost_max)} cr, by construction", Tone.STRONG),
        say(estimate_words(quote)),
    ]
    if quote.refused:
        lines.append(say(f"REFUSED as it stands: {quote.refused}", Tone.BAD))
    return lines


def free_lines(state: State, balance: Balance | None) -> list[Words]:
    """What is free, beside the cap."""
    if balance is None:
        return [say("what is free is not known before the market answers", Tone.FAINT)]
    spend = microcredits(state.fields.get("spend_max", ""))
    words = f"free {left(balance.free)} cr"
    if spend is not None and spend > balance.free:
        return [say(f"{words}: less than the cap, so it can't be held now", Tone.WARN)]
    return [say(words)]


def estimate_words(quote: Quote) -> str:
    """About how much, and how long."""
    if quote.cost_low is None or quote.cost_high is None:
        return "about how much is not known: nothing like it has run yet"
    low, high = cost(quote.cost_low), cost(quote.cost_high)
    about = f"about {low}" if low == high else f"about {low} to {high}"
    takes = "" if quote.milliseconds is None else f", {span(quote.milliseconds)}"
    return f"{about} cr{takes}"


def page_lines(state: State, now: int, *, online: bool) -> list[Words]:
    """The page to sign: the manifest in sentences, the most it costs, how long that holds."""
    quote = state.current_quote
    if quote is None:
        return quote_lines(state, now, online=online)
    lines = [say(each) for each in quote.sentences]
    lines += quote_lines(state, now, online=online)
    if state.offer:
        lines.append(say(f"quoted for offer {short(state.offer, 16)}", Tone.FAINT))
    lasts = quote.expires_at - now
    good = f"quote good for {lasts // 60_000}:{lasts // 1000 % 60:02d}"
    over = say("the quote is OVER: r asks for a new one", Tone.WARN)
    lines.append(say(good) if lasts > 0 else over)
    return lines


def sign_lines(state: State, now: int, *, online: bool) -> list[Words]:
    """What became of the signature, or what stands before it."""
    result = state.result
    if state.submitted_at is not None:
        waited = span(max(0, now - state.submitted_at))
        return [say(f"signed and on its way, {waited}; the same page is never two jobs")]
    if result is not None and result.outcome is Submitted.REFUSED:
        check = f" at {result.check}" if result.check else ""
        return [say(f"REFUSED{check}: {result.words}", Tone.BAD), say("nothing is held")]
    if result is not None:
        again = " (it was there already)" if result.outcome is Submitted.EXISTS else ""
        return [
            say(f"✓ {result.outcome.value.upper()}{again}: {result.job}", Tone.GOOD),
            say("⏎ opens it; y copies its name"),
        ]
    why = cannot_sign(state, now, online=online)
    lines = failure_lines(state, state.submit_id)
    if state.signed_before:
        before = "signed before, no answer came: signed again it is the same job, paid once"
        lines.append(say(before, Tone.WARN))
    return [*lines, say(f"not yet: {why}", Tone.FAINT)] if why else lines


def effect(state: State) -> str:
    """What signing does, in one sentence, for the panel that asks."""
    draft = state.draft
    held = cost(draft.spend_max) if draft is not None else "?"
    name = draft.name if draft is not None else "?"
    return f"Sign and submit {name}: {held} cr is held now, and what is not used comes back."


def plain(state: State, setup: Setup | None, now: int, *, online: bool) -> list[str]:
    """The screen in lines."""
    lines = [f"New job, step {STEPS.index(state.step) + 1} of 5: {state.step.value}."]
    model = next(
        (each.name for each in (setup.models if setup else ()) if each.id == state.model), ""
    )
    lines.append(f"model: {model or state.model or 'none chosen'}")
    lines.append(f"dataset: {state.data or 'none chosen'}; held-out: {state.heldout or 'none'}")
    lines += [f"{each.label}: {state.fields.get(each.name, '')}" for each in FIELDS.values()]
    for step in STEPS:
        for field, words in step_faults(state, step, setup).items():
            lines.append(f"{step.value}, {field}: {words}")
    if state.check is not None:
        lines += [each.text for each in _check_lines(state.check)]
    if state.sealing is not None:
        lines.append(seal_line(state.sealing, bar=False).text)
    lines += [each.text for each in page_lines(state, now, online=online)]
    return lines + [each.text for each in sign_lines(state, now, online=online)]
