"""Messages: post, read, acknowledge. The long poll's waiting is the shell's (`api.polls`)."""

from __future__ import annotations

import contextlib

from sqlmodel import Session

from marketplace import checkpoints, mailbox, wire
from marketplace.api.asks import Ask, Reply, acting_address, held_lease, reply
from marketplace.refusals import MarketError
from marketplace.wire import ErrorCode
from trust.encoding import INTEGER_MAX
from trust.errors import BlindhostError


def put_message(session: Session, ask: Ask) -> Reply:
    """Post for oneself, or for a lease that one holds: nobody posts in another's name.

    A checkpoint report that an agent carries is remembered on its way (`marketplace.checkpoints`).
    """
    box = ask.bytes_of("box", 32)
    command = mailbox.PostMessage(
        box=box,
        sender=acting_address(session, ask),
        message=ask.bytes_of("message", 16),
        payload=ask.body,
    )
    result = mailbox.post(session, command, ask.now)
    ask.woken.append(box)
    if "lease" in ask.query:
        _remember_report(session, ask)
    return reply(wire.Posted(result=result))


def get_messages(session: Session, ask: Ask) -> Reply:
    """One's own box, or that of a lease that one holds."""
    after = ask.number("after", default=0, most=INTEGER_MAX)
    return reply(mailbox.read(session, own_box(session, ask), after=after))


def acknowledge(session: Session, ask: Ask) -> Reply:
    """Drop what has been dealt with."""
    body = ask.parse(wire.MessagesAcknowledged)
    mailbox.acknowledge(session, own_box(session, ask), through=body.through)
    return reply(wire.Empty())


def own_box(session: Session, ask: Ask) -> bytes:
    """The box in the path, if it is the asker's to read. Raises MarketError (FORBIDDEN)."""
    box = ask.bytes_of("box", 32)
    if box != acting_address(session, ask):
        raise MarketError(ErrorCode.FORBIDDEN, f"box {box.hex()} is another's")
    return box


def _remember_report(session: Session, ask: Ask) -> None:
    """Keep what a checkpoint report says; one that is wrong is carried all the same."""
    report = checkpoints.find_report(ask.body)
    if report is None:
        return
    with contextlib.suppress(BlindhostError):
        lease = held_lease(session, ask, ask.query["lease"])
        checkpoints.accept_report(session, lease, report, ask.now)
