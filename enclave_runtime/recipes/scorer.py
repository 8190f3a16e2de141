"""A causal language model whose head is computed only where a prediction is wanted."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional


class Scorer(nn.Module):
    """Logits at chosen places. The root of sharding, so that every forward passes its hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: torch.Tensor,
        *,
        places: torch.Tensor,
        positions: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """Ids [lines, tokens], places [n] in the flattened ids → logits [n, vocabulary], fp32."""
        causal = cast(Any, self.model)
        hidden = causal.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        chosen = hidden.flatten(0, 1).index_select(0, places)
        return cast(torch.Tensor, causal.lm_head(chosen)).float()


def summed_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies, in nats: divide by the tokens of the *global* batch."""
    return functional.cross_entropy(logits, targets, reduction="sum")
