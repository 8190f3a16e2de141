"""GPUs and the IOMMU, seen from a host without NVIDIA's driver: PCI sysfs and the admin tool.

Sources: NVIDIA/gpu-admin-tools; NVIDIA/k8s-cc-manager main.py; NVIDIA/cloud-native-docs
confidential-containers; canonical/tdx gpu-cc.
"""

from __future__ import annotations

from typing import Final

from provider_agent.doctor.check import (
    Outcome,
    Status,
    bad,
    decided,
    good,
    skipped,
    warn,
)
from provider_agent.doctor.context import CLASS_BRIDGE, PCI, Context, Device
from provider_agent.doctor.gpu_table import (
    GPUS_OF_A_BOARD,
    MODELS,
    NVSWITCHES,
    SWITCHES_OF_A_BOARD,
    Generation,
)
from provider_agent.doctor.view import AbsentError, UnreadError

GROUPS: Final = "sys/kernel/iommu_groups"
VFIO: Final = "vfio-pci"
HOST_DRIVERS: Final = ("nvidia", "nouveau")
_MODE_SLOTS: Final = 6  # BAR lines of a PCI function's resource file
_4G: Final = 1 << 32


def _differing(found: dict[str, str], wanted: str) -> str:
    """The GPUs that are otherwise, as a person reads it; empty: none is."""
    return ", ".join(f"{bdf}: {value}" for bdf, value in found.items() if value != wanted)


# --- IOMMU ---------------------------------------------------------------------------------------


def judge_iommu(context: Context) -> Outcome:
    """Groups exist only while it translates."""
    groups = context.view.names(GROUPS)
    return decided(bool(groups), len(groups))


def judge_groups(context: Context) -> Outcome:
    """A GPU's group holds its own functions and bridges."""
    kinds = {each.bdf: each for each in context.devices}

    def strangers(gpu: Device) -> str:
        group = context.view.link(f"{PCI}/{gpu.bdf}/iommu_group")
        if not group.isdecimal():
            raise UnreadError(f"iommu_group is {group[:20]!r}")
        others = [
            bdf
            for bdf in context.view.names(f"{GROUPS}/{group}/devices")
            if not bdf.startswith(gpu.slot + ".")
            and not (bdf in kinds and kinds[bdf].kind >> 8 == CLASS_BRIDGE)
        ]
        return " ".join(others)

    shared = _differing(context.each_gpu(strangers), "")
    return bad(f"shared with {shared}") if shared else good("its own functions and bridges")


def judge_iommufd(context: Context) -> Outcome:
    """Both nodes exist."""
    _ = context.some_gpus
    missing = [p for p in ("dev/iommu", "dev/vfio/devices") if not context.view.exists(p)]
    return bad(f"no /{missing[0]}") if missing else good("both")


# --- model ---------------------------------------------------------------------------------------


def judge_model(context: Context) -> Outcome:
    """Every NVIDIA GPU is one that has the mode; at least one is there."""
    if not context.gpus:
        return bad("no NVIDIA GPU")
    names = {gpu.bdf: MODELS.get(gpu.device) for gpu in context.gpus}
    if unknown := [gpu for gpu in context.gpus if names[gpu.bdf] is None]:
        return bad(f"{unknown[0].bdf}: 10de:{unknown[0].device:04x}")
    count = len(context.gpus)
    if context.wanted.gpus is not None and count < context.wanted.gpus:
        return bad(f"{count} GPUs", required=f"{context.wanted.gpus} GPUs to offer")
    return good(", ".join(sorted({f"{each.name}" for each in names.values() if each})))


def judge_uniform(context: Context) -> Outcome:
    """One model."""
    found = sorted({f"{gpu.device:04x}" for gpu in context.some_gpus})
    return decided(len(found) == 1, tuple(found))


# --- drivers and modes ---------------------------------------------------------------------------


def judge_driver(context: Context) -> Outcome:
    """(1) No driver of a display is loaded. (2) Each GPU is vfio-pci's."""
    _ = context.some_gpus
    if not context.view.exists("sys/module"):
        raise AbsentError("sys/module: absent")
    loaded = [each for each in HOST_DRIVERS if context.view.exists(f"sys/module/{each}")]
    if loaded:  # (1)
        return bad(f"module {loaded[0]} is loaded")

    def driver(gpu: Device) -> str:  # (2)
        try:
            return context.view.link(f"{PCI}/{gpu.bdf}/driver")
        except AbsentError:
            return "none"

    others = _differing(context.each_gpu(driver), VFIO)
    return bad(others) if others else good(VFIO)


def judge_cc_mode(context: Context) -> Outcome:
    """All on: none off, none in devtools, and no two modes on one host."""
    found = context.each_gpu(lambda gpu: context.word("gpu-admin", gpu.bdf, "cc-mode"))
    others = _differing(found, "on")
    return bad(others) if others else good("on")


def judge_ppcie(context: Context) -> Outcome:
    """Off for one GPU to a VM; on for a whole Hopper board in one."""
    hopper = [
        gpu
        for gpu in context.some_gpus
        if (model := MODELS.get(gpu.device)) and model.generation is Generation.HOPPER
    ]
    if not hopper:
        return skipped("only Hopper has this mode")
    found = context.each_gpu(lambda gpu: context.word("gpu-admin", gpu.bdf, "ppcie-mode"))
    if set(found.values()) == {"off"}:
        return good("off")
    switches = [each for each in context.devices if each.device in NVSWITCHES]
    whole = len(hopper) == GPUS_OF_A_BOARD and len(switches) == SWITCHES_OF_A_BOARD
    if set(found.values()) == {"on"} and whole and context.wanted.vms == 1:
        return good("on", required="on, for the whole board in one VM")
    return bad(_differing(found, "off"))


def judge_firmware(context: Context) -> Outcome:
    """The enclave's own answer, at selftest."""
    _ = context.some_gpus
    return Outcome(
        status=Status.UNKNOWN,
        actual=None,
        note="A host without NVIDIA's driver cannot ask; the enclave compares it with NVIDIA's "
        "reference values at its start. HGX firmware 1.6.0 loses GPUs in PPCIe mode, 1.7.0 does "
        "not, and from 1.8.0 there is no way back.",
    )


def judge_ecc(context: Context) -> Outcome:
    """The enclave's own answer."""
    _ = context.some_gpus
    return Outcome(
        status=Status.UNKNOWN,
        actual=None,
        note="The admin tool refuses to ask while the confidential mode is on.",
    )


# --- PCI -----------------------------------------------------------------------------------------


def judge_bar(context: Context) -> Outcome:
    """The biggest window holds all memory, and lies above 4 GiB."""

    def window(gpu: Device) -> str:
        lines = context.gpu_file(gpu, "resource").splitlines()[:_MODE_SLOTS]
        spans = [tuple(int(each, 16) for each in line.split()[:2]) for line in lines]
        start, end = max(spans, key=lambda span: span[1] - span[0])
        size = end - start + 1 if end > start else 0
        model = MODELS.get(gpu.device)
        if size < (model.memory_gib if model else 1) << 30:
            return f"{size >> 30} GiB"
        return "big" if start >= _4G else "below 4 GiB"

    small = _differing(context.each_gpu(window), "big")
    return bad(small) if small else good("at least the GPU's memory, above 4 GiB")


def judge_link(context: Context) -> Outcome:
    """Width and speed are the card's own; an idle card may show a lower speed."""

    def lost(gpu: Device) -> str:
        now, most = (
            tuple(context.gpu_file(gpu, f"{which}_link_{each}") for each in ("width", "speed"))
            for which in ("current", "max")
        )
        if now[0] != most[0]:
            return f"x{now[0]} of x{most[0]}"
        return "" if now[1] == most[1] else f"{now[1]} of {most[1]}"

    found = context.each_gpu(lost)
    less = _differing(found, "")
    if any(value.startswith("x") for value in found.values()):
        return bad(less)
    return (
        warn(less, note="idle GPUs may show less: read again under load") if less else good("max")
    )


def judge_reset(context: Context) -> Outcome:
    """By function or by bus."""

    def method(gpu: Device) -> str:
        methods = context.gpu_file(gpu, "reset_method").split()
        return "resets" if {"flr", "bus"} & set(methods) else " ".join(methods) or "none"

    without = _differing(context.each_gpu(method), "resets")
    return bad(without) if without else good("flr or bus")


def judge_idle_power(context: Context) -> Outcome:
    """Kept out of D3 by its function, or by vfio-pci for all."""
    on = context.each_gpu(lambda gpu: context.gpu_file(gpu, "power/control"))
    asleep = _differing(on, "on")
    try:
        kept = context.view.text("sys/module/vfio_pci/parameters/disable_idle_d3", most=64)
    except AbsentError:
        kept = "absent"
    if kept in ("Y", "1") or not asleep:
        return good("on")
    return warn(f"{asleep}; disable_idle_d3={kept}")
