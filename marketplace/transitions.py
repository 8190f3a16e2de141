"""State machines: which moves there are, and the one function that makes them.

- Only listed transitions happen. Each is recorded with actor, reason and time, in a hash chain of
  its subject that begins with its creation. A state without a way out is terminal: it absorbs.
- Every state that is not terminal has a deadline, by which something else has happened or a sweep
  moves the subject on. Nobody waits for ever for a host, a broker or a scheduler.
- A move is guarded by the version that was read. Zero rows changed means that somebody else went
  first: `StaleError`, and the transaction ends with nothing done.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session

from marketplace.models import (
    ID_CHARACTERS_MAX,
    Job,
    JobState,
    Lease,
    LeaseState,
    Offer,
    OfferState,
    Order,
    OrderState,
    Transition,
)
from trust.encoding import base64url, labelled_digest
from trust.errors import EncodingError, RefusedError

GENESIS: Final = ""  # the digest before the first
REASON_CHARACTERS_MAX: Final = 256  # the column's size; SQLite would take more

Subject = Offer | Order | Job | Lease
Moves = Mapping[enum.StrEnum, frozenset[enum.StrEnum]]


class Outcome(enum.StrEnum):
    """What became of a command that makes something under its maker's id."""

    EXISTS = "exists"
    CREATED = "created"


class StaleError(RefusedError):
    """The subject has changed since it was read: load it again, decide again."""

    def __init__(self, text: str) -> None:
        super().__init__("stale-version", text)


class TransitionError(RefusedError):
    """The state machine has no such move."""

    def __init__(self, text: str) -> None:
        super().__init__("no-such-transition", text)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One state machine."""

    kind: str
    key: str
    """The column that names a subject."""
    moves: Moves
    """For each state, the states that may follow; a state without an entry is terminal."""

    def is_terminal(self, state: enum.StrEnum) -> bool:
        """Whether nothing follows `state`."""
        return state not in self.moves


def _moves(*rows: tuple[enum.StrEnum, str]) -> Moves:
    return {state: frozenset(type(state)(word) for word in words.split()) for state, words in rows}


OFFER: Final = Machine(
    kind="offer",
    key="id",
    moves=_moves(
        (OfferState.LISTED, "claimed paused suspended unlisted expired"),
        (OfferState.CLAIMED, "listed suspended unlisted expired"),
        (OfferState.PAUSED, "listed suspended unlisted expired"),
        (OfferState.SUSPENDED, "listed unlisted expired"),
    ),
)
ORDER: Final = Machine(
    kind="order",
    key="id",
    moves=_moves(
        (OrderState.OPEN, "leased closed cancelled expired"),
        (OrderState.LEASED, "open closed cancelled expired"),
    ),
)
JOB: Final = Machine(
    kind="job",
    key="digest",
    moves=_moves(
        (JobState.QUEUED, "placed failed cancelled exhausted"),
        (JobState.PLACED, "queued starting failed cancelled exhausted"),
        (JobState.STARTING, "queued running succeeded failed cancelled exhausted"),
        (JobState.RUNNING, "queued succeeded failed cancelled exhausted"),
    ),
)
LEASE: Final = Machine(
    kind="lease",
    key="id",
    moves=_moves(
        (LeaseState.FUNDED, "claimed claim_lost"),
        (LeaseState.CLAIMED, "provisioning provision_failed closed"),
        (LeaseState.PROVISIONING, "attesting provision_failed closed"),
        (LeaseState.ATTESTING, "ready attest_failed closed"),
        (LeaseState.READY, "draining preempted host_lost exhausted revoked"),
        (LeaseState.DRAINING, "closed host_lost revoked"),
        (LeaseState.PREEMPTED, "closed"),
        (LeaseState.HOST_LOST, "closed"),
        (LeaseState.EXHAUSTED, "closed"),
        (LeaseState.REVOKED, "closed"),
    ),
)
MACHINES: Final[Mapping[type, Machine]] = {Offer: OFFER, Order: ORDER, Job: JOB, Lease: LEASE}


def begin(session: Session, subject: Subject, *, actor: str, reason: str, now: int) -> None:
    """Insert a new subject, and record how it came to be."""
    session.add(subject)
    session.flush()
    _record(session, subject, None, actor=actor, reason=reason, now=now)


def move(
    session: Session,
    subject: Subject,
    to: enum.StrEnum,
    *,
    actor: str,
    reason: str,
    now: int,
    deadline: int | None = None,
    **changes: Any,
) -> None:
    """Move a subject to the state `to`, changing the named columns with it.

    (1) The move is listed. (2) A state that goes on has a deadline in the future; a terminal one
    has none. (3) The row still has the version that was read. (4) The move is recorded.

    Raises TransitionError for (1), StaleError for (3).
    """
    machine = MACHINES[type(subject)]
    found: enum.StrEnum = subject.state
    if to not in machine.moves.get(found, frozenset()):  # (1)
        raise TransitionError(f"{machine.kind} {name_of(subject)}: no move from {found} to {to}")
    terminal = machine.is_terminal(to)
    if terminal != (deadline is None):  # (2)
        raise EncodingError(f"{machine.kind}: state {to} with deadline {deadline}")
    change(session, subject, state=to, deadline_ms=deadline, **changes)  # (3)
    _record(session, subject, found, actor=actor, reason=reason, now=now)  # (4)


def change(session: Session, subject: Subject, **values: Any) -> None:
    """Change columns of the row that was read, guarded by its version. Raises StaleError."""
    machine = MACHINES[type(subject)]
    table = type(subject).metadata.tables[machine.kind]
    update = (
        table.update()
        .where(table.c[machine.key] == name_of(subject), table.c.version == subject.version)
        .values(version=subject.version + 1, **values)
    )
    if session.connection().execute(update).rowcount != 1:
        raise StaleError(f"{machine.kind} {name_of(subject)} is past version {subject.version}")
    session.refresh(subject)


def check_version(subject: Subject, version: int) -> None:
    """Refuse a decision that was made on another version. Raises StaleError."""
    if subject.version != version:
        kind = MACHINES[type(subject)].kind
        raise StaleError(
            f"{kind} {name_of(subject)} is at version {subject.version}, not {version}"
        )


def name_of(subject: Subject) -> str:
    """What names a subject: its id, or a job's digest."""
    return subject.digest if isinstance(subject, Job) else subject.id


def history(session: Session, subject_id: str) -> tuple[Transition, ...]:
    """Every transition of a subject, oldest first."""
    table = Transition.metadata.tables["transition"]
    query = sa.select(Transition).where(table.c.subject_id == subject_id)
    return tuple(session.scalars(query.order_by(table.c.number)))


def chain_digest(before: str, row: Any) -> str:
    """What chains a transition to the one before it: base64url of a labelled digest."""
    what = (row.subject_kind, row.subject_id, str(row.number), row.from_state or "", row.to_state)
    parts = (before, *what, row.actor, row.reason, str(row.at_ms))
    return base64url(labelled_digest("transition", *(part.encode() for part in parts)))


def _record(
    session: Session,
    subject: Subject,
    found: enum.StrEnum | None,
    *,
    actor: str,
    reason: str,
    now: int,
) -> None:
    if not 1 <= len(actor) <= ID_CHARACTERS_MAX or not 1 <= len(reason) <= REASON_CHARACTERS_MAX:
        raise EncodingError("a transition names its actor and its reason, both within their sizes")
    last = history_end(session, name_of(subject))
    row = Transition(
        subject_id=name_of(subject),
        number=1 if last is None else last.number + 1,
        subject_kind=MACHINES[type(subject)].kind,
        from_state=None if found is None else str(found.value),
        to_state=str(subject.state.value),
        actor=actor,
        reason=reason,
        at_ms=now,
        digest="",
    )
    row.digest = chain_digest(GENESIS if last is None else last.digest, row)
    session.connection().execute(sa.insert(Transition).values(**row.model_dump()))


def history_end(session: Session, subject_id: str) -> Any:
    """The newest transition of a subject, or None."""
    table = Transition.metadata.tables["transition"]
    query = sa.select(table).where(table.c.subject_id == subject_id)
    query = query.order_by(table.c.number.desc()).limit(1)
    return session.connection().execute(query).first()
