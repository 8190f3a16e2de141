"""Reference values: what a good runtime image measures as, on each platform.

Rules (docs/spec/image-releases.md §1):
- A simulated measurement is good under simulated roots alone, and no other value is good there.
- TDX registers are good as a whole set: one image's MRTD with another's RTMRs is no image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from trust.encoding import Size, Struct
from trust.errors import PolicyError
from trust.image import MEASUREMENT_BYTES
from trust.verifier.roots import RootKind
from trust.verifier.tdx_policy import TdxImage

SNP_MAX: Final = 2048  # shapes of machines, of two releases: a log entry is too short for more
TDX_MAX: Final = 512
SIMULATED_MAX: Final = 64

Measurement = Annotated[bytes, Size(least=MEASUREMENT_BYTES, most=MEASUREMENT_BYTES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceValues(Struct):
    """Good measurements; what is not here is not good."""

    snp: Annotated[tuple[Measurement, ...], Size(least=0, most=SNP_MAX)]
    """Launch measurements of SEV-SNP guests."""
    tdx: Annotated[tuple[TdxImage, ...], Size(least=0, most=TDX_MAX)]
    """Registers of TDX guests, whole sets."""
    simulated: Annotated[tuple[Measurement, ...], Size(least=0, most=SIMULATED_MAX)]
    """SHA-384 of what runs under a simulated chip."""

    def _check(self) -> None:
        """There is one, and none twice. Raises PolicyError."""
        if not (self.snp or self.tdx or self.simulated):
            raise PolicyError("reference values name no measurement")
        for what, values in (("SNP", self.snp), ("TDX", self.tdx), ("simulated", self.simulated)):
            if len(set(values)) != len(values):
                raise PolicyError(f"reference values name a {what} measurement twice")
        for each in self.tdx:
            if None in {each.rtmr0, each.rtmr1, each.rtmr2}:
                raise PolicyError("reference values of TDX name MRTD and RTMR0 to RTMR2")

    def measurements(self, kind: RootKind) -> tuple[bytes, ...]:
        """Good measurements of an SEV-SNP guest under a root of this kind: 48 bytes each."""
        return self.snp if kind is RootKind.REAL else self.simulated

    def tdx_images(self, kind: RootKind) -> tuple[TdxImage, ...]:
        """Good registers of a TDX guest; nothing that is released is good under simulated roots."""
        return self.tdx if kind is RootKind.REAL else ()


def joined(values: Iterable[ReferenceValues]) -> ReferenceValues:
    """All that is good by any of these. Raises DocumentError if there are too many."""
    every = tuple(values)
    return ReferenceValues(
        snp=tuple(dict.fromkeys(each for one in every for each in one.snp)),
        tdx=tuple(dict.fromkeys(each for one in every for each in one.tdx)),
        simulated=tuple(dict.fromkeys(each for one in every for each in one.simulated)),
    )
