"""SEV-SNP: what verified evidence claims, against what a policy and a session demand.

Rules (docs/spec/evidence-snp.md §4):
- One line for each check; all are made, so that a person sees every ground at once.
- The checks are pure functions of (claims, demands); nothing is remembered between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from trust.evidence.claims import SigningKey, SnpClaims
from trust.evidence.snp import NO_MIGRATION_AGENT
from trust.verifier.results import CheckLine, line, not_demanded
from trust.verifier.snp_policy import Demand, SnpDemands

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

# Which of the checks of the field's list (docs/evidence-checks.md) each line is.
CHECK_NUMBERS: Final = MappingProxyType(
    {
        "product-allowed": 7,
        "report-version": 7,
        "signer": 8,
        "tcb-reported": 10,
        "tcb-committed": 10,
        "tcb-launch": 10,
        "tcb-order": 10,
        "firmware": 10,
        "mitigations": 10,
        "guest-debug": 11,
        "guest-migrate-ma": 11,
        "migration-agent": 11,
        "guest-reserved": 11,
        "guest-abi": 11,
        **{f"guest-{name.replace('_', '-')}": 11 for name in _GUEST_BITS},
        **{f"platform-{name.replace('_', '-')}": 12 for name in _PLATFORM_BITS},
        "platform-unknown-bits": 12,
        "vmpl": 13,
        "measurement": 13,
        "host-data": 13,
        "id-key": 13,
        "author-key": 13,
        "report-data": 14,
    }
)


def appraise_snp(
    claims: SnpClaims,
    demands: SnpDemands,
    measurements: Sequence[bytes],
    *,
    expected_report_data: bytes,
    expected_launch: bytes,
) -> tuple[CheckLine, ...]:
    """The policy's lines about claims, believed or not; a result needs `VerifiedEvidence`.

    `measurements` are the images that are good (48 bytes each), `expected_report_data` has 64
    bytes, `expected_launch` 32: the digest of the launch document.
    """
    return (
        *_check_product_and_version(claims, demands),
        *_check_floors(claims, demands),
        *_check_guest_policy(claims, demands),
        *_check_platform_info(claims, demands),
        *_check_guest(claims, demands, measurements, expected_launch),
        line(
            "report-data",
            claims.report_data.hex(),
            expected_report_data.hex(),
            good=claims.report_data == expected_report_data,
        ),
    )


def _check_product_and_version(claims: SnpClaims, demands: SnpDemands) -> list[CheckLine]:
    """(7) Allowed products; version 2 does not name its processor. Whose key signed."""
    allowed = [floor.product for floor in demands.products]
    least = demands.report_version_least
    if claims.signing_key is SigningKey.VLEK:
        signer = f"a VLEK of {claims.csp_id}"
        signer_good = claims.csp_id in demands.vlek_csp_ids
    else:
        signer, signer_good = "the chip's own key", claims.chip_id is not None
    providers = "".join(f" or a VLEK of {each}" for each in demands.vlek_csp_ids)
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


def _check_floors(claims: SnpClaims, demands: SnpDemands) -> list[CheckLine]:
    """(10) Floors on three TCB values and the firmware; their order; mitigations."""
    floor = demands.floor_of(claims.product)
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
    lines.append(_check_mitigations(claims, demands))
    return lines


def _check_mitigations(claims: SnpClaims, demands: SnpDemands) -> CheckLine:
    launch, current = claims.launch_mitigations, claims.current_mitigations
    if launch is None or current is None:
        found, common = "no vectors in this version", 0
    else:
        found, common = f"launch {launch:#x}, current {current:#x}", launch & current
    if not demands.mitigations:
        return not_demanded("mitigations", found)
    good = all(common >> bit & 1 for bit in demands.mitigations)
    return line("mitigations", found, f"bits {demands.mitigations} in both", good=good)


def _check_guest_policy(claims: SnpClaims, demands: SnpDemands) -> list[CheckLine]:
    """(11) POLICY. Debug and migration are refused by every demands."""
    guest, wanted = claims.guest, demands.guest
    agent = claims.report_id_ma
    reserved = f"bit 17 {int(guest.reserved_one)}, unknown bits {guest.unknown:#x}"
    abi, abi_least = (guest.abi_major, guest.abi_minor), (wanted.abi_major, wanted.abi_minor)
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
            _check_bit(f"guest-{_dashed(name)}", getattr(guest, name), getattr(wanted, name))
            for name in _GUEST_BITS
        ),
    ]


def _check_platform_info(claims: SnpClaims, demands: SnpDemands) -> list[CheckLine]:
    """(12) PLATFORM_INFO. Bits that we do not know are shown and not judged: AMD adds them."""
    info, wanted = claims.platform_info, demands.platform
    return [
        *(
            _check_bit(f"platform-{_dashed(name)}", getattr(info, name), getattr(wanted, name))
            for name in _PLATFORM_BITS
        ),
        not_demanded("platform-unknown-bits", f"{info.unknown:#x}"),
    ]


def _check_guest(
    claims: SnpClaims, demands: SnpDemands, measurements: Sequence[bytes], expected_launch: bytes
) -> list[CheckLine]:
    """(13) Who runs: privilege level, image, launch document; whose ID block, where demanded."""
    return [
        line("vmpl", claims.vmpl, demands.vmpl, good=claims.vmpl == demands.vmpl),
        line(
            "measurement",
            claims.measurement.hex(),
            shown(measurements),
            good=claims.measurement in measurements,
        ),
        line(
            "host-data",
            claims.host_data.hex(),
            expected_launch.hex(),
            good=claims.host_data == expected_launch,
        ),
        _check_key_digest("id-key", claims.id_key_digest, demands.id_key_digests),
        _check_key_digest("author-key", claims.author_key_digest, demands.author_key_digests),
    ]


def _check_key_digest(name: str, found: bytes, wanted: Sequence[bytes]) -> CheckLine:
    """Zeros mean that there is no ID block, and no policy can name zeros by accident."""
    if not wanted:
        return not_demanded(name, found.hex())
    return line(name, found.hex(), shown(wanted), good=any(found) and found in wanted)


def _check_bit(name: str, value: bool, demand: Demand) -> CheckLine:  # noqa: FBT001
    if demand is Demand.ANY:
        return not_demanded(name, _bit(value))
    return line(name, _bit(value), demand.value, good=value is (demand is Demand.SET))


def _bit(value: bool) -> str:  # noqa: FBT001
    return "set" if value else "clear"


def shown(measurements: Sequence[bytes]) -> str:
    """Some of what is allowed, for a line; the policy's digest names them all."""
    shown = " or ".join(each.hex() for each in measurements[:MEASUREMENTS_SHOWN])
    hidden = len(measurements) - MEASUREMENTS_SHOWN
    return f"{shown} or one of {hidden} more" if hidden > 0 else shown


def _dashed(name: str) -> str:
    return name.replace("_", "-")
