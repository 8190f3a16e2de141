"""A simulated processor: its firmware signs reports of the real layout with a key of its own.

Rules:
- A chip signs what it is asked to, as a real one does: it answers for its measurement, its firmware
  and its policy, and never for what the guest put into REPORT_DATA.
- `SimulatedChip` holds a private key: its document is a secret of the chip's own folder. It is
  never printed, and it never travels.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trust.encoding import Bytes64, Document, Size, digest, labelled_digest
from trust.errors import DocumentError
from trust.evidence.claims import FirmwareVersion, Product
from trust.evidence.snp import (
    ECDSA_P384_SHA384,
    NO_MIGRATION_AGENT,
    REPORT_BYTES,
    SIGNED_BYTES,
    Cpuid,
)
from trust.simulated.certificates import Extension, integer, tlv
from trust.verifier import der
from trust.verifier.endorsements import (
    HARDWARE_ID,
    PRODUCT_NAME,
    TCB_EXTENSIONS,
    TURIN_HARDWARE_ID_BYTES,
)

_STRUCT_VERSION: Final = der.oid("1.3.6.1.4.1.3704.1.1")
_SIGNATURE_NUMBER_BYTES: Final = 72
_REPORT_VERSION: Final = 5
_POLICY: Final = 1 << 17 | 1 << 16  # the bit that is always 1, and SMT; no debug, no migration
_PLATFORM_INFO: Final = 1 << 5 | 1 << 2 | 1 << 0  # alias check complete, ECC, SMT
_MITIGATIONS: Final = 0x0B  # what a real Genoa with this firmware reports

CertificateBytes = Annotated[bytes, Size(least=1, most=8 * 1024)]
ListBytes = Annotated[bytes, Size(least=1, most=256 * 1024)]
KeyBytes = Annotated[bytes, Size(least=1, most=8 * 1024)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What one simulated processor is."""

    serial: int
    """Of the root; the issuer has a later one."""
    issuer_serial: int
    struct_version: int
    cpuid: Cpuid
    tcb: bytes
    firmware: FirmwareVersion


MODELS: Final = {
    Product.GENOA: Model(
        serial=0x20000,
        issuer_serial=0x20002,
        struct_version=0,
        cpuid=Cpuid(family=0x19, model=0x11, stepping=1),
        tcb=bytes((10, 0, 0, 0, 0, 0, 27, 88)),
        firmware=FirmwareVersion(major=1, minor=55, build=49),
    ),
    Product.TURIN: Model(
        serial=0x30000,
        issuer_serial=0x30001,
        struct_version=1,
        cpuid=Cpuid(family=0x1A, model=0x02, stepping=1),
        tcb=bytes((0, 1, 0, 4, 0, 0, 0, 71)),
        firmware=FirmwareVersion(major=1, minor=55, build=65),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedChip(Document):
    """One make-believe processor: its identity, its endorsements and its private key."""

    LABEL: ClassVar[str] = "simulated-chip"

    product: Product
    chip_id: Bytes64
    vcek: CertificateBytes
    ask: CertificateBytes
    ark: CertificateBytes
    crl: ListBytes
    key: KeyBytes = dataclasses.field(repr=False)
    """PKCS #8, DER: a secret."""

    def _check(self) -> None:
        """The chip id is one that the product can have. Raises DocumentError."""
        if self.product not in MODELS:
            raise DocumentError(f"a simulated chip is Genoa or Turin, not {self.product.value}")
        if self.product is Product.TURIN and any(self.chip_id[TURIN_HARDWARE_ID_BYTES:]):
            raise DocumentError("a Turin's chip id has 8 bytes, and then zeros")

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the ARK certificate, 32 bytes: what a policy must name."""
        return digest(self.ark)

    def to_bytes(self) -> bytes:
        """The document, private key included: a file of mode 0600."""
        return self.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises EncodingError."""
        return cls.parse(data)

    def endorsements(self) -> tuple[tuple[str, bytes], ...]:
        """(kind, DER) of the four things that a verifier wants beside a report."""
        return (("vcek", self.vcek), ("ask", self.ask), ("ark", self.ark), ("crl", self.crl))

    def report(self, *, report_data: bytes, host_data: bytes, measurement: bytes) -> bytes:
        """A signed version 5 report, 1184 bytes, of a guest at VMPL 0 without debug or migration.

        `report_data` has 64 bytes, `host_data` 32, `measurement` 48. Raises DocumentError.
        """
        return self.sign_body(
            self.report_body(report_data=report_data, host_data=host_data, measurement=measurement)
        )

    def report_body(self, *, report_data: bytes, host_data: bytes, measurement: bytes) -> bytes:
        """The part of a report that is signed: 0x2A0 bytes. Raises DocumentError."""
        model = MODELS[self.product]
        firmware = bytes((model.firmware.build, model.firmware.minor, model.firmware.major))
        guest = labelled_digest("simulated-report-id", self.chip_id, host_data, measurement)
        cpuid = bytes((model.cpuid.family, model.cpuid.model, model.cpuid.stepping))
        body = bytearray(SIGNED_BYTES)
        struct.pack_into("<IIQ", body, 0x000, _REPORT_VERSION, 0, _POLICY)
        struct.pack_into("<I", body, 0x034, ECDSA_P384_SHA384)
        struct.pack_into("<Q", body, 0x040, _PLATFORM_INFO)
        struct.pack_into("<QQ", body, 0x1F8, _MITIGATIONS, _MITIGATIONS)
        for offset, length, value in (
            (0x038, 8, model.tcb),  # current
            (0x050, 64, report_data),
            (0x090, 48, measurement),
            (0x0C0, 32, host_data),
            (0x140, 32, guest),
            (0x160, 32, NO_MIGRATION_AGENT),
            (0x180, 8, model.tcb),  # reported
            (0x188, 3, cpuid),
            (0x1A0, 64, self.chip_id),
            (0x1E0, 8, model.tcb),  # committed
            (0x1E8, 3, firmware),  # current
            (0x1EC, 3, firmware),  # committed
            (0x1F0, 8, model.tcb),  # launch
        ):
            if len(value) != length:
                raise DocumentError(f"report at {offset:#x}: {len(value)} bytes, wanted {length}")
            body[offset : offset + length] = value
        return bytes(body)

    def sign_body(self, body: bytes) -> bytes:
        """Sign 0x2A0 bytes as they are; the whole report. Raises DocumentError."""
        if len(body) != SIGNED_BYTES:
            raise DocumentError(f"report body: {len(body)} bytes, wanted {SIGNED_BYTES}")
        key = serialization.load_der_private_key(self.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise DocumentError("a simulated chip's key is on P-384")
        numbers = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA384())))
        signature = b"".join(each.to_bytes(_SIGNATURE_NUMBER_BYTES, "little") for each in numbers)
        return (body + signature).ljust(REPORT_BYTES, b"\x00")


def vcek_extensions(product: Product, tcb: bytes, chip_id: bytes) -> tuple[Extension, ...]:
    """The extensions of a VCEK, in AMD's order: version, product, eight TCB bytes, HWID."""
    hardware_id = chip_id[:TURIN_HARDWARE_ID_BYTES] if product is Product.TURIN else chip_id
    return (
        Extension(name=_STRUCT_VERSION, value=integer(MODELS[product].struct_version)),
        Extension(name=PRODUCT_NAME, value=tlv(der.IA5_STRING, product.value.encode("ascii"))),
        *(
            Extension(name=name, value=integer(value))
            for name, value in zip(TCB_EXTENSIONS[product], tcb, strict=True)
        ),
        Extension(name=HARDWARE_ID, value=hardware_id),
    )


def private_bytes(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 in DER, not encrypted: a secret."""
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
