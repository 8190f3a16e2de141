"""Appraisal policies."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.verifier.policy import AppraisalPolicy


def seeds() -> list[bytes]:
    return material.policies()


def one(data: bytes) -> None:
    try:
        policy = AppraisalPolicy.parse(data)
    except BlindhostError:
        return
    assert policy.encode() == data
    assert len({root.kind for root in policy.roots}) == 1
