"""QEMU's monitor: one client, ours, each question with a deadline.

Rules:
- QEMU serves one client at a time and lets others wait; the launcher connects first and stays.
- No answer in time is an error of its own (`monitor-silent`), and never a good answer.
- A guest can cause events without end: only the reason of a shutdown is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any, Final

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError, Runstate

from provider_agent import unix_sockets
from provider_agent.machines.errors import MachineError

MONITOR_SOCKET: Final = "monitor"
GREETING_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 2.0
READ_BYTES_MAX: Final = 1 << 20  # a list of types has some 100 KiB
VERSION_MIN: Final = (10, 0)  # 7.2 crashed in half of the boots that were counted

logging.getLogger("qemu.qmp").propagate = False  # it logs whole messages; our errors say enough


class _Ending(EventListener):
    """Remembers why the machine shut down, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None

    def accept(self, event: Message) -> bool:
        if event.get("event") == "SHUTDOWN":
            about = event.get("data")
            self.reason = str(about.get("reason"))[:64] if isinstance(about, dict) else "unknown"
        return False  # and so it is not queued


class Monitor:
    """A connected monitor."""

    def __init__(self, client: QMPClient, ending: _Ending) -> None:
        self._client, self._ending = client, ending
        self.patience = ANSWER_SECONDS
        """How long an answer may take, in seconds."""

    @classmethod
    async def connect(cls, folder: Path, *, seconds: float = GREETING_SECONDS) -> Monitor:
        """Connect to the socket in `folder`, and agree on capabilities. Raises MachineError."""
        client = QMPClient("machine", readbuflen=READ_BYTES_MAX)
        client.events.event_filter = lambda _event: False
        ending = _Ending()
        client.register_listener(ending)
        channel: socket.socket | None = None
        try:
            async with asyncio.timeout(seconds):
                channel = await unix_sockets.dial(folder, MONITOR_SOCKET, kind=socket.SOCK_STREAM)
                await client.connect(channel)
        except BaseException as error:
            await _let_go(client)
            if channel is not None:
                channel.close()
            if isinstance(error, TimeoutError):
                text = f"no greeting in {seconds:g} s"
                raise MachineError("monitor-silent", text) from error
            if isinstance(error, QMPError | OSError | EOFError):
                raise MachineError("monitor-gone", f"no monitor: {error}") from error
            raise
        return cls(client, ending)

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._client.runstate is Runstate.RUNNING

    @property
    def shutdown_reason(self) -> str | None:
        """Why the machine shut down, in QEMU's word; None: it did not say."""
        return self._ending.reason

    async def ask(
        self, command: str, arguments: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> Any:
        """Ask one question. Raises MachineError: monitor-silent, -gone or -refused."""
        limit = self.patience if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                return await self._client.execute(command, arguments)
        except TimeoutError as error:
            raise MachineError(
                "monitor-silent", f"no answer to {command} in {limit:g} s"
            ) from error
        except ExecuteError as error:
            raise MachineError("monitor-refused", f"{command}: {str(error)[:200]}") from error
        except (QMPError, OSError, EOFError) as error:
            raise MachineError("monitor-gone", f"{command}: {str(error)[:200]}") from error

    async def status(self) -> str:
        """The run state, in QEMU's word. Raises MachineError."""
        answer = await self.ask("query-status")
        return str(answer.get("status")) if isinstance(answer, dict) else "unknown"

    async def version(self) -> tuple[int, int]:
        """QEMU's version. Raises MachineError."""
        try:
            found = (await self.ask("query-version"))["qemu"]
            return int(found["major"]), int(found["minor"])
        except (KeyError, TypeError, ValueError) as error:
            raise MachineError("monitor-refused", "query-version: not understood") from error

    async def open_ports(self) -> frozenset[str]:
        """Names of the character devices that the guest has open. Raises MachineError."""
        answer = await self.ask("query-chardev")
        if not isinstance(answer, list):
            raise MachineError("monitor-refused", "query-chardev: not understood")
        return frozenset(
            str(each.get("label"))
            for each in answer
            if isinstance(each, dict) and each.get("frontend-open") is True
        )

    async def drain(self) -> None:
        """After QEMU's end: read what it said last."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()

    async def close(self) -> None:
        """Disconnect; QEMU takes the next client."""
        await _let_go(self._client)


async def _let_go(client: QMPClient) -> None:
    # The library raises again what broke the connection; that has been told already.
    with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await client.disconnect()
