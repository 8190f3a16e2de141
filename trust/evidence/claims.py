"""What evidence says, in types that no longer know offsets. A claim is not yet believed.

Rules:
- A value that the evidence does not carry is `None`, never zero: each `None` is explained.
- Bits keep the vendor's names, so that they can be looked up in its specification.
- TCB values are components, never one number: their byte order depends on the product.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields


class Platform(enum.Enum):
    """A kind of confidential CPU, by its name on the wire."""

    SEV_SNP = "sev-snp"
    TDX = "tdx"


class Product(enum.Enum):
    """An AMD product line, by the name in AMD's certificates."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


class SigningKey(enum.Enum):
    """Which endorsement key signed: the chip's own, or one that AMD gave to a cloud provider."""

    VCEK = "vcek"
    VLEK = "vlek"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tcb:
    """Security version numbers of the parts of AMD's trusted computing base, 0 to 255 each."""

    fmc: int
    """Firmware of the first mutable code; Turin alone counts it, elsewhere 0."""
    boot_loader: int
    tee: int
    snp: int
    microcode: int

    def at_least(self, other: Tcb) -> bool:
        """Every component is at least the other's. Not a total order: two may each be below."""
        return all(getattr(self, f.name) >= getattr(other, f.name) for f in fields(Tcb))

    def __str__(self) -> str:
        return (
            f"fmc {self.fmc}, boot loader {self.boot_loader}, tee {self.tee}, "
            f"snp {self.snp}, microcode {self.microcode}"
        )


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class FirmwareVersion:
    """Version of the SEV firmware; ordered by major, minor, build."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestPolicy:
    """POLICY of an SNP guest (SEV-SNP ABI, table "Guest Policy"): what its owner demanded."""

    abi_major: int
    abi_minor: int
    smt: bool
    """Bit 16: the guest may run with simultaneous multithreading on."""
    reserved_one: bool
    """Bit 17: always 1 in a genuine policy."""
    migrate_ma: bool
    """Bit 18: a migration agent may export the guest."""
    debug: bool
    """Bit 19: the host may read and write the guest's memory."""
    single_socket: bool
    cxl_allow: bool
    mem_aes_256_xts: bool
    rapl_dis: bool
    ciphertext_hiding: bool
    page_swap_disable: bool
    unknown: int
    """Bits 63:26, shifted down: zero in every version of the specification known to us."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformInfo:
    """PLATFORM_INFO of an SNP report: how the host's machine is set up."""

    smt: bool
    tsme: bool
    ecc: bool
    rapl_dis: bool
    ciphertext_hiding: bool
    alias_check_complete: bool
    """Bit 5: the firmware looked for aliased memory since boot (the answer to BadRAM)."""
    sev_tio: bool
    unknown: int
    """The other bits, in their places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpClaims:
    """What one CPU's evidence says about its machine and its guest."""

    platform: Platform
    product: Product
    report_version: int
    signing_key: SigningKey
    chip_id: bytes | None
    """CHIP_ID, 64 bytes; None if the report names no chip (a VLEK's)."""
    csp_id: str | None
    """The cloud provider in a VLEK's certificate; None for a VCEK."""
    measurement: bytes
    """Launch measurement, 48 bytes."""
    host_data: bytes
    """HOST_DATA, 32 bytes: what the host gave at launch."""
    report_data: bytes
    """REPORT_DATA, 64 bytes: what the guest asked to have signed."""
    id_key_digest: bytes
    """SHA-384 of the key that signed the ID block; zeros if there is none."""
    author_key_digest: bytes
    """SHA-384 of the key that signed the ID key; zeros if there is none."""
    report_id_ma: bytes
    """Report id of the migration agent, 32 bytes; all ones if there is none."""
    vmpl: int
    guest_svn: int
    guest: GuestPolicy
    platform_info: PlatformInfo
    reported_tcb: Tcb
    committed_tcb: Tcb
    current_tcb: Tcb
    launch_tcb: Tcb
    committed_version: FirmwareVersion
    current_version: FirmwareVersion
    launch_mitigations: int | None
    """LAUNCH_MIT_VECTOR; None before report version 5, which does not carry it."""
    current_mitigations: int | None
    """CURRENT_MIT_VECTOR; None before report version 5, which does not carry it."""

    @property
    def debug(self) -> bool:
        """The host may read the guest's memory."""
        return self.guest.debug
