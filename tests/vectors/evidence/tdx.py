"""TDX: the lies of tests/trust/verifier/tdx_lies.py, as files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.trust.verifier import tdx_lies
from tests.trust.verifier.tdx_vendor import Case, good
from tests.vectors.evidence.format import (
    Scenario,
    accepted,
    b64,
    difference,
    document_json,
    endorsements_json,
    malformed,
    refused,
    roots_json,
)
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.roots import Anchor

_BASE = "tdx-v5"


def _policy(case: Case) -> AppraisalPolicy:
    return dataclasses.replace(
        simulated_policy(bytes(32), [bytes(48)]),
        roots=case.pinned(),
        snp=None,
        measurements=(),
        tdx=case.demands,
        tdx_images=case.images,
    )


def _whole(case: Case) -> dict[str, Any]:
    policy = _policy(case)
    return {
        "version": 1,
        "now": case.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "evidence": {
            "platform": "tdx",
            "report": b64(case.quote()),
            "gpu": None,
            "statement": None,
            "launch": None,
        },
        "endorsements": endorsements_json(case.endorsements()),
        "roots": roots_json(policy.roots),
        "policy": document_json(policy),
        "expected": {
            "report_data": b64(case.report_data),
            "launch": b64(case.launch),
            "gpu_nonce": None,
        },
    }


BASES: Mapping[str, dict[str, Any]] = {
    _BASE: _whole(good()),
    "tdx-v4": _whole(good(version=4)),
}


def _expressible(case: Case) -> bool:
    """A file has no event log, and its policy loads: the roots that it pins are those it stands on.

    The lies that this leaves out are made in test_tdx_lies.py alone.
    """
    anchors = {root.anchor for root in case.pinned()}
    return case.event_log is None and anchors == {Anchor.INTEL_SGX}


def _scenarios() -> list[Scenario]:
    made = []
    for lie in tdx_lies.LIES:
        case = lie.mutate(good())
        if not _expressible(case):
            continue
        tells = lie.name.replace("-", " ")
        told = malformed if lie.check == tdx_lies.FORMAT else refused
        patch = difference(BASES[_BASE], _whole(case))
        made.append(
            told("tdx", lie.name, f"{tells[0].upper()}{tells[1:]}.", _BASE, lie.check, **patch)
        )
    return made


SCENARIOS: tuple[Scenario, ...] = (
    accepted("tdx", "good-v5", "A quote of version 5, of TDX 1.5, as it is.", "tdx-v5"),
    accepted("tdx", "good-v4", "A quote of version 4, of TDX 1.0, as it is.", "tdx-v4"),
    *_scenarios(),
)
