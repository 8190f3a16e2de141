"""Stand-ins for what lies outside: GPUs and their admin tool, sysfs, and a whole small host."""

import json
import os
import socket
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

from provider_agent import unix_sockets
from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.errors import MachineError
from provider_agent.machines.fleet import Fleet, Surroundings
from provider_agent.machines.gpu_tool import CcMode
from provider_agent.machines.gpus import Gpus
from provider_agent.machines.images import ImageManifest, MeasuredShape
from provider_agent.machines.machine import Deadlines
from provider_agent.machines.pci import PciView
from provider_agent.machines.programs import ChildStarter
from provider_agent.machines.records import boot_id
from provider_agent.machines.spec import SNP_POLICY, Platform
from provider_agent.machines.wire import LaunchMachine
from tests.provider_agent.fakes import launch_document
from trust.encoding import digest

FIRST, SECOND = "0000:41:00.0", "0000:61:00.0"
COMMAND_LINE = "console=ttyS0 panic=-1 quiet"
MEASUREMENT = bytes(range(48))


@dataclass
class FakeGpuAdmin:
    """Cards with a mode each; a reset makes a pending mode real, unless it fails."""

    modes: dict[str, CcMode]
    pending: dict[str, CcMode] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    resets: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    ppcie: dict[str, bool] = field(default_factory=dict)
    """Cards that were asked for it, and what they said; one that is absent is off."""

    def set_mode(self, address: str, mode: CcMode) -> None:
        """As the tool's ``--set-cc-mode``: nothing changes before a reset."""
        self.pending[address] = mode

    async def cc_mode(self, address: str) -> CcMode:
        self.reads.append(address)
        return self.modes[address]

    async def ppcie_on(self, address: str) -> bool:
        return self.ppcie.setdefault(address, False)

    async def reset(self, address: str) -> None:
        if address in self.broken:
            raise MachineError("gpu-tool", f"{address}: --reset-with-os ended with status 1")
        self.resets.append(address)
        if (mode := self.pending.pop(address, None)) is not None:
            self.modes[address] = mode


def fake_admin(*addresses: str, mode: CcMode = CcMode.ON) -> FakeGpuAdmin:
    return FakeGpuAdmin(modes=dict.fromkeys(addresses or (FIRST, SECOND), mode))


class FakeSysfs:
    """A root folder with PCI devices and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.devices = root / "sys/bus/pci/devices"
        self.devices.mkdir(parents=True)
        (root / "proc").mkdir()

    def add(self, address: str, *, group: int, driver: str | None = "vfio-pci", kind="0x030200"):
        folder = self.devices / address
        folder.mkdir()
        (folder / "class").write_text(kind + "\n")
        (folder / "vfio-dev" / f"vfio{group}").mkdir(parents=True)
        members = self.root / f"sys/kernel/iommu_groups/{group}/devices"
        members.mkdir(parents=True, exist_ok=True)
        (members / address).symlink_to(folder)
        (folder / "iommu_group").symlink_to(members.parent)
        self.bind(address, driver)

    def bind(self, address: str, driver: str | None) -> None:
        link = self.devices / address / "driver"
        link.unlink(missing_ok=True)
        if driver is not None:
            drivers = self.root / "sys/bus/pci/drivers" / driver
            drivers.mkdir(parents=True, exist_ok=True)
            link.symlink_to(drivers)

    def hold(self, pid: int, node: str) -> None:
        folder = self.root / "proc" / str(pid) / "fd"
        folder.mkdir(parents=True)
        (folder / "9").symlink_to(node)


def two_cards(root: Path) -> FakeSysfs:
    tree = FakeSysfs(root)
    tree.add(FIRST, group=17)
    tree.add(SECOND, group=18)
    return tree


def make_program(path: Path, source: str) -> Path:
    """An executable of our own interpreter."""
    path.write_text(f"#!{sys.executable} -ISB\n{source}")
    path.chmod(0o755)
    return path


def make_image(
    folder: Path,
    *,
    platform: Platform = Platform.EMULATED,
    command_line: str = COMMAND_LINE,
    vcpus: tuple[int, ...] = (1, 2),
    kernel: bytes = b"a kernel",
    initrd: bytes = b"an initrd",
) -> bytes:
    """An image in `folder`; its name."""
    firmware = b"a firmware" if platform.confidential else None
    manifest = ImageManifest(
        platform=platform,
        kernel=digest(kernel),
        initrd=digest(initrd),
        firmware=digest(firmware) if firmware else None,
        root=None,
        command_line=command_line,
        shapes=tuple(
            MeasuredShape(vcpus=n, cpu_model="EPYC-v4", measurement=MEASUREMENT) for n in vcpus
        ),
    )
    home = folder / manifest.digest.hex()
    home.mkdir(parents=True)
    home.chmod(0o755)
    files = {"manifest": manifest.encode(), "kernel": kernel, "initrd": initrd}
    files |= {"firmware": firmware} if firmware else {}
    for name, content in files.items():
        (home / name).write_bytes(content)
        (home / name).chmod(0o644)
    return manifest.digest


class Host:
    """A host in a folder, with a fake QEMU."""

    def __init__(self, folder: Path, *, platform: Platform = Platform.EMULATED) -> None:
        folder.chmod(0o700)
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self.root = folder / "root"
        self.sysfs = two_cards(self.root)
        (self.root / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse2 sev\n")
        self.admin = fake_admin()
        self.platform = platform
        self.image = make_image(folder / "images", platform=platform)
        self.qemu = folder / "bin" / "qemu"
        self.qemu.parent.mkdir()
        make_program(self.qemu, Path(__file__).with_name("fake_qemu.py").read_text())
        self.gpus: tuple[str, ...] = (FIRST, SECOND) if platform.confidential else ()
        self.deadlines = Deadlines(
            greeting=5, answer=5, boot=20, door=20, quit=5, kill=10, look=0.02
        )
        self.behave(open=["frames", "blobs"])
        self.doors = 0

    def behave(self, **behaviour: object) -> None:
        path = self.qemu.parent / "behaviour"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(behaviour))
        partial.replace(path)

    def config(self, **changes: object) -> LauncherConfig:
        fields: dict = {
            "platform": self.platform,
            "qemu": str(self.qemu),
            "images_folder": str(self.folder / "images"),
            "images": (self.image,),
            "memory_mib": 4096,
            "vcpus": 4,
            "machines_max": 4,
            "gpus": self.gpus,
            "gpu_tool": "/nonexistent/python" if self.gpus else None,
            "units": self.platform.confidential,
            "cpus": None,
            "numa_node": None,
            "snp_policy": SNP_POLICY,
            "quote_port": 4050,
            "boot_seconds": 60,
            "caller_uids": () if self.platform.confidential else (os.getuid(),),
            "caller_gids": (4711,) if self.platform.confidential else (),
        }
        return LauncherConfig(**(fields | changes))

    def claims(self) -> Gpus | None:
        if not self.gpus:
            return None
        return Gpus(self.home / "gpus", offered=self.gpus, pci=PciView(self.root), admin=self.admin)

    def fleet(self, *, boot: bytes | None = None, **changes: object) -> Fleet:
        around = Surroundings(
            home=self.home,
            root=self.root,
            boot=boot or boot_id(),
            starter=ChildStarter(),
            gpus=self.claims(),
            deadlines=self.deadlines,
            clock=lambda: 1_800_000_000_000,
        )
        return Fleet(self.config(**changes), around)

    def ask(self, number: int = 1, **changes: object) -> LaunchMachine:
        fields: dict = {
            "platform": self.platform,
            "image": self.image,
            "memory_mib": 1024,
            "vcpus": 1,
            "gpus": (),
            "document": launch_document(number).encode(),
        }
        return LaunchMachine(**(fields | changes))

    def door(self) -> tuple[socket.socket, socket.socket]:
        self.doors += 1
        folder = self.folder / f"door{self.doors}"
        folder.mkdir(mode=0o700)
        return (
            unix_sockets.listen(folder, "messages", kind=socket.SOCK_STREAM),
            unix_sockets.listen(folder, "blobs", kind=socket.SOCK_STREAM),
        )

    async def launch(self, fleet: Fleet, number: int = 1, **changes: object):
        messages, blobs = self.door()
        with messages, blobs:
            return await fleet.launch(
                self.ask(number, **changes), (messages.fileno(), blobs.fileno())
            )

    def left_over(self) -> list[str]:
        """Files of machines and claims that are still there."""
        return sorted(
            str(path.relative_to(self.home))
            for path in self.home.rglob("*")
            if not path.is_dir() and path.name != "lock"
        )


def is_private(path: Path) -> bool:
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return content.rpartition(")")[2].split()[0] not in ("Z", "X")
