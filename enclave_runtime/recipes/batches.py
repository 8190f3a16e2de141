"""Rows → the tensors of one forward pass.

A batch names the positions whose prediction is supervised, so the head is computed on those alone.
Rows stand left-aligned, one in a line or several (packed). Causal attention never looks to the
right, so padding needs no mask; in a pack, positions that start again from 0 keep rows apart
(transformers' masking_utils makes the block mask from them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

import torch

from enclave_runtime.recipes.plan import pack
from enclave_runtime.rows import Row

PAD_MULTIPLE: Final = 8  # few different shapes, and little waste


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One forward pass: ids and positions are [lines, tokens]."""

    ids: torch.Tensor
    positions: torch.Tensor | None
    """None: each line is one row, counted from 0."""
    predicting: torch.Tensor
    """[supervised] places in the flattened ids whose *next* token is supervised."""
    targets: torch.Tensor
    """[supervised] those next tokens."""


class TokenRows:
    """Rows as tensors, held once by each rank."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._ids: list[torch.Tensor] = []
        self._supervised: list[torch.Tensor] = []
        for row in rows:
            self._ids.append(torch.frombuffer(bytearray(row.ids), dtype=torch.int32).long())
            mask = torch.frombuffer(bytearray(row.supervised), dtype=torch.uint8)
            self._supervised.append(mask.nonzero().flatten())
        self.lengths = [len(ids) for ids in self._ids]
        self.supervised = [len(places) for places in self._supervised]

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self, index: int) -> torch.Tensor:
        """[tokens] of one row."""
        return self._ids[index]

    def batch(self, rows: Sequence[int], *, pad: int, pack_to: int | None = None) -> Batch:
        """These rows as one batch; packed into lines of at most `pack_to` tokens where given."""
        if pack_to is None:
            lines = [[row] for row in rows]
        else:
            lengths = [self.lengths[row] for row in rows]
            lines = [[rows[i] for i in line] for line in pack(lengths, pack_to)]
        width = max(sum(self.lengths[row] for row in line) for line in lines)
        width += -width % PAD_MULTIPLE
        ids = torch.full((len(lines), width), pad)
        # Every padding token is at position 0: a row of its own, in a pack.
        positions = torch.zeros_like(ids)
        places, targets = [], []
        for number, line in enumerate(lines):
            start = 0
            for row in line:
                length = self.lengths[row]
                ids[number, start : start + length] = self._ids[row]
                positions[number, start : start + length] = torch.arange(length)
                places.append(self._supervised[row] + (number * width + start - 1))
                targets.append(self._ids[row][self._supervised[row]])
                start += length
        return Batch(
            ids=ids,
            positions=None if pack_to is None else positions,
            predicting=torch.cat(places),
            targets=torch.cat(targets),
        )


def left_padded(rows: Sequence[torch.Tensor], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts that all end in the last column, and their attention mask: [rows, tokens] each."""
    width = max(len(ids) for ids in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        mask[number, width - len(row) :] = 1
    return ids, mask
