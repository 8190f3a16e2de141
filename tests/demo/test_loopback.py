"""The recorder of loopback: what crosses one process's ports is on file, and nothing of others'."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import loopback
from demo.blindness import Searcher, search_all
from demo.loopback import (
    HOLD_SECONDS,
    STREAM_BYTES_MAX,
    SUMMARY,
    SYN,
    Recorder,
    Segment,
    open_loopback,
    parse_segment,
)

CANARY = b"canary-7c0ffee90210"
ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    caller, _ = server.accept()
    while content := caller.recv(1 << 16):
        caller.sendall(content)
    caller.close()
"""


def may_listen() -> bool:
    try:
        open_loopback().close()
    except OSError:
        return False
    return True


# --- segments ------------------------------------------------------------------------------------


def frame(payload: bytes, *, sequence: int = 7, flags: int = 0x18) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 5000, 6000, sequence, 0, 5 << 4, flags, 0, 0, 0) + payload
    ip = struct.pack(">BBHHHBBH8x", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0)
    return bytes(12) + b"\x08\x00" + ip + tcp


def frame6(payload: bytes) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 5000, 6000, 7, 0, 5 << 4, 0x18, 0, 0, 0) + payload
    ip = struct.pack(">IHBB32x", 6 << 28, len(tcp), 6, 64)
    return bytes(12) + b"\x86\xdd" + ip + tcp


@pytest.mark.parametrize("made", [frame(CANARY), frame6(CANARY), frame(CANARY) + bytes(6)])
def test_a_segment_is_read_out_of_its_frame(made: bytes) -> None:
    found = parse_segment(made)
    assert found is not None
    assert (found.source, found.target, found.sequence) == (5000, 6000, 7)
    assert found.payload == CANARY


def test_what_is_cut_short_or_no_tcp_is_no_segment() -> None:
    whole = frame(CANARY)
    for cut in range(54):
        assert parse_segment(whole[:cut]) is None
    udp = bytearray(whole)
    udp[14 + 9] = 17
    assert parse_segment(bytes(udp)) is None


# --- streams -------------------------------------------------------------------------------------


def segment(payload: bytes, sequence: int, *, source: int = 1, flags: int = 0) -> Segment:
    return Segment(source=source, target=2, sequence=sequence, flags=flags, payload=payload)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.out"))]


@pytest.mark.parametrize("first", [0, 1000, (1 << 32) - 3])
def test_segments_stand_where_their_numbers_say(tmp_path: Path, first: int) -> None:
    """Reordered, repeated, and over the end of the numbers."""
    recorder = Recorder(tmp_path)
    recorder.know(frozenset({2}), 0)
    recorder.take(segment(b"", first - 1, flags=SYN), 0)
    for at, part in ((4, b"ef"), (0, b"ab"), (2, b"cd"), (0, b"ab")):
        recorder.take(segment(part, (first + at) % (1 << 32)), 0)
    assert contents(tmp_path) == [b"abcdef"]


def test_ports_that_are_used_again_make_another_stream(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.know(frozenset({1}), 0)
    for part in (b"first", b"second"):
        recorder.take(segment(b"", 99, flags=SYN), 0)
        recorder.take(segment(part, 100), 0)
    assert contents(tmp_path) == [b"first", b"second"]


def test_what_came_before_its_port_was_known_is_written_once_it_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.take(segment(b"mine", 5), 10.0)
    recorder.take(segment(b"nobody's", 5, source=3), 10.0)
    assert contents(tmp_path) == []
    recorder.know(frozenset({1}), 11.0)
    assert contents(tmp_path) == [b"mine"]
    recorder.know(frozenset(), 10.0 + HOLD_SECONDS)
    recorder.know(frozenset({3}), 20.0)
    assert contents(tmp_path) == [b"mine"]


def test_files_and_hold_are_bounded_and_what_they_lose_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    recorder.know(frozenset({1}), 0)
    recorder.take(segment(b"a", 1), 0)
    recorder.take(segment(b"far", 1 + STREAM_BYTES_MAX), 0)
    monkeypatch.setattr(loopback, "TOTAL_BYTES_MAX", 3)
    recorder.take(segment(b"bcd", 2), 0)
    monkeypatch.setattr(loopback, "HOLD_BYTES", 4)
    recorder.take(segment(b"held", 1, source=9), 0)
    recorder.take(segment(b"more", 5, source=9), 0)
    assert contents(tmp_path) == [b"a"]
    summary = recorder.summary(dropped=2)
    assert (summary["bytes"], summary["lost_bytes"], summary["lost_segments"]) == (1, 10, 2)


# --- the process ---------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Path]:
    """A recorder that waits for a pid in ``pid``."""
    places = ["--pid-file", str(tmp_path / "pid"), "--record", str(tmp_path / "ray")]
    recorder = subprocess.Popen(
        [sys.executable, "-m", "demo.loopback", *places],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert recorder.stdout is not None
    assert recorder.stdout.readline() == "listening\n"
    yield tmp_path
    recorder.kill()
    recorder.stdout.close()
    recorder.wait()


def echo() -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def said_to(port: int, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(content)
        left = len(content)
        while left:
            left -= len(connection.recv(1 << 16))


@pytest.mark.skipif(not may_listen(), reason="needs CAP_NET_RAW")
def test_a_canary_on_a_connection_of_the_process_is_found_and_others_are_not_recorded(
    recording: Path,
) -> None:
    """The leak is named in both directions; a megabyte and what was said too early are whole."""
    (watched, port), (other, others_port) = echo(), echo()
    try:
        said_to(others_port, b"not ours")
        said_to(port, b"early " + CANARY)
        (recording / "pid").write_text(str(watched.pid))
        said_to(port, bytes(1 << 20) + CANARY)
        wanted = 2 * ((1 << 20) + 2 * len(CANARY) + 6)
        deadline = time.monotonic() + 60
        while json.loads((recording / "ray" / SUMMARY).read_text())["bytes"] < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # the recorder writes its summary twice a second
    finally:
        for process in (watched, other):
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()
    searcher = Searcher(canaries={"canary": CANARY}, weights={})
    search_all(searcher, [recording / "ray"], [])
    assert len(searcher.hits) == 4
    assert searcher.bytes_searched > wanted
    assert not any(b"not ours" in each for each in contents(recording / "ray"))
