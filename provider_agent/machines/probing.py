"""Asks the host's QEMU, without a machine, what it and the processor can."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, Final

from provider_agent import unix_sockets
from provider_agent.machines.arguments import probe_line
from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.errors import MachineError, MachineRefusedError
from provider_agent.machines.monitor import MONITOR_SOCKET, VERSION_MIN, Monitor
from provider_agent.machines.platform_checks import sev_capabilities
from provider_agent.machines.programs import ChildStarter
from provider_agent.machines.spec import Platform
from provider_agent.machines.wire import Probed

TDX_TYPE: Final = "tdx-guest"
END_SECONDS_MAX: Final = 10.0


async def probe(config: LauncherConfig, home: Path) -> Probed:
    """Start QEMU without a machine, ask, and end it. Raises MachineError.

    (1) It is new enough. (2) It can make the guests of this platform on this processor.
    """
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir=home))
    try:
        with unix_sockets.listen(folder, MONITOR_SOCKET, kind=socket.SOCK_STREAM) as listener:
            started = await ChildStarter().start(
                "probe",
                probe_line(config.qemu, config.platform),
                (listener.fileno(),),
                lambda _name: None,
            )
        try:
            try:
                monitor = await Monitor.connect(folder)
            except MachineError as error:
                await started.program.wait(0.2)
                raise MachineError("probe", started.words.text[:500] or error.text) from error
            try:
                return await _ask(monitor, config.platform)
            finally:
                await monitor.close()
        finally:
            started.program.kill()
            await started.program.wait(END_SECONDS_MAX)
            started.program.let_go()
            started.collect()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _ask(monitor: Monitor, platform: Platform) -> Probed:
    major, minor = await monitor.version()
    if (major, minor) < VERSION_MIN:  # (1)
        wanted = ".".join(map(str, VERSION_MIN))
        raise MachineRefusedError("qemu-version", f"{major}.{minor}; wanted {wanted}")
    bit: int | None = None
    reduced: int | None = None
    match platform:  # (2)
        case Platform.SNP:
            bit, reduced = sev_capabilities(await monitor.ask("query-sev-capabilities"))
        case Platform.TDX:
            if TDX_TYPE not in _types(await monitor.ask("qom-list-types")):
                raise MachineRefusedError("no-tdx", "this QEMU has no tdx-guest")
        case Platform.EMULATED:
            pass
    return Probed(
        platform=platform,
        qemu_major=major,
        qemu_minor=minor,
        cbitpos=bit,
        reduced_phys_bits=reduced,
    )


def _types(answer: Any) -> frozenset[str]:
    entries = answer if isinstance(answer, list) else []
    return frozenset(str(each.get("name")) for each in entries if isinstance(each, dict))
