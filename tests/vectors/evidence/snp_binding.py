"""SEV-SNP: lies about which product, which chip and which firmware a key is for."""

from __future__ import annotations

from tests.trust.verifier.vendor import (
    CHIP_ID,
    replaced,
    without,
)
from tests.vectors.evidence.format import (
    b64,
    endorsements_json,
    refused,
)
from tests.vectors.evidence.snp_mint import (
    GENOA_EXTENSIONS,
    VLEK_EXTENSIONS,
    chain,
)
from tests.vectors.evidence.snp_said import (
    GOOD,
    chained,
    told,
)
from trust.evidence.claims import Product
from trust.simulated import certificates as minting
from trust.simulated.certificates import Extension
from trust.verifier import der
from trust.verifier.endorsements import HARDWARE_ID, PRODUCT_NAME, TCB_EXTENSIONS

_TCB = TCB_EXTENSIONS[Product.GENOA]


def _named(product: bytes) -> tuple[Extension, ...]:
    return replaced(GENOA_EXTENSIONS, PRODUCT_NAME, minting.tlv(der.IA5_STRING, product))


PRODUCTS = (
    told(
        "turins-processor",
        "The report's processor is a Turin.",
        "product",
        {0x188: b"\x1a\x02\x01"},
    ),
    told(
        "milans-processor",
        "The report's processor is a Milan.",
        "product",
        {0x188: b"\x19\x01\x01"},
    ),
    told(
        "unknown-processor",
        "The report's processor is none of a server.",
        "product",
        {0x188: b"\x19\x71\x00"},
    ),
    chained(
        "issuer-of-turins",
        "The issuer is Turin's, under Genoa's root.",
        "product",
        issuer_name="SEV-Turin",
    ),
    chained(
        "named-milan",
        "The VCEK's productName is Milan-B0.",
        "product",
        leaf_extensions=_named(b"Milan-B0"),
    ),
    chained(
        "named-genoa2",
        "The VCEK's productName begins like Genoa.",
        "product",
        leaf_extensions=_named(b"Genoa2"),
    ),
    chained(
        "no-product-name",
        "The VCEK has no productName.",
        "product",
        leaf_extensions=without(GENOA_EXTENSIONS, PRODUCT_NAME),
    ),
    refused(
        "snp",
        "genoa-under-milans-root",
        "Milan's root, pinned as such, stands above a Genoa; their layouts are one.",
        "snp-milan",
        "product",
        endorsements=endorsements_json(chain(root_name="ARK-Milan").items()),
        evidence={"report": b64(GOOD)},
    ),
)

CHIPS = (
    told(
        "another-chip", "The report names another chip than the VCEK.", "chip-id", {0x1A0: b"\x01"}
    ),
    told(
        "no-chip", "The report names no chip, and a VCEK signed it.", "chip-id", {0x1A0: bytes(64)}
    ),
    told("chip-key-masked", "MASK_CHIP_KEY is set.", "chip-id", {0x48: b"\x02"}),
    chained(
        "key-of-another-chip", "The VCEK's HWID is another chip's.", "chip-id", chip_id=bytes(64)
    ),
    chained(
        "no-hwid",
        "The VCEK has no HWID.",
        "chip-id",
        leaf_extensions=without(GENOA_EXTENSIONS, HARDWARE_ID),
    ),
    chained(
        "short-hwid",
        "A Genoa's HWID has 8 bytes, as a Turin's has.",
        "chip-id",
        leaf_extensions=replaced(GENOA_EXTENSIONS, HARDWARE_ID, CHIP_ID[:8]),
    ),
    told(
        "long-turin",
        "A Turin's chip id goes on after its 8 bytes.",
        "chip-id",
        {0x1A8: b"\x01"},
        "turin",
    ),
    told("vlek-names-a-chip", "A VLEK's report names a chip.", "chip-id", {0x1A0: CHIP_ID}, "vlek"),
    chained(
        "vlek-of-nobody",
        "The VLEK names no provider.",
        "chip-id",
        "vlek",
        leaf_extensions=VLEK_EXTENSIONS[:-1],
    ),
)


def everywhere(tcb: bytes) -> dict[int, bytes]:
    return dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), tcb)


def tcb_of(snp: int = 27, microcode: int = 88, boot_loader: int = 10) -> bytes:
    return bytes((boot_loader, 0, 0, 0, 0, 0, snp, microcode))


TCBS = (
    told(
        "newer-microcode-than-certified",
        "The firmware claims microcode that its key does not certify, everywhere.",
        "certificate-tcb",
        everywhere(tcb_of(microcode=89)),
    ),
    told(
        "newer-firmware-than-certified",
        "The firmware claims an SNP version that its key does not certify, everywhere.",
        "certificate-tcb",
        everywhere(tcb_of(snp=28)),
    ),
    told(
        "newer-boot-loader-than-certified",
        "The firmware claims a boot loader that its key does not certify, everywhere.",
        "certificate-tcb",
        everywhere(tcb_of(boot_loader=11)),
    ),
    told(
        "older-than-certified",
        "The report says older microcode than its key certifies.",
        "certificate-tcb",
        {0x187: b"\x57"},
    ),
    chained(
        "key-for-older-microcode",
        "The key is one for microcode 87; the report says 88.",
        "certificate-tcb",
        tcb=tcb_of(microcode=87),
    ),
    chained(
        "key-newer-in-one-older-in-another",
        "The key certifies newer microcode and an older "
        "SNP version than the report says: no order, component by component.",
        "certificate-tcb",
        tcb=tcb_of(snp=26, microcode=99),
    ),
    chained(
        "microcode-not-certified",
        "The VCEK certifies no microcode.",
        "certificate-tcb",
        leaf_extensions=without(GENOA_EXTENSIONS, _TCB[7]),
    ),
    chained(
        "microcode-no-byte",
        "The VCEK certifies microcode 256 + 88.",
        "certificate-tcb",
        leaf_extensions=replaced(GENOA_EXTENSIONS, _TCB[7], minting.integer(256 + 88)),
    ),
    chained(
        "spare-number-certified",
        "The VCEK certifies a number that is reserved.",
        "certificate-tcb",
        leaf_extensions=replaced(GENOA_EXTENSIONS, _TCB[2], minting.integer(1)),
    ),
    told(
        "turin-in-milans-layout",
        "A Turin's report has its SNP version where a Milan's has it, and Turin a reserved byte.",
        "certificate-tcb",
        everywhere(bytes((1, 0, 0, 0, 0, 0, 4, 71))),
        "turin",
    ),
    told(
        "current-tcb-reserved",
        "A reserved byte of CURRENT_TCB is set.",
        "certificate-tcb",
        {0x3A: b"\x01"},
    ),
    told(
        "committed-tcb-reserved",
        "A reserved byte of COMMITTED_TCB is set.",
        "certificate-tcb",
        {0x1E5: b"\x01"},
    ),
    told(
        "launch-tcb-reserved",
        "A reserved byte of LAUNCH_TCB is set.",
        "certificate-tcb",
        {0x1F3: b"\x01"},
    ),
    told(
        "turin-launch-in-milans-layout",
        "A Turin's LAUNCH_TCB has its SNP version where a Milan has it.",
        "certificate-tcb",
        {0x1F0: bytes((1, 0, 0, 0, 0, 0, 4, 71))},
        "turin",
    ),
)


BINDING = (*PRODUCTS, *CHIPS, *TCBS)
