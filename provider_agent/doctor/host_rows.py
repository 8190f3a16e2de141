"""The rows of the operating system; `host` judges them."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor import host as judges
from provider_agent.doctor.check import Category, Judge, Remedy, RemedyKind, Row, Severity
from provider_agent.doctor.host import HOST_SETTINGS, LAUNCHER_UNIT


def _row(
    name: str,
    title: str,
    judge: Judge,
    *,
    category: Category = Category.HOST,
    severity: Severity,
    read: tuple[str, ...],
    operator: str = "==",
    required: bool | int | str | tuple[str, ...],
    unit: str | None = None,
    purpose: str,
    remedy: tuple[RemedyKind, str],
    depends_on: tuple[str, ...] = (),
) -> Row:
    kind, text = remedy
    is_kernel = kind is RemedyKind.PACKAGE and category is Category.KERNEL
    return Row(
        id=name,
        title=title,
        category=category,
        severity=severity,
        read=read,
        operator=operator,
        required=required,
        unit=unit,
        purpose=purpose,
        judge=judge,
        remedies=(Remedy(kind=kind, text=text, reboot=is_kernel),),
        depends_on=depends_on,
    )


# Before the rows of SNP and TDX, which depend on the kernel.
KERNEL_ROWS: Final = (
    _row(
        "host.kernel",
        "The kernel is new enough",
        judges.judge_kernel,
        category=Category.KERNEL,
        severity=Severity.BLOCKER,
        read=("file:proc/sys/kernel/osrelease",),
        operator=">=",
        required=("6.11 for SNP", "6.16 for TDX", "6.17 with a GPU"),
        purpose="Older ones create no such guest, or give it no GPU.",
        remedy=(RemedyKind.PACKAGE, "The distribution's backported or hardware-enablement kernel"),
        depends_on=("cpu.vendor",),
    ),
)

HOST_ROWS: Final = (
    _row(
        "host.os",
        "The distribution is one that was tested",
        judges.judge_os,
        severity=Severity.DEGRADED,
        read=("file:etc/os-release", "file:proc/cpuinfo"),
        operator="in",
        required=("Debian 13", "Ubuntu 26.04"),
        purpose="Others work as far as their kernel and QEMU do.",
        remedy=(RemedyKind.VENDOR, "Debian 13 or Ubuntu 26.04, on x86_64"),
    ),
    _row(
        "host.kernel_config",
        "The kernel is built with what is needed",
        judges.judge_kernel_config,
        category=Category.KERNEL,
        severity=Severity.BLOCKER,
        read=("file:boot/config-*",),
        operator="contains",
        required=("KVM_AMD_SEV or INTEL_TDX_HOST", "VFIO_PCI", "IOMMUFD", "VHOST_VSOCK"),
        purpose="No setting brings in what was not built.",
        remedy=(RemedyKind.PACKAGE, "The distribution's own kernel"),
        depends_on=("cpu.generation",),
    ),
    _row(
        "host.lockdown",
        "Kernel lockdown is off while a GPU's mode is set",
        judges.judge_lockdown,
        category=Category.KERNEL,
        severity=Severity.DEGRADED,
        read=("file:sys/kernel/security/lockdown",),
        required="none",
        purpose="Secure Boot's lockdown keeps the admin tool from the GPU's registers.",
        remedy=(RemedyKind.BIOS, "Secure Boot off, set the mode once, then on again"),
        depends_on=("gpu.model",),
    ),
    _row(
        "host.memlock",
        "Guest memory may be locked",
        judges.judge_memlock,
        severity=Severity.BLOCKER,
        read=(f"file:{LAUNCHER_UNIT}", "file:proc/self/limits"),
        required="infinity",
        purpose="SNP pins all of a guest's memory; below its size the VM does not start.",
        remedy=(RemedyKind.FILE, f"/{LAUNCHER_UNIT}: LimitMEMLOCK=infinity"),
        depends_on=("cpu.generation",),
    ),
    _row(
        "host.memory",
        "Memory holds the offer, and the host",
        judges.judge_memory,
        severity=Severity.DEGRADED,
        read=("file:proc/meminfo",),
        operator=">=",
        required="the offer and 16384",
        unit="MiB",
        purpose="Guest memory is fixed at its start, and is never swapped.",
        remedy=(RemedyKind.VENDOR, "More memory, or a smaller offer: --offer memory-mib=N"),
        depends_on=("gpu.model",),
    ),
    _row(
        "host.hugepages",
        "No huge pages are reserved",
        judges.judge_hugepages,
        severity=Severity.ADVICE,
        read=("file:proc/sys/vm/nr_hugepages",),
        required=0,
        purpose="Private guest memory takes none: what is reserved is lost.",
        remedy=(
            RemedyKind.FILE,
            "/etc/sysctl.d/60-blindhost.conf: vm.nr_hugepages = 0 (doctor --fix writes it)",
        ),
    ),
    _row(
        "host.swap",
        "The host swaps to no disk",
        judges.judge_swap,
        severity=Severity.ADVICE,
        read=("file:proc/swaps",),
        operator="none",
        required="none",
        purpose="A guest's memory is never swapped, but the launcher's own may be.",
        remedy=(RemedyKind.COMMAND, "swapoff -a, and its line out of /etc/fstab"),
    ),
    _row(
        "host.disk",
        "The disk holds the cache, and is fast",
        judges.judge_disk,
        category=Category.STORAGE,
        severity=Severity.DEGRADED,
        read=("statvfs:cache", "disk:64 MiB past the page cache"),
        operator=">=",
        required="200 GiB free, 1000 MB/s",
        purpose="Weights are fetched once and then read from here. It holds ciphertext alone: no "
        "RAID, no encryption of the disk is needed.",
        remedy=(RemedyKind.VENDOR, "An NVMe drive for the cache"),
    ),
    _row(
        "host.clock",
        "The clock is kept",
        judges.judge_clock,
        severity=Severity.BLOCKER,
        read=("adjtimex", "net:market"),
        operator="<",
        required="synchronised, below 2 s off",
        purpose="The enclave believes no clock, but signed requests and revocation lists do.",
        remedy=(RemedyKind.PACKAGE, "chrony, or systemd-timesyncd"),
    ),
    _row(
        "host.updates",
        "The system does not reboot by itself",
        judges.judge_updates,
        severity=Severity.DEGRADED,
        read=("file:etc/apt/apt.conf.d/50unattended-upgrades",),
        operator="none",
        required="none",
        purpose="A reboot ends every lease, and costs reliability.",
        remedy=(
            RemedyKind.FILE,
            "/etc/apt/apt.conf.d/50unattended-upgrades: Automatic-Reboot false; hold the kernel",
        ),
    ),
    _row(
        "host.dedicated",
        "Nothing else runs guests here",
        judges.judge_dedicated,
        severity=Severity.DEGRADED,
        read=("file:proc/*/comm",),
        operator="none",
        required="none",
        purpose="A busy host breaks its promise of speed, not the buyer's secrecy.",
        remedy=(RemedyKind.COMMAND, "Move other VMs and containers to another machine"),
    ),
    _row(
        "power.cost",
        "The cost of power is known",
        judges.judge_power,
        category=Category.MARKET,
        severity=Severity.ADVICE,
        read=(f"file:{HOST_SETTINGS}",),
        operator="exists",
        required="set",
        unit="microcredits/kWh",
        purpose="A floor price near the cost of power under load is what keeps a host earning.",
        remedy=(RemedyKind.FILE, f'/{HOST_SETTINGS}: "power_microcredits_per_kwh": N'),
    ),
)
