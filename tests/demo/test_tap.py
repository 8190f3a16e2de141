"""The tap passes everything on, unchanged, and keeps a copy of both directions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from demo.tap import Tap


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("length", [5, 1 << 20])
async def test_a_tap_records_both_directions_and_changes_nothing(
    tmp_path: Path, length: int
) -> None:
    server = await asyncio.start_unix_server(upper, str(tmp_path / "server"))
    tap = Tap(f"unix:{tmp_path / 'server'}", tmp_path)
    tapped = await asyncio.start_unix_server(tap.serve_one, str(tmp_path / "tap"))
    async with server, tapped:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "tap"))
        writer.write(b"a" * length)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert answer == b"A" * length
    assert (tmp_path / "000000.out").read_bytes() == b"a" * length
    assert (tmp_path / "000000.in").read_bytes() == b"A" * length


async def test_a_tap_before_nobody_ends_the_connection(tmp_path: Path) -> None:
    tap = Tap(f"unix:{tmp_path / 'nobody'}", tmp_path)
    tapped = await asyncio.start_unix_server(tap.serve_one, str(tmp_path / "tap"))
    async with tapped:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "tap"))
        assert await reader.read() == b""
        writer.close()
