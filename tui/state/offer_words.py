"""The words of the offers screen: rows, summary, side panel, funnel. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len

from tui.facts import Funnel, OfferRow, PolicyPreview, Would
from tui.state.offers import QUERY_CHARACTERS_MAX, State
from tui.state.rows import Row, Tone, Words, say
from tui.text import ago, clean, cost, short, span

BAR_CELLS: Final = 12
PLAIN_ROWS_MAX: Final = 40


def previews_of(state: State, offer: str) -> list[PolicyPreview]:
    """What custodians' brokers would say to it."""
    return [each for each in state.previews.values() if each.offer == offer]


def keys_words(previews: Iterable[PolicyPreview]) -> Words:
    """Whether keys would be released, in one cell. A refusal counts most, then what is unknown."""
    found = list(previews)
    for each in found:
        if each.would is Would.REFUSE:
            return say(f"REFUSED: {each.check}" if each.check else "REFUSED", Tone.FAINT)
    if not found:
        return say("not asked", Tone.FAINT)
    unknown = sum(each.would is Would.UNKNOWN for each in found)
    return say("not known", Tone.FAINT) if unknown else say("would release", Tone.GOOD)


def row_of(state: State, offer: OfferRow, now: int) -> Row:
    """An offer as a row of the table; greyed where a broker would refuse it."""
    keys = keys_words(previews_of(state, offer.id))
    faint = state.old or keys.text.startswith("REFUSED") or offer.state != "listed"
    return Row(
        key=offer.id,
        tone=Tone.FAINT if faint else Tone.PLAIN,
        cells=(
            cost(offer.ask),
            offer.gpu_model or "no GPU",
            str(offer.gpus),
            memory_words(offer.memory_mib),
            offer.platform,
            left_words(offer, now),
            cost(offer.ask * max(1, offer.gpus)),
            keys,
            short(offer.host),
        ),
    )


def memory_words(mebibytes: int) -> str:
    """GiB, whole where it is."""
    whole, rest = divmod(max(0, mebibytes), 1024)
    return str(whole) if not rest else f"{mebibytes / 1024:.1f}"


def gpu_words(offer: OfferRow) -> str:
    """How many of which, and how much memory each has."""
    if not offer.gpu_model:
        return f"none, {memory_words(offer.memory_mib)} GiB of memory"
    return f"{offer.gpus} × {offer.gpu_model}, {memory_words(offer.memory_mib)} GiB"


def left_words(offer: OfferRow, now: int) -> str:
    """How long the offer lasts."""
    return span(offer.ends_at - now) if offer.ends_at > now else "over"


# --- lines ----------------------------------------------------------------------------------------


def summary(state: State, now: int, *, online: bool) -> list[Words]:
    """One line: how many fit, the tightest clause, how old it is; or what is awaited."""
    if not state.pages:
        if state.error is not None:
            return []
        if state.failure is not None:
            return [say(f"FAILED {state.failure.code}: {state.failure.words}", Tone.BAD)]
        if state.asked_at is not None:
            since = span(max(0, now - state.asked_at))
            end = "" if online else "; the market does not answer"
            return [say(f"asking the market for offers, {since}{end}")]
        return [say("no offers seen yet: the market has not answered")]
    page = state.pages[0]
    parts = (
        [f"{state.total:,} of {page.listed:,} fit"] if page.listed else ["nothing is listed now"]
    )
    if tight := tightest(state):
        parts.append(tight)
    if state.total and state.funnel is not None and state.funnel.steps:
        parts.append("w: the whole funnel")
    parts.append(f"as of {ago(state.as_of or now, now)}")
    words = "   ".join(parts)
    if state.old:
        return [say(f"old: {words}; of: {page.query or 'all offers'}", Tone.FAINT)]
    if not online:
        return [say(f"OFFLINE, last known: {words}; no quote until the market answers", Tone.WARN)]
    if state.failure is not None:
        return [say(words), say(f"FAILED {state.failure.code}: {state.failure.words}", Tone.BAD)]
    return [say(words)]


def tightest(state: State) -> str:
    """The clause that takes the largest part of what the ones before it left."""
    if state.funnel is None:
        return ""
    worst, words, before = 0.0, "", max(0, state.funnel.listed)
    for step in state.funnel.steps:
        taken = (before - step.left) / before if before > 0 else 0.0
        if taken > worst:
            worst = taken
            words = f"tightest: {step.clause} ({before:,} to {step.left:,})"
        before = step.left
    return words


def error_lines(state: State, *, scrolled: int = 0) -> list[Words]:
    """The mark under the column, and what is wrong; the first line stands under the query.

    `scrolled`: cells of the query that are out of sight to the left.
    """
    error = state.error
    if error is None:
        return []
    at = max(0, min(error.at, QUERY_CHARACTERS_MAX))
    cells = max(0, cell_len(error.query[:at]) - scrolled)
    means = f"; did you mean {error.suggestion}?" if error.suggestion else ""
    fault = f"column {at + 1}: {error.text}{means}"
    return [say(f"{' ' * cells}▲", Tone.BAD), say(fault, Tone.BAD)]


def panel(state: State, offer: OfferRow | None, now: int) -> list[Words]:
    """All about one offer, for the panel at the side."""
    if offer is None:
        return [say("no offer under the cursor", Tone.FAINT)]
    floor = f" · floor {cost(offer.floor)}" if offer.floor is not None else " · not interruptible"
    lines = [
        say(short(offer.id, 24), Tone.STRONG),
        say(f"PRICE   {cost(offer.ask)} cr per GPU and hour{floor}"),
        say(f"        {cost(offer.ask * max(1, offer.gpus))} cr/h for the machine"),
        say(f"GPU     {gpu_words(offer)}"),
        say(f"TEE     {offer.platform}"),
    ]
    lines += keys_lines(state, offer.id)
    lines.append(say(f"HOST    {short(offer.host)} · ends in {left_words(offer, now)}"))
    if offer.state != "listed":
        lines.append(say(f"STATE   {offer.state}", Tone.WARN))
    if offer.words:
        lines.append(say(f"        {offer.words}"))
    if offer.compute_class:
        lines.append(say(f"CLASS   {offer.compute_class}", Tone.FAINT))
    return lines


def strip(state: State, offer: OfferRow | None, now: int) -> list[Words]:
    """The same in four lines, for under the table."""
    if offer is None:
        return [say("no offer under the cursor", Tone.FAINT)]
    price = cost(offer.ask * max(1, offer.gpus))
    floor = f", floor {cost(offer.floor)}" if offer.floor is not None else ""
    keys = [
        f"{short(each.custodian, 6)}: {_would(each)}" for each in previews_of(state, offer.id)[:2]
    ]
    return [
        say(
            f"{short(offer.id, 24)}  {offer.gpus} × {offer.gpu_model or 'no GPU'}, {offer.platform}"
        ),
        say(f"PRICE {cost(offer.ask)} cr per GPU and hour{floor}; {price} cr/h for the machine"),
        say(f"KEYS  {' · '.join(keys) if keys else 'not asked: no draft of a job, or no policy'}"),
        say(
            f"HOST  {short(offer.host)} · ends in {left_words(offer, now)} · {offer.words}".rstrip(
                " ·"
            )
        ),
    ]


def keys_lines(state: State, offer: str) -> list[Words]:
    """What each custodian's broker would do."""
    found = previews_of(state, offer)
    if not found:
        return [say("KEYS    not asked: no draft of a job, or no policy", Tone.FAINT)]
    tones = {Would.PASS: Tone.GOOD, Would.REFUSE: Tone.BAD, Would.UNKNOWN: Tone.WARN}
    return [
        say(
            f"{'KEYS' if not at else '':<8}{short(each.custodian)}: {_would(each)}",
            tones[each.would],
        )
        for at, each in enumerate(found)
    ]


def _would(preview: PolicyPreview) -> str:
    return f"{preview.would.value}, {preview.check}" if preview.check else preview.would.value


def compare_lines(state: State, now: int) -> list[Words]:
    """Offers side by side, a line for each thing; what differs is strong."""
    offers = state.compared
    table = [
        ("offer", [short(each.id, 16) for each in offers]),
        ("cr per GPU and hour", [cost(each.ask) for each in offers]),
        ("cr/h, machine", [cost(each.ask * max(1, each.gpus)) for each in offers]),
        ("floor", ["-" if each.floor is None else cost(each.floor) for each in offers]),
        ("gpu", [f"{each.gpus} × {each.gpu_model or 'none'}" for each in offers]),
        ("GiB", [memory_words(each.memory_mib) for each in offers]),
        ("tee", [each.platform for each in offers]),
        ("keys", [keys_words(previews_of(state, each.id)).text for each in offers]),
        ("ends in", [left_words(each, now) for each in offers]),
        ("host", [short(each.host) for each in offers]),
    ]
    return [
        say(
            f"{label:<20}" + "".join(f"{clean(value, limit=22):<24}" for value in values),
            Tone.STRONG if len(set(values)) > 1 else Tone.FAINT,
        )
        for label, values in table
    ]


# --- the funnel -----------------------------------------------------------------------------------


def ladder(funnel: Funnel | None, *, bars: bool = True) -> list[Words]:
    """A line for all offers and one for each clause: what it left, a bar, what to do about it."""
    if funnel is None:
        return []
    listed = max(0, funnel.listed)
    lines = [say(_rung(listed, "all offers", listed, listed, "", bars=bars))]
    before = listed
    for step in funnel.steps:
        if step.left == before:
            note = "takes nothing: implied by those above"
        elif step.looser:
            cheapest = "" if step.cheapest is None else f", cheapest {cost(step.cheapest)}"
            note = f"{'⏎ ' if bars else ''}{step.looser}: +{step.gain:,}{cheapest}"
        else:
            note = "no looser value known"
        tone = Tone.BAD if not step.left else Tone.PLAIN
        lines.append(say(_rung(step.left, step.clause, step.left, listed, note, bars=bars), tone))
        before = step.left
    return lines


def _rung(count: int, clause: str, part: int, whole: int, note: str, *, bars: bool) -> str:
    if not bars:
        return f"{count:,} left by {clause}" + (f"; {note}" if note else "")
    eighths = 0 if whole <= 0 else -(-max(0, min(part, whole)) * BAR_CELLS * 8 // whole)
    bar = "█" * (eighths // 8) + ("" if not eighths % 8 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])
    return f"{count:>9,}  {clean(clause, limit=24):<24} {bar:<{BAR_CELLS}} {note}".rstrip()


def miss_words(funnel: Funnel | None) -> str:
    """What comes nearest to fitting; empty: something fits, or it is not known."""
    return (
        "" if funnel is None or not funnel.nearest_miss else f"nearest miss: {funnel.nearest_miss}"
    )


def loosened(query: str, funnel: Funnel, index: int) -> str:
    """The query with the clause at `index` replaced by its looser one; unchanged if it has none.

    Where the clause does not stand in the query word for word, the query is made of all clauses.
    """
    if not 0 <= index < len(funnel.steps) or not funnel.steps[index].looser:
        return query
    step = funnel.steps[index]
    whole = re.compile(rf"(?<!\S){re.escape(step.clause)}(?!\S)")
    changed, count = whole.subn(lambda _: step.looser, query, count=1)
    if count:
        return changed
    clauses = [each.looser if at == index else each.clause for at, each in enumerate(funnel.steps)]
    return " ".join(clauses)


# --- plain ----------------------------------------------------------------------------------------


def plain(state: State, now: int, *, online: bool) -> list[str]:
    """The screen in lines."""
    lines = [f"Offers. Query: {state.query or 'none, all offers'}. Sorted by {state.sort}."]
    lines += [each.text.replace("▲", "here:") for each in error_lines(state)[1:]]
    lines += [each.text for each in summary(state, now, online=online)]
    if state.pages and not state.total:
        lines += [each.text for each in ladder(state.funnel, bars=False)]
        lines += [miss_words(state.funnel)] if miss_words(state.funnel) else []
    rows = [row for page in state.pages for row in page.rows][:PLAIN_ROWS_MAX]
    for row in rows:
        lines.append(
            f"{row.id}: {cost(row.ask)} credits per GPU and hour, {gpu_words(row)}, "
            f"{row.platform}, ends in "
            f"{left_words(row, now)}, keys: {keys_words(previews_of(state, row.id)).text}"
        )
    if len(rows) < state.total:
        lines.append(f"{len(rows):,} of {state.total:,} are listed here.")
    return lines
