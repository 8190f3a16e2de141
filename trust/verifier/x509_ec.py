"""Chains of certificates with keys on P-384, as NVIDIA's are (X.509, RFC 5280).

Rules (docs/spec/evidence-nvidia.md §3):
- ECDSA on P-384 with SHA-384, and nothing else, certifies a key.
- A chain is leaf first, root last, each named and signed by the next. Every issuer says that it is
  an authority and that its key signs certificates, and may say how long a path it allows; the leaf
  says that its key signs, and has no extended purpose.
- The root's signature of itself is not looked at: its pin covers every byte.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trust.errors import EvidenceFormatError, SizeLimitError
from trust.verifier import der
from trust.verifier.certificates import (
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    Certificate,
    PublicKey,
    Signature,
    parse_certificate,
)

CHAIN_BYTES_MAX: Final = 32 * 1024  # NVIDIA's have some 5 KiB
CHAIN_LENGTH_MAX: Final = 8  # NVIDIA's have five certificates of devices, four of manifests

EXTENDED_KEY_USAGE: Final = der.oid("2.5.29.37")
# AlgorithmIdentifier of ecdsa-with-SHA384 (RFC 5758 §3.2): no parameters.
ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")
_DIGITAL_SIGNATURE: Final = 0x80  # bit 0 of KeyUsage, in its first byte
_KEY_CERT_SIGN: Final = 0x04  # bit 5
_PEM: Final = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]*?)-----END CERTIFICATE-----\s*"
)


def parse_pem_chain(data: bytes) -> tuple[Certificate, ...]:
    """Certificates in PEM with white space between them and nothing else, in their order.

    Raises SizeLimitError, or EvidenceFormatError with what was found.
    """
    if len(data) > CHAIN_BYTES_MAX:
        raise SizeLimitError(f"certificate chain: {len(data)} bytes, at most {CHAIN_BYTES_MAX}")
    found: list[Certificate] = []
    offset = 0
    while offset < len(data):
        match = _PEM.match(data, offset)
        if match is None or len(found) == CHAIN_LENGTH_MAX:
            raise EvidenceFormatError(
                f"certificate chain: after {len(found)} certificates no further one in PEM, "
                f"or more than {CHAIN_LENGTH_MAX}"
            )
        found.append(parse_base64_certificate(match.group(1)))
        offset = match.end()
    return tuple(found)


def parse_base64_certificate(data: bytes) -> Certificate:
    """One certificate in base64 with line ends. Raises SizeLimitError or EvidenceFormatError."""
    try:
        encoded = base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise EvidenceFormatError("certificate: not base64") from error
    return parse_certificate(encoded)


def holds_under(signature: Signature, key: PublicKey) -> bool:
    """ECDSA with SHA-384 under a key on P-384; no other way."""
    if signature.algorithm != ECDSA_SHA384:
        return False
    return verify_p384(key, signature.value, signature.signed)


def verify_p384(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    """An ECDSA signature in DER over SHA-384 of `signed`, under a key on P-384."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def verify_p384_numbers(key: PublicKey, r: int, s: int, signed: bytes) -> bool:
    """The same for a signature that is two numbers."""
    return verify_p384(key, encode_dss_signature(r, s), signed)


def is_authority(certificate: Certificate) -> bool:
    """Says of itself that it is an authority."""
    value = certificate.extensions.get(BASIC_CONSTRAINTS)
    elements = () if value is None else der.read_sequence(value)
    return bool(elements) and elements[0].tag == der.BOOLEAN and der.boolean(elements[0])


def signs_no_certificates(certificate: Certificate) -> bool:
    """No authority, and its key signs what is no certificate, if it says what it is for."""
    usage = _key_usage(certificate)
    told = usage is None or bool(usage & _DIGITAL_SIGNATURE and not usage & _KEY_CERT_SIGN)
    return told and not is_authority(certificate)


def chain_fault(chain: Sequence[Certificate]) -> str | None:
    """What is wrong with a chain, leaf first; None: nothing. The root's pin is for the caller."""
    try:
        return _chain_fault(chain)
    except EvidenceFormatError as error:  # an extension, which only whoever looks at it parses
        return f"a certificate whose extensions do not parse: {error}"


def _chain_fault(chain: Sequence[Certificate]) -> str | None:
    leaf, *issuers = chain
    # A leaf says what its key is for; one for OCSP, or for TLS, is for nothing else.
    if _key_usage(leaf) is None or not signs_no_certificates(leaf):
        return f"{_name(leaf)}, which may certify others"
    if EXTENDED_KEY_USAGE in leaf.extensions:
        return f"{_name(leaf)}, whose key is for something else"
    for below, (certificate, issuer) in enumerate(zip(chain, issuers, strict=False)):
        if certificate.issuer != issuer.subject:
            return f"{_name(certificate)}, which names {certificate.issuer_common_name[:64]} above"
        if not issuer.may_sign_certificates():
            return f"{_name(issuer)}, which may not certify others"
        limit = _path_length(issuer)
        if limit is not None and below > limit:
            return f"{_name(issuer)} with {below} authorities under it, of {limit} that it allows"
        if not holds_under(certificate.signature, issuer.public_key):
            return f"{_name(certificate)}, which {_name(issuer)} did not sign"
    return None


def validity_fault(chain: Sequence[Certificate], now: dt.datetime) -> str | None:
    """Which certificate is not valid at `now`; None: all are."""
    for each in chain:
        if not each.not_before <= now <= each.not_after:
            return f"{_name(each)}: {each.not_before} to {each.not_after}"
    return None


def key_bits(certificate: Certificate) -> bytes:
    """The public key as it stands in the certificate's BIT STRING: what OCSP hashes.

    Raises EvidenceFormatError for a key that is on no curve.
    """
    if not isinstance(certificate.public_key, ec.EllipticCurvePublicKey):
        raise EvidenceFormatError(f"{_name(certificate)}: a key on no curve")
    return certificate.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _key_usage(certificate: Certificate) -> int | None:
    """The first eight bits of KeyUsage; None: the certificate doesn't say what its key is for."""
    value = certificate.extensions.get(KEY_USAGE)
    if value is None:
        return None
    content = der.read_element(value, der.BIT_STRING).content
    return content[1] if len(content) >= 2 else 0


def _path_length(issuer: Certificate) -> int | None:
    value = issuer.extensions.get(BASIC_CONSTRAINTS)
    elements = () if value is None else der.read_sequence(value)
    return der.integer(elements[1]) if len(elements) == 2 else None


def _name(certificate: Certificate) -> str:
    return certificate.common_name[:64]
