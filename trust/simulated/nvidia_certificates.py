"""Writes certificates in the shape of NVIDIA's: names, extensions, dates (X.509, RFC 5280).

Rules:
- ECDSA on P-384 with SHA-384 throughout. A device's certificates never end; those under the root of
  reference measurements do.
- The writer checks nothing: to say what is wrong with a certificate is the verifier's work, and a
  test wants certificates with things wrong.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from trust.encoding import Size, Struct
from trust.errors import DocumentError
from trust.simulated.certificates import integer, sequence, tlv
from trust.simulated.chip import CertificateBytes, private_bytes
from trust.verifier import der

NEVER_ENDS: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
# Hopper's form, and the one that Blackwell's certificates have (TCG DICE, tcg-dice-MultiTcbInfo).
FWID_HOPPER: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
FWID_BLACKWELL: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")

_OCSP_SERVICE: Final = "http://ocsp.ndis.nvidia.com"
_DEVICE_ID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")  # SPDM, DMTF DSP0274
_SHA384: Final = der.oid("2.16.840.1.101.3.4.2.2")
_CONTEXT: Final = 0x80
_CONSTRUCTED: Final = 0xA0

SmallKeyBytes = Annotated[bytes, Size(least=1, most=512)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority(Struct):
    """A certificate with its private key."""

    certificate: CertificateBytes
    key: SmallKeyBytes = field(repr=False)
    """PKCS #8, DER: a secret."""

    @property
    def x509(self) -> x509.Certificate:
        """The certificate, parsed."""
        return x509.load_der_x509_certificate(self.certificate)

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, loaded. Raises DocumentError."""
        return load_key(self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a certificate is to say."""

    subject: x509.Name
    not_before: dt.datetime
    not_after: dt.datetime = NEVER_ENDS
    extensions: tuple[tuple[x509.ExtensionType, bool], ...]
    """(extension, critical), in order, before the key identifiers that each certificate has."""
    serial: int | None = None
    """None: made from the key, as NVIDIA's devices do."""


def issue(
    plan: Plan,
    *,
    issuer: Authority | None,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """Certify a key (None: a new one) as planned; `issuer` None: it signs itself."""
    key = key if key is not None else new_key()
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    above = own if issuer is None else _key_identifier(issuer.x509)
    builder = (
        x509.CertificateBuilder()
        .subject_name(plan.subject)
        .issuer_name(plan.subject if issuer is None else issuer.x509.subject)
        .public_key(key.public_key())
        .serial_number(serial_of(key.public_key()) if plan.serial is None else plan.serial)
        .not_valid_before(plan.not_before)
        .not_valid_after(plan.not_after)
    )
    identifiers = (
        (own, False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False),
    )
    for extension, critical in (*plan.extensions, *identifiers):
        builder = builder.add_extension(extension, critical=critical)
    signing_key = key if issuer is None else issuer.private_key
    certificate = builder.sign(signing_key, hashes.SHA384())
    return Authority(
        certificate=certificate.public_bytes(serialization.Encoding.DER), key=private_bytes(key)
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """Load PKCS #8. Raises DocumentError for a key that is not on P-384."""
    key = serialization.load_der_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise DocumentError("a simulated NVIDIA's keys are on P-384")
    return key


def serial_of(key: ec.EllipticCurvePublicKey) -> int:
    """The serial number that a device gives to a key: 20 bytes of its digest, 159 bits long."""
    own = x509.SubjectKeyIdentifier.from_public_key(key).digest
    return int.from_bytes(bytes((own[0] & 0x7F | 0x40, *own[1:])), "big")


def serial_text(serial: int) -> str:
    """A serial number as it stands in NVIDIA's names: hexadecimal in capitals."""
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex().upper()


def _key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


# --- names ---------------------------------------------------------------------------------------

_ATTRIBUTES: Final = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "CN": NameOID.COMMON_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
}


def name(**attributes: str) -> x509.Name:
    """A distinguished name of these attributes, in this order."""
    return x509.Name(
        x509.NameAttribute(_ATTRIBUTES[key], value) for key, value in attributes.items()
    )


# --- extensions ----------------------------------------------------------------------------------


def authority(
    *, signs_lists: bool = True, path: int | None = None
) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """The basicConstraints and keyUsage of an issuer."""
    return (
        (x509.BasicConstraints(ca=True, path_length=path), True),
        (key_usage("key_cert_sign", *(("crl_sign",) if signs_lists else ())), True),
    )


def key_usage(*allowed: str) -> x509.KeyUsage:
    """A keyUsage with these bits, by the names that cryptography gives them."""
    bits = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{bit: bit in allowed for bit in bits.split()})


def ocsp_service() -> tuple[x509.ExtensionType, bool]:
    """Where NVIDIA's certificates say that their status is asked for."""
    return (
        x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(
                    AuthorityInformationAccessOID.OCSP,
                    x509.UniformResourceIdentifier(_OCSP_SERVICE),
                )
            ]
        ),
        False,
    )


def list_service(path: str) -> tuple[x509.ExtensionType, bool]:
    """Where NVIDIA's certificates say that a list lies (which nobody serves)."""
    where = x509.UniformResourceIdentifier(f"http://crl.ndis.nvidia.com/{path}")
    point = x509.DistributionPoint([where], relative_name=None, reasons=None, crl_issuer=None)
    return x509.CRLDistributionPoints([point]), False


def device_name(model: str, device: str) -> tuple[x509.ExtensionType, bool]:
    """The alternative name of a device: ``NVIDIA:GH100:48B02D…``."""
    value = tlv(der.UTF8_STRING, f"NVIDIA:{model}:{device}".encode("ascii"))
    return x509.SubjectAlternativeName([x509.OtherName(_DEVICE_ID, value)]), False


def fwid_hopper(
    fwid: bytes, device_key: ec.EllipticCurvePublicKey
) -> tuple[x509.ExtensionType, bool]:
    """Which firmware the leaf's key belongs to: version 1, the device's key, SHA-384."""
    device = device_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    value = sequence(integer(1), device, _fwid(fwid))
    return x509.UnrecognizedExtension(FWID_HOPPER, value), False


def fwid_blackwell(fwids: Iterable[bytes], chip: str) -> tuple[x509.ExtensionType, bool]:
    """The same as DICE's TcbInfo: vendor, model, version, numbers, FWIDs (the first counts)."""
    texts = (b"NVIDIA", f"{chip} GSP".encode("ascii"), b"01")
    value = sequence(
        *(tlv(_CONTEXT | number, text) for number, text in enumerate(texts)),
        *(tlv(_CONTEXT | number, each) for number, each in ((3, b"\x01"), (4, b"\0"), (5, b"\0"))),
        tlv(_CONSTRUCTED | 6, b"".join(map(_fwid, fwids))),
        tlv(_CONTEXT | 7, bytes.fromhex("0080000001")),
        tlv(_CONTEXT | 8, b"\xc0"),
        tlv(_CONTEXT | 9, b"\x00"),
    )
    return x509.UnrecognizedExtension(FWID_BLACKWELL, value), False


def _fwid(value: bytes) -> bytes:
    return sequence(tlv(der.OBJECT_IDENTIFIER, _SHA384), tlv(der.OCTET_STRING, value))
