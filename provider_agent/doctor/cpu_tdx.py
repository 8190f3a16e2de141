"""Intel TDX: firmware settings by their registers, the module, registration and quotes.

Sources: canonical/tdx README and tests/tests/host; Dstack-TEE/dstack troubleshooting-host-setup;
Linux arch/x86/virt/vmx/tdx.
"""

from __future__ import annotations

import re
from typing import Final

from provider_agent.doctor.check import (
    Category,
    Judge,
    Outcome,
    Remedy,
    RemedyKind,
    Row,
    Severity,
    bad,
    decided,
    good,
)
from provider_agent.doctor.context import INTEL, Context
from provider_agent.doctor.view import AbsentError, UnreadError
from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.shapes import TDX_KINDS, lifetime

VM_TYPE_TDX: Final = 5
EMERALD_RAPIDS: Final = 207
KEYS_LEAST: Final = 17
COLLATERAL: Final = "var/lib/blindhost/endorsements/tdx"
COLLATERAL_DAYS_MAX: Final = 30
REGISTRATION_LOG: Final = "var/log/mpa_registration.log"
REGISTRATION_LOG_BYTES_MAX: Final = 1 << 22

_MODULE: Final = re.compile(r"(?i)tdx module.*?major_version (\d{1,4}),? minor_version (\d{1,4})")
_MODULE_DOTTED: Final = re.compile(r"(?i)tdx module:? (?:version )?(\d{1,4})\.(\d{1,4})")
_COMPLETED: Final = re.compile(r"(?i)(?<!not )\bcompleted\b(?! with error)")
_PARAMETERS: Final = "sys/module/kvm_intel/parameters"
_SOCKET: Final = "Socket Configuration > Processor Configuration > "


# --- firmware settings ---------------------------------------------------------------------------


def _bit(context: Context, register: int, number: int, *, wanted: int) -> Outcome:
    context.require_vendor(INTEL)
    value = context.number("msr", register) >> number & 1
    return decided(value == wanted, value)


def _tme(context: Context) -> Outcome:
    return _bit(context, 0x982, 1, wanted=1)


def _keys(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    keys = context.number("msr", 0x87) >> 32
    return decided(keys >= KEYS_LEAST, keys)


def _seam(context: Context) -> Outcome:
    return _bit(context, 0x1401, 11, wanted=1)


def _mcheck(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    value = context.number("msr", 0xA0)
    return decided(value == 0, value)


def _production(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    silicon, module = context.number("msr", 0xCE) >> 27 & 1, context.number("msr", 0x503)
    return decided(not silicon and not module, f"silicon {silicon}, module {module}")


def _module(context: Context) -> Outcome:
    """The last module that the kernel's log names: a reload logs again."""
    context.require_vendor(INTEL)
    found = [m for each in (_MODULE, _MODULE_DOTTED) for m in each.finditer(context.dmesg)]
    if not found:
        return bad("the kernel's log names none")
    version = int(found[-1][1]), int(found[-1][2])
    least = (1, 5) if context.processor.model == EMERALD_RAPIDS else (2, 0)
    actual, required = (f"{each[0]}.{each[1]}" for each in (version, least))
    return decided(version >= least, actual, required=required)


# --- kernel and devices --------------------------------------------------------------------------


def _kvm(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    if not context.view.exists("sys/module/kvm_intel"):
        if context.view.exists("sys/module"):
            return bad("kvm_intel is not loaded")
        raise AbsentError("sys/module: absent")
    for name in ("tdx", "sgx"):
        try:
            value = context.view.text(f"{_PARAMETERS}/{name}", most=64)
        except AbsentError:
            return bad(f"no parameter {name}: this kernel is too old, or built without it")
        if value not in ("Y", "1"):
            return bad(f"{name}={value}")
    return good("tdx, sgx")


def _vm_type(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    types = context.number("kvm-vm-types")
    return decided(bool(types >> VM_TYPE_TDX & 1), f"{types:#x}")


def _sgx(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    names = ("sgx_enclave", "sgx_provision")
    missing = [each for each in names if not context.view.exists(f"dev/{each}")]
    return bad(f"no /dev/{missing[0]}") if missing else good("both")


# --- quotes --------------------------------------------------------------------------------------


def _qgs(context: Context) -> Outcome:
    context.require_vendor(INTEL)
    answers = context.truth("qgs")
    return decided(answers, answers)


def _registered(context: Context) -> Outcome:
    """The tool's word; without the tool, the last line of its log that says either."""
    context.require_vendor(INTEL)
    try:
        text = context.output("mpa-status")
    except UnreadError:
        text = context.view.text(REGISTRATION_LOG, most=REGISTRATION_LOG_BYTES_MAX)
    lines = [line for line in text.splitlines() if "registration" in line.lower()]
    if not lines:
        raise UnreadError(f"{REGISTRATION_LOG}: says nothing of a registration")
    return decided(bool(_COMPLETED.search(lines[-1])), lines[-1])


def _collateral(context: Context) -> Outcome:
    """(1) All seven objects are here, of their kinds. (2) None has run out. (3) The TCB information
    is no older than a policy takes.
    """
    context.require_vendor(INTEL)
    lives = {}
    for kind in TDX_KINDS:  # (1)
        try:
            lives[kind] = lifetime(kind, context.view.content(f"{COLLATERAL}/{kind}"))
        except AbsentError:
            return bad(f"no {kind}")
        except EndorsementError as error:
            return bad(error.text)
    for kind, life in lives.items():  # (2)
        if life.ends is None or life.ends <= context.now:
            return bad(f"{kind} has run out")
    days = (context.now - lives["tdx-tcb-info"].begins).days
    return decided(days < COLLATERAL_DAYS_MAX, days)  # (3)


def _row(
    name: str,
    title: str,
    judge: Judge,
    *,
    category: Category = Category.BIOS,
    read: tuple[str, ...],
    operator: str = "==",
    required: bool | int | str | tuple[str, ...] | None,
    unit: str | None = None,
    purpose: str,
    remedies: tuple[Remedy, ...],
    depends_on: tuple[str, ...] = ("cpu.generation",),
) -> Row:
    return Row(
        id=f"tdx.{name}",
        title=title,
        category=category,
        severity=Severity.BLOCKER,
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


def _bios(text: str, *, vendor: str | None = None) -> Remedy:
    return Remedy(kind=RemedyKind.BIOS, text=text, vendor=vendor, reboot=True)


ROWS: Final = (
    _row(
        "bios.tme",
        "Memory encryption with many keys is on",
        _tme,
        read=("msr:0x982",),
        required=1,
        purpose="TDX gives each guest a key of its own from this.",
        remedies=(
            _bios(_SOCKET + "TME, TME-MT = Enabled; memory integrity = Disabled", vendor="intel"),
            _bios("Is TME-MT grey? Limit CPU PA to 46 bits = Disabled", vendor="intel"),
            _bios("MemoryEncryption=MultipleKeys, GlbMemIntegrity=Disabled", vendor="dell"),
        ),
    ),
    _row(
        "bios.keys",
        "Keys are split off for TDX",
        _keys,
        read=("msr:0x87",),
        operator=">=",
        required=KEYS_LEAST,
        unit="keys",
        purpose="Each VM takes a private key; a split of 0 leaves none.",
        remedies=(
            _bios(_SOCKET + "TME-MT/TDX key split = 1 or more", vendor="intel"),
            _bios("KeySplit=1", vendor="dell"),
        ),
        depends_on=("tdx.bios.tme",),
    ),
    _row(
        "bios.seam",
        "The secure arbitration mode is on",
        _seam,
        read=("msr:0x1401",),
        required=1,
        purpose="The TDX module runs in it; without it the module is not loaded.",
        remedies=(
            _bios(_SOCKET + "TDX = Enabled, SEAM Loader = Enabled", vendor="intel"),
            _bios("EnableTdx=Enabled, EnableTdxSeamldr=Enabled", vendor="dell"),
        ),
        depends_on=("tdx.bios.keys",),
    ),
    _row(
        "mcheck",
        "The processor's configuration check found nothing",
        _mcheck,
        read=("msr:0xa0",),
        required=0,
        purpose="A code here (1861 was seen) keeps SGX and TDX off, without a word elsewhere.",
        remedies=(_bios("SGX Factory Reset, then register again", vendor="intel"),),
    ),
    _row(
        "production",
        "Silicon and module are production ones",
        _production,
        category=Category.CPU,
        read=("msr:0xce", "msr:0x503"),
        required="silicon 0, module 0",
        purpose="What a pre-production part signs cannot be verified.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="Another processor, or a released module"),),
    ),
    _row(
        "module",
        "The TDX module is new enough",
        _module,
        category=Category.FIRMWARE,
        read=("command:dmesg",),
        operator=">=",
        required=("1.5 on Emerald Rapids", "2.0 on Granite Rapids"),
        purpose="A policy demands a module version; an older one does not start either (-5).",
        remedies=(
            Remedy(
                kind=RemedyKind.VENDOR,
                text="BIOS update, or the module's files on the EFI system partition",
                vendor="intel",
                reboot=True,
            ),
        ),
        depends_on=("tdx.bios.seam", "tdx.mcheck"),
    ),
    _row(
        "kvm",
        "KVM takes TDX guests",
        _kvm,
        category=Category.KVM,
        read=tuple(f"file:{_PARAMETERS}/{each}" for each in ("tdx", "sgx")),
        required="Y",
        purpose="The module decides at its start whether it makes such guests.",
        remedies=(
            Remedy(
                kind=RemedyKind.FILE,
                text="/etc/modprobe.d/blindhost-kvm.conf: options kvm_intel tdx=1 "
                "(doctor --fix writes it)",
            ),
            Remedy(
                kind=RemedyKind.CMDLINE,
                text="kvm_intel.tdx=1 nohibernate (suspend to memory ends TDX)",
                reboot=True,
            ),
        ),
        depends_on=("tdx.bios.seam", "host.kernel", "iommu.on"),
    ),
    _row(
        "vm_type",
        "This kernel can create a TDX guest",
        _vm_type,
        category=Category.KVM,
        read=("ioctl:/dev/kvm:KVM_CAP_VM_TYPES",),
        operator="contains",
        required=f"bit {VM_TYPE_TDX}",
        purpose="The kernel's own word for what it makes, whatever flags and parameters claim.",
        remedies=(Remedy(kind=RemedyKind.COMMAND, text="dmesg | grep -i tdx"),),
        depends_on=("tdx.kvm", "tdx.module"),
    ),
    _row(
        "sgx",
        "SGX is there, which signs TDX's quotes",
        _sgx,
        category=Category.KERNEL,
        read=("file:dev/sgx_enclave", "file:dev/sgx_provision"),
        operator="exists",
        required="both",
        purpose="A quote is signed in an SGX enclave of Intel's.",
        remedies=(
            _bios("SW Guard Extensions = Enabled, PRM size = Auto; then a cold power cycle"),
            _bios("IntelSgx=On", vendor="dell"),
        ),
        depends_on=("tdx.mcheck",),
    ),
    _row(
        "qgs",
        "The quote service takes connections",
        _qgs,
        category=Category.HOST,
        read=("net:vsock:2:4050", "net:unix:/var/run/tdx-qgs/qgs.socket"),
        required=True,
        purpose="A guest asks it for each quote; without it no evidence leaves the VM.",
        remedies=(
            Remedy(kind=RemedyKind.PACKAGE, text="tdx-qgs; restart qgsd after registration"),
        ),
        depends_on=("tdx.sgx",),
    ),
    _row(
        "registered",
        "The platform is registered with Intel",
        _registered,
        category=Category.FIRMWARE,
        read=("command:mpa_manage -get_registration_status", f"file:{REGISTRATION_LOG}"),
        operator="contains",
        required="completed",
        purpose="Certificates are issued to registered platforms. The tool's *last error* is 0 "
        "while registration still runs: it says nothing.",
        remedies=(
            _bios("SGX Auto MP Registration = Enabled, then reboot", vendor="intel"),
            _bios("SgxAutoRegistrationAgent=Enabled", vendor="dell"),
        ),
        depends_on=("tdx.sgx",),
    ),
    _row(
        "collateral",
        "Intel's collateral is cached, and fresh",
        _collateral,
        category=Category.FIRMWARE,
        read=tuple(f"file:{COLLATERAL}/{each}" for each in TDX_KINDS),
        operator="<",
        required=COLLATERAL_DAYS_MAX,
        unit="days",
        purpose="A verifier refuses a quote whose TCB information has run out.",
        remedies=(
            Remedy(
                kind=RemedyKind.COMMAND,
                text="blindhost-agent endorsements fetch --tdx-quote FILE, from Intel's service or "
                "by --pccs-url; without a way to either, endorsements import",
            ),
        ),
        depends_on=("tdx.registered",),
    ),
)
