"""SEV-SNP attestation reports: the layout, and nothing but the layout.

Rules (docs/spec/evidence-snp.md §2; AMD publication 56860, "ATTESTATION_REPORT"):
- A report has exactly `REPORT_BYTES` bytes and a version of `VERSIONS`; length is looked at first.
- A reserved byte is zero, in every part that the report's version reserves, or the report is
  refused. Bytes beyond the numbers r and s in the signature are zero, and 0 < r, s < n.
- POLICY and PLATFORM_INFO are bit sets that AMD extends: their unknown bits are kept, not refused.
- A TCB value stays eight bytes here: how to read them depends on the product (`parse_tcb`), and
  version 2 does not say which product it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from trust.errors import EvidenceFormatError
from trust.evidence.claims import FirmwareVersion, GuestPolicy, PlatformInfo, Product, Tcb

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0  # the signature covers all that stands before it
VERSIONS: Final = (2, 3, 4, 5)
TCB_BYTES: Final = 8
NO_MIGRATION_AGENT: Final = b"\xff" * 32

SIGNING_KEY_VCEK: Final = 0
SIGNING_KEY_VLEK: Final = 1
ECDSA_P384_SHA384: Final = 1  # the only SIGNATURE_ALGO there is

# Order of the group of P-384 (FIPS 186-4, D.1.2.4).
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_NUMBER_BYTES: Final = 72  # r and s stand in 72 bytes each, little endian

_POLICY_KNOWN_BITS: Final = 26
_PLATFORM_BITS: Final = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl_dis": 3,
    "ciphertext_hiding": 4,
    "alias_check_complete": 5,
    "sev_tio": 7,
}
# Reserved in every version, as (from, to); what a version reserves besides is in `_reserved`.
_RESERVED_ALWAYS: Final = (
    (0x04C, 0x050),
    (0x18B, 0x1A0),
    (0x1EB, 0x1EC),
    (0x1EF, 0x1F0),
    (0x208, 0x2A0),
    (0x2A0 + 2 * _NUMBER_BYTES, REPORT_BYTES),
)
_RESERVED_V2: Final = ((0x188, 0x18B),)  # CPUID family, model, stepping: version 3 on
_RESERVED_BEFORE_V5: Final = ((0x1F8, 0x208),)  # mitigation vectors: version 5 on


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpuid:
    """Family, model and stepping of the processor, as the firmware read them."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpReport:
    """One report, parsed and not believed. Fields are in the report's own order."""

    raw: bytes = field(repr=False)
    """All 1184 bytes, signature included."""
    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    current_tcb: bytes
    platform_info: PlatformInfo
    author_key_enabled: bool
    chip_key_masked: bool
    signing_key: int
    """0 VCEK, 1 VLEK, 7 none; other values are not defined."""
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: Cpuid | None
    """None in version 2, which does not carry it."""
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mitigations: int | None
    """None before version 5, which does not carry it."""
    current_mitigations: int | None
    """None before version 5, which does not carry it."""
    signature_r: int
    signature_s: int

    @property
    def signed_bytes(self) -> bytes:
        """What the endorsement key signed: 0x000 to 0x29F."""
        return self.raw[:SIGNED_BYTES]


def parse_snp_report(data: bytes) -> SnpReport:
    """Parse completely, or raise EvidenceFormatError that names what was found and wanted."""
    # (1) Length, before a single field.
    if len(data) != REPORT_BYTES:
        raise EvidenceFormatError(f"SNP report: {len(data)} bytes, wanted {REPORT_BYTES}")
    # (2) Version, which decides what is reserved.
    version = _u32(data, 0x000)
    if version not in VERSIONS:
        raise EvidenceFormatError(f"SNP report: version {version}, wanted one of {VERSIONS}")
    # (3) Reserved bytes.
    for start, end in _reserved(version):
        if any(data[start:end]):
            raise EvidenceFormatError(
                f"SNP report: reserved bytes {start:#05x} to {end - 1:#05x} are not all zero"
            )
    flags = _u32(data, 0x048)
    if flags >> 5:
        raise EvidenceFormatError(f"SNP report: reserved flags are set: {flags:#x}")
    # (4) The two numbers of the signature.
    r = _signature_number(data, 0x2A0, "r")
    s = _signature_number(data, 0x2A0 + _NUMBER_BYTES, "s")
    # (5) The fields.
    return SnpReport(
        raw=bytes(data),
        version=version,
        guest_svn=_u32(data, 0x004),
        policy=_guest_policy(_u64(data, 0x008)),
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_u32(data, 0x030),
        signature_algorithm=_u32(data, 0x034),
        current_tcb=data[0x038:0x040],
        platform_info=_platform_info(_u64(data, 0x040)),
        author_key_enabled=bool(flags & 1),
        chip_key_masked=bool(flags & 2),
        signing_key=flags >> 2,
        report_data=data[0x050:0x090],
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=data[0x180:0x188],
        cpuid=_cpuid(data) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_version=_firmware(data, 0x1E8),
        committed_version=_firmware(data, 0x1EC),
        launch_tcb=data[0x1F0:0x1F8],
        launch_mitigations=_u64(data, 0x1F8) if version >= 5 else None,
        current_mitigations=_u64(data, 0x200) if version >= 5 else None,
        signature_r=r,
        signature_s=s,
    )


def parse_tcb(value: bytes, product: Product) -> Tcb:
    """Read eight bytes as `product` lays them out. Raises EvidenceFormatError.

    Turin's first byte is another component than Milan's: read by the wrong layout, its SNP
    version would be a byte that is always zero.
    """
    if len(value) != TCB_BYTES:
        raise EvidenceFormatError(f"TCB value: {len(value)} bytes, wanted {TCB_BYTES}")
    if product is Product.TURIN:
        fmc, boot_loader, tee, snp = value[:4]
        reserved = value[4:7]
    else:
        fmc, boot_loader, tee, snp = 0, value[0], value[1], value[6]
        reserved = value[2:6]
    if any(reserved):
        raise EvidenceFormatError(
            f"TCB value {value.hex()}: bytes that {product.value} reserves are not zero"
        )
    return Tcb(fmc=fmc, boot_loader=boot_loader, tee=tee, snp=snp, microcode=value[7])


def product_of_cpuid(cpuid: Cpuid) -> Product | None:
    """The product line of a processor; None if it is none that SNP certificates exist for.

    Family 0x19: models 0x00-0x0F are Milan, 0x10-0x1F and 0xA0-0xAF Genoa (with Bergamo and
    Siena). Family 0x1A: 0x00-0x1F are Turin, above them stand clients and later servers.
    """
    match cpuid.family, cpuid.model >> 4:
        case 0x19, 0x0:
            return Product.MILAN
        case 0x19, 0x1 | 0xA:
            return Product.GENOA
        case 0x1A, 0x0 | 0x1:
            return Product.TURIN
        case _:
            return None


def _reserved(version: int) -> tuple[tuple[int, int], ...]:
    return (
        _RESERVED_ALWAYS
        + (_RESERVED_V2 if version == 2 else ())
        + (_RESERVED_BEFORE_V5 if version < 5 else ())
    )


def _signature_number(data: bytes, offset: int, name: str) -> int:
    value = int.from_bytes(data[offset : offset + _NUMBER_BYTES], "little")
    if not 0 < value < _P384_ORDER:
        raise EvidenceFormatError(f"SNP report: {name} of its signature is not in 1 to n-1")
    return value


def _guest_policy(bits: int) -> GuestPolicy:
    def bit(number: int) -> bool:
        return bool(bits >> number & 1)

    return GuestPolicy(
        abi_minor=bits & 0xFF,
        abi_major=bits >> 8 & 0xFF,
        smt=bit(16),
        reserved_one=bit(17),
        migrate_ma=bit(18),
        debug=bit(19),
        single_socket=bit(20),
        cxl_allow=bit(21),
        mem_aes_256_xts=bit(22),
        rapl_dis=bit(23),
        ciphertext_hiding=bit(24),
        page_swap_disable=bit(25),
        unknown=bits >> _POLICY_KNOWN_BITS,
    )


def _platform_info(bits: int) -> PlatformInfo:
    known = {name: bool(bits >> number & 1) for name, number in _PLATFORM_BITS.items()}
    mask = sum(1 << number for number in _PLATFORM_BITS.values())
    return PlatformInfo(**known, unknown=bits & ~mask)


def _cpuid(data: bytes) -> Cpuid:
    return Cpuid(family=data[0x188], model=data[0x189], stepping=data[0x18A])


def _firmware(data: bytes, offset: int) -> FirmwareVersion:
    build, minor, major = data[offset : offset + 3]
    return FirmwareVersion(major=major, minor=minor, build=build)


def _u32(data: bytes, offset: int) -> int:
    (value,) = struct.unpack_from("<I", data, offset)
    return int(value)


def _u64(data: bytes, offset: int) -> int:
    (value,) = struct.unpack_from("<Q", data, offset)
    return int(value)
