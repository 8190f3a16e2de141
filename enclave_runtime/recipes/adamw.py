"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), as torch.optim.AdamW computes it, in fp32.

Its step is the run's step, so its whole state is two moments for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
NORM_EPSILON: Final = 1e-6  # as torch.nn.utils.clip_grad_norm_


class AdamW:
    """Moments of a list of fp32 tensors."""

    def __init__(self, tensors: Sequence[torch.Tensor], *, weight_decay: float) -> None:
        self._tensors, self._decay = list(tensors), weight_decay
        self.means = [torch.zeros_like(each) for each in tensors]
        self.squares = [torch.zeros_like(each) for each in tensors]

    @torch.no_grad()
    def step(self, step: int, gradients: Sequence[torch.Tensor], *, rate: float) -> None:
        """Take optimizer step number `step`, counted from 1."""
        correction1, correction2 = 1 - BETA1**step, 1 - BETA2**step
        for tensor, gradient, mean, square in zip(
            self._tensors, gradients, self.means, self.squares, strict=True
        ):
            tensor.mul_(1 - rate * self._decay)
            mean.lerp_(gradient, 1 - BETA1)
            square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            scale = square.sqrt().div_(math.sqrt(correction2)).add_(EPSILON)
            tensor.addcdiv_(mean, scale, value=-rate / correction1)


def clip(gradients: Sequence[torch.Tensor], norm: torch.Tensor, clip_norm: float) -> None:
    """Scale gradients, whose norm is `norm`, down to `clip_norm`; 0 never clips."""
    if clip_norm:
        scale = (clip_norm / (norm + NORM_EPSILON)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
