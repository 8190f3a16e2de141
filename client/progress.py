"""Progress of one's own jobs: sealed to the job's progress key, signed inside by the attested key.

- HPKE's base mode authenticates nobody, so a record counts only if the key that signs it inside
  holds its seat in one's own release log (wire-objects §5).
- Records are kept sealed, as they came; `job watch` opens them. A record that does not open, or is
  a stranger's, is never written.
- File: ``u32 length ‖ sealed`` for each; half a record at the end is ignored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from client.files import FILE_MODE
from trust.encoding import label_bytes
from trust.errors import DocumentError, RefusedError
from trust.identity import Signed, verify_signed
from trust.messages import Progress
from trust.release_state import Memory
from trust.sealing import HpkePrivateKey

PAD_BYTES: Final = 256  # what the enclave pads to: a length says little
FILE_BYTES_MAX: Final = 256 << 20  # of one job: a hundred thousand records


def open_progress(key: HpkePrivateKey, memory: Memory, job: bytes, sealed: bytes) -> Progress:
    """Open one record.

    (1) It opens under the progress key, for this job. (2) Its padding is what the format says.
    (3) It is about this job, and (4) signed by the key that holds its seat in the own log.

    Raises HpkeError, DocumentError, SignatureError or RefusedError.
    """
    padded = key.open(sealed, info=label_bytes("progress") + job)  # (1)
    length = int.from_bytes(padded[:4], "big")  # (2)
    if len(padded) % PAD_BYTES or length > len(padded) - 4 or any(padded[4 + length :]):
        raise DocumentError(f"progress: {len(padded)} bytes are no padded record of {length}")
    signed: Signed[Progress] = verify_signed(Progress, padded[4 : 4 + length], signer=None)
    said = signed.document
    if said.job != job:  # (3)
        raise DocumentError("progress: about another job than its envelope says")
    seat = memory.seats.get((said.job, said.generation, said.rank))
    if seat is None or seat.statement.signing_key != signed.signer:  # (4)
        raise RefusedError("progress-not-by-the-seat", "signed by no enclave of this log")
    return said


def append_progress(path: Path, sealed: bytes) -> None:
    """Keep one record, sealed. Raises DocumentError once the file is full."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    with os.fdopen(descriptor, "ab") as file:
        if file.tell() + len(sealed) > FILE_BYTES_MAX:
            raise DocumentError(f"progress: over {FILE_BYTES_MAX} bytes for one job")
        file.write(len(sealed).to_bytes(4, "big") + sealed)


def read_progress(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """Whole records from `offset` on, and where the next one begins."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(FILE_BYTES_MAX)
    found, at = [], 0
    while len(data) >= at + 4:
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        if len(data) < end:
            break
        found.append(data[at + 4 : end])
        at = end
    return found, offset + at
