"""Records what crosses the loopback interface on the TCP ports of one process and its children.

    python -m demo.loopback --pid-file FILE --record FOLDER

Taps cannot stand before Ray's own sockets: it chooses its ports itself and speaks from process to
process. An AF_PACKET socket on ``lo`` hears every segment instead, and asks nobody.

- It prints ``listening`` before the process exists; ``FILE`` says its pid later. A segment whose
  ports nobody owns yet is held for `HOLD_SECONDS`, at most `HOLD_BYTES` of them.
- Ports are those of the sockets that the process and its descendants hold, by /proc.
- Each connection and direction is one file, in which a segment stands where its sequence number
  says: repeated and reordered segments change nothing, one that was not heard leaves zeros.
- `STREAM_BYTES_MAX` and `TOTAL_BYTES_MAX` bound the files. What was lost to them, to the hold or
  to the kernel's buffer is counted in ``FOLDER/summary.json``.
- Without the right to listen (CAP_NET_RAW) it says so there and ends: status 0, nothing recorded.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from demo.parties import descendants

ETH_P_ALL: Final = 3  # linux/if_ether.h
ETH_P_IP: Final = 0x0800
ETH_P_IPV6: Final = 0x86DD
PACKET_HOST: Final = 0  # linux/if_packet.h: each segment on lo is heard as sent and as received
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
SO_RCVBUFFORCE: Final = 33
ETHERNET_BYTES: Final = 14
SEGMENT_BYTES_MAX: Final = 1 << 17
BUFFER_BYTES: Final = 64 << 20
HOLD_SECONDS: Final = 5.0
HOLD_BYTES: Final = 64 << 20
STREAM_BYTES_MAX: Final = 64 << 20
TOTAL_BYTES_MAX: Final = 512 << 20
LOOK_SECONDS: Final = 0.5
SYN: Final = 0x02  # RFC 9293 §3.1
SUMMARY: Final = "summary.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One TCP segment of loopback."""

    source: int
    target: int
    sequence: int
    flags: int
    payload: bytes


def parse_segment(frame: bytes) -> Segment | None:
    """An Ethernet frame's TCP segment; None for anything else, and for what is cut short."""
    kind = int.from_bytes(frame[12:14], "big")
    packet = frame[ETHERNET_BYTES:]
    if kind == ETH_P_IP and len(packet) >= 20 and packet[9] == socket.IPPROTO_TCP:
        start = (packet[0] & 0x0F) * 4
        # Offloading sends more than 16 bits can say: the length is 0 then, and the frame's own.
        end = int.from_bytes(packet[2:4], "big") or len(packet)
    elif kind == ETH_P_IPV6 and len(packet) >= 40 and packet[6] == socket.IPPROTO_TCP:
        start = 40
        end = 40 + int.from_bytes(packet[4:6], "big") if packet[4:6] != bytes(2) else len(packet)
    else:
        return None
    segment = packet[start:end]
    if len(segment) < 20:
        return None
    source, target, sequence = struct.unpack(">HHI", segment[:8])
    return Segment(
        source=source,
        target=target,
        sequence=sequence,
        flags=segment[13],
        payload=segment[(segment[12] >> 4) * 4 :],
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class _Stream:
    path: Path
    first: int
    """Sequence number of its first byte."""
    written: int = 0


class Recorder:
    """Takes segments, and writes those of known ports to files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports: frozenset[int] = frozenset()
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._held: collections.deque[tuple[float, Segment]] = collections.deque()
        self._held_bytes = 0
        self._count = 0
        self.recorded = self.lost = 0
        """Bytes written, and payload bytes that no file had room for."""
        self.overheld = 0
        """Bytes that the hold had no room for: nobody knows whose they were."""

    def know(self, ports: frozenset[int], now: float) -> None:
        """Ports from now on (all that were known before too); what was held for them is written."""
        self._ports |= ports
        kept: collections.deque[tuple[float, Segment]] = collections.deque()
        for at, segment in self._held:
            if not self._write_known(segment) and now - at < HOLD_SECONDS:
                kept.append((at, segment))
        self._held = kept
        self._held_bytes = sum(len(each.payload) for _, each in kept)

    def take(self, segment: Segment, now: float) -> None:
        """Write a segment, or hold it until it is known whose it is."""
        if self._write_known(segment):
            return
        self._held.append((now, segment))
        self._held_bytes += len(segment.payload)
        while self._held_bytes > HOLD_BYTES:
            _, dropped = self._held.popleft()
            self._held_bytes -= len(dropped.payload)
            self.overheld += len(dropped.payload)

    def _write_known(self, segment: Segment) -> bool:
        if not {segment.source, segment.target} & self._ports:
            return False
        key = (segment.source, segment.target)
        if segment.flags & SYN:  # a new connection; its ports may have been another's before
            self._open(key, first=segment.sequence + 1)
        elif segment.payload:
            # A connection that was there before us begins with the first segment that was heard.
            stream = self._streams.get(key) or self._open(key, first=segment.sequence)
            self._place(stream, segment)
        return True

    def _open(self, key: tuple[int, int], *, first: int) -> _Stream:
        path = self._folder / f"{key[0]}-to-{key[1]}-{self._count:06d}.out"
        self._count += 1
        stream = self._streams[key] = _Stream(path=path, first=first)
        return stream

    def _place(self, stream: _Stream, segment: Segment) -> None:
        at = (segment.sequence - stream.first) % (1 << 32)
        if at >= 1 << 31:  # before its first byte: repeated from before we listened
            return
        end = at + len(segment.payload)
        if end > STREAM_BYTES_MAX or self.recorded + len(segment.payload) > TOTAL_BYTES_MAX:
            self.lost += len(segment.payload)
            return
        descriptor = os.open(stream.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, segment.payload, at)
        finally:
            os.close(descriptor)
        self.recorded += len(segment.payload)

    def summary(self, *, dropped: int) -> dict[str, Any]:
        """What ``summary.json`` says; `dropped` are segments that the kernel had no room for."""
        return {
            "recorded": True,
            "ports": len(self._ports),
            "streams": self._count,
            "bytes": self.recorded,
            "lost_bytes": self.lost + self.overheld,
            "lost_segments": dropped,
        }


def ports_of(pid: int) -> frozenset[int]:
    """Local TCP ports of the sockets that a process and its descendants hold."""
    inodes: set[str] = set()
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{each}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes:
                    found.add(int(fields[1].rpartition(":")[2], 16))
    return frozenset(found)


def open_loopback() -> socket.socket:
    """A socket that hears all of ``lo``. Raises OSError where that is not permitted."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with contextlib.suppress(OSError):  # a smaller buffer loses some, and they are counted
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    heard.bind(("lo", ETH_P_ALL))
    heard.settimeout(LOOK_SECONDS)
    return heard


def record(heard: socket.socket, pid_file: Path, folder: Path) -> NoReturn:
    """Record until killed."""
    recorder, dropped, looked, pid = Recorder(folder), 0, 0.0, 0
    while True:
        with contextlib.suppress(TimeoutError):
            frame, address = heard.recvfrom(SEGMENT_BYTES_MAX)
            if address[2] == PACKET_HOST and (segment := parse_segment(frame)) is not None:
                recorder.take(segment, time.monotonic())
        if (now := time.monotonic()) - looked >= LOOK_SECONDS:
            looked = now
            if not pid and pid_file.exists():
                pid = int(pid_file.read_text() or 0)
            recorder.know(ports_of(pid) if pid else frozenset(), now)
            statistics = heard.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            dropped += struct.unpack("=II", statistics)[1]  # reading sets it back to zero
            _say(folder, recorder.summary(dropped=dropped))


def _say(folder: Path, summary: dict[str, Any]) -> None:
    new = folder / f".{SUMMARY}"
    new.write_text(json.dumps(summary), encoding="utf-8")
    new.rename(folder / SUMMARY)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="record a process's loopback connections")
    for name in ("--pid-file", "--record"):
        parser.add_argument(name, required=True, type=Path)
    arguments = parser.parse_args()
    arguments.record.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        heard = open_loopback()
    except OSError as error:
        _say(arguments.record, {"recorded": False, "why": f"{type(error).__name__}: {error}"})
        print("refused", flush=True)
        return
    _say(arguments.record, Recorder(arguments.record).summary(dropped=0))
    print("listening", flush=True)
    record(heard, arguments.pid_file, arguments.record)


if __name__ == "__main__":
    main()
