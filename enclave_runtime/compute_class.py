"""What decides a run's bits besides the manifest and the image: one string, computed here.

Two machines of one class compute the same bits (tested for this image on one vendor); another
class may differ in the last places (reference: AVX2 and AVX-512 do).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from enclave_runtime.environment import THREADS_PER_RANK
from trust.jobs import JobManifest

_WANTED: Final = {"vendor_id": "vendor", "cpu family": "family", "CPU implementer": "vendor"}


def compute_class(job: JobManifest) -> str:
    """The class on which this enclave runs this job."""
    import torch

    fields = {
        "processor": _processor(Path("/proc/cpuinfo").read_text()),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "gpu": "cpu",  # this image computes on the processor alone
        "torch": torch.__version__,
        "ranks": str(job.world_size),
        "threads": str(THREADS_PER_RANK),
        "precision": job.recipe.precision.value,
        "sharding": job.sharding.value,
    }
    return ";".join(f"{name}={value}" for name, value in fields.items())


def _processor(cpuinfo: str) -> str:
    """Vendor and family of the first processor."""
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() in _WANTED:
            found.setdefault(_WANTED[name.strip()], value.strip())
    return "/".join(found.get(key, "unknown") for key in ("vendor", "family"))
