"""AMD's certificates and revocation lists (X.509, RFC 5280), parsed completely and not believed.

Rules:
- A certificate has at most `CERTIFICATE_BYTES_MAX` bytes and a list `LIST_BYTES_MAX`; size is
  looked at first.
- A certificate is version 3 with extensions; each extension stands once; a critical one that we do
  not know is refused. A list is version 2; no critical extension of a list or entry is known.
- The signature algorithm inside the signed part equals the one outside of it. *Which* algorithm is
  good is for `trust.verifier.snp` to say.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from trust.encoding import digest
from trust.errors import EvidenceFormatError, SizeLimitError
from trust.verifier import der

CERTIFICATE_BYTES_MAX: Final = 8 * 1024  # AMD's largest has 1,670
LIST_BYTES_MAX: Final = 256 * 1024  # AMD's largest has 890

BASIC_CONSTRAINTS: Final = der.oid("2.5.29.19")
KEY_USAGE: Final = der.oid("2.5.29.15")
COMMON_NAME: Final = der.oid("2.5.4.3")
_CRITICAL_KNOWN: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE})
_KEY_CERT_SIGN: Final = 0x04  # bit 5 of KeyUsage, in its first byte
_CRL_SIGN: Final = 0x02  # bit 6
_VERSION_3: Final = bytes.fromhex("a003020102")
_EXPLICIT_0: Final = 0xA0
_EXPLICIT_3: Final = 0xA3

# AlgorithmIdentifier of RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt (RFC 4055
# §3.1). AMD writes the default trailer field in its roots and leaves it out elsewhere.
_PSS_PARAMETERS: Final = (
    "a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500"
    "a203020130"
)
PSS_SHA384_SALT48: Final = frozenset(
    {
        bytes.fromhex("304106092a864886f70d01010a3034" + _PSS_PARAMETERS),
        bytes.fromhex("304606092a864886f70d01010a3039" + _PSS_PARAMETERS + "a303020101"),
    }
)
_SHA384_BYTES: Final = 48

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What was signed, how, and the signature; whoever checks it brings the key."""

    signed: bytes = field(repr=False)
    algorithm: bytes
    """The whole AlgorithmIdentifier, in DER."""
    value: bytes = field(repr=False)

    def holds_under(self, key: PublicKey) -> bool:
        """RSASSA-PSS with SHA-384 and 48 bytes of salt under a 4096-bit RSA key; no other way."""
        if self.algorithm not in PSS_SHA384_SALT48:
            return False
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
            return False
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=_SHA384_BYTES)
        try:
            key.verify(self.value, self.signed, pss, hashes.SHA384())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """One certificate."""

    encoded: bytes = field(repr=False)
    serial: int
    issuer: bytes = field(repr=False)
    """Name of the issuer, in DER: names are compared by their bytes."""
    issuer_common_name: str
    subject: bytes = field(repr=False)
    common_name: str
    not_before: dt.datetime
    not_after: dt.datetime
    public_key: PublicKey = field(repr=False)
    extensions: Mapping[bytes, bytes] = field(repr=False)
    """Value by the OBJECT IDENTIFIER's content bytes."""
    signature: Signature

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the whole certificate: 32 bytes."""
        return digest(self.encoded)

    def may_sign_certificates(self) -> bool:
        """Says of itself that it is an authority, and that its key signs certificates."""
        return self._is_authority() and bool(self._key_usage() & _KEY_CERT_SIGN)

    def may_sign_lists(self) -> bool:
        """Says of itself that it is an authority, and that its key signs revocation lists."""
        return self._is_authority() and bool(self._key_usage() & _CRL_SIGN)

    def _is_authority(self) -> bool:
        value = self.extensions.get(BASIC_CONSTRAINTS)
        if value is None:
            return False
        elements = der.read_sequence(value)
        return bool(elements) and elements[0].tag == der.BOOLEAN and der.boolean(elements[0])

    def _key_usage(self) -> int:
        value = self.extensions.get(KEY_USAGE)
        if value is None:
            return 0
        content = der.read_element(value, der.BIT_STRING).content
        return content[1] if len(content) >= 2 else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RevocationList:
    """One list of revoked serial numbers."""

    encoded: bytes = field(repr=False)
    issuer: bytes = field(repr=False)
    issuer_common_name: str
    this_update: dt.datetime
    next_update: dt.datetime | None
    """None if the list does not say when it ends: such a list is never fresh."""
    serials: frozenset[int]
    signature: Signature


def parse_certificate(
    data: bytes, *, critical_known: frozenset[bytes] = _CRITICAL_KNOWN
) -> Certificate:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with what was found.

    `critical_known` are the critical extensions that the caller looks at; any other is refused.
    """
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise SizeLimitError(f"certificate: {len(data)} bytes, at most {CERTIFICATE_BYTES_MAX}")
    signed, signature = _signed(data, "certificate")
    elements = der.read_elements(signed.content)
    if len(elements) != 8 or elements[0].encoded != _VERSION_3:
        raise EvidenceFormatError("certificate: not version 3 with extensions, or with more")
    _version, serial, algorithm, issuer, validity, subject, key, extensions = elements
    if algorithm.encoded != signature.algorithm:
        raise EvidenceFormatError("certificate: two different signature algorithms")
    times = der.read_sequence(validity.encoded)
    if len(times) != 2:
        raise EvidenceFormatError(f"certificate: {len(times)} times in its validity, wanted 2")
    return Certificate(
        encoded=data,
        serial=der.integer(serial),
        issuer=issuer.encoded,
        issuer_common_name=_common_name(issuer),
        subject=subject.encoded,
        common_name=_common_name(subject),
        not_before=der.time(times[0]),
        not_after=der.time(times[1]),
        public_key=_public_key(key.encoded),
        extensions=_extensions(der.expect(extensions, _EXPLICIT_3).content, critical_known),
        signature=signature,
    )


def parse_revocation_list(data: bytes) -> RevocationList:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with what was found."""
    if len(data) > LIST_BYTES_MAX:
        raise SizeLimitError(f"revocation list: {len(data)} bytes, at most {LIST_BYTES_MAX}")
    signed, signature = _signed(data, "revocation list")
    elements = list(der.read_elements(signed.content))
    if len(elements) < 5 or der.integer(elements[0]) != 1:
        raise EvidenceFormatError("revocation list: not version 2, or cut short")
    _version, algorithm, issuer, this_update, *rest = elements
    if algorithm.encoded != signature.algorithm:
        raise EvidenceFormatError("revocation list: two different signature algorithms")
    next_update = None
    if rest and rest[0].tag in {der.UTC_TIME, der.GENERALIZED_TIME}:
        next_update = der.time(rest.pop(0))
    serials: frozenset[int] = frozenset()
    if rest and rest[0].tag == der.SEQUENCE:
        serials = frozenset(_entry(e) for e in der.read_elements(rest.pop(0).content))
    if rest:
        # No critical extension is known: a delta list, or one of an indirect issuer, is refused.
        _extensions(der.expect(rest.pop(0), _EXPLICIT_0).content, frozenset())
    if rest:
        raise EvidenceFormatError("revocation list: more after its extensions")
    return RevocationList(
        encoded=data,
        issuer=issuer.encoded,
        issuer_common_name=_common_name(issuer),
        this_update=der.time(this_update),
        next_update=next_update,
        serials=serials,
        signature=signature,
    )


def _signed(data: bytes, what: str) -> tuple[der.Element, Signature]:
    elements = der.read_sequence(data)
    if len(elements) != 3:
        raise EvidenceFormatError(f"{what}: {len(elements)} parts, wanted 3")
    signed, algorithm, value = elements
    signature = Signature(
        signed=signed.encoded, algorithm=algorithm.encoded, value=der.bit_string(value)
    )
    return der.expect(signed, der.SEQUENCE), signature


def _entry(entry: der.Element) -> int:
    elements = der.read_sequence(entry.encoded)
    if not 2 <= len(elements) <= 3:
        raise EvidenceFormatError(f"revocation list: an entry of {len(elements)} parts")
    der.time(elements[1])
    if len(elements) == 3:
        _extensions(elements[2].encoded, frozenset())
    return der.integer(elements[0])


def _extensions(data: bytes, critical_known: frozenset[bytes]) -> dict[bytes, bytes]:
    values: dict[bytes, bytes] = {}
    for extension in der.read_sequence(data):
        elements = der.read_sequence(extension.encoded)
        if not 2 <= len(elements) <= 3:
            raise EvidenceFormatError(f"extension of {len(elements)} parts, wanted 2 or 3")
        name = der.expect(elements[0], der.OBJECT_IDENTIFIER).content
        if name in values:
            raise EvidenceFormatError(f"extension {name.hex()} stands twice")
        critical = len(elements) == 3 and der.boolean(elements[1])
        if critical and name not in critical_known:
            raise EvidenceFormatError(f"extension {name.hex()} is critical and unknown")
        values[name] = der.expect(elements[-1], der.OCTET_STRING).content
    return values


def _common_name(name: der.Element) -> str:
    found = []
    for relative in der.read_sequence(name.encoded):
        for attribute in der.read_elements(der.expect(relative, der.SET).content):
            elements = der.read_sequence(attribute.encoded)
            if len(elements) != 2:
                raise EvidenceFormatError(f"name: an attribute of {len(elements)} parts")
            if der.expect(elements[0], der.OBJECT_IDENTIFIER).content == COMMON_NAME:
                found.append(der.text(elements[1]))
    if len(found) != 1:
        raise EvidenceFormatError(f"name: {len(found)} common names, wanted 1")
    return found[0]


def _public_key(encoded: bytes) -> PublicKey:
    try:
        key = load_der_public_key(encoded)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceFormatError("certificate: its public key cannot be read") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise EvidenceFormatError(f"certificate: a key of type {type(key).__name__}")
    return key
