"""What a policy demands of a TDX machine and of how its guest was built.

Rules (docs/spec/evidence-tdx.md §5):
- A debug guest, reserved attributes, SEPT_VE_DISABLE clear, a guest that can be exported, a service
  TD and firmware that Intel revoked are refused by every policy: no field would allow them.
- A status below UpToDate is allowed by name, with the advisories that its author has read, until a
  day: an OutOfDate level can have no advisory at all, so advisories alone would let it through.
- `Demand.ANY` and `None` are words of their own: the line in the result says *not demanded*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from trust.encoding import Count, Size, Struct, Text, Uint32, Uint53, UnixMilliseconds
from trust.errors import PolicyError
from trust.evidence.tdx import REGISTER_BYTES, TcbStatus
from trust.verifier.snp_policy import Demand, require_distinct

ADVISORIES_MAX: Final = 128
MODULES_MAX: Final = 64  # TDX modules that Intel has released, and their like
OWNERS_MAX: Final = 16

# XFAM (Intel, "TDX Module ABI"): x87 and SSE are always on; no module allows what stands outside of
# the second mask.
XFAM_ALWAYS: Final = 0x3
XFAM_KNOWN: Final = 0x6DBE7

Register = Annotated[bytes, Size(least=REGISTER_BYTES, most=REGISTER_BYTES)]
_NEVER: Final = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.REVOKED})


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusAllowance(Struct):
    """A status below UpToDate that is accepted for a while."""

    status: TcbStatus
    advisories: Annotated[tuple[Text, ...], Size(least=0, most=ADVISORIES_MAX)]
    """Those that its author has read and accepts; one more refuses."""
    until: UnixMilliseconds
    """Refused from then on."""

    def _check(self) -> None:
        """UpToDate needs no allowance, and Revoked has none. Raises PolicyError."""
        if self.status in _NEVER:
            raise PolicyError(f"no policy allows {self.status.value} by name")
        require_distinct("advisory", list(self.advisories))


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxImage(Struct):
    """Registers of one image: they go together, so one of another image is refused."""

    mr_td: Register
    rtmr0: Register | None
    """Firmware's configuration and ACPI tables; None: not demanded."""
    rtmr1: Register | None
    """Kernel; None: not demanded."""
    rtmr2: Register | None
    """Command line and initial file system; None: not demanded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxDemands(Struct):
    """Demands of a TDX machine and of how its guest was built."""

    statuses: Annotated[tuple[StatusAllowance, ...], Size(least=0, most=len(TcbStatus))]
    """What is accepted beside UpToDate."""
    number_least: Uint32
    """Floor under tcbEvaluationDataNumber of TCB info and of the quoting enclave's identity: old
    collateral is not revoked, it only ends."""
    collateral_age_seconds_max: Count
    """Since the oldest of TCB info, identity and PCK revocation list was issued."""
    mr_seams: Annotated[tuple[Register, ...], Size(least=1, most=MODULES_MAX)] | None
    """TDX modules that are accepted; None: any that Intel's TCB info knows."""
    perfmon: Demand
    pks: Demand
    key_locker: Demand
    xfam_required: Uint53
    xfam_allowed: Uint53
    rtmr3: Register
    """Its whole value: no event log is replayed."""
    mr_owners: Annotated[tuple[Register, ...], Size(least=1, most=OWNERS_MAX)]
    mr_owner_configs: Annotated[tuple[Register, ...], Size(least=1, most=OWNERS_MAX)]
    dynamic_platform: Demand
    cached_keys: Demand
    smt: Demand

    def _check(self) -> None:
        """Nothing is said twice, and no feature is demanded that is not allowed.

        Raises PolicyError.
        """
        require_distinct("status", [each.status.value for each in self.statuses])
        require_distinct("TDX module", [each.hex() for each in self.mr_seams or ()])
        require_distinct("owner", [each.hex() for each in self.mr_owners])
        require_distinct("owner's configuration", [e.hex() for e in self.mr_owner_configs])
        if self.xfam_required & ~self.xfam_allowed or self.xfam_allowed & ~XFAM_KNOWN:
            raise PolicyError(
                f"XFAM: required {self.xfam_required:#x}, allowed {self.xfam_allowed:#x}: "
                f"wanted the first in the second, and both in {XFAM_KNOWN:#x}"
            )

    def allowance_of(self, status: TcbStatus) -> StatusAllowance | None:
        """The allowance of `status`; None: there is none."""
        return next((each for each in self.statuses if each.status is status), None)


# 18 is the highest number in the real collateral that we have (of 2026-03): a person should compare
# it with what Intel issues. Its collateral lasts 30 days.
NUMBER_LEAST: Final = 18
COLLATERAL_AGE_SECONDS_MAX: Final = 30 * 24 * 3600


def tdx_demands(*, mr_seams: Sequence[bytes] | None = None) -> TdxDemands:
    """What every shipped policy demands: UpToDate alone, and registers of nobody else's."""
    return TdxDemands(
        statuses=(),
        number_least=NUMBER_LEAST,
        collateral_age_seconds_max=COLLATERAL_AGE_SECONDS_MAX,
        mr_seams=None if mr_seams is None else tuple(mr_seams),
        perfmon=Demand.CLEAR,  # nobody here counts events, and counters tell about neighbours
        pks=Demand.ANY,
        key_locker=Demand.CLEAR,  # keys that a host could have seen are of no use to us
        xfam_required=XFAM_ALWAYS,
        xfam_allowed=XFAM_KNOWN,
        rtmr3=bytes(REGISTER_BYTES),
        mr_owners=(bytes(REGISTER_BYTES),),
        mr_owner_configs=(bytes(REGISTER_BYTES),),
        dynamic_platform=Demand.ANY,
        cached_keys=Demand.ANY,
        smt=Demand.ANY,  # side channels of the processor are among what we do not protect
    )
