"""What the agent asks of the market, as a protocol: HTTP in earnest, memory in tests.

Every method raises UnavailableError if the market gives no answer, and RejectedError if it says no.
Each may be called again with the same arguments: that does nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from marketplace.wire import (
    LeaseBriefing,
    LeaseReport,
    LeaseView,
    OfferDraft,
    OfferView,
    StoredMessage,
)
from provider_agent.errors import UnavailableError

BACKOFF_SECONDS_MIN: Final = 0.2
BACKOFF_SECONDS_MAX: Final = 5.0  # an hour's outage costs at most these seconds after its end
TRIES_MAX: Final = 750  # with these pauses: an hour

T = TypeVar("T")


class MarketPort(Protocol):
    """The market, as an agent sees it."""

    async def leases(self) -> tuple[LeaseView, ...]:
        """Own leases that have not ended."""
        ...

    async def briefing(self, lease: str) -> LeaseBriefing | None:
        """What to launch; None: no generation order names the lease yet."""
        ...

    async def report_lease(self, lease: str, report: LeaseReport) -> None:
        """Say what became of a lease."""
        ...

    async def post_message(self, box: bytes, message: bytes, payload: bytes, lease: str) -> None:
        """Post for the enclave of a lease; returns once it is stored durably.

        A box that is full is a *no* (RejectedError), not a market that is away.
        """
        ...

    async def read_messages(self, lease: str, after: int, wait: int) -> tuple[StoredMessage, ...]:
        """The lease's box above number `after`; waits up to `wait` seconds for the first."""
        ...

    async def acknowledge(self, lease: str, through: int) -> None:
        """Let messages up to this number go."""
        ...

    async def get_blob(self, sha256: bytes) -> bytes | None:
        """A blob of at most 1 MiB, not verified; None: the market has none of this name."""
        ...

    async def put_blob(self, sha256: bytes, content: bytes) -> None:
        """Store a blob; returns once it is stored durably."""
        ...

    async def put_offer(self, draft: OfferDraft, key: bytes) -> OfferView:
        """List an offer under an idempotency key of 16 bytes."""
        ...

    async def heartbeat(self, offer: str) -> OfferView:
        """Keep an offer listed."""
        ...

    async def withdraw(self, offer: str) -> None:
        """Take an offer off the book."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often an unavailable market is asked again. Pauses double up to the maximum."""

    tries_max: int = TRIES_MAX
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until there is an answer. Raises UnavailableError after `tries_max` tries."""
        seconds = BACKOFF_SECONDS_MIN
        for number in range(1, self.tries_max + 1):
            try:
                return await call()
            except UnavailableError:
                if number == self.tries_max:
                    raise
            await self.pause(seconds)
            seconds = min(2 * seconds, BACKOFF_SECONDS_MAX)
        raise AssertionError("the last try returns or raises")
