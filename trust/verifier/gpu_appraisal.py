"""The policy's checks of GPUs whose signatures hold: which, how many, how new, how they are joined.

Rules (docs/spec/evidence-nvidia.md §7):
- Each check is made over all devices and gives one line, which names the first that it refuses.
- A GPU shown twice is one GPU: it is told by the number that is burnt in, and by its leaf's.
- A mode that a GPU doesn't state is no mode, and no policy allows it.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final

from trust.evidence.nvidia import FeatureMode
from trust.verifier.gpu_device import Architecture, GpuClaims
from trust.verifier.gpu_policy import (
    PPCIE_GPUS,
    PPCIE_SWITCHES,
    GpuDemands,
    driver_number,
    vbios_number,
)
from trust.verifier.nvidia import VerifiedGpus
from trust.verifier.results import CheckLine, line, not_demanded

# Which of the checks of the field's list (docs/evidence-checks.md) each line is.
CHECK_NUMBERS: Final = MappingProxyType(
    {
        "gpu-architecture": 28,
        "gpu-fwid-stated": 30,
        "ocsp-hold": 31,
        "ocsp-age": 31,
        "gpu-mode": 35,
        "gpu-topology": 35,
        "gpu-driver": 36,
        "gpu-vbios": 36,
        "gpu-count": 37,
        "gpu-unique": 37,
    }
)


def appraise_gpus(
    verified: VerifiedGpus, demands: GpuDemands, now: dt.datetime
) -> tuple[CheckLine, ...]:
    """The policy's lines about verified GPUs. Says yes or no; raises for neither."""
    return (
        *appraise_gpu_claims(verified.devices, demands),
        _check_age(verified.status_of, demands, now),
    )


def appraise_gpu_claims(devices: Sequence[GpuClaims], demands: GpuDemands) -> tuple[CheckLine, ...]:
    """Those that claims alone decide, believed or not; a result needs `VerifiedGpus`."""
    return (
        _check_architecture(devices, demands),
        _check_fwid(devices, demands),
        _check_hold(devices, demands),
        _check_mode(devices, demands),
        _check_topology(devices),
        _check_driver(devices, demands),
        _check_vbios(devices, demands),
        _check_count(devices, demands),
        _check_unique(devices),
    )


def _check_architecture(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(28) Only what the policy allows."""
    wanted = " or ".join(floor.architecture.value for floor in demands.architectures)

    def fault(each: GpuClaims) -> str | None:
        return None if demands.floor_of(each.architecture) else each.architecture.value

    return _over("gpu-architecture", devices, wanted, fault)


def _check_fwid(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(30) Every GPU states its firmware; that it is the certified one is the verifier's check."""
    gpus = [each for each in devices if not each.is_switch]
    if not demands.fwid_demanded:
        return not_demanded("gpu-fwid-stated", f"{sum(e.fwid is not None for e in gpus)} GPUs do")
    return _over(
        "gpu-fwid-stated", gpus, "a FWID", lambda each: None if each.fwid else "none stated"
    )


def _check_hold(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(31) No certificate is revoked for a time, unless that will do."""
    if demands.hold_allowed:
        return not_demanded("ocsp-hold", f"{sum(len(each.on_hold) for each in devices)} on hold")
    return _over(
        "ocsp-hold", devices, "no certificateHold", lambda each: ", ".join(each.on_hold) or None
    )


def _check_age(status_of: dt.datetime, demands: GpuDemands, now: dt.datetime) -> CheckLine:
    """(31, 40) The oldest OCSP response is not older than the policy wants it."""
    most = dt.timedelta(hours=demands.ocsp_age_hours_most)
    good = now - status_of <= most
    wanted = f"at most {demands.ocsp_age_hours_most} hours before {now}"
    return line("ocsp-age", f"oldest response of {status_of}", wanted, good=good)


def _check_mode(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(35) One mode for all GPUs, and one that is allowed; MPT only on Blackwell."""
    wanted = "one of " + ", ".join(mode.value for mode in demands.modes) + " for every GPU"
    gpus = [each for each in devices if not each.is_switch]
    modes = {each.mode for each in gpus}
    if len(modes) > 1:
        shown = ", ".join(sorted(mode.value if mode else "none" for mode in modes))
        return line("gpu-mode", f"a mixture of {shown}", wanted, good=False)

    def fault(each: GpuClaims) -> str | None:
        mode = each.mode
        if mode is None:
            flag = each.feature_flag.value if each.feature_flag else "none"
            return f"flag {flag}, protected PCIe {each.protected_pcie}"
        blackwell = each.architecture is Architecture.BLACKWELL
        if mode not in demands.modes or (mode is FeatureMode.MPT and not blackwell):
            return f"{mode.value} on {each.architecture.value}"
        return None

    return _over("gpu-mode", gpus, wanted, fault)


def _check_topology(devices: Sequence[GpuClaims]) -> CheckLine:
    """(35) PPCIE: the whole machine, and each GPU and switch names the others. Else no switches."""
    gpus = [each for each in devices if not each.is_switch]
    switches = [each for each in devices if each.is_switch]
    if all(each.mode is not FeatureMode.PPCIE for each in gpus):
        found = f"{len(gpus)} GPUs, {len(switches)} switches, no PPCIE"
        if not switches:
            return not_demanded("gpu-topology", found)
        return line("gpu-topology", found, "no switches without PPCIE", good=False)
    wanted = f"{PPCIE_GPUS} GPUs and {PPCIE_SWITCHES} switches, each wired to all of the other kind"
    of_gpus = {each.device_id for each in gpus}
    of_switches = {each.device_id for each in switches}
    counts = (len(gpus), len(of_gpus), len(switches), len(of_switches))
    if counts != (PPCIE_GPUS, PPCIE_GPUS, PPCIE_SWITCHES, PPCIE_SWITCHES):
        found = f"{len(of_gpus)} GPUs and {len(of_switches)} switches"
        return line("gpu-topology", found, wanted, good=False)

    def fault(each: GpuClaims) -> str | None:
        if each.is_switch and each.switch_pdis != (each.device_id,):
            return "a switch that its certificates name otherwise"
        wired = set(each.gpu_pdis) if each.is_switch else set(each.switch_pdis)
        missing = (of_gpus if each.is_switch else of_switches) ^ wired
        return f"not to, or to none of ours: {min(missing).hex()}" if missing else None

    return _over("gpu-topology", devices, wanted, fault)


def _check_driver(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(36) Each GPU's driver is at least the floor of its architecture."""

    def fault(each: GpuClaims) -> str | None:
        floor = demands.floor_of(each.architecture)
        if floor is None or floor.driver is None or each.driver_version is None:
            return f"{each.driver_version}, and no floor for {each.architecture.value}"
        good = driver_number(each.driver_version) >= driver_number(floor.driver)
        return None if good else each.driver_version

    gpus = [each for each in devices if not each.is_switch]
    floors = (f"{f.architecture.value} {f.driver}" for f in demands.architectures if f.driver)
    return _over("gpu-driver", gpus, "at least " + ", ".join(floors), fault)


def _check_vbios(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(36) Each device's VBIOS is at least the floor of its architecture."""

    def fault(each: GpuClaims) -> str | None:
        floor = demands.floor_of(each.architecture)
        good = floor is not None and vbios_number(each.vbios_version) >= vbios_number(floor.vbios)
        return None if good else each.vbios_version

    floors = (f"{f.architecture.value} {f.vbios}" for f in demands.architectures)
    return _over("gpu-vbios", devices, "at least " + ", ".join(floors), fault)


def _check_count(devices: Sequence[GpuClaims], demands: GpuDemands) -> CheckLine:
    """(37) As many GPUs as the policy wants."""
    count = sum(not each.is_switch for each in devices)
    wanted = f"{demands.gpus_least} to {demands.gpus_most} GPUs"
    good = demands.gpus_least <= count <= demands.gpus_most
    return line("gpu-count", f"{count} GPUs", wanted, good=good)


def _check_unique(devices: Sequence[GpuClaims]) -> CheckLine:
    """(37) No device is shown twice."""
    ids = Counter(each.device_id for each in devices)
    serials = Counter(each.serial for each in devices)

    def fault(each: GpuClaims) -> str | None:
        twice = ids[each.device_id] > 1 or serials[each.serial] > 1
        return f"{each.device_id.hex()} stands twice" if twice else None

    return _over("gpu-unique", devices, "each device once", fault)


def _over(
    check: str,
    devices: Sequence[GpuClaims],
    wanted: str,
    fault: Callable[[GpuClaims], str | None],
) -> CheckLine:
    """One line over all: the first fault, or how many hold. Without a device it is refused."""
    faults = [(each.index, found) for each in devices if (found := fault(each)) is not None]
    if not devices:
        return line(check, "no device", wanted, good=False)
    if faults:
        index, found = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return line(check, f"device {index}: {found}{more}", wanted, good=False)
    return line(check, f"{len(devices)} that hold", wanted, good=True)
