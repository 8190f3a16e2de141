"""Checkpoints and adapters: one safetensors file each, the same bytes each time."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from enclave_runtime.recipes.adamw import AdamW, clip
from enclave_runtime.recipes.state import (
    MEAN,
    Checkpoint,
    Origin,
    read_checkpoint,
    read_safetensors,
    tensors_digest,
    write_checkpoint,
    write_safetensors,
)
from trust.errors import DocumentError, EncodingError

ORIGIN = Origin(job=bytes(32), generation=3, compute_class="cpu=a;ranks=2")
SHAPES = {"b.lora_A.weight": torch.Size([2, 3]), "a.lora_B.weight": torch.Size([3, 2])}


def checkpoint() -> Checkpoint:
    tensors = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    return Checkpoint(
        origin=ORIGIN,
        step=9,
        parameters=tensors,
        means={name: each * 2 for name, each in tensors.items()},
        squares={name: each * 3 for name, each in tensors.items()},
    )


def test_checkpoint_comes_back_whole_and_safetensors_reads_it() -> None:
    saved = checkpoint()
    content = write_checkpoint(saved)
    again = read_checkpoint(content, shapes=SHAPES)
    assert (again.origin, again.step) == (ORIGIN, 9)
    for name in SHAPES:
        assert torch.equal(again.parameters[name], saved.parameters[name])
        assert torch.equal(again.means[name], saved.means[name])
        assert torch.equal(again.squares[name], saved.squares[name])
    assert set(safetensors.torch.load(content)) == {
        name + end for name in SHAPES for end in ("", ".exp_avg", ".exp_avg_sq")
    }
    assert write_checkpoint(again) == content


def changed(**metadata: str) -> bytes:
    tensors, found = read_safetensors(write_checkpoint(checkpoint()))
    return write_safetensors(tensors, {**found, **metadata})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (lambda: write_checkpoint(checkpoint())[:-1], "the file at"),
        (lambda: write_checkpoint(checkpoint()) + b"\x00", "the file at"),
        (lambda: changed(step="nine"), "no number"),
        (lambda: changed(job="zz"), "no number"),
        (lambda: changed(more="1"), "metadata"),
        (lambda: write_safetensors({}, {}), "metadata"),
        (lambda: without("a.lora_B.weight" + MEAN), "is missing"),
        (lambda: without("a.lora_B.weight", torch.zeros(2, 3)), "is not fp32"),
        (lambda: without("a.lora_B.weight", torch.zeros(3, 2).bfloat16()), "is not fp32"),
    ],
)
def test_checkpoint_that_is_not_this_adapters_is_refused(content: object, text: str) -> None:
    assert callable(content)
    with pytest.raises(EncodingError, match=text):
        read_checkpoint(content(), shapes=SHAPES)


def without(name: str, instead: torch.Tensor | None = None) -> bytes:
    tensors, metadata = read_safetensors(write_checkpoint(checkpoint()))
    del tensors[name]
    if instead is not None:
        tensors[name] = instead
    return write_safetensors(tensors, metadata)


def test_digest_is_of_names_and_tensors_and_not_of_metadata() -> None:
    a, b = torch.ones(2, 3), torch.zeros(2)
    digest = tensors_digest(write_safetensors({"a": a, "b": b}, {"x": "1"}))
    assert digest == tensors_digest(write_safetensors({"b": b, "a": a}, {"y": "2"}))
    for other in ({"a": a, "c": b}, {"a": a.view(3, 2), "b": b}, {"a": a, "b": b + 1}, {"a": a}):
        assert digest != tensors_digest(write_safetensors(other, {"x": "1"}))


def test_written_file_has_sorted_metadata_and_an_aligned_header() -> None:
    content = write_safetensors({"a": torch.ones(1)}, {"z": "1", "format": "pt", "a": "2"})
    assert content.index(b'"a":"2"') < content.index(b'"format"') < content.index(b'"z"')
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_unknown_dtype_is_not_written() -> None:
    with pytest.raises(KeyError):
        write_safetensors({"a": torch.ones(1, dtype=torch.int64)}, {})


def test_adamw_takes_the_steps_of_torch() -> None:
    torch.manual_seed(3)
    start, gradients = torch.rand(50), [torch.randn(50) for _ in range(20)]
    theirs = torch.nn.Parameter(start.clone())
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    ours = start.clone()
    optimizer = AdamW([ours], weight_decay=0.1)
    for step, gradient in enumerate(gradients, start=1):
        theirs.grad = gradient.clone()
        reference.step()
        optimizer.step(step, [gradient], rate=0.01)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


def test_clip_scales_only_what_is_too_long() -> None:
    gradient = torch.tensor([3.0, 4.0])
    for clip_norm, wanted in ((0.0, [3.0, 4.0]), (5.5, [3.0, 4.0]), (2.5, [1.5, 2.0])):
        ours = [gradient.clone()]
        clip(ours, ours[0].norm(), clip_norm)
        assert ours[0].tolist() == pytest.approx(wanted)


def test_error_is_a_document_error() -> None:
    with pytest.raises(DocumentError, match="metadata"):
        read_checkpoint(write_safetensors({}, {"job": "00"}), shapes={})
