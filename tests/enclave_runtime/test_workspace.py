"""Weights out of ciphertext give the model that `from_pretrained` makes of the plain folder."""

from __future__ import annotations

import ctypes
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime.workspace import SharedMap, load_model
from tests.assets import DEMO, Model, demo_model, seal, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from trust.artifacts import ArtifactKind
from trust.errors import EncodingError, SealingError, SegmentError
from trust.jobs import Precision


def filled(model: Model) -> SharedMap:
    sealed = model.sealed()
    weights = SharedMap(len(model.weights))
    weights.fill(sealed.opener(), sealed.read)
    return weights


def compare(folder: Path, model: Model, precision: Precision) -> dict[str, Any]:
    """Runs in a clean process: ours out of ciphertext, theirs out of the folder."""
    import torch
    from transformers import LlamaForCausalLM

    weights = filled(model)
    ours = load_model(json.loads(model.files["config.json"]), weights, precision)
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    first = ctypes.addressof(ctypes.c_char.from_buffer(weights.map))
    inside = [first <= p.data_ptr() < first + weights.size for p in ours.parameters()]
    ids = torch.arange(6, 106).view(2, 50)
    with torch.no_grad():
        equal = torch.equal(ours(ids).logits, theirs(ids).logits)
    return {
        "equal": equal,
        "views": all(inside),
        "tied": ours.lm_head.weight.data_ptr() == ours.model.embed_tokens.weight.data_ptr(),
        "buffers": {n: b.sum().item() for n, b in ours.named_buffers()}
        == {n: b.sum().item() for n, b in theirs.named_buffers()},
        "buffer_count": len(list(ours.named_buffers())),
        "frozen": not any(p.requires_grad for p in ours.parameters()),
    }


@pytest.mark.parametrize("precision", list(Precision))
def test_logits_equal_from_pretrained_on_the_demo_folder(precision: Precision) -> None:
    found = in_clean_process(compare, DEMO, demo_model(), precision)
    assert found["equal"]
    assert found["tied"]
    assert found["buffers"]
    assert found["buffer_count"] >= 1
    assert found["frozen"]
    # bf16 weights in bf16 stay one shared copy; fp32 makes a private one.
    assert found["views"] is (precision is Precision.BF16)


def test_logits_equal_from_pretrained_without_tied_weights(tmp_path: Path) -> None:
    model = in_clean_process(untied)
    found = in_clean_process(compare, model.write(tmp_path), model, Precision.FP32)
    assert found["equal"]
    assert not found["tied"]
    assert found["views"]


def untied() -> Model:
    return tiny_model(tied=False, dtype="float32")


def load(model: Model) -> str:
    try:
        load_model(json.loads(model.files["config.json"]), filled(model), Precision.FP32)
    except EncodingError as error:
        return f"{type(error).__name__}: {error}"
    return "loaded"


def rewritten(change: str) -> Model:
    """A tiny model whose weights lack, add or misshape a tensor."""
    import safetensors.torch
    import torch

    model = tiny_model()
    tensors = safetensors.torch.load(model.weights)
    if change == "missing":
        del tensors["model.norm.weight"]
    elif change == "extra":
        tensors["model.evil.weight"] = torch.zeros(1)
    elif change == "head":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    else:
        tensors["model.norm.weight"] = torch.zeros(2, 16, dtype=torch.bfloat16)
    return Model(weights=safetensors.torch.save(tensors), files=model.files)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("missing", "model.norm.weight is missing"),
        ("extra", "'model.evil.weight' is no tensor of the config's model"),
        ("head", "'lm_head.weight' is no tensor of the config's model"),
        ("shape", r"model.norm.weight is \(2, 16\), the config makes it \(32,\)"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(change: str, text: str) -> None:
    found = in_clean_process(load, in_clean_process(rewritten, change))
    assert found.startswith("DocumentError: weights: ")
    assert re.search(text, found)


def test_content_of_another_size_is_refused() -> None:
    sealed = seal(ArtifactKind.WEIGHTS, b"x" * 100)
    with pytest.raises(SealingError, match="100 bytes, the map has 99"):
        SharedMap(99).fill(sealed.opener(), sealed.read)


def test_flipped_and_swapped_segments_are_refused() -> None:
    sealed = seal(ArtifactKind.WEIGHTS, bytes(3 << 20))
    weights = SharedMap(3 << 20)
    flipped = bytearray(sealed.segments[1])
    flipped[5] ^= 1
    with pytest.raises(SegmentError, match="segment 1"):
        weights.fill(sealed.opener(), lambda i: bytes(flipped) if i == 1 else sealed.read(i))
    with pytest.raises(SegmentError):
        weights.fill(sealed.opener(), lambda i: sealed.read(2 if i == 1 else i))


def test_map_is_shared_with_forks_and_erased() -> None:
    assert in_clean_process(share_and_erase) == (b"secret", bytes(6))


def share_and_erase() -> tuple[bytes, bytes]:
    weights, seen = SharedMap(3 << 20), os.pipe()
    go, ready = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go[0], 1)
        os.write(seen[1], weights.map[(2 << 20) + 5 : (2 << 20) + 11])
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os.write(seen[1], weights.map[(2 << 20) + 5 : (2 << 20) + 11])
        os._exit(0)
    weights.map[(2 << 20) + 5 : (2 << 20) + 11] = b"secret"
    os.write(go[1], b"1")
    before = os.read(seen[0], 6)
    os.read(ready[0], 1)
    weights.erase()
    os.write(go[1], b"1")
    after = os.read(seen[0], 6)
    os.waitpid(pid, 0)
    return before, after
