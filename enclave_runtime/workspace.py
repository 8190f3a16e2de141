"""Sealed weights ↔ tensors, in memory alone; no plaintext ever reaches a disk.

- Weights are decrypted into an anonymous shared map that is made before the ranks are forked: all
  ranks see one copy, and no file, tmpfs or /dev/shm holds it.
- Tensors are views of the map. A tensor is copied only where the precision asks for another dtype.
- The file's tensors and the model's are the same set, name by name and shape by shape: nothing is
  missing, nothing is left over, nothing stays on the meta device.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from trust.artifacts import ArtifactOpener
from trust.errors import DocumentError, SealingError
from trust.jobs import Precision
from trust.safetensors_header import HEADER_BYTES_MAX, parse_safetensors_header

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_ERASE_BYTES: Final = 1 << 20


class SharedMap:
    """Anonymous memory that this process shares with its later forks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.map = mmap.mmap(-1, size)

    def fill(self, opener: ArtifactOpener, read: Callable[[int], bytes]) -> None:
        """Decrypt a whole artifact into it. Raises SealingError, also if the size is another."""
        if opener.content_bytes != self.size:
            raise SealingError(f"content of {opener.content_bytes} bytes, the map has {self.size}")
        for index in range(len(opener)):
            start, content = opener.open(index, read(index))
            self.map[start : start + len(content)] = content

    def erase(self) -> None:
        """Overwrite it with zeros, for every process that sees it, and unmap it here."""
        zeros = bytes(_ERASE_BYTES)
        for start in range(0, self.size, _ERASE_BYTES):
            end = min(start + _ERASE_BYTES, self.size)
            self.map[start:end] = zeros[: end - start]
        self.map.close()


def map_tensors(weights: SharedMap) -> dict[str, torch.Tensor]:
    """The tensors of the safetensors file in the map, as views. Raises EncodingErrors."""
    import torch

    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    length = int.from_bytes(weights.map[:8], "little")
    head = weights.map[: 8 + min(length, HEADER_BYTES_MAX, weights.size)]
    header = parse_safetensors_header(head, weights.size)
    flat = torch.frombuffer(weights.map, dtype=torch.uint8)
    return {
        span.name: flat[span.start : span.end].view(dtypes[span.dtype]).view(span.shape)
        for span in header.tensors
    }


def load_model(config: Mapping[str, Any], weights: SharedMap, precision: Precision) -> Any:
    """Build the causal language model of `config` (checked) on the map's tensors, frozen.

    Returns transformers' LlamaForCausalLM in evaluation mode. Raises DocumentError where file and
    config are not of one model.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    tensors = map_tensors(weights)
    # Buffers are real: the rotary frequencies stand in no file, and would stay on meta.
    with init_empty_weights(include_buffers=False):
        model = LlamaForCausalLM._from_config(  # noqa: SLF001 - the one door that pins attention
            LlamaConfig(**config), attn_implementation="sdpa", dtype=dtype
        )
    wanted = {name: tuple(each.shape) for name, each in model.named_parameters()}
    if model.config.tie_word_embeddings:  # the head is the embedding, and stands in no file
        wanted.pop("lm_head.weight", None)
    found = {name: tuple(each.shape) for name, each in tensors.items()}
    if missing := sorted(set(wanted) - set(found)):
        raise DocumentError(f"weights: {missing[0]} is missing")
    if extra := sorted(set(found) - set(wanted)):
        raise DocumentError(f"weights: {extra[0][:128]!r} is no tensor of the config's model")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise DocumentError(f"weights: {name} is {found[name]}, the config makes it {shape}")
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict({name: each.to(dtype) for name, each in tensors.items()}, assign=True)
    model.tie_weights()
    model.requires_grad_(requires_grad=False)
    meta = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    assert not meta, meta
    return model.eval()
