"""Appraisal policies: what a relying party demands of evidence, as a document with a digest.

Rules (docs/spec/evidence.md §4):
- A policy names vendor roots or simulated roots, never both: one that mixes them does not load.
- A platform is allowed by standing in the policy with its demands, and only with the roots that
  those demands stand on; a root that nothing in the policy stands on does not load either.
- `None` for GPUs or for a facility is *not demanded*, and the result says so in these words.
- No constructor here takes evidence from a simulated chip unless its root is named to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from trust.encoding import Document, Range, Size, Uint32, UnixMilliseconds
from trust.errors import PolicyError
from trust.evidence.claims import Platform, Product
from trust.image_release import ReleaseDemands
from trust.verifier.facility import FacilityDemands
from trust.verifier.gpu_policy import BLACKWELL_FLOOR, HOPPER_FLOOR, GpuDemands, gpu_demands
from trust.verifier.roots import Anchor, PinnedRoot, RootKind, amd_root, vendor_root
from trust.verifier.snp_policy import (
    GENOA_FLOOR,
    TURIN_FLOOR,
    SnpDemands,
    require_distinct,
    snp_demands,
)
from trust.verifier.tdx_policy import TdxDemands, TdxImage, tdx_demands

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
    tdx: TdxDemands | None
    """None: no evidence of a TDX guest is accepted."""
    measurements: Annotated[tuple[Measurement, ...], Size(least=0, most=MEASUREMENTS_MAX)]
    """Images of SEV-SNP guests, simulated ones too, that the author pins itself."""
    tdx_images: Annotated[tuple[TdxImage, ...], Size(least=0, most=MEASUREMENTS_MAX)]
    """The same of TDX guests."""
    releases: ReleaseDemands | None
    """Which releases count beside what is pinned; None: none does."""
    gpu: GpuDemands | None
    """None: *not demanded*; nothing that a GPU says is looked at."""
    facility: FacilityDemands | None
    """None: *not demanded*; a machine may stand anywhere."""

    def _check(self) -> None:
        """Rules between fields. Raises PolicyError."""
        kinds = {root.kind for root in self.roots}
        if len(kinds) != 1:
            raise PolicyError("a policy names vendor roots or simulated roots, never both")
        require_distinct("root", [root.fingerprint.hex() for root in self.roots])
        require_distinct("measurement", [each.hex() for each in self.measurements])
        if not self.platforms:
            raise PolicyError("a policy allows no platform")
        for name, demands, images in (
            ("SEV-SNP", self.snp, self.measurements),
            ("TDX", self.tdx, self.tdx_images),
        ):
            if demands is not None and not images and self.releases is None:
                raise PolicyError(f"a policy allows no image of {name}")
            if demands is None and images:
                raise PolicyError(f"a policy pins images of {name}, and does not allow it")
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
        if self.tdx is not None:
            anchors.add(Anchor.INTEL_SGX)
        if self.gpu is not None:
            anchors |= {Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM}
        return anchors

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The kinds of CPU that it allows."""
        allowed = ((Platform.SEV_SNP, self.snp), (Platform.TDX, self.tdx))
        return tuple(platform for platform, demands in allowed if demands is not None)

    @property
    def kind(self) -> RootKind:
        """Real or simulated: that of all its roots. What it releases is of the same kind."""
        return self.roots[0].kind


def any_facility(
    measurements: Sequence[bytes],
    *,
    tdx_images: Sequence[TdxImage] = (),
    releases: ReleaseDemands | None = None,
) -> AppraisalPolicy:
    """Genuine Genoa, Turin and TDX machines with one Hopper or Blackwell, wherever they stand.

    A chip's own key signs, floors are those of today, GPUs work alone. Milan is not in it: its root
    seed can be read out by software alone (arXiv 2605.12990). TDX is in it where `tdx_images` or
    `releases` say which of its images are good. What it does not stop is an attacker with
    physical access to the memory bus (docs/threat-model.md): that is what `production` is for.
    """
    with_tdx = bool(tdx_images) or releases is not None
    roots = [amd_root(Product.GENOA), amd_root(Product.TURIN)]
    roots += [vendor_root(Anchor.INTEL_SGX)] if with_tdx else []
    return AppraisalPolicy(
        version=1,
        number=1,
        expires_at=None,
        roots=(*roots, vendor_root(Anchor.NVIDIA_DEVICE), vendor_root(Anchor.NVIDIA_RIM)),
        snp=snp_demands(GENOA_FLOOR, TURIN_FLOOR),
        tdx=tdx_demands() if with_tdx else None,
        measurements=tuple(measurements),
        tdx_images=tuple(tdx_images),
        releases=releases,
        gpu=gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR),
        facility=None,
    )


def production(
    measurements: Sequence[bytes],
    facility: FacilityDemands,
    *,
    tdx_images: Sequence[TdxImage] = (),
    releases: ReleaseDemands | None = None,
) -> AppraisalPolicy:
    """`any_facility`, of machines that an endorser saw standing in a facility: what we recommend.

    There is no default for whom to believe about buildings.
    """
    return dataclasses.replace(
        any_facility(measurements, tdx_images=tdx_images, releases=releases), facility=facility
    )


def simulated_policy(
    root_fingerprint: bytes,
    measurements: Sequence[bytes],
    *,
    further_roots: Sequence[bytes] = (),
    gpu_roots: Sequence[PinnedRoot] = (),
    releases: ReleaseDemands | None = None,
) -> AppraisalPolicy:
    """The same demands of a Genoa under *simulated* roots, which are named and have no default.

    What it accepts is a script that holds a key: it proves nothing about hardware. Each machine
    makes roots of its own, so a policy for several names `further_roots`. `gpu_roots`, of both of
    NVIDIA's anchors, demand a simulated GPU; without them none is looked at.
    """
    genoa = [
        PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.GENOA, fingerprint=fingerprint)
        for fingerprint in (root_fingerprint, *further_roots)
    ]
    return AppraisalPolicy(
        version=1,
        number=1,
        expires_at=None,
        roots=(*genoa, *gpu_roots),
        snp=snp_demands(GENOA_FLOOR),
        tdx=None,
        measurements=tuple(measurements),
        tdx_images=(),
        releases=releases,
        gpu=gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR) if gpu_roots else None,
        facility=None,
    )


def simulated_policy_of(
    roots: Sequence[PinnedRoot],
    measurements: Sequence[bytes],
    *,
    releases: ReleaseDemands | None = None,
) -> AppraisalPolicy:
    """`simulated_policy` of roots that say themselves what they are. Raises PolicyError."""
    genoa = [each.fingerprint for each in roots if each.anchor is Anchor.GENOA]
    gpu = [each for each in roots if each.anchor in {Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM}]
    if not genoa or len(genoa) + len(gpu) != len(roots):
        raise PolicyError(
            "simulated roots: wanted a genoa, and nvidia-device with nvidia-rim where GPUs count"
        )
    return simulated_policy(
        genoa[0], measurements, further_roots=genoa[1:], gpu_roots=gpu, releases=releases
    )


def without_gpus(policy: AppraisalPolicy) -> AppraisalPolicy:
    """The same policy for machines whose processor alone computes: no GPU is looked at."""
    gpu = {Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM}
    kept = tuple(root for root in policy.roots if root.anchor not in gpu)
    return dataclasses.replace(policy, gpu=None, roots=kept)


def _names(anchors: set[Anchor]) -> str:
    return ", ".join(sorted(anchor.value for anchor in anchors)) or "nothing"
