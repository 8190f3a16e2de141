"""A tap: a loopback proxy that records every byte, per connection and direction.

    python -m demo.tap listen --to PORT --record FOLDER
    python -m demo.tap host --home FOLDER --record FOLDER

``listen`` stands before a TCP port of 127.0.0.1 and prints its own port once it listens. ``host``
watches a host's home, and puts itself before the chip's socket and before each port of each
enclave's door as soon as it is bound: the host owns these paths, so a host could do just this.
Each connection makes two files, ``NAME.out`` (what the caller sent) and ``NAME.in`` (what it got).
A tap understands nothing and changes nothing; when one side ends, the other is told so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 1 << 16
PACKET_BYTES_MAX: Final = 1 << 20
CLOSE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02  # a launch copies a hundred files between bind and the first call
BEHIND: Final = ".behind-the-tap"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, file: BinaryIO) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while chunk := await reader.read(CHUNK_BYTES):
            file.write(chunk)
            file.flush()
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()


class Tap:
    """Stands between callers and one place; `connect` reaches the place."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]], record: Path, name: str) -> None:
        self._connect, self._record, self._name = connect, record, name
        self._numbers = itertools.count()

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        name = self._record / f"{self._name}{next(self._numbers):06d}"
        try:
            inner_reader, inner_writer = await self._connect()
        except OSError:
            writer.close()  # as a caller would find it without a tap: nobody is there
            return
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".in").open("wb") as into:
            await asyncio.gather(
                _pump(reader, inner_writer, out), _pump(inner_reader, writer, into)
            )
        for each in (writer, inner_writer):
            each.close()


async def tap_port(port: int, record: Path) -> None:
    """Stand before a TCP port until cancelled; print the own port once listening."""
    tap = Tap(lambda: asyncio.open_connection("127.0.0.1", port), record, "tcp-")
    server = await asyncio.start_server(tap.serve_one, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


async def tap_host(home: Path, record: Path) -> None:
    """Stand before every socket that appears in a host's home, until cancelled."""
    print("watching", flush=True)
    doors: dict[Path, asyncio.Server] = {}  # a server that nobody holds is closed
    chip: PacketTap | None = None
    try:
        while True:
            found = await asyncio.to_thread(_sockets, home)
            for path in found:
                if path.parent.name == "door" and path not in doors:
                    doors[path] = await _tap_socket(path, record)
                elif path.parent.name == "chip" and chip is None:
                    chip = PacketTap(path, record)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        for server in doors.values():
            server.close()
        if chip is not None:
            chip.close()


def _sockets(home: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [
            path
            for pattern in ("leases/*/door/*", "chip/socket")
            for path in home.glob(pattern)
            if path.is_socket() and not path.name.startswith(BEHIND)
        ]
    return []


class PacketTap:
    """Stands before the chip's socket: packets, some with descriptors on them, in threads."""

    def __init__(self, path: Path, record: Path) -> None:
        self._listener, self._behind = _take_place(path, socket.SOCK_SEQPACKET)
        self._listener.settimeout(None)
        self._record, self._numbers = record, itertools.count()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop listening, and see connections that have ended to their end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                inner.connect(self._behind)
            except OSError:  # as a caller would find it without a tap: nobody is there
                caller.close()
                continue
            name = self._record / f"chip-{next(self._numbers):06d}"
            carry = threading.Thread(target=_carry, args=(caller, inner, name), daemon=True)
            self._threads.append(carry)
            carry.start()


def _carry(caller: socket.socket, inner: socket.socket, name: Path) -> None:
    """Pump both ways until both have ended, then close both."""
    back = threading.Thread(
        target=_pump_packets, args=(inner, caller, name.with_suffix(".in")), daemon=True
    )
    back.start()
    _pump_packets(caller, inner, name.with_suffix(".out"))
    back.join()
    caller.close()
    inner.close()


def _pump_packets(source: socket.socket, sink: socket.socket, record: Path) -> None:
    with record.open("wb") as file, contextlib.suppress(OSError):
        while True:
            content, descriptors, _, _ = socket.recv_fds(source, PACKET_BYTES_MAX, 8)
            if not content:
                break
            file.write(content)
            file.flush()
            socket.send_fds(sink, [content], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


async def _tap_socket(path: Path, record: Path) -> asyncio.Server:
    """Move a bound socket behind a name of ours, and listen in its place."""
    listener, behind = _take_place(path, socket.SOCK_STREAM)
    name = "-".join((*path.relative_to(path.parents[2]).parts, ""))
    tap = Tap(lambda: asyncio.open_unix_connection(behind), record, name)
    return await asyncio.start_unix_server(tap.serve_one, sock=listener)


def _take_place(path: Path, kind: socket.SocketKind) -> tuple[socket.socket, str]:
    """Our own listener at `path`, and where the old one is now."""
    folder = os.open(path.parent, os.O_DIRECTORY)  # a path of any length fits through it
    path.rename(path.with_name(f"{BEHIND}-{path.name}"))
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.settimeout(0)
    listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    listener.listen()
    return listener, f"/proc/self/fd/{folder}/{BEHIND}-{path.name}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="record all that passes")
    what = parser.add_subparsers(required=True, dest="what")
    listen = what.add_parser("listen")
    listen.add_argument("--to", required=True, type=int)
    host = what.add_parser("host")
    host.add_argument("--home", required=True, type=Path)
    for each in (listen, host):
        each.add_argument("--record", required=True, type=Path)
    arguments = parser.parse_args()
    arguments.record.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.what == "listen":
            asyncio.run(tap_port(arguments.to, arguments.record))
        else:
            asyncio.run(tap_host(arguments.home, arguments.record))


if __name__ == "__main__":
    main()
