"""Well-formed lies in evidence of NVIDIA GPUs: each is signed by whoever an attacker can be, and
each is refused by exactly the check that stands beside it.

The golden vectors are built from these lists, so every lie is a function of the good case, and its
keys and times never change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.trust.verifier import (
    gpu_lies_devices,
    gpu_lies_endorsements,
    gpu_lies_manifests,
    gpu_lies_policy,
    gpu_lies_reports,
)
from tests.trust.verifier.gpu_lie_edits import (
    BLACKWELL_CASE,
    BLACKWELL_GPU,
    GOOD,
    MPT,
    Lie,
    Lies,
    Mutation,
    demands,
    gpu,
    ocsp,
    on_blackwell,
    several,
    then,
)
from tests.trust.verifier.gpu_vendor import (
    BLACKWELL,
    Gpu,
    Rim,
    driver_rim,
    revoked,
    vbios_rim,
)

LIES: Lies = [
    *gpu_lies_reports.LIES,
    *gpu_lies_devices.LIES,
    *gpu_lies_endorsements.LIES,
    *gpu_lies_manifests.LIES,
    *gpu_lies_policy.LIES,
]
# --- what is no lie ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Control:
    """What might be taken for a lie, and is good."""

    name: str
    tells: str
    mutate: Mutation


CONTROLS: tuple[Control, ...] = (
    Control(name="hopper", tells="One Hopper, alone.", mutate=then()),
    Control(name="blackwell", tells="One Blackwell, alone.", mutate=on_blackwell()),
    Control(
        name="two-blackwells-in-mpt",
        tells="Two Blackwells share a VM.",
        mutate=several(
            replace(BLACKWELL_GPU, opaque=MPT),
            Gpu(model=BLACKWELL, serial=b"GPUB0002", opaque=MPT),
            base=BLACKWELL_CASE,
        ),
    ),
    Control(
        name="trailing-zero",
        tells="One zero byte stands after the signature, as a driver is known to leave it.",
        mutate=gpu(report_edit=lambda data: data + b"\x00"),
    ),
    Control(
        name="decoder-off",
        tells="NVDEC0 is off, and so its block does not count.",
        mutate=gpu(measurements={35: bytes(48)}),
    ),
    Control(
        name="first-alternative",
        tells="The GPU measures another of several good values.",
        mutate=lambda case: gpu(measurements={23: _first(case.rims[0], 23)})(case),
    ),
    Control(
        name="response-by-the-issuer",
        tells="The issuer answers itself, without a responder.",
        mutate=ocsp(1, by_issuer=True),
    ),
    Control(
        name="hold-allowed",
        tells="A certificate is revoked for a time, and the policy allows it.",
        mutate=then(ocsp(0, status=revoked(6)), demands(hold_allowed=True)),
    ),
    Control(
        name="unknown-opaque-field",
        tells="The report has a field that we do not know.",
        mutate=gpu(opaque={200: b"new"}),
    ),
    Control(
        name="manifests-of-others",
        tells="The host carries manifests of GPUs that are not here.",
        mutate=lambda case: replace(
            case,
            further=tuple(
                ("gpu-rim", each.file()) for each in (driver_rim(BLACKWELL), vbios_rim(BLACKWELL))
            ),
        ),
    ),
    Control(
        name="mode-from-protected-pcie",
        tells="A Hopper without the flag says that its PCIe is not of the protected kind.",
        mutate=gpu(opaque={36: None}),
    ),
)


def _first(manifest: Rim, index: int) -> bytes:
    held = manifest.root.children[2].children
    (resource,) = (e for e in held if ("index", str(index)) in e.attributes)
    return bytes.fromhex(dict(resource.attributes)["ns2:Hash0"])


__all__ = ["BLACKWELL_CASE", "CONTROLS", "GOOD", "LIES", "Control", "Lie"]
