"""Adapters beside one base: each is what PEFT makes of it, alone and in one batch with others."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch

from enclave_runtime.recipes.adapters import Adapters, linear_layers, read_adapter
from enclave_runtime.recipes.state import CONFIG_KEY, read_safetensors, write_safetensors
from tests.enclave_runtime.recipes.engines import (
    BASE,
    adapter_bytes,
    asked,
    demo,
    engine,
    prompt,
    replies,
    tiny,
)
from trust.errors import DocumentError, EncodingError
from trust.jobs import Precision

ONE = adapter_bytes(1)
NARROW = adapter_bytes(2, rank=2, alpha=7, targets=("q_proj", "v_proj"))
WIDE = adapter_bytes(3, rank=16, alpha=4, targets=("layers.1.mlp.down_proj", "o_proj"))
ALL = (ONE, NARROW, WIDE)


def pefts(content: bytes, model: Any) -> Any:
    """PEFT's own model with this adapter, loaded from its bytes."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    fields = json.loads(read_safetensors(content)[1][CONFIG_KEY])
    del fields["base_model_name_or_path"]  # ours is no path
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        wrapped = get_peft_model(model, LoraConfig(**fields))
        loaded = set_peft_model_state_dict(wrapped, safetensors.torch.load(content))
    assert not loaded.unexpected_keys
    return wrapped.eval()


def adapted(model: Any, *contents: bytes) -> Adapters:
    layers = linear_layers(model)
    read = [read_adapter(each, layers, base_model=BASE, name="adapter") for each in contents]
    return Adapters(model, read)


@torch.inference_mode()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


# --- equality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ALL, ids=["all-linear", "narrow", "wide"])
def test_logits_equal_those_of_pefts_model(content: bytes) -> None:
    ids = torch.tensor([prompt(5, 48)])
    wanted = logits(pefts(content, tiny()), ids)
    model = tiny()
    base = logits(model, ids)
    adapters = adapted(model, ONE, content, WIDE)
    adapters.choice.everywhere(2)
    torch.testing.assert_close(logits(model, ids), wanted, rtol=1e-5, atol=1e-5)
    adapters.choice.by_row(torch.tensor([2]))
    torch.testing.assert_close(logits(model, ids), wanted, rtol=1e-5, atol=1e-5)
    adapters.choice.everywhere(0)
    assert torch.equal(logits(model, ids), base)
    assert (wanted - base).abs().max() > 0.01


def test_bf16_base_computes_its_adapter_in_fp32_as_peft_does() -> None:
    ids = torch.tensor([prompt(5, 48)])
    wanted = logits(pefts(ONE, tiny(Precision.BF16)), ids)
    model = tiny(Precision.BF16)
    adapted(model, ONE).choice.everywhere(1)
    found = logits(model, ids)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, wanted)


def test_rows_of_one_batch_have_the_logits_of_their_own_adapter() -> None:
    ids = torch.tensor([prompt(n, 20) for n in range(8)])
    numbers = [0, 1, 2, 3, 3, 0, 1, 2]
    model = tiny()
    adapters = adapted(model, *ALL)
    adapters.choice.by_row(torch.tensor(numbers))
    together = logits(model, ids)
    for row, number in enumerate(numbers):
        adapters.choice.everywhere(number)
        alone = logits(model, ids[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


def test_replies_equal_those_of_pefts_generate() -> None:
    content = adapter_bytes(4, model=demo(), size=0.1)
    served = engine(copy.deepcopy(demo()), adapters=(content,))
    said = replies(served, *[asked(n, adapter=1, tokens_max=24) for n in range(4)])
    model = pefts(content, copy.deepcopy(demo()))
    base = replies(engine(), *[asked(n, tokens_max=24) for n in range(4)])
    for number in range(4):
        out = model.generate(
            input_ids=torch.tensor([prompt(number)]),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=0,
        )
        wanted = [token for token in out[0, 12:].tolist() if token != 2]
        assert said.ids[number] == wanted
    assert said.ids != base.ids


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_replies_in_a_mixed_batch_equal_those_alone(precision: Precision) -> None:
    def served() -> Any:
        return engine(
            tiny(precision),
            adapters=ALL,
            slots=8,
            precision=precision,
            fixed_shapes=precision is Precision.BF16,
        )

    requests = [asked(n, adapter=n % 4, temperature=n % 3 / 2, tokens_max=20) for n in range(12)]
    among = replies(served(), *requests)
    for each in requests:
        assert replies(served(), each).ids[each.handle] == among.ids[each.handle]
    same = [asked(n, ids=prompt(1), adapter=n) for n in range(4)]
    assert len({tuple(ids) for ids in replies(served(), *same).ids.values()}) == 4


def test_overflow_of_one_adapter_does_not_reach_the_rows_of_another() -> None:
    model = tiny()
    adapters = adapted(model, adapter_bytes(9, size=5e37, alpha=4), ONE)
    ids = torch.tensor([prompt(1, 20), prompt(2, 20)])
    adapters.choice.by_row(torch.tensor([1, 2]))
    broken, whole = logits(model, ids)
    assert not broken.isfinite().all()
    adapters.choice.everywhere(2)
    torch.testing.assert_close(whole, logits(model, ids[1:])[0], rtol=1e-5, atol=1e-5)


# --- refusals ------------------------------------------------------------------------------------

Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def changed(content: bytes = NARROW, **config: Any) -> bytes:
    """An adapter with another config."""
    tensors, metadata = read_safetensors(content)
    fields = json.loads(metadata[CONFIG_KEY]) | config
    return write_safetensors(tensors, {**metadata, CONFIG_KEY: json.dumps(fields)})


def retensored(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    """An adapter with other tensors."""
    tensors, metadata = read_safetensors(NARROW)
    change(tensors)
    return write_safetensors(tensors, metadata)


def test_config_of_todays_peft_is_accepted_and_means_the_same() -> None:
    layers = linear_layers(tiny())
    read = read_adapter(changed(), layers, base_model=BASE, name="adapter")
    assert (read.rank, len(read.factors)) == (2, 4)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}},
        {"layers_to_transform": [0]},
        {"layer_replication": [[0, 1]]},
        {"trainable_token_indices": [5]},
        {"target_parameters": ["weight"]},
        {"fan_in_fan_out": True},
        {"peft_type": "IA3"},
        {"task_type": "SEQ_CLS"},
        {"r": 0},
        {"r": 2.0},
        {"r": 257},
        {"lora_alpha": "7"},
        {"target_modules": "all-linear"},
        {"target_modules": []},
        {"something_new": None},
    ],
    ids=lambda config: next(iter(config)),
)
def test_config_of_anything_but_plain_lora_is_refused_by_name(config: dict[str, Any]) -> None:
    layers = linear_layers(tiny())
    with pytest.raises(DocumentError, match=rf"^adapter 7.*{next(iter(config))}"):
        read_adapter(changed(**config), layers, base_model=BASE, name="adapter 7")


def put(name: str, tensor: torch.Tensor) -> bytes:
    return retensored(lambda tensors: tensors.update({name: tensor}))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda: retensored(lambda t: t.pop(Q_A)), r"q_proj.lora_A.weight is missing"),
        (lambda: put(Q_A, torch.zeros(3, 32)), r"A of .*q_proj is \(3, 32\), wanted \(2, 32\)"),
        (lambda: put(Q_A, torch.zeros(2, 31)), r"A of .*q_proj is \(2, 31\), wanted \(2, 32\)"),
        (lambda: put(Q_A, torch.zeros(64)), r"A of .*q_proj is \(64,\)"),
        (
            lambda: put(Q_A.replace("_A", "_B"), torch.zeros(2, 32)),
            r"B of .*q_proj is \(2, 32\), wanted \(32, 2\)",
        ),
        (lambda: put(Q_A, torch.full((2, 32), float("nan"))), "not finite"),
        (lambda: put(Q_A, torch.full((2, 32), float("-inf"))), "not finite"),
        (lambda: put(Q_A.replace("q_", "k_"), torch.zeros(2, 32)), "k_proj.* is no tensor of its"),
        (lambda: put("base_model.model.lm_head.weight", torch.zeros(9)), "lm_head.weight' is no"),
        (lambda: put(Q_A.replace("lora_A", "lora_magnitude_vector"), torch.zeros(9)), "magnitude"),
        (lambda: changed(target_modules=["q_proj", "v_proj", "lm_head"]), "target 'lm_head' is no"),
        (lambda: changed(target_modules=["q_proj", "v_proj", "embed_tokens"]), "embed_tokens"),
        (lambda: changed(target_modules=["_proj"]), "target '_proj' is no linear layer"),
        (lambda: changed(target_modules=["q_proj"]), "v_proj.* is no tensor of its targets"),
        (lambda: changed(base_model_name_or_path="00" * 32), "another base model"),
        (lambda: NARROW[:-1], "the file at"),
        (lambda: write_safetensors({}, {"format": "pt"}), "metadata is format"),
        (lambda: b"", "no length field"),
    ],
)
def test_malformed_adapter_is_refused(content: Callable[[], bytes], text: str) -> None:
    layers = linear_layers(tiny())
    with pytest.raises(EncodingError, match=text):
        read_adapter(content(), layers, base_model=BASE, name="adapter")
