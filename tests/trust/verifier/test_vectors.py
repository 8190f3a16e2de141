"""Real SEV-SNP evidence, and what it must come to: ../shared/vectors/index.json says.

AMD's revocation lists in the vectors cover 2024-10 to 2025-11 (Genoa) and 2025-05 to 2026-05
(Milan), and there is none for Turin. Evidence is first looked at when it was made, where all checks
but revocation must say what the index says; then, where a list exists, at a time in both windows.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trust.verifier.vendor import changed, cpu_production, pin, verify_cpu
from trust.encoding import digest
from trust.errors import EvidenceFormatError, EvidenceSignatureError
from trust.evidence.claims import Product, SigningKey, SnpClaims, Tcb
from trust.evidence.snp import SnpReport, parse_snp_report, parse_tcb
from trust.verifier.certificates import parse_certificate, parse_revocation_list
from trust.verifier.endorsements import SnpEndorsements, parse_snp_endorsements
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import CheckLine
from trust.verifier.roots import PinnedRoot, RootKind, amd_root
from trust.verifier.snp import check_snp, claims_of
from trust.verifier.snp_appraisal import appraise_snp
from trust.verifier.snp_policy import ProductFloor

VECTORS = Path(__file__).parents[3].parent / "shared" / "vectors"
HERE = VECTORS.is_dir()
REASON = "../shared/vectors is not here"

pytestmark = [pytest.mark.vectors, pytest.mark.skipif(not HERE, reason=REASON)]

ROOTS = tuple(amd_root(product) for product in Product)


def load_index() -> list[dict[str, Any]]:
    if not HERE:
        return []
    entries = json.loads((VECTORS / "index.json").read_bytes())
    return [entry for entry in entries if entry["platform"] == "sev_snp"]


INDEX = load_index()
REPORTS = {entry["name"]: entry for entry in INDEX if "report" in entry["files"]}
LISTS = {entry["name"]: entry for entry in INDEX if "crl" in entry["files"]}


def content(entry: dict[str, Any], name: str) -> bytes:
    described = entry["files"][name]
    data = (VECTORS / described["path"]).read_bytes()
    assert digest(data).hex() == described["sha256"]
    return data


def certificates(data: bytes) -> list[bytes]:
    pattern = rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----"
    return [base64.b64decode(each) for each in re.findall(pattern, data, re.DOTALL)]


def product_of(entry: dict[str, Any]) -> Product:
    return Product(entry["product"].split()[0])


@functools.cache
def list_of(product: Product) -> bytes | None:
    entry = LISTS.get(f"amd_crl_{product.value.lower()}")
    return None if entry is None else content(entry, "crl")


def endorsements_of(entry: dict[str, Any]) -> list[tuple[str, bytes]]:
    leaf, issuer = ("vlek", "asvk") if "VLEK" in entry["product"] else ("vcek", "ask")
    chain = certificates(content(entry, "chain"))
    made = [(leaf, content(entry, "ek_cert")), (issuer, chain[0]), ("ark", chain[1])]
    revocations = list_of(product_of(entry))
    return made if revocations is None else [*made, ("crl", revocations)]


def parsed(entry: dict[str, Any]) -> tuple[SnpReport, SnpEndorsements]:
    return (
        parse_snp_report(content(entry, "report")),
        parse_snp_endorsements(endorsements_of(entry)),
    )


def valid_at(entry: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(entry["expected"]["valid_at"]).replace(tzinfo=dt.UTC)


def fake_root_of(entry: dict[str, Any]) -> PinnedRoot:
    """The fake root that a synthetic vector brings along, pinned as simulated."""
    ark = certificates(content(entry, "chain"))[1]
    return pin(ark, product_of(entry))


def expected_failures(entry: dict[str, Any], *, root_is_trusted: bool) -> set[str]:
    """Which of the nine checks refuse, from the index's own words."""
    expected, now = entry["expected"], valid_at(entry)
    failures = set()
    if not expected["signature_ok"]:
        failures.add("report-signature")
    if not (expected["chain_ok"] or root_is_trusted):
        failures.add("chain")
    if expected["hwid_matches_chip_id"] is False:
        failures.add("chip-id")
    if expected["cert_tcb_matches_reported_tcb"] is False:
        failures.add("certificate-tcb")
    if expected["signing_key"] == "NONE":
        failures.add("signing-key")
    data = list_of(product_of(entry))
    revocations = None if data is None else parse_revocation_list(data)
    if (
        revocations is None
        or revocations.next_update is None
        or not revocations.this_update <= now < revocations.next_update
        or "test_root" in expected  # no list of the fake root exists
    ):
        failures.add("revocation")
    return failures


def appraise_lines(
    claims: SnpClaims,
    policy: AppraisalPolicy,
    *,
    expected_report_data: bytes,
    expected_host_data: bytes,
) -> tuple[CheckLine, ...]:
    assert policy.snp is not None
    return appraise_snp(
        claims,
        policy.snp,
        policy.measurements,
        expected_report_data=expected_report_data,
        expected_launch=expected_host_data,
    )


def lenient(entry: dict[str, Any], roots: tuple[PinnedRoot, ...]) -> AppraisalPolicy:
    """A policy without floors for this very vector: what it still refuses, it refuses always."""
    report, endorsements = parsed(entry)
    claims = claims_of(report, endorsements, product_of(entry))
    base = cpu_production([bytes(48)])
    assert base.snp is not None
    anything = {f.name: base.snp.guest.smt for f in dataclasses.fields(base.snp.platform)}
    floor = ProductFloor(
        product=claims.product,
        fmc=0,
        boot_loader=0,
        tee=0,
        snp=0,
        microcode=0,
        firmware_major=0,
        firmware_minor=0,
        firmware_build=0,
    )
    return changed(
        base,
        roots=roots,
        products=(floor,),
        report_version_least=2,
        vlek_csp_ids=() if claims.csp_id is None else (claims.csp_id,),
        platform=dataclasses.replace(base.snp.platform, **anything),
        vmpl=claims.vmpl,
        measurements=(claims.measurement,),
    )


def test_all_twenty_vectors_are_here() -> None:
    assert len(REPORTS) == 18
    assert len(LISTS) == 2


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_parsed_as_the_index_says(name: str) -> None:
    entry = REPORTS[name]
    expected, report = entry["expected"], parsed(entry)[0]
    assert report.version == expected["report_version"]
    assert report.measurement.hex() == expected["measurement_hex"]
    assert report.report_data.hex() == expected["report_data_hex"]
    assert report.vmpl == expected["vmpl"]
    assert report.policy.debug == expected["debug"]
    policy = int(expected["policy_hex"], 16)
    assert report.policy.migrate_ma == bool(policy >> 18 & 1)
    assert report.policy.smt == bool(policy >> 16 & 1)
    assert report.policy.abi_minor == policy & 0xFF
    tcb = parse_tcb(report.reported_tcb, product_of(entry))
    reported = expected["tcb"]["reported"]
    assert tcb == Tcb(
        fmc=reported.get("fmc", 0),
        boot_loader=reported["bl"],
        tee=reported["tee"],
        snp=reported["snp"],
        microcode=reported["ucode"],
    )
    assert report.reported_tcb.hex() == expected["tcb"]["reported_raw_hex"]
    key = {"VCEK": 0, "VLEK": 1, "NONE": 7}[expected["signing_key"]]
    assert report.signing_key == key
    if not entry["synthetic"]:
        assert report.host_data.hex() == expected["host_data_hex"]
        assert report.chip_id.hex() == expected["chip_id_hex"]
        assert report.guest_svn == expected["guest_svn"]
        assert str(report.current_version) == expected["current_version"]
        assert str(report.committed_version) == expected["committed_version"]
        assert report.chip_key_masked == expected["mask_chip_key"]
        cpuid = report.cpuid and [
            report.cpuid.family,
            report.cpuid.model,
            report.cpuid.stepping,
        ]
        assert cpuid == expected["cpuid_fms"]
        for bit, value in expected["platform_info"].items():
            assert getattr(report.platform_info, bit) == value


@pytest.mark.parametrize("name", REPORTS)
def test_exactly_the_checks_that_the_index_implies_refuse(name: str) -> None:
    entry = REPORTS[name]
    refused = {
        line.id for line in check_snp(*parsed(entry), ROOTS, valid_at(entry)) if not line.passed
    }
    assert refused == expected_failures(entry, root_is_trusted=False)


SYNTHETIC = [name for name, entry in REPORTS.items() if "test_root" in entry["expected"]]


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_well_formed_lie_is_refused_even_where_its_root_is_trusted(name: str) -> None:
    """No list of the fake roots exists, so revocation refuses besides; the lie's own line does."""
    entry = REPORTS[name]
    root = fake_root_of(entry)
    lines = check_snp(*parsed(entry), (root,), valid_at(entry))
    refused = {line.id for line in lines if not line.passed}
    assert refused == expected_failures(entry, root_is_trusted=True)
    report, endorsements = parsed(entry)
    claims = claims_of(report, endorsements, product_of(entry))
    policy_lines = appraise_lines(
        claims,
        lenient(entry, (root,)),
        expected_report_data=report.report_data,
        expected_host_data=report.host_data,
    )
    refused |= {line.id for line in policy_lines if not line.passed}
    verdict = entry["expected"]["with_test_root"]["verdict"]
    assert (refused == {"revocation"}) == (verdict == "accept")
    own = {
        "synthetic_fake_ark_milan": set(),
        "synthetic_snp_cert_tcb_below_report": {"certificate-tcb"},
        "synthetic_snp_signing_key_none": {"signing-key"},
        "synthetic_snp_migrate_ma": {"guest-migrate-ma"},
    }
    assert refused == {"revocation"} | own[name]


# A time in the windows of the endorsement key and of its product's list.
WINDOWS = {
    "milan_v2_debug_policy": "2025-11-07",
    "milan_v2_azure_raw": "2025-11-07",
    "milan_v3_vlek_aws": "2025-11-07",
    "milan_v2_virtee": "2025-11-07",
    "milan_v5_gcp_keybound": "2026-01-04",
    "genoa_v3_azure": "2025-08-01",
    "milan_v3_azure": "2025-11-07",
    "milan_v2_aci": "2025-11-07",
    "milan_v2_fw151_very_old": "2025-11-07",
    "genoa_v3_veraison": "2025-08-01",
}
WITHOUT_LIST = {
    "genoa_v5": "made after AMD's list in the vectors ended",
    "turin_v5": "no list of Turin is public",
    "milan_v3_dstack": "made after AMD's list in the vectors ended",
}


def test_every_good_real_vector_is_in_one_of_the_two_tables() -> None:
    good = {
        name
        for name, entry in REPORTS.items()
        if entry["expected"]["signature_ok"] and entry["expected"]["chain_ok"]
    }
    assert good == set(WINDOWS) | set(WITHOUT_LIST)


@pytest.mark.parametrize("name", WINDOWS)
def test_real_evidence_is_accepted_whole_unless_it_is_of_a_debug_vm(name: str) -> None:
    entry = REPORTS[name]
    now = dt.datetime.fromisoformat(WINDOWS[name]).replace(tzinfo=dt.UTC)
    policy = lenient(entry, (amd_root(product_of(entry)),))
    report = parsed(entry)[0]

    def appraised(report_data: bytes) -> set[str]:
        outcome = verify_cpu(
            "sev-snp",
            content(entry, "report"),
            endorsements_of(entry),
            policy,
            expected_report_data=report_data,
            expected_host_data=report.host_data,
            now=now,
        )
        assert outcome.kind is RootKind.REAL
        names_chip = entry["expected"]["signing_key"] == "VCEK"
        assert outcome.chip_id == (report.chip_id if names_chip else None)
        return {line.id for line in outcome.checks if not line.passed}

    debug = {"guest-debug"} if entry["expected"]["debug"] else set()
    assert appraised(report.report_data) == debug
    other = bytes([report.report_data[0] ^ 1]) + report.report_data[1:]
    assert appraised(other) == debug | {"report-data"}


@pytest.mark.parametrize("name", WITHOUT_LIST)
def test_real_evidence_without_a_fresh_list_is_refused_by_revocation_alone(name: str) -> None:
    entry = REPORTS[name]
    with pytest.raises(EvidenceSignatureError, match="SNP check 6, revocation"):
        verify_cpu(
            "sev-snp",
            content(entry, "report"),
            endorsements_of(entry),
            lenient(entry, (amd_root(product_of(entry)),)),
            expected_report_data=bytes(64),
            expected_host_data=bytes(32),
            now=valid_at(entry),
        )
    # Everything else that it says is good, read by its own product's layout.
    report, endorsements = parsed(entry)
    lines = appraise_lines(
        claims_of(report, endorsements, product_of(entry)),
        lenient(entry, (amd_root(product_of(entry)),)),
        expected_report_data=report.report_data,
        expected_host_data=report.host_data,
    )
    assert [line.id for line in lines if not line.passed] == []


@pytest.mark.parametrize("name", REPORTS)
def test_the_production_policy_accepts_none_of_them_and_never_a_milan(name: str) -> None:
    """Milan is not pinned; the Genoas in a list's window run firmware below the floors."""
    entry = REPORTS[name]
    report = parsed(entry)[0]
    now = dt.datetime.fromisoformat(WINDOWS.get(name, entry["expected"]["valid_at"]))
    given: dict[str, Any] = {
        "expected_report_data": report.report_data,
        "expected_host_data": report.host_data,
        "now": now.replace(tzinfo=dt.UTC),
    }
    arguments = "sev-snp", content(entry, "report"), endorsements_of(entry)
    policy = cpu_production([report.measurement])
    if name in WINDOWS and product_of(entry) is Product.GENOA:
        outcome = verify_cpu(*arguments, policy, **given)
        refused = {line.id for line in outcome.checks if not line.passed}
        assert {"tcb-reported", "tcb-committed", "tcb-launch", "firmware"} <= refused
        assert "chain" not in refused
    else:
        expected = "chain|signing-key|report-signature|revocation"
        with pytest.raises(EvidenceSignatureError, match=f"SNP check [2346], ({expected})"):
            verify_cpu(*arguments, policy, **given)
    if product_of(entry) is Product.MILAN:
        lines = check_snp(*parsed(entry), policy.roots, given["now"])
        assert "chain" in {line.id for line in lines if not line.passed}


def test_the_real_v5_genoa_is_above_every_floor_and_the_real_turin_below() -> None:
    def below(name: str) -> set[str]:
        report, endorsements = parsed(REPORTS[name])
        lines = appraise_lines(
            claims_of(report, endorsements, product_of(REPORTS[name])),
            cpu_production([report.measurement]),
            expected_report_data=report.report_data,
            expected_host_data=report.host_data,
        )
        return {line.id for line in lines if not line.passed}

    assert below("genoa_v5") == set()
    assert below("turin_v5") == {"tcb-reported", "tcb-committed", "tcb-launch", "firmware"}


def test_a_real_vlek_is_refused_by_a_policy_that_names_no_provider() -> None:
    entry = REPORTS["milan_v3_vlek_aws"]
    report, endorsements = parsed(entry)
    claims = claims_of(report, endorsements, Product.MILAN)
    assert (claims.signing_key, claims.chip_id) == (SigningKey.VLEK, None)
    assert claims.csp_id == "CN=cc-us-east-2.amazonaws.com"
    policy = changed(lenient(entry, (amd_root(Product.MILAN),)), vlek_csp_ids=())
    lines = appraise_lines(
        claims,
        policy,
        expected_report_data=report.report_data,
        expected_host_data=report.host_data,
    )
    assert [line.id for line in lines if not line.passed] == ["signer"]


def test_turin_read_by_milans_layout_is_refused_and_not_misread() -> None:
    report = parsed(REPORTS["turin_v5"])[0]
    assert parse_tcb(report.reported_tcb, Product.TURIN).snp == 2
    with pytest.raises(EvidenceFormatError, match="Genoa reserves"):
        parse_tcb(report.reported_tcb, Product.GENOA)


@pytest.mark.parametrize("name", LISTS)
def test_amds_lists_are_read_and_hold_under_amds_roots(name: str) -> None:
    entry = LISTS[name]
    expected = entry["expected"]
    revocations = parse_revocation_list(content(entry, "crl"))
    (ark,) = (parse_certificate(each) for each in certificates(content(entry, "issuer")))
    (ask,) = (parse_certificate(each) for each in certificates(content(entry, "ask")))
    assert ark.fingerprint == amd_root(product_of(entry)).fingerprint
    assert revocations.signature.holds_under(ark.public_key)
    assert not revocations.signature.holds_under(ask.public_key)
    assert ark.may_sign_lists()
    assert {f"{serial:x}" for serial in revocations.serials} == set(expected["revoked_serials_hex"])
    assert (ask.serial in revocations.serials) == expected["ask_revoked"]
    assert revocations.this_update == dt.datetime.fromisoformat(expected["valid_from"])
    assert revocations.next_update == dt.datetime.fromisoformat(expected["valid_until"])


def test_the_pins_are_the_roots_in_the_index_of_roots() -> None:
    listed = {
        entry["name"]: entry["sha256"]
        for entry in json.loads((VECTORS / "roots.json").read_bytes())
    }
    for product in Product:
        assert amd_root(product).fingerprint.hex() == listed[f"ark_{product.value.lower()}"]
        (ark,) = certificates(
            (VECTORS / "sev_snp" / "roots" / f"ark_{product.value.lower()}.pem").read_bytes()
        )
        assert digest(ark) == amd_root(product).fingerprint
        assert parse_certificate(ark).signature.holds_under(parse_certificate(ark).public_key)
