"""Tables of what parties exchange through the market; nothing else. Money stands in models.py.

As there: a party, box or digest is base64url, a time Unix milliseconds, UTC; a signed document is
kept as the bytes that were signed, and proves itself: no trigger guards it.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from marketplace.models import METADATA

__all__ = [
    "METADATA",
    "Blob",
    "BlobShare",
    "Box",
    "Checkpoint",
    "Document",
    "Head",
    "Heartbeat",
    "Message",
    "Newest",
    "Readiness",
    "Reply",
]

NAME_CHARACTERS: Final = 64  # base64url of 33 bytes has 44, a document's label at most 32


def _column(kind: Any, *constraints: Any, **options: Any) -> Any:
    return Field(sa_column=sa.Column(kind, *constraints, **({"nullable": False} | options)))


def _text(*constraints: Any, **options: Any) -> Any:
    return _column(sa.String(NAME_CHARACTERS), *constraints, **options)


def _integer(**options: Any) -> Any:
    return _column(sa.BigInteger(), **options)


def _bytes(**options: Any) -> Any:
    return _column(sa.LargeBinary(), **options)


class Reply(SQLModel, table=True):
    """The answer to a request that changed something, so that its replay changes nothing."""

    __tablename__ = "reply"
    __table_args__ = (sa.Index("reply_at", "at_ms"),)
    identity: str = _text(primary_key=True)
    key: str = _text(primary_key=True)
    request: str = _text()
    status: int = _integer()
    body: bytes = _bytes()
    at_ms: int = _integer()


class Blob(SQLModel, table=True):
    """A blob in the store. Its row is written after its bytes, so a row means that it is there."""

    __tablename__ = "blob"
    digest: str = _text(primary_key=True)
    bytes: int = _integer()
    stored_by: str = _text()
    at_ms: int = _integer()


class BlobShare(SQLModel, table=True):
    """How much of the store one party has filled."""

    __tablename__ = "blob_share"
    party: str = _text(primary_key=True)
    bytes: int = _integer()


class Document(SQLModel, table=True):
    """A signed document that was verified. Who signs one document twice, or two who do: two rows.

    `job` and `generation` are those of a derived manifest's origin; None for any other document.
    """

    __tablename__ = "document"
    __table_args__ = (sa.Index("document_job", "job", "generation"),)
    digest: str = _text(primary_key=True)
    signer: str = _text(primary_key=True)
    kind: str = _text()
    content: bytes = _bytes()
    job: str | None = _text(nullable=True)
    generation: int | None = _integer(nullable=True)
    posted_by: str = _text()
    at_ms: int = _integer()


class Newest(SQLModel, table=True):
    """Which numbered document of a signer is the newest of one lineage."""

    __tablename__ = "newest"
    kind: str = _text(primary_key=True)
    signer: str = _text(primary_key=True)
    lineage: str = _text(primary_key=True)
    number: int = _integer()
    digest: str = _text()


class Box(SQLModel, table=True):
    """A mailbox: its last number, how far it is acknowledged, and what is unread in it."""

    __tablename__ = "box"
    box: str = _text(primary_key=True)
    last: int = _integer()
    acknowledged: int = _integer()
    messages: int = _integer()
    bytes: int = _integer()


class Message(SQLModel, table=True):
    """A message. Once acknowledged its payload goes, and its id stays: a replay is still known."""

    __tablename__ = "message"
    __table_args__ = (
        sa.UniqueConstraint("box", "sender", "message", name="message_once"),
        sa.Index("message_at", "at_ms"),
        sa.Index(
            "message_acknowledged",
            "at_ms",
            sqlite_where=sa.text("payload IS NULL"),
            postgresql_where=sa.text("payload IS NULL"),
        ),
    )
    box: str = _text(sa.ForeignKey("box.box"), primary_key=True)
    number: int = _integer(primary_key=True, autoincrement=False)
    message: str = _text()
    sender: str = _text()
    digest: str = _text()
    payload: bytes | None = _bytes(nullable=True)
    at_ms: int = _integer()


class Readiness(SQLModel, table=True):
    """When a custodian last said that it is ready for a job."""

    __tablename__ = "readiness"
    job: str = _text(primary_key=True)
    custodian: str = _text(primary_key=True)
    at_ms: int = _integer()
    document: bytes = _bytes()


class Head(SQLModel, table=True):
    """The newest head of a custodian's release log."""

    __tablename__ = "head"
    custodian: str = _text(primary_key=True)
    incarnation: int = _integer()
    entries: int = _integer()
    chain: str = _text()
    document: bytes = _bytes()


class Checkpoint(SQLModel, table=True):
    """A checkpoint that an enclave's key reported, with its signed manifest."""

    __tablename__ = "checkpoint"
    __table_args__ = (sa.Index("checkpoint_job", "job", "generation", "step"),)
    artifact: str = _text(primary_key=True)
    signer: str = _text(primary_key=True)
    job: str = _text()
    lease: str = _text(index=True)
    generation: int = _integer()
    step: int = _integer()
    manifest: bytes = _bytes()
    at_ms: int = _integer()


class Heartbeat(SQLModel, table=True):
    """When a host last said that its offer stands."""

    __tablename__ = "heartbeat"
    offer: str = _text(sa.ForeignKey("offer.id"), primary_key=True)
    at_ms: int = _integer()
