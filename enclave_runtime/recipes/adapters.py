"""Several adapters of one base, applied in one batch: each row of it has its own, or none.

- An adapter is what `state.write_adapter` makes: plain LoRA on linear layers of the base, complete,
  finite, and with a config that says nothing else. Unknown is refused, by name.
- Each adapter owns a span of columns, as wide as its rank. A layer's factors of all adapters stand
  side by side: two products serve every row, whatever adapter it has, and between them the columns
  that are another adapter's are filled with zeros. So a row is computed as if it were alone, and
  nothing is copied for it (gathering A and B row by row moves megabytes for each token).
- Factors are fp32 and computed in fp32, as PEFT does beside a bf16 base, and as they were trained.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import nn
from torch.nn import functional

from enclave_runtime.recipes.state import CONFIG_KEY, read_safetensors
from trust.errors import DocumentError
from trust.json_rules import (
    Rule,
    integer,
    list_of,
    number,
    object_of,
    one_of,
    parse_strict_json,
    text,
)

RANK_MAX: Final = 256  # trust.jobs.LoraRecipe
_REQUIRED: Final[Mapping[str, Rule]] = {
    "peft_type": one_of("LORA"),
    "task_type": one_of("CAUSAL_LM"),
    "base_model_name_or_path": text(64),
    "r": integer(1, RANK_MAX),
    "lora_alpha": integer(1, 1024),
    "target_modules": list_of(text(512), most=64, least=1),
    "bias": one_of("none"),
}
# What plain LoRA leaves as it is. Absent is the same: peft reads it so, and its list grows.
_NEUTRAL: Final[Mapping[str, Any]] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "qalora_group_size": 16,
    "rank_pattern": {},
    "revision": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
_CONFIG: Final = object_of(
    _REQUIRED,
    {
        "lora_dropout": number(0, 1),  # of training: nothing is dropped here
        "peft_version": text(64),
        **{name: one_of(value) for name, value in _NEUTRAL.items()},
    },
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """An adapter, checked against its base."""

    rank: int
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    """By layer: A [rank, in], and B [rank, out] times alpha ÷ rank; fp32."""


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """What an adapter may stand on: the linear layers of the blocks; a head is none of them."""
    return {
        name: each
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear) and name.startswith("model.layers.")
    }


def read_adapter(
    content: bytes, layers: Mapping[str, nn.Linear], *, base_model: str, name: str
) -> Adapter:
    """Parse an adapter of the base whose artifact id is `base_model`, in hex.

    (1) It is a safetensors file. (2) Its config is plain LoRA's, of this base. (3) Each target
    names layers. (4) The tensors are A and B of just these layers. (5) They have the layers'
    shapes, and are finite.

    Raises EncodingErrors that begin with `name`.
    """
    tensors, metadata = read_safetensors(content)  # (1)
    if set(metadata) != {CONFIG_KEY, "format"} or metadata["format"] != "pt":
        raise DocumentError(f"{name}: metadata is {', '.join(sorted(metadata))[:100]}")
    config = parse_strict_json(name, metadata[CONFIG_KEY].encode())  # (2)
    _CONFIG(name, config)
    if config["base_model_name_or_path"] != base_model:
        raise DocumentError(f"{name}: it is of another base model")
    wanted = set[str]()  # (3)
    for target in config["target_modules"]:
        found = {each for each in layers if f".{each}".endswith(f".{target}")}
        if not found:
            raise DocumentError(f"{name}: target {target[:128]!r} is no linear layer of the base")
        wanted |= found
    names = {f"base_model.model.{each}.lora_{side}.weight" for each in wanted for side in "AB"}
    if missing := sorted(names - set(tensors)):  # (4)
        raise DocumentError(f"{name}: {missing[0]} is missing")
    if extra := sorted(set(tensors) - names):
        raise DocumentError(f"{name}: {extra[0][:128]!r} is no tensor of its targets")
    rank, scale = config["r"], config["lora_alpha"] / config["r"]
    factors = {}
    for each in sorted(wanted):
        a, b = (tensors[f"base_model.model.{each}.lora_{side}.weight"] for side in "AB")
        layer = layers[each]  # (5)
        for side, found_shape, shape in (
            ("A", tuple(a.shape), (rank, layer.in_features)),
            ("B", tuple(b.shape), (layer.out_features, rank)),
        ):
            if found_shape != shape:
                raise DocumentError(f"{name}: {side} of {each} is {found_shape}, wanted {shape}")
        a, b = a.float(), b.float().t() * scale
        if not math.isfinite(a.abs().max().item() + b.abs().max().item()):
            raise DocumentError(f"{name}: {each} has values that are not finite")
        factors[each] = (a, b)
    return Adapter(rank=rank, factors=factors)


# --- batch ---------------------------------------------------------------------------------------


class Choice:
    """Whose columns count in the next forward pass; every wrapped layer looks here."""

    def __init__(self, ranks: Sequence[int], device: torch.device) -> None:
        ends = [sum(ranks[:before]) for before in range(len(ranks) + 1)]
        self._spans = [slice(start, end) for start, end in itertools.pairwise(ends)]
        self._foreign = torch.ones(len(ranks) + 1, ends[-1], dtype=torch.bool, device=device)
        for own, span in enumerate(self._spans, start=1):
            self._foreign[own, span] = False
        self.span: slice | None = None
        """Columns of the one adapter that every row has."""
        self.foreign: torch.Tensor | None = None
        """[rows, 1, columns]: those that are not the row's."""

    def everywhere(self, adapter: int) -> None:
        """Every row has this one; 0: none."""
        self.span = self._spans[adapter - 1] if adapter else None
        self.foreign = None

    def by_row(self, adapters: torch.Tensor) -> None:
        """[rows]: each row's adapter, or 0."""
        self.span = None
        self.foreign = self._foreign[adapters].unsqueeze(1)


class AdaptedLinear(nn.Module):
    """A linear layer of the base with the factors of all adapters."""

    def __init__(self, base: nn.Linear, a: torch.Tensor, b: torch.Tensor, choice: Choice) -> None:
        super().__init__()
        self.base, self._choice = base, choice
        self._a, self._b = a, b  # no buffers: neither the model's state nor cast with it

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, in] → [rows, tokens, out], in the dtype of the base."""
        result = cast(torch.Tensor, self.base(hidden))
        span, foreign = self._choice.span, self._choice.foreign
        if span is not None:
            narrow = functional.linear(hidden.float(), self._a[span])
            return (result + narrow @ self._b[span]).to(result.dtype)
        if foreign is not None:
            # Filled, not multiplied: another adapter's overflow times zero would be a NaN.
            narrow = functional.linear(hidden.float(), self._a).masked_fill_(foreign, 0.0)
            return (result + narrow @ self._b).to(result.dtype)
        return result


class Adapters:
    """The adapters of a model, numbered from 1; wraps the layers that any of them stands on."""

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter]) -> None:
        layers = linear_layers(model)
        self.count = len(adapters)
        device = next(model.parameters()).device
        self.choice = Choice([each.rank for each in adapters], device)
        for name in sorted({name for each in adapters for name in each.factors}):
            layer = layers[name]
            parts_a, parts_b = [], []
            for each in adapters:
                none = (
                    torch.zeros(each.rank, layer.in_features),
                    torch.zeros(each.rank, layer.out_features),
                )
                a, b = each.factors.get(name, none)
                parts_a.append(a)
                parts_b.append(b)
            parent, _, last = name.rpartition(".")
            wrapped = AdaptedLinear(
                layer,
                torch.cat(parts_a).to(device),
                torch.cat(parts_b).to(device),
                self.choice,
            )
            setattr(model.get_submodule(parent), last, wrapped)
