"""The DER reader: every value read in every way."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier import der

_DEPTH_MAX = 8
_READERS = (der.integer, der.boolean, der.bit_string, der.text, der.time)


def seeds() -> list[bytes]:
    return material.endorsements("vcek", "ask", "crl", "vlek", "tdx-pck-crl", "gpu-ocsp")


def one(data: bytes) -> None:
    _descend(data, 0)


def _descend(data: bytes, depth: int) -> None:
    try:
        elements = der.read_elements(data)
    except BlindhostError:
        return
    assert b"".join(each.encoded for each in elements) == data
    for each in elements:
        for read in _READERS:
            try:
                read(each)
            except BlindhostError:
                continue
        if depth < _DEPTH_MAX:
            _descend(each.content, depth + 1)
