"""The rows of the GPUs and of the IOMMU; `gpu` judges them."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor import gpu as judges
from provider_agent.doctor.check import Category, Judge, Remedy, RemedyKind, Row, Severity
from provider_agent.doctor.context import PCI
from provider_agent.doctor.gpu import GROUPS

_TOOL: Final = "python -m nvidia_gpu_tools "


def _bios(text: str) -> Remedy:
    return Remedy(kind=RemedyKind.BIOS, text=text, reboot=True)


def _run(text: str) -> Remedy:
    return Remedy(kind=RemedyKind.COMMAND, text=text, vendor="nvidia")


def _file(text: str) -> Remedy:
    return Remedy(kind=RemedyKind.FILE, text=text)


def _row(
    name: str,
    title: str,
    judge: Judge,
    *,
    category: Category = Category.GPU,
    severity: Severity = Severity.BLOCKER,
    read: tuple[str, ...],
    operator: str = "==",
    required: bool | int | str | tuple[str, ...],
    purpose: str,
    remedies: tuple[Remedy, ...],
    depends_on: tuple[str, ...] = ("gpu.model",),
) -> Row:
    return Row(
        id=name,
        title=title,
        category=category,
        severity=severity,
        read=read,
        operator=operator,
        required=required,
        unit=None,
        purpose=purpose,
        judge=judge,
        remedies=remedies,
        needs=("launcher",) if any(not each.startswith("file:") for each in read) else (),
        depends_on=depends_on,
    )


IOMMU_ROWS: Final = (
    _row(
        "iommu.on",
        "The IOMMU translates",
        judges.judge_iommu,
        category=Category.KERNEL,
        read=(f"file:{GROUPS}",),
        operator=">",
        required=0,
        purpose="Without it a GPU could read and write all of the host's memory.",
        remedies=(
            Remedy(
                kind=RemedyKind.CMDLINE, text="amd_iommu=on iommu=pt", vendor="amd", reboot=True
            ),
            Remedy(kind=RemedyKind.CMDLINE, text="intel_iommu=on", vendor="intel", reboot=True),
            _bios("IOMMU = Enabled, VT-d = Enabled"),
        ),
        depends_on=("host.bare_metal",),
    ),
)

GPU_ROWS: Final = (
    _row(
        "gpu.model",
        "Every GPU has a confidential mode",
        judges.judge_model,
        read=(f"file:{PCI}/*/{{vendor,device,class}}",),
        operator="in",
        required=("H100", "H200", "B200", "RTX PRO 6000 Server Edition"),
        purpose="A100, consumer and workstation cards have none: what runs on them is not sealed.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="Another GPU", vendor="nvidia"),),
        depends_on=("host.bare_metal",),
    ),
    _row(
        "gpu.uniform",
        "All GPUs are of one model",
        judges.judge_uniform,
        severity=Severity.DEGRADED,
        read=(f"file:{PCI}/*/device",),
        required="one model",
        purpose="An offer names one model.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="Two hosts, one for each model"),),
    ),
    _row(
        "gpu.driver_absent",
        "No driver of the host has a GPU",
        judges.judge_driver,
        read=("file:sys/module", f"file:{PCI}/*/driver"),
        required="vfio-pci",
        purpose="A GPU is handed to a VM whole; NVIDIA's own driver must not be on the host.",
        remedies=(
            Remedy(kind=RemedyKind.PACKAGE, text="Purge NVIDIA's driver", vendor="nvidia"),
            _file(
                "/etc/modprobe.d/blindhost-vfio.conf: ids of the GPUs for vfio-pci, softdep before "
                "nvidia and nouveau, both blacklisted (doctor --fix writes it)"
            ),
        ),
    ),
    _row(
        "iommu.groups",
        "Each GPU is alone in its IOMMU group",
        judges.judge_groups,
        category=Category.KERNEL,
        read=(f"file:{PCI}/*/iommu_group", f"file:{GROUPS}/*/devices"),
        operator="none",
        required="its own functions and bridges",
        purpose="Whatever shares a group can read what the GPU reads.",
        remedies=(
            _bios("ACS = Enabled (AMD: sometimes under AER). Never a kernel patch that fakes it."),
        ),
        depends_on=("gpu.model", "iommu.on"),
    ),
    _row(
        "iommufd",
        "The kernel's IOMMU file interface is there",
        judges.judge_iommufd,
        category=Category.KERNEL,
        read=("file:dev/iommu", "file:dev/vfio/devices"),
        operator="exists",
        required="both",
        purpose="TDX guests cannot use the older way (VFIO_MAP_DMA: No space left).",
        remedies=(
            _file(
                "/etc/modules-load.d/blindhost.conf: iommufd, vfio-pci (doctor --fix writes it, "
                "and the udev rules)"
            ),
        ),
        depends_on=("gpu.driver_absent", "iommu.on"),
    ),
    _row(
        "gpu.cc_mode",
        "Every GPU is in confidential mode",
        judges.judge_cc_mode,
        read=(f"command:{_TOOL}--query-cc-mode",),
        required="on",
        purpose="A GPU in devtools or off signs nothing that is accepted; mixed modes fail later.",
        remedies=(
            _run(_TOOL + "--devices gpus --set-cc-mode=on --reset-after-cc-mode-switch"),
            _run("PPCIe mode off comes first: " + _TOOL + "--set-ppcie-mode=off"),
        ),
        depends_on=("gpu.driver_absent",),
    ),
    _row(
        "gpu.ppcie",
        "The PPCIe mode fits the offer's shape",
        judges.judge_ppcie,
        read=(f"command:{_TOOL}--query-ppcie-mode",),
        required="off",
        purpose="Off for one GPU to a VM; on for a whole Hopper board with its switches in one.",
        remedies=(
            _run("Set all, then reset all, then read all: " + _TOOL + "--set-ppcie-mode=off"),
        ),
        depends_on=("gpu.cc_mode",),
    ),
    _row(
        "gpu.firmware",
        "Board firmware and VBIOS are known good ones",
        judges.judge_firmware,
        severity=Severity.ADVICE,
        read=(),
        required="NVIDIA's reference values, by the enclave",
        purpose="They come only from NVIDIA's support or the maker of the board.",
        remedies=(
            Remedy(
                kind=RemedyKind.VENDOR,
                text="Firmware bundle of the board's maker",
                vendor="nvidia",
                irreversible=True,
            ),
        ),
    ),
    _row(
        "gpu.ecc",
        "Memory errors are corrected, and none was double",
        judges.judge_ecc,
        severity=Severity.ADVICE,
        read=(),
        required="on, by the enclave",
        purpose="Bad memory gives wrong results, not errors.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="Replace the GPU", vendor="nvidia"),),
    ),
    _row(
        "gpu.bar",
        "A GPU's memory window is whole, above 4 GiB",
        judges.judge_bar,
        read=(f"file:{PCI}/*/resource",),
        operator=">=",
        required="the GPU's memory, above 4 GiB",
        purpose="The guest maps all of it; a smaller window fails inside, without a word.",
        remedies=(_bios("Above 4G Decoding = Enabled, Resizable BAR = Enabled"),),
    ),
    _row(
        "gpu.link",
        "The PCI link has its full width and speed",
        judges.judge_link,
        severity=Severity.DEGRADED,
        read=(f"file:{PCI}/*/{{current,max}}_link_{{width,speed}}",),
        required="max",
        purpose="Weights and results go over it, encrypted, at its speed.",
        remedies=(
            Remedy(kind=RemedyKind.VENDOR, text="Seat the card again; look at riser and slot"),
            _bios("Slot speed = Auto or Gen5, no bifurcation of this slot"),
        ),
    ),
    _row(
        "gpu.reset",
        "A GPU can be reset",
        judges.judge_reset,
        read=(f"file:{PCI}/*/reset_method",),
        operator="contains",
        required="flr or bus",
        purpose="Without a reset there is no second lease.",
        remedies=(_bios("Function level reset; slot power control"),),
    ),
    _row(
        "gpu.idle_power",
        "A GPU is not put to sleep between leases",
        judges.judge_idle_power,
        severity=Severity.ADVICE,
        read=(f"file:{PCI}/*/power/control", "file:sys/module/vfio_pci/parameters/disable_idle_d3"),
        required="on",
        purpose="Some do not come back from the deepest sleep without a power cycle.",
        remedies=(
            _file("/etc/modprobe.d/blindhost-vfio.conf: options vfio-pci disable_idle_d3=1"),
        ),
        depends_on=("gpu.driver_absent",),
    ),
)
