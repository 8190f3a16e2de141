"""`blindhost evidence show`: bytes tell the kind, every field has a line, nothing is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.cli import app
from client.evidence_show import UNBELIEVED, explain_file
from client.evidence_verify import parse_request
from tests.vectors.evidence.format import BASES
from trust.errors import EvidenceFormatError
from trust.messages import GpuEvidence


def base(name: str):
    return parse_request((BASES / f"{name}.json").read_bytes())


def endorsement(name: str, kind: str) -> bytes:
    return next(content for each, content in base(name).evidence.endorsements if each == kind)


def test_a_report_is_shown_field_by_field_and_its_tcb_in_the_products_own_layout() -> None:
    shown = explain_file(base("snp-turin").evidence.report)
    assert shown.kind == "SEV-SNP report"
    assert shown.title[1] == UNBELIEVED
    fields = dict(shown.lines())
    assert fields["product by CPUID"] == "Turin"
    assert fields["reported_tcb"].startswith("fmc 0, boot loader 1")
    assert fields["policy.debug"] == "False"
    assert "raw" not in fields


@pytest.mark.parametrize(
    ("data", "kind", "field"),
    [
        (lambda: base("tdx-v5").evidence.report, "TDX quote", "body.mr_td"),
        (
            lambda: GpuEvidence.parse(base("gpu-hopper").evidence.gpu).devices[0].report,
            "NVIDIA GPU report",
            "measurements.1",
        ),
        (lambda: base("gpu-hopper").evidence.gpu, "document gpu-evidence", "[0].report.nonce"),
        (base("composite-genoa").statement.encode, "document statement", "nonce"),
        (lambda: base("composite-genoa").launch, "document launch", "lease"),
        (lambda: endorsement("snp-genoa", "vcek"), "certificate", "SHA-256"),
        (lambda: endorsement("snp-genoa", "crl"), "revocation list", "next update"),
        (lambda: endorsement("gpu-hopper", "gpu-rim"), "NVIDIA reference manifest", "version"),
    ],
)
def test_each_kind_is_told_by_its_bytes(data, kind: str, field: str) -> None:
    shown = explain_file(data())
    assert shown.kind == kind
    assert field in dict(shown.lines())


def test_the_command_prints_lines_or_json_and_refuses_what_is_no_evidence(tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.write_bytes(base("snp-genoa").evidence.report)
    plain = CliRunner().invoke(app, ["evidence", "show", str(file)])
    assert plain.exit_code == 0
    assert plain.stdout.splitlines()[0].split("  ")[0] == "SEV-SNP report"
    as_json = CliRunner().invoke(app, ["evidence", "show", str(file), "--json"])
    assert json.loads(as_json.stdout)["value"]["version"] == 5
    file.write_bytes(b"something else")
    assert CliRunner().invoke(app, ["evidence", "show", str(file)]).exit_code != 0
    assert CliRunner().invoke(app, ["evidence", "show", str(tmp_path / "none")]).exit_code != 0


@given(st.binary(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_what_is_of_no_kind_is_an_error_that_names_what_was_tried(data: bytes) -> None:
    with pytest.raises(EvidenceFormatError, match="no evidence of a kind that is known"):
        explain_file(data)
