"""Before a guest runs: is this QEMU, stopped, and the kind of machine that was asked for?

Rules:
- Everything is asked at the monitor while nothing has run yet. An answer that is missing is a no.
- It protects a host from a launch that no buyer would believe; the buyer relies on evidence alone.
"""

from __future__ import annotations

from typing import Any

from provider_agent.machines.errors import MachineError, MachineRefusedError
from provider_agent.machines.monitor import VERSION_MIN, Monitor
from provider_agent.machines.spec import MachineSpec, Platform, SnpShape


async def check_prelaunch(monitor: Monitor) -> None:
    """QEMU is new enough, and has run nothing. Raises MachineError."""
    found = await monitor.version()
    if found < VERSION_MIN:
        raise MachineError(
            "qemu-version", f"{found[0]}.{found[1]}; wanted {VERSION_MIN[0]}.{VERSION_MIN[1]}"
        )
    if (state := await monitor.status()) != "prelaunch":
        raise MachineError("not-prelaunch", f"the machine is {state[:32]!r}")


async def check_platform(monitor: Monitor, spec: MachineSpec) -> None:
    """The machine is of the kind that `spec` says. Raises MachineError: platform-wrong."""
    match spec.platform:
        case Platform.SNP:
            await _check_snp(monitor, spec)
        case Platform.TDX:
            await _check_tdx(monitor)
        case Platform.EMULATED:
            kvm = _object(await monitor.ask("query-kvm"))
            if kvm.get("enabled") is not False:
                raise MachineError("platform-wrong", "KVM runs what is called emulated")


async def _check_snp(monitor: Monitor, spec: MachineSpec) -> None:
    assert isinstance(spec.shape, SnpShape)
    sev = _object(await monitor.ask("query-sev"))
    if sev.get("enabled") is not True or sev.get("sev-type") != "sev-snp":
        found = f"enabled {sev.get('enabled')}, type {str(sev.get('sev-type'))[:32]}"
        raise MachineError("platform-wrong", f"query-sev: {found}; wanted sev-snp")
    if sev.get("snp-policy") != spec.shape.policy:
        text = f"SNP policy {sev.get('snp-policy')}; wanted {spec.shape.policy}"
        raise MachineError("platform-wrong", text)


async def _check_tdx(monitor: Monitor) -> None:
    objects = await monitor.ask("qom-list", {"path": "/objects"})
    kinds = (
        {str(each.get("name")): str(each.get("type")) for each in objects if isinstance(each, dict)}
        if isinstance(objects, list)
        else {}
    )
    if kinds.get("tee") != "child<tdx-guest>":
        raise MachineError("platform-wrong", f"its guard is {kinds.get('tee', 'absent')[:64]}")


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise MachineError("platform-wrong", "an answer that is no object")
    return answer


def sev_capabilities(answer: Any) -> tuple[int, int]:
    """`cbitpos` and `reduced-phys-bits` of ``query-sev-capabilities``. Raises MachineRefusedError.

    They are the host's: asked of the QEMU that will run, and never taken from a table.
    """
    found = _object(answer)
    bit, reduced = found.get("cbitpos"), found.get("reduced-phys-bits")
    if not isinstance(bit, int) or not isinstance(reduced, int):
        raise MachineRefusedError("no-sev", "QEMU tells no position of the C-bit")
    return bit, reduced
