"""Which level of Intel's collateral a platform, its TDX module and its quoting enclave are at.

Rules (docs/spec/evidence-tdx.md §4; Intel, QuoteVerificationLibrary: QuoteVerifier.cpp):
- Levels are looked at from the highest down, and the first that the versions reach counts. None is
  reached: there is no status, and the verifier refuses.
- A TDX module of major version 0 is covered by the platform's levels. Any other has an identity of
  its own in the TCB info, with levels of its own, and components 0 and 1 of the platform's levels,
  which are the version of the module that was current then, are not compared.
- What counts in the end is the worst of the three statuses, and the advisories of all. An old
  module or enclave on a platform whose configuration is wanting is both out of date and wanting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from trust.evidence.tdx import PckClaims, QeReport, TcbStatus, TdBody
from trust.verifier.intel_collateral import (
    ModuleIdentity,
    QeIdentity,
    SvnLevel,
    TcbInfo,
    TcbLevel,
)

SEVERITIES: Final = {status: rank for rank, status in enumerate(TcbStatus)}
_CONFIGURATION: Final = frozenset(
    {TcbStatus.CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """The levels that were reached; None: not even the lowest."""

    platform: TcbLevel | None
    module: SvnLevel | None
    module_counts: bool
    """The module has levels of its own."""
    quoting_enclave: SvnLevel | None

    @property
    def reached(self) -> tuple[TcbLevel | SvnLevel, ...] | None:
        """The two or three levels that count; None if one of them was not reached."""
        counting = (
            self.platform,
            *((self.module,) if self.module_counts else ()),
            self.quoting_enclave,
        )
        found = tuple(each for each in counting if each is not None)
        return found if len(found) == len(counting) else None


def reached_levels(
    tcb_info: TcbInfo, qe_identity: QeIdentity, pck: PckClaims, body: TdBody, qe_report: QeReport
) -> Levels:
    """Find all three."""
    identity = module_identity(tcb_info, body)
    module_svn, major = body.tee_tcb_svn[0], body.tee_tcb_svn[1]
    return Levels(
        platform=_platform_level(tcb_info.levels, pck, body),
        module=_svn_level(identity.levels, module_svn) if identity is not None else None,
        module_counts=major > 0,
        quoting_enclave=_svn_level(qe_identity.levels, qe_report.isv_svn),
    )


def module_identity(tcb_info: TcbInfo, body: TdBody) -> ModuleIdentity | None:
    """What Intel says of modules of this major version; None: it says nothing."""
    major = body.tee_tcb_svn[1]
    if major == 0:
        return tcb_info.module
    wanted = f"TDX_{major:02X}"
    return next((each for each in tcb_info.identities if each.id == wanted), None)


def merged_status(levels: Iterable[TcbLevel | SvnLevel]) -> TcbStatus:
    """What all levels together come to."""
    statuses = {level.status for level in levels}
    worst = max(statuses, key=SEVERITIES.__getitem__)
    if worst is TcbStatus.OUT_OF_DATE and statuses & _CONFIGURATION:
        return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
    return worst


def _platform_level(levels: tuple[TcbLevel, ...], pck: PckClaims, body: TdBody) -> TcbLevel | None:
    first = 2 if body.tee_tcb_svn[1] > 0 else 0
    for level in levels:
        if (
            pck.pce_svn >= level.pce_svn
            and _at_least(pck.components, level.sgx)
            and _at_least(tuple(body.tee_tcb_svn)[first:], level.tdx[first:])
        ):
            return level
    return None


def _at_least(values: tuple[int, ...], floors: tuple[int, ...]) -> bool:
    return all(value >= floor for value, floor in zip(values, floors, strict=True))


def _svn_level(levels: tuple[SvnLevel, ...], svn: int) -> SvnLevel | None:
    return next((level for level in levels if svn >= level.svn), None)
