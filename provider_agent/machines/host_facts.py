"""What the launcher itself must know of the host before a confidential launch. Reads alone.

`doctor` explains a host; this refuses. Paths go through a root folder for the tests.
"""

from __future__ import annotations

from pathlib import Path

from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.spec import Platform


def check_host(root: Path, platform: Platform) -> None:
    """The host is no virtual machine itself, where that matters. Raises MachineRefusedError.

    A guest that was asked for SNP or TDX inside another guest would protect nothing from whoever
    runs the outer one. What can't be read is a no.
    """
    if not platform.confidential:
        return
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError as error:
        raise MachineRefusedError("unknown-host", "cpuinfo can't be read") from error
    flags = {
        word
        for line in text.splitlines()
        if line.partition(":")[0].strip() == "flags"
        for word in line.partition(":")[2].split()
    }
    if not flags:
        raise MachineRefusedError("unknown-host", "cpuinfo tells no flags")
    if "hypervisor" in flags:
        raise MachineRefusedError("virtual-host", "this host is itself a virtual machine")
