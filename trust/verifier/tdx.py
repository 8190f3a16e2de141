"""Intel TDX: from a parsed quote and its endorsements to evidence that a pinned root stands behind.

Rules (docs/spec/evidence-tdx.md §4):
- Each check looks at everything that it needs itself and gives one line: what was found, what was
  wanted. One that does not hold refuses the quote.
- All of it is checked here; dcap-qvl is asked last, where all of it holds, for a second opinion,
  and both must agree on status and advisories. Alone it would accept TCB info that some machine's
  PCK signed, a list of tomorrow, and more: each such gap is a check of ours.
- Whether what is said is *good* (status, debug, registers) is for `trust.verifier.tdx_appraisal`.
- Endorsements come from the host: none is believed before a chain leads from it to a pin, and what
  is withheld is a refusal.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from trust.encoding import digest
from trust.errors import EvidenceSignatureError
from trust.evidence.tdx import (
    TcbClaims,
    TdxClaims,
    TdxQuote,
    never_allowed,
    parse_tdx_quote,
)
from trust.verifier.intel_certificates import point_on_p256, raw_signature_holds
from trust.verifier.intel_collateral import TdxEndorsements
from trust.verifier.results import (
    _SEAL,
    CheckLine,
    VerifiedEvidence,
    line,
    not_demanded,
)
from trust.verifier.roots import PinnedRoot, find_root
from trust.verifier.tdx_chain import CHAIN_CHECKS
from trust.verifier.tdx_second_opinion import SecondOpinion, ask_dcap_qvl
from trust.verifier.tdx_subject import TdxSubject, tdx_subject
from trust.verifier.tdx_tcb import merged_status, module_identity

SGX_DEBUG: Final = 0x02  # ATTRIBUTES.DEBUG of an enclave, in the first byte

# Of the project's list of checks for verifiers.
CHECK_NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "tdx-quote-format": 15,
        "tdx-pck-chain": 16,
        "tdx-pck-names": 16,
        "tdx-validity": 16,
        "tdx-root-crl": 17,
        "tdx-pck-crl": 17,
        "tdx-revoked": 17,
        "tdx-tcb-signer": 18,
        "tdx-tcb-signature": 18,
        "tdx-tcb-kind": 18,
        "tdx-tcb-window": 18,
        "tdx-qe-signer": 18,
        "tdx-qe-identity-signature": 18,
        "tdx-qe-kind": 18,
        "tdx-qe-window": 18,
        "tdx-fmspc": 19,
        "tdx-pceid": 19,
        "tdx-tcb-type": 19,
        "tdx-qe-signature": 20,
        "tdx-qe-match": 20,
        "tdx-qe-report-data": 20,
        "tdx-quote-signature": 21,
        "tdx-module": 22,
        "tdx-tcb-level": 22,
        "tdx-second-opinion": 22,
    }
)


def verify_tdx(
    quote: TdxQuote,
    endorsements: TdxEndorsements,
    roots: tuple[PinnedRoot, ...],
    now: dt.datetime,
) -> VerifiedEvidence:
    """Make all checks at the aware time `now`; all must hold.

    Raises EvidenceSignatureError for the first that does not, with what it found and wanted, and
    EvidenceFormatError for a chain in the quote that is none. Left to the caller: everything that a
    policy says, see `trust.verifier.tdx_appraisal`.
    """
    subject = tdx_subject(quote, endorsements, roots, now)
    checks = _check(subject)
    for check in checks:
        if not check.passed:
            raise EvidenceSignatureError(f"TDX check {CHECK_NUMBERS[check.id]}, {check}")
    root = find_root(roots, subject.root.fingerprint)
    reached, lists = subject.levels.reached, [each for each in subject.lists if each is not None]
    list_ends = [each.next_update for each in lists if each.next_update is not None]
    platform, enclave = subject.levels.platform, subject.levels.quoting_enclave
    if root is None or reached is None or platform is None or enclave is None or len(list_ends) < 2:
        raise AssertionError("checks 16, 17 and 22 hold, and one of them cannot")
    tcb_info, qe_identity = subject.issued
    module = subject.levels.module if subject.levels.module_counts else None
    advisories = dict.fromkeys(word for level in reached for word in level.advisories)
    tcb = TcbClaims(
        status=merged_status(reached),
        platform=platform.status,
        module=None if module is None else module.status,
        quoting_enclave=enclave.status,
        advisories=tuple(advisories),
        tcb_info_number=tcb_info.number,
        qe_identity_number=qe_identity.number,
        oldest_issue=min(tcb_info.issued_at, qe_identity.issued_at, lists[1].this_update),
    )
    ends = (
        *list_ends,
        *(each.next_update for each in subject.issued),
        *(each.not_after for each in subject.certificates),
    )
    return VerifiedEvidence(
        claims=TdxClaims(quote_version=quote.version, body=quote.body, pck=subject.pck, tcb=tcb),
        root=root,
        collateral=endorsements.collateral,
        checks=checks,
        verified_at=now,
        expires_at=min(ends),
        seal=_SEAL,
    )


def check_tdx(
    quote: TdxQuote,
    endorsements: TdxEndorsements,
    roots: tuple[PinnedRoot, ...],
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    """All lines, whatever they say: for a person who asks why. Nothing is believed by it.

    Raises EvidenceFormatError for a chain in the quote that is none.
    """
    return _check(tdx_subject(quote, endorsements, roots, now))


def _check(subject: TdxSubject) -> tuple[CheckLine, ...]:
    own = tuple(check(subject) for check in _CHECKS)
    return (*own, _check_second_opinion(subject, own))


# --- (15), (20) to (22): quote, quoting enclave, levels ------------------------------------------


def _check_format(subject: TdxSubject) -> CheckLine:
    """(15) The quote's fields are what its own bytes say; the parser refuses all else."""
    quote = subject.quote
    again = parse_tdx_quote(quote.raw + bytes(quote.trailing_zeros))
    found = f"version {quote.version}" if again == quote else "fields that its bytes do not say"
    return line("tdx-quote-format", found, "a TDX quote of version 4 or 5", good=again == quote)


def _check_qe_signature(subject: TdxSubject) -> CheckLine:
    """(20) The quoting enclave's report is signed by the PCK."""
    quote = subject.quote
    good = raw_signature_holds(
        quote.qe_report_signature, quote.qe_report.raw, subject.leaf.public_key
    )
    found = "one that verifies" if good else "one that does not verify"
    return line("tdx-qe-signature", found, "an ECDSA P-256 signature of the PCK", good=good)


def _check_qe_match(subject: TdxSubject) -> CheckLine:
    """(20) It is Intel's enclave: signer, product, attributes and MISCSELECT under masks."""
    report, identity = subject.quote.qe_report, subject.endorsements.qe_identity
    mask = identity.attributes_mask
    good = (
        report.mr_signer == identity.mr_signer
        and report.isv_prod_id == identity.isv_prod_id
        and not report.attributes[0] & SGX_DEBUG
        and _masked(report.attributes, mask) == _masked(identity.attributes, mask)
        and report.miscselect & identity.miscselect_mask
        == identity.miscselect & identity.miscselect_mask
    )
    return line(
        "tdx-qe-match",
        f"signer {report.mr_signer.hex()}, product {report.isv_prod_id}, "
        f"attributes {report.attributes.hex()}, MISCSELECT {report.miscselect:#x}",
        f"signer {identity.mr_signer.hex()}, product {identity.isv_prod_id}, attributes "
        f"{identity.attributes.hex()} under {mask.hex()}, MISCSELECT {identity.miscselect:#x} "
        f"under {identity.miscselect_mask:#x}",
        good=good,
    )


def _check_qe_report_data(subject: TdxSubject) -> CheckLine:
    """(20) It vouches for this attestation key, and for nothing else."""
    quote = subject.quote
    wanted = digest(quote.attestation_key + quote.auth_data) + bytes(32)
    found = quote.qe_report.report_data
    return line("tdx-qe-report-data", found.hex(), wanted.hex(), good=found == wanted)


def _check_quote_signature(subject: TdxSubject) -> CheckLine:
    """(21) ECDSA P-256 with SHA-256 over header and body, under the attestation key."""
    quote = subject.quote
    wanted = "an ECDSA P-256 signature of the attestation key"
    key = point_on_p256(quote.attestation_key)
    if key is None:
        return line("tdx-quote-signature", "a key that is not on P-256", wanted, good=False)
    good = raw_signature_holds(quote.signature, quote.signed_bytes, key)
    found = "one that verifies" if good else "one that does not verify"
    return line("tdx-quote-signature", found, wanted, good=good)


def _check_module(subject: TdxSubject) -> CheckLine:
    """(22) Intel knows TDX modules of this major version, with this signer and these attributes."""
    body = subject.quote.body
    identity = module_identity(subject.endorsements.tcb_info, body)
    found = (
        f"major version {body.tee_tcb_svn[1]}, signer {body.mr_signer_seam.hex()}, "
        f"attributes {body.seam_attributes.hex()}"
    )
    if identity is None:
        return line("tdx-module", found, "one that the TCB info knows", good=False)
    mask = identity.attributes_mask
    seam = _masked(body.seam_attributes, mask)
    good = (
        body.mr_signer_seam == identity.mr_signer
        and seam == _masked(identity.attributes, mask)
        and seam == body.seam_attributes  # none is set that Intel does not speak of
    )
    wanted = (
        f"signer {identity.mr_signer.hex()}, attributes {identity.attributes.hex()} "
        f"under {mask.hex()}"
    )
    return line("tdx-module", found, wanted, good=good)


def _check_tcb_level(subject: TdxSubject) -> CheckLine:
    """(22) Platform, TDX module and quoting enclave each reach a level that Intel lists."""
    levels = subject.levels
    named = {"platform": levels.platform, "quoting enclave": levels.quoting_enclave}
    # A module that the TCB info does not know is refused by the check above, and by it alone.
    if levels.module_counts and module_identity(subject.endorsements.tcb_info, subject.quote.body):
        named["module"] = levels.module
    found = ", ".join(f"{k} {v.status.value if v else 'below all'}" for k, v in named.items())
    good = None not in named.values()
    return line("tdx-tcb-level", found, "a level for each", good=good)


def _check_second_opinion(subject: TdxSubject, own: tuple[CheckLine, ...]) -> CheckLine:
    """(22) dcap-qvl, given the same bytes and root, comes to the same status and advisories.

    It is asked about nothing that a check of ours refuses: 0.7.0 has been seen to abort the whole
    process over a damaged chain, and so it sees what Intel signed, or nothing. It also refuses what
    no policy of ours can allow (`never_allowed`): there the appraisal's line says so.
    """
    reached = subject.levels.reached
    if reached is None or not all(each.passed for each in own):
        return not_demanded("tdx-second-opinion", "not asked: a check of ours refuses")
    opinion = ask_dcap_qvl(subject.quote, subject.endorsements, subject.root.encoded, subject.now)
    status = merged_status(reached)
    never = never_allowed(subject.quote.body, status)
    if never is not None and opinion.refusal is not None:
        return line("tdx-second-opinion", opinion, f"a refusal: {never}", good=True)
    ours = SecondOpinion(
        status=status.value,
        advisories=frozenset(word for level in reached for word in level.advisories),
        refusal=None,
    )
    return line("tdx-second-opinion", opinion, ours, good=opinion == ours)


_CHECKS: Final[tuple[Callable[[TdxSubject], CheckLine], ...]] = (
    _check_format,
    *CHAIN_CHECKS,
    _check_qe_signature,
    _check_qe_match,
    _check_qe_report_data,
    _check_quote_signature,
    _check_module,
    _check_tcb_level,
)


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(v & m for v, m in zip(value, mask, strict=True))
