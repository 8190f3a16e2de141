"""The certificate table that an SNP host gives with a report (AMD publication 56421, GHCB).

Rules:
- Entries of 24 bytes (GUID, offset, length, all little-endian but the GUID, which stands in the
  order in which it is written), ended by zeros; certificates lie behind them.
- The host writes the table, so it is an offer: verifiers believe the vendor's signatures alone. An
  entry of an unknown GUID is passed over; a table that is not whole is no table.
"""

from __future__ import annotations

import struct
from typing import Final

from trust.errors import EvidenceError

TABLE_BYTES_MAX: Final = 1 << 17  # the kernel gives up to 16 KiB; a VLEK with a list has more
ENTRIES_MAX: Final = 16
_ENTRY: Final = struct.Struct("<16sII")
_KINDS: Final = {
    bytes.fromhex("63da758de6644564adc5f4b93be8accd"): "vcek",
    bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1"): "vlek",
    bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"): "ask",
    bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"): "ark",
    bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea"): "crl",
}


def parse_certificate_table(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """(kind, DER) of the table's certificates; none in an empty one. Raises EvidenceError.

    The issuer of a VLEK stands under the same GUID as a VCEK's; verifiers call it ``asvk``.
    """
    if len(data) > TABLE_BYTES_MAX:
        raise EvidenceError(f"certificate table of {len(data)} bytes, at most {TABLE_BYTES_MAX}")
    found: dict[str, bytes] = {}
    for number in range(ENTRIES_MAX):
        entry = data[number * _ENTRY.size : (number + 1) * _ENTRY.size]
        if not any(entry):
            break
        if len(entry) < _ENTRY.size:
            raise EvidenceError(f"certificate table: entry {number} is cut off")
        guid, offset, length = _ENTRY.unpack(entry)
        if offset + length > len(data):
            raise EvidenceError(f"certificate table: entry {number} ends behind the table")
        if (kind := _KINDS.get(guid)) is not None and length:
            if kind in found:
                raise EvidenceError(f"certificate table: a second {kind}")
            found[kind] = data[offset : offset + length]
    else:
        raise EvidenceError(f"certificate table of more than {ENTRIES_MAX - 1} entries")
    if "vlek" in found and "ask" in found:
        found["asvk"] = found.pop("ask")
    return tuple(found.items())
