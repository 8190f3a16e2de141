"""A simulated NVIDIA GPU: answers GET_MEASUREMENTS (SPDM 1.1, DMTF DSP0274) with a key of its own.

Rules:
- A GPU signs the nonce that it is given, as a real one does: it answers for its firmware, driver
  and settings, and for nothing that a guest says.
- `SimulatedGpu` holds a private key: its document is a secret of the chip's own folder. It is
  never printed, and it never travels.
- Every part of an answer can be another for a test: what is signed is what it is called with.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trust.encoding import Document, Size, digest, labelled_digest
from trust.errors import DocumentError
from trust.messages import GpuDevice, GpuDeviceKind
from trust.simulated.chip import CertificateBytes
from trust.simulated.nvidia_certificates import SmallKeyBytes, load_key, serial_text
from trust.simulated.nvidia_models import (
    MEASUREMENTS,
    MODELS,
    GpuArchitecture,
    GpuModel,
    fwid,
    measurement,
)

REQUEST_HEAD: Final = bytes.fromhex("11e001ff")  # SPDM 1.1, GET_MEASUREMENTS, signed, all blocks
SLOT: Final = b"\x00"
NONCE_BYTES: Final = 32
SIGNATURE_NUMBER_BYTES: Final = 48

VBIOS_VERSION: Final = 6
DRIVER_VERSION: Final = 3
NVDEC0_STATUS: Final = 11
FWID: Final = 20
PROTECTED_PCIE: Final = 21
FORMAT_VERSION: Final = 34
FEATURE_FLAG: Final = 36
OFF: Final = b"\x55"
SPT: Final = b"\x00\x00"  # one GPU, passed through whole

_ECDSA: Final = ec.ECDSA(hashes.SHA384())
_RESPONSE_HEAD: Final = bytes.fromhex("11600000")
_BLOCK: Final = struct.Struct("<BBHBH")  # index, specification, size, type, size of the value
_DMTF: Final = 1
_HASHED: Final = 1  # type of each block in NVIDIA's reports

RimBytes = Annotated[bytes, Size(least=1, most=64 * 1024)]
OcspBytes = Annotated[bytes, Size(least=1, most=8 * 1024)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedGpu(Document):
    """One make-believe GPU: its certificates, its endorsements and its private key."""

    LABEL: ClassVar[str] = "simulated-gpu"

    architecture: GpuArchitecture
    chain: Annotated[tuple[CertificateBytes, ...], Size(least=5, most=5)]
    """DER: its own, its boot ROM's, the provisioner's, the model's, the root."""
    key: SmallKeyBytes = dataclasses.field(repr=False)
    """PKCS #8, DER: a secret."""
    rims: Annotated[tuple[RimBytes, ...], Size(least=0, most=4)]
    """Reference manifests of its driver and VBIOS."""
    ocsp: Annotated[tuple[OcspBytes, ...], Size(least=0, most=16)]
    """OCSP responses on its chain and the manifests' signers."""

    @property
    def model(self) -> GpuModel:
        """What it is."""
        return MODELS[self.architecture]

    @property
    def serial(self) -> str:
        """Its own serial number, as its certificate's subject says it."""
        return serial_text(x509.load_der_x509_certificate(self.chain[0]).serial_number)

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the device root's certificate, 32 bytes: what a policy must name."""
        return digest(self.chain[-1])

    def to_bytes(self) -> bytes:
        """The document, private key included: a file of mode 0600."""
        return self.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises EncodingError."""
        return cls.parse(data)

    def endorsements(self) -> tuple[tuple[str, bytes], ...]:
        """(kind, bytes) of what a verifier wants beside a report."""
        return (
            *(("gpu-rim", each) for each in self.rims),
            *(("gpu-ocsp", each) for each in self.ocsp),
        )

    def chain_pem(self) -> bytes:
        """Its certificates in PEM, its own first, the root last."""
        return b"".join(
            x509.load_der_x509_certificate(each).public_bytes(serialization.Encoding.PEM)
            for each in self.chain
        )

    def device(self, nonce: bytes) -> GpuDevice:
        """What it says for a nonce of 32 bytes. Raises DocumentError."""
        return self.shown(self.signed(request(nonce), self.response_body(nonce)))

    def shown(self, report: bytes) -> GpuDevice:
        """A report with this GPU's chain."""
        return GpuDevice(kind=GpuDeviceKind.GPU, report=report, chain=self.chain_pem())

    def signed(self, asked: bytes, body: bytes) -> bytes:
        """Request, response and the signature over both, as they are given."""
        numbers = decode_dss_signature(load_key(self.key).sign(asked + body, _ECDSA))
        signature = b"".join(each.to_bytes(SIGNATURE_NUMBER_BYTES, "big") for each in numbers)
        return asked + body + signature

    def response_body(
        self,
        nonce: bytes,
        *,
        measurements: Mapping[int, bytes] | None = None,
        opaque: Mapping[int, bytes | None] | None = None,
    ) -> bytes:
        """The response without its signature.

        `measurements` are others than the good ones, by index (block - 1); `opaque` are other
        fields, by type: None leaves one out, an unknown one comes last.
        """
        changed = measurements or {}
        blocks = measurement_record(
            [
                (index + 1, changed.get(index, measurement(self.model, index)))
                for index in range(MEASUREMENTS)
            ]
        )
        own_nonce = labelled_digest("simulated-gpu-nonce", self.chain[0], nonce)
        fields = self.opaque() | dict(opaque or {})
        return response(blocks, own_nonce, [(k, v) for k, v in fields.items() if v is not None])

    def opaque(self) -> dict[int, bytes | None]:
        """The opaque fields of a good report, in NVIDIA's order (attestation.md §3.3)."""
        model = self.model
        newer, older = bytes.fromhex(model.vbios.replace(".", ""))[:4], model.vbios[-2:]
        return {
            VBIOS_VERSION: newer[::-1] + bytes.fromhex(older) + bytes(3),
            14: struct.pack("<I", model.board),
            15: model.chip_sku.encode("ascii").ljust(9, b"\x00"),
            16: b"0".ljust(5, b"\x00"),
            17: model.project.encode("ascii") + b"\x00",
            18: model.project_sku.encode("ascii") + b"\x00",
            19: bytes(2),
            DRIVER_VERSION: model.driver.encode("ascii") + b"\x00",
            4: model.gpu_info,
            12: bytes(4 * MEASUREMENTS),
            13: model.protected_registers,
            NVDEC0_STATUS: OFF,
            FWID: fwid(model),
            PROTECTED_PCIE: OFF,
            FORMAT_VERSION: b"\x01\x00",
            FEATURE_FLAG: SPT,
        }


def request(nonce: bytes) -> bytes:
    """GET_MEASUREMENTS for all blocks, signed: 37 bytes. Raises DocumentError."""
    if len(nonce) != NONCE_BYTES:
        raise DocumentError(f"nonce of {len(nonce)} bytes, wanted {NONCE_BYTES}")
    return REQUEST_HEAD + nonce + SLOT


def measurement_record(blocks: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """(index, value) pairs as blocks: their number and their bytes."""
    head = _BLOCK.size - 4
    return len(blocks), b"".join(
        _BLOCK.pack(index, _DMTF, head + len(value), _HASHED, len(value)) + value
        for index, value in blocks
    )


def response(blocks: tuple[int, bytes], own_nonce: bytes, opaque: list[tuple[int, bytes]]) -> bytes:
    """MEASUREMENTS without its signature."""
    count, record = blocks
    fields = b"".join(struct.pack("<HH", kind, len(v)) + v for kind, v in opaque)
    return (
        _RESPONSE_HEAD
        + bytes((count,))
        + len(record).to_bytes(3, "little")
        + record
        + own_nonce
        + struct.pack("<H", len(fields))
        + fields
    )
