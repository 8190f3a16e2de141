"""The same boot on the simulated platform: the chip is a process behind descriptor 5.

The chip measured this image and the launch document before it started the process, and signs in
the real format. This file is absent from a real image. Reports are asked for one at a time,
and a chip that answered badly once is not asked again.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

from enclave_runtime.attester import REPORT_DATA_BYTES
from trust.errors import EvidenceError
from trust.evidence.claims import Platform
from trust.evidence.snp import REPORT_BYTES

CHIP_DESCRIPTOR: Final = 5
CHIP_SECONDS_MAX: Final = 30.0  # a signature takes milliseconds; this is a dead chip


class ChipAttester:
    """Reports by the chip's socket: report data 64 → status u8 ‖ u32 length ‖ report."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(CHIP_SECONDS_MAX)
        self._turn = threading.Lock()

    @property
    def platform(self) -> str:
        """``sev-snp``: the real format, under another root."""
        return Platform.SEV_SNP.value

    @property
    def writes_under(self) -> str | None:
        """Nowhere: the chip's descriptor is open."""
        return None

    def report(self, report_data: bytes) -> bytes:
        """Ask the chip for one report. Raises EvidenceError."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise EvidenceError(f"report data of {len(report_data)} bytes, wanted 64")
        with self._turn:
            try:
                return self._ask(report_data)
            except (OSError, EvidenceError) as error:
                # What may still come would be read as the answer to the next question.
                self._connection.close()
                if isinstance(error, EvidenceError):
                    raise
                raise EvidenceError(f"chip: {type(error).__name__}") from error

    def _ask(self, report_data: bytes) -> bytes:
        self._connection.sendall(report_data)
        status, length = self._receive(1)[0], int.from_bytes(self._receive(4), "big")
        if status != 0 or length != REPORT_BYTES:
            raise EvidenceError(
                f"chip: status {status}, {length} bytes; wanted 0 and {REPORT_BYTES}"
            )
        return self._receive(length)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            chunk = self._connection.recv(length - len(received))
            if not chunk:
                raise EvidenceError(f"chip: {len(received)} of {length} bytes, then the end")
            received += chunk
        return bytes(received)


def main() -> None:
    """Boot with the chip of descriptor 5."""
    from enclave_runtime.__main__ import LAUNCH_PATH, boot

    boot(lambda: ChipAttester(socket.socket(fileno=CHIP_DESCRIPTOR)), LAUNCH_PATH)
