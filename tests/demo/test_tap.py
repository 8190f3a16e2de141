"""The tap passes everything on, unchanged, and keeps a copy of both directions."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from demo.tap import BEHIND, Tap, tap_host


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("length", [5, 1 << 20])
async def test_a_tap_records_both_directions_and_changes_nothing(
    tmp_path: Path, length: int
) -> None:
    server = await asyncio.start_unix_server(upper, str(tmp_path / "server"))
    tap = Tap(lambda: asyncio.open_unix_connection(tmp_path / "server"), tmp_path, "c")
    tapped = await asyncio.start_unix_server(tap.serve_one, str(tmp_path / "tap"))
    async with server, tapped:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "tap"))
        writer.write(b"a" * length)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert answer == b"A" * length
    assert (tmp_path / "c000000.out").read_bytes() == b"a" * length
    assert (tmp_path / "c000000.in").read_bytes() == b"A" * length


async def test_a_tap_before_nobody_ends_the_connection(tmp_path: Path) -> None:
    tap = Tap(lambda: asyncio.open_unix_connection(tmp_path / "nobody"), tmp_path, "c")
    tapped = await asyncio.start_unix_server(tap.serve_one, str(tmp_path / "tap"))
    async with tapped:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "tap"))
        assert await reader.read() == b""
        writer.close()


async def test_a_door_that_is_bound_is_tapped_before_its_host_calls(tmp_path: Path) -> None:
    home, record = tmp_path / "home", tmp_path / "record"
    door = home / "leases" / "leas_1" / "door"
    door.mkdir(parents=True)
    record.mkdir()
    watcher = asyncio.create_task(tap_host(home, record))
    server = await asyncio.start_unix_server(upper, str(door / "messages"))
    async with server, asyncio.timeout(10):
        while not (door / ".behind-the-tap-messages").exists():  # noqa: ASYNC110
            await asyncio.sleep(0)  # a folder tells no event
        reader, writer = await asyncio.open_unix_connection(door / "messages")
        writer.write(b"sealed")
        writer.write_eof()
        assert await reader.read() == b"SEALED"
        writer.close()
    watcher.cancel()
    await asyncio.wait([watcher])
    assert (record / "leas_1-door-messages-000000.out").read_bytes() == b"sealed"


async def test_the_chips_socket_is_tapped_with_the_descriptors_that_pass(tmp_path: Path) -> None:
    home, record = tmp_path / "home", tmp_path / "record"
    chip = home / "chip"
    chip.mkdir(parents=True)
    record.mkdir()
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(chip / "socket"))
    server.listen()
    watcher = asyncio.create_task(tap_host(home, record))
    async with asyncio.timeout(10):
        while not (chip / f"{BEHIND}-socket").exists() or not (chip / "socket").exists():  # noqa: ASYNC110
            await asyncio.sleep(0)  # a folder tells no event
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    await asyncio.to_thread(caller.connect, str(chip / "socket"))
    connection, _ = await asyncio.to_thread(server.accept)
    with (tmp_path / "passed").open("wb") as passed:
        socket.send_fds(caller, [b"launch"], [passed.fileno()])
    content, (descriptor,), _, _ = await asyncio.to_thread(socket.recv_fds, connection, 100, 8)
    assert content == b"launch"
    os.write(descriptor, b"through the tap")
    os.close(descriptor)
    connection.send(b"started")
    assert await asyncio.to_thread(caller.recv, 100) == b"started"
    for each in (caller, connection, server):
        each.close()
    watcher.cancel()
    await asyncio.wait([watcher])
    assert (tmp_path / "passed").read_bytes() == b"through the tap"
    assert (record / "chip-000000.out").read_bytes() == b"launch"
    assert (record / "chip-000000.in").read_bytes() == b"started"
