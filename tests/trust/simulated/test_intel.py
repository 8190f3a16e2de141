"""The make-believe Intel mints Intel's own formats, and the same bytes from the same keys."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.trust.verifier.tdx_vendor import DAY, GUEST, NOW, good, keys, pin
from trust.encoding import digest
from trust.evidence.tdx import parse_tdx_quote
from trust.simulated.intel import PLATFORM, IntelKeys, SimulatedIntel
from trust.verifier.intel_certificates import parse_pck, pem_certificates
from trust.verifier.intel_collateral import KINDS, parse_tdx_endorsements
from trust.verifier.roots import Anchor, vendor_root
from trust.verifier.tdx import check_tdx, verify_tdx


def test_what_it_mints_is_verified_under_its_own_root_by_the_real_verifier() -> None:
    made = SimulatedIntel.create(IntelKeys.create(), NOW)
    quote = parse_tdx_quote(made.quote(GUEST))
    endorsements = parse_tdx_endorsements(made.endorsements())
    verified = verify_tdx(quote, endorsements, (pin(made.fingerprint),), NOW)
    assert verified.claims.pck == PLATFORM


def test_nothing_but_the_fingerprint_tells_it_from_intel() -> None:
    made = SimulatedIntel.create(keys(), NOW)
    lines = check_tdx(
        parse_tdx_quote(made.quote(GUEST)),
        parse_tdx_endorsements(made.endorsements()),
        (vendor_root(Anchor.INTEL_SGX),),
        NOW,
    )
    assert {line.id for line in lines if not line.passed} == {"tdx-pck-chain"}


def test_the_same_keys_and_time_make_the_same_bytes() -> None:
    first, second = (SimulatedIntel.create(keys(), NOW) for _ in range(2))
    assert first.endorsements() == second.endorsements()
    assert first.quote(GUEST) == second.quote(GUEST)
    later = SimulatedIntel.create(keys(), NOW + dt.timedelta(hours=1))
    assert later.fingerprint != first.fingerprint


def test_it_hands_out_every_kind_of_endorsement_once() -> None:
    kinds = [kind for kind, _ in SimulatedIntel.create(keys(), NOW).endorsements()]
    assert sorted(kinds) == sorted(KINDS)


def test_its_certificates_are_read_by_another_library() -> None:
    quote = parse_tdx_quote(good().quote())
    leaf, authority, root = x509.load_pem_x509_certificates(quote.pck_chain.rstrip(b"\x00"))
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert digest(root.public_bytes(Encoding.DER)) == good().intel.fingerprint
    assert leaf.subject.rfc4514_string() == (
        "C=US,ST=CA,L=Santa Clara,O=Intel Corporation,CN=Intel SGX PCK Certificate"
    )
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert not constraints.value.ca
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)


def test_its_revocation_lists_are_read_by_another_library() -> None:
    intel = good().intel
    for spec, issuer in ((intel.root_list, intel.root), (intel.pck_list, intel.authority)):
        assert spec is not None
        listed = x509.load_der_x509_crl(spec.encode())
        assert listed.is_signature_valid(issuer.key.public_key())
        assert listed.last_update_utc == NOW - DAY


def test_a_pck_says_what_it_was_made_to_say() -> None:
    (leaf, _, _) = pem_certificates(parse_tdx_quote(good().quote()).pck_chain, "chain")
    assert parse_pck(leaf) == PLATFORM


def test_private_keys_are_not_shown() -> None:
    made = SimulatedIntel.create(keys(), NOW)
    assert "PrivateKey" not in repr(made)
    assert "PrivateKey" not in repr(keys())


@pytest.mark.parametrize("version", [4, 5])
def test_a_quote_has_the_size_of_a_real_one(version: int) -> None:
    quote = parse_tdx_quote(good(version=version).quote())
    assert len(quote.signed_bytes) == {4: 632, 5: 702}[version]
    assert quote.version == version
