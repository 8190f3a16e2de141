"""All rows, parents first."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor import cpu, cpu_snp, cpu_tdx, gpu_rows, host_rows, qemu
from provider_agent.doctor.check import Row

ROWS: Final[tuple[Row, ...]] = (
    *cpu.ROWS,
    *host_rows.KERNEL_ROWS,
    *gpu_rows.IOMMU_ROWS,
    *cpu_snp.ROWS,
    *cpu_tdx.ROWS,
    *gpu_rows.GPU_ROWS,
    *host_rows.HOST_ROWS,
    *qemu.QEMU_ROWS,
    *qemu.MARKET_ROWS,
)

FIXED_IDS: Final = frozenset(
    {
        "gpu.driver_absent",
        "gpu.idle_power",
        "host.hugepages",
        "iommufd",
        "snp.kvm",
        "tdx.kvm",
    }
)
"""Checks whose remedy `doctor --fix` writes."""
