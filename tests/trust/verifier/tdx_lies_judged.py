"""Lies about firmware and guest, signed by everyone: checks 22 to 26 refuse them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.trust.verifier.tdx_changes import (
    Lie,
    Mutation,
    both,
    demands,
    enclave,
    guest,
    level,
    measured,
    platform,
    said,
    words,
)
from tests.trust.verifier.tdx_vendor import (
    DAY,
    GUEST,
    IMAGE,
    NOW,
    OTHER_IMAGE,
    register,
)
from trust.evidence.tdx import TcbStatus
from trust.simulated.intel import PLATFORM
from trust.simulated.intel_formats import moment
from trust.verifier.snp_policy import Demand
from trust.verifier.tdx_policy import StatusAllowance

LIES: list[Lie] = []


def lie(check: str, name: str, mutate: Mutation) -> None:
    LIES.append(Lie(name=name, mutate=mutate, check=check))


# --- 22, 23: levels and status -------------------------------------------------------------------


def svn(*first: int) -> bytes:
    return bytes(first) + bytes(16 - len(first))


MODULE = ("tdxModuleIdentities", 0)
lie("tdx-module", "module-of-an-unknown-version", guest(tee_tcb_svn=svn(11, 2, 4)))
lie("tdx-module", "module-of-an-unknown-signer", level("tcb_info", MODULE, mrsigner="01" * 48))
lie("tdx-module", "module-with-other-attributes", level("tcb_info", MODULE, attributes="01" * 8))
lie(
    "tdx-module",
    "module-with-attributes-outside-of-the-mask",
    both(
        guest(seam_attributes=b"\x01" + bytes(7)),
        level("tcb_info", MODULE, attributesMask="00" * 8),
    ),
)
LEVEL = "tdx-tcb-level"
lie(LEVEL, "module-below-all-levels", guest(tee_tcb_svn=svn(3, 1, 4)))
lie(LEVEL, "microcode-below-all-levels", guest(tee_tcb_svn=svn(11, 1, 1)))
lie(LEVEL, "platform-below-all-levels", platform(components=(1, *PLATFORM.components[1:])))
lie(LEVEL, "pce-below-all-levels", platform(pce_svn=12))
lie(LEVEL, "enclave-below-all-levels", enclave(isv_svn=1))
lie(LEVEL, "tcb-info-without-levels", words("tcb_info", tcbLevels=[]))
lie(
    LEVEL,
    "first-module-with-components-below-all-levels",
    guest(tee_tcb_svn=svn(4, 0, 4)),
)


def reversed_levels(value: dict[str, Any]) -> None:
    value["tdxModuleIdentities"][0]["tcbLevels"].reverse()


OPINION = "tdx-second-opinion"
lie(OPINION, "module-levels-in-another-order", said("tcb_info", reversed_levels))
lie(
    OPINION,
    "identity-levels-in-another-order",
    said("qe_identity", lambda value: value["tcbLevels"].reverse()),
)

STATUS = "tdx-tcb-status"
OLD_PLATFORM = platform(components=(2, 2, *PLATFORM.components[2:]))
UNTIL = 1_800_000_000_000  # 2027-01
lie(STATUS, "platform-out-of-date", OLD_PLATFORM)
lie(STATUS, "late-microcode-out-of-date", guest(tee_tcb_svn=svn(11, 1, 2)))
lie(STATUS, "module-out-of-date", guest(tee_tcb_svn=svn(5, 1, 4)))
lie(STATUS, "enclave-out-of-date", enclave(isv_svn=3))
for status in TcbStatus:
    if status is not TcbStatus.UP_TO_DATE:
        lie(
            STATUS,
            f"platform-{status.value.lower()}-by-name",
            level("tcb_info", ("tcbLevels", 0), tcbStatus=status.value),
        )
lie(
    STATUS,
    "out-of-date-without-an-advisory",
    both(OLD_PLATFORM, level("tcb_info", ("tcbLevels", 1), advisoryIDs=[])),
)


def allowed(
    *advisories: str, until: int = UNTIL, status: TcbStatus = TcbStatus.OUT_OF_DATE
) -> Mutation:
    return demands(statuses=(StatusAllowance(status=status, advisories=advisories, until=until),))


lie(STATUS, "advisory-that-the-policy-has-not-read", both(OLD_PLATFORM, allowed("INTEL-SA-00001")))
lie(
    STATUS,
    "grace-that-has-ended",
    both(OLD_PLATFORM, allowed("INTEL-SA-01111", until=int(NOW.timestamp() * 1000))),
)
lie(
    STATUS,
    "status-that-another-allowance-names",
    both(OLD_PLATFORM, allowed("INTEL-SA-01111", status=TcbStatus.CONFIGURATION_NEEDED)),
)
lie(
    "tdx-tcb-number",
    "tcb-info-of-an-older-evaluation",
    words("tcb_info", tcbEvaluationDataNumber=17),
)
lie(
    "tdx-qe-number",
    "identity-of-an-older-evaluation",
    words("qe_identity", tcbEvaluationDataNumber=1),
)
lie("tdx-collateral-age", "collateral-too-old", demands(collateral_age_seconds_max=3600))
lie(
    "tdx-collateral-age",
    "identity-too-old",
    words("qe_identity", issueDate=moment(NOW - 40 * DAY)),
)

# --- 24 to 26: what the policy says of the guest -------------------------------------------------

SEPT = 1 << 28
lie("tdx-debug", "debug-guest", guest(attributes=SEPT | 1))
lie("tdx-attributes-reserved", "reserved-attribute-beside-debug", guest(attributes=SEPT | 1 << 4))
lie("tdx-attributes-reserved", "reserved-attribute", guest(attributes=SEPT | 1 << 40))
lie("tdx-sept-ve-disable", "pages-can-be-taken-away", guest(attributes=0))
lie("tdx-migratable", "guest-that-can-be-exported", guest(attributes=SEPT | 1 << 29))
lie("tdx-perfmon", "guest-that-counts-events", guest(attributes=SEPT | 1 << 63))
lie("tdx-key-locker", "guest-with-key-locker", guest(attributes=SEPT | 1 << 31))
lie("tdx-pks", "guest-without-protection-keys", demands(pks=Demand.SET))
lie("tdx-xfam", "guest-without-sse", guest(xfam=0x602E5))
lie("tdx-xfam", "features-that-no-module-allows", guest(xfam=0x602E7 | 1 << 10))
lie("tdx-xfam", "features-beyond-those-known", guest(xfam=0x602E7 | 1 << 62))
lie("tdx-xfam-demands", "feature-that-the-policy-does-not-allow", demands(xfam_allowed=0x600E7))
lie("tdx-xfam-demands", "feature-that-the-policy-demands", demands(xfam_required=0x803))
lie(
    "tdx-seam-signer",
    "module-that-another-than-intel-signed",
    both(guest(mr_signer_seam=b"\x01" * 48), level("tcb_info", MODULE, mrsigner="01" * 48)),
)
lie(
    "tdx-seam-attributes",
    "module-for-debugging",
    both(
        guest(seam_attributes=b"\x01" + bytes(7)),
        level("tcb_info", MODULE, attributes="01" + "00" * 7),
    ),
)
lie("tdx-mrseam", "module-that-the-policy-does-not-name", demands(mr_seams=(register(8),)))
lie("tdx-service-td", "guest-with-a-service-td", guest(mr_service_td=register(8)))


lie("tdx-mrtd", "another-image", guest(mr_td=register(8)))
lie(
    "tdx-mrtd",
    "image-that-the-policy-does-not-name",
    lambda case: replace(case, images=(replace(IMAGE, mr_td=register(8)), OTHER_IMAGE)),
)
lie("tdx-rtmr0", "another-firmware-configuration", measured(0, register(8)))
lie("tdx-rtmr1", "another-kernel", measured(1, register(8)))
lie("tdx-rtmr2", "another-command-line", measured(2, register(8)))
lie("tdx-rtmr1", "kernel-of-another-image", measured(1, register(13)))
lie("tdx-rtmr3", "something-measured-at-run-time", measured(3, register(8)))
lie("tdx-event-log", "log-of-events", lambda case: replace(case, event_log=b"\x00" * 64))
lie("tdx-mrconfigid", "another-launch-document", guest(mr_config_id=register(8)[:32] + bytes(16)))
lie(
    "tdx-mrconfigid",
    "launch-digest-that-is-not-padded-with-zeros",
    guest(mr_config_id=GUEST.mr_config_id[:32] + b"\x01" * 16),
)
lie("tdx-mrowner", "guest-with-an-owner", guest(mr_owner=register(8)))
lie("tdx-mrownerconfig", "guest-with-an-owners-configuration", guest(mr_owner_config=register(8)))
lie("tdx-report-data", "report-data-of-another-session", guest(report_data=bytes(64)))
lie(
    "tdx-report-data",
    "last-byte-of-report-data",
    guest(report_data=GUEST.report_data[:-1] + b"\x00"),
)
lie("tdx-smt", "machine-with-multithreading", demands(smt=Demand.CLEAR))
lie("tdx-cached-keys", "machine-with-cached-keys", demands(cached_keys=Demand.CLEAR))
lie("tdx-dynamic-platform", "machine-that-can-grow", demands(dynamic_platform=Demand.CLEAR))
lie(
    "tdx-smt",
    "machine-that-does-not-say-whether-it-has-multithreading",
    both(platform(smt_enabled=None), demands(smt=Demand.CLEAR)),
)
