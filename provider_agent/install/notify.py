"""Tell the service manager that the agent is ready, lives, and reaches its market (sd_notify(3)).

Rules:
- Without a socket every call does nothing: the same program runs in a shell.
- A watchdog ping says that the work goes on, not only that the process is there (`Pulse`).
- A notification that can't be sent is dropped: the service manager's own deadline decides.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Final

ADDRESS_BYTES_MAX: Final = 107  # sun_path, unix(7)
HEARTBEAT: Final = "market heartbeat"


class Notifier:
    """A datagram socket to the service manager; `address` is ``$NOTIFY_SOCKET``, None: absent."""

    def __init__(self, address: str | None) -> None:
        self._address: str | None = None
        if address and address[0] in "/@" and len(address.encode()) <= ADDRESS_BYTES_MAX:
            self._address = "\0" + address[1:] if address[0] == "@" else address

    def ready(self) -> None:
        """The agent has started."""
        self._send("READY=1")

    def ping(self) -> None:
        """The work goes on."""
        self._send("WATCHDOG=1")

    def heartbeat(self, now: int) -> None:
        """The market answered at `now`, in Unix milliseconds; `upgrade` waits for it."""
        self._send(f"STATUS={HEARTBEAT} {now}")

    def stopping(self) -> None:
        """The agent is about to end."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(0)
            channel.sendto(text.encode(), self._address)


class Pulse:
    """Pings while the work goes on: a task sends them, and each round of work says that it began.

    A round may take longer than the watchdog's time, and a loop that runs may do no work: so the
    service manager is told of both together.
    """

    def __init__(
        self, notifier: Notifier, *, clock: Callable[[], float], stall_seconds: float
    ) -> None:
        self._notifier, self._clock, self._stall = notifier, clock, stall_seconds
        self._at = clock()

    def beat(self) -> None:
        """A round of work begins."""
        self._at = self._clock()

    def ping(self) -> bool:
        """Ping, unless no round has begun for too long; whether it did."""
        alive = self._clock() - self._at <= self._stall
        if alive:
            self._notifier.ping()
        return alive
