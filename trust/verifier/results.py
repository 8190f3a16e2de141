"""What the verifier says. To hold one of these types is to know that the checks were made.

Rules:
- Only `trust.verifier` makes a `VerifiedEvidence` or an `AttestationResult`: the constructors want
  `_SEAL`, an object that no other package imports (a test looks), so that a forgotten check is a
  TypeError and not an acceptance. It guards against mistakes, not against code of ill will in the
  same process.
- A result has one line for each check. *Not checked* never counts as a pass.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import InitVar, dataclass
from typing import Final, cast

from trust.encoding import Json, base64url, canonical_json, digest, label_bytes
from trust.errors import RefusedError
from trust.evidence.claims import Platform, SnpClaims
from trust.evidence.tdx import TdxClaims
from trust.verifier.roots import PinnedRoot, RootKind

_SEAL: Final = object()


class Verdict(enum.Enum):
    """What became of one check. The first and the last are no obstacle; the others are."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_CHECKED = "not checked"
    NOT_DEMANDED = "not demanded"


_PASSING: Final = frozenset({Verdict.ACCEPTED, Verdict.NOT_DEMANDED})


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckLine:
    """One check: what was found, what was wanted, and the verdict."""

    id: str
    """A stable word (docs/spec/evidence-snp.md lists them)."""
    found: str
    wanted: str
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """The check is no ground for refusal."""
        return self.verdict in _PASSING

    def __str__(self) -> str:
        return f"{self.id}: {self.verdict.value}: found {self.found}; wanted {self.wanted}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collateral:
    """An endorsement that was used, by its digest, so that a later advisory can be matched."""

    kind: str
    sha256: bytes
    """SHA-256 of its bytes: 32 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedEvidence:
    """Claims whose signature and chain hold under a pinned root. No policy has looked at them."""

    claims: SnpClaims | TdxClaims
    root: PinnedRoot
    collateral: tuple[Collateral, ...]
    checks: tuple[CheckLine, ...]
    """The verifier's own checks, all of them passed."""
    verified_at: dt.datetime
    expires_at: dt.datetime
    """When the first of its certificates or lists ends: not believed from then on."""
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        _require_seal(seal, type(self).__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuIdentity:
    """Which device, with which software: what a later advisory is matched against."""

    architecture: str
    serial: bytes
    """Of its device certificate: up to 20 bytes, big endian."""
    driver: str | None
    """None: a switch."""
    vbios: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttestationResult:
    """The verdict of one policy over one piece of evidence."""

    platform: Platform
    kind: RootKind
    product: str
    """The line of processors, in its vendor's words."""
    chip_id: bytes | None
    """64 bytes; None if the evidence names no chip."""
    measurement: bytes
    """48 bytes; of a TD: `image_of_td`."""
    ppid: bytes | None
    """16 bytes: which Intel platform; None: another vendor's."""
    gpus: tuple[GpuIdentity, ...]
    """GPUs and switches whose evidence was verified; empty: none was looked at."""
    policy: bytes
    """Digest of the appraisal policy: 32 bytes."""
    collateral: tuple[Collateral, ...]
    checks: tuple[CheckLine, ...]
    """The verifier's lines and then the policy's, in the order in which they were made."""
    appraised_at: dt.datetime
    expires_at: dt.datetime
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        _require_seal(seal, type(self).__name__)

    @property
    def accepted(self) -> bool:
        """Every check passed, and there was one."""
        return bool(self.checks) and all(line.passed for line in self.checks)

    def require(self) -> None:
        """Raise RefusedError (code ``evidence-<check>``) for the first check that did not pass."""
        for line in self.checks:
            if not line.passed:
                raise RefusedError(f"evidence-{line.id}", f"{line}")
        if not self.accepted:
            raise RefusedError("evidence-empty", "no check was made")

    def encode(self) -> bytes:
        """``blindhost/v1/attestation-result ‖ 0x00 ‖ canonical JSON``, for a release log."""
        value = {
            "platform": self.platform.value,
            "kind": self.kind.value,
            "product": self.product,
            "chip_id": None if self.chip_id is None else base64url(self.chip_id),
            "measurement": base64url(self.measurement),
            "ppid": None if self.ppid is None else base64url(self.ppid),
            "gpus": [
                {
                    "architecture": each.architecture,
                    "serial": base64url(each.serial),
                    "driver": each.driver,
                    "vbios": each.vbios,
                }
                for each in self.gpus
            ],
            "policy": base64url(self.policy),
            "collateral": [
                {"kind": c.kind, "sha256": base64url(c.sha256)} for c in self.collateral
            ],
            "checks": [
                {"id": c.id, "found": c.found, "wanted": c.wanted, "verdict": c.verdict.value}
                for c in self.checks
            ],
            "appraised_at": _milliseconds(self.appraised_at),
            "expires_at": _milliseconds(self.expires_at),
        }
        return label_bytes("attestation-result") + canonical_json(cast(Json, value))

    @property
    def digest(self) -> bytes:
        """SHA-256 of `encode`: 32 bytes."""
        return digest(self.encode())


def line(check: str, found: object, wanted: object, *, good: bool) -> CheckLine:
    """A line of a check that was made."""
    verdict = Verdict.ACCEPTED if good else Verdict.REFUSED
    return CheckLine(id=check, found=str(found), wanted=str(wanted), verdict=verdict)


def not_demanded(check: str, found: object) -> CheckLine:
    """A line of a check that the policy does not ask for."""
    return CheckLine(id=check, found=str(found), wanted="anything", verdict=Verdict.NOT_DEMANDED)


def _require_seal(seal: object, name: str) -> None:
    if seal is not _SEAL:
        raise TypeError(f"{name} is made by trust.verifier alone: call verify_evidence")


def _milliseconds(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
