"""What the processor is, and whether it is the machine's own: the roots of all other checks."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor.check import (
    Category,
    Outcome,
    Remedy,
    RemedyKind,
    Row,
    Severity,
    bad,
    decided,
    good,
)
from provider_agent.doctor.context import AMD, INTEL, Context
from provider_agent.doctor.view import UnreadError

_HYPERVISOR_BIT: Final = 1 << 31


def _bare_metal(context: Context) -> Outcome:
    """CPUID says it, and cpuinfo copies it; one that says *virtual* is enough."""
    if "hypervisor" in context.processor.flags:
        return bad("a hypervisor is present")
    try:
        virtual = bool(context.number("cpuid", 1, "ecx") & _HYPERVISOR_BIT)
    except UnreadError:
        # The kernel copies the very bit into cpuinfo: its absence there is the answer.
        return good("no hypervisor", note="by /proc/cpuinfo; CPUID itself needs the launcher")
    return bad("a hypervisor is present") if virtual else good("no hypervisor")


def _vendor(context: Context) -> Outcome:
    vendor = context.processor.vendor
    return decided(vendor in (AMD, INTEL), vendor)


def _generation(context: Context) -> Outcome:
    found = context.processor
    actual = f"{found.name} (family {found.family}, model {found.model})"
    if found.is_confidential:
        return good(actual)
    if found.runs_guests_that_nobody_accepts:
        return bad(actual, note="it runs confidential VMs, but no shipped policy accepts them")
    return bad(actual)


ROWS: Final = (
    Row(
        id="host.bare_metal",
        title="The machine is no virtual machine",
        category=Category.HOST,
        severity=Severity.BLOCKER,
        read=("cpuid:0x1:ecx", "file:proc/cpuinfo"),
        operator="==",
        required="no hypervisor",
        unit=None,
        purpose="A VM inside a VM gets no report from the processor, whatever its flags promise.",
        judge=_bare_metal,
        remedies=(
            Remedy(
                kind=RemedyKind.VENDOR,
                text="Rent bare metal. Nested SEV-SNP or TDX is no option here.",
            ),
        ),
    ),
    Row(
        id="cpu.vendor",
        title="The processor is AMD's or Intel's",
        category=Category.CPU,
        severity=Severity.BLOCKER,
        read=("file:proc/cpuinfo",),
        operator="in",
        required=(AMD, INTEL),
        unit=None,
        purpose="Evidence comes from SEV-SNP or TDX; no other kind is verified.",
        judge=_vendor,
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="A server with EPYC or Xeon."),),
        depends_on=("host.bare_metal",),
    ),
    Row(
        id="cpu.generation",
        title="The processor's generation is one that policies accept",
        category=Category.CPU,
        severity=Severity.BLOCKER,
        read=("file:proc/cpuinfo",),
        operator="in",
        required=("EPYC Genoa", "EPYC Turin", "Xeon Emerald Rapids", "Xeon Granite Rapids"),
        unit=None,
        purpose="A buyer's policy names generations: another one earns nothing.",
        judge=_generation,
        remedies=(
            Remedy(
                kind=RemedyKind.VENDOR,
                text="EPYC 9004 or 9005, Xeon of the 5th or 6th generation. EPYC 7003 and Xeon of "
                "the 4th run confidential VMs that no shipped policy accepts.",
            ),
        ),
        depends_on=("cpu.vendor",),
    ),
)
