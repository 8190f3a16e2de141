"""Revocation lists."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier.certificates import parse_revocation_list


def seeds() -> list[bytes]:
    return material.endorsements("crl", "tdx-pck-crl", "tdx-root-crl")


def one(data: bytes) -> None:
    try:
        revocations = parse_revocation_list(data)
    except BlindhostError:
        return
    assert all(serial >= 0 for serial in revocations.serials)
