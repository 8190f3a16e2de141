"""AMD SEV-SNP: the judges of `cpu_snp`'s rows: pure functions of registers, files and answers.

Sources: virtee/snphost src/ok/mod.rs; AMDESE/AMDSEV README; Linux arch/x86/virt/svm/sev.c.
"""

from __future__ import annotations

import re
from typing import Final

from provider_agent.doctor.check import Outcome, Status, bad, decided, good, warn
from provider_agent.doctor.context import AMD, Context
from provider_agent.doctor.view import AbsentError, UnreadError
from trust.errors import BlindhostError
from trust.evidence.claims import Product, Tcb
from trust.evidence.snp import parse_tcb
from trust.verifier.endorsements import certified_tcb, parse_snp_endorsements
from trust.verifier.roots import VENDOR_ROOTS
from trust.verifier.snp_policy import GENOA_FLOOR, TURIN_FLOOR

SYSCFG: Final = 0xC001_0010
RMP_BASE: Final = 0xC001_0132
RMP_END: Final = 0xC001_0133
RMP_CONFIG: Final = 0xC001_0136  # bit 0: segmented, so END is 0 and means nothing
VM_TYPE_SNP: Final = 4
ENDORSEMENTS: Final = "var/lib/blindhost/endorsements/snp"
ENDORSEMENT_KINDS: Final = ("vcek", "ask", "ark", "crl")
PARAMETERS: Final = "sys/module/kvm_amd/parameters"
SPARE_ASIDS: Final = 4

_FLOORS: Final = {Product.GENOA: GENOA_FLOOR, Product.TURIN: TURIN_FLOOR}
_PSP_ERRORS: Final = re.compile(r"\bccp\b.*(failed to INIT error|SEV.*[Ee]rror:? 0x)")


# --- firmware settings ---------------------------------------------------------------------------


def judge_smee(context: Context) -> Outcome:
    """SYSCFG bit 23."""
    context.require_vendor(AMD)
    return _bit(context.number("msr", SYSCFG), 23)


def judge_snp(context: Context) -> Outcome:
    """SYSCFG bit 24."""
    context.require_vendor(AMD)
    return _bit(context.number("msr", SYSCFG), 24)


def _bit(value: int, number: int) -> Outcome:
    return decided(bool(value >> number & 1), value >> number & 1)


def judge_rmp(context: Context) -> Outcome:
    """Base, and an end or segments. A Turin with a segmented table has 0 for its end."""
    context.require_vendor(AMD)
    base, end = context.number("msr", RMP_BASE), context.number("msr", RMP_END)
    if not base:
        return bad("no table")
    if end:
        return good(f"{(end - base + 1) >> 20} MiB")
    if context.processor.family == 0x19:  # before Turin there are no segments
        return bad("a table without an end")
    segmented = context.number("msr", RMP_CONFIG) & 1
    return good("segmented") if segmented else bad("a table without an end or segments")


def judge_asid(context: Context) -> Outcome:
    """CPUID 0x8000001F: the first id for guests without SNP or ES, less one."""
    context.require_vendor(AMD)
    first_plain = context.number("cpuid", 0x8000_001F, "edx")
    required = context.wanted.vms + SPARE_ASIDS
    actual = max(first_plain - 1, 0)
    return decided(actual >= required, actual, required=required)


def judge_psp(context: Context) -> Outcome:
    """The last line of the kernel's log in which its driver gives up."""
    context.require_vendor(AMD)
    lines = [line for line in context.dmesg.splitlines() if _PSP_ERRORS.search(line)]
    return bad(lines[-1]) if lines else good("none")


def judge_tsme(context: Context) -> Outcome:
    """Nobody can say."""
    context.require_vendor(AMD)
    return Outcome(
        status=Status.UNKNOWN,
        actual=None,
        note="Linux cannot read this setting for sure: look at the firmware's own menu.",
    )


# --- kernel and device ---------------------------------------------------------------------------


def judge_kvm(context: Context) -> Outcome:
    """Three parameters of the module; a module that lacks one is too old."""
    context.require_vendor(AMD)
    if not context.view.exists("sys/module/kvm_amd"):
        if context.view.exists("sys/module"):
            return bad("kvm_amd is not loaded")
        raise AbsentError("sys/module: absent")
    for name in ("sev", "sev_es", "sev_snp"):
        try:
            value = context.view.text(f"{PARAMETERS}/{name}", most=64)
        except AbsentError:
            return bad(f"no parameter {name}: this kernel is too old, or built without it")
        if value not in ("Y", "1"):
            return bad(f"{name}={value}")
    return good("sev, sev_es, sev_snp")


def judge_vm_type(context: Context) -> Outcome:
    """The bit of KVM's mask of VM types."""
    context.require_vendor(AMD)
    types = context.number("kvm-vm-types")
    return decided(bool(types >> VM_TYPE_SNP & 1), f"{types:#x}")


def judge_dev(context: Context) -> Outcome:
    """There, and opens; a refusal is no answer about the device."""
    context.require_vendor(AMD)
    if not context.view.exists("dev/sev"):
        return bad("absent")
    why_not = context.word("openable", "/dev/sev")
    if why_not in ("EACCES", "EPERM"):
        raise UnreadError(f"/dev/sev: {why_not}: the launcher may, this process may not")
    return bad(why_not) if why_not else good("there, and opens")


# --- firmware ------------------------------------------------------------------------------------


def _status(context: Context, name: str) -> object:
    status = context.fields("snp-platform-status")
    if name not in status:
        raise UnreadError(f"snp-platform-status: no {name}")
    return status[name]


def _integer(context: Context, name: str) -> int:
    value = _status(context, name)
    if not isinstance(value, int):
        raise UnreadError(f"snp-platform-status: {name} is no number")
    return value


def judge_firmware(context: Context) -> Outcome:
    """API version, compared as two numbers."""
    context.require_vendor(AMD)
    found = _integer(context, "api_major"), _integer(context, "api_minor")
    actual = f"{found[0]}.{found[1]}"
    if found < (1, 51):
        return bad(actual)
    if found < (1, 55):
        return warn(actual, note="enough to start; the GPU vendor's reference has 1.55")
    return good(actual)


def judge_init(context: Context) -> Outcome:
    """State and table of the firmware."""
    context.require_vendor(AMD)
    state, rmp = _integer(context, "state"), bool(_integer(context, "rmp_initialised"))
    return decided(state == 1 and rmp, f"state {state}, RMP {'ready' if rmp else 'not ready'}")


def judge_alias(context: Context) -> Outcome:
    """Whether the check has ended."""
    context.require_vendor(AMD)
    complete = bool(_integer(context, "alias_check_complete"))
    return decided(complete, complete)


def _product(context: Context) -> Product:
    return Product.TURIN if context.processor.family == 0x1A else Product.GENOA


def _reported(context: Context) -> tuple[Tcb, bytes]:
    try:
        value = bytes.fromhex(str(_status(context, "reported_tcb")))
        return parse_tcb(value, _product(context)), value
    except (BlindhostError, ValueError) as error:
        raise UnreadError(f"snp-platform-status: reported_tcb: {error}") from error


def judge_tcb(context: Context) -> Outcome:
    """Reported is at the policy's floor, and all that the platform has."""
    context.require_vendor(AMD)
    tcb, value = _reported(context)
    floor = _FLOORS[_product(context)].tcb
    if not tcb.at_least(floor):
        return bad(str(tcb), required=str(floor))
    if value.hex() != _status(context, "current_tcb"):
        note = "the platform has another than it reports: snphost config set, by hand"
        return bad(str(tcb), note=note, required=f"{_status(context, 'current_tcb')}")
    return good(str(tcb), required=str(floor))


def judge_mask(context: Context) -> Outcome:
    """Whether id or key is masked."""
    context.require_vendor(AMD)
    masked = [n for n in ("mask_chip_id", "mask_chip_key") if _integer(context, n)]
    return decided(not masked, ", ".join(masked) or "none")


def judge_vcek(context: Context) -> Outcome:
    """(1) Four files that parse. (2) The root is pinned. (3) Each signs the next. (4) The key is
    of the TCB that the platform reports.
    """
    context.require_vendor(AMD)
    try:
        content = [
            (each, context.view.content(f"{ENDORSEMENTS}/{each}")) for each in ENDORSEMENT_KINDS
        ]
    except AbsentError as error:
        return bad(str(error))
    try:
        found = parse_snp_endorsements(content)  # (1)
        certified = certified_tcb(found.endorsement_key, _product(context))
    except BlindhostError as error:
        return bad(str(error))
    pinned = context.roots or frozenset(VENDOR_ROOTS.values())
    if found.root.fingerprint not in pinned:  # (2)
        return bad("a root that is nobody's")
    signed = (
        (found.root.signature, found.root),
        (found.issuer.signature, found.root),
        (found.endorsement_key.signature, found.issuer),
    )
    if not all(signature.holds_under(signer.public_key) for signature, signer in signed):  # (3)
        return bad("a chain that does not hold")
    if certified != _reported(context)[1]:  # (4)
        return bad("the key of another TCB")
    lists = found.revocations
    if lists is None or lists.next_update is None or lists.next_update <= context.now:
        return bad("a revocation list that has run out")
    return good("there, and its chain holds")
