"""The whole input of `blindhost evidence verify`: an answer to anything, and the same one twice."""

from __future__ import annotations

import json

from client.evidence_verify import Exit, verify_json
from tests.fuzz import material
from trust.errors import BlindhostError


def seeds() -> list[bytes]:
    bases = material.inputs("snp")[:5]  # one execution takes 20 ms: few, and short ones
    return [json.dumps(given, separators=(",", ":")).encode() for given in bases]


def one(data: bytes) -> None:
    try:
        answer = verify_json(data)
    except BlindhostError as error:
        raise AssertionError("an input is answered, and raises nothing") from error
    shown = answer.to_json()
    json.dumps(shown)
    passed = all(line.passed for line in answer.checks)
    assert (answer.exit is Exit.ACCEPTED) <= (passed and bool(answer.checks))
