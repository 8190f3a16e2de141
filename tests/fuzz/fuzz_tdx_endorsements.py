"""Sets of TDX endorsements: Intel's JSON, chains in PEM, lists, the machine's certificate."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier.intel_collateral import KINDS, parse_tdx_endorsements


def seeds() -> list[bytes]:
    return [
        material.joined((KINDS.index(kind), content) for kind, content in each if kind in KINDS)
        for each in material.sets_of("tdx")
    ]


def one(data: bytes) -> None:
    pairs = [(KINDS[number % len(KINDS)], content) for number, content in material.parted(data)]
    try:
        parse_tdx_endorsements(pairs)
    except BlindhostError:
        return
