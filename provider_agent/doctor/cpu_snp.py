"""AMD SEV-SNP: firmware settings by their registers, then what kernel and firmware made of them."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor import snp_judges as judges
from provider_agent.doctor.check import Category, Judge, Remedy, RemedyKind, Row, Severity
from provider_agent.doctor.snp_judges import (
    ENDORSEMENT_KINDS,
    ENDORSEMENTS,
    PARAMETERS,
    SPARE_ASIDS,
    VM_TYPE_SNP,
)

_AMI: Final = "Advanced > AMD CBS > CPU Common Options: "
_NBIO: Final = "Advanced > AMD CBS > NBIO Common Options: "


def _bios(text: str, *, vendor: str | None = None) -> Remedy:
    return Remedy(kind=RemedyKind.BIOS, text=text, vendor=vendor, reboot=True)


def _row(
    name: str,
    title: str,
    judge: Judge,
    *,
    category: Category = Category.BIOS,
    severity: Severity = Severity.BLOCKER,
    read: tuple[str, ...],
    operator: str = "==",
    required: bool | int | str | tuple[str, ...] | None,
    unit: str | None = None,
    purpose: str,
    remedies: tuple[Remedy, ...],
    depends_on: tuple[str, ...] = ("cpu.generation",),
) -> Row:
    return Row(
        id=f"snp.{name}",
        title=title,
        category=category,
        severity=severity,
        read=read,
        operator=operator,
        required=required,
        unit=unit,
        purpose=purpose,
        judge=judge,
        remedies=remedies,
        needs=() if all(each.startswith("file:") for each in read) else ("launcher",),
        depends_on=depends_on,
    )


_STATUS_READ: Final = ("ioctl:/dev/sev:SNP_PLATFORM_STATUS",)

ROWS: Final = (
    _row(
        "bios.smee",
        "Memory encryption is on",
        judges.judge_smee,
        read=("msr:0xc0010010",),
        required=1,
        purpose="Without it the firmware ends with SEV_INIT error 0x13 and no guest is encrypted.",
        remedies=(
            _bios(_AMI + "SMEE = Enabled", vendor="ami"),
            _bios("Processor Settings: Secure Memory Encryption = Enabled", vendor="dell"),
        ),
    ),
    _row(
        "bios.snp",
        "SEV-SNP is on in the firmware",
        judges.judge_snp,
        read=("msr:0xc0010010",),
        required=1,
        purpose="It is what signs evidence. The kernel then says, misleadingly, that the IOMMU's "
        "SNP feature is not enabled.",
        remedies=(
            _bios(_NBIO + "SEV-SNP Support = Enabled. Auto reads as off.", vendor="ami"),
            _bios("Processor Settings: Secure Nested Paging = Enabled", vendor="dell"),
        ),
        depends_on=("snp.bios.smee",),
    ),
    _row(
        "bios.rmp",
        "Memory for the RMP table is reserved",
        judges.judge_rmp,
        read=("msr:0xc0010132", "msr:0xc0010133", "msr:0xc0010136"),
        required="a base, and an end or segments",
        purpose="The table says which page is whose; the kernel cannot make room for it later.",
        remedies=(
            _bios(_AMI + "SNP Memory (RMP Table) Coverage = Enabled", vendor="ami"),
            _bios("Processor Settings: SNP Memory Coverage = Enabled", vendor="dell"),
        ),
        depends_on=("snp.bios.snp",),
    ),
    _row(
        "bios.asid",
        "Enough address space ids are kept for confidential guests",
        judges.judge_asid,
        read=("cpuid:0x8000001f:edx",),
        operator=">=",
        required=1 + SPARE_ASIDS,
        unit="ids",
        purpose="Each VM takes one id below the limit; at 1 there is none for SNP.",
        remedies=(
            _bios(_AMI + "SEV-ES ASID Space Limit Control = Manual, Limit = 99", vendor="ami"),
            _bios("Minimum SEV non-ES ASID (CpuMinSevAsid) = 100", vendor="dell"),
        ),
    ),
    _row(
        "bios.psp",
        "The secure processor starts without an error",
        judges.judge_psp,
        read=("command:dmesg",),
        operator="none",
        required="no error of ccp",
        purpose="Where it fails, nothing of SEV works, and only the kernel's log says so.",
        remedies=(
            _bios("Error 0x3: Memory Interleaving = Disabled (seen on one board)"),
            _bios("Error 0x1: secure processor's boot loader below 00.13.00.70: update the BIOS"),
        ),
    ),
    _row(
        "bios.tsme",
        "Transparent memory encryption is off or Auto",
        judges.judge_tsme,
        severity=Severity.ADVICE,
        read=(),
        required="Disabled or Auto",
        purpose="One vendor's guide wants it off beside SNP; it is shown in the report either way.",
        remedies=(_bios("Processor Settings: Transparent SME = Disabled", vendor="dell"),),
    ),
    _row(
        "dev",
        "The secure processor's device is there",
        judges.judge_dev,
        category=Category.KVM,
        read=("file:dev/sev", "open:/dev/sev"),
        operator="exists",
        required="there, and opens",
        purpose="The launcher starts SNP guests through it.",
        remedies=(
            Remedy(kind=RemedyKind.COMMAND, text="modprobe ccp"),
            _bios(_NBIO + "IOMMU = Enabled"),
        ),
        depends_on=("snp.bios.psp",),
    ),
    _row(
        "kvm",
        "KVM takes SNP guests",
        judges.judge_kvm,
        category=Category.KVM,
        read=tuple(f"file:{PARAMETERS}/{each}" for each in ("sev", "sev_es", "sev_snp")),
        required="Y",
        purpose="The module decides at its start whether it makes such guests.",
        remedies=(
            Remedy(
                kind=RemedyKind.FILE,
                text="/etc/modprobe.d/blindhost-kvm.conf: options kvm_amd sev=1 sev-es=1 "
                "sev-snp=1 (doctor --fix writes it)",
            ),
            Remedy(kind=RemedyKind.PACKAGE, text="A kernel of 6.11 or later", reboot=True),
        ),
        depends_on=("snp.bios.rmp", "snp.bios.asid", "host.kernel", "iommu.on"),
    ),
    _row(
        "vm_type",
        "This kernel can create an SNP guest",
        judges.judge_vm_type,
        category=Category.KVM,
        read=("ioctl:/dev/kvm:KVM_CAP_VM_TYPES",),
        operator="contains",
        required=f"bit {VM_TYPE_SNP}",
        purpose="The kernel's own word for what it makes, whatever flags and parameters claim.",
        remedies=(Remedy(kind=RemedyKind.COMMAND, text="dmesg | grep -i -e sev -e ccp"),),
        depends_on=("snp.kvm",),
    ),
    _row(
        "fw",
        "The SEV firmware is new enough",
        judges.judge_firmware,
        category=Category.FIRMWARE,
        read=_STATUS_READ,
        operator=">=",
        required="1.51",
        purpose="Older ones lack what the guest's policy asks for; NVIDIA's reference has 1.55.",
        remedies=(
            Remedy(
                kind=RemedyKind.VENDOR,
                text="Genoa and later: only by a BIOS update",
                reboot=True,
                irreversible=True,
            ),
        ),
        depends_on=("snp.dev",),
    ),
    _row(
        "init",
        "The SEV firmware is initialised for SNP",
        judges.judge_init,
        category=Category.FIRMWARE,
        read=_STATUS_READ,
        required="state 1, RMP ready",
        purpose="The firmware holds the keys of guests only in this state.",
        remedies=(Remedy(kind=RemedyKind.COMMAND, text="Reboot after a firmware update"),),
        depends_on=("snp.fw", "snp.kvm"),
    ),
    _row(
        "alias_check",
        "The firmware has looked for aliased memory",
        judges.judge_alias,
        category=Category.FIRMWARE,
        read=_STATUS_READ,
        required=True,
        purpose="BadRAM (CVE-2024-21944): every shipped policy refuses a report without it.",
        remedies=(_bios("BIOS with AMD-SB-3015", vendor="amd"),),
        depends_on=("snp.init",),
    ),
    _row(
        "tcb",
        "The reported TCB is at the policies' floor",
        judges.judge_tcb,
        category=Category.FIRMWARE,
        read=_STATUS_READ,
        operator=">=",
        required="the floor of the shipped policy",
        purpose="A buyer's policy refuses older firmware and microcode, by number.",
        remedies=(
            _bios("BIOS update of the board's maker"),
            Remedy(
                kind=RemedyKind.COMMAND,
                text="snphost config set, by hand. snphost commit cannot be undone: this program "
                "never runs it.",
                irreversible=True,
            ),
        ),
        depends_on=("snp.init",),
    ),
    _row(
        "mask_chip",
        "The chip's id and key are in its reports",
        judges.judge_mask,
        category=Category.FIRMWARE,
        read=_STATUS_READ,
        operator="none",
        required="none",
        purpose="A report of a masked chip is signed by nobody, and verified by nobody.",
        remedies=(Remedy(kind=RemedyKind.COMMAND, text="snphost config reset"),),
        depends_on=("snp.init",),
    ),
    _row(
        "vcek",
        "The chip's endorsement key is cached, and its chain holds",
        judges.judge_vcek,
        category=Category.FIRMWARE,
        read=tuple(f"file:{ENDORSEMENTS}/{each}" for each in ENDORSEMENT_KINDS),
        operator="exists",
        required="there, and its chain holds",
        purpose="It travels with every piece of evidence; AMD's service limits how often it is "
        "asked.",
        remedies=(
            Remedy(
                kind=RemedyKind.COMMAND,
                text="blindhost-agent endorsements fetch --snp-product … --snp-chip-id … --snp-tcb "
                "…, once for each TCB; without a way to AMD's service, endorsements import",
            ),
        ),
        depends_on=("snp.tcb", "snp.mask_chip"),
    ),
)
