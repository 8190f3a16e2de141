"""What sysfs says of a GPU: its driver, its neighbours, and who holds it. Reads alone.

Every path goes through a root folder, so that a test can bring a tree of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

VFIO_DRIVER: Final = "vfio-pci"
BRIDGE_CLASS: Final = 0x0604  # PCI-to-PCI bridge: shares a group without doing DMA of its own
PROCESSES_MAX: Final = 1 << 16


def _open_node(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))


class PciView:
    """The PCI devices below one root folder."""

    def __init__(self, root: Path, *, open_node: Callable[[Path], None] = _open_node) -> None:
        self._root, self._open = root, open_node
        self._devices = root / "sys/bus/pci/devices"

    def present(self, address: str) -> bool:
        """Whether the device is there."""
        return (self._devices / address).is_dir()

    def device(self, address: str) -> int | None:
        """Its device id; None: sysfs does not say."""
        try:
            return int((self._devices / address / "device").read_text(), 16)
        except (OSError, ValueError):
            return None

    def driver(self, address: str) -> str | None:
        """The driver that it is bound to; None: to none."""
        link = self._devices / address / "driver"
        try:
            return link.readlink().name
        except OSError:
            return None

    def strangers(self, address: str) -> tuple[str, ...] | None:
        """Devices in its IOMMU group that are neither its functions nor bridges; None: no group."""
        try:
            members = sorted(
                p.name for p in (self._devices / address / "iommu_group/devices").iterdir()
            )
        except OSError:
            return None
        slot = address.rpartition(".")[0]
        return tuple(
            each for each in members if each.rpartition(".")[0] != slot and not self._bridge(each)
        )

    def _bridge(self, address: str) -> bool:
        try:
            text = (self._devices / address / "class").read_text()
            return int(text, 16) >> 8 == BRIDGE_CLASS
        except (OSError, ValueError):  # what can't be read counts as a device
            return False

    def holder(self, address: str) -> str | None:
        """Who has the device open through VFIO; None: nobody.

        The kernel is asked first: it opens no group's node while a device of it is in use.
        """
        with contextlib.suppress(OSError):
            group = (self._devices / address / "iommu_group").readlink().name
            try:
                self._open(self._root / "dev/vfio" / group)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return f"somebody: group {group} is busy"
        processes = self._processes(address)
        return f"process {processes[0]}" if processes else None

    def _processes(self, address: str) -> tuple[int, ...]:
        """Those whose open files may be read and that have it among them."""
        nodes = {f"/dev/vfio/devices/{node}" for node in self._names(address, "vfio-dev")}
        with contextlib.suppress(OSError):
            group = (self._devices / address / "iommu_group").readlink().name
            nodes.add(f"/dev/vfio/{group}")
        found = []
        with contextlib.suppress(OSError):
            for number, entry in enumerate((self._root / "proc").iterdir()):
                if number >= PROCESSES_MAX:
                    break
                if entry.name.isdigit() and self._has_open(entry / "fd", nodes):
                    found.append(int(entry.name))
        return tuple(sorted(found))

    def _names(self, address: str, folder: str) -> tuple[str, ...]:
        try:
            return tuple(path.name for path in (self._devices / address / folder).iterdir())
        except OSError:
            return ()

    @staticmethod
    def _has_open(folder: Path, nodes: set[str]) -> bool:
        with contextlib.suppress(OSError):  # the process has ended
            for link in folder.iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in nodes:
                        return True
        return False
