"""Evidence of NVIDIA GPUs and switches: the layout of an SPDM exchange, and nothing but the layout.

Rules (docs/spec/evidence-nvidia.md §2; DMTF DSP0274 1.1, "GET_MEASUREMENTS"):
- A report is the request (37 bytes) and the response; together at most `REPORT_BYTES_MAX`.
- Every length inside is exact. Blocks are numbered 1 to n, each once: whoever reads a map of them
  can't be shown a second value.
- An opaque field stands once. Fields that we read have the length that NVIDIA gives them; others
  are kept and not judged.
- After the signature stands nothing, or the one zero byte that a driver is known to leave there.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from trust.errors import EvidenceFormatError, SizeLimitError

REPORT_BYTES_MAX: Final = 16 * 1024  # real ones have 2 to 4.2 KiB
REQUEST_BYTES: Final = 37
SIGNATURE_BYTES: Final = 96
MEASUREMENT_BYTES: Final = 48
NONCE_BYTES: Final = 32
PDI_BYTES: Final = 8

_REQUEST_HEAD: Final = bytes.fromhex("11e001ff")  # SPDM 1.1, all blocks, signed
_SLOT: Final = 0
_RESPONSE_HEAD: Final = bytes.fromhex("11600000")
_RESPONSE_HEAD_BYTES: Final = 8
_BLOCK_HEAD: Final = struct.Struct("<BBHBH")  # index, specification, size, type, size of value
_SPECIFICATION_DMTF: Final = 1
_SIZE_EXTRA: Final = 3  # type and size of value stand inside the block's size
_TYPE_MAX: Final = 0x7F  # the top bit says that a value is raw, and no digest
_BLOCKS_MAX: Final = 254  # indices above are not of measurements (DSP0274)

# Order of the group of P-384 (FIPS 186-4, D.1.2.4).
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


class Opaque(enum.IntEnum):
    """Types of opaque fields, by NVIDIA's names."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    GPU_PDIS = 26
    FEATURE_FLAG = 36


# What a field that we read may measure; None: any length.
_SIZES: Final[Mapping[int, tuple[int, ...]]] = MappingProxyType(
    {
        Opaque.NVDEC0_STATUS: (1,),
        Opaque.FWID: (MEASUREMENT_BYTES,),
        Opaque.PROTECTED_PCIE_STATUS: (1,),
        Opaque.SWITCH_PDI: (PDI_BYTES, 18 * PDI_BYTES),  # a switch's own; a GPU's 18 links
        Opaque.GPU_PDIS: (16 * PDI_BYTES,),
        Opaque.FEATURE_FLAG: (2,),
    }
)
_NO_PDI: Final = (bytes(PDI_BYTES), b"\xff" * PDI_BYTES)
_GPU_PDIS_BYTES: Final = 8 * PDI_BYTES  # the rest of the field says which link leads where
_ON: Final = 0xAA
_OFF: Final = 0x55
_DRIVER: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_VBIOS: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_WORD: Final = re.compile(r"[0-9A-Z]{1,8}")
_GPU_VBIOS_BYTES: Final = 8


class FeatureMode(enum.Enum):
    """How a GPU takes part in a confidential VM, by its FEATURE_FLAG."""

    SPT = "SPT"
    """Single pass-through: one GPU, alone."""
    MPT = "MPT"
    """Multi pass-through: several, with encrypted links (Blackwell)."""
    PPCIE = "PPCIE"
    """Protected PCIe: several, whose links to each other are *not* encrypted (Hopper)."""


_MODES: Final = MappingProxyType({0: FeatureMode.SPT, 1: FeatureMode.MPT, 2: FeatureMode.PPCIE})


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReport:
    """One device's answer, parsed and not believed."""

    raw: bytes = field(repr=False)
    """Request and response without a trailing byte."""
    nonce: bytes
    """The verifier's, out of the request: 32 bytes."""
    measurements: Mapping[int, bytes] = field(repr=False)
    """48 bytes by block number, 1 to n. Block k+1 is index k of a reference manifest."""
    opaque: Mapping[int, bytes] = field(repr=False)
    """Value by type."""
    signature_r: int = field(repr=False)
    signature_s: int = field(repr=False)

    @property
    def signed_bytes(self) -> bytes:
        """What the device signed: the request, and the response but for its signature."""
        return self.raw[:-SIGNATURE_BYTES]

    @property
    def driver_version(self) -> str | None:
        """As in ``580.95.05``; None if it names none (a switch has no driver)."""
        value = self.opaque.get(Opaque.DRIVER_VERSION)
        return None if value is None else _text(value, _DRIVER, "driver version")

    @property
    def vbios_version(self) -> str:
        """As in ``96.00.9F.00.01``. Raises EvidenceFormatError if it is missing."""
        value = self.opaque.get(Opaque.VBIOS_VERSION)
        if value is None:
            raise EvidenceFormatError("GPU report: no VBIOS version")
        if len(value) == _GPU_VBIOS_BYTES and not any(value[5:]):
            # A GPU writes two numbers: four bytes from the last to the first, then one more.
            parts = (*reversed(value[:4]), value[4])
            return ".".join(f"{part:02X}" for part in parts)
        return _text(value, _VBIOS, "VBIOS version")

    @property
    def fwid(self) -> bytes | None:
        """Digest of the firmware behind the signing key, 48 bytes; None: old drivers, switches."""
        return self.opaque.get(Opaque.FWID)

    @property
    def feature_flag(self) -> FeatureMode | None:
        """FEATURE_FLAG; None: not reported (drivers before 580, switches)."""
        value = self.opaque.get(Opaque.FEATURE_FLAG)
        return None if value is None else _MODES[int.from_bytes(value, "little")]

    @property
    def protected_pcie(self) -> bool | None:
        """PROTECTED_PCIE_STATUS is on; None: not reported."""
        return self._status(Opaque.PROTECTED_PCIE_STATUS)

    @property
    def video_decoder_on(self) -> bool:
        """NVDEC0 is on, or it isn't said that it is off: then block 36 counts."""
        return self._status(Opaque.NVDEC0_STATUS) is not False

    @property
    def switch_pdis(self) -> tuple[bytes, ...]:
        """A GPU: the switches that its links lead to. A switch: itself. 8 bytes each, sorted.

        A GPU writes them from the last byte to the first; here they are as a switch writes them.
        """
        value = self.opaque.get(Opaque.SWITCH_PDI, b"")
        if len(value) == PDI_BYTES:
            return (value,)
        return _pdis(value, reverse=True)

    @property
    def gpu_pdis(self) -> tuple[bytes, ...]:
        """A switch: the GPUs that its links lead to; empty for a GPU. 8 bytes each, sorted."""
        return _pdis(self.opaque.get(Opaque.GPU_PDIS, b"")[:_GPU_PDIS_BYTES], reverse=False)

    def _status(self, kind: Opaque) -> bool | None:
        value = self.opaque.get(kind)
        return None if value is None else value[0] == _ON


def parse_gpu_report(data: bytes) -> GpuReport:
    """Parse completely, or raise SizeLimitError or EvidenceFormatError: found and wanted."""
    # (1) Length, before a single field.
    if len(data) > REPORT_BYTES_MAX:
        raise SizeLimitError(f"GPU report: {len(data)} bytes, at most {REPORT_BYTES_MAX}")
    # (2) The request.
    request, response = data[:REQUEST_BYTES], data[REQUEST_BYTES:]
    if len(request) < REQUEST_BYTES or request[:4] != _REQUEST_HEAD or request[36] != _SLOT:
        raise _wrong(
            f"request {request[:4].hex()}…{request[36:].hex()}, wanted {_REQUEST_HEAD.hex()}…00"
        )
    # (3) The response's head and its blocks.
    if len(response) < _RESPONSE_HEAD_BYTES or response[:4] != _RESPONSE_HEAD:
        raise _wrong(f"response {response[:4].hex()}, wanted {_RESPONSE_HEAD.hex()}")
    end = _RESPONSE_HEAD_BYTES + int.from_bytes(response[5:8], "little")
    measurements = _parse_blocks(_part(response, _RESPONSE_HEAD_BYTES, end), response[4])
    # (4) The device's nonce and the opaque fields.
    start = end + NONCE_BYTES + 2
    length = int.from_bytes(_part(response, end, start)[NONCE_BYTES:], "little")
    end = start + length
    opaque = _parse_opaque(_part(response, start, end))
    # (5) The signature, and what follows it.
    signature, rest = _part(response, end, end + SIGNATURE_BYTES), response[end + SIGNATURE_BYTES :]
    if rest not in {b"", b"\x00"}:
        raise _wrong(f"{len(rest)} bytes after the signature, wanted none or one zero byte")
    report = GpuReport(
        raw=bytes(data[: REQUEST_BYTES + end + SIGNATURE_BYTES]),
        nonce=request[4:36],
        measurements=measurements,
        opaque=opaque,
        signature_r=_signature_number(signature[:48], "r"),
        signature_s=_signature_number(signature[48:], "s"),
    )
    # (6) The texts that names of reference manifests are made of.
    _ = report.driver_version, report.vbios_version
    return report


def driver_rim_id(report: GpuReport, chip: str) -> str | None:
    """Under which name NVIDIA publishes the driver's reference manifest; None without a driver."""
    version = report.driver_version
    return None if version is None else f"NV_GPU_DRIVER_{chip}_{version}"


def vbios_rim_id(report: GpuReport) -> str:
    """Under which name NVIDIA publishes the VBIOS's reference manifest.

    Raises EvidenceFormatError for a GPU that doesn't say what board it is.
    """
    version = report.vbios_version.replace(".", "")
    if report.driver_version is None:
        return f"NV_SWITCH_BIOS_5612_0002_890_{version}"  # the one board of switches there is
    words = [
        _text(report.opaque.get(kind, b""), _WORD, kind.name)
        for kind in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU)
    ]
    return "_".join(("NV_GPU_VBIOS", *words, version))


def _parse_blocks(record: bytes, count: int) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(record):
        if len(record) - offset < _BLOCK_HEAD.size:
            raise _wrong("a measurement block that is cut off")
        index, specification, size, kind, value_size = _BLOCK_HEAD.unpack_from(record, offset)
        if specification != _SPECIFICATION_DMTF or kind > _TYPE_MAX:
            raise _wrong(
                f"block {index} of specification {specification}, type {kind:#04x}, wanted "
                f"{_SPECIFICATION_DMTF} and a digest"
            )
        if value_size != size - _SIZE_EXTRA or value_size != MEASUREMENT_BYTES:
            raise _wrong(
                f"block {index} of {size} bytes with a value of {value_size}, "
                f"wanted {MEASUREMENT_BYTES + _SIZE_EXTRA} and {MEASUREMENT_BYTES}"
            )
        if index in found:
            raise _wrong(f"block {index} stands twice")
        offset += _BLOCK_HEAD.size
        found[index] = _part(record, offset, offset + value_size)
        offset += value_size
    if not 1 <= count <= _BLOCKS_MAX or sorted(found) != list(range(1, count + 1)):
        raise _wrong(f"{len(found)} blocks, wanted 1 to {count}, each once")
    return MappingProxyType(found)


def _parse_opaque(data: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack("<HH", _part(data, offset, offset + 4))
        value = _part(data, offset + 4, offset + 4 + size)
        if kind in found:
            raise _wrong(f"opaque field {kind} stands twice")
        if kind in _SIZES and size not in _SIZES[kind]:
            raise _wrong(f"opaque field {kind} of {size} bytes, wanted {_SIZES[kind]}")
        found[kind] = value
        offset += 4 + size
    for kind in (Opaque.NVDEC0_STATUS, Opaque.PROTECTED_PCIE_STATUS):
        if kind in found and found[kind][0] not in {_ON, _OFF}:
            raise _wrong(f"{kind.name} {found[kind].hex()}, wanted aa or 55")
    flag = found.get(Opaque.FEATURE_FLAG)
    if flag is not None and int.from_bytes(flag, "little") not in _MODES:
        raise _wrong(f"FEATURE_FLAG {flag.hex()}, wanted 0, 1 or 2")
    return MappingProxyType(found)


def _pdis(value: bytes, *, reverse: bool) -> tuple[bytes, ...]:
    each = {value[at : at + PDI_BYTES] for at in range(0, len(value), PDI_BYTES)}
    return tuple(sorted(e[::-1] if reverse else e for e in each.difference(_NO_PDI)))


def _text(value: bytes, pattern: re.Pattern[str], what: str) -> str:
    """ASCII that ends at its first zero; after it stand zeros alone."""
    text = value.rstrip(b"\x00").decode("ascii", "replace")
    if not pattern.fullmatch(text):
        raise _wrong(f"{what} {value[:32].hex()} is not of the form that NVIDIA writes")
    return text


def _part(data: bytes, start: int, end: int) -> bytes:
    if len(data) < end:
        raise _wrong(f"cut off: {len(data)} bytes, wanted {end} at least")
    return data[start:end]


def _signature_number(value: bytes, name: str) -> int:
    number = int.from_bytes(value, "big")
    if not 0 < number < _P384_ORDER:
        raise _wrong(f"{name} of its signature is not in 1 to n-1")
    return number


def _wrong(found: str) -> EvidenceFormatError:
    return EvidenceFormatError(f"GPU report: {found}")
