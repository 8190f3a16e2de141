"""The simulated vendor: the real formats, kept across a restart, for those who name it alone."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.trust.verifier.vendor import (
    CHIP_ID,
    DAY,
    HOST_DATA,
    MEASUREMENT,
    NOW,
    REPORT_DATA,
    Chain,
    rsa_key,
    simulated_chip,
    simulated_root,
    verify_cpu,
)
from trust.encoding import label_bytes
from trust.errors import DocumentError, EncodingError, EvidenceSignatureError
from trust.evidence.claims import Product
from trust.simulated import SimulatedChip, SimulatedRoot
from trust.verifier.certificates import parse_certificate, parse_revocation_list
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.results import AttestationResult
from trust.verifier.roots import Anchor, PinnedRoot, RootKind
from trust.verifier.snp_policy import TURIN_FLOOR, snp_demands


def verdict(chip: SimulatedChip, policy: AppraisalPolicy) -> AttestationResult:
    return verify_cpu(
        "sev-snp",
        chip.report(report_data=REPORT_DATA, host_data=HOST_DATA, measurement=MEASUREMENT),
        chip.endorsements(),
        policy,
        expected_report_data=REPORT_DATA,
        expected_host_data=HOST_DATA,
        now=NOW,
    )


def policy_for(root: SimulatedRoot) -> AppraisalPolicy:
    return simulated_policy(root.fingerprint, [MEASUREMENT])


@pytest.mark.slow
def test_a_new_root_is_accepted_under_its_own_name_and_under_no_other() -> None:
    root = SimulatedRoot.create(NOW)
    chip = root.issue_chip(CHIP_ID, NOW)
    assert verdict(chip, policy_for(root)).accepted
    with pytest.raises(EvidenceSignatureError, match="SNP check 4, chain"):
        verdict(chip, policy_for(simulated_root()))


def test_root_and_chip_survive_a_restart_byte_for_byte() -> None:
    root = SimulatedRoot.from_bytes(simulated_root().to_bytes())
    chip = SimulatedChip.from_bytes(root.issue_chip(CHIP_ID, NOW).to_bytes())
    assert root == simulated_root()
    assert root.fingerprint == simulated_root().fingerprint == chip.root_fingerprint
    assert verdict(chip, policy_for(root)).accepted


def test_a_stored_chip_that_was_cut_or_edited_is_refused() -> None:
    stored = simulated_chip().to_bytes()
    for broken in (stored[:-1], stored + b" ", stored.replace(b'"Genoa"', b'"Milan"'), b""):
        with pytest.raises(EncodingError):
            SimulatedChip.from_bytes(broken)
    with pytest.raises(EncodingError):
        SimulatedRoot.from_bytes(stored)


def test_private_keys_are_not_shown() -> None:
    for value in (simulated_root(), simulated_chip()):
        assert "key" not in repr(value)
        assert repr(rsa_key("ark")) not in repr(value)


def test_a_simulated_turin_has_turins_own_layout() -> None:
    root, chip = simulated_root(Product.TURIN), simulated_chip(Product.TURIN)
    pin = PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.TURIN, fingerprint=root.fingerprint)
    policy = dataclasses.replace(
        simulated_policy(bytes(32), [MEASUREMENT]), roots=(pin,), snp=snp_demands(TURIN_FLOOR)
    )
    outcome = verdict(chip, policy)
    assert outcome.accepted
    assert outcome.product == "Turin"
    assert outcome.chip_id == CHIP_ID[:8] + bytes(56)


def test_a_turin_with_64_bytes_of_chip_id_is_not_made() -> None:
    with pytest.raises(DocumentError, match="8 bytes, and then zeros"):
        simulated_root(Product.TURIN).issue_chip(CHIP_ID, NOW)


def test_nobody_simulates_a_milan() -> None:
    with pytest.raises(DocumentError, match="not Milan"):
        SimulatedRoot.certify(
            rsa_key("ark"), rsa_key("ask"), product=Product.MILAN, now=NOW, revoked_serials=()
        )


@pytest.mark.parametrize(
    ("field", "length"), [("report_data", 63), ("host_data", 33), ("measurement", 32)]
)
def test_a_chip_never_pads_what_it_signs(field: str, length: int) -> None:
    values = {"report_data": REPORT_DATA, "host_data": HOST_DATA, "measurement": MEASUREMENT}
    with pytest.raises(DocumentError, match=f"{length} bytes, wanted"):
        simulated_chip().report(**{**values, field: bytes(length)})
    with pytest.raises(DocumentError, match="wanted 672"):
        simulated_chip().sign_body(bytes(length))


def test_a_revoked_issuer_takes_its_chips_with_it() -> None:
    root = simulated_root().with_new_list(NOW, revoked_serials=[0x20002])
    assert root.fingerprint == simulated_root().fingerprint
    with pytest.raises(EvidenceSignatureError, match="SNP check 6, revocation"):
        verdict(root.issue_chip(CHIP_ID, NOW), policy_for(root))


def test_a_root_made_long_ago_is_good_again_with_a_new_list() -> None:
    old = SimulatedRoot.certify(
        rsa_key("ark"),
        rsa_key("ask"),
        product=Product.GENOA,
        now=NOW - 800 * DAY,
        revoked_serials=(),
    )
    with pytest.raises(EvidenceSignatureError, match="SNP check 6, revocation"):
        verdict(old.issue_chip(CHIP_ID, NOW), policy_for(old))
    renewed = old.with_new_list(NOW)
    assert verdict(renewed.issue_chip(CHIP_ID, NOW), policy_for(old)).accepted


def test_our_certificates_are_read_alike_by_another_library() -> None:
    """The same fields by cryptography's own parser, for all that it reads without a warning."""
    for kind, data in simulated_chip().endorsements():
        if kind in {"vcek", "crl"}:
            continue
        ours, theirs = parse_certificate(data), x509.load_der_x509_certificate(data)
        assert ours.serial == theirs.serial_number
        assert ours.common_name in theirs.subject.rfc4514_string()
        assert (ours.not_before, ours.not_after) == (
            theirs.not_valid_before_utc,
            theirs.not_valid_after_utc,
        )
        assert ours.public_key == theirs.public_key()
        assert len(ours.extensions) == len(theirs.extensions)
        parameters = theirs.signature_algorithm_parameters
        assert isinstance(parameters, padding.PSS)
        assert isinstance(theirs.signature_hash_algorithm, hashes.SHA384)
    revocations = Chain(list_serials=(1, 0x20001)).endorsements()["crl"]
    ours_list, theirs_list = parse_revocation_list(revocations), x509.load_der_x509_crl(revocations)
    assert ours_list.serials == {entry.serial_number for entry in theirs_list} == {1, 0x20001}
    assert (ours_list.this_update, ours_list.next_update) == (
        theirs_list.last_update_utc,
        theirs_list.next_update_utc,
    )


def test_a_vcek_has_the_serial_that_other_libraries_warn_about_and_we_read_it_quietly() -> None:
    vcek = simulated_chip().vcek
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_certificate(vcek).serial == 0


def test_secrets_stand_under_labels_of_their_own() -> None:
    assert simulated_root().to_bytes().startswith(label_bytes("simulated-root"))
    assert simulated_chip().to_bytes().startswith(label_bytes("simulated-chip"))
