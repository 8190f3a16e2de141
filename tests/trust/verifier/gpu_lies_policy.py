"""Lies that a policy refuses: checks 31, and 35 to 37."""

from __future__ import annotations

from dataclasses import replace

from tests.trust.verifier.gpu_lie_edits import (
    BLACKWELL_CASE,
    BLACKWELL_GPU,
    MPT,
    Lies,
    demands,
    gpu,
    lie,
    on_blackwell,
    several,
    then,
)
from tests.trust.verifier.gpu_vendor import (
    BLACKWELL,
    HOPPER,
    Gpu,
    changed,
    device_links,
    driver_rim,
    vbios_rim,
)
from trust.evidence.nvidia import FeatureMode
from trust.verifier.gpu_policy import HOPPER_FLOOR

LIES: Lies = []

# --- 35 to 37: the policy ------------------------------------------------------------------------


lie(
    LIES,
    "gpu-mode",
    "mpt-on-hopper",
    "A Hopper says that it is in Blackwell's mode.",
    gpu(opaque=MPT),
)
lie(
    LIES,
    "gpu-mode",
    "spt-with-protected-pcie",
    "A GPU says that it is alone, and that links are on.",
    gpu(opaque={21: b"\xaa"}),
)
lie(
    LIES,
    "gpu-mode",
    "mode-not-stated",
    "A Blackwell does not state its mode.",
    on_blackwell(gpu(opaque={36: None})),
)
lie(
    LIES,
    "gpu-mode",
    "mixture-of-modes",
    "One Blackwell is in MPT, and one is not.",
    several(
        BLACKWELL_GPU, Gpu(model=BLACKWELL, serial=b"GPUB0002", opaque=MPT), base=BLACKWELL_CASE
    ),
)
lie(
    LIES,
    "gpu-mode",
    "mpt-not-allowed",
    "Two Blackwells are in MPT, and the policy wants SPT.",
    then(
        several(
            replace(BLACKWELL_GPU, opaque=MPT),
            Gpu(model=BLACKWELL, serial=b"GPUB0002", opaque=MPT),
            base=BLACKWELL_CASE,
        ),
        demands(modes=(FeatureMode.SPT,)),
    ),
)
lie(
    LIES,
    "gpu-driver",
    "old-driver",
    "The driver is old, and its manifest is good.",
    then(
        gpu(opaque={3: b"570.195.03\x00"}),
        lambda case: replace(case, rims=(driver_rim(HOPPER, version="570.195.03"), case.rims[1])),
    ),
)
lie(
    LIES,
    "gpu-vbios",
    "old-vbios",
    "The VBIOS is old, and its manifest is good.",
    then(
        gpu(opaque={6: bytes.fromhex("009d009601000000")}),
        lambda case: replace(
            case, rims=(case.rims[0], vbios_rim(HOPPER, version="96.00.9D.00.01"))
        ),
    ),
)
lie(
    LIES,
    "gpu-architecture",
    "blackwell-not-allowed",
    "The policy allows Hopper alone.",
    # Its floors are the allowed architectures': a foreign one is below all.
    on_blackwell(demands(architectures=(HOPPER_FLOOR,), modes=(FeatureMode.SPT,))),
    "gpu-driver",
    "gpu-vbios",
)
lie(
    LIES,
    "gpu-count",
    "one-where-two-are-wanted",
    "The policy wants two GPUs.",
    demands(gpus_least=2),
)
lie(
    LIES,
    "gpu-count",
    "two-where-one-is-wanted",
    "The policy wants one GPU.",
    then(several(Gpu(), Gpu(serial=b"GPU00002")), demands(gpus_most=1)),
)
lie(
    LIES,
    "gpu-unique",
    "one-gpu-twice",
    "The evidence of one GPU stands twice.",
    several(Gpu(), Gpu()),
)
lie(
    LIES,
    "gpu-unique",
    "one-gpu-twice-by-two-leaves",
    "One GPU is shown under two leaves.",
    several(Gpu(), Gpu(links=changed(device_links(HOPPER, b"GPU00001"), 0, key="other leaf"))),
)
lie(
    LIES,
    "gpu-fwid-stated",
    "firmware-not-stated",
    "The report names no firmware, as old drivers'.",
    gpu(opaque={20: None}),
)
lie(
    LIES,
    "gpu-fwid-stated",
    "firmware-not-stated-on-one",
    "One of two GPUs names no firmware.",
    several(Gpu(), Gpu(serial=b"GPU00002", opaque={20: None})),
)
