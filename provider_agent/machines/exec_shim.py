"""Becomes QEMU: says who it is, takes sockets and an argument vector, and executes.

Run as ``python -I -S -B exec_shim.py`` with a SOCK_SEQPACKET socket as descriptor 0. It imports the
standard library alone, because the unit that it runs in sees nothing else.

Rules:
- First it says its process id and start time, and waits. The launcher writes both down before it
  answers: so there is no QEMU that is not on record. An end of the socket ends the shim.
- No core dump. That no later execve gives privileges is the unit's, and QEMU's own filter's.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from pathlib import Path

PACKET_BYTES_MAX = 1 << 16
DESCRIPTORS_MAX = 8
FIRST_DESCRIPTOR = 3
HIGH_DESCRIPTOR = 64  # where received ones wait, clear of the numbers that they will get
NOBODY_ASKS = 75
NO_SUCH_PROGRAM = 127


def main() -> int:
    """Answer and become the program; a status only where that fails."""
    channel = socket.socket(fileno=os.dup(0))
    stat = Path("/proc/self/stat").read_text()
    started = int(stat.rpartition(")")[2].split()[19])  # field 22: clock ticks since boot
    channel.send(json.dumps({"pid": os.getpid(), "started": started}).encode())
    content, descriptors, flags, _ = socket.recv_fds(channel, PACKET_BYTES_MAX, DESCRIPTORS_MAX)
    if not content or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        return NOBODY_ASKS
    arguments = json.loads(content)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel.close()
    waiting = [HIGH_DESCRIPTOR + number for number in range(len(descriptors))]
    for descriptor, high in zip(descriptors, waiting, strict=True):
        os.dup2(descriptor, high, inheritable=False)
        os.close(descriptor)
    for number, high in enumerate(waiting, FIRST_DESCRIPTOR):
        os.dup2(high, number, inheritable=True)
        os.close(high)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)  # errors stay: the launcher reads what QEMU says of its command line
    os.close(null)
    try:
        os.execve(arguments[0], arguments, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606 - no shell, by intent
    except OSError as error:
        sys.stderr.write(f"{arguments[0]}: {error.strerror}\n")
    return NO_SUCH_PROGRAM


if __name__ == "__main__":
    sys.exit(main())
