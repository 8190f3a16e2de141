"""A make-believe Intel for tests: one good case, with whatever a test wants wrong in it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from trust.errors import EvidenceFormatError, SizeLimitError
from trust.evidence.tdx import launch_config_id, parse_tdx_quote
from trust.simulated.intel import IntelKeys, SimulatedIntel
from trust.simulated.intel_formats import GuestSpec
from trust.verifier.intel_collateral import parse_tdx_endorsements
from trust.verifier.results import CheckLine
from trust.verifier.roots import Anchor, PinnedRoot, RootKind
from trust.verifier.tdx import check_tdx, verify_tdx
from trust.verifier.tdx_appraisal import appraise_tdx
from trust.verifier.tdx_policy import TdxDemands, TdxImage, tdx_demands

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
REPORT_DATA = bytes(range(64))
LAUNCH = bytes(range(32))


def register(number: int) -> bytes:
    """A register that is like no other."""
    return bytes([number]) * 48


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name in every run, so that vectors are the same bytes."""
    return ec.derive_private_key(
        int.from_bytes(f"blindhost test {name}".encode().rjust(31, b"."), "big"), ec.SECP256R1()
    )


@functools.cache
def keys() -> IntelKeys:
    return IntelKeys(**{f.name: key(f.name) for f in dataclasses.fields(IntelKeys)})


@functools.cache
def intel() -> SimulatedIntel:
    return SimulatedIntel.create(keys(), NOW)


GUEST = GuestSpec(
    mr_td=register(1),
    rtmr=(register(2), register(3), register(4), bytes(48)),
    mr_config_id=launch_config_id(LAUNCH),
    report_data=REPORT_DATA,
)
IMAGE = TdxImage(mr_td=register(1), rtmr0=register(2), rtmr1=register(3), rtmr2=register(4))
OTHER_IMAGE = TdxImage(
    mr_td=register(11), rtmr0=register(12), rtmr1=register(13), rtmr2=register(14)
)

Endorsements = tuple[tuple[str, bytes], ...]


def unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Case:
    """Evidence, and what it is judged by."""

    intel: SimulatedIntel
    guest: GuestSpec = GUEST
    version: int = 5
    edit_signed: Callable[[bytes], bytes] = unchanged
    """Before the quote is signed."""
    edit_quote: Callable[[bytes], bytes] = unchanged
    """After it is signed."""
    edit_endorsements: Callable[[Endorsements], Endorsements] = unchanged
    roots: tuple[PinnedRoot, ...] | None = None
    """None: the case's own root."""
    demands: TdxDemands = dataclasses.field(default_factory=tdx_demands)
    images: tuple[TdxImage, ...] = (IMAGE, OTHER_IMAGE)
    report_data: bytes = REPORT_DATA
    launch: bytes = LAUNCH
    event_log: bytes | None = None
    now: dt.datetime = NOW

    def quote(self) -> bytes:
        signed = self.edit_signed(self.guest.encode(self.version))
        return self.edit_quote(self.intel.sign_quote(signed))

    def endorsements(self) -> Endorsements:
        return self.edit_endorsements(self.intel.endorsements())

    def pinned(self) -> tuple[PinnedRoot, ...]:
        return (pin(self.intel.fingerprint),) if self.roots is None else self.roots


def good(**changes: Any) -> Case:
    return Case(intel=intel(), **changes)


def pin(fingerprint: bytes, anchor: Anchor = Anchor.INTEL_SGX) -> PinnedRoot:
    return PinnedRoot(kind=RootKind.SIMULATED, anchor=anchor, fingerprint=fingerprint)


def lines_of(case: Case) -> tuple[CheckLine, ...]:
    """The verifier's lines and, where all of them pass, the policy's."""
    quote = parse_tdx_quote(case.quote())
    endorsements = parse_tdx_endorsements(case.endorsements())
    lines = check_tdx(quote, endorsements, case.pinned(), case.now)
    if not all(line.passed for line in lines):
        return lines
    verified = verify_tdx(quote, endorsements, case.pinned(), case.now)
    return verified.checks + appraise_tdx(
        verified.claims,
        case.demands,
        case.images,
        expected_report_data=case.report_data,
        expected_launch=case.launch,
        now=case.now,
        event_log=case.event_log,
    )


def refusing(case: Case) -> set[str]:
    """Ids of the checks that refuse; bytes that are none of it are refused by the format's."""
    try:
        return {line.id for line in lines_of(case) if not line.passed}
    except (EvidenceFormatError, SizeLimitError):
        return {"tdx-quote-format"}
