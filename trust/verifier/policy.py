"""Appraisal policies: what a relying party demands of evidence, as a document with a digest.

Rules (docs/spec/evidence.md §4):
- A policy names vendor roots or simulated roots, never both: one that mixes them does not load.
- A platform is allowed by standing in the policy with its demands, and only with the roots that
  those demands stand on; a root that nothing in the policy stands on does not load either.
- `None` for GPUs or for a facility is *not demanded*, and the result says so in these words.
- No constructor here takes evidence from a simulated chip unless its root is named to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from trust.encoding import Document, Range, Size, Uint32, UnixMilliseconds
from trust.errors import PolicyError
from trust.evidence.claims import Platform, Product
from trust.verifier.roots import Anchor, PinnedRoot, RootKind, amd_root
from trust.verifier.snp_policy import (
    GENOA_FLOOR,
    TURIN_FLOOR,
    SnpDemands,
    require_distinct,
    snp_demands,
)

MEASUREMENT_BYTES: Final = 48
MEASUREMENTS_MAX: Final = 256  # releases of one image that a custodian still honours
ROOTS_MAX: Final = 64  # six vendors' roots; laptops have three each, and a test has several

Measurement = Annotated[bytes, Size(least=MEASUREMENT_BYTES, most=MEASUREMENT_BYTES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class AppraisalPolicy(Document):
    """A relying party's demands. Its digest names it in use policies and release logs."""

    LABEL: ClassVar[str] = "appraisal-policy"

    version: Annotated[int, Range(least=1, most=1)]
    number: Uint32
    """Rises with each change that its author makes."""
    expires_at: UnixMilliseconds | None
    """Refuses everything from then on; None: its author answers for its age."""
    roots: Annotated[tuple[PinnedRoot, ...], Size(least=1, most=ROOTS_MAX)]
    snp: SnpDemands | None
    """None: no evidence of an SEV-SNP guest is accepted."""
    measurements: Annotated[tuple[Measurement, ...], Size(least=0, most=MEASUREMENTS_MAX)]
    """Images that are good, pinned by the policy's own author; any other is refused."""

    def _check(self) -> None:
        """Rules between fields. Raises PolicyError."""
        kinds = {root.kind for root in self.roots}
        if len(kinds) != 1:
            raise PolicyError("a policy names vendor roots or simulated roots, never both")
        require_distinct("root", [root.fingerprint.hex() for root in self.roots])
        require_distinct("measurement", [each.hex() for each in self.measurements])
        if self.snp is None:
            raise PolicyError("a policy allows no platform")
        if not self.measurements:
            raise PolicyError("a policy allows no image")
        stood_on, pinned = self._anchors(), {root.anchor for root in self.roots}
        if stood_on != pinned:
            raise PolicyError(
                f"what it demands stands on {_names(stood_on)}, and it pins {_names(pinned)}: "
                "wanted the same"
            )

    def _anchors(self) -> set[Anchor]:
        """What the demands of this policy stand on."""
        anchors: set[Anchor] = set()
        if self.snp is not None:
            anchors |= {Anchor(floor.product.value) for floor in self.snp.products}
        return anchors

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The kinds of CPU that it allows."""
        return () if self.snp is None else (Platform.SEV_SNP,)

    @property
    def kind(self) -> RootKind:
        """Real or simulated: that of all its roots. What it releases is of the same kind."""
        return self.roots[0].kind


def production(measurements: Sequence[bytes]) -> AppraisalPolicy:
    """Genoa and Turin under AMD's roots, a chip's own key, these images, no GPU, no facility.

    Milan is not in it: its root seed can be read out by software alone (arXiv 2605.12990).
    """
    return _shipped(
        (amd_root(Product.GENOA), amd_root(Product.TURIN)),
        snp_demands(GENOA_FLOOR, TURIN_FLOOR),
        measurements,
    )


def simulated_policy(
    root_fingerprint: bytes, measurements: Sequence[bytes], *, further_roots: Sequence[bytes] = ()
) -> AppraisalPolicy:
    """The same demands of a Genoa under *simulated* roots, which are named and have no default.

    What it accepts is a script that holds a key: it proves nothing about hardware. Each machine
    makes a root of its own, so a policy for several names `further_roots`.
    """
    roots = tuple(
        PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.GENOA, fingerprint=fingerprint)
        for fingerprint in (root_fingerprint, *further_roots)
    )
    return _shipped(roots, snp_demands(GENOA_FLOOR), measurements)


def _shipped(
    roots: tuple[PinnedRoot, ...], snp: SnpDemands, measurements: Sequence[bytes]
) -> AppraisalPolicy:
    return AppraisalPolicy(
        version=1,
        number=1,
        expires_at=None,
        roots=roots,
        snp=snp,
        measurements=tuple(measurements),
    )


def _names(anchors: set[Anchor]) -> str:
    return ", ".join(sorted(anchor.value for anchor in anchors)) or "nothing"
