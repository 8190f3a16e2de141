"""`blindhost evidence verify`: hermetic, and its word is `verify_evidence`'s."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.evidence_verify import CHECK_NUMBERS, Exit, verify_json
from tests.vectors.evidence.format import input_of, stored

EXITS = {"accepted": Exit.ACCEPTED, "refused": Exit.REFUSED, "malformed": Exit.MALFORMED}
VECTORS = stored()


def said(value: Any) -> Any:
    return verify_json(json.dumps(value).encode())


def good(name: str) -> dict[str, Any]:
    vector = next(each for _, each in VECTORS if each["base"].startswith(name))
    return input_of({"base": vector["base"], "replace": {}})


@pytest.mark.parametrize("platform", ["snp", "tdx", "gpu", "composite"])
def test_every_golden_vector_is_answered_as_it_expects_with_numbered_checks(platform: str) -> None:
    own = [vector for where, vector in VECTORS if where == platform]
    assert own
    for vector in own:
        answer = said(input_of(vector))
        expected = vector["expect"]
        for line in answer.checks:
            known = line.id in CHECK_NUMBERS or line.id.startswith(("launch-", "facility"))
            assert known or line.id == "policy", (vector["name"], line.id)
        assert answer.exit is EXITS[expected["verdict"]], (vector["name"], answer.error)
        if answer.exit is Exit.REFUSED:
            failing = {line.id for line in answer.checks if not line.passed} - {"policy"}
            assert sorted(failing) == expected["checks"], vector["name"]


@pytest.mark.parametrize("name", ["snp", "tdx"])
def test_what_nobody_expects_is_not_demanded_and_what_is_expected_decides(name: str) -> None:
    value = good(name)
    assert said(value).exit is Exit.ACCEPTED
    value["expected"] = {**value["expected"], "report_data": None, "launch": None}
    answer = said(value)
    assert answer.exit is Exit.ACCEPTED
    verdicts = {line.id: line.verdict.value for line in answer.checks}
    prefix = "" if name == "snp" else "tdx-"
    assert verdicts[f"{prefix}report-data"] == "not demanded"
    assert verdicts["host-data" if name == "snp" else "tdx-mrconfigid"] == "not demanded"
    value["expected"]["report_data"] = base64.b64encode(bytes(64)).decode()
    answer = said(value)
    assert answer.exit is Exit.REFUSED
    assert [line.id for line in answer.checks if not line.passed] == [f"{prefix}report-data"]


def test_the_command_reads_standard_input_alone_and_ends_with_the_verdict() -> None:
    def run(data: bytes) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-c", "from client.cli import main; main()", "evidence", "verify"],
            input=data,
            capture_output=True,
            check=False,
            env={"HOME": "/nonexistent", "PATH": "/nonexistent"},
        )
        return done.returncode, json.loads(done.stdout)

    value = good("snp")
    code, answer = run(json.dumps(value).encode())
    assert (code, answer["verdict"], answer["error"]) == (0, "accepted", None)
    assert answer["claims"]["image"] == answer["claims"]["report"]["measurement"]
    assert {each["kind"] for each in answer["collateral"]} == {"vcek", "ask", "ark", "crl"}
    value["now"] = "2050-01-01T00:00:00Z"
    code, answer = run(json.dumps(value).encode())
    assert (code, answer["verdict"]) == (10, "refused")
    assert "validity" in {e["id"] for e in answer["checks"] if e["verdict"] == "refused"}
    assert answer["checks"][-1]["verdict"] == "not checked"
    code, answer = run(b"{}")
    assert (code, answer["verdict"]) == (30, "malformed")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"surprise": 1},
        {"now": "yesterday"},
        {"now": "2026-11-24T12:00:00"},
        {"now": "0001-01-01T00:00:00+23:59"},
        {"evidence": {"platform": "sev-snp"}},
        {"endorsements": [{"kind": "vcek", "content": "not base64"}]},
        {"endorsements": [{"kind": "vcek", "content": "é"}]},
        {"endorsements": [{"kind": "surprise", "content": "AAAA"}]},
        {"roots": []},
        {"roots": [{"kind": "real", "anchor": "Genoa", "fingerprint": "00" * 32}]},
        {"policy": {}},
        {"policy": None},
    ],
    ids=str,
)
def test_a_malformed_input_is_called_so_and_nothing_is_believed(change: dict[str, Any]) -> None:
    answer = said({**good("snp"), **change})
    assert answer.exit is Exit.MALFORMED
    assert answer.error
    assert answer.checks == ()


def test_a_policy_that_mixes_vendors_and_simulated_roots_is_malformed() -> None:
    value = good("snp")
    turin = "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
    value["roots"].append({"kind": "real", "anchor": "Turin", "fingerprint": turin})
    answer = said(value)
    assert answer.exit is Exit.MALFORMED
    assert answer.error is not None
    assert "never both" in answer.error


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_no_bytes_do_anything_but_be_malformed(data: bytes) -> None:
    assert verify_json(data).exit is Exit.MALFORMED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.sampled_from(["now", "evidence", "endorsements", "roots", "policy", "expected"]), JSON)
@settings(max_examples=200, deadline=None)
def test_no_value_in_any_field_makes_it_fail_otherwise(field: str, value: Any) -> None:
    assert said({**GOOD, field: value}).exit in {Exit.MALFORMED, Exit.REFUSED, Exit.ACCEPTED}


GOOD = good("snp")
