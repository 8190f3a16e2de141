"""One change of a good machine for each way in which a row fails; it must fail alone."""

from __future__ import annotations

from collections.abc import Callable

from provider_agent.doctor.settings import SETTINGS
from tests.provider_agent.doctor.machines import (
    GPU_A,
    GPU_B,
    IMAGES,
    KERNEL,
    SNP_ENDORSEMENTS,
    SSD,
    TDX_ENDORSEMENTS,
    Machine,
    cpuinfo,
    image_of,
)
from tests.provider_agent.endorsements import minted

Change = Callable[[Machine], None]


def answer(*question: str | int, value: object) -> Change:
    def change(machine: Machine) -> None:
        assert question in machine.answers, question
        machine.answers[question] = value

    return change


def part(question: tuple[str | int, ...], name: str, value: object) -> Change:
    def change(machine: Machine) -> None:
        assert name in machine.answers[question]
        machine.answers[question][name] = value

    return change


def write(path: str, content: str | bytes) -> Change:
    def change(machine: Machine) -> None:
        assert path in machine.files, path
        machine.files[path] = content

    return change


def without(path: str) -> Change:
    def change(machine: Machine) -> None:
        del machine.files[path]

    return change


OTHER_MANIFEST = image_of(command_line="panic=-1 debug")[0]["manifest"]
"""Of the very same files, under another command line."""


def image(name: str, content: bytes | None) -> Change:
    def change(machine: Machine) -> None:
        (path,) = (p for p in machine.files if p.startswith(IMAGES) and p.endswith("/" + name))
        if content is None:
            del machine.files[path]
        else:
            machine.files[path] = content

    return change


def drop(question: tuple[str | int, ...]) -> Change:
    def change(machine: Machine) -> None:
        del machine.answers[question]

    return change


def log(line: str) -> Change:
    def change(machine: Machine) -> None:
        machine.answers["command", "dmesg"]["output"] += line + "\n"

    return change


def no_groups(machine: Machine) -> None:
    for path in [p for p in machine.links if p.startswith("sys/kernel/iommu_groups")]:
        del machine.links[path]
    machine.folders.add("sys/kernel/iommu_groups")


def shared_group(machine: Machine) -> None:
    machine.set_group(SSD, 12)


def no_iommufd(machine: Machine) -> None:
    del machine.files["dev/iommu"]


def other_model(machine: Machine) -> None:
    machine.files[machine.gpu("device", GPU_B)] = "0x2335\n"  # an H200: of 141 GiB
    start, size = 1 << 45, 1 << 38
    machine.files[machine.gpu("resource", GPU_B)] = f"{start:#x} {start + size - 1:#x} 0x1\n"


def a100(machine: Machine) -> None:
    machine.files[machine.gpu("device")] = "0x20b5\n"


def nvidia_bound(machine: Machine) -> None:
    machine.folders.add("sys/module/nvidia")
    for bdf in (GPU_A, GPU_B):
        machine.links[machine.gpu("driver", bdf)] = "../../../bus/pci/drivers/nvidia"


def unbound(machine: Machine) -> None:
    del machine.links[machine.gpu("driver")]


def small_bar(machine: Machine) -> None:
    start, size = 1 << 45, 256 << 20
    machine.files[machine.gpu("resource")] = f"{start:#x} {start + size - 1:#x} 0x1\n"


def asleep(machine: Machine) -> None:
    machine.files[machine.gpu("power/control")] = "auto\n"
    machine.files["sys/module/vfio_pci/parameters/disable_idle_d3"] = "N\n"


def busy(machine: Machine) -> None:
    machine.files["proc/77/comm"] = "dockerd\n"


def virtual(machine: Machine) -> None:
    text = machine.files["proc/cpuinfo"]
    assert isinstance(text, str)
    machine.files["proc/cpuinfo"] = text.replace("fpu lm", "fpu lm hypervisor")


STATUS = ("snp-platform-status",)
_CLOCK = ("clock",)
_MARKET = ("market",)
_CPU = "proc/cpuinfo"
_LINK = "sys/devices/pci0000:41:0/0000:41:00.0/"
OLD = minted.tcb_info(minted.NOW - 30 * minted.DAY, days=60)
ENDED = minted.revocation_list(minted.ROOT, minted.NOW - 31 * minted.DAY)

AMD_CASES: list[tuple[str, str, Change]] = [
    ("host.bare_metal", "by-cpuid", answer("cpuid", 1, "ecx", value=1 << 31)),
    ("host.bare_metal", "by-cpuinfo", virtual),
    ("cpu.vendor", "other", write(_CPU, cpuinfo("HygonGenuine", 24, 1, "Hygon C86"))),
    ("cpu.generation", "milan", write(_CPU, cpuinfo("AuthenticAMD", 25, 1, "AMD EPYC 7543"))),
    ("cpu.generation", "ryzen", write(_CPU, cpuinfo("AuthenticAMD", 25, 97, "AMD Ryzen 9"))),
    ("host.kernel", "old", write("proc/sys/kernel/osrelease", "6.12.48-amd64\n")),
    ("iommu.on", "no-groups", no_groups),
    ("snp.bios.smee", "off", answer("msr", 0xC0010010, value=1 << 24)),
    ("snp.bios.snp", "auto", answer("msr", 0xC0010010, value=1 << 23)),
    ("snp.bios.rmp", "no-base", answer("msr", 0xC0010132, value=0)),
    ("snp.bios.rmp", "no-end", answer("msr", 0xC0010133, value=0)),
    ("snp.bios.asid", "one", answer("cpuid", 0x8000001F, "edx", value=1)),
    ("snp.bios.asid", "one-too-few", answer("cpuid", 0x8000001F, "edx", value=6)),
    ("snp.bios.psp", "0x3", log("[  5.0] ccp 0000:22:00.5: SEV: Error: 0x3")),
    ("snp.bios.psp", "0x1", log("[  5.0] ccp 0000:22:00.5: SEV: failed to INIT error 0x1, rc -5")),
    ("snp.dev", "absent", without("dev/sev")),
    ("snp.dev", "no-device", answer("openable", "/dev/sev", value="ENXIO")),
    ("snp.kvm", "off", write("sys/module/kvm_amd/parameters/sev_snp", "N\n")),
    ("snp.kvm", "old", without("sys/module/kvm_amd/parameters/sev_snp")),
    ("snp.vm_type", "plain", answer("kvm-vm-types", value=0b1111)),
    ("snp.fw", "old", part(STATUS, "api_minor", 49)),
    ("snp.fw", "below-reference", part(STATUS, "api_minor", 52)),
    ("snp.init", "uninitialised", part(STATUS, "state", 0)),
    ("snp.init", "no-rmp", part(STATUS, "rmp_initialised", value=False)),
    ("snp.alias_check", "not", part(STATUS, "alias_check_complete", value=False)),
    ("snp.tcb", "below", part(STATUS, "reported_tcb", bytes((10, 0, 0, 0, 0, 0, 23, 88)).hex())),
    ("snp.tcb", "behind", part(STATUS, "current_tcb", bytes((10, 0, 0, 0, 0, 0, 28, 88)).hex())),
    ("snp.mask_chip", "id", part(STATUS, "mask_chip_id", value=True)),
    ("snp.vcek", "absent", without(f"{SNP_ENDORSEMENTS}/vcek")),
    ("snp.vcek", "junk", write(f"{SNP_ENDORSEMENTS}/ask", "junk")),
    ("gpu.model", "a100", a100),
    ("gpu.uniform", "two", other_model),
    ("gpu.driver_absent", "nvidia", nvidia_bound),
    ("gpu.driver_absent", "none", unbound),
    ("iommu.groups", "ssd", shared_group),
    ("iommufd", "absent", no_iommufd),
    ("gpu.cc_mode", "mixed", answer("gpu-admin", GPU_B, "cc-mode", value="off")),
    ("gpu.cc_mode", "devtools", answer("gpu-admin", GPU_A, "cc-mode", value="devtools")),
    ("gpu.ppcie", "on", answer("gpu-admin", GPU_A, "ppcie-mode", value="on")),
    ("gpu.bar", "small", small_bar),
    ("gpu.link", "x8", write(_LINK + "current_link_width", "8\n")),
    ("gpu.link", "slow", write(_LINK + "current_link_speed", "16.0 GT/s PCIe\n")),
    ("gpu.reset", "none", write(_LINK + "reset_method", "pm\n")),
    ("gpu.idle_power", "auto", asleep),
    ("host.os", "fedora", write("etc/os-release", "ID=fedora\nVERSION_ID=44\n")),
    ("host.kernel_config", "no-sev", write(f"boot/config-{KERNEL}", "CONFIG_VFIO_PCI=m\n")),
    ("host.lockdown", "on", write("sys/kernel/security/lockdown", "none [integrity]\n")),
    ("host.memlock", "small", write("etc/systemd/system/blindhost-launcher.service", "[Service]")),
    ("host.memory", "full", write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 270000000 kB\n")),
    ("host.hugepages", "some", write("proc/sys/vm/nr_hugepages", "1024\n")),
    ("host.swap", "disk", write("proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n")),
    ("host.disk", "full", answer("space", value=150 << 30)),
    ("host.disk", "slow", answer("disk-read", value=400_000_000)),
    ("host.clock", "free", part(_CLOCK, "synchronised", value=False)),
    ("host.clock", "off", part(_CLOCK, "offset_microseconds", -2_500_000)),
    ("host.clock", "market", part(_MARKET, "offset_milliseconds", 61_000)),
    (
        "host.updates",
        "reboots",
        write(
            "etc/apt/apt.conf.d/50unattended-upgrades",
            'Unattended-Upgrade::Automatic-Reboot "true";\n',
        ),
    ),
    ("host.dedicated", "docker", busy),
    ("power.cost", "unset", write("etc/blindhost/host.json", "{}")),
    ("qemu.version", "7.2", part(("command", "qemu-version"), "output", "version 7.2.22")),
    ("qemu.version", "none", drop(("command", "qemu-version"))),
    ("qemu.capable", "no-type", answer("qmp", "qom-list-types", value=[{"name": "tdx-guest"}])),
    ("qemu.probe", "slow", answer("qemu-boot", value=11_000)),
    ("qemu.probe", "stuck", answer("qemu-boot", value="qemu: no end after 10 s")),
    ("fw.images", "flipped", image("root", b"a runtime imagf")),
    ("fw.images", "another-manifest", image("manifest", OTHER_MANIFEST)),
    ("fw.images", "junk-manifest", image("manifest", b"x")),
    ("fw.images", "gone", image("kernel", None)),
    ("fw.images", "no-settings", without(SETTINGS)),
    ("net.out", "impostor", answer("market", value={"signed": False})),
    ("net.speed", "slow", answer("market-speed", value=20_000)),
    ("net.latency", "far", part(_MARKET, "round_trip_milliseconds", [300] * 20)),
    ("market.identity", "stranger", part(_MARKET, "enrolled", value=False)),
]
INTEL_CASES: list[tuple[str, str, Change]] = [
    ("cpu.generation", "spr", write(_CPU, cpuinfo("GenuineIntel", 6, 143, "XEON(R) 8480+"))),
    ("host.kernel", "old", write("proc/sys/kernel/osrelease", "6.11.2-amd64\n")),
    ("tdx.bios.tme", "grey", answer("msr", 0x982, value=0)),
    ("tdx.bios.keys", "none", answer("msr", 0x87, value=63)),
    ("tdx.bios.seam", "off", answer("msr", 0x1401, value=1 << 10)),
    ("tdx.mcheck", "1861", answer("msr", 0xA0, value=1861)),
    ("tdx.production", "silicon", answer("msr", 0xCE, value=1 << 27)),
    ("tdx.production", "module", answer("msr", 0x503, value=1)),
    ("tdx.module", "old", log("virt/tdx: TDX module: major_version 1, minor_version 0, build 1")),
    ("tdx.kvm", "off", write("sys/module/kvm_intel/parameters/tdx", "N\n")),
    ("tdx.vm_type", "plain", answer("kvm-vm-types", value=1)),
    ("tdx.sgx", "absent", without("dev/sgx_provision")),
    ("tdx.qgs", "dead", answer("qgs", value=False)),
    (
        "tdx.registered",
        "not",
        part(("command", "mpa-status"), "output", "Registration is not completed\n"),
    ),
    ("tdx.collateral", "old", write(f"{TDX_ENDORSEMENTS}/tdx-tcb-info", OLD)),
    ("tdx.collateral", "absent", without(f"{TDX_ENDORSEMENTS}/tdx-tcb-info")),
    ("tdx.collateral", "no-chain", without(f"{TDX_ENDORSEMENTS}/tdx-pck-crl-chain")),
    ("tdx.collateral", "junk", write(f"{TDX_ENDORSEMENTS}/tdx-root-crl", "junk")),
    ("tdx.collateral", "list-ended", write(f"{TDX_ENDORSEMENTS}/tdx-root-crl", ENDED)),
    ("qemu.version", "10.0", part(("command", "qemu-version"), "output", "version 10.0.13")),
    (
        "qemu.capable",
        "no-type",
        answer("qmp", "qom-list-types", value=[{"name": "sev-snp-guest"}]),
    ),
]
