"""Scores of one evaluation, put together from what each rank measured.

Parts are added in rank order. Replies are compared as text: the header is the text up to and
including its end mark, or the whole reply where the reference has no mark. A reply that was cut
off by the limit of tokens can still have its header right, and is never right as a whole.
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from enclave_runtime.pipes import Frame
from enclave_runtime.rows import ID_BYTES
from trust.errors import SessionError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReplyReference:
    """The reply that a held-out row has."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What an evaluation measured over all ranks."""

    loss: float
    tokens: int
    rows: int
    exact_header: int
    exact_whole: int


class EvaluationParts:
    """What ranks reported of one phase."""

    def __init__(self) -> None:
        self._parts: dict[int, Frame] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, rank: int, part: Frame) -> None:
        """Keep a rank's part. Raises SessionError if it has one."""
        if rank in self._parts:
            raise SessionError(f"rank {rank} reports an evaluation twice")
        self._parts[rank] = part

    def scores(
        self,
        references: Sequence[ReplyReference],
        header_ends_with: str,
        decode: Callable[[int, bytes], str],
    ) -> Scores:
        """Add up. `decode(line, ids)` gives a reply's text. Raises RowError where that fails."""
        parts = [self._parts[rank].fields for rank in sorted(self._parts)]
        tokens = sum(part["tokens"] for part in parts)
        header = whole = 0
        for rank in sorted(self._parts):
            for row, ended, ids in _replies(self._parts[rank].content):
                wanted = references[row]
                text = decode(wanted.line, ids) if ids else ""
                header += has_header(text, wanted.text, header_ends_with)
                whole += ended and text == wanted.text
        return Scores(
            loss=sum(part["loss"] for part in parts) / tokens,
            tokens=tokens,
            rows=sum(part["rows"] for part in parts),
            exact_header=header,
            exact_whole=whole,
        )


def has_header(reply: str, reference: str, ends_with: str) -> bool:
    """Whether the reply begins as the reference does, up to and including the end mark."""
    before, mark, _after = reference.partition(ends_with) if ends_with else ("", "", "")
    if not ends_with:  # the manifest knows no header
        return False
    return reply.startswith(before + mark) if mark else reply == reference


def _replies(content: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """Row, whether its reply ended by itself, and its u32 ids."""
    words, position = array.array("I", content), 0
    while position < len(words):
        row, ended, length = words[position : position + 3]
        start = ID_BYTES * (position + 3)
        yield row, bool(ended), content[start : start + ID_BYTES * length]
        position += 3 + length
