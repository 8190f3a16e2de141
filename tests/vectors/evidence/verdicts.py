"""What our own verifier says to an input: the pure function of `blindhost evidence verify`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from client.evidence_verify import parse_request, verify_json
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import CheckLine

NOT_REACHED = "policy"
"""The line that says that the policy was not looked at: no check, and no ground of its own."""


def judged(given: Mapping[str, Any]) -> tuple[str, tuple[CheckLine, ...]]:
    """The verdict, and the lines of the stage that it got to."""
    answer = verify_json(json.dumps(given).encode())
    verdict = cast("str", answer.to_json()["verdict"])
    return verdict, tuple(line for line in answer.checks if line.id != NOT_REACHED)


def policy_of(given: Mapping[str, Any]) -> AppraisalPolicy:
    """The input's policy, under the input's roots."""
    return parse_request(json.dumps(given).encode()).policy
