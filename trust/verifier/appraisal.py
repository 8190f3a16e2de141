"""Appraisal: what verified evidence claims, against what a policy and a session demand.

Rules (docs/spec/evidence-snp.md §4):
- One line for each check; all are made, so that a person sees every ground at once.
- The checks are pure functions of (claims, policy); nothing is remembered between two calls.
- What cannot be appraised yet and is demanded is *not checked*, and so never accepted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from trust.errors import EvidenceFormatError
from trust.evidence.claims import Claims, Platform, SigningKey
from trust.evidence.snp import NO_MIGRATION_AGENT, parse_snp_report
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.policy import AppraisalPolicy, Demand, Presence
from trust.verifier.results import (
    _SEAL,
    AttestationResult,
    CheckLine,
    Verdict,
    VerifiedEvidence,
    line,
    not_demanded,
)
from trust.verifier.snp import verify_snp

MEASUREMENTS_SHOWN: Final = 4  # a line is for a person; the policy's digest names them all
_GUEST_BITS: Final = (
    "smt",
    "single_socket",
    "cxl_allow",
    "mem_aes_256_xts",
    "rapl_dis",
    "ciphertext_hiding",
    "page_swap_disable",
)
_PLATFORM_BITS: Final = (
    "smt",
    "tsme",
    "ecc",
    "rapl_dis",
    "ciphertext_hiding",
    "alias_check_complete",
    "sev_tio",
)


def verify_evidence(
    cpu_platform: str,
    report: bytes,
    endorsements: Sequence[tuple[str, bytes]],
    policy: AppraisalPolicy,
    *,
    expected_report_data: bytes,
    expected_host_data: bytes,
    now: dt.datetime,
) -> AttestationResult:
    """Parse, verify, appraise: the one way from a stranger's bytes to a verdict.

    `report` is raw, `endorsements` are (kind, DER) pairs, `expected_report_data` has 64 bytes and
    `expected_host_data` 32, `now` is aware. A result comes back for a policy's refusal too: call
    `result.require()`. Raises EvidenceFormatError, SizeLimitError (bytes that are no evidence) and
    EvidenceSignatureError (evidence that no pinned root stands behind).
    """
    # (1) The platform, by its name: an unknown one is nobody's evidence.
    if cpu_platform != Platform.SEV_SNP.value:
        raise EvidenceFormatError(
            f"platform {cpu_platform[:32]!r}, wanted {Platform.SEV_SNP.value!r}"
        )
    # (2) Bytes to types: shape alone.
    parsed = parse_snp_report(report)
    parsed_endorsements = parse_snp_endorsements(endorsements)
    # (3) Signature, chain, revocation: under the policy's roots and no others.
    verified = verify_snp(parsed, parsed_endorsements, policy.roots, now)
    # (4) The policy and this session.
    return appraise(
        verified,
        policy,
        expected_report_data=expected_report_data,
        expected_host_data=expected_host_data,
        now=now,
    )


def appraise(
    verified: VerifiedEvidence,
    policy: AppraisalPolicy,
    *,
    expected_report_data: bytes,
    expected_host_data: bytes,
    now: dt.datetime,
) -> AttestationResult:
    """Make every check of the policy. The result says yes or no; this raises for neither.

    Left to the caller: what `expected_report_data` (64 bytes: SHA-512 of the statement) and
    `expected_host_data` (32 bytes: the launch document's digest) stand for, and that the nonce in
    the statement was its own and is used once.
    """
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    claims = verified.claims
    own = (
        _check_root(verified, policy),
        _check_time(verified, policy, now),
        *appraise_claims(
            claims,
            policy,
            expected_report_data=expected_report_data,
            expected_host_data=expected_host_data,
        ),
    )
    return AttestationResult(
        platform=claims.platform,
        kind=verified.root.kind,
        product=claims.product,
        chip_id=claims.chip_id,
        measurement=claims.measurement,
        policy=policy.digest,
        collateral=verified.collateral,
        checks=verified.checks + own,
        appraised_at=now,
        expires_at=verified.expires_at,
        seal=_SEAL,
    )


def appraise_claims(
    claims: Claims,
    policy: AppraisalPolicy,
    *,
    expected_report_data: bytes,
    expected_host_data: bytes,
) -> tuple[CheckLine, ...]:
    """The policy's lines about claims, believed or not; a result needs `VerifiedEvidence`."""
    return (
        *_check_product_and_version(claims, policy),
        *_check_floors(claims, policy),
        *_check_guest_policy(claims, policy),
        *_check_platform_info(claims, policy),
        *_check_guest(claims, policy, expected_host_data),
        line(
            "report-data",
            claims.report_data.hex(),
            expected_report_data.hex(),
            good=claims.report_data == expected_report_data,
        ),
        _check_presence("gpu", "GPU evidence cannot be appraised yet", policy.gpu),
        _check_presence("facility", "facility claims cannot be appraised yet", policy.facility),
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


def _check_product_and_version(claims: Claims, policy: AppraisalPolicy) -> list[CheckLine]:
    """(7) Allowed products; version 2 does not name its processor. Whose key signed."""
    allowed = [floor.product for floor in policy.products]
    least = policy.report_version_least
    if claims.signing_key is SigningKey.VLEK:
        signer = f"a VLEK of {claims.csp_id}"
        signer_good = claims.csp_id in policy.vlek_csp_ids
    else:
        signer, signer_good = "the chip's own key", claims.chip_id is not None
    providers = "".join(f" or a VLEK of {each}" for each in policy.vlek_csp_ids)
    return [
        line(
            "product-allowed",
            claims.product.value,
            " or ".join(each.value for each in allowed),
            good=claims.product in allowed,
        ),
        line(
            "report-version",
            claims.report_version,
            f"{least} or above",
            good=claims.report_version >= least,
        ),
        line("signer", signer, f"the chip's own key{providers}", good=signer_good),
    ]


def _check_floors(claims: Claims, policy: AppraisalPolicy) -> list[CheckLine]:
    """(10) Floors on three TCB values and the firmware; their order; mitigations."""
    floor = policy.floor_of(claims.product)
    values = {
        "reported": claims.reported_tcb,
        "committed": claims.committed_tcb,
        "launch": claims.launch_tcb,
    }
    lines = [
        line(
            f"tcb-{name}",
            tcb,
            f"at least {floor.tcb}" if floor else "a product with floors",
            good=floor is not None and tcb.at_least(floor.tcb),
        )
        for name, tcb in values.items()
    ]
    ordered = claims.committed_tcb.at_least(claims.reported_tcb) and claims.current_tcb.at_least(
        claims.committed_tcb
    )
    lines.append(
        line(
            "tcb-order",
            f"reported {claims.reported_tcb}; committed {claims.committed_tcb}; "
            f"current {claims.current_tcb}",
            "reported at most committed at most current",
            good=ordered,
        )
    )
    lowest = min(claims.committed_version, claims.current_version)
    lines.append(
        line(
            "firmware",
            f"committed {claims.committed_version}, current {claims.current_version}",
            f"at least {floor.firmware}" if floor else "a product with floors",
            good=floor is not None and lowest >= floor.firmware,
        )
    )
    lines.append(_check_mitigations(claims, policy))
    return lines


def _check_mitigations(claims: Claims, policy: AppraisalPolicy) -> CheckLine:
    launch, current = claims.launch_mitigations, claims.current_mitigations
    if launch is None or current is None:
        found, common = "no vectors in this version", 0
    else:
        found, common = f"launch {launch:#x}, current {current:#x}", launch & current
    if not policy.mitigations:
        return not_demanded("mitigations", found)
    good = all(common >> bit & 1 for bit in policy.mitigations)
    return line("mitigations", found, f"bits {policy.mitigations} in both", good=good)


def _check_guest_policy(claims: Claims, policy: AppraisalPolicy) -> list[CheckLine]:
    """(11) POLICY. Debug and migration are refused by every policy."""
    guest, demands = claims.guest, policy.guest
    agent = claims.report_id_ma
    reserved = f"bit 17 {int(guest.reserved_one)}, unknown bits {guest.unknown:#x}"
    abi, abi_least = (guest.abi_major, guest.abi_minor), (demands.abi_major, demands.abi_minor)
    return [
        line("guest-debug", _bit(guest.debug), "clear", good=not guest.debug),
        line("guest-migrate-ma", _bit(guest.migrate_ma), "clear", good=not guest.migrate_ma),
        line("migration-agent", agent.hex(), "none (all ones)", good=agent == NO_MIGRATION_AGENT),
        line(
            "guest-reserved",
            reserved,
            "bit 17 1, unknown bits 0x0",
            good=guest.reserved_one and not guest.unknown,
        ),
        line("guest-abi", f"{abi}", f"at least {abi_least}", good=abi >= abi_least),
        *(
            _check_bit(f"guest-{_dashed(name)}", getattr(guest, name), getattr(demands, name))
            for name in _GUEST_BITS
        ),
    ]


def _check_platform_info(claims: Claims, policy: AppraisalPolicy) -> list[CheckLine]:
    """(12) PLATFORM_INFO. Bits that we do not know are shown and not judged: AMD adds them."""
    info, demands = claims.platform_info, policy.platform
    return [
        *(
            _check_bit(f"platform-{_dashed(name)}", getattr(info, name), getattr(demands, name))
            for name in _PLATFORM_BITS
        ),
        not_demanded("platform-unknown-bits", f"{info.unknown:#x}"),
    ]


def _check_guest(
    claims: Claims, policy: AppraisalPolicy, expected_host_data: bytes
) -> list[CheckLine]:
    """(13) Who runs: privilege level, image, launch document. ID blocks are not used."""
    return [
        line("vmpl", claims.vmpl, policy.vmpl, good=claims.vmpl == policy.vmpl),
        line(
            "measurement",
            claims.measurement.hex(),
            _shown(policy.measurements),
            good=claims.measurement in policy.measurements,
        ),
        line(
            "host-data",
            claims.host_data.hex(),
            expected_host_data.hex(),
            good=claims.host_data == expected_host_data,
        ),
    ]


def _check_presence(name: str, why_not: str, presence: Presence) -> CheckLine:
    """Fail closed: what is demanded and cannot be appraised is *not checked*, which is no pass."""
    if presence is Presence.NOT_DEMANDED:
        return not_demanded(name, "none looked at")
    return CheckLine(id=name, found=why_not, wanted="demanded", verdict=Verdict.NOT_CHECKED)


def _check_bit(name: str, value: bool, demand: Demand) -> CheckLine:  # noqa: FBT001
    if demand is Demand.ANY:
        return not_demanded(name, _bit(value))
    return line(name, _bit(value), demand.value, good=value is (demand is Demand.SET))


def _bit(value: bool) -> str:  # noqa: FBT001
    return "set" if value else "clear"


def _shown(measurements: tuple[bytes, ...]) -> str:
    shown = " or ".join(each.hex() for each in measurements[:MEASUREMENTS_SHOWN])
    hidden = len(measurements) - MEASUREMENTS_SHOWN
    return f"{shown} or one of {hidden} more" if hidden > 0 else shown


def _dashed(name: str) -> str:
    return name.replace("_", "-")
