"""OCSP responses: the parser, and whether one is believed."""

from __future__ import annotations

import datetime as dt

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier.ocsp import parse_ocsp, response_fault

_NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def seeds() -> list[bytes]:
    return material.endorsements("gpu-ocsp")


def one(data: bytes) -> None:
    try:
        response = parse_ocsp(data)
        for each in response.certificates:
            response_fault(response, each, _NOW)
            response.is_about(each, each)
    except BlindhostError:
        return
