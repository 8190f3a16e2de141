"""Reference manifests in signed XML."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier.rims import parse_rim


def seeds() -> list[bytes]:
    return material.endorsements("gpu-rim")


def one(data: bytes) -> None:
    try:
        parse_rim(data).signature_fault()
    except BlindhostError:
        return
