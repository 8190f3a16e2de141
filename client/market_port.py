"""The market over HTTP, as broker and uploader want it: `client.market_api` behind a small port.

- An order, a close and a job are posted under a key derived from their own digest: whoever posts
  one again after a crash asks the same question, and does nothing twice.
- A message's id is fresh each time it is sent: a stored answer is delivered as often as asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from client.market_api import MarketApi
from marketplace.wire import GenerationAsk, JobDocuments, JobView, ReadyAsk, StoredMessage
from trust.encoding import labelled_digest
from trust.identity import Signed
from trust.jobs import Close, GenerationOrder, JobManifest, Ready
from trust.messages import LogHead

ID_BYTES = 16


class HttpMarket:
    """Fills `client.ports.MarketPort` and `client.sealed.UploadPort`."""

    def __init__(self, api: MarketApi) -> None:
        self._api = api

    async def post_message(self, box: bytes, payload: bytes) -> None:
        """Put a message into a box."""
        await self._api.post_message(box, payload, message=secrets.token_bytes(ID_BYTES))

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        """One's own box."""
        return await self._api.get_messages(
            self._api.identity, after=after, wait_seconds=wait_seconds
        )

    async def acknowledge(self, through: int) -> None:
        """One's messages up to this number may go."""
        await self._api.acknowledge(self._api.identity, through=through)

    async def asks(self) -> Sequence[GenerationAsk | ReadyAsk]:
        """What the market wants of this party."""
        return await self._api.get_asks()

    async def say_ready(self, ready: Signed[Ready]) -> None:
        """Say that this broker is there."""
        await self._api.say_ready(ready)

    async def post_order(self, order: Signed[GenerationOrder]) -> None:
        """Hand in a generation order."""
        await self._api.order_generation(order, key=_key(order.digest))

    async def post_close(self, close: Signed[Close]) -> None:
        """Close a job."""
        await self._api.close_job(close, key=_key(close.digest))

    async def post_head(self, head: Signed[LogHead]) -> None:
        """Publish a log head."""
        await self._api.post_head(head)

    async def newest_head(self, custodian: bytes) -> bytes | None:
        """The newest head that the market has."""
        head = await self._api.get_head(custodian)
        return None if head is None else head.encode()

    async def job_documents(self, job: bytes) -> JobDocuments:
        """A job's signed documents."""
        return await self._api.get_job_documents(job)

    async def get_blob(self, digest: bytes) -> bytes:
        """A blob, checked."""
        return await self._api.get_blob(digest)

    async def missing_blobs(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        """Those that the store does not have."""
        return await self._api.missing_blobs(digests)

    async def put_blob(self, content: bytes) -> None:
        """Store a blob."""
        await self._api.put_blob(content)

    async def put_document(self, signed: bytes) -> None:
        """Store a signed document."""
        await self._api.put_document(signed)

    async def submit_job(self, job: Signed[JobManifest]) -> JobView:
        """Submit a job; submitting it again does nothing more."""
        return await self._api.submit_job(job, key=_key(job.digest))


def _key(digest: bytes) -> bytes:
    return labelled_digest("client/idempotency", digest)[:ID_BYTES]
