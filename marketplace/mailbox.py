"""Mailboxes: opaque messages between parties. The market carries them and reads only its own.

- A box is 32 bytes: an identity, or a lease's address. Whoever may read it is the caller's to
  decide (`api/`): the identity itself, or the host that holds the lease.
- A message's id is its sender's. The same one again is `EXISTS` and does nothing; the same id with
  another payload is refused. An unread message's id is known for `MESSAGE_HOURS`, that of one that
  was acknowledged for `REPLAY_HOURS`, both from when it was posted: a day of serving is millions of
  messages. Whoever repeats itself later than that is told apart by the readers, not here.
- Numbers rise within a box and are never given twice, so a reader that crashed goes on after the
  last one that it has dealt with. What is acknowledged goes; the rest stays, for `MESSAGE_HOURS`.
- A full box refuses more: whoever does not read costs the market a bounded amount.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from marketplace.models_exchange import Box, Message
from marketplace.refusals import MarketError
from marketplace.wire import (
    BOX_BYTES_MAX,
    BOX_MESSAGES_MAX,
    MESSAGE_HOURS,
    PAGE_BYTES_MAX,
    PAGE_MESSAGES_MAX,
    PAYLOAD_BYTES_MAX,
    REPLAY_HOURS,
    ErrorCode,
    MessagePage,
    StoredMessage,
    StoredResult,
)
from trust.encoding import base64url, digest, parse_base64url

HOUR_MILLISECONDS: Final = 3_600_000
SWEEP_MAX: Final = 1000  # messages that one sweep drops: a short transaction, each second


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PostMessage:
    """Put a message into a box."""

    box: bytes
    sender: bytes
    message: bytes
    """16 bytes, made by the sender."""
    payload: bytes


def post(session: Session, command: PostMessage, now: int) -> StoredResult:
    """Store a message. Raises MarketError: TOO_LARGE, CONFLICT, FULL."""
    size = len(command.payload)
    if not 1 <= size <= PAYLOAD_BYTES_MAX:
        raise MarketError(
            ErrorCode.TOO_LARGE, f"payload of {size} bytes, wanted 1 to {PAYLOAD_BYTES_MAX}"
        )
    name, payload_digest = base64url(command.box), base64url(digest(command.payload))
    if (before := _find(session, command)) is not None:
        if before.digest != payload_digest:
            raise MarketError(
                ErrorCode.CONFLICT, f"message {command.message.hex()} had another payload before"
            )
        return StoredResult.EXISTS
    box = session.get(Box, name)
    if box is None:
        box = Box(box=name, last=0, acknowledged=0, messages=0, bytes=0)
    if box.messages >= BOX_MESSAGES_MAX or box.bytes + size > BOX_BYTES_MAX:
        raise MarketError(
            ErrorCode.FULL, f"box {command.box.hex()} holds {box.messages} unread messages"
        )
    box.last, box.messages, box.bytes = box.last + 1, box.messages + 1, box.bytes + size
    session.add(box)
    session.flush()
    session.add(
        Message(
            box=name,
            number=box.last,
            message=base64url(command.message),
            sender=base64url(command.sender),
            digest=payload_digest,
            payload=command.payload,
            at_ms=now,
        )
    )
    session.flush()
    return StoredResult.CREATED


def read(session: Session, box: bytes, *, after: int) -> MessagePage:
    """The unacknowledged messages after number `after`, oldest first, as many as fit a page."""
    query = (
        select(Message)
        .where(
            col(Message.box) == base64url(box),
            col(Message.number) > after,
            col(Message.payload).is_not(None),
        )
        .order_by(col(Message.number))
        .limit(PAGE_MESSAGES_MAX)
    )
    page: list[StoredMessage] = []
    room = PAGE_BYTES_MAX
    for row in session.exec(query):
        assert row.payload is not None
        if page and len(row.payload) > room:
            break
        room -= len(row.payload)
        page.append(
            StoredMessage(
                number=row.number,
                message=parse_base64url(row.message),
                sender=parse_base64url(row.sender),
                payload=row.payload,
                at=row.at_ms,
            )
        )
    return MessagePage(messages=tuple(page))


def acknowledge(session: Session, box: bytes, *, through: int) -> None:
    """Drop the payloads up to number `through`. Raises MarketError for numbers not yet given."""
    row = session.get(Box, base64url(box))
    last = 0 if row is None else row.last
    if row is None or through > last:
        raise MarketError(ErrorCode.CONFLICT, f"box has messages up to {last}, not {through}")
    if through > row.acknowledged:
        row.acknowledged = through
        _drop_payloads(session, row, col(Message.number) <= through)


def sweep(session: Session, now: int) -> int:
    """Drop messages that are `MESSAGE_HOURS` old, acknowledged ones after `REPLAY_HOURS`.

    At most `SWEEP_MAX` of each; return how many in all.
    """
    before = now - MESSAGE_HOURS * HOUR_MILLISECONDS
    old = session.exec(
        select(Message)
        .where(col(Message.at_ms) < before, col(Message.payload).is_not(None))
        .order_by(col(Message.at_ms))
        .limit(SWEEP_MAX)
    ).all()
    for row in old:
        assert row.payload is not None
        box = session.get_one(Box, row.box)
        box.messages, box.bytes = box.messages - 1, box.bytes - len(row.payload)
        session.add(box)
        session.delete(row)
    session.flush()
    return len(old) + _forget_acknowledged(session, now)


def _forget_acknowledged(session: Session, now: int) -> int:
    gone = (
        sa.select(col(Message.box), col(Message.number))
        .where(
            col(Message.payload).is_(None),
            col(Message.at_ms) < now - REPLAY_HOURS * HOUR_MILLISECONDS,
        )
        .order_by(col(Message.at_ms))
        .limit(SWEEP_MAX)
    )
    which = sa.tuple_(col(Message.box), col(Message.number)).in_(gone)
    return session.connection().execute(sa.delete(Message).where(which)).rowcount


def _find(session: Session, command: PostMessage) -> Message | None:
    query = select(Message).where(
        col(Message.box) == base64url(command.box),
        col(Message.sender) == base64url(command.sender),
        col(Message.message) == base64url(command.message),
    )
    return session.exec(query).first()


def _drop_payloads(session: Session, box: Box, which: sa.ColumnElement[bool]) -> None:
    mine = sa.and_(col(Message.box) == box.box, col(Message.payload).is_not(None), which)
    count, size = (
        session.connection()
        .execute(
            sa.select(sa.func.count(), sa.func.sum(sa.func.length(col(Message.payload)))).where(
                mine
            )
        )
        .one()
    )
    session.connection().execute(sa.update(Message).where(mine).values(payload=None))
    box.messages, box.bytes = box.messages - count, box.bytes - (size or 0)
    session.add(box)
    session.flush()
