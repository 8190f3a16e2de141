"""Machines for the doctor: files, links and answers, laid out below a folder of a test's own."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provider_agent.doctor.check import Check
from provider_agent.doctor.context import Context, Wanted
from provider_agent.doctor.engine import make_checks
from provider_agent.doctor.probe import MappingProbe, Question
from provider_agent.doctor.rows import ROWS
from provider_agent.doctor.settings import SETTINGS
from provider_agent.doctor.view import HostView
from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.images import ImageManifest, MeasuredShape
from provider_agent.machines.spec import Platform
from tests.provider_agent.endorsements import minted
from trust.encoding import canonical_json, digest
from trust.simulated import SimulatedChip

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
GPU_A, GPU_B = "0000:41:00.0", "0000:61:00.0"
BRIDGE, SSD = "0000:40:01.0", "0000:01:00.0"
IMAGES = "var/lib/blindhost/images"
KERNEL = "6.17.4-amd64"
TCB = {"Genoa": bytes((10, 0, 0, 0, 0, 0, 27, 88)), "Turin": bytes((0, 1, 0, 4, 0, 0, 0, 71))}
SNP_ENDORSEMENTS = "var/lib/blindhost/endorsements/snp"
TDX_ENDORSEMENTS = "var/lib/blindhost/endorsements/tdx"


@dataclass
class Machine:
    """One machine. `chip` endorses its SNP key; its root is the one that the context pins."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    answers: dict[Question, Any] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=lambda: Wanted(gpus=2, vms=2, memory_mib=262144))
    roots: frozenset[bytes] | None = None
    market: bool = True
    now: dt.datetime = NOW

    def lay(self, root: Path) -> Path:
        for path in sorted(self.folders):
            (root / path).mkdir(parents=True, exist_ok=True)
        for path, content in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, bytes) else content.encode()
            (root / path).write_bytes(data)
        for path, target in self.links.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        return root

    def context(self, root: Path) -> Context:
        return Context(
            view=HostView(root=root),
            probe=MappingProbe(self.answers),
            now=self.now,
            wanted=self.wanted,
            market_named=self.market,
            roots=self.roots,
        )

    def checks(self, folder: Path) -> dict[str, Check]:
        made = make_checks(ROWS, self.context(self.lay(folder)))
        return {each.row.id: each for each in made}

    def but(self) -> Machine:
        """A copy to change."""
        return dataclasses.replace(
            self,
            files=dict(self.files),
            links=dict(self.links),
            folders=set(self.folders),
            answers=copy.deepcopy(self.answers),
        )

    # --- PCI -------------------------------------------------------------------------------------

    def add_device(
        self, bdf: str, *, vendor: int, device: int, kind: int, group: int, driver: str | None
    ) -> str:
        """Its folder."""
        folder = f"sys/devices/pci{bdf[:8]}0/{bdf}"
        self.files |= {
            f"{folder}/vendor": f"{vendor:#06x}\n",
            f"{folder}/device": f"{device:#06x}\n",
            f"{folder}/class": f"{kind:#06x}00\n",
        }
        self.links[f"sys/bus/pci/devices/{bdf}"] = f"../../../devices/pci{bdf[:8]}0/{bdf}"
        self.set_group(bdf, group)
        if driver:
            self.folders.add(f"sys/bus/pci/drivers/{driver}")
            self.links[f"{folder}/driver"] = f"../../../bus/pci/drivers/{driver}"
        return folder

    def set_group(self, bdf: str, group: int) -> None:
        folder = f"sys/devices/pci{bdf[:8]}0/{bdf}"
        for path in [p for p in self.links if p.endswith(f"/devices/{bdf}") and "groups" in p]:
            del self.links[path]
        self.links[f"{folder}/iommu_group"] = f"../../../kernel/iommu_groups/{group}"
        self.links[f"sys/kernel/iommu_groups/{group}/devices/{bdf}"] = f"../../../../devices/{bdf}"

    def add_gpu(self, bdf: str, *, group: int, device: int = 0x2331) -> None:
        folder = self.add_device(
            bdf, vendor=0x10DE, device=device, kind=0x0302, group=group, driver="vfio-pci"
        )
        start = 0x20000000000 + group * (1 << 37)
        self.files |= {
            f"{folder}/resource": (
                f"{start + (1 << 38):#018x} {start + (1 << 38) + (1 << 24) - 1:#018x} 0x14220c\n"
                f"{0:#018x} {0:#018x} {0:#018x}\n"
                f"{start:#018x} {start + (1 << 37) - 1:#018x} 0x000000000014220c\n"
            ),
            f"{folder}/current_link_width": "16\n",
            f"{folder}/max_link_width": "16\n",
            f"{folder}/current_link_speed": "32.0 GT/s PCIe\n",
            f"{folder}/max_link_speed": "32.0 GT/s PCIe\n",
            f"{folder}/reset_method": "flr bus\n",
            f"{folder}/power/control": "on\n",
            f"{folder}/numa_node": "0\n",
        }
        self.answers[("gpu-admin", bdf, "cc-mode")] = "on"
        self.answers[("gpu-admin", bdf, "ppcie-mode")] = "off"

    def gpu(self, name: str, bdf: str = GPU_A) -> str:
        return f"sys/devices/pci{bdf[:8]}0/{bdf}/{name}"


def cpuinfo(vendor: str, family: int, model: int, name: str, flags: str = "") -> str:
    one = (
        f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\nflags\t\t: fpu lm avx2 {flags}\n"
    )
    return f"processor\t: 0\n{one}\nprocessor\t: 1\n{one}"


def image_of(
    root: bytes = b"a runtime image", command_line: str = "panic=-1"
) -> tuple[dict[str, bytes], bytes]:
    """An image's files, and its name."""
    files = {"kernel": b"kernel", "initrd": b"initrd", "firmware": b"firmware", "root": root}
    manifest = ImageManifest(
        platform=Platform.SNP,
        command_line=command_line,
        shapes=(MeasuredShape(vcpus=8, cpu_model="EPYC-v4", measurement=bytes(48)),),
        **{name: digest(content) for name, content in files.items()},
    )
    return files | {"manifest": manifest.encode()}, manifest.digest


def launcher_settings(image: bytes) -> bytes:
    config = LauncherConfig(
        platform=Platform.SNP,
        qemu="/opt/qemu/bin/qemu-system-x86_64",
        images_folder=f"/{IMAGES}",
        images=(image,),
        memory_mib=262144,
        vcpus=64,
        machines_max=2,
        gpus=(GPU_A, GPU_B),
        gpu_tool="/opt/gpu/bin/python",
        units=True,
        cpus=None,
        numa_node=None,
        snp_policy=0x30000,
        quote_port=4050,
        boot_seconds=120,
        caller_uids=(1000,),
        caller_gids=(),
    )
    return canonical_json(config.to_json())


def server() -> Machine:
    """What every good server has, whoever made its processor."""
    machine = Machine()
    image, manifest = image_of()
    machine.files |= {
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13"\nID=debian\nVERSION_ID="13"\n',
        "etc/hostname": "h1\n",
        "proc/sys/kernel/osrelease": KERNEL + "\n",
        "proc/meminfo": "MemTotal: 1056000000 kB\nMemFree: 1 kB\nMemAvailable: 1040000000 kB\n",
        "proc/sys/vm/nr_hugepages": "0\n",
        "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
        "proc/cmdline": "root=/dev/md0 ro quiet iommu=pt\n",
        "proc/self/limits": "Limit Soft Hard Units\nMax locked memory unlimited unlimited bytes\n",
        "proc/1/comm": "systemd\n",
        "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
        "sys/module/vfio_pci/parameters/disable_idle_d3": "Y\n",
        "sys/class/dmi/id/sys_vendor": "Dell Inc.\n",
        "etc/systemd/system/blindhost-launcher.service": "[Service]\nLimitMEMLOCK=infinity\n",
        "etc/blindhost/host.json": '{"power_microcredits_per_kwh": 250000}\n',
        "etc/apt/apt.conf.d/50unattended-upgrades": (
            '// Unattended-Upgrade::Automatic-Reboot "true";\n'
            'Unattended-Upgrade::Automatic-Reboot "false";\n'
        ),
        SETTINGS: launcher_settings(manifest),
        **{f"{IMAGES}/{manifest.hex()}/{name}": content for name, content in image.items()},
    }
    machine.folders |= {"dev/vfio/devices", "sys/module", "var/lib"}
    machine.files["dev/iommu"] = ""
    machine.add_device(BRIDGE, vendor=0x1022, device=0x14AB, kind=0x0604, group=12, driver=None)
    machine.add_device(SSD, vendor=0x144D, device=0xA80A, kind=0x0108, group=7, driver="nvme")
    machine.add_gpu(GPU_A, group=12)
    machine.add_gpu(GPU_B, group=13)
    machine.answers |= {
        ("cpuid", 1, "ecx"): 0x7EFA320B,
        ("clock",): {"synchronised": True, "offset_microseconds": 120},
        ("space",): 4 << 40,
        ("disk-read",): 5_000_000_000,
        ("command", "qemu-version"): {
            "status": 0,
            "output": "QEMU emulator version 11.1.3 (Debian 1:11.1.3)\n",
        },
        ("qemu-boot",): 700,
        ("market",): {
            "signed": True,
            "enrolled": True,
            "offset_milliseconds": 40,
            "round_trip_milliseconds": list(range(20, 40)),
        },
        ("market-speed",): 900_000,
    }
    return machine


def genoa(chip: SimulatedChip, *, turin: bool = False) -> Machine:
    machine = server()
    family, model = (26, 2) if turin else (25, 17)
    name = "AMD EPYC 9555 64-Core Processor" if turin else "AMD EPYC 9354 32-Core Processor"
    machine.roots = frozenset({chip.root_fingerprint})
    machine.files |= {
        "proc/cpuinfo": cpuinfo("AuthenticAMD", family, model, name, "svm sev sev_es sev_snp"),
        f"boot/config-{KERNEL}": (
            "CONFIG_KVM_AMD_SEV=y\nCONFIG_VFIO_PCI=m\nCONFIG_IOMMUFD=m\nCONFIG_VHOST_VSOCK=m\n"
        ),
        "dev/sev": "",
        **{f"sys/module/kvm_amd/parameters/{n}": "Y\n" for n in ("sev", "sev_es", "sev_snp")},
        **{f"{SNP_ENDORSEMENTS}/{kind}": content for kind, content in chip.endorsements()},
    }
    tcb = TCB["Turin" if turin else "Genoa"].hex()
    machine.answers |= {
        ("msr", 0xC0010010): 1 << 23 | 1 << 24,
        ("msr", 0xC0010132): 0x40000000,
        ("msr", 0xC0010133): 0 if turin else 0x7FFFFFFF,
        ("cpuid", 0x8000001F, "edx"): 100,
        ("cpuid", 0x8000001F, "ecx"): 1006,
        ("openable", "/dev/sev"): "",
        ("command", "dmesg"): {
            "status": 0,
            "output": (
                "[    0.000000] SEV-SNP: RMP table physical range [0x40000000 - 0x7fffffff]\n"
                "[    5.100000] ccp 0000:22:00.5: SEV-SNP API:1.55 build:49\n"
                "[    5.200000] kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)\n"
            ),
        },
        ("kvm-vm-types",): 0b11101 if not turin else 0b11111,
        ("snp-platform-status",): {
            "api_major": 1,
            "api_minor": 55,
            "state": 1,
            "rmp_initialised": True,
            "alias_check_complete": True,
            "mask_chip_id": False,
            "mask_chip_key": False,
            "current_tcb": tcb,
            "reported_tcb": tcb,
        },
        ("qmp", "qom-list-types"): [{"name": "sev-snp-guest"}, {"name": "tdx-guest"}],
        ("qmp", "query-sev-capabilities"): {"cbitpos": 51, "reduced-phys-bits": 1},
    }
    if turin:
        machine.answers[("msr", 0xC0010136)] = 0x2101
    return machine


def emerald_rapids() -> Machine:
    machine = server()
    machine.files |= {
        "proc/cpuinfo": cpuinfo("GenuineIntel", 6, 207, "INTEL(R) XEON(R) PLATINUM 8592+", "vmx"),
        f"boot/config-{KERNEL}": (
            "CONFIG_INTEL_TDX_HOST=y\nCONFIG_VFIO_PCI=m\nCONFIG_IOMMUFD=m\nCONFIG_VHOST_VSOCK=m\n"
        ),
        "dev/sgx_enclave": "",
        "dev/sgx_provision": "",
        "var/log/mpa_registration.log": "[01-01-2026] INFO: Registration Flow - completed.\n",
        **{f"{TDX_ENDORSEMENTS}/{kind}": content for kind, content in minted.intel().items()},
        **{f"sys/module/kvm_intel/parameters/{n}": "Y\n" for n in ("tdx", "sgx")},
    }
    machine.answers |= {
        ("msr", 0x982): 0b10,
        ("msr", 0x87): 64 << 32 | 63,
        ("msr", 0x1401): 1 << 11 | 1 << 10,
        ("msr", 0xA0): 0,
        ("msr", 0xCE): 0,
        ("msr", 0x503): 0,
        ("command", "dmesg"): {
            "status": 0,
            "output": (
                "[    3.1] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, "
                "major_version 1, minor_version 5, build_date 20240129, build_num 698\n"
                "[    3.2] virt/tdx: module initialized\n"
            ),
        },
        ("command", "mpa-status"): {"status": 0, "output": "Registration process completed.\n"},
        ("qgs",): True,
        ("kvm-vm-types",): 0b100001,
        ("qmp", "qom-list-types"): [{"name": "sev-snp-guest"}, {"name": "tdx-guest"}],
    }
    return machine


def laptop() -> Machine:
    """A notebook without a GPU of NVIDIA's, without QEMU, and without the installer's files."""
    machine = Machine(wanted=Wanted(), market=False)
    machine.files |= {
        "proc/cpuinfo": cpuinfo("GenuineIntel", 6, 186, "13th Gen Intel(R) Core(TM) i7-1360P"),
        "proc/sys/kernel/osrelease": "6.12.48-amd64\n",
        "proc/meminfo": "MemTotal: 32000000 kB\nMemAvailable: 20000000 kB\n",
        "proc/sys/vm/nr_hugepages": "0\n",
        "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/nvme0n1p3 partition 1 0 -2\n",
        "proc/self/limits": "Limit Soft Hard Units\nMax locked memory 8388608 8388608 bytes\n",
        "etc/os-release": "ID=debian\nVERSION_ID=13\n",
        "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    }
    machine.folders |= {"sys/module", "sys/kernel/iommu_groups", "var/lib", "etc"}
    machine.add_device(SSD, vendor=0x144D, device=0xA80A, kind=0x0108, group=1, driver="nvme")
    machine.answers |= {
        ("cpuid", 1, "ecx"): "!EACCES",
        ("clock",): {"synchronised": True, "offset_microseconds": 3},
        ("space",): 300 << 30,
        ("disk-read",): 2_000_000_000,
        ("kvm-vm-types",): 1,
    }
    return machine
