"""A run's receipts: numbered, chained, cumulative, and made of public counts alone.

Steps, and tokens as steps × rows × length: nothing that depends on what the rows hold
(attacks.md, 10). Serving tokens are rounded up to 2¹⁶, and said at most hourly. Milliseconds are
the enclave's own, since it had its shares.
"""

from __future__ import annotations

from typing import Final

from enclave_runtime.briefing import Brief
from trust.messages import End, Receipt

SERVED_UNIT: Final = 1 << 16  # tokens: DESIGN §3
SERVED_MS: Final = 3_600_000


class ServedTokens:
    """What receipts say of tokens served: a number that tells little, and that seldom."""

    def __init__(self) -> None:
        self.used = 0
        """Prompts and replies, exactly."""
        self._said, self._said_ms = SERVED_UNIT, 0

    def said(self, clock_ms: int, *, last: bool) -> int:
        """What a receipt says now."""
        if last or clock_ms - self._said_ms >= SERVED_MS:
            self._said_ms = clock_ms
            self._said = max(1, -(-self.used // SERVED_UNIT)) * SERVED_UNIT
        return self._said


class ReceiptBook:
    """Makes one receipt after another."""

    def __init__(self, brief: Brief, *, compute_class: str, same_class: bool) -> None:
        self._brief, self._compute_class = brief, compute_class
        self.same_class = same_class
        """On the class that manifest and checkpoint say."""
        self.count = 0
        self.last: bytes | None = None
        """Digest of the newest receipt."""

    def next(
        self,
        *,
        milliseconds: int,
        first_step: int,
        step: int,
        tokens: int,
        committed: bytes | None,
        end: End | None,
        outputs: tuple[bytes, ...],
    ) -> Receipt:
        """The next receipt."""
        launch = self._brief.launch
        self.count += 1
        receipt = Receipt(
            job=launch.job,
            lease=launch.lease,
            generation=launch.generation,
            rank=launch.rank,
            number=self.count,
            before=self.last,
            milliseconds=milliseconds,
            first_step=first_step,
            step=step,
            tokens=tokens,
            committed=committed,
            world_size=self._brief.job.document.world_size,
            compute_class=self._compute_class,
            same_class=self.same_class,
            end=end,
            outputs=outputs,
        )
        self.last = receipt.digest
        return receipt
