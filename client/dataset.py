"""Chat rows: a JSONL file whose every line is checked before it is sealed, and named if broken.

A row is ``{"messages": [{"role", "content"}, …]}``: the roles are system, user, assistant; the last
message is the assistant's, which is what is learned. Keys are those and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from trust.encoding import Json, parse_json
from trust.errors import BlindhostError, EncodingError

LINE_BYTES_MAX: Final = 1 << 20  # a row of the longest context has about 400 KiB
ROWS_MAX: Final = (1 << 32) - 1
ROLES: Final = ("system", "user", "assistant")


class RowError(BlindhostError):
    """A line that is no row. Its text names line and fault, and not what stands there."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line = line


def count_rows(path: Path) -> int:
    """Check every line of a dataset; returns how many there are. Raises RowError for the first."""
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(read_lines(file), start=1):
            check_row(number, line)
            count = number
    if count == 0:
        raise RowError(1, "an empty file has no rows")
    return count


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines as they come; a longer one comes in pieces, the first of which is no row."""
    while line := file.readline(LINE_BYTES_MAX + 2):
        yield line


def check_row(number: int, line: bytes) -> None:
    """Raise RowError unless this line, number from 1, is a row."""
    if len(line.rstrip(b"\r\n")) > LINE_BYTES_MAX:
        raise RowError(number, f"over {LINE_BYTES_MAX} bytes")
    if not line.strip():
        raise RowError(number, "a blank line is no row")
    try:
        row = parse_json(line)
    except EncodingError as error:
        raise RowError(number, str(error)) from error
    if not isinstance(row, dict) or set(row) != {"messages"}:
        raise RowError(number, "an object with the one key 'messages' is wanted")
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise RowError(number, "'messages' is a list with at least one message")
    for index, message in enumerate(messages):
        _check_message(number, index, message)
    last = messages[-1]
    assert isinstance(last, dict)
    if last["role"] != "assistant":
        raise RowError(number, "the last message is not the assistant's: nothing would be learned")


def _check_message(number: int, index: int, message: Json) -> None:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise RowError(number, f"message {index}: 'role' and 'content' are wanted, nothing else")
    if message["role"] not in ROLES:
        raise RowError(number, f"message {index}: the role is one of {', '.join(ROLES)}")
    content = message["content"]
    if not isinstance(content, str):
        raise RowError(number, f"message {index}: its content is no string")
    if any("\ud800" <= each <= "\udfff" for each in content):
        raise RowError(number, f"message {index}: half of a surrogate pair is no text")
