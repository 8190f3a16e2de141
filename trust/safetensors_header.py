"""A safetensors file's header, read strictly (safetensors 0.8, "Format").

No name stands twice, and the tensors cover the file from the header's end to its last byte without
holes, overlaps or a rest: two readers cannot see two models in one file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from trust.errors import DocumentError, EncodingError, SizeLimitError
from trust.json_rules import (
    integer,
    list_of,
    mapping_of,
    object_of,
    one_of,
    parse_strict_json,
    text,
)

HEADER_BYTES_MAX: Final = 100_000_000  # safetensors' own limit
TENSORS_MAX: Final = 1 << 16  # 256 layers of a dense model have under 4,000
DIMENSIONS_MAX: Final = 8
METADATA_CHARACTERS_MAX: Final = 1 << 20
DTYPE_BYTES: Final[Mapping[str, int]] = {"F32": 4, "BF16": 2, "F16": 2}

_TENSOR: Final = object_of(
    {
        "dtype": one_of(*DTYPE_BYTES),
        "shape": list_of(integer(0, 1 << 40), most=DIMENSIONS_MAX),
        "data_offsets": list_of(integer(0, 1 << 50), most=2, least=2),
    }
)
_METADATA: Final = mapping_of(text(METADATA_CHARACTERS_MAX), most=64)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpan:
    """Where one tensor stands in a safetensors file."""

    name: str
    dtype: str
    """A key of `DTYPE_BYTES`."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the file's beginning."""
    end: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SafetensorsHeader:
    """A safetensors file's table of contents."""

    tensors: tuple[TensorSpan, ...]
    """In the order of the file."""
    metadata: Mapping[str, str]


def parse_safetensors_header(head: bytes, total: int) -> SafetensorsHeader:
    """Parse the beginning of a safetensors file of `total` bytes: u64le length ‖ JSON header.

    `head` holds at least length field and header; what follows is not looked at. Every tensor is
    aligned to its own elements, so views need no copy.

    Raises EncodingError, DocumentError or SizeLimitError.
    """
    if len(head) < 8:
        raise EncodingError(f"safetensors: {len(head)} bytes hold no length field")
    length = int.from_bytes(head[:8], "little")
    if length > HEADER_BYTES_MAX:
        raise SizeLimitError(f"safetensors: a header of {length} bytes; at most {HEADER_BYTES_MAX}")
    if length > min(len(head), total) - 8:
        raise EncodingError(f"safetensors: a header of {length} bytes is cut off")
    base = 8 + length
    if base % 8:
        raise EncodingError(f"safetensors: data begins at byte {base}, wanted a multiple of 8")
    value = parse_strict_json("safetensors", head[8:base])
    if not isinstance(value, dict) or len(value) > TENSORS_MAX + 1:
        raise DocumentError(
            f"safetensors: the header is an object of at most {TENSORS_MAX} tensors"
        )
    metadata = value.pop("__metadata__", {})
    _METADATA("safetensors.__metadata__", metadata)
    spans = sorted(
        (_tensor_span(name, entry, base) for name, entry in value.items()),
        key=lambda span: (span.start, span.end),
    )
    position = base
    for span in spans:
        if span.start != position:
            fault = "overlaps what stands before it" if span.start < position else "leaves a hole"
            raise DocumentError(f"safetensors: {span.name!r} at {span.start} {fault}")
        position = span.end
    if position != total:
        raise DocumentError(f"safetensors: tensors end at byte {position}, the file at {total}")
    return SafetensorsHeader(tensors=tuple(spans), metadata=metadata)


def _tensor_span(name: str, entry: object, base: int) -> TensorSpan:
    where = f"safetensors: {name[:128]!r}"
    _TENSOR(where, entry)
    assert isinstance(entry, dict)
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    size = math.prod(shape) * DTYPE_BYTES[entry["dtype"]]
    if end - start != size:
        raise DocumentError(f"{where}: {end - start} bytes, its shape and dtype make {size}")
    if start % DTYPE_BYTES[entry["dtype"]]:
        raise DocumentError(f"{where}: byte {start} is not aligned to {entry['dtype']}")
    return TensorSpan(
        name=name, dtype=entry["dtype"], shape=tuple(shape), start=base + start, end=base + end
    )
