"""Replays: a request under an idempotency key does its work once, and is answered the same again.

- A reply is stored in the transaction that did the work, so either both are there or neither is.
- The key belongs to the identity that signed. The same key with another method, target or body is
  refused: a caller that reuses keys would otherwise believe an answer to another question.
- What was refused is not stored, since it changed nothing: the caller may mend it and ask again.
- Replies are kept for `REPLY_DAYS`. Afterwards the ids inside the bodies still hold: every domain
  function answers `exists` to what it has already done.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import sqlalchemy as sa
from sqlmodel import Session, col

from marketplace.models_exchange import Reply
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode
from trust.encoding import base64url, labelled_digest

REPLY_DAYS: Final = 7  # a caller that was down longer asks what became of it instead
DAY_MILLISECONDS: Final = 86_400_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What tells a replay from another request."""

    identity: bytes
    key: bytes
    """16 bytes."""
    request: bytes
    """Digest of method, target and body; of nothing that changes when it is signed again."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredReply:
    """An answer, as it was given."""

    status: int
    body: bytes


def asked(*, identity: bytes, key: bytes, method: str, target: str, body: bytes) -> Asked:
    """Name a request by what it says."""
    request = labelled_digest("http/asked", method.encode(), target.encode(), body)
    return Asked(identity=identity, key=key, request=request)


def recall(session: Session, question: Asked) -> StoredReply | None:
    """The answer that was given before; None if there is none. Raises MarketError for a reuse."""
    found = session.get(Reply, (base64url(question.identity), base64url(question.key)))
    if found is None:
        return None
    if found.request != base64url(question.request):
        raise MarketError(
            ErrorCode.KEY_REUSED,
            f"idempotency key {question.key.hex()} came with another request before",
        )
    return StoredReply(status=found.status, body=found.body)


def remember(session: Session, question: Asked, reply: StoredReply, now: int) -> None:
    """Store the answer, in the transaction that did the work."""
    row = Reply(
        identity=base64url(question.identity),
        key=base64url(question.key),
        request=base64url(question.request),
        status=reply.status,
        body=reply.body,
        at_ms=now,
    )
    session.add(row)
    session.flush()


def forget_old(session: Session, now: int) -> int:
    """Drop replies older than `REPLY_DAYS`; return how many."""
    before = now - REPLY_DAYS * DAY_MILLISECONDS
    return session.connection().execute(sa.delete(Reply).where(col(Reply.at_ms) < before)).rowcount
