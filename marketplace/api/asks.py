"""What a handler gets and gives.

A handler is ``(session, ask) -> Reply``: it parses, calls one domain function, and encodes. It runs
in a thread, inside one transaction if its route writes. What it wakes is woken after the commit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from sqlmodel import Session

from marketplace import wire
from marketplace.models import Lease
from marketplace.refusals import MarketError
from marketplace.service import Market
from marketplace.wire import ErrorCode
from trust.encoding import Struct, base64url, parse_hex
from trust.errors import EncodingError
from trust.messages import lease_address

S = TypeVar("S", bound=Struct)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One authenticated request."""

    market: Market
    identity: bytes
    """Who signed it."""
    parts: Mapping[str, str]
    """What the path's braces stood for."""
    query: Mapping[str, str]
    """Only names that the route knows."""
    body: bytes
    now: int
    """Unix milliseconds."""
    woken: list[bytes]
    """Boxes in which something arrived; the shell wakes who waits there, after the commit."""

    def parse(self, kind: type[S]) -> S:
        """The body as a `Struct`. Raises EncodingError."""
        return wire.parse(kind, self.body)

    def bytes_of(self, part: str, size: int) -> bytes:
        """A part of the path, in hex. Raises EncodingError."""
        value = parse_hex(self.parts[part])
        if len(value) != size:
            raise EncodingError(f"{part} has {len(value)} bytes, wanted {size}")
        return value

    def number(self, name: str, *, default: int, most: int) -> int:
        """A number of the query, from 0 to `most`. Raises EncodingError."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 16 or int(text) > most:
            raise EncodingError(f"query {name}: wanted a number from 0 to {most}")
        return int(text)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer: JSON, or bytes as they are."""

    body: bytes
    is_raw: bool = False


Handler = Callable[[Session, Ask], Reply]


def reply(body: Struct) -> Reply:
    """An answer of JSON."""
    return Reply(body=wire.encode(body))


def raw(body: bytes) -> Reply:
    """An answer of bytes as they are."""
    return Reply(body=body, is_raw=True)


def held_lease(session: Session, ask: Ask, lease: str) -> Lease:
    """A lease that the asking host holds. Raises MarketError: NOT_FOUND, for a stranger's too."""
    row = session.get(Lease, lease)
    if row is None or row.host != base64url(ask.identity):
        raise MarketError(ErrorCode.NOT_FOUND, f"{ask.identity.hex()} holds no lease {lease[:40]}")
    return row


def acting_address(session: Session, ask: Ask) -> bytes:
    """For whom a host acts: for the lease in the query, that it holds, or for itself."""
    lease = ask.query.get("lease")
    if lease is None:
        return ask.identity
    return lease_address(held_lease(session, ask, lease).id)
