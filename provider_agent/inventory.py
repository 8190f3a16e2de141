"""What the host says it has. Nobody believes it for having been said: evidence and receipts count.

Rules:
- A GPU that is bound to an enclave has no driver on the host, so GPUs are counted in PCI sysfs.
- What cannot be read is an error, never a default: an offer says what was found.
- The whole tree hangs on one root folder, so that a test can lay out any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.errors import AgentError

NVIDIA: Final = "0x10de"
DISPLAY_CLASSES: Final = ("0x0300", "0x0302")  # VGA and 3D controllers
CPUINFO_BYTES_MAX: Final = 4 << 20  # 512 processors at 2 KiB, and room

_VECTORS: Final = (("avx512f", "AVX512"), ("avx2", "AVX2"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """A machine, as its host sees it."""

    vendor: str
    family: str
    vectors: str
    """Widest vector instructions: AVX512, AVX2 or DEFAULT."""
    processors: int
    memory_mib: int
    gpus: tuple[str, ...]
    """PCI device ids of NVIDIA GPUs, e.g. ``0x2330``, in the order of their addresses."""

    def compute_class(self, gpu_model: str) -> str:
        """What decides bits and is known before a job is: equal for two machines of one class."""
        return f"processor={self.vendor}/{self.family};vectors={self.vectors};gpu={gpu_model}"


def read_inventory(root: Path) -> Inventory:
    """Look at the machine whose file system begins at `root`. Raises AgentError."""
    fields, processors = _processor(_read(root / "proc/cpuinfo"))
    flags = set(fields.get("flags", "").split())
    return Inventory(
        vendor=_wanted(fields, "vendor_id", "CPU implementer"),
        family=_wanted(fields, "cpu family", "CPU architecture"),
        vectors=next((name for flag, name in _VECTORS if flag in flags), "DEFAULT"),
        processors=processors,
        memory_mib=_memory_mib(_read(root / "proc/meminfo")),
        gpus=_gpus(root / "sys/bus/pci/devices"),
    )


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(CPUINFO_BYTES_MAX)
    except OSError as error:
        raise AgentError(f"inventory: {path.name} cannot be read: {error.strerror}") from error


def _processor(text: str) -> tuple[dict[str, str], int]:
    fields: dict[str, str] = {}
    processors = 0
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            processors += name.strip() == "processor"
            fields.setdefault(name.strip(), value.strip())
    if not processors:
        raise AgentError("inventory: cpuinfo names no processor")
    return fields, processors


def _wanted(fields: dict[str, str], *names: str) -> str:
    for name in names:
        if value := fields.get(name):
            return value
    raise AgentError(f"inventory: cpuinfo has no {' or '.join(names)}")


def _memory_mib(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            number, unit = line.split()[1:3]
            if unit == "kB" and number.isdigit():
                return int(number) // 1024
    raise AgentError("inventory: meminfo has no MemTotal in kB")


def _gpus(devices: Path) -> tuple[str, ...]:
    if not devices.is_dir():  # a machine without a PCI bus
        return ()
    found = []
    for device in sorted(devices.iterdir()):
        vendor, kind = (_read(device / name).strip() for name in ("vendor", "class"))
        if vendor == NVIDIA and kind.startswith(DISPLAY_CLASSES):
            found.append(_read(device / "device").strip())
    return tuple(found)
