"""Who stands behind a TDX quote: its chain, the revocation lists, and what Intel issued about it.

Rules (docs/spec/evidence-tdx.md §4, checks 16 to 19):
- A chain is led to a pin by fingerprint; every other certificate that is believed leads to the same
  root. Each has the one name that its place wants: only its name tells Intel's signer of collateral
  from the key of any machine.
- A list is signed by the issuer of what it lists, and is fresh: neither of yesterday nor tomorrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trust.verifier.certificates import BASIC_CONSTRAINTS, Certificate, RevocationList
from trust.verifier.intel_certificates import certificate_signature_holds, raw_signature_holds
from trust.verifier.intel_collateral import Issued
from trust.verifier.results import CheckLine, line
from trust.verifier.roots import Anchor, find_root
from trust.verifier.tdx_subject import TdxSubject

PCK_NAME: Final = "Intel SGX PCK Certificate"
AUTHORITY_NAMES: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
ROOT_NAME: Final = "Intel SGX Root CA"
SIGNER_NAME: Final = "Intel SGX TCB Signing"
TCB_INFO_KIND: Final = ("TDX", 3)
QE_IDENTITY_KIND: Final = ("TD_QE", 2)
TCB_TYPE: Final = 0
_NO_AUTHORITY: Final = bytes.fromhex("3000")  # basicConstraints without cA, as DER writes it


# --- (16), (17): chain and lists ---------------------------------------------------------------


def _check_chain(subject: TdxSubject) -> CheckLine:
    """(16) PCK <- authority <- root, and the root is the one pinned for Intel."""
    leaf, authority, root = subject.leaf, subject.authority, subject.root
    wanted = "ECDSA P-256 from the PCK to a pinned root: " + (
        "; ".join(str(each) for each in subject.roots) or "none is pinned"
    )

    def refuse(found: str) -> CheckLine:
        return line("tdx-pck-chain", found, wanted, good=False)

    # (16a) The pin: over every byte, so the root's signature of itself adds nothing.
    pinned = find_root(subject.roots, root.fingerprint)
    if pinned is None:
        return refuse(f"{root.common_name[:64]} {root.fingerprint.hex()}")
    if pinned.anchor is not Anchor.INTEL_SGX:
        return refuse(f"{root.common_name[:64]}, which is pinned for {pinned.anchor.value}")
    # (16b) Each certificate: named by the one above it, an authority, which signed it.
    for below, above in ((authority, root), (leaf, authority)):
        if below.issuer != above.subject or not above.may_sign_certificates():
            return refuse(f"{below.common_name[:64]} names {below.issuer_common_name[:64]} above")
        if not certificate_signature_holds(below.signature, above.public_key):
            return refuse(f"{below.common_name[:64]}, which {above.common_name[:64]} did not sign")
    return line("tdx-pck-chain", f"{pinned}", wanted, good=True)


def _check_names(subject: TdxSubject) -> CheckLine:
    """(16) Each certificate has the name that its place wants, and the PCK is no authority."""
    names = [e.common_name for e in (subject.leaf, subject.authority, subject.root)]
    good = (
        names[0] == PCK_NAME
        and names[1] in AUTHORITY_NAMES
        and names[2] == ROOT_NAME
        and _is_no_authority(subject.leaf)
    )
    found = ", ".join(name[:64] for name in names)
    if not _is_no_authority(subject.leaf):
        found += ", the first of which may be an authority"
    wanted = f"{PCK_NAME}, {' or '.join(AUTHORITY_NAMES)}, {ROOT_NAME}"
    return line("tdx-pck-names", found, wanted, good=good)


def _check_validity(subject: TdxSubject) -> CheckLine:
    """(16) Every certificate that is believed is valid now."""
    certificates = subject.certificates
    for each in certificates:
        if not each.not_before <= subject.now <= each.not_after:
            found = f"{each.common_name[:64]}: {each.not_before} to {each.not_after}"
            return line("tdx-validity", found, f"valid at {subject.now}", good=False)
    found = f"{len(certificates)} certificates"
    return line("tdx-validity", found, f"valid at {subject.now}", good=True)


def _check_list(
    check: str, subject: TdxSubject, listed: RevocationList | None, by: Certificate
) -> CheckLine:
    wanted = f"a list by {by.common_name[:64]}, fresh at {subject.now}"

    def refuse(found: str) -> CheckLine:
        return line(check, found, wanted, good=False)

    if listed is None:
        return refuse("no list")
    if listed.issuer != by.subject or not by.may_sign_lists():
        return refuse(f"a list by {listed.issuer_common_name[:64]}")
    if not certificate_signature_holds(listed.signature, by.public_key):
        return refuse(f"a list that {by.common_name[:64]} did not sign")
    if listed.next_update is None:
        return refuse("a list that never ends")
    window = f"a list of {listed.this_update} to {listed.next_update}"
    good = listed.this_update <= subject.now < listed.next_update
    return line(check, window, wanted, good=good)


def _check_root_list(subject: TdxSubject) -> CheckLine:
    """(17) The root's list is here, its own, and fresh."""
    return _check_list("tdx-root-crl", subject, subject.endorsements.root_crl, subject.root)


def _check_pck_list(subject: TdxSubject) -> CheckLine:
    """(17) The list of the PCK's authority is here, its own, and fresh; so is the chain with it."""
    checked = _check_list("tdx-pck-crl", subject, subject.endorsements.pck_crl, subject.authority)
    chain = [each.fingerprint for each in subject.endorsements.pck_crl_chain]
    if checked.passed and chain != [subject.authority.fingerprint, subject.root.fingerprint]:
        return line("tdx-pck-crl", "a list with another chain", "the PCK's authority", good=False)
    return checked


def _check_revoked(subject: TdxSubject) -> CheckLine:
    """(17) Neither PCK nor authority nor a signer of collateral stands on its issuer's list."""
    root_list, pck_list = subject.lists
    by_root = (subject.authority, subject.root, *(s.signers[0] for s in subject.issued))
    looked_up = [(each, root_list) for each in by_root] + [(subject.leaf, pck_list)]
    for certificate, listed in looked_up:
        if listed is not None and certificate.serial in listed.serials:
            found = f"{certificate.common_name[:64]}, serial {certificate.serial:#x}, is revoked"
            return line("tdx-revoked", found, "none on its issuer's list", good=False)
    found = f"{len(looked_up)} certificates on no list"
    return line("tdx-revoked", found, "none on its issuer's list", good=True)


# --- (18), (19): what Intel issued ---------------------------------------------------------------


def _check_signer(check: str, subject: TdxSubject, issued: Issued) -> CheckLine:
    """Only the name tells a signer of collateral from the key of any machine."""
    root, wanted = subject.root, f"{SIGNER_NAME} and {ROOT_NAME}, signed by the PCK's root"
    names = ", ".join(each.common_name[:64] for each in issued.signers)
    if len(issued.signers) != 2:
        return line(check, f"a chain of {names}", wanted, good=False)
    signer, above = issued.signers
    if above.fingerprint != root.fingerprint:
        return line(check, f"a chain to {above.fingerprint.hex()}", wanted, good=False)
    if signer.common_name != SIGNER_NAME or not _is_no_authority(signer):
        return line(check, names, wanted, good=False)
    good = (
        signer.issuer == root.subject
        and root.may_sign_certificates()
        and certificate_signature_holds(signer.signature, root.public_key)
    )
    found = names if good else f"{names}, and the first is not by the second"
    return line(check, found, wanted, good=good)


def _check_issued_signature(check: str, issued: Issued) -> CheckLine:
    signer = issued.signers[0]
    good = raw_signature_holds(issued.signature, issued.body, signer.public_key)
    found = "one that verifies" if good else "one that does not verify"
    return line(check, found, "an ECDSA P-256 signature of its signer", good=good)


def _check_kind(check: str, issued: Issued, wanted: tuple[str, int]) -> CheckLine:
    found = (issued.id, issued.version)
    return line(
        check,
        f"{found[0]} version {found[1]}",
        f"{wanted[0]} version {wanted[1]}",
        good=found == wanted,
    )


def _check_window(check: str, subject: TdxSubject, issued: Issued) -> CheckLine:
    good = issued.issued_at <= subject.now < issued.next_update
    found = f"{issued.issued_at} to {issued.next_update}"
    return line(check, found, f"fresh at {subject.now}", good=good)


def _check_tcb_signer(subject: TdxSubject) -> CheckLine:
    """(18) The TCB info's chain is Intel's signer of collateral and the root, and nothing else."""
    return _check_signer("tdx-tcb-signer", subject, subject.issued[0])


def _check_tcb_signature(subject: TdxSubject) -> CheckLine:
    """(18) The TCB info is signed by the first of its chain."""
    return _check_issued_signature("tdx-tcb-signature", subject.issued[0])


def _check_tcb_kind(subject: TdxSubject) -> CheckLine:
    """(18) It is one of TDX, in the version that we read."""
    return _check_kind("tdx-tcb-kind", subject.issued[0], TCB_INFO_KIND)


def _check_tcb_window(subject: TdxSubject) -> CheckLine:
    """(18) It was issued, and has not ended."""
    return _check_window("tdx-tcb-window", subject, subject.issued[0])


def _check_qe_signer(subject: TdxSubject) -> CheckLine:
    """(18) The same of the quoting enclave's identity."""
    return _check_signer("tdx-qe-signer", subject, subject.issued[1])


def _check_qe_identity_signature(subject: TdxSubject) -> CheckLine:
    """(18) The same of the quoting enclave's identity."""
    return _check_issued_signature("tdx-qe-identity-signature", subject.issued[1])


def _check_qe_kind(subject: TdxSubject) -> CheckLine:
    """(18) It is the one for TDX, in the version that we read."""
    return _check_kind("tdx-qe-kind", subject.issued[1], QE_IDENTITY_KIND)


def _check_qe_window(subject: TdxSubject) -> CheckLine:
    """(18) It was issued, and has not ended."""
    return _check_window("tdx-qe-window", subject, subject.issued[1])


def _check_fmspc(subject: TdxSubject) -> CheckLine:
    """(19) The TCB info is about the PCK's kind of platform."""
    found, wanted = subject.endorsements.tcb_info.fmspc, subject.pck.fmspc
    return line("tdx-fmspc", found.hex(), wanted.hex(), good=found == wanted)


def _check_pce_id(subject: TdxSubject) -> CheckLine:
    """(19) And about its provisioning enclave."""
    found, wanted = subject.endorsements.tcb_info.pce_id, subject.pck.pce_id
    return line("tdx-pceid", found.hex(), wanted.hex(), good=found == wanted)


def _check_tcb_type(subject: TdxSubject) -> CheckLine:
    """(19) Its components are compared in the way that type 0 says; no other is known."""
    found = subject.endorsements.tcb_info.tcb_type
    return line("tdx-tcb-type", found, TCB_TYPE, good=found == TCB_TYPE)


CHAIN_CHECKS: Final[tuple[Callable[[TdxSubject], CheckLine], ...]] = (
    _check_chain,
    _check_names,
    _check_validity,
    _check_root_list,
    _check_pck_list,
    _check_revoked,
    _check_tcb_signer,
    _check_tcb_signature,
    _check_tcb_kind,
    _check_tcb_window,
    _check_qe_signer,
    _check_qe_identity_signature,
    _check_qe_kind,
    _check_qe_window,
    _check_fmspc,
    _check_pce_id,
    _check_tcb_type,
)


def _is_no_authority(certificate: Certificate) -> bool:
    return certificate.extensions.get(BASIC_CONSTRAINTS) == _NO_AUTHORITY
