"""A machine's serial output: kept for its host, capped, and read by no program of ours.

It is the guest's own word, so nothing is decided by it and nothing of it leaves the host. A guest
that writes without end fills `CONSOLE_BYTES_MAX` twice over, and no disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from provider_agent import unix_sockets
from provider_agent.machines.errors import MachineError

CONSOLE_SOCKET: Final = "console"
CONSOLE_FILE: Final = "console.log"
OLDER_FILE: Final = "console.log.1"
CONSOLE_BYTES_MAX: Final = 2 << 20  # a boot says some 40 KiB
READ_BYTES: Final = 1 << 16


class ConsoleLog:
    """Reads one machine's console into its folder until QEMU closes it."""

    def __init__(self, folder: Path, *, bytes_max: int = CONSOLE_BYTES_MAX) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to read. Raises MachineError where QEMU does not listen."""
        try:
            channel = await unix_sockets.dial(self._folder, CONSOLE_SOCKET, kind=socket.SOCK_STREAM)
        except OSError as error:
            raise MachineError("console", f"no console: {error.strerror}") from error
        self._task = asyncio.create_task(self._copy(channel))

    async def close(self) -> None:
        """Read no more. What was read stays until the machine's folder goes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _copy(self, channel: socket.socket) -> None:
        path = self._folder / CONSOLE_FILE
        loop = asyncio.get_running_loop()
        with channel, contextlib.suppress(OSError):  # a full disk loses a log, not a machine
            while part := await loop.sock_recv(channel, READ_BYTES):
                self._append(path, part)

    def _append(self, path: Path, part: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "ab") as file:  # noqa: PTH123 - opened with its mode
            file.write(part)
            size = file.tell()
        if size > self._bytes_max:
            path.replace(self._folder / OLDER_FILE)
