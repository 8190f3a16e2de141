"""Real evidence of NVIDIA's devices, and what it must come to: ../shared/vectors/index.json says.

No public OCSP response exists, so no vector can be accepted whole: the lines of revocation must
refuse each, and the others are what the index says.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from trust.encoding import digest
from trust.errors import EvidenceFormatError, EvidenceSignatureError
from trust.evidence.nvidia import FeatureMode, parse_gpu_report
from trust.messages import GpuDevice, GpuDeviceKind, GpuEvidence
from trust.verifier.gpu_appraisal import appraise_gpu_claims
from trust.verifier.gpu_device import (
    Architecture,
    Device,
    GpuClaims,
    architecture_of,
    claims_of,
    parse_device,
)
from trust.verifier.gpu_policy import GpuDemands, GpuFloor
from trust.verifier.nvidia import check_gpu, verify_gpu
from trust.verifier.results import CheckLine
from trust.verifier.rims import parse_rim
from trust.verifier.roots import Anchor, PinnedRoot, RootKind, vendor_root
from trust.verifier.x509_ec import chain_fault, parse_pem_chain, validity_fault

VECTORS = Path(__file__).parents[3].parent / "shared" / "vectors"
HERE = VECTORS.is_dir()
pytestmark = [
    pytest.mark.vectors,
    pytest.mark.skipif(not HERE, reason="../shared/vectors is not here"),
]

ROOTS = (vendor_root(Anchor.NVIDIA_DEVICE), vendor_root(Anchor.NVIDIA_RIM))
NO_OCSP = {"ocsp-device", "ocsp-rim"}
# Without a manifest these can't be made, and say so.
NO_MANIFEST = {
    "rim-driver", "rim-vbios", "rim-signature", "rim-chain", "rim-validity", "rim-measurements",
}  # fmt: skip


def load_index() -> dict[str, dict[str, Any]]:
    entries = json.loads((VECTORS / "index.json").read_bytes()) if HERE else []
    return {entry["name"]: entry for entry in entries if entry["platform"] == "nvidia"}


INDEX = load_index()
DEVICES = {name: entry for name, entry in INDEX.items() if "evidence" in entry["files"]}
MANIFESTS = [
    (name, file) for name, entry in INDEX.items() for file in entry["files"] if "rim" in file
]
HGX = [name for name in DEVICES if name.startswith("hgx_")]


def content(name: str, file: str) -> bytes:
    described = INDEX[name]["files"][file]
    data = (VECTORS / described["path"]).read_bytes()
    assert digest(data).hex() == described["sha256"]
    return data


def valid_at(name: str) -> dt.datetime:
    return dt.datetime.fromisoformat(INDEX[name]["expected"]["valid_at"]).replace(tzinfo=dt.UTC)


def device(name: str) -> GpuDevice:
    switch = INDEX[name]["expected"]["arch"] == "LS10"
    return GpuDevice(
        kind=GpuDeviceKind.SWITCH if switch else GpuDeviceKind.GPU,
        report=content(name, "evidence"),
        chain=content(name, "cert_chain"),
    )


def manifests(name: str) -> list[tuple[str, bytes]]:
    return [("gpu-rim", content(name, file)) for file in INDEX[name]["files"] if "rim" in file]


def lines(
    name: str, *, roots: tuple[PinnedRoot, ...] = ROOTS, nonce: bytes | None = None
) -> tuple[CheckLine, ...]:
    own = bytes.fromhex(INDEX[name]["expected"]["nonce_hex"])
    evidence = GpuEvidence(devices=(device(name),))
    return check_gpu(evidence, manifests(name), roots, nonce or own, valid_at(name))


def failing(name: str, **changes: Any) -> set[str]:
    return {line.id for line in lines(name, **changes) if not line.passed}


def expected_failures(name: str, *, root_is_trusted: bool) -> set[str]:
    """From the index's own words."""
    entry, expected = INDEX[name], INDEX[name]["expected"]
    failures = {"ocsp-device", "ocsp-rim"}
    if not expected["signature_ok"]:
        failures.add("gpu-signature")
    if not (expected["chain_ok"] or root_is_trusted):
        failures.add("gpu-chain")
    if expected.get("fwid_in_leaf_cert") is False or "fwid_mismatch" in name:
        failures.add("gpu-fwid")
    if "mismatch" in expected["conclusion"] and "rim" in str(list(entry["files"])):
        failures.add("rim-measurements")
    found = [file for file in entry["files"] if "rim" in file]
    if not found:
        failures |= NO_MANIFEST
    if "rim_driver" not in found:
        failures.add("rim-driver")
    if expected["arch"] == "LS10":
        failures.discard("rim-driver")
    return failures


@pytest.mark.parametrize("name", [name for name in DEVICES if "duplicate" not in name])
def test_every_vector_is_refused_by_the_checks_that_the_index_implies(name: str) -> None:
    assert failing(name) == expected_failures(name, root_is_trusted=False)


@pytest.mark.parametrize("name", [n for n in DEVICES if "synthetic" in n and "dupl" not in n])
def test_a_fake_root_that_is_pinned_changes_the_chain_and_nothing_else(name: str) -> None:
    root = digest(parse_pem_chain(content(name, "cert_chain"))[-1].encoded)
    pinned = PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.NVIDIA_DEVICE, fingerprint=root)
    assert failing(name, roots=(pinned,)) == expected_failures(name, root_is_trusted=True)


def test_an_index_that_stands_twice_is_no_report() -> None:
    with pytest.raises(EvidenceFormatError, match="stands twice"):
        lines("synthetic_nv_duplicate_index")


@pytest.mark.parametrize("name", DEVICES)
def test_another_nonce_is_refused(name: str) -> None:
    if "duplicate" not in name:
        assert failing(name, nonce=bytes(32)) - failing(name) == {"gpu-nonce"}


@pytest.mark.parametrize("name", ["h100_driver545_full_rim_match", "ls10_switch_full_rim_match"])
def test_without_word_on_revocation_the_best_evidence_is_not_believed(name: str) -> None:
    assert failing(name) == NO_OCSP
    evidence = GpuEvidence(devices=(device(name),))
    nonce = bytes.fromhex(INDEX[name]["expected"]["nonce_hex"])
    with pytest.raises(EvidenceSignatureError, match="31, ocsp-device"):
        verify_gpu(evidence, manifests(name), ROOTS, nonce, valid_at(name))


def test_manifests_that_ended_are_not_believed() -> None:
    name = "h100_driver545_full_rim_match"
    evidence = GpuEvidence(devices=(device(name),))
    nonce = bytes.fromhex(INDEX[name]["expected"]["nonce_hex"])
    now = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
    found = check_gpu(evidence, manifests(name), ROOTS, nonce, now)
    assert {e.id for e in found if not e.passed} == {*NO_OCSP, "rim-validity"}


def test_the_measurement_that_another_revision_differs_in_is_named() -> None:
    found = {line.id: line for line in lines("h100_driver580_trustee_trailing")}
    assert "index 9:" in found["rim-measurements"].found


@pytest.mark.parametrize("name", [name for name in DEVICES if "duplicate" not in name])
def test_reports_say_what_the_index_says(name: str) -> None:
    expected, report = INDEX[name]["expected"], parse_gpu_report(content(name, "evidence"))
    assert report.driver_version == expected["driver_version"]
    if "vbios_version" in expected:
        assert report.vbios_version == expected["vbios_version"]
    if "fwid_mismatch" not in name:  # the index has the FWID of the vector that it was made from
        assert (report.fwid.hex() if report.fwid else None) == expected["fwid_report_hex"]
    if expected["measurement_hex"]:
        found = {str(index): value.hex() for index, value in report.measurements.items()}
        assert found == expected["measurement_hex"]
    if expected["arch"] != "LS10" and "protected_pcie" in expected:
        assert bool(report.protected_pcie) is expected["protected_pcie"]
    flag = expected.get("feature_flag")
    assert (report.feature_flag.value if report.feature_flag else None) == flag


@pytest.mark.parametrize("name", [name for name in DEVICES if "duplicate" not in name])
def test_devices_are_what_the_index_says(name: str) -> None:
    found, expected = parse_device(0, device(name)), INDEX[name]["expected"]
    words = {
        Architecture.HOPPER: "HOPPER",
        Architecture.BLACKWELL: "BLACKWELL",
        Architecture.SWITCH_LS10: "LS10",
    }
    architecture = architecture_of(found)
    assert architecture is not None
    assert words[architecture] == expected["arch"]
    if "ueid_serial_hex" in expected:
        assert found.serial.hex() == expected["ueid_serial_hex"]


@pytest.mark.parametrize(("name", "file"), MANIFESTS)
def test_manifests_are_what_the_index_says(name: str, file: str) -> None:
    rim = parse_rim(content(name, file))
    bad = name.endswith("bad_signature")
    assert (rim.signature_fault() is None) is not bad
    assert chain_fault(rim.chain) is None
    assert rim.chain[-1].fingerprint == vendor_root(Anchor.NVIDIA_RIM).fingerprint
    assert validity_fault(rim.chain, valid_at(name)) is None
    expected = INDEX[name]["expected"]
    if file == "rim":
        assert rim.version == expected["version"]
        assert sorted(rim.golden) == expected["active_indices"]


# --- the whole HGX machine -----------------------------------------------------------------------


def hgx() -> list[GpuClaims]:
    devices: list[Device] = [parse_device(i, device(name)) for i, name in enumerate(HGX)]
    found = []
    for each in devices:
        architecture = architecture_of(each)
        assert architecture is not None
        found.append(claims_of(each, architecture, ()))
    return found


def ppcie() -> GpuDemands:
    return GpuDemands(
        architectures=(
            GpuFloor(architecture=Architecture.HOPPER, driver="590.12", vbios="96.00.A5.00.01"),
            GpuFloor(architecture=Architecture.SWITCH_LS10, driver=None, vbios="96.10.73.00.01"),
        ),
        gpus_least=8,
        gpus_most=8,
        modes=(FeatureMode.PPCIE,),
        fwid_demanded=True,
        hold_allowed=False,
        ocsp_age_hours_most=24,
    )


def refusing(devices: list[GpuClaims], demands: GpuDemands) -> set[str]:
    return {line.id for line in appraise_gpu_claims(devices, demands) if not line.passed}


def test_a_whole_machine_under_one_nonce_is_wired_as_it_says() -> None:
    nonces = {INDEX[name]["expected"]["nonce_hex"] for name in HGX}
    assert len(HGX) == 12
    assert len(nonces) == 1
    assert refusing(hgx(), ppcie()) == set()


@pytest.mark.parametrize("missing", range(12))
def test_a_machine_that_shows_a_device_less_is_refused(missing: int) -> None:
    devices = [each for each in hgx() if each.index != missing]
    assert "gpu-topology" in refusing(devices, ppcie())


@pytest.mark.parametrize("place", range(12))
def test_a_device_that_was_put_into_another_machine_is_refused(place: int) -> None:
    devices = hgx()
    devices[place] = dataclasses.replace(devices[place], device_id=bytes(8))
    assert refusing(devices, ppcie()) == {"gpu-topology"}


def test_a_policy_that_does_not_name_ppcie_refuses_the_machine() -> None:
    demands = dataclasses.replace(
        ppcie(), architectures=ppcie().architectures[:1], modes=(FeatureMode.SPT,)
    )
    assert {"gpu-mode", "gpu-architecture"} <= refusing(hgx(), demands)
