"""Cut a check out, and the lies that it alone refuses are believed: what a line is there for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.evidence_verify import verify_json
from tests.vectors.evidence.format import input_of, stored
from trust.verifier import snp, snp_appraisal
from trust.verifier.results import CheckLine, Verdict

LIES: dict[str, list[dict[str, Any]]] = {}
for _platform, _vector in stored():
    if _platform == "snp" and _vector["expect"]["verdict"] == "refused":
        LIES.setdefault(",".join(_vector["expect"]["checks"]), []).append(_vector)

CHIPS = [check for check in snp.CHECK_NUMBERS if check != "report-format"]
POLICYS = sorted(check for check in LIES if check in snp_appraisal.CHECK_NUMBERS)


def believed(check: str) -> list[str]:
    """Names of the lies that only `check` refuses, and that are accepted now."""
    return [vector["name"] for vector in LIES[check] if is_believed(vector)]


def is_believed(vector: dict[str, Any]) -> bool:
    try:
        answer = verify_json(json.dumps(input_of(vector)).encode())
    except AssertionError:
        return False  # no root, no list: verify_snp states its own post-conditions besides
    return answer.to_json()["verdict"] == "accepted"


@pytest.mark.parametrize("check", CHIPS)
def test_without_a_check_of_the_chip_its_lies_are_believed(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert believed(check) == []
    name = f"_check_{check.removeprefix('report-').replace('-', '_')}"
    kept = tuple(each for each in snp._CHECKS if each.__name__ != name)
    assert len(kept) == len(snp._CHECKS) - 1
    monkeypatch.setattr(snp, "_CHECKS", kept)
    assert believed(check)


@pytest.mark.parametrize("check", POLICYS)
def test_without_a_line_of_the_policy_its_lies_are_believed(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(each: str, found: object, wanted: object, *, good: bool) -> CheckLine:
        verdict = Verdict.ACCEPTED if good or each == check else Verdict.REFUSED
        return CheckLine(id=each, found=str(found), wanted=str(wanted), verdict=verdict)

    assert believed(check) == []
    monkeypatch.setattr(snp_appraisal, "line", cut)
    assert believed(check) == [vector["name"] for vector in LIES[check]]
