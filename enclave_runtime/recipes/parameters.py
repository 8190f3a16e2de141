"""The trainable tensors of one rank: whole on each (data parallel), or a shard each (FSDP2).

Gradients are summed over the ranks in rank order, each time in the same order, so that a resumed
run has the bits that it would have had; buckets that form themselves would break that. Parameters
and moments are fp32, whatever the base computes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import nn

Named = dict[str, torch.Tensor]


class Parameters(Protocol):
    """What the training loop asks of either kind."""

    tensors: list[torch.Tensor]
    """What the optimizer changes on this rank."""
    loss_factor: float
    """By what the loss is multiplied so that reduced gradients are sums over ranks."""

    def clear(self) -> None:
        """Set gradients to zero."""

    def reduce(self, loss: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Sum over ranks: gradients that fit `tensors`, and the loss."""

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """2-norm of the whole gradient, the same on every rank."""

    def named(self, tensors: Sequence[torch.Tensor]) -> Named:
        """Whole tensors by parameter name, from what fits `tensors`; every rank calls it."""

    def load(self, values: Named, into: Sequence[torch.Tensor]) -> None:
        """The inverse of `named`."""


class ReplicatedParameters:
    """All trainable parameters as views of one flat tensor, and their gradients of another."""

    loss_factor = 1.0

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._shapes = {name: each.shape for name, each in parameters.items()}
        flat = torch.cat([each.detach().flatten() for each in parameters.values()])
        assert flat.dtype == torch.float32
        self._size, self._world = flat.numel(), dist.get_world_size()
        self._gradient = torch.zeros(self._size + 1)  # the last place carries the loss
        self._gathered = torch.empty(self._world, self._size + 1)
        self.tensors = [flat]
        for (name, parameter), gradient in zip(
            parameters.items(), self._pieces(self._gradient), strict=True
        ):
            parameter.grad = gradient.view(self._shapes[name])
        for parameter, piece in zip(parameters.values(), self._pieces(flat), strict=True):
            parameter.data = piece.view(parameter.shape)

    def _pieces(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        return torch.split(flat[: self._size], sizes)

    def clear(self) -> None:
        """Set gradients to zero, in place: autograd adds to these very tensors."""
        self._gradient.zero_()

    def reduce(self, loss: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One all-gather, then a sum in rank order."""
        self._gradient[-1] = loss
        dist.all_gather_single(self._gathered.flatten(), self._gradient)
        total = self._gathered[0].clone()
        for part in self._gathered[1:]:
            total += part
        return [total[:-1]], total[-1]

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """2-norm; every rank has the same whole gradient."""
        return gradients[0].square().sum().sqrt()

    def named(self, tensors: Sequence[torch.Tensor]) -> Named:
        """Views of the flat tensor."""
        pieces = self._pieces(tensors[0])
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def load(self, values: Named, into: Sequence[torch.Tensor]) -> None:
        """Copy whole tensors into their places."""
        for name, place in self.named(into).items():
            place.copy_(values[name])


class ShardedParameters:
    """Parameters that `fully_shard` made DTensors: each rank holds a slice along the first axis."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._parameters = cast(dict[str, Any], parameters)
        self.tensors = [each.to_local().detach() for each in self._parameters.values()]
        self._world = dist.get_world_size()
        self.loss_factor = float(self._world)  # fully_shard reduces by the mean

    def clear(self) -> None:
        """Forget gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def reduce(self, loss: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Gradients were reduced during the backward pass; the loss is gathered here."""
        gradients = [each.grad.to_local() for each in self._parameters.values()]
        return gradients, self._sum(loss)

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """2-norm over all slices."""
        squares = torch.stack([each.square().sum() for each in gradients]).sum()
        return torch.sqrt(self._sum(squares))

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        gathered = torch.empty(self._world)
        dist.all_gather_single(gathered, value.reshape(1))
        total = gathered[0].clone()
        for part in gathered[1:]:
            total += part
        return total

    def named(self, tensors: Sequence[torch.Tensor]) -> Named:
        """Gather every slice; the whole adapter is small."""
        from torch.distributed.tensor import DTensor

        return {
            name: DTensor.from_local(
                local,
                like.device_mesh,
                like.placements,
                run_check=False,
                shape=like.shape,
                stride=like.stride(),
            ).full_tensor()
            for (name, like), local in zip(self._parameters.items(), tensors, strict=True)
        }

    def load(self, values: Named, into: Sequence[torch.Tensor]) -> None:
        """Copy this rank's slice of each whole tensor."""
        rank = dist.get_rank()
        for (name, _like), place in zip(self._parameters.items(), into, strict=True):
            chunks = values[name].chunk(self._world, 0)
            if rank < len(chunks):
                place.copy_(chunks[rank])


def shard(scorer: nn.Module, layers: Sequence[nn.Module]) -> None:
    """FSDP2: one unit for each layer, and one for the rest. Parameters become DTensors."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(scorer, mesh=mesh)
