"""The operating system around it all: kernel, memory, disk, clock, and who else is there.

Sources: NVIDIA/cloud-native-docs prerequisites; AMDESE/AMDSEV version table;
TelegramMessenger/cocoon docs/deployment.md; akash-network docs; vast-ai host guides.
"""

from __future__ import annotations

import json
import re
from typing import Final

from provider_agent.doctor.check import Outcome, bad, decided, good, skipped, warn
from provider_agent.doctor.context import Context
from provider_agent.doctor.settings import launcher_settings
from provider_agent.doctor.view import AbsentError, UnreadError
from provider_agent.machines.images import (
    FIRMWARE_FILE,
    INITRD_FILE,
    KERNEL_FILE,
    MANIFEST_BYTES_MAX,
    MANIFEST_FILE,
    ROOT_FILE,
    ImageManifest,
)
from trust.encoding import digest
from trust.errors import EncodingError

TESTED: Final = {("debian", "13"), ("ubuntu", "26.04")}
LAUNCHER_UNIT: Final = "etc/systemd/system/blindhost-launcher.service"
HOST_SETTINGS: Final = "etc/blindhost/host.json"
SPARE_MIB: Final = 16 * 1024
DISK_BYTES_LEAST: Final = 200 << 30
DISK_READ_LEAST: Final = 1_000_000_000  # bytes a second
CLOCK_MICROSECONDS_MAX: Final = 2_000_000
_KERNEL: Final = {"AuthenticAMD": (6, 11), "GenuineIntel": (6, 16)}
_KERNEL_WITH_GPU: Final = (6, 17)
_CONFIG: Final = ("CONFIG_VFIO_PCI", "CONFIG_IOMMUFD", "CONFIG_VHOST_VSOCK")
_CONFIG_OF: Final = {"AuthenticAMD": "CONFIG_KVM_AMD_SEV", "GenuineIntel": "CONFIG_INTEL_TDX_HOST"}
_REBOOTS: Final = re.compile(
    r'Unattended-Upgrade::Automatic-Reboot\s+"(true|1|yes)"', re.IGNORECASE
)
_GUEST_PROGRAMS: Final = frozenset(
    {"qemu-system-x86", "containerd-shim", "dockerd", "libvirtd", "virtqemud", "VBoxHeadless"}
)
_PROCESSES_MAX: Final = 4096


# --- system --------------------------------------------------------------------------------------


def judge_os(context: Context) -> Outcome:
    """Distribution and version, and 64-bit x86."""
    fields = _assignments(context.view.text("etc/os-release", most=1 << 16))
    name, version = fields.get("ID", ""), fields.get("VERSION_ID", "")
    if not name:
        raise UnreadError("etc/os-release: no ID")
    if "lm" not in context.processor.flags:
        return bad(f"{name} {version}, not x86_64")
    tested = (name, version) in TESTED
    return good(f"{name} {version}") if tested else warn(f"{name} {version}", note="not tested")


def judge_kernel(context: Context) -> Outcome:
    """As the processor and the GPUs demand."""
    least = _KERNEL.get(context.processor.vendor)
    if least is None:
        return skipped("for AMD and Intel alone")
    if context.gpus:
        least = max(least, _KERNEL_WITH_GPU)
    found = context.kernel
    return decided(found >= least, _dotted(found), required=_dotted(least))


def judge_kernel_config(context: Context) -> Outcome:
    """Built in, or as a module."""
    release = context.view.text("proc/sys/kernel/osrelease", most=4096)
    if "/" in release:
        raise UnreadError("proc/sys/kernel/osrelease: no file is called so")
    text = context.view.text(f"boot/config-{release}")
    options = _assignments(text)
    wanted = (_CONFIG_OF[context.processor.vendor], *_CONFIG)
    missing = [each for each in wanted if options.get(each) not in ("y", "m")]
    return bad(f"no {', '.join(missing)}") if missing else good("all")


def judge_lockdown(context: Context) -> Outcome:
    """The chosen word stands in brackets."""
    text = context.view.text("sys/kernel/security/lockdown", most=256)
    match = re.search(r"\[(\w{1,20})\]", text)
    if match is None:
        raise UnreadError("sys/kernel/security/lockdown: no choice in it")
    if match[1] == "none":
        return good("none")
    return warn(match[1], note="the admin tool cannot set a GPU's mode meanwhile; VMs run")


def judge_updates(context: Context) -> Outcome:
    """Whether the system reboots by itself."""
    try:
        text = context.view.text("etc/apt/apt.conf.d/50unattended-upgrades", most=1 << 18)
    except AbsentError:
        if context.view.exists("etc"):
            return good("none", note="no unattended-upgrades of apt's is configured here")
        raise
    said = [line for line in text.splitlines() if not line.lstrip().startswith(("//", "#"))]
    reboots = any(_REBOOTS.search(line) for line in said)
    return bad("automatic reboot") if reboots else good("none")


def judge_dedicated(context: Context) -> Outcome:
    """Other VMs and containers, by the names of running programs."""
    found = set()
    for name in context.view.names("proc")[:_PROCESSES_MAX]:
        if not name.isdecimal():
            continue
        try:
            program = context.view.text(f"proc/{name}/comm", most=256)
        except UnreadError:
            continue  # it ended while we looked
        if program in _GUEST_PROGRAMS:
            found.add(program)
    if not found:
        return good("none")
    return warn(tuple(sorted(found)), note="a busy host breaks its promise to a buyer")


# --- memory --------------------------------------------------------------------------------------


def judge_memlock(context: Context) -> Outcome:
    """The launcher's unit if it is installed, else this process's own limit."""
    required = "infinity"
    try:
        text = context.view.text(LAUNCHER_UNIT, most=1 << 16)
    except AbsentError:
        return _own_memlock(context)
    limits = [
        line.partition("=")[2].strip()
        for line in text.splitlines()
        if line.strip().startswith("LimitMEMLOCK=")
    ]
    actual = limits[-1] if limits else "the system's default"
    return decided(actual == required, actual)


def _own_memlock(context: Context) -> Outcome:
    for line in context.view.text("proc/self/limits", most=1 << 16).splitlines():
        if line.startswith("Max locked memory"):
            hard = line.split()[4]
            if hard == "unlimited":
                return good("infinity", note="this process's; the launcher is not installed")
            return bad(f"{int(hard) >> 20} MiB")
    raise UnreadError("proc/self/limits: no locked memory in it")


def judge_memory(context: Context) -> Outcome:
    """What is free holds the offer, and leaves the host its share."""
    total, free = _memory(context, "MemTotal"), _memory(context, "MemAvailable")
    wanted = context.wanted.memory_mib
    if wanted is None:
        wanted = total // 2
    least = wanted + SPARE_MIB
    nodes = sorted(set(context.each_gpu(lambda g: context.gpu_file(g, "numa_node")).values()))
    note = f"GPUs at NUMA node {', '.join(nodes)}: guests belong there"
    return decided(free >= least, free, required=least, note=note)


def _memory(context: Context, name: str) -> int:
    for line in context.view.text("proc/meminfo", most=1 << 16).splitlines():
        if line.startswith(name + ":"):
            number, unit = line.split()[1:3]
            if unit == "kB":
                return int(number) // 1024
    raise UnreadError(f"proc/meminfo: no {name} in kB")


def judge_hugepages(context: Context) -> Outcome:
    """None reserved."""
    reserved = context.view.number("proc/sys/vm/nr_hugepages")
    return good(0) if reserved == 0 else warn(reserved)


def judge_swap(context: Context) -> Outcome:
    """None, or compressed memory alone."""
    lines = context.view.text("proc/swaps", most=1 << 16).splitlines()[1:]
    on_disk = [line.split()[0] for line in lines if not line.startswith("/dev/zram")]
    return warn(tuple(on_disk[:8])) if on_disk else good("none")


# --- disk, clock, money --------------------------------------------------------------------------


def judge_disk(context: Context) -> Outcome:
    """Room for ciphertext, and read as fast as a GPU is filled."""
    free, rate = context.number("space"), context.number("disk-read")
    actual = f"{free >> 30} GiB free, {rate // 1_000_000} MB/s"
    if free < DISK_BYTES_LEAST or rate < DISK_READ_LEAST:
        return bad(actual)
    return good(actual)


def judge_clock(context: Context) -> Outcome:
    """Kept by somebody, and near the market's where one was named."""
    clock = context.fields("clock")
    synchronised, offset = clock.get("synchronised"), clock.get("offset_microseconds")
    if not isinstance(synchronised, bool) or not isinstance(offset, int):
        raise UnreadError("clock: no answer that we know")
    if not synchronised:
        return bad("not synchronised")
    if abs(offset) >= CLOCK_MICROSECONDS_MAX:
        return bad(f"{offset // 1000} ms off")
    if context.market_named:
        try:
            away = context.market.get("offset_milliseconds")
        except UnreadError:
            away = None  # net.out says that
        if isinstance(away, int) and abs(away) * 1000 >= CLOCK_MICROSECONDS_MAX:
            return bad(f"{away} ms from the market's")
    return good("synchronised")


def judge_power(context: Context) -> Outcome:
    """A number of the host's own, in its settings."""
    try:
        value = json.loads(context.view.text(HOST_SETTINGS, most=1 << 16))
    except AbsentError:
        return warn("not set")
    cost = value.get("power_microcredits_per_kwh") if isinstance(value, dict) else None
    if not isinstance(cost, int) or isinstance(cost, bool) or cost < 0:
        return warn("not set")
    return good(cost)


def judge_images(context: Context) -> Outcome:
    """(1) The launcher's file names images. (2) Each manifest is the one so named. (3) Each of its
    files has the digest that it states. Whose image it is, whoever wrote the launcher's file said.
    """
    try:
        settings = launcher_settings(context.view)  # (1)
    except AbsentError:
        return bad("the launcher has no settings")
    for name in settings.images:
        folder = f"{settings.images_folder.lstrip('/')}/{name.hex()}"
        try:
            content = context.view.content(f"{folder}/{MANIFEST_FILE}", most=MANIFEST_BYTES_MAX)
            if digest(content) != name:  # (2)
                return bad(f"{name.hex()}: another manifest")
            manifest = ImageManifest.parse(content)
            wanted = {
                KERNEL_FILE: manifest.kernel,
                INITRD_FILE: manifest.initrd,
                FIRMWARE_FILE: manifest.firmware,
                ROOT_FILE: manifest.root,
            }
            for file, sha256 in wanted.items():  # (3)
                if sha256 is not None and context.view.sha256(f"{folder}/{file}") != sha256.hex():
                    return bad(f"{name.hex()}: {file} is another file")
        except AbsentError as error:
            return bad(str(error))
        except EncodingError as error:
            return bad(f"{name.hex()}: {error}")
    return good(f"{len(settings.images)} images")


def _assignments(text: str) -> dict[str, str]:
    """``NAME=value`` lines; quotation marks around a value go."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            found[name] = value.strip("\"'")
    return found


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
