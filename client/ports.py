"""What the key broker needs of the market, and of nobody else: a small port, dialled from here.

- The market carries, stores and asks; it is believed in nothing that it does not sign or prove.
- `client.market_port.HttpMarket` fills this port over HTTP; tests fill it in memory.
- A method that cannot reach the market raises MarketUnreachableError: it is tried again. What the
  market refuses raises MarketRefusedError, which is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from marketplace.wire import GenerationAsk, JobDocuments, ReadyAsk, StoredMessage
from trust.identity import Signed
from trust.jobs import GenerationOrder, Ready
from trust.messages import LogHead


class MarketPort(Protocol):
    """The market, as a broker sees it."""

    async def post_message(self, box: bytes, payload: bytes) -> None:
        """Put a message into a box of 32 bytes."""

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        """One's own box, beyond number `after`; waits so long for the first."""

    async def acknowledge(self, through: int) -> None:
        """One's messages up to this number may go."""

    async def asks(self) -> Sequence[GenerationAsk | ReadyAsk]:
        """What the market wants of this party."""

    async def say_ready(self, ready: Signed[Ready]) -> None:
        """Say that this broker is there, for a job."""

    async def post_order(self, order: Signed[GenerationOrder]) -> None:
        """A generation order; posting it again does nothing more."""

    async def post_head(self, head: Signed[LogHead]) -> None:
        """How far this custodian's log goes."""

    async def newest_head(self, custodian: bytes) -> bytes | None:
        """The newest signed head that the market has of a custodian; None: none."""

    async def job_documents(self, job: bytes) -> JobDocuments:
        """A job's signed documents."""

    async def get_blob(self, digest: bytes) -> bytes:
        """A blob by its SHA-256, checked."""

    async def missing_blobs(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """Those of these that the blob store does not have."""
