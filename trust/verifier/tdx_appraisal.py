"""Intel TDX: what a verified quote claims, against what a policy and a session demand.

Rules (docs/spec/evidence-tdx.md §5):
- One line for each check; all are made, so that a person sees every ground at once.
- The checks are pure functions of (claims, demands, images, expectation, now).
- RTMR3 is compared as a whole. A log of events proves nothing unless it is replayed, which is not
  done here, so evidence that brings one is refused and not half read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from trust.evidence.tdx import TcbStatus, TdxClaims, launch_config_id
from trust.verifier.results import CheckLine, line, not_demanded
from trust.verifier.snp_policy import Demand
from trust.verifier.tdx_policy import XFAM_ALWAYS, XFAM_KNOWN, TdxDemands, TdxImage

VALUES_SHOWN: Final = 4  # a line is for a person; the policy's digest names them all
_IMAGE_REGISTERS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2")

# Which of the checks of the field's list each line is.
CHECK_NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "tdx-tcb-number": 18,
        "tdx-qe-number": 18,
        "tdx-collateral-age": 18,
        "tdx-tcb-status": 23,
        "tdx-debug": 24,
        "tdx-attributes-reserved": 24,
        "tdx-sept-ve-disable": 24,
        "tdx-migratable": 24,
        "tdx-perfmon": 24,
        "tdx-pks": 24,
        "tdx-key-locker": 24,
        "tdx-xfam": 24,
        "tdx-xfam-demands": 24,
        "tdx-seam-signer": 24,
        "tdx-seam-attributes": 24,
        "tdx-mrseam": 24,
        "tdx-service-td": 24,
        "tdx-mrtd": 25,
        "tdx-rtmr0": 25,
        "tdx-rtmr1": 25,
        "tdx-rtmr2": 25,
        "tdx-rtmr3": 25,
        "tdx-event-log": 25,
        "tdx-mrconfigid": 25,
        "tdx-mrowner": 25,
        "tdx-mrownerconfig": 25,
        "tdx-report-data": 26,
        "tdx-dynamic-platform": 26,
        "tdx-cached-keys": 26,
        "tdx-smt": 26,
    }
)


def appraise_tdx(
    claims: TdxClaims,
    demands: TdxDemands,
    images: Sequence[TdxImage],
    *,
    expected_report_data: bytes,
    expected_launch: bytes,
    now: dt.datetime,
    event_log: bytes | None = None,
) -> tuple[CheckLine, ...]:
    """The policy's lines about claims, believed or not; a result needs `VerifiedEvidence`.

    `images` are the ones that are good, `expected_report_data` has 64 bytes, `expected_launch` 32:
    the digest of the launch document. `event_log` is what came beside the quote; None: nothing.
    Raises EvidenceFormatError for a launch digest of another length.
    """
    return appraise_tdx_registers(
        claims,
        demands,
        images,
        expected_report_data=expected_report_data,
        expected_config_id=launch_config_id(expected_launch),
        now=now,
        event_log=event_log,
    )


def appraise_tdx_registers(
    claims: TdxClaims,
    demands: TdxDemands,
    images: Sequence[TdxImage],
    *,
    expected_report_data: bytes,
    expected_config_id: bytes,
    now: dt.datetime,
    event_log: bytes | None = None,
) -> tuple[CheckLine, ...]:
    """The same with all 48 bytes of MRCONFIGID given: other tools' guests fill them all."""
    if now.tzinfo is None:
        raise ValueError("now is an aware time")
    body = claims.body
    return (
        *_check_collateral(claims, demands, now),
        _check_status(claims, demands, now),
        *_check_attributes(claims, demands),
        *_check_xfam(claims, demands),
        *_check_module(claims, demands),
        *_check_image(claims, images),
        _equal("tdx-rtmr3", body.rtmr[3], demands.rtmr3),
        line(
            "tdx-event-log",
            "none" if event_log is None else f"a log of {len(event_log)} bytes",
            "none: no log is replayed",
            good=event_log is None,
        ),
        _equal("tdx-mrconfigid", body.mr_config_id, expected_config_id),
        _one_of("tdx-mrowner", body.mr_owner, demands.mr_owners),
        _one_of("tdx-mrownerconfig", body.mr_owner_config, demands.mr_owner_configs),
        _equal("tdx-report-data", body.report_data, expected_report_data),
        _check_flag("tdx-dynamic-platform", claims.pck.dynamic_platform, demands.dynamic_platform),
        _check_flag("tdx-cached-keys", claims.pck.cached_keys, demands.cached_keys),
        _check_flag("tdx-smt", claims.pck.smt_enabled, demands.smt),
    )


def _check_collateral(claims: TdxClaims, demands: TdxDemands, now: dt.datetime) -> list[CheckLine]:
    """(18) Collateral that is valid can be old: a floor under both numbers, and an age."""
    least, tcb = demands.number_least, claims.tcb
    age_max = dt.timedelta(seconds=demands.collateral_age_seconds_max)
    return [
        line(
            "tdx-tcb-number",
            tcb.tcb_info_number,
            f"{least} or above",
            good=tcb.tcb_info_number >= least,
        ),
        line(
            "tdx-qe-number",
            tcb.qe_identity_number,
            f"{least} or above",
            good=tcb.qe_identity_number >= least,
        ),
        line(
            "tdx-collateral-age",
            f"issued {tcb.oldest_issue}, now {now}",
            f"at most {age_max} old",
            good=now - tcb.oldest_issue <= age_max,
        ),
    ]


def _check_status(claims: TdxClaims, demands: TdxDemands, now: dt.datetime) -> CheckLine:
    """(23) UpToDate, or a status that is allowed by name, with its advisories, until a day."""
    tcb = claims.tcb
    module = tcb.module.value if tcb.module else "none of its own"
    found = (
        f"{tcb.status.value} (platform {tcb.platform.value}, module {module}, quoting enclave "
        f"{tcb.quoting_enclave.value}), advisories {', '.join(tcb.advisories) or 'none'}"
    )
    wanted = [TcbStatus.UP_TO_DATE.value]
    good = tcb.status is TcbStatus.UP_TO_DATE
    for allowance in demands.statuses:
        until = _moment(allowance.until)
        wanted.append(
            f"{allowance.status.value} until {until} with no advisory but "
            f"{', '.join(allowance.advisories) or 'none'}"
        )
        good = good or (
            tcb.status is allowance.status
            and set(tcb.advisories) <= set(allowance.advisories)
            and now < until
        )
    return line("tdx-tcb-status", found, ", or ".join(wanted), good=good)


def _check_attributes(claims: TdxClaims, demands: TdxDemands) -> list[CheckLine]:
    """(24) TDATTRIBUTES. What lets the host read or export the guest is refused by every policy."""
    bits = claims.body.attributes
    return [
        line("tdx-debug", _bit(bits.debug), "clear", good=not bits.debug),
        line("tdx-attributes-reserved", f"{bits.reserved:#x}", "0x0", good=not bits.reserved),
        line("tdx-sept-ve-disable", _bit(bits.sept_ve_disable), "set", good=bits.sept_ve_disable),
        line("tdx-migratable", _bit(bits.migratable), "clear", good=not bits.migratable),
        _check_flag("tdx-perfmon", bits.perfmon, demands.perfmon),
        _check_flag("tdx-pks", bits.pks, demands.pks),
        _check_flag("tdx-key-locker", bits.key_locker, demands.key_locker),
    ]


def _check_xfam(claims: TdxClaims, demands: TdxDemands) -> list[CheckLine]:
    """(24) XFAM: what every module allows and demands, and then what the policy does."""
    xfam = claims.body.xfam
    return [
        line(
            "tdx-xfam",
            f"{xfam:#x}",
            f"all of {XFAM_ALWAYS:#x}, none outside of {XFAM_KNOWN:#x}",
            good=xfam & XFAM_ALWAYS == XFAM_ALWAYS and not xfam & ~XFAM_KNOWN,
        ),
        line(
            "tdx-xfam-demands",
            f"{xfam:#x}",
            f"all of {demands.xfam_required:#x}, none outside of {demands.xfam_allowed:#x}",
            good=not demands.xfam_required & ~XFAM_ALWAYS & ~xfam
            and not xfam & XFAM_KNOWN & ~demands.xfam_allowed,
        ),
    ]


def _check_module(claims: TdxClaims, demands: TdxDemands) -> list[CheckLine]:
    """(24) Intel's own TDX module, as released; no service TD beside the guest."""
    body = claims.body
    service = body.mr_service_td
    return [
        line(
            "tdx-seam-signer",
            body.mr_signer_seam.hex(),
            "zeros: Intel",
            good=not any(body.mr_signer_seam),
        ),
        line(
            "tdx-seam-attributes",
            body.seam_attributes.hex(),
            "zeros: a module for production",
            good=not any(body.seam_attributes),
        ),
        not_demanded("tdx-mrseam", body.mr_seam.hex())
        if demands.mr_seams is None
        else _one_of("tdx-mrseam", body.mr_seam, demands.mr_seams),
        line(
            "tdx-service-td",
            "none is reported in TDX 1.0" if service is None else service.hex(),
            "zeros: none is bound",
            good=not any(service or b""),
        ),
    ]


def _check_image(claims: TdxClaims, images: Sequence[TdxImage]) -> list[CheckLine]:
    """(25) MRTD and RTMR0 to RTMR2 of one image.

    Each register narrows the images to those that have it, so that the line that refuses is the
    first that departs from all that those before it left; where all pass, one image has all.
    """
    body, left, lines = claims.body, list(images), []
    values = (body.mr_td, *body.rtmr[:3])
    for name, found in zip(_IMAGE_REGISTERS, values, strict=True):
        check = f"tdx-{name.replace('_', '')}"
        wanted = [getattr(image, name) for image in left]
        if left and all(each is None for each in wanted):
            lines.append(not_demanded(check, found.hex()))
            continue
        matching = [
            image for image, each in zip(left, wanted, strict=True) if each is None or each == found
        ]
        lines.append(
            line(
                check,
                found.hex(),
                _shown([e for e in wanted if e is not None]),
                good=bool(matching),
            )
        )
        left = matching or left
    return lines


def _check_flag(check: str, value: bool | None, demand: Demand) -> CheckLine:  # noqa: FBT001
    """A bit that is set, clear or, in a certificate, not spoken of: which fits neither demand."""
    found = "not said" if value is None else _bit(value)
    if demand is Demand.ANY:
        return not_demanded(check, found)
    return line(check, found, demand.value, good=value is (demand is Demand.SET))


def _equal(check: str, found: bytes, wanted: bytes) -> CheckLine:
    return line(check, found.hex(), wanted.hex(), good=found == wanted)


def _one_of(check: str, found: bytes, wanted: Sequence[bytes]) -> CheckLine:
    return line(check, found.hex(), _shown(wanted), good=found in wanted)


def _shown(values: Sequence[bytes]) -> str:
    distinct = list(dict.fromkeys(each.hex() for each in values))
    text = " or ".join(distinct[:VALUES_SHOWN]) or "none is allowed"
    hidden = len(distinct) - VALUES_SHOWN
    return f"{text} or one of {hidden} more" if hidden > 0 else text


def _bit(value: bool) -> str:  # noqa: FBT001
    return "set" if value else "clear"


def _moment(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=milliseconds)
