"""Nine checks, and for each the lies that it alone finds.

Every lie is well formed and signed by whoever an attacker can be; each is refused by exactly the
check that is named, so that cutting the check lets it through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.vendor import (
    CHIP_ID,
    DAY,
    HOST_DATA,
    ISSUER_EXTENSIONS,
    MEASUREMENT,
    NOW,
    REPORT_DATA,
    TCB,
    Chain,
    body,
    cpu_production,
    pin,
    policy,
    replaced,
    report,
    rsa_key,
    simulated_chip,
    verify_cpu,
    without,
)
from trust.encoding import digest
from trust.errors import (
    BlindhostError,
    EvidenceError,
    EvidenceFormatError,
    EvidenceSignatureError,
    SizeLimitError,
)
from trust.evidence.claims import Product
from trust.evidence.snp import parse_snp_report
from trust.simulated import certificates as minting
from trust.simulated.chip import vcek_extensions
from trust.verifier import der
from trust.verifier.certificates import PSS_SHA384_SALT48
from trust.verifier.endorsements import (
    CSP_ID,
    HARDWARE_ID,
    PRODUCT_NAME,
    TCB_EXTENSIONS,
    parse_snp_endorsements,
)
from trust.verifier.roots import PinnedRoot
from trust.verifier.snp import check_snp, verify_snp

GOOD = vcek_extensions(Product.GENOA, TCB, CHIP_ID)
GENOA_TCB = TCB_EXTENSIONS[Product.GENOA]
IA5_GENOA = minting.tlv(der.IA5_STRING, b"Genoa")


def failing(
    evidence: bytes, endorsements: dict[str, bytes], roots: tuple[PinnedRoot, ...] | None = None
) -> set[str]:
    """Ids of the checks that refuse; the chain's own root is pinned unless roots are given."""
    subject = parse_snp_report(evidence), parse_snp_endorsements(list(endorsements.items()))
    roots = (pin(endorsements["ark"]),) if roots is None else roots
    refused = {line.id for line in check_snp(*subject, roots, NOW) if not line.passed}
    if refused:
        with pytest.raises(EvidenceSignatureError, match=r"SNP check [1-9], "):
            verify_snp(*subject, roots, NOW)
    else:
        verify_snp(*subject, roots, NOW)
    return refused


def vlek(**changes: Any) -> Chain:
    """A good chain of a key that a cloud provider holds."""
    extensions = (
        *without(GOOD, HARDWARE_ID),
        minting.Extension(name=CSP_ID, value=minting.tlv(der.IA5_STRING, b"CN=cloud.example")),
    )
    good: dict[str, Any] = {
        "kind": "vlek",
        "leaf_name": "SEV-VLEK",
        "issuer_name": "SEV-VLEK-Genoa",
        "leaf_extensions": extensions,
    }
    return Chain(**{**good, **changes})


def resigned(algorithm: bytes, sign: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Take a certificate apart, name another algorithm in it, and sign it again by that."""

    def edit(certificate: bytes) -> bytes:
        parts = der.read_elements(der.read_sequence(certificate)[0].content)
        signed = minting.sequence(
            *(algorithm if e.encoded == minting.PSS_ALGORITHM else e.encoded for e in parts)
        )
        signature = minting.tlv(der.BIT_STRING, b"\x00" + sign(signed))
        return minting.sequence(signed, algorithm, signature)

    return edit


def short_salt(signed: bytes) -> bytes:
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=32)
    return rsa_key("ask").sign(signed, pss, hashes.SHA384())


def sha256(signed: bytes) -> bytes:
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    return rsa_key("ask").sign(signed, pss, hashes.SHA256())


def pkcs1(signed: bytes) -> bytes:
    return rsa_key("ask").sign(signed, padding.PKCS1v15(), hashes.SHA384())


SHA384_RSA = bytes.fromhex("300d06092a864886f70d01010c0500")


def test_a_good_report_passes_all_nine_and_says_so_in_nine_lines() -> None:
    endorsements = Chain().endorsements()
    assert failing(report(), endorsements) == set()
    lines = check_snp(
        parse_snp_report(report()),
        parse_snp_endorsements(list(endorsements.items())),
        (pin(endorsements["ark"]),),
        NOW,
    )
    assert [line.id for line in lines] == [
        "report-format",
        "signing-key",
        "report-signature",
        "chain",
        "validity",
        "revocation",
        "product",
        "chip-id",
        "certificate-tcb",
    ]


def test_a_good_vlek_passes_and_names_no_chip() -> None:
    endorsements = vlek().endorsements()
    evidence = report({0x48: b"\x04", 0x1A0: bytes(64)})
    assert failing(evidence, endorsements) == set()
    verified = verify_snp(
        parse_snp_report(evidence),
        parse_snp_endorsements(list(endorsements.items())),
        (pin(endorsements["ark"]),),
        NOW,
    )
    assert verified.claims.chip_id is None
    assert verified.claims.csp_id == "CN=cloud.example"


REPORT_LIES = {
    "algorithm 2": ({0x34: b"\x02"}, "signing-key"),
    "signed by no key": ({0x48: b"\x1c"}, "signing-key"),
    "signed by an undefined key": ({0x48: b"\x08"}, "signing-key"),
    "says VLEK under a VCEK": ({0x48: b"\x04"}, "signing-key"),
    "a Turin's processor": ({0x188: b"\x1a\x02\x01"}, "product"),
    "a Milan's processor": ({0x188: b"\x19\x01\x01"}, "product"),
    "an unknown processor": ({0x188: b"\x19\x71\x00"}, "product"),
    "another chip": ({0x1A0: b"\x01"}, "chip-id"),
    "a masked chip key": ({0x48: b"\x02"}, "chip-id"),
    "no chip": ({0x1A0: bytes(64)}, "chip-id"),
    "newer microcode than certified": ({0x187: b"\x59"}, "certificate-tcb"),
    "older microcode than certified": ({0x187: b"\x57"}, "certificate-tcb"),
    "newer firmware than certified": ({0x186: b"\x1c"}, "certificate-tcb"),
    "a spare byte in REPORTED_TCB": ({0x182: b"\x01"}, "certificate-tcb"),
    "a spare byte in CURRENT_TCB": ({0x03A: b"\x01"}, "certificate-tcb"),
    "a spare byte in COMMITTED_TCB": ({0x1E5: b"\x01"}, "certificate-tcb"),
    "a spare byte in LAUNCH_TCB": ({0x1F3: b"\x01"}, "certificate-tcb"),
}


@pytest.mark.parametrize(("edits", "check"), REPORT_LIES.values(), ids=REPORT_LIES)
def test_a_signed_report_that_lies_is_refused_by_its_own_check(
    edits: dict[int, bytes], check: str
) -> None:
    assert failing(report(edits), Chain().endorsements()) == {check}


def attacker() -> Any:
    return rsa_key("attacker")


CHAIN_LIES: dict[str, tuple[Callable[[], Chain], str]] = {
    "a VLEK's name on a VCEK": (lambda: Chain(leaf_name="SEV-VLEK"), "signing-key"),
    "a VCEK under the issuer of VLEKs": (
        lambda: Chain(issuer_name="SEV-VLEK-Genoa"),
        "signing-key",
    ),
    "a key made by the attacker": (
        lambda: Chain(leaf_key=ec.generate_private_key(ec.SECP384R1())),
        "report-signature",
    ),
    "a key on another curve": (
        lambda: Chain(leaf_key=ec.generate_private_key(ec.SECP256R1())),
        "report-signature",
    ),
    "an RSA key as endorsement key": (lambda: Chain(leaf_key=attacker()), "report-signature"),
    "an endorsement key that nobody certified": (
        lambda: Chain(leaf_signer=attacker()),
        "chain",
    ),
    "an endorsement key certified by the root itself": (
        lambda: Chain(leaf_signer=rsa_key("ark")),
        "chain",
    ),
    "an issuer that the attacker made": (
        lambda: Chain(issuer_key=attacker(), issuer_signer=attacker()),
        "chain",
    ),
    "an issuer that names another root": (lambda: Chain(issuer_issuer="ARK-Milan"), "chain"),
    "a key that names another issuer": (lambda: Chain(leaf_issuer="SEV-Milan"), "chain"),
    "an issuer that is no authority": (
        lambda: Chain(issuer_extensions=(minting.SIGNS_CERTIFICATES,)),
        "chain",
    ),
    "an issuer whose key signs no certificates": (
        lambda: Chain(
            issuer_extensions=(
                minting.AUTHORITY_OF_LEAVES,
                minting.Extension(
                    name=ISSUER_EXTENSIONS[1].name, value=bytes.fromhex("03020780"), critical=True
                ),
            )
        ),
        "chain",
    ),
    "a root whose key signs lists alone": (
        lambda: Chain(
            root_extensions=(
                minting.AUTHORITY,
                minting.Extension(
                    name=ISSUER_EXTENSIONS[1].name, value=bytes.fromhex("03020102"), critical=True
                ),
            )
        ),
        "chain",
    ),
    "an issuer that says that it is no authority": (
        lambda: Chain(
            issuer_extensions=replaced(
                ISSUER_EXTENSIONS, ISSUER_EXTENSIONS[0].name, bytes.fromhex("3003010100")
            )
        ),
        "chain",
    ),
    "an issuer with a short key": (
        lambda: Chain(issuer_key=rsa_key("short", 2048)),
        "chain",
    ),
    "a signature with another salt": (
        lambda: Chain(leaf_edit=resigned(minting.PSS_ALGORITHM, short_salt)),
        "chain",
    ),
    "a signature by PKCS #1 v1.5": (
        lambda: Chain(leaf_edit=resigned(SHA384_RSA, pkcs1)),
        "chain",
    ),
    "a PSS signature over SHA-256 that says SHA-384": (
        lambda: Chain(leaf_edit=resigned(minting.PSS_ALGORITHM, sha256)),
        "chain",
    ),
    "an endorsement key that has ended": (
        lambda: Chain(leaf_not_after=NOW - DAY / 2),
        "validity",
    ),
    "an endorsement key that has not begun": (
        lambda: Chain(leaf_not_before=NOW + DAY / 2),
        "validity",
    ),
    "an issuer that has not begun": (lambda: Chain(issuer_not_before=NOW + DAY / 2), "validity"),
    "a root that has ended": (lambda: Chain(root_not_after=NOW - DAY / 2), "validity"),
    "a revoked issuer": (lambda: Chain(list_serials=(0x20001, 0x20002)), "revocation"),
    "a list that has ended": (lambda: Chain(list_next_update=NOW), "revocation"),
    "a list that never ends": (lambda: Chain(list_next_update=None), "revocation"),
    "a list from the future": (lambda: Chain(list_this_update=NOW + DAY / 2), "revocation"),
    "a list of another product": (lambda: Chain(list_issuer="ARK-Milan"), "revocation"),
    "a list that the attacker signed": (lambda: Chain(list_signer=attacker()), "revocation"),
    "a list that the issuer signed": (lambda: Chain(list_signer=rsa_key("ask")), "revocation"),
    "a list by a root that signs none": (
        lambda: Chain(root_extensions=(minting.SIGNS_CERTIFICATES, minting.AUTHORITY)),
        "revocation",
    ),
    "an issuer of another product": (lambda: Chain(issuer_name="SEV-Turin"), "product"),
    "a productName of another product": (
        lambda: Chain(
            leaf_extensions=replaced(GOOD, PRODUCT_NAME, minting.tlv(der.IA5_STRING, b"Milan-B0"))
        ),
        "product",
    ),
    "a productName that begins like ours": (
        lambda: Chain(
            leaf_extensions=replaced(GOOD, PRODUCT_NAME, minting.tlv(der.IA5_STRING, b"Genoa2"))
        ),
        "product",
    ),
    "no productName": (lambda: Chain(leaf_extensions=without(GOOD, PRODUCT_NAME)), "product"),
    "the key of another chip": (lambda: Chain(chip_id=bytes(64)), "chip-id"),
    "no HWID": (lambda: Chain(leaf_extensions=without(GOOD, HARDWARE_ID)), "chip-id"),
    "a Turin's HWID on a Genoa": (
        lambda: Chain(leaf_extensions=replaced(GOOD, HARDWARE_ID, CHIP_ID[:8])),
        "chip-id",
    ),
    "a key for older microcode": (
        lambda: Chain(tcb=TCB[:7] + bytes([87])),
        "certificate-tcb",
    ),
    "a key that does not certify microcode": (
        lambda: Chain(leaf_extensions=without(GOOD, GENOA_TCB[7])),
        "certificate-tcb",
    ),
    "a key whose microcode is no byte": (
        lambda: Chain(leaf_extensions=replaced(GOOD, GENOA_TCB[7], minting.integer(256 + 88))),
        "certificate-tcb",
    ),
    "a spare number that is not zero": (
        lambda: Chain(leaf_extensions=replaced(GOOD, GENOA_TCB[2], minting.integer(1))),
        "certificate-tcb",
    ),
}


@pytest.mark.parametrize(("chain", "check"), CHAIN_LIES.values(), ids=CHAIN_LIES)
def test_a_chain_that_lies_is_refused_by_its_own_check(
    chain: Callable[[], Chain], check: str
) -> None:
    assert failing(report(), chain().endorsements()) == {check}


VLEK_LIES: dict[str, tuple[Callable[[], Chain], dict[int, bytes], str]] = {
    "a VLEK that names a chip": (vlek, {0x1A0: CHIP_ID}, "chip-id"),
    "a VLEK of nobody": (
        lambda: vlek(leaf_extensions=without(GOOD, HARDWARE_ID)),
        {},
        "chip-id",
    ),
    "a VLEK under the issuer of VCEKs": (
        lambda: vlek(issuer_name="SEV-Genoa"),
        {},
        "signing-key",
    ),
    "a VLEK in a report that says VCEK": (vlek, {0x48: b"\x00"}, "signing-key"),
}


@pytest.mark.parametrize(("chain", "edits", "check"), VLEK_LIES.values(), ids=VLEK_LIES)
def test_a_vlek_that_lies_is_refused_by_its_own_check(
    chain: Callable[[], Chain], edits: dict[int, bytes], check: str
) -> None:
    evidence = report({0x48: b"\x04", 0x1A0: bytes(64), **edits})
    assert failing(evidence, chain().endorsements()) == {check}


def test_a_withheld_revocation_list_is_a_refusal() -> None:
    endorsements = Chain().endorsements()
    del endorsements["crl"]
    assert failing(report(), endorsements) == {"revocation"}


def test_a_root_with_the_vendors_name_under_another_key_is_refused() -> None:
    """Subject, serial and dates are equal; the pin is over every byte, so it alone tells."""
    genuine, lookalike = Chain().endorsements(), Chain(root_key=attacker()).endorsements()
    assert failing(report(), lookalike, (pin(genuine["ark"]),)) == {"chain"}
    assert failing(report(), lookalike) == set()


def test_a_simulated_chip_is_refused_under_the_vendors_pins() -> None:
    with pytest.raises(EvidenceSignatureError, match="SNP check 4, chain"):
        verify_cpu(
            "sev-snp",
            report(),
            simulated_chip().endorsements(),
            cpu_production([MEASUREMENT]),
            expected_report_data=REPORT_DATA,
            expected_host_data=HOST_DATA,
            now=NOW,
        )


def test_a_root_pinned_for_another_product_is_refused() -> None:
    endorsements = Chain().endorsements()
    assert failing(report(), endorsements, (pin(endorsements["ark"], Product.TURIN),)) == {"chain"}


def test_a_milans_root_above_a_genoa_is_refused_although_their_layouts_are_one() -> None:
    endorsements = Chain(root_name="ARK-Milan").endorsements()
    pins = (pin(endorsements["ark"], Product.MILAN),)
    assert failing(report(), endorsements, pins) == {"product"}


def test_one_unknown_product_throughout_is_no_agreement() -> None:
    chain = Chain(
        root_name="ARK-Zen",
        issuer_name="SEV-Zen",
        leaf_extensions=replaced(GOOD, PRODUCT_NAME, minting.tlv(der.IA5_STRING, b"Zen")),
    )
    assert "product" in failing(report({0x188: b"\x1a\x80\x00"}), chain.endorsements())


def test_a_good_signature_on_a_smaller_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = decode_dss_signature(key.sign(body(), ec.ECDSA(hashes.SHA384())))
    signature = b"".join(each.to_bytes(72, "little") for each in numbers)
    evidence = (body() + signature).ljust(1184, b"\x00")
    assert failing(evidence, Chain(leaf_key=key).endorsements()) == {"report-signature"}


def test_no_root_at_all_believes_nothing() -> None:
    assert failing(report(), Chain().endorsements(), ()) == {"chain"}


def test_fields_that_the_signed_bytes_do_not_say_are_refused() -> None:
    endorsements = Chain().endorsements()
    parsed = parse_snp_report(report())
    forged = dataclasses.replace(parsed, measurement=bytes(48))
    lines = check_snp(
        forged,
        parse_snp_endorsements(list(endorsements.items())),
        (pin(endorsements["ark"]),),
        NOW,
    )
    assert [line.id for line in lines if not line.passed] == ["report-format"]


def test_a_naive_time_is_no_time() -> None:
    endorsements = Chain().endorsements()
    with pytest.raises(ValueError, match="aware"):
        verify_snp(
            parse_snp_report(report()),
            parse_snp_endorsements(list(endorsements.items())),
            (pin(endorsements["ark"]),),
            NOW.replace(tzinfo=None),
        )


def test_verified_evidence_ends_with_the_first_of_its_endorsements() -> None:
    def ends(chain: Chain) -> object:
        endorsements = chain.endorsements()
        return verify_snp(
            parse_snp_report(report()),
            parse_snp_endorsements(list(endorsements.items())),
            (pin(endorsements["ark"]),),
            NOW,
        ).expires_at

    assert ends(Chain()) == NOW + DAY
    assert ends(Chain(leaf_not_after=NOW + DAY / 4)) == NOW + DAY / 4


# --- endorsements --------------------------------------------------------------------------------


def pairs() -> list[tuple[str, bytes]]:
    return list(simulated_chip().endorsements())


@pytest.mark.parametrize(
    ("endorsements", "text"),
    [
        (list, "0 SNP endorsement keys"),
        (lambda: pairs()[1:], "0 SNP endorsement keys"),
        (lambda: [*pairs()[:3], ("vlek", pairs()[0][1])], "2 SNP endorsement keys"),
        (lambda: [*pairs()[:3], pairs()[2]], "stands twice"),
        (lambda: [p for p in pairs() if p[0] != "ask"], "no SNP endorsement of kind ask"),
        (lambda: [p for p in pairs() if p[0] != "ark"], "no SNP endorsement of kind ark"),
        (lambda: [*pairs()[:3], ("ocsp", b"x")], "kind 'ocsp' beside a vcek"),
        (lambda: [*pairs(), ("ocsp", b"x")], "5 SNP endorsements, at most 4"),
    ],
)
def test_endorsements_that_are_missing_doubled_or_unknown_are_refused(
    endorsements: Callable[[], list[tuple[str, bytes]]], text: str
) -> None:
    with pytest.raises(EvidenceFormatError, match=text):
        parse_snp_endorsements(endorsements())


@pytest.mark.parametrize(
    ("kind", "size"), [("vcek", 8 * 1024), ("ark", 8 * 1024), ("crl", 1 << 18)]
)
def test_a_huge_endorsement_is_refused_by_its_size(kind: str, size: int) -> None:
    huge = [(k, v + bytes(size) if k == kind else v) for k, v in pairs()]
    with pytest.raises(SizeLimitError, match="at most"):
        parse_snp_endorsements(huge)


def test_trailing_bytes_after_an_endorsement_are_refused() -> None:
    for kind, _value in pairs():
        longer = [(k, v + b"\x00" if k == kind else v) for k, v in pairs()]
        with pytest.raises(EvidenceFormatError, match="after the value"):
            parse_snp_endorsements(longer)


# --- any flipped bit -----------------------------------------------------------------------------


def is_accepted(evidence: bytes, endorsements: list[tuple[str, bytes]]) -> bool:
    try:
        result = verify_cpu(
            "sev-snp",
            evidence,
            endorsements,
            policy(),
            expected_report_data=REPORT_DATA,
            expected_host_data=HOST_DATA,
            now=NOW,
        )
    except EvidenceError:
        return False
    return result.accepted


def test_the_unflipped_is_accepted() -> None:
    assert is_accepted(report(), pairs())


@given(st.integers(0, 0x2A0 * 8 - 1))
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_of_what_was_signed_is_never_accepted(bit: int) -> None:
    flipped = bytearray(report())
    flipped[bit // 8] ^= 1 << bit % 8
    assert not is_accepted(bytes(flipped), pairs())


@given(st.integers(0x2A0 * 8, 1184 * 8 - 1))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_of_the_signature_is_never_accepted(bit: int) -> None:
    flipped = bytearray(report())
    flipped[bit // 8] ^= 1 << bit % 8
    assert not is_accepted(bytes(flipped), pairs())


@given(st.sampled_from(["vcek", "ask", "ark", "crl"]), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_of_any_endorsement_is_never_accepted(
    kind: str, place: int, change: int
) -> None:
    changed = []
    for each, value in pairs():
        data = bytearray(value)
        if each == kind:
            data[place % len(data)] ^= change
        changed.append((each, bytes(data)))
    assert not is_accepted(report(), changed)


@given(st.binary(max_size=300), st.sampled_from(["vcek", "ask", "ark", "crl"]))
@settings(deadline=None)
def test_random_endorsements_raise_our_errors_and_no_others(data: bytes, kind: str) -> None:
    with pytest.raises(BlindhostError):
        parse_snp_endorsements([(k, data if k == kind else v) for k, v in pairs()])


def test_the_two_algorithms_that_are_allowed_are_one_algorithm() -> None:
    """With and without the default trailer field; nothing else is a good signature."""
    assert sorted(len(each) for each in PSS_SHA384_SALT48) == [0x43, 0x48]
    assert minting.PSS_ALGORITHM in PSS_SHA384_SALT48


def test_collateral_is_named_by_digest_for_a_later_advisory() -> None:
    parsed = parse_snp_endorsements(pairs())
    assert {(c.kind, c.sha256) for c in parsed.collateral} == {(k, digest(v)) for k, v in pairs()}


def test_the_lies_are_signed_by_the_chip_that_the_chain_certifies() -> None:
    """A guard for the tests above: a lie that is merely unsigned would show nothing."""
    for edits, check in REPORT_LIES.values():
        assert body(edits) != body()
        assert "report-signature" not in failing(report(edits), Chain().endorsements())
        assert check != "report-signature"
