"""The same boot on the simulated platform: the chip is a process behind descriptor 5.

The chip measured this image and the launch document before it started the process, and signs in
the real format; a simulated GPU is asked the same way. This file is absent from a real image. One
question is asked at a time, and a chip that answered badly once is not asked again.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

from enclave_runtime.attester import GPU_NONCE_BYTES, REPORT_DATA_BYTES
from trust.errors import EvidenceError
from trust.evidence.claims import Platform
from trust.evidence.snp import REPORT_BYTES
from trust.messages import GPU_EVIDENCE_BYTES_MAX

CHIP_DESCRIPTOR: Final = 5
CHIP_SECONDS_MAX: Final = 30.0  # a signature takes milliseconds; this is a dead chip
ASK_REPORT: Final = b"\x01"
ASK_GPUS: Final = b"\x02"
STATUS_OK: Final = 0
STATUS_NO_GPU: Final = 2


class ChipAttester:
    """Evidence by the chip's socket: operation u8 ‖ bytes → status u8 ‖ u32 length ‖ answer.

    Operation 1 has 64 bytes of report data, and a report for answer; 2 a nonce of 32 bytes, and the
    bytes of a `GpuEvidence`, or status 2 and nothing where there is no GPU.
    """

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
        return self._ask(ASK_REPORT + report_data, least=REPORT_BYTES, most=REPORT_BYTES)[1]

    def gpu_evidence(self, nonce: bytes) -> bytes | None:
        """Ask the chip what its GPU says. Raises EvidenceError."""
        if len(nonce) != GPU_NONCE_BYTES:
            raise EvidenceError(f"nonce of {len(nonce)} bytes, wanted {GPU_NONCE_BYTES}")
        status, evidence = self._ask(ASK_GPUS + nonce, least=1, most=GPU_EVIDENCE_BYTES_MAX)
        return None if status == STATUS_NO_GPU else evidence

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        """Nothing: the chip's endorsements come with the briefing."""
        return ()

    def set_ready(self) -> None:
        """A simulated GPU does no work."""

    def _ask(self, asked: bytes, *, least: int, most: int) -> tuple[int, bytes]:
        with self._turn:
            try:
                self._connection.sendall(asked)
                status, length = self._receive(1)[0], int.from_bytes(self._receive(4), "big")
                if (status, length) == (STATUS_NO_GPU, 0) and asked[:1] == ASK_GPUS:
                    return status, b""
                if status != STATUS_OK or not least <= length <= most:
                    raise EvidenceError(
                        f"chip: status {status}, {length} bytes; wanted 0 and {least} to {most}"
                    )
                return status, self._receive(length)
            except (OSError, EvidenceError) as error:
                # What may still come would be read as the answer to the next question.
                self._connection.close()
                if isinstance(error, EvidenceError):
                    raise
                raise EvidenceError(f"chip: {type(error).__name__}") from error

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
