"""The market's settlement rule, stated again on the host's side: pure, integers only.

It is `marketplace.metering.billable`, written here from what that module's rules say, so that a
host computes what it is owed without the market's code; a test holds the two equal over generated
receipts. Everything is cumulative and rounded down once:

- **Time**: ``floor(price × gpus × ms ÷ 3,600,000)``. **Work**: steps × the ceiling of one, or
  tokens × the ceiling of a million. The gross is the lesser, over the payable part of the run.
- Steps that an older generation was paid for are not paid again; uncommitted steps are paid up to
  one checkpoint interval beyond the committed one; an evaluation is paid once it is done.
- What the hold still holds goes to the owner's royalty first. The fee is taken out of the gross.

`why` tells which of these took something away, for people.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from marketplace.wire_hosts import JobMeter

HOUR_MS: Final = 3_600_000
MILLION: Final = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What was agreed; microcredits."""

    price_per_gpu_hour: int
    gpus: int
    meter: JobMeter
    ceiling: int
    checkpoint_steps: int
    royalty_per_job: int
    royalty_per_million_tokens: int
    fee_ppm: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a receipt says, cumulative, and which of its steps is committed."""

    milliseconds: int
    """The lesser of the enclave's clock and the market's."""
    first_step: int
    step: int
    tokens: int
    committed_step: int
    done: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What the lease was paid before this receipt, by our own sums, and what the job was."""

    gross: int = 0
    fee: int = 0
    tokens: int = 0
    paid_before_step: int = 0
    """Of this rank, by older generations."""
    job_royalty: int = 0
    job_tokens: int = 0
    available: int = 0
    """What the hold still holds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Owed:
    """What a receipt adds, and the new sums of its lease."""

    host: int
    owner: int
    fee: int
    gross_sum: int
    fee_sum: int
    tokens_sum: int
    why: tuple[str, ...]
    """What made the gross less than the time alone would come to; stable words."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    gross: int
    tokens: int
    is_paid: bool
    why: tuple[str, ...]


def owed(rates: Rates, reading: Reading, before: Before) -> Owed:
    """What one receipt adds.

    (1) The lesser of its time and its payable work. (2) The owner's royalty over the whole job.
    (3) Both less what was paid before, within what is there, the owner first. (4) The fee.
    """
    work = _work(rates, reading, before.paid_before_step)  # (1)
    tokens_sum = max(before.tokens, work.tokens)
    job_tokens = before.job_tokens + tokens_sum - before.tokens
    royalty = job_tokens * rates.royalty_per_million_tokens // MILLION  # (2)
    if work.is_paid or before.job_royalty > 0:
        royalty += rates.royalty_per_job
    there = max(0, before.available)
    owner = min(there, max(0, royalty - before.job_royalty))  # (3)
    wanted = max(0, work.gross - before.gross)
    gross = min(there - owner, wanted)
    gross_sum = before.gross + gross
    fee_sum = gross_sum * rates.fee_ppm // MILLION  # (4)
    fee = fee_sum - before.fee
    return Owed(
        host=gross - fee,
        owner=owner,
        fee=fee,
        gross_sum=gross_sum,
        fee_sum=fee_sum,
        tokens_sum=tokens_sum,
        why=work.why + (("hold-used-up",) if gross < wanted else ()),
    )


def _work(rates: Rates, reading: Reading, paid_before_step: int) -> _Work:
    price = rates.price_per_gpu_hour * rates.gpus
    if rates.meter is JobMeter.TOKENS:
        time = price * reading.milliseconds // HOUR_MS
        work = rates.ceiling * reading.tokens // MILLION
        why = ("ceiling",) if work < time else ()
        return _Work(
            gross=min(time, work), tokens=reading.tokens, is_paid=reading.tokens > 0, why=why
        )
    first, last, committed = reading.first_step, reading.step, reading.committed_step
    if rates.meter is JobMeter.RUN:
        first, last, committed = 0, int(reading.done), int(reading.done)
    payable_to = last
    if not reading.done:
        payable_to = min(last, max(first, committed) + rates.checkpoint_steps)
    begin = max(first, paid_before_step)
    steps, ran = max(0, payable_to - begin), last - first
    reasons: list[str] = []
    if rates.meter is JobMeter.RUN and not reading.done:
        reasons.append("not-done")
    if payable_to < last:
        reasons.append("uncommitted-steps")
    if begin > first and ran:
        reasons.append("steps-paid-before")
    if not steps:
        return _Work(gross=0, tokens=0, is_paid=False, why=tuple(reasons))
    time = price * reading.milliseconds * steps // (HOUR_MS * ran)
    work = rates.ceiling * steps
    if work < time:
        reasons.append("ceiling")
    tokens = reading.tokens * steps // ran
    return _Work(gross=min(time, work), tokens=tokens, is_paid=True, why=tuple(reasons))
