"""Blobs. Their bytes are put down before the row, so the file work needs no transaction."""

from __future__ import annotations

from sqlmodel import Session

from marketplace import blobs, wire
from marketplace.api.asks import Ask, Reply, raw, reply
from trust.errors import EncodingError


def put_blob(session: Session, ask: Ask) -> Reply:
    """Count a blob. The shell has checked its bytes and put them down (`prepare_blob`)."""
    sha256 = ask.bytes_of("digest", 32)
    result = blobs.record(session, sha256, len(ask.body), ask.identity, ask.now)
    return reply(wire.Stored(digest=sha256, result=result))


def prepare_blob(ask: Ask) -> None:
    """Check a blob's bytes and put them down durably, before `put_blob`'s transaction.

    The share is looked at first, so that a party beyond it does not fill the disk either.
    """
    sha256 = ask.bytes_of("digest", 32)
    blobs.check(sha256, ask.body)
    with ask.market.store.reading() as session:
        blobs.check_room(session, len(ask.body), ask.identity)
    ask.market.blobs.write(sha256, ask.body)


def get_blob(_session: Session, ask: Ask) -> Reply:
    """A blob, whole or in part."""
    sha256 = ask.bytes_of("digest", 32)
    if ("first" in ask.query) != ("last" in ask.query):
        raise EncodingError("query first and last: both or neither")
    if "first" not in ask.query:
        return raw(ask.market.blobs.read(sha256))
    first = ask.number("first", default=0, most=wire.BLOB_BYTES_MAX)
    last = ask.number("last", default=0, most=wire.BLOB_BYTES_MAX)
    return raw(ask.market.blobs.read(sha256, first=first, last=last))


def post_missing(session: Session, ask: Ask) -> Reply:
    """Which blobs are not stored: neither row nor bytes is enough alone."""
    asked = ask.parse(wire.BlobsAsked).digests
    without_row = set(blobs.missing(session, asked))
    gone = tuple(d for d in asked if d in without_row or not ask.market.blobs.has(d))
    return reply(wire.BlobsMissing(digests=gone))
