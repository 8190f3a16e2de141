"""A laptop's secure processor: its own process, holds the chip key, measures and starts enclaves.

Rules:
- `chip_server` says what it does; this is the process that does it, one for each home. Its key,
  and the one of its simulated GPU, leave this process's memory by no core dump, fork or socket.
- An enclave lives no longer than the chip. A chip with no caller and no enclave ends by itself.
- Simulated is a root, not a flag: whoever believes these reports has named this chip's root.
  Host and chip share a machine here, so the host can read all of it: real ones are for that.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from provider_agent import kernel, unix_sockets
from provider_agent.chip_server import ChipServer
from provider_agent.runtime_image import find_runtime
from trust.errors import BlindhostError
from trust.simulated import SimulatedChip, SimulatedGpu

CHIP_FILE: Final = "chip"
GPU_FILE: Final = "gpu"
"""Absent on a machine without a GPU."""
LOCK_FILE: Final = "lock"
SOCKET_NAME: Final = "socket"

_log = logging.getLogger("blindhost.chip")


def main(arguments: list[str] | None = None) -> int:
    """Run a chip: ``python -m provider_agent.simulated_chip --home DIR [--runtime DIR]``."""
    parser = argparse.ArgumentParser(prog="provider_agent.simulated_chip", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of mode 0700 with the key")
    parser.add_argument("--socket", type=Path, help="where to listen; default: HOME/socket")
    parser.add_argument("--runtime", type=Path, help="folder with enclave_runtime and trust")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # The key is in this process's memory: no core dump, not even into a pipe.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kernel.not_dumpable()
    home: Path = options.home.resolve()
    where: Path = options.socket.absolute() if options.socket else home / SOCKET_NAME
    try:
        with (home / LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            chip = SimulatedChip.from_bytes((home / CHIP_FILE).read_bytes())
            runtime = options.runtime.resolve() if options.runtime else find_runtime()
            server = ChipServer(chip, gpu=_read_gpu(home), runtime=runtime, home=home)
            asyncio.run(_serve(server, where))
    except BlockingIOError:
        _log.error("refused reason=another chip runs in this home")
        return os.EX_TEMPFAIL
    except (BlindhostError, OSError) as error:
        _log.error("refused reason=%s", error)
        return os.EX_CONFIG
    return os.EX_OK


def _read_gpu(home: Path) -> SimulatedGpu | None:
    try:
        return SimulatedGpu.from_bytes((home / GPU_FILE).read_bytes())
    except FileNotFoundError:
        return None


async def _serve(server: ChipServer, where: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with unix_sockets.listen(where.parent, where.name, kind=socket.SOCK_SEQPACKET) as listener:
        _log.info("listening")
        await server.serve(listener, stop)


if __name__ == "__main__":
    sys.exit(main())
