"""Rows as token ids: what the tokenizing child returns and the ranks train on.

A row is its token ids and one byte for each: 1 where the token is supervised. The first token has
nothing before it to be predicted from, so it never counts as supervised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

ID_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row."""

    ids: bytes
    """u32 in the machine's order, one for each token."""
    supervised: bytes
    """One byte for each token: 1 where its prediction is part of the loss."""

    def __len__(self) -> int:
        return len(self.supervised)


def pack_rows(rows: list[Row]) -> bytes:
    """Rows one after another: u32 tokens ‖ ids ‖ supervised."""
    return b"".join(len(row).to_bytes(ID_BYTES, "big") + row.ids + row.supervised for row in rows)


def unpack_rows(content: bytes) -> Iterator[Row]:
    """The inverse of `pack_rows`, for bytes that the parent made."""
    position = 0
    while position < len(content):
        tokens = int.from_bytes(content[position : position + ID_BYTES], "big")
        middle = position + ID_BYTES + ID_BYTES * tokens
        yield Row(
            ids=content[position + ID_BYTES : middle],
            supervised=content[middle : middle + tokens],
        )
        position = middle + tokens
