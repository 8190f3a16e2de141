"""Ids: a prefix that says what they name, and 26 sortable characters.

The 26 characters are Crockford's base 32 of 48 bits of Unix milliseconds and 80 random bits, so
text order is the order of making. Time and randomness are parameters: whoever asks for a thing
makes its id *before* it sends, keeps it, and asks again under the same id after a crash.
An id that a rule makes (`derived_id`) has a digest where the random bits stand: doing the same
thing twice gives the same id, and the ledger answers `exists`.
"""

from __future__ import annotations

import enum
from typing import Final

from trust.encoding import labelled_digest
from trust.errors import EncodingError

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford, lower case: no i, l, o, u
ID_CHARACTERS: Final = 26
RANDOM_BYTES: Final = 10  # 80 bits: no two by chance, for 2⁴⁰ ids made in one millisecond
MILLISECONDS_MAX: Final = (1 << 48) - 1  # the year 10889


class IdKind(enum.Enum):
    """What an id names; the value is its prefix."""

    OFFER = "offr"
    ORDER = "ordr"
    LEASE = "leas"
    TRANSFER = "xfer"
    HOLD = "hold"


def make_id(kind: IdKind, *, now: int, random: bytes) -> str:
    """Make an id from Unix milliseconds and `RANDOM_BYTES` random bytes.

    Raises EncodingError if either has another size: a short one is never padded.
    """
    if not 0 <= now <= MILLISECONDS_MAX:
        raise EncodingError(f"id: {now} ms is out of 0…2^48-1")
    if len(random) != RANDOM_BYTES:
        raise EncodingError(f"id: {len(random)} random bytes, wanted {RANDOM_BYTES}")
    number = now << (8 * RANDOM_BYTES) | int.from_bytes(random, "big")
    characters = "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
    return f"{kind.value}_{characters}"


def derived_id(kind: IdKind, *, at: int, purpose: str, parts: tuple[str, ...]) -> str:
    """The id of what a rule does once for (`purpose`, `parts`); `at` is a time already on record.

    Purpose is a label; a part is any text. Raises EncodingError for a time out of range.
    """
    digest = labelled_digest(f"market-id/{purpose}", *(part.encode() for part in parts))
    return make_id(kind, now=at, random=digest[:RANDOM_BYTES])


def check_id(kind: IdKind, text: str) -> str:
    """Return `text` if it is an id of this kind in its one form; raise EncodingError if not."""
    prefix, _, characters = text.partition("_")
    if prefix != kind.value:
        raise EncodingError(f"id begins with {prefix[:8]!r}, wanted {kind.value!r}")
    if len(characters) != ID_CHARACTERS or not set(characters) <= set(ALPHABET):
        raise EncodingError(f"id {kind.value}_…: wanted {ID_CHARACTERS} of Crockford's characters")
    if characters[0] > "7":  # 26 characters hold 130 bits, an id has 128
        raise EncodingError(f"id {kind.value}_…: begins with {characters[0]!r}, at most '7'")
    return text
