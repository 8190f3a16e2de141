"""Engines over small models, and adapters of them, for the tests of serving."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import torch

from enclave_runtime.environment import THREADS_PER_RANK
from enclave_runtime.recipes.adapters import Adapters, linear_layers, read_adapter
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.generate import Asked, Emitted, Engine
from enclave_runtime.recipes.lora import trainable_parameters, wrap
from enclave_runtime.recipes.state import write_adapter
from enclave_runtime.workspace import SharedMap, load_model
from tests.assets import Model, demo_model, lora_recipe, tiny_model
from trust.encoding import digest
from trust.jobs import GenerateRecipe, InputRole, Precision

torch.set_num_threads(THREADS_PER_RANK)

BASE = digest(InputRole.MODEL.value.encode()).hex()
"""The artifact id of the base, in hex: `tests.assets.job_manifest`'s."""


def generate_recipe(**changes: Any) -> GenerateRecipe:
    """A small recipe."""
    fields: dict[str, Any] = {
        "slots": 4,
        "reply_tokens_max": 120,
        "precision": Precision.FP32,
        "fixed_shapes": False,
        "tick_milliseconds": 20,
        "frame_bytes": 64,
    }
    return GenerateRecipe(**(fields | changes))


def load(model: Model, precision: Precision = Precision.FP32) -> Any:
    """As a rank loads it."""
    weights = SharedMap(len(model.weights))
    weights.map[:] = model.weights
    return load_model(json.loads(model.files["config.json"]), weights, precision)


@functools.cache
def demo(precision: Precision = Precision.FP32) -> Any:
    """The demo model; no test changes it."""
    return load(demo_model(), precision)


def tiny(precision: Precision = Precision.FP32) -> Any:
    """A tiny model of one's own."""
    return load(tiny_model(), precision)


def prompt(seed: int, tokens: int = 12) -> tuple[int, ...]:
    """A prompt of random tokens of the demo's vocabulary."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 2048, (tokens,), generator=random).tolist())


def asked(handle: int, **changes: Any) -> Asked:
    """A greedy request of 12 tokens for 16."""
    fields: dict[str, Any] = {
        "handle": handle,
        "ids": prompt(handle),
        "adapter": 0,
        "tokens_max": 16,
        "temperature": 0,
        "top_p": 1,
        "seed": handle,
    }
    return Asked(**(fields | changes))


def adapter_bytes(
    seed: int, *, model: Any = None, base_model: str = BASE, size: float = 0.3, **changes: Any
) -> bytes:
    """A random adapter of a tiny model, or of `model`, as the train job writes it."""
    model = tiny() if model is None else copy.deepcopy(model)
    wrapped, config = wrap(model, lora_recipe(**changes))
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(each.shape, generator=random) * size
        for name, each in trainable_parameters(wrapped).items()
    }
    return write_adapter(tensors, config, base_model=base_model)


def engine(
    model: Any = None, *, adapters: tuple[bytes, ...] = (), length_max: int = 128, **recipe: Any
) -> Engine:
    """An engine; a model with adapters is one's own, since it is wrapped."""
    model = demo() if model is None else model
    layers = linear_layers(model)
    read = [read_adapter(each, layers, base_model=BASE, name="adapter") for each in adapters]
    return Engine(
        model,
        Words(pad=0, eos_ids=frozenset({2}), context=512),
        generate_recipe(**recipe),
        length_max=length_max,
        adapters=Adapters(model, read),
    )


class Replies:
    """What an engine has said until now, by handle."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.finish: dict[int, str] = {}
        self.texts: dict[int, str] = {}

    def take(self, emitted: list[Emitted]) -> None:
        handles = [each.handle for each in emitted]
        assert len(set(handles)) == len(handles), "a step says one thing of each request"
        for each in emitted:
            assert not self.finish.get(each.handle), "nothing comes after the end"
            self.ids.setdefault(each.handle, []).extend(each.ids)
            self.finish[each.handle] = each.finish
            self.texts[each.handle] = each.text


def replies(served: Engine, *requests: Asked) -> Replies:
    """Ask, and step until nothing is left."""
    said = Replies()
    for each in requests:
        served.add(each)
    while not served.idle:
        said.take(served.step())
    return said
