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
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trust.encoding import digest, label_bytes
from trust.errors import EncodingError, EvidenceFormatError
from trust.evidence.claims import Platform
from trust.evidence.snp import parse_snp_report
from trust.evidence.tdx import REGISTER_BYTES, TdBody, TdxClaims, launch_config_id, parse_tdx_quote
from trust.messages import EvidenceBundle, GpuEvidence, Statement
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.facility import appraise_facility
from trust.verifier.gpu_appraisal import appraise_gpus
from trust.verifier.intel_collateral import parse_tdx_endorsements
from trust.verifier.nvidia import VerifiedGpus, judge_gpu
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.reference import ReferenceValues
from trust.verifier.results import (
    _SEAL,
    AttestationResult,
    CheckLine,
    GpuIdentity,
    Verdict,
    VerifiedEvidence,
    line,
    not_demanded,
)
from trust.verifier.snp import verify_snp
from trust.verifier.snp_appraisal import appraise_snp
from trust.verifier.tdx import verify_tdx
from trust.verifier.tdx_appraisal import appraise_tdx_registers

SNP_KINDS: Final = frozenset({"vcek", "vlek", "ask", "asvk", "ark", "crl"})
TDX_PREFIX: Final = "tdx-"
GPU_KINDS: Final = frozenset({"gpu-rim", "gpu-ocsp"})
FACILITY_KIND: Final = "facility"


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
    """32 bytes: the launch document's digest; of a foreign TD, 48: all of MRCONFIGID."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """What the CPU's evidence names, for the result and for whoever endorsed the machine."""

    platform: Platform
    product: str
    chip_id: bytes | None
    ppid: bytes | None
    measurement: bytes


def verify_evidence(
    evidence: Evidence,
    policy: AppraisalPolicy,
    expected: Expected,
    *,
    now: dt.datetime,
    released: ReferenceValues | None = None,
) -> AttestationResult:
    """Parse, verify, appraise: the one way from a stranger's bytes to a verdict.

    `now` is aware. `released` are the values of releases that the relying party accepted under
    `policy.releases` (`ReleaseMemory.values`); None: of none. A result comes back for a policy's
    refusal too: call `result.require()`. Raises EvidenceFormatError, SizeLimitError (bytes that are
    no evidence) and EvidenceSignatureError (a CPU that no pinned root stands behind).
    """
    # (1) The platform, by its name, among those that the policy allows; kinds that somebody knows.
    allowed = [each.value for each in policy.platforms]
    if evidence.platform not in allowed:
        raise EvidenceFormatError(
            f"platform {evidence.platform[:32]!r}, wanted {' or '.join(map(repr, allowed))}"
        )
    of_cpu = _of_cpu(evidence)
    # (2) Bytes to types: shape alone. (3) Signatures, chains, revocation: under the policy's roots
    # and no others.
    if evidence.platform == Platform.SEV_SNP.value:
        report = parse_snp_report(evidence.report)
        verified = verify_snp(report, parse_snp_endorsements(of_cpu), policy.roots, now)
    else:
        quote = parse_tdx_quote(evidence.report)
        verified = verify_tdx(quote, parse_tdx_endorsements(of_cpu), policy.roots, now)
    # (4) The policy and this session; GPUs and facility among what it demands.
    return appraise(verified, evidence, policy, expected, now=now, released=released)


def appraise(
    verified: VerifiedEvidence,
    evidence: Evidence,
    policy: AppraisalPolicy,
    expected: Expected,
    *,
    now: dt.datetime,
    released: ReferenceValues | None = None,
) -> AttestationResult:
    """Make every check of the policy. The result says yes or no; this raises for neither.

    Raises EvidenceFormatError and SizeLimitError for GPU evidence or endorsements that are none.
    """
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    machine = _machine(verified)
    of_gpus, gpus = _check_gpus(evidence, policy, expected, now)
    own = (
        _check_root(verified, policy),
        _check_time(verified, policy, now),
        *_appraise_cpu(verified, policy, expected, released, now),
        *of_gpus,
        *_check_facility(machine, gpus, evidence, policy, now),
    )
    ends = [verified.expires_at] + ([] if gpus is None else [gpus.expires_at])
    return AttestationResult(
        platform=machine.platform,
        kind=verified.root.kind,
        product=machine.product,
        chip_id=machine.chip_id,
        ppid=machine.ppid,
        measurement=machine.measurement,
        gpus=() if gpus is None else tuple(_identities(gpus)),
        policy=policy.digest,
        collateral=verified.collateral + (() if gpus is None else gpus.collateral),
        checks=verified.checks + own,
        appraised_at=now,
        expires_at=min(ends),
        seal=_SEAL,
    )


def image_of_td(body: TdBody) -> bytes:
    """What a job names a TD's image by: 48 bytes over MRTD and all four run-time registers."""
    registers = b"".join((body.mr_td, *body.rtmr))
    return hashlib.sha384(label_bytes("tdx-image") + registers).digest()


# --- the CPU -------------------------------------------------------------------------------------


def _of_cpu(evidence: Evidence) -> list[tuple[str, bytes]]:
    """The endorsements of this platform's CPU. A kind that nobody knows is nobody's to skip."""
    own, snp = [], evidence.platform == Platform.SEV_SNP.value
    for kind, content in evidence.endorsements:
        if kind in SNP_KINDS if snp else kind.startswith(TDX_PREFIX):
            own.append((kind, content))
        elif kind not in GPU_KINDS and kind != FACILITY_KIND:
            raise EvidenceFormatError(
                f"endorsement of kind {kind[:32]!r} beside evidence of {evidence.platform}"
            )
    return own


def _machine(verified: VerifiedEvidence) -> _Machine:
    claims = verified.claims
    if isinstance(claims, TdxClaims):
        return _Machine(
            platform=Platform.TDX,
            product=f"TDX, FMSPC {claims.pck.fmspc.hex().upper()}",
            chip_id=None,
            ppid=claims.pck.ppid,
            measurement=image_of_td(claims.body),
        )
    return _Machine(
        platform=Platform.SEV_SNP,
        product=claims.product.value,
        chip_id=claims.chip_id,
        ppid=None,
        measurement=claims.measurement,
    )


def _appraise_cpu(
    verified: VerifiedEvidence,
    policy: AppraisalPolicy,
    expected: Expected,
    released: ReferenceValues | None,
    now: dt.datetime,
) -> Sequence[CheckLine]:
    """The policy's lines about the CPU; a platform that it does not name is refused by a line."""
    refused = (line("platform", _machine(verified).platform.value, "one of it", good=False),)
    claims, kind = verified.claims, verified.root.kind
    if isinstance(claims, TdxClaims):
        images = (*policy.tdx_images, *(() if released is None else released.tdx_images(kind)))
        if policy.tdx is None:
            return refused
        launch = expected.launch
        whole = len(launch) == REGISTER_BYTES
        return appraise_tdx_registers(
            claims,
            policy.tdx,
            images,
            expected_report_data=expected.report_data,
            expected_config_id=launch if whole else launch_config_id(launch),
            now=now,
        )
    if policy.snp is None:
        return refused
    values = () if released is None else released.measurements(kind)
    return appraise_snp(
        claims,
        policy.snp,
        (*policy.measurements, *values),
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


# --- GPUs and facility ---------------------------------------------------------------------------


def _check_gpus(
    evidence: Evidence, policy: AppraisalPolicy, expected: Expected, now: dt.datetime
) -> tuple[tuple[CheckLine, ...], VerifiedGpus | None]:
    """(38), (39) GPUs are looked at if the policy demands them, under the nonce that the CPU bound.

    (1) There is evidence. (2) It is the one whose digest the CPU signed. (3) Signatures, chains,
    revocation, reference measurements, under the nonce made of the verifier's own. (4) The policy.
    """
    if policy.gpu is None:
        return (not_demanded("gpu", "none looked at"),), None
    if evidence.gpu is None:  # (1)
        missing = Verdict.NOT_CHECKED
        words = "no GPU evidence"
        return (CheckLine(id="gpu", found=words, wanted="demanded", verdict=missing),), None
    shown, stated = digest(evidence.gpu), expected.gpu_evidence
    bound = line(  # (2)
        "gpu-in-statement",
        shown.hex(),
        "none stated" if stated is None else stated.hex(),
        good=shown == stated,
    )
    try:
        parsed = GpuEvidence.parse(evidence.gpu)
    except EncodingError as error:
        raise EvidenceFormatError(f"GPU evidence: {error}") from error
    given = parsed, evidence.endorsements, policy.roots, expected.gpu_nonce, now
    checks, verified = judge_gpu(*given)  # (3)
    if verified is None:
        return (bound, *checks), None
    return (bound, *checks, *appraise_gpus(verified, policy.gpu, now)), verified  # (4)


def _check_facility(
    machine: _Machine,
    gpus: VerifiedGpus | None,
    evidence: Evidence,
    policy: AppraisalPolicy,
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    """The machine is one that an endorser saw, with these very GPUs in it."""
    if policy.facility is None:
        return (not_demanded("facility", "none looked at"),)
    devices = () if gpus is None else gpus.devices
    return appraise_facility(
        chip_id=machine.chip_id,
        ppid=machine.ppid,
        gpu_serials=[each.serial.lstrip(b"\x00") for each in devices if not each.is_switch],
        endorsements=[content for kind, content in evidence.endorsements if kind == FACILITY_KIND],
        demands=policy.facility,
        now=now,
    )


def _identities(gpus: VerifiedGpus) -> Sequence[GpuIdentity]:
    return [
        GpuIdentity(
            architecture=each.architecture.value,
            serial=each.serial,
            driver=each.driver_version,
            vbios=each.vbios_version,
        )
        for each in gpus.devices
    ]
