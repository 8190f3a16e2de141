"""From what the market lists and what this host kept to a statement. Pure: no I/O, no clock.

Rules:
- Each amount is computed again (`metering.owed`) from the signed receipt, with this host's own sums
  of the lease from its first receipt on. On the market's word alone stand: when it settled a
  receipt and stopped the meter, which step was committed, what older generations were paid, and
  what the hold still held. Each of them, where it took something away, is a reason in `why`.
- Amounts that differ are never explained away: the line says DIFFERS and both amounts.
- A receipt that this host carried and the market does not list is *accrued*; from an hour on the
  line says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from marketplace.wire import SettlementState
from marketplace.wire_hosts import HostLease, HostSettlement
from provider_agent.earnings.book import SPAN_GAP_MS, KeptLease, KeptReceipt, Span
from provider_agent.earnings.lines import (
    DAY_MS,
    Adjustment,
    Idle,
    Line,
    Part,
    State,
    Statement,
    Verdict,
    day_of,
    day_start,
    days_between,
    overlap,
)
from provider_agent.earnings.metering import Before, Owed, Rates, Reading, owed
from trust.errors import BlindhostError
from trust.identity import Signed, verify_signed
from trust.messages import End, Receipt

UNSETTLED_MS: Final = 3_600_000  # the enclave sends it again each minute until the market has it
HOLD_UNKNOWN: Final = (1 << 53) - 1  # no settlement has said what the hold holds
_STATES: Final = {
    SettlementState.PENDING: State.MATURING,
    SettlementState.DISPUTED: State.DISPUTED,
    SettlementState.MATURED: State.PAYABLE,
    SettlementState.REFUNDED: State.REFUNDED,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """All that a statement is made from."""

    leases: Sequence[HostLease]
    settlements: Mapping[str, Sequence[HostSettlement]]
    """By lease."""
    receipts: Mapping[str, Sequence[KeptReceipt]]
    """By lease: carried by this host."""
    terms: Mapping[str, KeptLease]
    """By lease: as they stood when it was opened."""
    spans: Sequence[Span]
    paid_out: int
    """Microcredits that have left the payable account."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One receipt, settled or accrued."""

    at: int
    billed_ms: int
    """What it added to the lease's metered time."""
    host: int
    fee: int
    expected: int
    state: State
    matures_at: int | None
    why: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def make_statement(accounts: Accounts, now: int) -> Statement:
    """The statement as of `now`, Unix milliseconds: lines by day and lease, oldest first."""
    lines: list[Line] = []
    for lease in accounts.leases:
        lines.extend(_lease_lines(accounts, lease, now))
    lines.sort(key=lambda each: (each.day, each.start, each.lease))
    lines = _with_sent(lines, accounts.paid_out)
    total, running = 0, []
    for line in lines:
        total += line.net
        running.append(dataclasses.replace(line, running_total=total))
    return Statement(lines=tuple(running), idle=_idle(accounts, now), totals=_totals(running))


def check_lease(
    lease: HostLease,
    settlements: Sequence[HostSettlement],
    receipts: Sequence[KeptReceipt],
    now: int,
) -> list[_Entry]:
    """Every receipt of a lease, computed again: those that settled, then those that should have."""
    before, billed, number = Before(), 0, 0
    entries: list[_Entry] = []
    carried = {each.number: each for each in receipts}
    for settled in settlements:
        signed = _verified(lease, settled.signed)
        if signed is None:
            entries.append(_entry(settled, billed_ms=0, expected=0, verdict=Verdict.UNSIGNED))
            continue
        receipt, until = signed.document, settled.settled_at
        before = dataclasses.replace(
            before,
            paid_before_step=settled.paid_before_step,
            job_royalty=settled.job_royalty_before,
            job_tokens=settled.job_tokens_before,
            available=settled.available_before,
        )
        reading = _reading(lease, receipt, until=until, committed=settled.committed_step)
        due = owed(_rates(lease), reading, before)
        found = (settled.host_amount, settled.owner_amount, settled.fee_amount)
        verdict = None if found == (due.host, due.owner, due.fee) else Verdict.DIFFERS
        mine = carried.get(receipt.number)
        if mine is not None and mine.digest != signed.digest:
            verdict = Verdict.FORKED
        entry = _entry(
            settled,
            billed_ms=max(0, reading.milliseconds - billed),
            expected=due.host,
            verdict=verdict,
            why=_clocks(receipt, reading) + due.why,
        )
        entries.append(entry)
        billed, number = max(billed, reading.milliseconds), receipt.number
        before = _after(before, due)
    entries.extend(_accrued(lease, settlements, receipts, (before, billed, number), now))
    return entries


# --- one receipt ---------------------------------------------------------------------------------


def _verified(lease: HostLease, signed: bytes) -> Signed[Receipt] | None:
    """The receipt, if the metered key signed it and it names this lease."""
    if lease.signing_key is None:
        return None
    try:
        found = verify_signed(Receipt, signed, signer=lease.signing_key)
    except BlindhostError:
        return None
    said = found.document
    named = (said.lease, said.job, said.rank, said.generation)
    return found if named == (lease.lease, lease.job, lease.rank, lease.generation) else None


def _rates(lease: HostLease) -> Rates:
    return Rates(
        price_per_gpu_hour=lease.price_microcredits_per_gpu_hour,
        gpus=lease.gpus,
        meter=lease.meter,
        ceiling=lease.ceiling,
        checkpoint_steps=lease.checkpoint_steps,
        royalty_per_job=lease.royalty_per_job,
        royalty_per_million_tokens=lease.royalty_per_million_tokens,
        fee_ppm=lease.fee_ppm,
    )


def _reading(lease: HostLease, receipt: Receipt, *, until: int, committed: int) -> Reading:
    """The lesser of the enclave's clock and the market's: from *ready* to `until`, or its end."""
    ready = lease.ready_at if lease.ready_at is not None else until
    if lease.metered_until is not None:
        until = min(until, lease.metered_until)
    return Reading(
        milliseconds=min(receipt.milliseconds, max(0, until - ready)),
        first_step=receipt.first_step,
        step=receipt.step,
        tokens=receipt.tokens,
        committed_step=committed,
        done=receipt.end is End.DONE,
    )


def _clocks(receipt: Receipt, reading: Reading) -> tuple[str, ...]:
    cut = receipt.milliseconds - reading.milliseconds
    return (f"market-clock -{cut} ms",) if cut > 0 else ()


def _after(before: Before, due: Owed) -> Before:
    return dataclasses.replace(
        before,
        gross=due.gross_sum,
        fee=due.fee_sum,
        tokens=due.tokens_sum,
        job_royalty=before.job_royalty + due.owner,
        job_tokens=before.job_tokens + due.tokens_sum - before.tokens,
        available=max(0, before.available - due.host - due.owner - due.fee),
    )


def _entry(
    settled: HostSettlement,
    *,
    billed_ms: int,
    expected: int,
    verdict: Verdict | None,
    why: tuple[str, ...] = (),
) -> _Entry:
    return _Entry(
        at=settled.settled_at,
        billed_ms=billed_ms,
        host=settled.host_amount,
        fee=settled.fee_amount,
        expected=expected,
        state=_STATES[settled.state],
        matures_at=settled.matures_at if settled.state is SettlementState.PENDING else None,
        why=why,
        verdicts=() if verdict is None else (verdict,),
    )


def _accrued(
    lease: HostLease,
    settlements: Sequence[HostSettlement],
    receipts: Sequence[KeptReceipt],
    reached: tuple[Before, int, int],
    now: int,
) -> list[_Entry]:
    """The newest receipt that was carried and is above what settled; older ones it contains."""
    before, billed, number = reached
    waiting = [each for each in receipts if each.number > number]
    found = [(each, _verified(lease, each.signed)) for each in waiting]
    signed = [(kept, each) for kept, each in found if each is not None]
    if not signed:
        return []
    kept, newest = signed[-1]
    committed = settlements[-1].committed_step if settlements else newest.document.first_step
    if not settlements:
        before = dataclasses.replace(before, available=HOLD_UNKNOWN)
    reading = _reading(lease, newest.document, until=kept.at, committed=committed)
    due = owed(_rates(lease), reading, before)
    late = now - signed[0][0].at >= UNSETTLED_MS
    return [
        _Entry(
            at=kept.at,
            billed_ms=max(0, reading.milliseconds - billed),
            host=due.host,
            fee=due.fee,
            expected=due.host,
            state=State.ACCRUED,
            matures_at=None,
            why=("estimate: not settled yet", *due.why),
            verdicts=(Verdict.UNSETTLED,) if late else (),
        )
    ]


# --- one lease -----------------------------------------------------------------------------------


def _lease_lines(accounts: Accounts, lease: HostLease, now: int) -> list[Line]:
    settlements = accounts.settlements.get(lease.lease, ())
    receipts = accounts.receipts.get(lease.lease, ())
    entries = check_lease(lease, settlements, receipts, now)
    terms = accounts.terms.get(lease.lease)
    worse = terms is not None and _is_worse(lease, terms)
    end = max(lease.opened_at, now if lease.ended_at is None else lease.ended_at)
    by_day: dict[str, list[_Entry]] = {day: [] for day in days_between(lease.opened_at, end)}
    for entry in entries:
        by_day.setdefault(day_of(entry.at), []).append(entry)
    return [_line(lease, day, by_day[day], end, worse=worse) for day in sorted(by_day)]


def _is_worse(lease: HostLease, terms: KeptLease) -> bool:
    same = (terms.offer, terms.price, terms.gpus)
    if same != (lease.offer, lease.price_microcredits_per_gpu_hour, lease.gpus):
        return True
    return terms.fee_ppm is not None and lease.fee_ppm > terms.fee_ppm


def _line(lease: HostLease, day: str, entries: Sequence[_Entry], end: int, *, worse: bool) -> Line:
    start = max(lease.opened_at, day_start(day))
    wall = overlap(lease.opened_at, end, day)
    billed = sum(each.billed_ms for each in entries)
    verdicts = {verdict for each in entries for verdict in each.verdicts}
    if worse:
        verdicts.add(Verdict.TERMS)
    host, fee = sum(each.host for each in entries), sum(each.fee for each in entries)
    back = sum(each.host + each.fee for each in entries if each.state is State.REFUNDED)
    fee_back = sum(each.fee for each in entries if each.state is State.REFUNDED)
    adjustments: tuple[Adjustment, ...] = ()
    if back:
        reason = "dispute decided for the buyer"
        adjustments = (Adjustment(reason=reason, amount=fee_back - back),)
    words = dict.fromkeys(word for each in entries for word in each.why)
    return Line(
        day=day,
        lease=lease.lease,
        offer=lease.offer,
        offer_version=lease.offer_terms_number,
        gpus=lease.gpus,
        start=start,
        end=max(start, min(end, day_start(day) + DAY_MS)),
        wall_ms=wall,
        billed_ms=billed,
        why=(*_times(lease, day, end, billed), *words),
        rate=lease.price_microcredits_per_gpu_hour,
        gross=host + fee,
        fee=fee,
        adjustments=adjustments,
        parts=_parts(entries),
        expected_host=sum(each.expected for each in entries),
        verdicts=tuple(sorted(verdicts)),
        running_total=0,
    )


def _times(lease: HostLease, day: str, end: int, billed: int) -> tuple[str, ...]:
    """Why wall time and billed time of a day differ, in milliseconds: the parts add up."""
    ready = end if lease.ready_at is None else min(lease.ready_at, end)
    off = end if lease.metered_until is None else min(lease.metered_until, end)
    starting = overlap(lease.opened_at, ready, day)
    metered = overlap(ready, off, day)
    ending = overlap(max(ready, off), end, day)
    found = (
        ("before-ready", starting),
        ("after-meter", ending),
        ("no-receipt", metered - billed),  # below zero: it bills an earlier day
    )
    return tuple(f"{name} {amount} ms" for name, amount in found if amount)


def _parts(entries: Sequence[_Entry]) -> tuple[Part, ...]:
    found: dict[State, Part] = {}
    for each in entries:
        last = found.get(each.state)
        matures = each.matures_at
        if last is not None and last.matures_at is not None and matures is not None:
            matures = max(last.matures_at, matures)
        amount = each.host + (last.amount if last else 0)
        found[each.state] = Part(state=each.state, amount=amount, matures_at=matures)
    return tuple(part for state, part in sorted(found.items()) if part.amount)


def _with_sent(lines: list[Line], paid_out: int) -> list[Line]:
    """Payouts pay what has been payable longest."""
    left, found = max(0, paid_out), []
    for line in lines:
        parts: list[Part] = []
        for part in line.parts:
            sent = min(left, part.amount) if part.state is State.PAYABLE else 0
            left -= sent
            if sent:
                parts.append(Part(state=State.SENT, amount=sent, matures_at=None))
            if part.amount > sent:
                parts.append(dataclasses.replace(part, amount=part.amount - sent))
        found.append(dataclasses.replace(line, parts=tuple(parts)))
    return found


def _totals(lines: Sequence[Line]) -> tuple[Part, ...]:
    sums: dict[State, int] = {}
    for line in lines:
        for part in line.parts:
            sums[part.state] = sums.get(part.state, 0) + part.amount
    return tuple(
        Part(state=state, amount=sums[state], matures_at=None) for state in State if state in sums
    )


# --- idle time -----------------------------------------------------------------------------------


def _idle(accounts: Accounts, now: int) -> tuple[Idle, ...]:
    """What the offer did while no lease held the machine; between two spans no agent ran."""
    spans = list(accounts.spans)
    held = [
        (each.opened_at, now if each.ended_at is None else each.ended_at)
        for each in accounts.leases
    ]
    pieces: list[tuple[str, int, int]] = []
    for index, span in enumerate(spans):
        until = span.until
        pieces.append((span.state, span.since, until))
        following = spans[index + 1].since if index + 1 < len(spans) else now
        if following > until:
            is_last = index + 1 == len(spans)
            gone = not is_last or following - until > SPAN_GAP_MS
            pieces.append(("agent-off" if gone else span.state, until, following))
    sums: dict[tuple[str, str], int] = {}
    for reason, start, end in pieces:
        for begin, stop in _without(start, end, held):
            for day in days_between(begin, stop):
                key = (day, reason)
                sums[key] = sums.get(key, 0) + overlap(begin, stop, day)
    return tuple(
        Idle(day=day, reason=reason, milliseconds=amount)
        for (day, reason), amount in sorted(sums.items())
        if amount
    )


def _without(start: int, end: int, held: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """An interval less the intervals in which the machine was held."""
    left = [(start, end)] if end > start else []
    for begin, stop in held:
        left = [
            piece
            for a, b in left
            for piece in ((a, min(b, begin)), (max(a, stop), b))
            if piece[1] > piece[0]
        ]
    return left
