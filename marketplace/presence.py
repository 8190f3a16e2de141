"""What custodians say of themselves: that they are ready for a job, and how far their log goes.

- *Ready* holds for `READY_SECONDS`, by the market's clock from when it came; its own time may be no
  further off than that, so an old one that somebody kept says nothing.
- A *head* only rises, by (incarnation, entries). A lower one is refused, so that a broker which was
  restored from a backup learns it here. Two heads of one length with two chains are a fork, and
  refused with that word: the market cannot know which is right.
"""

from __future__ import annotations

from typing import Final

from sqlmodel import Session, col, select

from marketplace.models_exchange import Head, Readiness
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode
from trust.encoding import base64url, parse_base64url
from trust.errors import SignatureError
from trust.identity import Signed
from trust.jobs import Ready
from trust.messages import LogHead

READY_SECONDS: Final = 60  # design.md §3: "ready within the last minute"
READY_MILLISECONDS: Final = READY_SECONDS * 1000


def accept_ready(session: Session, ready: Signed[Ready], now: int) -> None:
    """Note that a custodian is ready. Raises SignatureError, or MarketError (OUTDATED)."""
    document = ready.document
    if ready.signer != document.custodian:
        raise SignatureError(f"ready is signed by {ready.signer.hex()}, not by the custodian in it")
    if abs(now - document.at) > READY_MILLISECONDS:
        raise MarketError(
            ErrorCode.OUTDATED, f"ready of {document.at} at {now}; at most {READY_SECONDS} s off"
        )
    key = (base64url(document.job), base64url(document.custodian))
    row = session.get(Readiness, key)
    if row is None:
        row = Readiness(job=key[0], custodian=key[1], at_ms=now, document=ready.encode())
    row.at_ms, row.document = now, ready.encode()
    session.add(row)
    session.flush()


def ready_custodians(
    session: Session, job: bytes, now: int, *, within: int = READY_MILLISECONDS
) -> frozenset[bytes]:
    """Who said *ready* for this job within the last minute, or `within` milliseconds."""
    query = select(Readiness.custodian).where(
        col(Readiness.job) == base64url(job), col(Readiness.at_ms) > now - within
    )
    return frozenset(parse_base64url(each) for each in session.exec(query))


def accept_head(session: Session, head: Signed[LogHead]) -> None:
    """Store a newer head. Raises SignatureError, or MarketError: OUTDATED, CONFLICT."""
    document = head.document
    if head.signer != document.custodian:
        raise SignatureError(f"head is signed by {head.signer.hex()}, not by the custodian in it")
    row = session.get(Head, base64url(document.custodian))
    chain = base64url(document.chain)
    if row is not None:
        known, new = (row.incarnation, row.entries), (document.incarnation, document.entries)
        if new < known:
            raise MarketError(ErrorCode.OUTDATED, f"head {new}; {known} is known")
        if new == known and chain != row.chain:
            raise MarketError(ErrorCode.CONFLICT, f"head {new} with another chain: a fork")
    else:
        row = Head(
            custodian=base64url(head.signer), incarnation=0, entries=0, chain="", document=b""
        )
    row.incarnation, row.entries = document.incarnation, document.entries
    row.chain, row.document = chain, head.encode()
    session.add(row)
    session.flush()


def find_head(session: Session, custodian: bytes) -> bytes:
    """The newest signed head of this custodian. Raises MarketError (NOT_FOUND)."""
    row = session.get(Head, base64url(custodian))
    if row is None:
        raise MarketError(ErrorCode.NOT_FOUND, f"no head of {custodian.hex()}")
    return row.document
