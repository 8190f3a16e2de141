"""What a policy demands of an SEV-SNP machine and guest: products, floors, bits of both.

Rules (docs/spec/evidence-snp.md §4):
- A product is allowed by standing in `products`, with its floors: none is allowed without floors.
- A debug guest and one that a migration agent may export are refused by every policy: there is no
  field that would allow them.
- `Demand.ANY` is a word of its own, and its line in the result says *not demanded*.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final

from trust.encoding import Range, Size, Struct, Text
from trust.errors import PolicyError
from trust.evidence.claims import FirmwareVersion, Product, Tcb

CSP_IDS_MAX: Final = 16
KEY_DIGESTS_MAX: Final = 16

Byte = Annotated[int, Range(least=0, most=255)]
KeyDigest = Annotated[bytes, Size(least=48, most=48)]


class Demand(enum.Enum):
    """What a policy says of one bit."""

    SET = "set"
    CLEAR = "clear"
    ANY = "not demanded"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductFloor(Struct):
    """A product that is allowed, and the least that its firmware must be."""

    product: Product
    fmc: Byte
    """Turin alone; 0 elsewhere."""
    boot_loader: Byte
    tee: Byte
    snp: Byte
    microcode: Byte
    """Compared as a number. Models of one product count apart: a floor is for one of them."""
    firmware_major: Byte
    firmware_minor: Byte
    firmware_build: Byte

    def _check(self) -> None:
        """A component that the product does not have has no floor."""
        if self.fmc and self.product is not Product.TURIN:
            raise PolicyError(f"{self.product.value} has no fmc: floor {self.fmc}, wanted 0")

    @property
    def tcb(self) -> Tcb:
        """The floor under REPORTED, COMMITTED and LAUNCH_TCB."""
        return Tcb(
            fmc=self.fmc,
            boot_loader=self.boot_loader,
            tee=self.tee,
            snp=self.snp,
            microcode=self.microcode,
        )

    @property
    def firmware(self) -> FirmwareVersion:
        """The floor under the committed version of the firmware."""
        return FirmwareVersion(
            major=self.firmware_major, minor=self.firmware_minor, build=self.firmware_build
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestDemands(Struct):
    """What POLICY must say beside DEBUG and MIGRATE_MA, which are clear in every policy."""

    abi_major: Byte
    """The least ABI version that the guest's own policy demands of its firmware."""
    abi_minor: Byte
    smt: Demand
    single_socket: Demand
    cxl_allow: Demand
    mem_aes_256_xts: Demand
    rapl_dis: Demand
    ciphertext_hiding: Demand
    page_swap_disable: Demand


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformDemands(Struct):
    """What PLATFORM_INFO must say; its bits that we do not know are shown and not judged."""

    smt: Demand
    tsme: Demand
    ecc: Demand
    rapl_dis: Demand
    ciphertext_hiding: Demand
    alias_check_complete: Demand
    sev_tio: Demand


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpDemands(Struct):
    """Demands of an SEV-SNP machine and of how its guest was launched."""

    products: Annotated[tuple[ProductFloor, ...], Size(least=1, most=len(Product))]
    report_version_least: Annotated[int, Range(least=2, most=5)]
    """Below 3 a report does not name its processor."""
    vlek_csp_ids: Annotated[tuple[Text, ...], Size(least=0, most=CSP_IDS_MAX)]
    """Providers whose VLEK is accepted; empty: a chip's own key alone."""
    mitigations: Annotated[
        tuple[Annotated[int, Range(least=0, most=63)], ...], Size(least=0, most=64)
    ]
    """Bits that must be set in LAUNCH_ and CURRENT_MIT_VECTOR."""
    guest: GuestDemands
    platform: PlatformDemands
    vmpl: Annotated[int, Range(least=0, most=3)]
    id_key_digests: Annotated[tuple[KeyDigest, ...], Size(least=0, most=KEY_DIGESTS_MAX)]
    """SHA-384 of keys that may have signed the ID block; empty: not demanded."""
    author_key_digests: Annotated[tuple[KeyDigest, ...], Size(least=0, most=KEY_DIGESTS_MAX)]
    """SHA-384 of keys that may have signed the ID key; empty: not demanded."""

    def _check(self) -> None:
        """Nothing is said twice. Raises PolicyError."""
        require_distinct("product", [floor.product.value for floor in self.products])
        require_distinct("provider", list(self.vlek_csp_ids))
        require_distinct("mitigation", [str(each) for each in self.mitigations])
        require_distinct("ID key", [each.hex() for each in self.id_key_digests])
        require_distinct("author key", [each.hex() for each in self.author_key_digests])

    def floor_of(self, product: Product) -> ProductFloor | None:
        """The floors of `product`; None if it is not allowed."""
        return next((floor for floor in self.products if floor.product is product), None)


# Floors as of 2026-11. SNP 27 on Genoa and 4 on Turin hold the fix of CVE-2025-48514 (AMD-SB-3023;
# the numbers are Linux's, drivers/crypto/ccp/sev-dev.c), and with it the older ones of BadRAM
# (AMD-SB-3015) and EntrySign (AMD-SB-3019). Boot loader, microcode and firmware are what a real
# report with these shows, or an upstream policy demands. Bergamo, Siena and Genoa-X may count lower
# microcode for the same fixes: this floor refuses them, and who rents them writes one of their own.
GENOA_FLOOR: Final = ProductFloor(
    product=Product.GENOA,
    fmc=0,
    boot_loader=10,
    tee=0,
    snp=27,
    microcode=88,
    firmware_major=1,
    firmware_minor=55,
    firmware_build=49,
)
TURIN_FLOOR: Final = ProductFloor(
    product=Product.TURIN,
    fmc=0,
    boot_loader=1,
    tee=0,
    snp=4,
    microcode=71,
    firmware_major=1,
    firmware_minor=55,
    firmware_build=65,
)

_GUEST: Final = GuestDemands(
    abi_major=0,
    abi_minor=0,
    smt=Demand.ANY,  # side channels of the processor are among what we do not protect
    single_socket=Demand.ANY,
    cxl_allow=Demand.CLEAR,  # nobody here needs memory on a bus that leaves the machine
    mem_aes_256_xts=Demand.ANY,
    rapl_dis=Demand.ANY,
    ciphertext_hiding=Demand.ANY,
    page_swap_disable=Demand.ANY,
)
_PLATFORM: Final = PlatformDemands(
    smt=Demand.ANY,
    tsme=Demand.ANY,
    ecc=Demand.ANY,
    rapl_dis=Demand.ANY,
    ciphertext_hiding=Demand.ANY,
    alias_check_complete=Demand.SET,  # BadRAM: aliased memory lets a host replay a guest's pages
    sev_tio=Demand.ANY,
)


def snp_demands(*products: ProductFloor) -> SnpDemands:
    """What every shipped policy demands, of these products."""
    return SnpDemands(
        products=products,
        report_version_least=3,
        vlek_csp_ids=(),
        mitigations=(),
        guest=_GUEST,
        platform=_PLATFORM,
        vmpl=0,
        id_key_digests=(),
        author_key_digests=(),
    )


def require_distinct(what: str, values: list[str]) -> None:
    """Raise PolicyError if a value stands twice."""
    if len(set(values)) != len(values):
        raise PolicyError(f"a policy names a {what} twice")
