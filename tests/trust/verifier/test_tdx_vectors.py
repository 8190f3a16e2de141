"""Real TDX evidence, and what it must come to: ../shared/vectors/index.json says."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trust.encoding import digest
from trust.errors import EvidenceFormatError
from trust.evidence.tdx import TcbStatus, TdxQuote, parse_tdx_quote
from trust.verifier.intel_collateral import (
    PCK_CRL,
    PCK_CRL_CHAIN,
    QE_IDENTITY,
    QE_IDENTITY_CHAIN,
    ROOT_CRL,
    TCB_INFO,
    TCB_INFO_CHAIN,
    TdxEndorsements,
    parse_tdx_endorsements,
)
from trust.verifier.results import CheckLine
from trust.verifier.roots import Anchor, PinnedRoot, RootKind, vendor_root
from trust.verifier.tdx import check_tdx, verify_tdx
from trust.verifier.tdx_appraisal import appraise_tdx_registers
from trust.verifier.tdx_policy import StatusAllowance, TdxDemands, TdxImage, tdx_demands

VECTORS = Path(__file__).parents[3].parent / "shared" / "vectors"
HERE = VECTORS.is_dir()

pytestmark = [
    pytest.mark.vectors,
    pytest.mark.skipif(not HERE, reason="../shared/vectors is not here"),
]

INTEL = (vendor_root(Anchor.INTEL_SGX),)
Pair = tuple[dict[str, Any], dict[str, Any]]


def load_index() -> list[dict[str, Any]]:
    if not HERE:
        return []
    entries = json.loads((VECTORS / "index.json").read_bytes())
    return [entry for entry in entries if entry["platform"] == "tdx"]


INDEX = load_index()
PAIRS: list[Pair] = [
    (entry, collateral)
    for entry in INDEX
    if entry["name"] != "sgx_v3_not_tdx"
    for collateral in entry["expected"]["collaterals"]
]
REAL = [pair for pair in PAIRS if not pair[0]["synthetic"]]
SYNTHETIC = [pair for pair in PAIRS if pair[0]["synthetic"]]


def name_of(pair: Pair) -> str:
    return f"{pair[0]['name']}-{pair[1]['collateral'].removesuffix('.json')}"


def content(entry: dict[str, Any], name: str) -> bytes:
    described = entry["files"][name]
    data = (VECTORS / described["path"]).read_bytes()
    assert digest(data).hex() == described["sha256"]
    return data


def served(name: str, body: str, signature: str) -> bytes:
    return f'{{"{name}":{body},"signature":"{signature}"}}'.encode()


def parsed(pair: Pair) -> tuple[TdxQuote, TdxEndorsements]:
    entry, collateral = pair
    data = json.loads(content(entry, collateral["collateral"].removesuffix(".json")))
    identity = data["qe_identity"], data["qe_identity_signature"]
    endorsements = {
        TCB_INFO: served("tcbInfo", data["tcb_info"], data["tcb_info_signature"]),
        TCB_INFO_CHAIN: data["tcb_info_issuer_chain"].encode(),
        QE_IDENTITY: served("enclaveIdentity", *identity),
        QE_IDENTITY_CHAIN: data["qe_identity_issuer_chain"].encode(),
        PCK_CRL: bytes.fromhex(data["pck_crl"]),
        PCK_CRL_CHAIN: data["pck_crl_issuer_chain"].encode(),
        ROOT_CRL: bytes.fromhex(data["root_ca_crl"]),
    }
    return (
        parse_tdx_quote(content(entry, "quote")),
        parse_tdx_endorsements(list(endorsements.items())),
    )


def valid_at(pair: Pair) -> dt.datetime:
    return dt.datetime.fromtimestamp(pair[1]["valid_at_unix"], dt.UTC)


def fake_root(entry: dict[str, Any]) -> tuple[PinnedRoot, ...]:
    text = re.sub(rb"-----[A-Z ]+-----|\s", b"", content(entry, "fake_root"))
    return (
        PinnedRoot(
            kind=RootKind.SIMULATED,
            anchor=Anchor.INTEL_SGX,
            fingerprint=digest(base64.b64decode(text)),
        ),
    )


def verifying(pair: Pair, roots: tuple[PinnedRoot, ...] = INTEL) -> set[str]:
    lines = check_tdx(*parsed(pair), roots, valid_at(pair))
    return {line.id for line in lines if not line.passed}


def appraising(
    pair: Pair, roots: tuple[PinnedRoot, ...] = INTEL, **changes: Any
) -> tuple[CheckLine, ...]:
    """The lines of a policy that takes this very image, and collateral of any number and age."""
    quote, endorsements = parsed(pair)
    verified = verify_tdx(quote, endorsements, roots, valid_at(pair))
    body = quote.body
    demands: TdxDemands = dataclasses.replace(
        tdx_demands(),
        **{"number_least": 0, "collateral_age_seconds_max": 366 * 86400, "rtmr3": body.rtmr[3]}
        | changes,
    )
    return appraise_tdx_registers(
        verified.claims,
        demands,
        [TdxImage(mr_td=body.mr_td, rtmr0=body.rtmr[0], rtmr1=body.rtmr[1], rtmr2=body.rtmr[2])],
        expected_report_data=body.report_data,
        expected_config_id=body.mr_config_id,
        now=valid_at(pair),
    )


def refused(lines: tuple[CheckLine, ...]) -> set[str]:
    return {line.id for line in lines if not line.passed}


def expected_refusals(pair: Pair) -> set[str]:
    """Which of a lenient policy's checks refuse, from the index's own words."""
    expected, independent = pair[0]["expected"], pair[1]["independent"]
    bits, found = expected["td_attributes"], set()
    if independent["platform_tcb_status_intel_module_aware"] != "UpToDate":
        found.add("tdx-tcb-status")
    if bits["debug"]:
        found.add("tdx-debug")
    if not bits["sept_ve_disable"]:
        found.add("tdx-sept-ve-disable")
    if bits["perfmon"]:
        found.add("tdx-perfmon")
    if any(bytes.fromhex(expected["td"].get("mrservicetd", ""))):
        found.add("tdx-service-td")
    return found


def test_all_fifteen_are_here() -> None:
    assert len(INDEX) == 15
    assert {entry["name"] for entry, _ in PAIRS} | {"sgx_v3_not_tdx"} == {
        entry["name"] for entry in INDEX
    }


def test_an_sgx_quote_is_no_tdx_quote() -> None:
    (entry,) = [each for each in INDEX if each["name"] == "sgx_v3_not_tdx"]
    with pytest.raises(EvidenceFormatError, match="version 3"):
        parse_tdx_quote(content(entry, "quote"))


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_what_a_quote_says_is_what_the_index_says(pair: Pair) -> None:
    expected, body = pair[0]["expected"], parsed(pair)[0].body
    said = expected["td"]
    for index, register in enumerate(body.rtmr):
        assert register.hex() == said[f"rtmr{index}"]
    for ours, theirs in (
        (body.tee_tcb_svn, "tee_tcb_svn"),
        (body.mr_seam, "mrseam"),
        (body.mr_signer_seam, "mrsignerseam"),
        (body.seam_attributes, "seamattributes"),
        (body.xfam.to_bytes(8, "little"), "xfam"),
        (body.mr_td, "mrtd"),
        (body.mr_config_id, "mrconfigid"),
        (body.mr_owner, "mrowner"),
        (body.mr_owner_config, "mrownerconfig"),
        (body.report_data, "report_data"),
    ):
        assert ours.hex() == said[theirs]
    assert (body.mr_service_td or b"").hex() == said.get("mrservicetd", "")
    assert (body.tee_tcb_svn_2 or b"").hex() == said.get("tee_tcb_svn2", "")
    bits = {
        **dataclasses.asdict(body.attributes),
        "kl": body.attributes.key_locker,
    }
    assert {name: bits[name] for name in expected["td_attributes"]} == expected["td_attributes"]
    assert parsed(pair)[0].trailing_zeros == expected.get("trailing_bytes", 0)


@pytest.mark.parametrize("pair", REAL, ids=name_of)
def test_real_evidence_is_verified_as_the_index_says(pair: Pair) -> None:
    level = pair[1]["independent"]["platform_tcb_status_intel_module_aware"]
    if level is None:
        assert verifying(pair) == {"tdx-tcb-level"}
        return
    assert verifying(pair) == set()
    claims = verify_tdx(*parsed(pair), INTEL, valid_at(pair)).claims
    module = pair[1]["independent"]["tdx_module_status"]
    assert claims.tcb.platform is TcbStatus(level)
    assert claims.tcb.module is (None if module is None else TcbStatus(module))
    assert claims.tcb.tcb_info_number == pair[1]["tcb_evaluation_data_number"]
    assert claims.tcb.qe_identity_number == pair[1]["qe_identity_evaluation_data_number"]
    assert claims.pck.fmspc.hex().upper() == pair[0]["expected"]["fmspc"]
    assert list(claims.pck.components) == pair[0]["expected"]["pck_cpusvn"]
    assert claims.pck.pce_svn == pair[0]["expected"]["pck_pcesvn"]
    said = pair[1]["dcap_qvl"]
    if said["ok"]:
        assert claims.tcb.status.value == said["status"]
        assert set(claims.tcb.advisories) == set(said["advisory_ids"])


@pytest.mark.parametrize("pair", REAL, ids=name_of)
def test_real_evidence_is_appraised_as_the_index_says(pair: Pair) -> None:
    if verifying(pair):
        return
    assert refused(appraising(pair)) == expected_refusals(pair)


@pytest.mark.parametrize("pair", REAL, ids=name_of)
def test_evidence_is_refused_before_and_after_the_window_of_its_collateral(pair: Pair) -> None:
    windows = {
        "tdx-tcb-window",
        "tdx-qe-window",
        "tdx-pck-crl",
        "tdx-root-crl",
        "tdx-validity",
    }
    start, end = (
        dt.datetime.fromisoformat(pair[1][name]) for name in ("valid_from", "valid_until")
    )
    for now in (start - dt.timedelta(seconds=1), end + dt.timedelta(seconds=1)):
        lines = check_tdx(*parsed(pair), INTEL, now)
        assert {line.id for line in lines if not line.passed} & windows
    inside = {line.id for line in check_tdx(*parsed(pair), INTEL, start) if not line.passed}
    assert not inside & windows


@pytest.mark.parametrize("pair", SYNTHETIC, ids=name_of)
def test_a_fake_root_is_refused_by_its_fingerprint(pair: Pair) -> None:
    assert "tdx-pck-chain" in verifying(pair)


@pytest.mark.parametrize("pair", SYNTHETIC, ids=name_of)
def test_a_lie_is_refused_by_its_own_check_even_under_its_own_root(pair: Pair) -> None:
    wanted = {
        "synthetic_fake_intel_root_v5": set(),
        "synthetic_tdx_tcbinfo_signed_by_pck": {"tdx-tcb-signer"},
        "synthetic_tdx_pceid_mismatch": {"tdx-pceid"},
    }[pair[0]["name"]]
    assert verifying(pair, fake_root(pair[0])) == wanted
    accepts = pair[0]["expected"]["with_test_root"]["verdict"] == "accept"
    assert accepts == (wanted == set())
    if accepts:
        assert refused(appraising(pair, fake_root(pair[0]))) == set()


def test_collateral_of_an_older_evaluation_does_not_hide_that_firmware_is_old() -> None:
    older, newer = (p for p in REAL if p[0]["name"] == "tdx_v4_tcb_recovery_pair")
    assert refused(appraising(older)) == set()
    assert refused(appraising(older, number_least=18)) == {"tdx-tcb-number", "tdx-qe-number"}
    assert refused(appraising(newer)) == {"tdx-tcb-status"}


def test_no_advisory_is_no_pass() -> None:
    (pair, _) = (p for p in REAL if p[0]["name"] == "tdx_v4_outofdate_00A06D")
    assert refused(appraising(pair)) == {"tdx-tcb-status"}
    until = int(valid_at(pair).timestamp() * 1000) + 1
    named = StatusAllowance(status=TcbStatus.OUT_OF_DATE, advisories=(), until=until)
    assert refused(appraising(pair, statuses=(named,))) == set()
    ended = dataclasses.replace(named, until=until - 1)
    assert refused(appraising(pair, statuses=(ended,))) == {"tdx-tcb-status"}
