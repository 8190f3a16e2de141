"""A rank's two pipes: what the parent says, and what the parent is told.

The parent says *weights* (the map is filled), *rows*, *adapter*, *begin*, and *allow*: no step
above the allowed one is ever taken. Of a serve job it says *ask* and *cancel* afterwards. What a
rank reports is plaintext; the parent seals it.
"""

from __future__ import annotations

import select
from typing import Any

from enclave_runtime.pipes import Frame, FrameReader, write_frame
from enclave_runtime.rows import Row, unpack_rows
from trust.errors import SessionError


class Desk:
    """Rank `rank`'s end of its pipes."""

    def __init__(self, *, rank: int, control: int, reports: int) -> None:
        self.rank, self._reports = rank, reports
        self._reader = FrameReader(control)
        self._allowed = 0
        self._seen: set[str] = set()
        self._checkpoint: bytes | None = None
        self._rows: dict[str, list[Row]] = {"dataset": [], "heldout": [], "prompts": []}
        self._adapters: dict[int, bytes] = {}
        self._orders: list[Frame] = []

    def rows(self, name: str) -> list[Row]:
        """Rows of *dataset*, *heldout* or *prompts*; they are given away, once."""
        rows, self._rows[name] = self._rows[name], []
        return rows

    def adapters(self) -> list[bytes]:
        """The adapters' plaintexts, numbered from 1; they are given away, once.

        Raises SessionError if one is missing.
        """
        given, self._adapters = self._adapters, {}
        if sorted(given) != list(range(1, len(given) + 1)):
            raise SessionError(f"rank {self.rank}: adapters {sorted(given)}, wanted 1, 2, …")
        return [given[number] for number in sorted(given)]

    def await_weights(self) -> None:
        """Wait until the map is filled."""
        self._await("weights")

    def await_begin(self) -> bytes | None:
        """Wait until all rows are here; returns the checkpoint to start from, or None."""
        self._await("begin")
        return self._checkpoint

    def await_allowance(self, step: int) -> None:
        """Wait until `step` is allowed."""
        while select.select([self._reader.descriptor], [], [], 0)[0] or self._allowed < step:
            self._take(self._reader.read_some())

    def orders(self, *, wait: bool) -> list[Frame]:
        """What was asked or cancelled since, in order; with `wait`, at least one frame.

        Raises EOFError where the parent is gone.
        """
        while select.select([self._reader.descriptor], [], [], 0)[0] or (wait and not self._orders):
            self._take(self._reader.read_some())
        orders, self._orders = self._orders, []
        return orders

    def report(self, kind: str, content: bytes = b"", **fields: Any) -> None:
        """Tell the parent."""
        write_frame(self._reports, Frame(kind=kind, fields=fields, content=content))

    def _await(self, kind: str) -> None:
        while kind not in self._seen:
            self._take(self._reader.read_some())

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            match frame.kind:
                case "allow":
                    self._allowed = max(self._allowed, frame.fields["step"])
                case "rows":
                    self._rows[frame.fields["name"]] += unpack_rows(frame.content)
                case "adapter":
                    self._adapters[frame.fields["index"]] = frame.content
                case "ask" | "cancel":
                    self._orders.append(frame)
                case "begin":
                    self._checkpoint = frame.content if frame.fields["resumes"] else None
                case "weights":
                    pass
                case _:
                    raise SessionError(f"rank {self.rank}: the parent said {frame.kind!r}")
            self._seen.add(frame.kind)
