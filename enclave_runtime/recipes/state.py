"""Checkpoint and adapter as bytes: one safetensors file each, the same bytes each time.

- A checkpoint holds, for each trainable tensor, itself and both moments of AdamW, all fp32. Its
  metadata: job, generation, compute class, step. All else is computed from (manifest, step).
- An adapter holds what PEFT and vLLM load: ``base_model.model.….lora_A.weight``; its metadata
  carries ``adapter_config.json``. Lists in it are sorted: peft's own order changes from run to run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

from trust.encoding import labelled_digest
from trust.errors import DocumentError
from trust.safetensors_header import parse_safetensors_header

if TYPE_CHECKING:
    from peft import LoraConfig

MEAN, SQUARE = ".exp_avg", ".exp_avg_sq"
CONFIG_KEY: Final = "adapter_config.json"
_NAMES: Final = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_DTYPES: Final = {name: dtype for dtype, name in _NAMES.items()}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Which run a checkpoint is of; all of it stands in the metadata."""

    job: bytes
    generation: int
    compute_class: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A run after `step`. Every mapping is by the adapter's names."""

    origin: Origin
    step: int
    parameters: Mapping[str, torch.Tensor]
    means: Mapping[str, torch.Tensor]
    squares: Mapping[str, torch.Tensor]


# --- safetensors ---------------------------------------------------------------------------------


def write_safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Encode, with names and metadata sorted, and the header padded to 8 bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, position = [], 0
    for name, tensor in sorted(tensors.items()):
        part = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(part)],
        }
        parts.append(part)
        position += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_safetensors(content: bytes) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    """Parse completely; the tensors are copies. Raises EncodingErrors."""
    header = parse_safetensors_header(content, len(content))
    tensors = {}
    for span in header.tensors:
        flat = torch.frombuffer(bytearray(content[span.start : span.end]), dtype=torch.uint8)
        tensors[span.name] = flat.view(_DTYPES[span.dtype]).view(span.shape)
    return tensors, header.metadata


def tensors_digest(content: bytes) -> bytes:
    """SHA-256 over every tensor of a safetensors file, by name; metadata is left out."""
    header = parse_safetensors_header(content, len(content))
    parts = []
    for span in sorted(header.tensors, key=lambda each: each.name):
        shape = ",".join(str(each) for each in span.shape)
        parts += [span.name.encode(), f"{span.dtype}[{shape}]".encode()]
        parts.append(content[span.start : span.end])
    return labelled_digest("adapter-tensors", *parts)


# --- checkpoint ----------------------------------------------------------------------------------


def write_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Encode a checkpoint."""
    tensors = dict(checkpoint.parameters)
    tensors |= {name + MEAN: each for name, each in checkpoint.means.items()}
    tensors |= {name + SQUARE: each for name, each in checkpoint.squares.items()}
    metadata = {
        "compute_class": checkpoint.origin.compute_class,
        "generation": str(checkpoint.origin.generation),
        "job": checkpoint.origin.job.hex(),
        "step": str(checkpoint.step),
    }
    return write_safetensors(tensors, metadata)


def read_checkpoint(content: bytes, *, shapes: Mapping[str, torch.Size]) -> Checkpoint:
    """Parse a checkpoint of an adapter with these tensors. Raises EncodingErrors."""
    tensors, metadata = read_safetensors(content)
    origin, step = read_origin(metadata)
    wanted = {name + end: shapes[name] for name in shapes for end in ("", MEAN, SQUARE)}
    if set(tensors) != set(wanted):
        odd = min(set(tensors) ^ set(wanted))
        raise DocumentError(f"checkpoint: {odd!r} is missing, or not of this job's adapter")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name] or tensor.dtype is not torch.float32:
            raise DocumentError(f"checkpoint: {name} is not fp32 {tuple(wanted[name])}")
    return Checkpoint(
        origin=origin,
        step=step,
        parameters={name: tensors[name] for name in shapes},
        means={name: tensors[name + MEAN] for name in shapes},
        squares={name: tensors[name + SQUARE] for name in shapes},
    )


def read_origin(metadata: Mapping[str, str]) -> tuple[Origin, int]:
    """Origin and step from a checkpoint's metadata."""
    if set(metadata) != {"compute_class", "generation", "job", "step"}:
        raise DocumentError(f"checkpoint: metadata is {', '.join(sorted(metadata))[:100]}")
    try:
        origin = Origin(
            job=bytes.fromhex(metadata["job"]),
            generation=int(metadata["generation"]),
            compute_class=metadata["compute_class"],
        )
        return origin, int(metadata["step"])
    except ValueError as error:
        raise DocumentError("checkpoint: job, generation or step is no number") from error


# --- adapter -------------------------------------------------------------------------------------


def adapter_name(parameter: str) -> str:
    """PEFT's name on disk of a parameter of its model: without the adapter's own name."""
    return parameter.replace(".default.", ".")


def write_adapter(
    tensors: Mapping[str, torch.Tensor], config: LoraConfig, *, base_model: str
) -> bytes:
    """Encode an adapter of the base whose artifact id is `base_model`."""
    fields = config.to_dict()
    fields.update(base_model_name_or_path=base_model, inference_mode=True)
    for name, value in fields.items():
        if isinstance(value, set | frozenset):
            fields[name] = sorted(value)
    text = json.dumps(fields, indent=2, sort_keys=True)
    return write_safetensors(tensors, {CONFIG_KEY: text, "format": "pt"})
