"""Seeds for the targets: what stands in the golden vectors."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from tests.vectors.evidence.format import BASES, input_of, stored
from trust.encoding import LABEL_PREFIX, canonical_json

_HEAD = 4  # bytes: kind and length of one part


@functools.cache
def inputs(platform: str | None = None) -> tuple[dict[str, Any], ...]:
    """All inputs of a platform's vectors, bases among them."""
    made = [input_of(vector) for name, vector in stored() if platform in {None, name}]
    bases = [
        input_of({"base": path.stem, "replace": {}})
        for path in sorted(BASES.glob("*.json"))
        if platform is None or path.stem.startswith(platform)
    ]
    return (*bases, *made)


def reports(platform: str) -> list[bytes]:
    """Reports and quotes."""
    return [base64.b64decode(each["evidence"]["report"]) for each in inputs(platform)]


def gpus() -> list[bytes]:
    """Bytes of GpuEvidence."""
    found = (each["evidence"]["gpu"] for each in inputs())
    return [base64.b64decode(gpu) for gpu in found if gpu is not None]


def endorsements(*kinds: str) -> list[bytes]:
    """Contents of these kinds, over all platforms."""
    return [
        base64.b64decode(each["content"])
        for given in inputs()
        for each in given["endorsements"]
        if each["kind"] in kinds
    ]


def endorsements_of(base: str, kind: str) -> list[bytes]:
    """Contents of this kind in one base."""
    given = input_of({"base": base, "replace": {}})
    return [base64.b64decode(e["content"]) for e in given["endorsements"] if e["kind"] == kind]


def sets_of(platform: str) -> list[tuple[tuple[str, bytes], ...]]:
    """Whole sets of endorsements."""
    return [
        tuple((each["kind"], base64.b64decode(each["content"])) for each in given["endorsements"])
        for given in inputs(platform)
    ]


def policies() -> list[bytes]:
    """Policies, in their own encoding."""
    label = f"{LABEL_PREFIX}appraisal-policy".encode() + b"\x00"
    return [label + canonical_json(each["policy"]) for each in inputs()]


# --- several parts in one input ------------------------------------------------------------------


def joined(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """(number, content) pairs, one after another, as a fuzzer can tear them apart."""
    return b"".join(
        bytes((number,)) + len(content).to_bytes(_HEAD - 1, "big") + content
        for number, content in parts
    )


def parted(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What `joined` wrote; of anything else, as much as there is."""
    offset = 0
    while offset + _HEAD <= len(data):
        length = int.from_bytes(data[offset + 1 : offset + _HEAD], "big")
        yield data[offset], data[offset + _HEAD : offset + _HEAD + length]
        offset += _HEAD + length
