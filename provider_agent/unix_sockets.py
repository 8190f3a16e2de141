"""UNIX sockets in a folder of ours, at paths of any length, and packets with descriptors on them.

Rules:
- A socket is bound and dialled through its open folder (``/proc/self/fd/N/name``): a home deep in a
  file system has paths above the 107 bytes that the kernel takes (unix(7)).
- The folder has mode 0700 and is the caller's; the socket 0600. Nobody else dials.
- A control packet is one SOCK_SEQPACKET message of at most `PACKET_BYTES_MAX`; a longer one is an
  error, never a shorter one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.errors import LaunchError

PACKET_BYTES_MAX: Final = 1 << 17  # a chip's endorsements have some 10 KiB, its GPU's 30
PACKET_DESCRIPTORS_MAX: Final = 2  # the two ports of a door
BACKLOG: Final = 8
READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Packet:
    """One message, and the descriptors that came with it: the receiver closes them."""

    content: bytes
    """Empty: the other end has closed."""
    descriptors: tuple[int, ...]


def listen(folder: Path, name: str, *, kind: socket.SocketKind) -> socket.socket:
    """Listen at `folder`/`name`, in place of whatever was there. Raises LaunchError."""
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        with _short_path(folder, name) as path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - through the descriptor of the folder
            listener.bind(path)
            os.chmod(path, 0o600)  # noqa: PTH101 - the same
        listener.listen(BACKLOG)
        listener.settimeout(0)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            raise LaunchError(f"no socket {name}: {error.strerror}") from error
        raise
    return listener


async def dial(folder: Path, name: str, *, kind: socket.SocketKind) -> socket.socket:
    """Connect to `folder`/`name`. Raises OSError where nobody listens."""
    channel = socket.socket(socket.AF_UNIX, kind)
    try:
        channel.settimeout(0)
        with _short_path(folder, name) as path:
            await asyncio.get_running_loop().sock_connect(channel, path)
    except BaseException:
        channel.close()
        raise
    return channel


class Stream:
    """A connected stream socket. What arrived is read to its end, whatever became of the other way.

    asyncio's own transports drop what they have read once a write fails; the last words of a
    process that has exited would be lost with it.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pending = bytearray()

    async def readexactly(self, length: int) -> bytes:
        """Read `length` bytes. Raises asyncio.IncompleteReadError at the end of the stream."""
        loop = asyncio.get_running_loop()
        while len(self._pending) < length:
            chunk = b""
            with contextlib.suppress(ConnectionError):  # nothing more will come: that is an end
                wanted = max(length - len(self._pending), READ_BYTES)
                chunk = await loop.sock_recv(self._channel, wanted)
            if not chunk:
                raise asyncio.IncompleteReadError(bytes(self._pending), length)
            self._pending += chunk
        taken = bytes(self._pending[:length])
        del self._pending[:length]
        return taken

    async def sendall(self, content: bytes) -> None:
        """Send it all. Raises ConnectionError if nobody reads any more."""
        await asyncio.get_running_loop().sock_sendall(self._channel, content)

    def close(self) -> None:
        """Close both ways."""
        self._channel.close()


async def receive(channel: socket.socket) -> Packet:
    """Receive one packet. Raises LaunchError for one that is too long."""
    await _readable(channel)
    content, descriptors, flags, _ = socket.recv_fds(
        channel, PACKET_BYTES_MAX, PACKET_DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
    )
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(descriptors)
        raise LaunchError(f"control packet of over {PACKET_BYTES_MAX} bytes or too many sockets")
    return Packet(content=content, descriptors=tuple(descriptors))


async def send(channel: socket.socket, content: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send one packet. Raises LaunchError for one that is too long, OSError if nobody reads."""
    if len(content) > PACKET_BYTES_MAX:
        raise LaunchError(f"control packet of {len(content)} bytes; at most {PACKET_BYTES_MAX}")
    # A packet is far smaller than a socket's buffer, and each side sends one and then waits.
    socket.send_fds(channel, [content], list(descriptors))


def close_all(descriptors: tuple[int, ...] | list[int]) -> None:
    """Close descriptors that came with a packet."""
    for descriptor in descriptors:
        os.close(descriptor)


@contextlib.contextmanager
def _short_path(folder: Path, name: str) -> Iterator[str]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise LaunchError(f"the folder of socket {name} is open to others; wanted mode 0700")
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


async def _readable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(channel, tell)
    try:
        await ready
    finally:
        loop.remove_reader(channel)
