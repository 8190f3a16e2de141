"""What a host decided about its machines: the launcher's one file, which no agent can change.

Rules:
- The file is root's (or this process's own), and nobody else can write it.
- On a confidential platform the caller is never root: an agent with all privileges would make the
  launcher's closed verbs pointless.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.records import PciAddress
from provider_agent.machines.spec import GPUS_MAX, Platform
from trust.encoding import Count, Digest, Name, Pattern, Size, Struct, Uint16, Uint32, parse_json
from trust.errors import DocumentError, EncodingError

CONFIG_PATH: Final = Path("/etc/blindhost/launcher.json")
STATE_HOME: Final = Path("/var/lib/blindhost-launcher")
"""Records, claims and consoles."""
SOCKET_PATH: Final = Path("/run/blindhost/launcher.sock")
"""SOCK_SEQPACKET, root:blindhost, mode 0660; systemd's socket unit makes it."""
VERBS: Final = ("launch-machine", "prepare-gpu", "probe", "read", "status", "stop", "wait")
CONFIG_BYTES_MAX: Final = 1 << 16
MACHINES_MAX: Final = 16
IMAGES_MAX: Final = 32

_Path = Annotated[str, Pattern(expression=r"/[^,\x00-\x1f\x7f]{1,255}")]


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherConfig(Struct):
    """What may be launched on this host, and for whom."""

    platform: Platform
    qemu: _Path
    images_folder: _Path
    images: Annotated[tuple[Digest, ...], Size(least=1, most=IMAGES_MAX)]
    """Those that may run."""
    memory_mib: Count
    """For all machines together."""
    vcpus: Count
    """For all machines together."""
    machines_max: Count
    gpus: Annotated[tuple[PciAddress, ...], Size(least=0, most=GPUS_MAX)]
    gpu_tool: _Path | None
    """Interpreter of the environment with NVIDIA's admin tool; None: no GPUs."""
    units: bool
    """Whether QEMU runs in a transient unit of its own; False: a child, when emulated."""
    cpus: Name | None
    """Processors for machines, as ``AllowedCPUs=`` takes them; None: all."""
    numa_node: Uint16 | None
    snp_policy: Uint32
    quote_port: Count
    """vsock port of the host's TDX quote service."""
    boot_seconds: Count
    """From the first instruction to an open door."""
    caller_uids: Annotated[tuple[Uint32, ...], Size(least=0, most=8)]
    caller_gids: Annotated[tuple[Uint32, ...], Size(least=0, most=8)]

    def _check(self) -> None:
        if not self.caller_uids and not self.caller_gids:
            raise DocumentError("launcher: nobody may call it")
        if self.platform.confidential and 0 in self.caller_uids:
            raise DocumentError("launcher: the agent of a confidential host never runs as root")
        if self.platform.confidential and not self.units:
            raise DocumentError("launcher: confidential machines run in units of their own")
        if (self.gpu_tool is None) != (not self.gpus):
            raise DocumentError("launcher: GPUs and the admin tool come together")
        if self.gpus and not self.platform.confidential:
            raise DocumentError("launcher: the emulated platform takes no GPU")
        if self.machines_max > MACHINES_MAX:
            raise DocumentError(f"launcher: {self.machines_max} machines; at most {MACHINES_MAX}")


def read_config(path: Path) -> LauncherConfig:
    """Read the file. Raises MachineRefusedError."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise MachineRefusedError("no-config", f"{path.name}: {error.strerror}") from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise MachineRefusedError("open-config", f"{path.name} can be written by others")
    if len(content) > CONFIG_BYTES_MAX:
        raise MachineRefusedError("bad-config", f"{path.name}: over {CONFIG_BYTES_MAX} bytes")
    try:
        return LauncherConfig.from_json(parse_json(content))
    except EncodingError as error:
        raise MachineRefusedError("bad-config", f"{path.name}: {error}") from error
