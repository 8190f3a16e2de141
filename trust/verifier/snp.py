"""SEV-SNP: from a parsed report and its endorsements to evidence that a pinned root stands behind.

Rules (docs/spec/evidence-snp.md §3):
- Nine checks, each of which looks at everything that it needs itself and gives one line: what was
  found, what was wanted. One that does not hold refuses the evidence.
- The checks are about who says it and whether it is said whole. Whether what is said is *good*
  (versions, debug, measurement, report data) is for `trust.verifier.appraisal`.
- Endorsements come from the host: none is believed before the chain leads from it to a pin, and a
  withheld revocation list is a refusal.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trust.errors import EvidenceFormatError, EvidenceSignatureError
from trust.evidence.claims import Platform, Product, SigningKey, SnpClaims
from trust.evidence.snp import (
    ECDSA_P384_SHA384,
    SIGNING_KEY_VCEK,
    SIGNING_KEY_VLEK,
    SnpReport,
    parse_snp_report,
    parse_tcb,
    product_of_cpuid,
)
from trust.verifier.endorsements import (
    COMMON_NAMES,
    ISSUER_PREFIXES,
    SnpEndorsements,
    certified_tcb,
    csp_id,
    hardware_id,
    product_in_extension,
    product_of_root,
    role_of_issuer,
)
from trust.verifier.results import _SEAL, CheckLine, VerifiedEvidence, line
from trust.verifier.roots import PinnedRoot, find_root

# Which of the checks of the field's list (docs/evidence-checks.md) each line is.
CHECK_NUMBERS: Final = MappingProxyType(
    {
        "report-format": 1,
        "signing-key": 2,
        "report-signature": 3,
        "chain": 4,
        "validity": 5,
        "revocation": 6,
        "product": 7,
        "chip-id": 8,
        "certificate-tcb": 9,
    }
)
_SIGNING_KEYS: Final = {SIGNING_KEY_VCEK: SigningKey.VCEK, SIGNING_KEY_VLEK: SigningKey.VLEK}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """All that the nine checks look at."""

    report: SnpReport
    endorsements: SnpEndorsements
    roots: tuple[PinnedRoot, ...]
    now: dt.datetime


def verify_snp(
    report: SnpReport,
    endorsements: SnpEndorsements,
    roots: tuple[PinnedRoot, ...],
    now: dt.datetime,
) -> VerifiedEvidence:
    """Make the nine checks at the aware time `now`; all must hold.

    Raises EvidenceSignatureError for the first that does not, with what it found and wanted.
    Left to the caller: everything that a policy says, see `appraise`.
    """
    checks = check_snp(report, endorsements, roots, now)
    for number, check in enumerate(checks, start=1):
        if not check.passed:
            raise EvidenceSignatureError(f"SNP check {number}, {check}")
    root = find_root(roots, endorsements.root.fingerprint)
    revocations = endorsements.revocations
    if (
        root is None
        or root.product is None
        or revocations is None
        or revocations.next_update is None
    ):
        raise AssertionError("checks 4 and 6 hold, and one of them cannot")
    chain = (endorsements.endorsement_key, endorsements.issuer, endorsements.root)
    return VerifiedEvidence(
        claims=claims_of(report, endorsements, root.product),
        root=root,
        collateral=endorsements.collateral,
        checks=checks,
        verified_at=now,
        expires_at=min(revocations.next_update, *(each.not_after for each in chain)),
        seal=_SEAL,
    )


def check_snp(
    report: SnpReport,
    endorsements: SnpEndorsements,
    roots: tuple[PinnedRoot, ...],
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    """The nine lines, whatever they say: for a person who asks why. Nothing is believed by it."""
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    subject = _Subject(report=report, endorsements=endorsements, roots=roots, now=now)
    return tuple(check(subject) for check in _CHECKS)


def claims_of(report: SnpReport, endorsements: SnpEndorsements, product: Product) -> SnpClaims:
    """What the report says, as `product` lays it out. Raises EvidenceFormatError."""
    names_chip = endorsements.kind is SigningKey.VCEK
    return SnpClaims(
        platform=Platform.SEV_SNP,
        product=product,
        report_version=report.version,
        signing_key=endorsements.kind,
        chip_id=report.chip_id if names_chip else None,
        csp_id=None if names_chip else csp_id(endorsements.endorsement_key),
        measurement=report.measurement,
        host_data=report.host_data,
        report_data=report.report_data,
        id_key_digest=report.id_key_digest,
        author_key_digest=report.author_key_digest,
        report_id_ma=report.report_id_ma,
        vmpl=report.vmpl,
        guest_svn=report.guest_svn,
        guest=report.policy,
        platform_info=report.platform_info,
        reported_tcb=parse_tcb(report.reported_tcb, product),
        committed_tcb=parse_tcb(report.committed_tcb, product),
        current_tcb=parse_tcb(report.current_tcb, product),
        launch_tcb=parse_tcb(report.launch_tcb, product),
        committed_version=report.committed_version,
        current_version=report.current_version,
        launch_mitigations=report.launch_mitigations,
        current_mitigations=report.current_mitigations,
    )


# --- the nine checks -----------------------------------------------------------------------------


def _check_format(subject: _Subject) -> CheckLine:
    """(1) The report's fields are what its own bytes say; the parser refuses all else."""
    same = parse_snp_report(subject.report.raw) == subject.report
    found = f"version {subject.report.version}" if same else "fields that its bytes do not say"
    return line("report-format", found, "1184 bytes of a known version", good=same)


def _check_signing_key(subject: _Subject) -> CheckLine:
    """(2) Algorithm, SIGNING_KEY, the certificate's name and its issuer's name are of one kind."""
    report, endorsements = subject.report, subject.endorsements
    role = role_of_issuer(endorsements.issuer)
    stated = _SIGNING_KEYS.get(report.signing_key)
    name, issuer = endorsements.endorsement_key.common_name, endorsements.issuer.common_name
    wanted = (
        f"algorithm {ECDSA_P384_SHA384}, key {endorsements.kind.value}, "
        f"{COMMON_NAMES[endorsements.kind]} under {ISSUER_PREFIXES[endorsements.kind]}<product>"
    )
    found = (
        f"algorithm {report.signature_algorithm}, key "
        f"{stated.value if stated else report.signing_key}, {name[:64]} under {issuer[:64]}"
    )
    good = (
        report.signature_algorithm == ECDSA_P384_SHA384
        and stated is endorsements.kind
        and name == COMMON_NAMES[endorsements.kind]
        and role is not None
        and role[0] is endorsements.kind
    )
    return line("signing-key", found, wanted, good=good)


def _check_signature(subject: _Subject) -> CheckLine:
    """(3) ECDSA P-384 with SHA-384 over 0x000 to 0x29F, under the endorsement key."""
    report, key = subject.report, subject.endorsements.endorsement_key.public_key
    wanted = "an ECDSA P-384 signature of the endorsement key"
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return line("report-signature", "a key that is not on P-384", wanted, good=False)
    signature = encode_dss_signature(report.signature_r, report.signature_s)
    try:
        key.verify(signature, report.signed_bytes, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return line("report-signature", "one that does not verify", wanted, good=False)
    return line("report-signature", "one that verifies", wanted, good=True)


def _check_chain(subject: _Subject) -> CheckLine:
    """(4) Endorsement key <- issuer <- root, and the root is the one pinned for its product."""
    endorsements = subject.endorsements
    leaf, issuer, root = endorsements.endorsement_key, endorsements.issuer, endorsements.root
    wanted = "RSASSA-PSS SHA-384 from the key to a pinned root: " + _named(subject.roots)

    def refuse(found: str) -> CheckLine:
        return line("chain", found, wanted, good=False)

    # (4a) The pin: over every byte, so the root's signature of itself adds nothing.
    pinned = find_root(subject.roots, root.fingerprint)
    if pinned is None:
        return refuse(f"{root.common_name[:64]} {root.fingerprint.hex()}")
    if product_of_root(root) is not pinned.product:
        return refuse(f"{root.common_name[:64]}, which is pinned for {pinned.anchor.value}")
    # (4b) The issuer: named by the root, an authority, signed by the root.
    if issuer.issuer != root.subject or not root.may_sign_certificates():
        return refuse(f"an issuer that names {issuer.issuer_common_name[:64]} above it")
    if not issuer.signature.holds_under(root.public_key):
        return refuse("an issuer that the root did not sign")
    # (4c) The endorsement key: named by the issuer, signed by the issuer.
    if leaf.issuer != issuer.subject or not issuer.may_sign_certificates():
        return refuse(f"a key that names {leaf.issuer_common_name[:64]} above it")
    if not leaf.signature.holds_under(issuer.public_key):
        return refuse("a key that the issuer did not sign")
    return line("chain", f"{pinned}", wanted, good=True)


def _check_validity(subject: _Subject) -> CheckLine:
    """(5) All three certificates are valid now."""
    endorsements, now = subject.endorsements, subject.now
    for each in (endorsements.endorsement_key, endorsements.issuer, endorsements.root):
        if not each.not_before <= now <= each.not_after:
            found = f"{each.common_name[:64]}: {each.not_before} to {each.not_after}"
            return line("validity", found, f"valid at {now}", good=False)
    return line("validity", "three certificates", f"valid at {now}", good=True)


def _check_revocation(subject: _Subject) -> CheckLine:
    """(6) The root's revocation list is here and fresh, and does not list the issuer.

    It cannot list the endorsement key: that has another issuer, and every VCEK has serial 0.
    """
    root, revocations = subject.endorsements.root, subject.endorsements.revocations
    wanted = f"a list by {root.common_name[:64]}, fresh at {subject.now}, without its issuer"

    def refuse(found: str) -> CheckLine:
        return line("revocation", found, wanted, good=False)

    if revocations is None:
        return refuse("no list")
    if revocations.issuer != root.subject or not root.may_sign_lists():
        return refuse(f"a list by {revocations.issuer_common_name[:64]}")
    if not revocations.signature.holds_under(root.public_key):
        return refuse("a list that the root did not sign")
    if revocations.next_update is None:
        return refuse("a list that never ends")
    window = f"{revocations.this_update} to {revocations.next_update}"
    if not revocations.this_update <= subject.now < revocations.next_update:
        return refuse(f"a list of {window}")
    serial = subject.endorsements.issuer.serial
    if serial in revocations.serials:
        return refuse(f"a list that revokes serial {serial:#x}")
    return line("revocation", f"a list of {window}, without serial {serial:#x}", wanted, good=True)


def _check_product(subject: _Subject) -> CheckLine:
    """(7) Root, issuer, productName and, from version 3 on, CPUID name one product."""
    endorsements, cpuid = subject.endorsements, subject.report.cpuid
    role = role_of_issuer(endorsements.issuer)
    products = {
        "root": product_of_root(endorsements.root),
        "issuer": role[1] if role else None,
        "productName": product_in_extension(endorsements.endorsement_key),
    }
    if cpuid is not None:
        products["CPUID"] = product_of_cpuid(cpuid)
    found = ", ".join(f"{k} {v.value if v else 'unknown'}" for k, v in products.items())
    good = None not in products.values() and len(set(products.values())) == 1
    return line("product", found, "one product throughout", good=good)


def _check_chip_id(subject: _Subject) -> CheckLine:
    """(8) CHIP_ID is the one in the certificate; a VLEK names a provider and no chip."""
    report, endorsements = subject.report, subject.endorsements
    certificate = endorsements.endorsement_key
    if report.chip_key_masked:
        return line("chip-id", "MASK_CHIP_KEY set", "a chip key that is not masked", good=False)
    if endorsements.kind is SigningKey.VLEK:
        provider = csp_id(certificate)
        good = provider is not None and not any(report.chip_id)
        found = f"CHIP_ID {report.chip_id.hex()}, provider {provider!r}"
        return line("chip-id", found, "CHIP_ID of zeros, and a named provider", good=good)
    certified = hardware_id(certificate)
    wanted = f"HWID {certified.hex() if certified else 'in the certificate'}"
    return line(
        "chip-id", f"CHIP_ID {report.chip_id.hex()}", wanted, good=report.chip_id == certified
    )


def _check_certificate_tcb(subject: _Subject) -> CheckLine:
    """(9) REPORTED_TCB is what the certificate certifies, byte by byte, by the product's layout.

    What a report says of itself is what its firmware says; AMD gives a key to one TCB alone.
    """
    report, certificate = subject.report, subject.endorsements.endorsement_key
    product = product_of_root(subject.endorsements.root)
    certified = certified_tcb(certificate, product) if product else None
    found = f"REPORTED_TCB {report.reported_tcb.hex()}"
    wanted = f"certified {certified.hex() if certified else 'TCB extensions of the product'}"
    if product is None or certified != report.reported_tcb:
        return line("certificate-tcb", found, wanted, good=False)
    try:
        for value in (report.current_tcb, report.committed_tcb, report.launch_tcb, certified):
            parse_tcb(value, product)
    except EvidenceFormatError as error:
        return line("certificate-tcb", f"{error}", wanted, good=False)
    return line("certificate-tcb", found, wanted, good=True)


_CHECKS: Final[tuple[Callable[[_Subject], CheckLine], ...]] = (
    _check_format,
    _check_signing_key,
    _check_signature,
    _check_chain,
    _check_validity,
    _check_revocation,
    _check_product,
    _check_chip_id,
    _check_certificate_tcb,
)


def _named(roots: tuple[PinnedRoot, ...]) -> str:
    return "; ".join(str(each) for each in roots) or "none is pinned"
