"""One draw → one token, for many rows at once; a row's token depends on that row alone.

Logits are [rows, vocabulary] in fp32, everything else [rows] in fp64; temperatures are above 0.
"""

from __future__ import annotations

from typing import Final

import torch

# Outside of these, fp32 has no more than one token, or all alike.
TEMPERATURE_LEAST: Final = 1e-6
TEMPERATURE_MOST: Final = 1e6


def sample_all(
    logits: torch.Tensor, temperatures: torch.Tensor, _top_ps: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """[rows]: tokens drawn from the whole vocabulary."""
    sums = _probabilities(logits, temperatures).double().cumsum(1)
    found = torch.searchsorted(sums, draws[:, None] * sums[:, -1:], right=True)
    return found.squeeze(1).clamp_(max=logits.shape[1] - 1)


def sample_nucleus(
    logits: torch.Tensor, temperatures: torch.Tensor, top_ps: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """[rows]: tokens drawn from the fewest that together have the probability `top_ps`."""
    sorted_, tokens = _probabilities(logits, temperatures).sort(dim=1, descending=True, stable=True)
    sums = sorted_.double().cumsum(1)
    # A token is kept if those before it have less than top-p; so the first always is.
    kept = (sums - sorted_ < top_ps[:, None]).sum(1, keepdim=True)
    last = (kept - 1).clamp_(min=0)  # none is kept of logits that are not finite
    found = torch.searchsorted(sums, draws[:, None] * sums.gather(1, last), right=True)
    return tokens.gather(1, found.minimum(last)).squeeze(1)


def _probabilities(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    scales = temperatures.clamp(TEMPERATURE_LEAST, TEMPERATURE_MOST).float()[:, None]
    # The greatest becomes 0 first, so that no division overflows but towards minus infinity.
    return ((logits - logits.amax(1, keepdim=True)) / scales).softmax(1)
