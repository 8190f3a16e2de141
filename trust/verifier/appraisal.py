"""The composite: one enclave's evidence, of its CPU first, against one policy and one session.

Rules (docs/spec/evidence.md):
- The CPU's evidence is checked first. What a GPU says counts only because measured code asked it,
  under a nonce made from the verifier's own, and put the digest of its answer into the statement
  that the CPU signed: no vendor ties a GPU to a VM in hardware.
- One line for each check; all are made, so that a person sees every ground at once.
- Pure functions of (evidence, policy, expectation, now); nothing is remembered between two calls.
- What is demanded and missing is *not checked*, and so never accepted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from trust.errors import EvidenceFormatError
from trust.evidence.claims import Platform
from trust.evidence.snp import parse_snp_report
from trust.messages import EvidenceBundle, Statement
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import (
    _SEAL,
    AttestationResult,
    CheckLine,
    VerifiedEvidence,
    line,
    not_demanded,
)
from trust.verifier.snp import verify_snp
from trust.verifier.snp_appraisal import appraise_snp


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A stranger's bytes: nothing in it is parsed, and nothing believed."""

    platform: str
    """A name of `Platform`; any other is nobody's evidence."""
    report: bytes
    """The CPU's report or quote."""
    gpu: bytes | None
    """Bytes of a `GpuEvidence`; None: no GPU is shown."""
    endorsements: tuple[tuple[str, bytes], ...]
    """(kind, bytes), as docs/spec/evidence.md lists them."""

    @classmethod
    def of(cls, bundle: EvidenceBundle) -> Evidence:
        """What an enclave sent."""
        return cls(
            platform=bundle.platform,
            report=bundle.report,
            gpu=bundle.gpu,
            endorsements=tuple((each.kind, each.content) for each in bundle.endorsements),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What one session wants evidence to be about; made from a statement by whoever made its nonce.

    Left to its maker: that the nonce in the statement was its own and is used once.
    """

    report_data: bytes
    """64 bytes: SHA-512 of the statement."""
    launch: bytes
    """32 bytes: the launch document's digest."""
    gpu_nonce: bytes
    """32 bytes: what each GPU was to sign."""
    gpu_evidence: bytes | None
    """32 bytes: digest of the GPU evidence, as stated; None: none is stated."""

    @classmethod
    def of(cls, statement: Statement) -> Expected:
        """What this statement says."""
        return cls(
            report_data=statement.report_data,
            launch=statement.launch,
            gpu_nonce=statement.gpu_nonce,
            gpu_evidence=statement.gpu_evidence,
        )


def verify_evidence(
    evidence: Evidence, policy: AppraisalPolicy, expected: Expected, *, now: dt.datetime
) -> AttestationResult:
    """Parse, verify, appraise: the one way from a stranger's bytes to a verdict.

    `now` is aware. A result comes back for a policy's refusal too: call `result.require()`. Raises
    EvidenceFormatError, SizeLimitError (bytes that are no evidence) and EvidenceSignatureError
    (evidence of a CPU that no pinned root stands behind).
    """
    # (1) The platform, by its name, among those that the policy allows.
    if evidence.platform != Platform.SEV_SNP.value:
        raise EvidenceFormatError(
            f"platform {evidence.platform[:32]!r}, wanted {Platform.SEV_SNP.value!r}"
        )
    # (2) Bytes to types: shape alone.
    report = parse_snp_report(evidence.report)
    endorsements = parse_snp_endorsements(evidence.endorsements)
    # (3) Signature, chain, revocation: under the policy's roots and no others.
    verified = verify_snp(report, endorsements, policy.roots, now)
    # (4) The policy and this session.
    return appraise(verified, policy, expected, now=now)


def appraise(
    verified: VerifiedEvidence, policy: AppraisalPolicy, expected: Expected, *, now: dt.datetime
) -> AttestationResult:
    """Make every check of the policy. The result says yes or no; this raises for neither."""
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    claims = verified.claims
    own = (
        _check_root(verified, policy),
        _check_time(verified, policy, now),
        *_appraise_cpu(verified, policy, expected),
        not_demanded("gpu", "none looked at"),
        not_demanded("facility", "none looked at"),
    )
    return AttestationResult(
        platform=claims.platform,
        kind=verified.root.kind,
        product=claims.product.value,
        chip_id=claims.chip_id,
        measurement=claims.measurement,
        policy=policy.digest,
        collateral=verified.collateral,
        checks=verified.checks + own,
        appraised_at=now,
        expires_at=verified.expires_at,
        seal=_SEAL,
    )


def _appraise_cpu(
    verified: VerifiedEvidence, policy: AppraisalPolicy, expected: Expected
) -> Sequence[CheckLine]:
    if policy.snp is None:
        return (line("platform", Platform.SEV_SNP.value, "a platform of the policy", good=False),)
    return appraise_snp(
        verified.claims,
        policy.snp,
        policy.measurements,
        expected_report_data=expected.report_data,
        expected_launch=expected.launch,
    )


def _check_root(verified: VerifiedEvidence, policy: AppraisalPolicy) -> CheckLine:
    """The root behind the evidence is one of *this* policy's."""
    wanted = "; ".join(str(root) for root in policy.roots)
    return line("root", verified.root, wanted, good=verified.root in policy.roots)


def _check_time(verified: VerifiedEvidence, policy: AppraisalPolicy, now: dt.datetime) -> CheckLine:
    """(41) The caller's clock: evidence verified before, and not run out; a policy not too old."""
    found = f"verified {verified.verified_at}, good until {verified.expires_at}, now {now}"
    good = verified.verified_at <= now < verified.expires_at
    if policy.expires_at is not None:
        ends = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=policy.expires_at)
        found += f", policy until {ends}"
        good = good and now < ends
    return line("time", found, "now within all of these", good=good)
