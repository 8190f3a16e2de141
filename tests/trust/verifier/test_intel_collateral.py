"""Intel's certificates and JSON: one shape each, and everything else refused with words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.trust.verifier.tdx_changes import said
from tests.trust.verifier.tdx_vendor import Case, good, intel, key, refusing
from trust.errors import EvidenceFormatError, SizeLimitError
from trust.evidence.tdx import PckClaims
from trust.simulated.certificates import Extension, integer, sequence, tlv
from trust.simulated.intel import PLATFORM
from trust.simulated.intel_formats import SIGNER_EXTENSIONS, pck_extension, pem
from trust.verifier import der
from trust.verifier import intel_certificates as certificates
from trust.verifier.certificates import Signature, parse_certificate
from trust.verifier.intel_collateral import (
    JSON_BYTES_MAX,
    QE_IDENTITY,
    TCB_INFO,
    parse_qe_identity,
    parse_tcb_info,
    parse_tdx_endorsements,
)

CHAIN = pem(intel().tcb_chain)


# --- chains --------------------------------------------------------------------------------------


def test_a_chain_is_read_leaf_first_with_or_without_a_last_zero() -> None:
    for data in (CHAIN, CHAIN + b"\x00", CHAIN.rstrip(b"\n"), CHAIN + b"\n\n"):
        first, second = certificates.pem_certificates(data, "chain")
        assert first.common_name == "Intel SGX TCB Signing"
        assert second.common_name == "Intel SGX Root CA"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"words " + CHAIN,
        CHAIN + b"words",
        CHAIN + b"\x00\x00",
        CHAIN.replace(b"BEGIN CERTIFICATE", b"BEGIN RSA KEY", 1),
        CHAIN[:-40],
        pem(intel().tcb_chain[:1]) * 5,
    ],
    ids=["none", "zero", "before", "after", "zeros", "key", "cut", "five"],
)
def test_a_chain_of_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceFormatError, match="chain: "):
        certificates.pem_certificates(data, "chain")


def test_a_chain_that_is_too_long_is_not_read() -> None:
    with pytest.raises(SizeLimitError, match="chain: 32769 bytes"):
        certificates.pem_certificates(CHAIN.ljust(32 * 1024 + 1, b"\n"), "chain")


@pytest.mark.parametrize("count", [1, 2])
def test_the_chain_in_a_quote_is_three_certificates(count: int) -> None:
    def shorter(quote: bytes) -> bytes:
        start = len(case.guest.encode(5))
        chain = pem((case.intel.pck, case.intel.authority, case.intel.root)[:count]) + b"\x00"
        body = quote[start + 138 : start + 622] + len(chain).to_bytes(4, "little") + chain
        head = quote[start + 4 : start + 134] + len(body).to_bytes(4, "little")
        return quote[:start] + (len(head) + len(body)).to_bytes(4, "little") + head + body

    case = good()
    assert refusing(dataclasses.replace(case, edit_quote=shorter)) == {"tdx-quote-format"}


# --- signatures ----------------------------------------------------------------------------------


def test_a_certificate_is_signed_in_one_way_only() -> None:
    def holds(signing: ec.EllipticCurvePrivateKey, algorithm: bytes) -> bool:
        value = signing.sign(b"signed", ec.ECDSA(hashes.SHA256()))
        signature = Signature(signed=b"signed", algorithm=algorithm, value=value)
        return certificates.certificate_signature_holds(signature, signing.public_key())

    other = bytes.fromhex("300a06082a8648ce3d040303")  # ecdsa-with-SHA384
    assert holds(key("root"), certificates.ECDSA_SHA256)
    assert not holds(key("root"), other)
    assert not holds(ec.generate_private_key(ec.SECP384R1()), certificates.ECDSA_SHA256)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), b"\xff" * 64, bytes(65)])
def test_a_signature_that_is_none_does_not_hold(signature: bytes) -> None:
    public = key("root").public_key()
    assert not certificates.raw_signature_holds(signature, b"signed", public)


# --- the PCK's certificate -----------------------------------------------------------------------


def claims_of(extension: Extension | None) -> PckClaims:
    extensions = (*SIGNER_EXTENSIONS, *([] if extension is None else [extension]))
    spec = dataclasses.replace(intel().pck, extensions=extensions)
    return certificates.parse_pck(parse_certificate(spec.encode()))


def rewritten(edit: Callable[[list[bytes]], object]) -> Extension:
    """The good extension, with its fields changed as DER."""
    made = pck_extension(PLATFORM)
    fields = [each.encoded for each in der.read_sequence(made.value)]
    edit(fields)
    return dataclasses.replace(made, value=sequence(*fields))


def field(name: bytes, value: bytes) -> bytes:
    return sequence(tlv(der.OBJECT_IDENTIFIER, name), value)


def test_every_field_of_the_extension_is_read() -> None:
    assert claims_of(pck_extension(PLATFORM)) == PLATFORM


def test_what_the_processor_authority_does_not_say_is_none_and_not_false() -> None:
    silent = dataclasses.replace(
        PLATFORM,
        platform_instance_id=None,
        dynamic_platform=None,
        cached_keys=None,
        smt_enabled=None,
    )
    assert claims_of(pck_extension(silent)) == silent
    unset = dataclasses.replace(PLATFORM, smt_enabled=False)
    assert claims_of(pck_extension(unset)).smt_enabled is False


@pytest.mark.parametrize("missing", range(5))
def test_no_field_may_be_missing(missing: int) -> None:
    with pytest.raises(EvidenceFormatError, match="no field"):
        claims_of(rewritten(lambda fields: fields.pop(missing)))


@pytest.mark.parametrize("twice", range(7))
def test_no_field_stands_twice(twice: int) -> None:
    with pytest.raises(EvidenceFormatError, match="stands twice"):
        claims_of(rewritten(lambda fields: fields.append(fields[twice])))


@pytest.mark.parametrize(
    ("index", "name", "value", "words"),
    [
        (0, certificates.PPID, tlv(der.OCTET_STRING, bytes(15)), "15 bytes, wanted 16"),
        (2, certificates.PCE_ID, tlv(der.OCTET_STRING, bytes(3)), "3 bytes, wanted 2"),
        (3, certificates.FMSPC, tlv(der.OCTET_STRING, b""), "0 bytes, wanted 6"),
        (3, certificates.FMSPC, integer(1), "wanted 0x04"),
        (4, certificates.SGX_TYPE, tlv(certificates.ENUMERATED, b"\x00\x01"), "2 bytes"),
    ],
)
def test_a_field_of_another_form_is_refused(
    index: int, name: bytes, value: bytes, words: str
) -> None:
    def edit(fields: list[bytes]) -> None:
        fields[index] = field(name, value)

    with pytest.raises(EvidenceFormatError, match=words):
        claims_of(rewritten(edit))


@pytest.mark.parametrize("components", [(256,) * 16])
def test_a_component_is_one_byte(components: tuple[int, ...]) -> None:
    with pytest.raises(EvidenceFormatError, match="256, at most 255"):
        claims_of(pck_extension(dataclasses.replace(PLATFORM, components=components)))


def test_a_certificate_without_the_extension_is_no_pck() -> None:
    with pytest.raises(EvidenceFormatError, match="no SGX extension"):
        claims_of(None)


# --- JSON ----------------------------------------------------------------------------------------


def served(kind: str, case: Case) -> bytes:
    return dict(case.endorsements())[kind]


GOOD = served(TCB_INFO, good())
SIGNATURE = GOOD[-132:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        GOOD + b"\n",
        b" " + GOOD,
        GOOD.replace(b"tcbInfo", b"enclaveIdentity", 1),
        GOOD.replace(b'"signature":', b'"signature": ', 1),
        GOOD[:-3] + b'"}',
        b'{"tcbInfo":{}},"signature":"' + SIGNATURE,
        b'{"tcbInfo":{"a":1.5},"signature":"' + SIGNATURE,
        b'{"tcbInfo":{\xff},"signature":"' + SIGNATURE,
        b'{"tcbInfo":{},"signature":"' + SIGNATURE,
    ],
)
def test_a_body_that_the_service_does_not_serve_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceFormatError):
        parse_tcb_info(data, ())


def test_a_body_that_is_too_long_is_not_read() -> None:
    for parse in (parse_tcb_info, parse_qe_identity):
        with pytest.raises(SizeLimitError, match="at most 131072"):
            parse(bytes(JSON_BYTES_MAX + 1), ())


def test_the_signed_bytes_are_the_served_bytes() -> None:
    made = parse_tcb_info(GOOD, ())
    assert b'{"tcbInfo":' + made.issued.body + b',"signature":"' in GOOD
    assert made.issued.signature.hex().encode() == SIGNATURE[2:-2]


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "version",
        "issueDate",
        "nextUpdate",
        "fmspc",
        "pceId",
        "tcbType",
        "tcbEvaluationDataNumber",
        "tdxModule",
        "tcbLevels",
    ],
)
def test_no_field_of_tcb_info_may_be_missing_or_of_another_type(name: str) -> None:
    for edit in (lambda v: v.pop(name), lambda v: v.update({name: True})):
        case = said("tcb_info", edit)(good())
        with pytest.raises(EvidenceFormatError, match=name):
            parse_tcb_info(served(TCB_INFO, case), ())


@pytest.mark.parametrize(
    "name",
    [
        "miscselect",
        "miscselectMask",
        "attributes",
        "attributesMask",
        "mrsigner",
        "isvprodid",
        "tcbLevels",
    ],
)
def test_no_field_of_the_identity_may_be_missing_or_of_another_type(name: str) -> None:
    for edit in (lambda v: v.pop(name), lambda v: v.update({name: [1]})):
        case = said("qe_identity", edit)(good())
        with pytest.raises(EvidenceFormatError, match=name if name != "tcbLevels" else "tcbLevels"):
            parse_qe_identity(served(QE_IDENTITY, case), ())


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v.update(issueDate="2026-11-24 12:00:00"),
        lambda v: v.update(issueDate="2026-02-30T12:00:00Z"),
        lambda v: v.update(fmspc="90C06F00000"),
        lambda v: v.update(fmspc="90C06F0000zz"),
        lambda v: v.update(id="TDX\n"),
        lambda v: v.update(tcbEvaluationDataNumber=1 << 32),
        lambda v: v.update(tcbLevels=v["tcbLevels"] * 33),
        lambda v: v.update(tcbLevels=["level"]),
        lambda v: v["tcbLevels"][0]["tcb"].update(pcesvn=1 << 16),
        lambda v: v["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].append({"svn": 0}),
        lambda v: v["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0].update(svn=256),
        lambda v: v["tcbLevels"][0].update(advisoryIDs=["INTEL SA"]),
        lambda v: v["tcbLevels"][0].update(advisoryIDs="INTEL-SA-00001"),
        lambda v: v["tcbLevels"][0].update(advisoryIDs=["A"] * 129),
        lambda v: v["tcbLevels"][0].pop("tcbDate"),
        lambda v: v["tdxModuleIdentities"].append(v["tdxModuleIdentities"][0]),
    ],
)
def test_tcb_info_with_a_value_of_another_form_is_refused(edit: Callable[[Any], object]) -> None:
    with pytest.raises(EvidenceFormatError):
        parse_tcb_info(served(TCB_INFO, said("tcb_info", edit)(good())), ())


def test_a_field_that_intel_adds_is_ignored() -> None:
    case = said("tcb_info", lambda v: v.update(newIn2027={"a": [1]}))(good())
    assert refusing(case) == set()


def test_levels_are_in_intels_order_whatever_the_order_in_the_json() -> None:
    case = said("tcb_info", lambda v: v["tcbLevels"].reverse())(good())
    assert parse_tcb_info(served(TCB_INFO, case), ()).levels == parse_tcb_info(GOOD, ()).levels
    assert refusing(case) == set()


def test_tcb_info_of_before_tdx_1_5_names_no_identities() -> None:
    case = said("tcb_info", lambda v: v.pop("tdxModuleIdentities"))(good())
    assert parse_tcb_info(served(TCB_INFO, case), ()).identities == ()
    assert refusing(case) == {"tdx-module"}


def test_collateral_is_named_by_the_digest_of_what_came() -> None:
    made = parse_tdx_endorsements(good().endorsements())
    assert [each.kind for each in made.collateral] == sorted(k for k, _ in good().endorsements())
