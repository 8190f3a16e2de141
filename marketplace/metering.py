"""From what a receipt says to what is due: pure, integers only.

Everything is computed from *cumulative* numbers and rounded down once; what is posted is the
difference to what was posted before. So the sum is the same however a run is cut into receipts,
and a receipt that was lost costs nobody anything.

- **Time.** The lesser of the market's clock and the receipt's milliseconds, at the lease's price:
  ``floor(price × gpus × ms ÷ 3,600,000)``. Price is microcredits per GPU-hour.
- **Work.** Steps × the manifest's ceiling for one. The host gets the lesser of time and work: one
  that starves its machine earns no more.
- **Never twice for one step.** Steps that an older generation was paid for are not paid again, and
  the time of a run is shared out evenly over its steps, so neither is the time that they took.
- **Uncommitted work** is payable up to one checkpoint interval beyond the last committed
  checkpoint. The end *done* commits all: the outputs have been reopened by both custodians' shares.
- **Royalty.** A flat part, once for each job, from its first paid work on; and a part for each
  million tokens of all the job's paid work.
- **Fee.** Parts per million of the host's gross, taken out of it.
- **Never more than is there.** What the hold still holds goes to the owner first, whose weights
  have been used whatever the host does; then to the host. What was cut short stays due.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from marketplace.models import Meter

MILLISECONDS_PER_HOUR: Final = 3_600_000
MILLION: Final = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What was agreed before the first step: copied from offer terms, manifest and owner's terms.

    Money is in microcredits.
    """

    price_per_gpu_hour: int
    gpus: int
    meter: Meter
    """What `ceiling` counts: one step, one whole evaluation, or a million tokens."""
    ceiling: int
    checkpoint_steps: int
    royalty_per_job: int
    royalty_per_million_tokens: int
    fee_ppm: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a verified receipt says, cumulative since its enclave's start."""

    milliseconds: int
    """The lesser of the enclave's clock and the market's."""
    first_step: int
    """The step that the run started after."""
    step: int
    """The last step done."""
    tokens: int
    committed_step: int
    """Step of the last committed checkpoint; at least `first_step`, where the run began."""
    done: bool
    """The run reached its end, and its outputs were reopened."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Posted:
    """What has been settled before this receipt."""

    paid_before_step: int
    """The last step of this rank that an older generation was paid for; 0 = none."""
    paid_through_step: int
    """The last step of this rank that this lease was paid for; 0 = none."""
    lease_gross: int
    lease_fee: int
    lease_tokens: int
    job_royalty: int
    job_tokens: int
    available: int
    """What the hold still holds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What this receipt adds (`host`, `owner`, `fee`), and the new cumulative sums."""

    host: int
    owner: int
    fee: int
    lease_gross: int
    lease_fee: int
    lease_tokens: int
    paid_through_step: int
    job_royalty: int
    job_tokens: int
    cut_short: bool
    """More was due than was there."""

    @property
    def total(self) -> int:
        """What leaves the hold."""
        return self.host + self.owner + self.fee


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    gross: int
    tokens: int
    paid_through_step: int
    is_paid: bool


def billable(rates: Rates, reading: Reading, posted: Posted) -> Due:
    """What is due for one receipt.

    (1) The payable part of the run. (2) The lesser of its time and its work: the host's gross.
    (3) The owner's royalty over the whole job. (4) Both less what was posted, within what is
    there, the owner first. (5) The fee out of the gross.
    """
    work = _work(rates, reading, posted)  # (1) (2)
    lease_tokens = max(posted.lease_tokens, work.tokens)
    job_tokens = posted.job_tokens + lease_tokens - posted.lease_tokens
    royalty = rates.royalty_per_million_tokens * job_tokens // MILLION  # (3)
    if work.is_paid or posted.job_royalty:
        royalty += rates.royalty_per_job
    owed_owner = max(0, royalty - posted.job_royalty)  # (4)
    owed_gross = max(0, work.gross - posted.lease_gross)
    owner = min(owed_owner, max(0, posted.available))
    gross = min(owed_gross, max(0, posted.available) - owner)
    lease_gross = posted.lease_gross + gross
    lease_fee = lease_gross * rates.fee_ppm // MILLION  # (5)
    fee = lease_fee - posted.lease_fee
    due = Due(
        host=gross - fee,
        owner=owner,
        fee=fee,
        lease_gross=lease_gross,
        lease_fee=lease_fee,
        lease_tokens=lease_tokens,
        paid_through_step=max(posted.paid_through_step, work.paid_through_step),
        job_royalty=posted.job_royalty + owner,
        job_tokens=job_tokens,
        cut_short=owner < owed_owner or gross < owed_gross,
    )
    assert due.host >= 0, due
    assert due.total <= max(0, posted.available), due
    return due


def _work(rates: Rates, reading: Reading, posted: Posted) -> _Work:
    price = rates.price_per_gpu_hour * rates.gpus
    if rates.meter is Meter.TOKENS:
        time = price * reading.milliseconds // MILLISECONDS_PER_HOUR
        gross = min(time, rates.ceiling * reading.tokens // MILLION)
        tokens = reading.tokens
        return _Work(gross=gross, tokens=tokens, paid_through_step=0, is_paid=tokens > 0)
    if rates.meter is Meter.RUN:  # one step: the whole evaluation, paid when it is done
        end = int(reading.done)
        reading = dataclasses.replace(reading, first_step=0, step=end, committed_step=end)
    ran = reading.step - reading.first_step
    payable_to = reading.step if reading.done else _committed_to(rates, reading)
    unpaid_from = max(reading.first_step, posted.paid_before_step)
    payable = max(0, min(reading.step, payable_to) - unpaid_from)
    if payable == 0:
        return _Work(gross=0, tokens=0, paid_through_step=0, is_paid=False)
    time = price * reading.milliseconds * payable // (MILLISECONDS_PER_HOUR * ran)
    return _Work(
        gross=min(time, rates.ceiling * payable),
        tokens=reading.tokens * payable // ran,
        paid_through_step=unpaid_from + payable,
        is_paid=True,
    )


def _committed_to(rates: Rates, reading: Reading) -> int:
    return max(reading.first_step, reading.committed_step) + rates.checkpoint_steps
