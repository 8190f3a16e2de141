"""Allowances: what an enclave may use before it asks again, out of what a buyer may use at all.

- An allowance is cumulative: the totals since the enclave's start at which it stops and asks.
- It counts as spent when it is granted, by the owner's own clock. Killing an enclave gives nothing
  back; its own closing account gives the rest back.
- A period is the last `period_seconds` before now, at any moment: a budget can't be used twice
  around a boundary.
- Reports are also bounded for the job as a whole, over all of its enclaves (attacks.md, 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from trust.encoding import INTEGER_MAX
from trust.errors import RefusedError
from trust.jobs import GenerateRecipe, JobManifest, LoraRecipe, Terms
from trust.messages import Account, Allowance
from trust.release_state import NOTHING_USED, Memory, Spending

SLICES: Final = 4  # a killed enclave costs its buyer at most a quarter of the job's steps
SLICE_STEPS_MIN: Final = 64  # below this, asking again would cost more than it protects
REPORT_SLICES: Final = 8
TOKEN_SLICES: Final = 8  # a killed serve enclave costs its buyer an eighth of the period's tokens
SLICE_TOKENS_MIN: Final = 1 << 16  # what receipts count in: less could not be told from nothing
UNBOUNDED: Final = Allowance(tokens=None, steps=None, reports=None)
"""A custodian that owns no terms sets no bound: the least of all bounds counts."""


def next_allowance(
    memory: Memory,
    *,
    name: bytes,
    job: JobManifest,
    terms: Terms,
    granted: Account,
    used: Account,
    first_step: int,
    now: int,
) -> Allowance:
    """The next totals for an enclave that had `granted` and has `used` so much of it.

    (1) What it could use next: a slice of the job's steps and reports, and the tokens of those;
    serving, a slice of the buyer's tokens alone.
    (2) What the budgets leave this buyer in this period, and the job in reports.
    (3) The lesser of the two; a kind of which something is needed and nothing is left refuses.
    """
    wanted = _wanted(job, terms, used, first_step)  # (1)
    since = now - terms.budgets.period_seconds * 1000
    recent = [
        each
        for each in memory.spending
        if each.buyer == job.buyer and each.model in terms.lineages and each.at > since
    ]
    budgets = terms.budgets
    of_job = _total((s for s in memory.spending if s.seat[0] == name), lambda each: each.reports)
    left = Account(  # (2)
        tokens=max(0, budgets.tokens - _total(recent, lambda each: each.tokens)),
        steps=max(0, budgets.steps - _total(recent, lambda each: each.steps)),
        reports=min(
            max(0, budgets.reports - _total(recent, lambda each: each.reports)),
            max(0, terms.reports_max - of_job),
        ),
    )
    return Allowance(  # (3)
        tokens=_within("tokens", wanted.tokens, granted.tokens, left.tokens, used.tokens),
        steps=_within("steps", wanted.steps, granted.steps, left.steps, used.steps),
        reports=_within("reports", wanted.reports, granted.reports, left.reports, used.reports),
    )


def first_allowance(
    memory: Memory, *, name: bytes, job: JobManifest, terms: Terms, first_step: int, now: int
) -> Allowance:
    """The totals that a seat's grant carries. Raises RefusedError (``budget-…``)."""
    return next_allowance(
        memory,
        name=name,
        job=job,
        terms=terms,
        granted=NOTHING_USED,
        used=NOTHING_USED,
        first_step=first_step,
        now=now,
    )


def _wanted(job: JobManifest, terms: Terms, used: Account, first_step: int) -> Account:
    if isinstance(job.recipe, GenerateRecipe):
        a_slice = max(SLICE_TOKENS_MIN, terms.budgets.tokens // TOKEN_SLICES)
        return Account(tokens=min(INTEGER_MAX, used.tokens + a_slice), steps=0, reports=0)
    a_slice = max(SLICE_STEPS_MIN, -(-job.steps // SLICES))
    steps = min(job.steps - first_step, used.steps + a_slice) if job.steps > first_step else 0
    reports = used.reports + -(-terms.reports_max // REPORT_SLICES)
    return Account(
        tokens=steps * _step_tokens(job) + _evaluation_tokens(job), steps=steps, reports=reports
    )


def _step_tokens(job: JobManifest) -> int:
    if not isinstance(job.recipe, LoraRecipe):
        return 0
    return job.recipe.rows_per_step * job.length_max


def _evaluation_tokens(job: JobManifest) -> int:
    """Both evaluations, before and after: every row whole, and its longest reply."""
    evaluation = job.recipe.evaluation
    if evaluation is None:
        return 0
    return 2 * evaluation.rows_max * (job.length_max + evaluation.reply_tokens_max)


def _total(spending: Iterable[Spending], pick: Callable[[Spending], int]) -> int:
    return sum(pick(each) for each in spending)


def _within(what: str, wanted: int, granted: int, left: int, used: int) -> int:
    total = max(granted, min(wanted, granted + left))
    if wanted > used and total <= used:
        raise RefusedError(f"budget-{what}", f"the buyer's budget of {what} is used up for now")
    return total
