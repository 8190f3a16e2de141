"""NVIDIA GPUs: the lies of tests/trust/verifier/gpu_lies.py, as files.

The policy allows SEV-SNP machines too, since none allows GPUs alone; nothing looks at one here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tests.trust.verifier import gpu_lies
from tests.trust.verifier.gpu_vendor import Case
from tests.vectors.evidence import snp_mint
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
from trust.verifier.policy import AppraisalPolicy

_BASE = "gpu-hopper"


def policy_of(case: Case) -> AppraisalPolicy:
    """The shipped demands of a Genoa, with the case's of GPUs."""
    of_cpu = snp_mint.policy()
    return dataclasses.replace(of_cpu, roots=(*of_cpu.roots, *case.roots()), gpu=case.demands)


def whole(case: Case) -> dict[str, Any]:
    """A whole input."""
    policy = policy_of(case)
    return {
        "version": 1,
        "now": case.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "evidence": {
            "platform": "gpu",
            "report": None,
            "gpu": b64(case.evidence().encode()),
            "statement": None,
            "launch": None,
        },
        "endorsements": endorsements_json(case.endorsements()),
        "roots": roots_json(policy.roots),
        "policy": document_json(policy),
        "expected": {"report_data": None, "launch": None, "gpu_nonce": b64(case.nonce)},
    }


BASES: Mapping[str, dict[str, Any]] = {
    _BASE: whole(gpu_lies.GOOD),
    "gpu-blackwell": whole(gpu_lies.BLACKWELL_CASE),
}


def _patch(case: Case) -> tuple[str, dict[str, Any]]:
    """The base that is nearer, and what makes the case of it."""
    made = whole(case)
    patches = {name: difference(base, made) for name, base in BASES.items()}
    base = min(patches, key=lambda name: (len(repr(patches[name])), name != _BASE))
    return base, patches[base]


def _scenarios() -> list[Scenario]:
    made = []
    for lie in gpu_lies.LIES:
        base, patch = _patch(lie.mutate(gpu_lies.GOOD))
        told = malformed if lie.malformed else refused
        scenario = told("gpu", lie.name, lie.tells, base, lie.check, **patch)
        made.append(dataclasses.replace(scenario, checks=(lie.check, *lie.also)))
    for control in gpu_lies.CONTROLS:
        base, patch = _patch(control.mutate(gpu_lies.GOOD))
        made.append(accepted("gpu", control.name, control.tells, base, **patch))
    return made


SCENARIOS: tuple[Scenario, ...] = (
    accepted("gpu", "good-hopper", "A Hopper alone, as it is.", _BASE),
    accepted("gpu", "good-blackwell", "A Blackwell alone, as it is.", "gpu-blackwell"),
    *_scenarios(),
)
