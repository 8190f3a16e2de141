"""A tap: a loopback proxy that records every byte, per connection and direction.

    python -m demo.tap --listen ADDRESS --to ADDRESS --record FOLDER

An address is ``tcp:PORT`` on 127.0.0.1 (0: any, printed once listening) or ``unix:PATH``. Each
connection makes two files, ``NNNNNN.out`` (what the caller sent) and ``NNNNNN.in`` (what it got).
The tap reads nothing and changes nothing; when one side ends, the other is told so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
from pathlib import Path
from typing import BinaryIO, Final

CHUNK_BYTES: Final = 1 << 16
CONNECTIONS_MAX: Final = 1 << 20  # a name has six digits

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(address: str) -> Streams:
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(rest)
    return await asyncio.open_connection("127.0.0.1", int(rest))


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
    """Stands between callers and one address."""

    def __init__(self, target: str, folder: Path) -> None:
        self._target, self._folder = target, folder
        self._numbers = itertools.count(len(list(folder.glob("*.out"))))

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        name = self._folder / f"{next(self._numbers):06d}"
        try:
            inner_reader, inner_writer = await _connect(self._target)
        except OSError:
            writer.close()  # as a caller would find it without a tap: nobody is there
            return
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".in").open("wb") as into:
            await asyncio.gather(
                _pump(reader, inner_writer, out), _pump(inner_reader, writer, into)
            )
        for each in (writer, inner_writer):
            each.close()


async def serve(listen: str, target: str, folder: Path) -> None:
    """Listen until cancelled; print the address once listening."""
    tap = Tap(target, folder)
    kind, _, rest = listen.partition(":")
    if kind == "unix":
        server = await asyncio.start_unix_server(tap.serve_one, rest)
        print(f"unix:{rest}", flush=True)
    else:
        server = await asyncio.start_server(tap.serve_one, "127.0.0.1", int(rest))
        print(f"tcp:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="record all that passes through an address")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--record", required=True, type=Path)
    arguments = parser.parse_args()
    arguments.record.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.listen, arguments.to, arguments.record))
    sys.exit(0)


if __name__ == "__main__":
    main()
