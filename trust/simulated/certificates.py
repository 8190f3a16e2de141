"""Writes certificates and revocation lists in the shape of AMD's (X.509, RFC 5280).

Rules:
- Names, serial numbers, extensions and their order are those of AMD's own; the signature is
  RSASSA-PSS with SHA-384 and 48 bytes of salt. A VCEK's serial is 0, as AMD's is, and a common
  certificate library refuses to write that: hence a writer.
- The writer checks nothing: to say what is wrong with a certificate is the verifier's work, and a
  test wants certificates with things wrong.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from trust.verifier import der
from trust.verifier.certificates import BASIC_CONSTRAINTS, COMMON_NAME, KEY_USAGE, PSS_SHA384_SALT48

# What AMD writes everywhere but in its roots: the default trailer field is left out.
PSS_ALGORITHM: Final = min(PSS_SHA384_SALT48, key=len)

_EXPLICIT_0: Final = 0xA0
_EXPLICIT_3: Final = 0xA3
_GENERALIZED_FROM: Final = 2050  # RFC 5280 §4.1.2.5
_NAME: Final = (  # (attribute, string type, value), in AMD's order, before the common name
    ("2.5.4.11", der.UTF8_STRING, "Engineering"),
    ("2.5.4.6", der.PRINTABLE_STRING, "US"),
    ("2.5.4.7", der.UTF8_STRING, "Santa Clara"),
    ("2.5.4.8", der.UTF8_STRING, "CA"),
    ("2.5.4.10", der.UTF8_STRING, "Advanced Micro Devices"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """An extension of a certificate or a list."""

    name: bytes
    """Content of the OBJECT IDENTIFIER."""
    value: bytes
    critical: bool = False

    def encode(self) -> bytes:
        """DER of RFC 5280 §4.1, `Extension`."""
        flag = tlv(der.BOOLEAN, b"\xff") if self.critical else b""
        return sequence(
            tlv(der.OBJECT_IDENTIFIER, self.name), flag, tlv(der.OCTET_STRING, self.value)
        )


AUTHORITY: Final = Extension(
    name=BASIC_CONSTRAINTS, value=bytes.fromhex("30030101ff"), critical=True
)
AUTHORITY_OF_LEAVES: Final = Extension(
    name=BASIC_CONSTRAINTS, value=bytes.fromhex("30060101ff020100"), critical=True
)
SIGNS_CERTIFICATES: Final = Extension(
    name=KEY_USAGE, value=bytes.fromhex("03020204"), critical=True
)
SIGNS_CERTIFICATES_AND_LISTS: Final = Extension(
    name=KEY_USAGE, value=bytes.fromhex("03020106"), critical=True
)


def issue_certificate(
    *,
    serial: int,
    subject: str,
    issuer: str,
    not_before: dt.datetime,
    not_after: dt.datetime,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    extensions: Iterable[Extension],
    signing_key: rsa.RSAPrivateKey,
) -> bytes:
    """A version 3 certificate in DER. Subject and issuer are common names."""
    key = public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = sequence(
        tlv(_EXPLICIT_0, integer(2)),
        integer(serial),
        PSS_ALGORITHM,
        name(issuer),
        sequence(time(not_before), time(not_after)),
        name(subject),
        key,
        tlv(_EXPLICIT_3, sequence(*(each.encode() for each in extensions))),
    )
    return sign(signed, signing_key)


def issue_revocation_list(
    *,
    issuer: str,
    this_update: dt.datetime,
    next_update: dt.datetime | None,
    serials: Iterable[int],
    signing_key: rsa.RSAPrivateKey,
) -> bytes:
    """A version 2 revocation list in DER; `next_update` None leaves the field out."""
    entries = [sequence(integer(serial), time(this_update)) for serial in serials]
    signed = sequence(
        integer(1),
        PSS_ALGORITHM,
        name(issuer),
        time(this_update),
        b"" if next_update is None else time(next_update),
        sequence(*entries) if entries else b"",
    )
    return sign(signed, signing_key)


def sign(signed: bytes, signing_key: rsa.RSAPrivateKey) -> bytes:
    """Put a signed part, its algorithm and its signature together."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    signature = signing_key.sign(signed, pss, hashes.SHA384())
    return sequence(signed, PSS_ALGORITHM, tlv(der.BIT_STRING, b"\x00" + signature))


def name(common_name: str) -> bytes:
    """AMD's distinguished name with this common name."""
    attributes = [(der.oid(dotted), tag, value) for dotted, tag, value in _NAME]
    attributes.append((COMMON_NAME, der.UTF8_STRING, common_name))
    return sequence(
        *(
            tlv(
                der.SET,
                sequence(tlv(der.OBJECT_IDENTIFIER, attribute), tlv(tag, value.encode("ascii"))),
            )
            for attribute, tag, value in attributes
        )
    )


def time(moment: dt.datetime) -> bytes:
    """UTCTime, or GeneralizedTime from 2050 on; whole seconds."""
    utc = moment.astimezone(dt.UTC)
    if utc.year < _GENERALIZED_FROM:
        return tlv(der.UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return tlv(der.GENERALIZED_TIME, utc.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def integer(value: int) -> bytes:
    """A non-negative INTEGER in its shortest form."""
    return tlv(der.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of parts that are DER already."""
    return tlv(der.SEQUENCE, b"".join(parts))


def tlv(tag: int, content: bytes) -> bytes:
    """Tag, shortest length, content."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(digits))) + digits + content
