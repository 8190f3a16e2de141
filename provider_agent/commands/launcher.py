"""``blindhost-agent launcher``: the privileged half of a host, which has no network.

It listens where systemd's socket unit says (descriptor 3, sd_listen_fds(3)), else at ``--socket``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import fcntl
import logging
import os
import resource
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from provider_agent import unix_sockets
from provider_agent.machines.config import CONFIG_PATH, STATE_HOME, LauncherConfig, read_config
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.fleet import CLAIMS_FOLDER, Fleet, Surroundings
from provider_agent.machines.gpu_tool import AdminTool
from provider_agent.machines.gpus import Gpus
from provider_agent.machines.machine import Deadlines
from provider_agent.machines.pci import PciView
from provider_agent.machines.programs import ChildStarter, Starter, UnitStarter
from provider_agent.machines.records import boot_id
from provider_agent.machines.server import LauncherServer
from trust.errors import BlindhostError

LOCK_FILE: Final = "lock"
LISTEN_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START

_log = logging.getLogger("blindhost.launcher")


def add_parser(commands: Any) -> None:
    """Add ``launcher`` to the agent's sub-commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "launcher", help="start and stop machines for the agent (a service of its own)"
    )
    parser.add_argument("--config", type=Path, default=CONFIG_PATH, help="what the host decided")
    parser.add_argument("--home", type=Path, default=STATE_HOME, help="records, claims, consoles")
    parser.add_argument("--socket", type=Path, help="where to listen without systemd")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM; the exit status. Machines run on."""
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):  # the unit has done it, and forbids it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    home: Path = options.home
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_mode & 0o077:
            raise MachineRefusedError("open-home", f"{home.name} is open to others; wanted 0700")
        config = read_config(options.config)
        with (home / LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The environment is read at entry points alone, and this is one.
            return asyncio.run(_serve(config, home.resolve(), options.socket, os.environ))  # noqa: TID251
    except BlockingIOError:
        _log.error("refused reason=another launcher runs in this home")
        return os.EX_TEMPFAIL
    except (BlindhostError, OSError) as error:
        _log.error("refused reason=%s", error)
        return os.EX_CONFIG


async def _serve(
    config: LauncherConfig, home: Path, path: Path | None, environment: Mapping[str, str]
) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    fleet = Fleet(config, surroundings(config, home))
    await fleet.adopt()
    with listener(path, environment) as listening:
        _log.info("listening platform=%s", config.platform.value)
        await LauncherServer(fleet, config).serve(listening, stop)
    return os.EX_OK


def surroundings(config: LauncherConfig, home: Path) -> Surroundings:
    """What the launcher of this configuration works with on a real host."""
    gpus = None
    if config.gpu_tool is not None:
        gpus = Gpus(
            home / CLAIMS_FOLDER,
            offered=config.gpus,
            pci=PciView(Path("/")),
            admin=AdminTool(Path(config.gpu_tool)),
        )
    starter: Starter = ChildStarter()
    if config.units:
        emulated = not config.platform.confidential
        starter = UnitStarter(emulated=emulated, cpus=config.cpus)
    return Surroundings(
        home=home,
        root=Path("/"),
        boot=boot_id(),
        starter=starter,
        gpus=gpus,
        deadlines=Deadlines(boot=float(config.boot_seconds)),
        clock=_wall_clock,
    )


def listener(path: Path | None, environment: Mapping[str, str]) -> socket.socket:
    """The socket that systemd hands over, or one at `path`. Raises MachineRefusedError."""
    if path is not None:
        return unix_sockets.listen(path.parent, path.name, kind=socket.SOCK_SEQPACKET)
    handed = environment.get("LISTEN_FDS"), environment.get("LISTEN_PID")
    if handed != ("1", str(os.getpid())):
        raise MachineRefusedError("no-socket", "systemd handed over no socket; give --socket")
    given = socket.socket(fileno=LISTEN_DESCRIPTOR)
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_SEQPACKET:
        given.close()
        raise MachineRefusedError("no-socket", "descriptor 3 is no UNIX packet socket")
    given.settimeout(0)
    os.set_inheritable(given.fileno(), False)  # noqa: FBT003 - the library's own signature
    return given


def _wall_clock() -> int:
    return int(dt.datetime.now(dt.UTC).timestamp() * 1000)  # noqa: TID251 - an entry point
