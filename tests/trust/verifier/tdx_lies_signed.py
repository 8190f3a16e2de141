"""Lies about who says it, and whether it is said whole: checks 15 to 21 refuse them."""

from __future__ import annotations

import struct
from dataclasses import replace

from tests.trust.verifier.tdx_changes import (
    AUTH,
    AUTH_LENGTH,
    CERTIFICATION,
    CHAIN,
    KEY,
    QE_SIGNATURE,
    SIGNATURE,
    Lie,
    Mutation,
    authority,
    both,
    enclave,
    endorsed,
    flipped,
    intel,
    level,
    listed,
    pck,
    platform,
    put,
    quote_at,
    quoted,
    root,
    said,
    signed_at,
    signer,
    spec,
    unlisted,
    words,
)
from tests.trust.verifier.tdx_vendor import (
    DAY,
    NOW,
    Case,
    key,
    keys,
    pin,
    register,
)
from trust.simulated import intel as names
from trust.simulated import intel_formats as formats
from trust.simulated.intel import PLATFORM
from trust.simulated.intel_formats import moment, pck_extension
from trust.verifier import intel_collateral as kinds
from trust.verifier.roots import Anchor

LIES: list[Lie] = []


def lie(check: str, name: str, mutate: Mutation) -> None:
    LIES.append(Lie(name=name, mutate=mutate, check=check))


# --- 15: shape -----------------------------------------------------------------------------------

FORMAT = "tdx-quote-format"
lie(FORMAT, "quote-version-3", signed_at(0, b"\x03\x00"))
lie(FORMAT, "quote-version-6", signed_at(0, b"\x06\x00"))
lie(FORMAT, "attestation-key-of-another-type", signed_at(2, b"\x03\x00"))
lie(FORMAT, "tee-type-of-sgx", signed_at(4, bytes(4)))
lie(FORMAT, "reserved-header-bytes", signed_at(8, b"\x01"))
lie(FORMAT, "quoting-enclave-of-another-vendor", signed_at(12, bytes(16)))
lie(FORMAT, "body-of-an-unknown-type", signed_at(48, b"\x04\x00"))
lie(FORMAT, "body-of-tdx-1-0-with-the-size-of-1-5", signed_at(48, b"\x02\x00"))
lie(FORMAT, "bytes-after-the-quote", quoted(lambda q: q + b"\x00\x01"))
lie(FORMAT, "signature-section-too-long", quoted(lambda q: q[:-1]))
lie(FORMAT, "certification-data-of-another-type", quote_at(CERTIFICATION, b"\x05\x00"))
lie(FORMAT, "chain-of-another-type", quote_at(CHAIN, b"\x01\x00"))
lie(FORMAT, "authentication-data-of-31-bytes", quote_at(AUTH_LENGTH, struct.pack("<H", 31)))


def with_a_byte_after_its_chain(case: Case) -> Case:
    """Both lengths around it are one more."""
    start = len(case.guest.encode(case.version))

    def edit(quote: bytes) -> bytes:
        for offset in (start, start + CERTIFICATION + 2):
            (length,) = struct.unpack_from("<I", quote, offset)
            quote = put(quote, offset, struct.pack("<I", length + 1))
        return quote + b"\x01"

    return replace(case, edit_quote=edit)


lie(FORMAT, "byte-between-the-chain-and-the-end", with_a_byte_after_its_chain)
lie(FORMAT, "quote-of-over-16-kib", quoted(lambda q: q.ljust(16 * 1024 + 1, b"\x00")))
lie(FORMAT, "no-tcb-info", endorsed(lambda e: e.pop(kinds.TCB_INFO)))
lie(FORMAT, "endorsement-of-an-unknown-kind", endorsed(lambda e: e.update({"tdx-token": b"x"})))
lie(
    FORMAT,
    "tcb-info-twice",
    lambda case: replace(case, edit_endorsements=lambda e: (*e, e[0])),
)
lie(
    FORMAT,
    "tcb-info-with-a-field-twice",
    endorsed(
        lambda e: e.update(
            {kinds.TCB_INFO: e[kinds.TCB_INFO].replace(b'"id":"TDX",', b'"id":"TDX",' * 2, 1)}
        )
    ),
)
lie(FORMAT, "status-that-nobody-knows", level("tcb_info", ("tcbLevels", 0), tcbStatus="Fine"))
lie(
    FORMAT,
    "platform-level-of-15-components",
    said("tcb_info", lambda value: value["tcbLevels"][0]["tcb"]["tdxtcbcomponents"].pop()),
)
lie(
    FORMAT,
    "enclave-level-that-speaks-of-configuration",
    level("qe_identity", ("tcbLevels", 0), tcbStatus="ConfigurationNeeded"),
)
lie(FORMAT, "pck-without-sgx-extension", pck(extensions=formats.SIGNER_EXTENSIONS))

# --- 16: chain of the PCK ------------------------------------------------------------------------

CHAIN_CHECK = "tdx-pck-chain"
lie(
    CHAIN_CHECK,
    "root-with-intels-name-that-nobody-pinned",
    lambda case: replace(case, roots=(pin(register(7)[:32]),)),
)
lie(
    CHAIN_CHECK,
    "root-pinned-for-gpus",
    lambda case: replace(case, roots=(pin(case.intel.fingerprint, Anchor.NVIDIA_DEVICE),)),
)
lie(CHAIN_CHECK, "no-root-pinned", lambda case: replace(case, roots=()))
lie(CHAIN_CHECK, "authority-that-the-root-did-not-sign", authority(signer=key("attacker")))
lie(CHAIN_CHECK, "pck-that-the-authority-did-not-sign", pck(signer=key("attacker")))
lie(CHAIN_CHECK, "pck-that-another-pck-signed", pck(signer=keys().pck))
lie(CHAIN_CHECK, "authority-under-another-name", authority(issuer="Intel SGX Root"))
lie(CHAIN_CHECK, "pck-under-another-authority", pck(issuer="Intel SGX PCK Processor CA"))
lie(
    CHAIN_CHECK,
    "authority-that-may-sign-lists-alone",
    authority(
        extensions=(
            formats.Extension(
                name=formats.KEY_USAGE, value=bytes.fromhex("03020102"), critical=True
            ),
            formats.AUTHORITY_OF_LEAVES,
        )
    ),
)

NAMES = "tdx-pck-names"
lie(NAMES, "pck-under-another-name", pck(subject="Intel SGX PCK"))
lie(NAMES, "pck-with-the-name-of-the-signer", pck(subject=names.SIGNER_NAME))
lie(
    NAMES,
    "pck-that-may-be-an-authority",
    pck(
        extensions=(
            formats.SIGNS_DATA,
            formats.Extension(
                name=formats.BASIC_CONSTRAINTS, value=bytes.fromhex("30030101ff"), critical=True
            ),
            pck_extension(PLATFORM),
        )
    ),
)
lie(
    NAMES,
    "authority-of-another-name",
    both(
        authority(subject="Intel SGX PCK Server CA"),
        pck(issuer="Intel SGX PCK Server CA"),
        listed("pck_list", issuer="Intel SGX PCK Server CA"),
    ),
)
OTHER_ROOT = "Intel SGX Root CA 2"
lie(
    NAMES,
    "root-of-another-name",
    both(
        authority(issuer=OTHER_ROOT),
        signer("tcb_chain", issuer=OTHER_ROOT),
        signer("qe_chain", issuer=OTHER_ROOT),
        root(subject=OTHER_ROOT, issuer=OTHER_ROOT),
        listed("root_list", issuer=OTHER_ROOT),
    ),
)

VALIDITY = "tdx-validity"
lie(VALIDITY, "pck-that-has-ended", pck(not_after=NOW - DAY / 2))
lie(VALIDITY, "pck-of-tomorrow", pck(not_before=NOW + DAY))
lie(VALIDITY, "authority-that-has-ended", authority(not_after=NOW - DAY / 2))
lie(VALIDITY, "root-that-has-ended", root(not_after=NOW - DAY / 2))
lie(VALIDITY, "tcb-signer-that-has-ended", signer("tcb_chain", not_after=NOW - DAY / 2))
lie(VALIDITY, "identity-signer-of-tomorrow", signer("qe_chain", not_before=NOW + DAY))

# --- 17: revocation ------------------------------------------------------------------------------

for which, check, other in (
    ("root_list", "tdx-root-crl", names.AUTHORITY_NAME),
    ("pck_list", "tdx-pck-crl", "Intel SGX PCK Processor CA"),
):
    label = which.replace("_", "-")
    lie(check, f"no-{label}", unlisted(which))
    lie(check, f"{label}-of-tomorrow", listed(which, this_update=NOW + DAY))
    lie(check, f"{label}-of-yesterday", listed(which, next_update=NOW - DAY / 2))
    lie(check, f"{label}-that-ends-now", listed(which, next_update=NOW))
    lie(check, f"{label}-that-never-ends", listed(which, next_update=None))
    lie(check, f"{label}-of-another-issuer", listed(which, issuer=other))
    lie(check, f"{label}-that-its-issuer-did-not-sign", listed(which, signer=key("attacker")))
CERTIFICATES_ALONE = formats.Extension(
    name=formats.KEY_USAGE, value=bytes.fromhex("03020204"), critical=True
)
lie(
    "tdx-root-crl",
    "root-that-may-not-sign-lists",
    root(extensions=(CERTIFICATES_ALONE, formats.ROOT_AUTHORITY)),
)
lie(
    "tdx-pck-crl",
    "authority-that-may-not-sign-lists",
    authority(extensions=(CERTIFICATES_ALONE, formats.AUTHORITY_OF_LEAVES)),
)
lie(
    "tdx-pck-crl",
    "pck-list-with-another-chain",
    lambda case: intel(case, list_chain=case.intel.tcb_chain),
)

REVOKED = "tdx-revoked"
SERIALS = {
    subject: int.from_bytes(formats.digest(subject.encode())[:19], "big")
    for subject in (names.PCK_NAME, names.AUTHORITY_NAME, names.SIGNER_NAME, names.ROOT_NAME)
}
lie(REVOKED, "revoked-pck", listed("pck_list", serials=(5, SERIALS[names.PCK_NAME])))
lie(REVOKED, "revoked-authority", listed("root_list", serials=(SERIALS[names.AUTHORITY_NAME],)))
lie(REVOKED, "revoked-root", listed("root_list", serials=(SERIALS[names.ROOT_NAME],)))
lie(
    REVOKED,
    "revoked-tcb-signer",
    both(signer("tcb_chain", serial=99), listed("root_list", serials=(99,))),
)
lie(
    REVOKED,
    "revoked-identity-signer",
    both(signer("qe_chain", serial=99), listed("root_list", serials=(99,))),
)

# --- 18, 19: what Intel issued -------------------------------------------------------------------

for document, chain, holder, check in (
    ("tcb_info", "tcb_chain", "tcb_info_key", "tdx-tcb-signer"),
    ("qe_identity", "qe_chain", "qe_identity_key", "tdx-qe-signer"),
):
    label = document.replace("_", "-")

    def by_a_pck(case: Case, chain: str = chain, holder: str = holder) -> Case:
        old = case.intel
        machine = spec(names.PCK_NAME, "extracted", old.authority)
        return intel(case, **{chain: (machine, old.authority, old.root), holder: key("extracted")})

    def under_another_root(case: Case, chain: str = chain, holder: str = holder) -> Case:
        old = replace(case.intel.root, key=key("attacker"), signer=key("attacker"))
        made = spec(names.SIGNER_NAME, "forger", old)
        return intel(case, **{chain: (made, old), holder: key("forger")})

    def by_an_authority(case: Case, chain: str = chain, holder: str = holder) -> Case:
        made = spec(
            names.SIGNER_NAME,
            "authority",
            case.intel.root,
            extensions=formats.AUTHORITY_EXTENSIONS,
        )
        return intel(case, **{chain: (made, case.intel.root), holder: key("authority")})

    def below_an_authority(case: Case, chain: str = chain, holder: str = holder) -> Case:
        made = spec(names.SIGNER_NAME, "extracted", case.intel.authority)
        return intel(case, **{chain: (made, case.intel.root), holder: key("extracted")})

    lie(check, f"{label}-signed-by-a-pck", by_a_pck)
    lie(check, f"{label}-signed-under-another-root", under_another_root)
    lie(check, f"{label}-signed-by-an-authority", by_an_authority)
    lie(check, f"{label}-signed-below-an-authority", below_an_authority)
    lie(check, f"{label}-signer-that-names-another-root", signer(chain, issuer=OTHER_ROOT))
    lie(
        check,
        f"{label}-with-another-root-beside-its-signer",
        lambda case, chain=chain: intel(
            case, **{chain: (getattr(case.intel, chain)[0], case.intel.authority)}
        ),
    )
    lie(check, f"{label}-signed-under-another-name", signer(chain, subject="Intel SGX TCB"))
    lie(check, f"{label}-signer-that-the-root-did-not-sign", signer(chain, signer=key("forger")))
    lie(
        check,
        f"{label}-with-a-chain-of-three",
        lambda case, chain=chain: intel(
            case, **{chain: (*getattr(case.intel, chain), case.intel.root)}
        ),
    )
    lie(
        "tdx-tcb-signature" if document == "tcb_info" else "tdx-qe-identity-signature",
        f"{label}-that-its-signer-did-not-sign",
        lambda case, holder=holder: intel(case, **{holder: key("attacker")}),
    )
    window = "tdx-tcb-window" if document == "tcb_info" else "tdx-qe-window"
    lie(window, f"{label}-of-tomorrow", words(document, issueDate=moment(NOW + DAY)))
    lie(window, f"{label}-of-yesterday", words(document, nextUpdate=moment(NOW - DAY / 2)))
    lie(window, f"{label}-that-ends-now", words(document, nextUpdate=moment(NOW)))

lie("tdx-tcb-kind", "tcb-info-of-sgx", words("tcb_info", id="SGX"))
lie("tdx-tcb-kind", "tcb-info-of-version-2", words("tcb_info", version=2))
lie("tdx-tcb-kind", "tcb-info-of-version-4", words("tcb_info", version=4))
lie("tdx-qe-kind", "identity-of-the-enclave-for-sgx", words("qe_identity", id="QE"))
lie("tdx-qe-kind", "identity-of-version-3", words("qe_identity", version=3))
lie("tdx-fmspc", "tcb-info-of-another-platform", words("tcb_info", fmspc="50806F000000"))
lie("tdx-fmspc", "pck-of-another-platform", platform(fmspc=bytes.fromhex("50806f000000")))
lie("tdx-pceid", "tcb-info-of-another-pce", words("tcb_info", pceId="0001"))
lie("tdx-pceid", "pck-of-another-pce", platform(pce_id=b"\x00\x01"))
lie("tdx-tcb-type", "tcb-info-of-type-1", words("tcb_info", tcbType=1))

# --- 20, 21: quoting enclave and quote -----------------------------------------------------------

lie("tdx-qe-signature", "enclave-report-that-the-pck-did-not-sign", flipped(QE_SIGNATURE + 40))
lie("tdx-qe-match", "enclave-of-another-signer", enclave(mr_signer=register(9)[:32]))
lie("tdx-qe-match", "another-enclave-of-intels", enclave(isv_prod_id=1))
lie("tdx-qe-match", "enclave-in-debug-mode", enclave(attributes=bytes([0x17]) + bytes(15)))
lie("tdx-qe-match", "enclave-with-other-attributes", enclave(attributes=bytes([0x31]) + bytes(15)))
lie("tdx-qe-match", "enclave-with-miscselect", enclave(miscselect=1))
lie(
    "tdx-qe-match",
    "debug-enclave-that-the-mask-overlooks",
    both(
        enclave(attributes=bytes([0x13]) + bytes(15)),
        words("qe_identity", attributesMask="0000000000000000" + "00" * 8),
    ),
)
lie(
    "tdx-qe-report-data",
    "upper-half-of-enclave-report-data",
    enclave(upper_report_data=b"\x01" * 32),
)
lie("tdx-qe-report-data", "other-authentication-data", flipped(AUTH))


def by_an_unvouched_key(case: Case) -> Case:
    """The quote of a guest under the attacker's own attestation key, put into a good one."""
    public = key("attacker").public_key().public_numbers()
    own = public.x.to_bytes(32, "big") + public.y.to_bytes(32, "big")
    signed = case.guest.encode(case.version)
    start = len(signed)

    def edit(quote: bytes) -> bytes:
        quote = put(quote, start + SIGNATURE, formats.sign_raw(signed, key("attacker")))
        return put(quote, start + KEY, own)

    return replace(case, edit_quote=edit)


lie("tdx-qe-report-data", "attestation-key-that-no-enclave-vouches-for", by_an_unvouched_key)
lie("tdx-quote-signature", "measurement-changed-after-signing", flipped(-648 + 136))
lie("tdx-quote-signature", "report-data-changed-after-signing", flipped(-65))
lie("tdx-quote-signature", "signature-of-another-quote", flipped(SIGNATURE + 40))
