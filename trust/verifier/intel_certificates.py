"""Intel's certificates, and what the one in a quote says of its platform.

Rules (docs/spec/evidence-tdx.md §3):
- Every signature of Intel's is ECDSA on P-256 with SHA-256; no other way is known here.
- A chain is PEM: certificates with white space between and nothing else; at most
  `CHAIN_CERTIFICATES_MAX`. Size is looked at first.
- The SGX extension of a PCK's certificate has each of its fields once.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trust.errors import EvidenceFormatError, SizeLimitError
from trust.evidence.tdx import PckClaims
from trust.verifier import der
from trust.verifier.certificates import Certificate, PublicKey, Signature, parse_certificate

CHAIN_BYTES_MAX: Final = 32 * 1024
CHAIN_CERTIFICATES_MAX: Final = 4  # Intel's longest has 3
COMPONENTS: Final = 16

ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\r\n]{1,16384})-----END CERTIFICATE-----\s*"
)

# Intel's SGX extension (Intel, "SGX PCK Certificate and CRL Profile Specification", table 2.2).
_SGX: Final = "1.2.840.113741.1.13.1"
SGX_EXTENSION: Final = der.oid(_SGX)
PPID: Final = der.oid(f"{_SGX}.1")
TCB: Final = der.oid(f"{_SGX}.2")
TCB_COMPONENTS: Final = tuple(der.oid(f"{_SGX}.2.{n}") for n in range(1, COMPONENTS + 1))
PCE_SVN: Final = der.oid(f"{_SGX}.2.17")
CPU_SVN: Final = der.oid(f"{_SGX}.2.18")
PCE_ID: Final = der.oid(f"{_SGX}.3")
FMSPC: Final = der.oid(f"{_SGX}.4")
SGX_TYPE: Final = der.oid(f"{_SGX}.5")
PLATFORM_INSTANCE_ID: Final = der.oid(f"{_SGX}.6")
CONFIGURATION: Final = der.oid(f"{_SGX}.7")
DYNAMIC_PLATFORM: Final = der.oid(f"{_SGX}.7.1")
CACHED_KEYS: Final = der.oid(f"{_SGX}.7.2")
SMT_ENABLED: Final = der.oid(f"{_SGX}.7.3")
ENUMERATED: Final = 0x0A


def certificate_signature_holds(signature: Signature, key: PublicKey) -> bool:
    """ECDSA with SHA-256 under a key on P-256; no other way."""
    if signature.algorithm != ECDSA_SHA256:
        return False
    return _ecdsa_holds(signature.value, signature.signed, key)


def raw_signature_holds(signature: bytes, signed: bytes, key: PublicKey) -> bool:
    """The same, for r and s of 32 bytes each, big endian, as quotes and collateral have them."""
    if len(signature) != 64:
        return False
    numbers = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    return _ecdsa_holds(encode_dss_signature(*numbers), signed, key)


def point_on_p256(key: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key of x and y, 32 bytes each, big endian; None: no point of the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
    except ValueError:
        return None


def _ecdsa_holds(signature: bytes, signed: bytes, key: PublicKey) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def pem_certificates(data: bytes, what: str) -> tuple[Certificate, ...]:
    """Certificates one after another, the leaf first; white space and a last zero byte between.

    Raises SizeLimitError or EvidenceFormatError.
    """
    if len(data) > CHAIN_BYTES_MAX:
        raise SizeLimitError(f"{what}: {len(data)} bytes, at most {CHAIN_BYTES_MAX}")
    text = data.removesuffix(b"\x00")  # Intel's quoting enclave counts the end of its string
    certificates: list[Certificate] = []
    offset = 0
    while offset < len(text):
        match = _PEM.match(text, offset)
        if match is None or len(certificates) == CHAIN_CERTIFICATES_MAX:
            raise EvidenceFormatError(
                f"{what}: at byte {offset}, wanted at most {CHAIN_CERTIFICATES_MAX} "
                "certificates in PEM"
            )
        try:
            encoded = base64.b64decode(b"".join(match.group(1).split()), validate=True)
        except binascii.Error as error:
            raise EvidenceFormatError(f"{what}: a certificate that is not base64") from error
        certificates.append(parse_certificate(encoded))
        offset = match.end()
    if not certificates:
        raise EvidenceFormatError(f"{what}: no certificate")
    return tuple(certificates)


def parse_pck(certificate: Certificate) -> PckClaims:
    """The SGX extension of a PCK's certificate. Raises EvidenceFormatError."""
    encoded = certificate.extensions.get(SGX_EXTENSION)
    if encoded is None:
        raise EvidenceFormatError("PCK certificate: no SGX extension")
    fields = _fields(encoded, "SGX extension")
    levels = _fields(_wanted(fields, TCB).encoded, "TCB of the SGX extension")
    flags = {}
    if CONFIGURATION in fields:
        flags = _fields(fields[CONFIGURATION].encoded, "configuration of the SGX extension")
    instance = fields.get(PLATFORM_INSTANCE_ID)
    return PckClaims(
        ppid=_octets(_wanted(fields, PPID), 16),
        components=tuple(_number_of(_wanted(levels, oid), 0xFF) for oid in TCB_COMPONENTS),
        pce_svn=_number_of(_wanted(levels, PCE_SVN), 0xFFFF),
        cpu_svn=_octets(_wanted(levels, CPU_SVN), 16),
        pce_id=_octets(_wanted(fields, PCE_ID), 2),
        fmspc=_octets(_wanted(fields, FMSPC), 6),
        sgx_type=_enumerated(_wanted(fields, SGX_TYPE)),
        platform_instance_id=None if instance is None else _octets(instance, 16),
        dynamic_platform=_flag(flags, DYNAMIC_PLATFORM),
        cached_keys=_flag(flags, CACHED_KEYS),
        smt_enabled=_flag(flags, SMT_ENABLED),
    )


def _fields(encoded: bytes, what: str) -> dict[bytes, der.Element]:
    values: dict[bytes, der.Element] = {}
    for pair in der.read_sequence(encoded):
        elements = der.read_sequence(pair.encoded)
        if len(elements) != 2:
            raise EvidenceFormatError(f"{what}: a field of {len(elements)} parts, wanted 2")
        name = der.expect(elements[0], der.OBJECT_IDENTIFIER).content
        if name in values:
            raise EvidenceFormatError(f"{what}: a field stands twice")
        values[name] = elements[1]
    return values


def _wanted(fields: dict[bytes, der.Element], name: bytes) -> der.Element:
    if name not in fields:
        raise EvidenceFormatError(f"SGX extension: no field {name.hex()}")
    return fields[name]


def _octets(element: der.Element, count: int) -> bytes:
    content = der.expect(element, der.OCTET_STRING).content
    if len(content) != count:
        raise EvidenceFormatError(f"SGX extension: {len(content)} bytes, wanted {count}")
    return content


def _number_of(element: der.Element, most: int) -> int:
    value = der.integer(element)
    if value > most:
        raise EvidenceFormatError(f"SGX extension: {value}, at most {most}")
    return value


def _enumerated(element: der.Element) -> int:
    content = der.expect(element, ENUMERATED).content
    if len(content) != 1:
        raise EvidenceFormatError(f"SGX extension: an ENUMERATED of {len(content)} bytes")
    return content[0]


def _flag(flags: dict[bytes, der.Element], name: bytes) -> bool | None:
    return der.boolean(flags[name]) if name in flags else None
