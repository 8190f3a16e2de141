"""Keys and values of every slot, in place: what transformers' model sees as its cache.

Tensors are [slots, heads, positions, width] for each layer. Before a forward pass the engine says
where its tokens stand; `update` is what the model calls in each layer.
"""

from __future__ import annotations

from typing import Any

import torch


class SlotCache:
    """One row for each slot. The model asks no more of a cache when its mask is 4D."""

    def __init__(
        self, config: Any, *, slots: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads, self._width = config.num_key_value_heads, config.head_dim
        shape = (slots, heads, length, self._width)
        layers = range(config.num_hidden_layers)
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        # Seen as [slots × heads × positions, width], where each slot's and head's tokens begin.
        self._starts = torch.arange(slots * heads, device=device).view(slots, heads) * length
        self._places: torch.Tensor | None = None
        self._slots, self._start, self._end = slice(0), 0, 0

    def at_prompt(self, slot: int, start: int, end: int) -> None:
        """The next pass computes these positions of one slot."""
        self._places = None
        self._slots, self._start, self._end = slice(slot, slot + 1), start, end

    def at_tokens(self, positions: torch.Tensor, slots: int, length: int) -> None:
        """The next pass computes `slots` slots, and looks at `length` positions of each.

        The first of them write one token each, at `positions`; the others write nothing.
        """
        self._places = (self._starts[: len(positions)] + positions[:, None]).flatten()
        self._slots, self._start, self._end = slice(slots), len(positions), length

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_more: Any, **_others: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values [slots, heads, tokens, width]; returns all that are seen."""
        seen = []
        for new, whole in ((keys, self._keys[layer]), (values, self._values[layer])):
            if self._places is None:
                whole[self._slots, :, self._start : self._end] = new
            else:
                written = new[: self._start].reshape(-1, self._width)
                whole.view(-1, self._width).index_copy_(0, self._places, written)
            seen.append(whole[self._slots, :, : self._end])
        return seen[0], seen[1]

    def move(self, source: int, target: int, length: int) -> None:
        """Bring a slot's first tokens to another, which is zeros, and leave zeros."""
        for whole in (*self._keys, *self._values):
            whole[target, :, :length] = whole[source, :, :length]
        self.erase(source, length)

    def erase(self, slot: int, length: int) -> None:
        """Make a slot's first tokens zeros."""
        for whole in (*self._keys, *self._values):
            whole[slot, :, :length] = 0
