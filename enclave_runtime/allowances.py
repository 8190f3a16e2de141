"""What a run has used, and how far the custodians let it go.

- Every custodian's bound counts, and the least of them decides. A bound is in totals since the
  enclave's start, as the account is: nothing here has a memory beyond this enclave's life.
- More is asked for once when half of what was added last is used, and once at the end of it; who
  says no at the end, ends the run.
- A serving run counts tokens alone. It asks at the end as soon as a request was turned away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from enclave_runtime.briefing import Brief
from enclave_runtime.grants import OpenGrant, least, raised
from enclave_runtime.receipts import ServedTokens
from enclave_runtime.states import Verifier
from trust.jobs import JobKind
from trust.messages import Account, FollowUpKind

EVALUATIONS_MAX: Final = 2  # before training and after it
REQUEST_TOKENS_MIN: Final = 16  # with fewer left, no reply is worth waiting for


@dataclasses.dataclass(kw_only=True, slots=True)
class Used:
    """What one enclave has done since its start."""

    first_step: int = 0
    """The step that it started after."""
    step: int = 0
    """The newest that it took."""
    reports: int = 0
    evaluations: int = 0
    served: ServedTokens = dataclasses.field(default_factory=ServedTokens)


class Allowances:
    """The bounds of one run."""

    def __init__(self, brief: Brief) -> None:
        self._brief, self._job = brief, brief.job.document
        self._serves = self._job.kind is JobKind.SERVE
        self.used = Used()
        self._starved = False

    @property
    def account(self) -> Account:
        """What this enclave has used since its start."""
        used = self.used
        evaluated = used.evaluations * self._brief.evaluation_tokens
        return Account(
            tokens=self.trained_tokens + evaluated + used.served.used,
            steps=used.step - used.first_step,
            reports=used.reports,
        )

    @property
    def trained_tokens(self) -> int:
        """Steps of this run × rows × length: what its receipts say."""
        return (self.used.step - self.used.first_step) * self._brief.tokens_per_step

    # --- what is left ----------------------------------------------------------------------------

    def reports_left(self, custodians: Iterable[Verifier]) -> int | None:
        """Reports that custodians still allow; None: no bound."""
        allowed = least(*(v.bound.reports for v in custodians if v.bound is not None))
        return None if allowed is None else max(0, allowed - self.used.reports)

    def tokens_left(self, custodians: Iterable[Verifier]) -> int | None:
        """Tokens that custodians still allow; None: no bound."""
        allowed = least(*(v.bound.tokens for v in custodians if v.bound is not None))
        return None if allowed is None else max(0, allowed - self.account.tokens)

    def reserved_for_evaluations(self) -> int:
        """Tokens without which a run need not begin."""
        return EVALUATIONS_MAX * self._brief.evaluation_tokens

    def limit(self, custodians: Iterable[Verifier], *, committed: int) -> int:
        """The step that the run must not pass, `committed` being the last committed one."""
        ahead = self._job.uncommitted_checkpoints_max * self._job.checkpoint_steps
        limit = least(self._job.steps, committed + ahead, *map(self.reach, custodians))
        assert limit is not None
        return limit

    def reach(self, v: Verifier) -> int | None:
        """The step up to which one custodian's allowance reaches; None: no bound."""
        if v.bound is None:
            return self.used.first_step
        steps = v.bound.steps_reach(
            tokens_per_step=self._brief.tokens_per_step,
            tokens_reserved=self.reserved_for_evaluations(),
        )
        return None if steps is None else self.used.first_step + steps

    # --- more ------------------------------------------------------------------------------------

    def grant(self, v: Verifier, opened: OpenGrant) -> None:
        """A custodian allows more, or as much as before."""
        before, tokens = self.reach(v) or 0, v.bound.tokens or 0 if v.bound else 0
        v.bound = raised(v.bound, opened.secret.allowance)
        v.allowed_steps = (self.reach(v) or 0) - before
        v.allowed_tokens = (v.bound.tokens or 0) - tokens
        self._starved = self._starved and v.allowed_tokens <= 0

    def starve(self) -> None:
        """A request was turned away for want of tokens."""
        self._starved = True

    def wants_more(self, v: Verifier) -> tuple[str, int] | None:
        """Why to ask a custodian for more now, as a mark that is asked once; None: no reason."""
        marks = self._token_marks(v) if self._serves else self._step_marks(v)
        return next((mark for mark in marks if mark not in v.asked_at), None)

    def used_up(self, v: Verifier, *, quiet: bool) -> bool:
        """At the end of an allowance, and the custodian answered that there is no more.

        `quiet`: a serving run has no reply to finish.
        """
        if self._serves:
            left, bound = self._tokens_left(v), v.bound.tokens if v.bound else None
            over = left is not None and left < REQUEST_TOKENS_MIN and quiet
        else:
            left = bound = self.reach(v)
            over = bound is not None and self.used.step >= bound and bound < self._job.steps
        return over and ("zero", bound) in v.asked_at and not v.wants(FollowUpKind.ACCOUNT)

    def _step_marks(self, v: Verifier) -> list[tuple[str, int]]:
        reach, marks = self.reach(v), []
        if reach is not None and reach < self._job.steps:
            if self.used.step >= reach:
                marks.append(("zero", reach))
            elif reach - self.used.step <= v.allowed_steps // 2:
                marks.append(("low", reach))
        reports = v.bound.reports if v.bound else None
        if reports is not None and self.used.reports > reports // 2:
            marks.append(("reports", reports))
        return marks

    def _token_marks(self, v: Verifier) -> list[tuple[str, int]]:
        left, bound = self._tokens_left(v), v.bound.tokens if v.bound else None
        if left is None or bound is None:
            return []
        if self._starved or left < REQUEST_TOKENS_MIN:
            return [("zero", bound)]
        return [("low", bound)] if left <= v.allowed_tokens // 2 else []

    def _tokens_left(self, v: Verifier) -> int | None:
        return self.tokens_left((v,))
