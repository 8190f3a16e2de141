"""TDX quotes."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.evidence.tdx import TcbStatus, never_allowed, parse_tdx_quote


def seeds() -> list[bytes]:
    return material.reports("tdx")


def one(data: bytes) -> None:
    try:
        quote = parse_tdx_quote(data)
    except BlindhostError:
        return
    for status in TcbStatus:
        never_allowed(quote.body, status)
