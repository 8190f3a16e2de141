"""OCSP responses (RFC 6960) that travel with the evidence, parsed and checked in full.

Rules (docs/spec/evidence-nvidia.md §4):
- A response has at most `RESPONSE_BYTES_MAX` bytes, is *successful* and about one certificate. It
  names that by SHA-256 or SHA-384 of its issuer's name and key, and by serial: all three are ours.
- It is signed by the issuer, or by whom the issuer certified for OCSP and for no certificates.
- thisUpdate <= now < nextUpdate, and nextUpdate is there.
- Nobody asks anybody here, so a nonce in a response says nothing to us: its age alone counts.
- NVIDIA's service says *good* of serials that it never gave out. This is a revocation list, no
  register: it never stands in for the chain.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from trust.encoding import digest
from trust.errors import EvidenceFormatError, SizeLimitError
from trust.verifier import der
from trust.verifier.certificates import (
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    Certificate,
    Signature,
    parse_certificate,
)
from trust.verifier.x509_ec import (
    EXTENDED_KEY_USAGE,
    holds_under,
    key_bits,
    signs_no_certificates,
)

RESPONSE_BYTES_MAX: Final = (
    16 * 1024
)  # NVIDIA's have about 1.2 KiB, with the responder's certificate
_CERTIFICATES_MAX: Final = 4

OCSP_SIGNING: Final = der.oid("1.3.6.1.5.5.7.3.9")
_BASIC: Final = der.oid("1.3.6.1.5.5.7.48.1.1")
_HASHES: Final = {
    der.oid("2.16.840.1.101.3.4.2.1"): hashlib.sha256,
    der.oid("2.16.840.1.101.3.4.2.2"): hashlib.sha384,
}
_RESPONDER_CRITICAL: Final = frozenset({BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE})

_ENUMERATED: Final = 0x0A
_SUCCESSFUL: Final = b"\x00"
_GOOD: Final = 0x80
_REVOKED: Final = 0xA1
_UNKNOWN: Final = 0x82
_EXPLICIT: Final = (0xA0, 0xA1, 0xA2)
_CERTIFICATE_HOLD: Final = 6


class Status(enum.Enum):
    """What a response says of a certificate."""

    GOOD = "good"
    ON_HOLD = "revoked for a time (certificateHold)"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class OcspResponse:
    """One response about one certificate; not believed."""

    encoded: bytes = field(repr=False)
    hash_algorithm: bytes
    """OBJECT IDENTIFIER of the hash in the two fields below."""
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    status: Status
    this_update: dt.datetime
    next_update: dt.datetime | None
    """None: newer word may exist at any time, and so it is never fresh."""
    responder_name: bytes | None
    """Name in DER; None: the responder is named by its key."""
    responder_key_hash: bytes | None
    """SHA-1 of the responder's key, a mere name; None: it is named by its name."""
    certificates: tuple[Certificate, ...]
    """Those that came along: of a responder that the issuer certified."""
    signature: Signature

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole response."""
        return digest(self.encoded)

    def is_about(self, certificate: Certificate, issuer: Certificate) -> bool:
        """It names this certificate of this issuer, by all three."""
        hashed = _HASHES[self.hash_algorithm]
        return (
            self.serial == certificate.serial
            and self.issuer_name_hash == hashed(issuer.subject).digest()
            and self.issuer_key_hash == hashed(key_bits(issuer)).digest()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the stapled responses say of a chain."""

    fault: str | None
    """Why it is not to be believed; None: every certificate that is asked about is good."""
    on_hold: tuple[str, ...]
    """Names of certificates that are revoked for a time."""
    used: tuple[OcspResponse, ...] = field(repr=False)
    ends: dt.datetime | None
    """When the first of them, or of their signers, ends; None: none was used."""


def parse_ocsp(data: bytes) -> OcspResponse:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with what was found."""
    # (1) Size, and whether the service answered at all.
    if len(data) > RESPONSE_BYTES_MAX:
        raise SizeLimitError(f"OCSP response: {len(data)} bytes, at most {RESPONSE_BYTES_MAX}")
    outer = der.read_sequence(data)
    if not outer or der.expect(outer[0], _ENUMERATED).content != _SUCCESSFUL or len(outer) != 2:
        raise EvidenceFormatError("OCSP response: not a successful one")
    kind, content = _exactly(der.read_sequence(der.expect(outer[1], _EXPLICIT[0]).content), 2)
    if der.expect(kind, der.OBJECT_IDENTIFIER).content != _BASIC:
        raise EvidenceFormatError("OCSP response: not a basic one")
    # (2) The signed part, the signature, certificates.
    parts = der.read_sequence(der.expect(content, der.OCTET_STRING).content)
    if not 3 <= len(parts) <= 4:
        raise EvidenceFormatError(f"OCSP response: {len(parts)} parts, wanted 3 or 4")
    signature = Signature(
        signed=der.expect(parts[0], der.SEQUENCE).encoded,
        algorithm=parts[1].encoded,
        value=der.bit_string(parts[2]),
    )
    # (3) Who, and about whom. A version is not written: it is 1, the default (X.690 §11.5).
    responder, produced_at, singles, *extensions = _at_least(der.read_elements(parts[0].content), 3)
    der.time(produced_at)
    if len(extensions) > 1:
        raise EvidenceFormatError("OCSP response: more after its extensions")
    for each in extensions:
        _refuse_critical(each)
    (single,) = _exactly(der.read_sequence(singles.encoded), 1)
    name, key_hash = _responder(responder)
    identity, status, this_update, *rest = _at_least(der.read_sequence(single.encoded), 3)
    next_update = None
    if rest and rest[0].tag == _EXPLICIT[0]:
        (inner,) = _exactly(der.read_elements(rest.pop(0).content), 1)
        next_update = der.time(inner)
    if rest and rest[0].tag == _EXPLICIT[1]:
        _refuse_critical(rest.pop(0))
    if rest:
        raise EvidenceFormatError("OCSP response: more after an answer")
    algorithm, name_hash, issuer_key_hash, serial = _exactly(der.read_sequence(identity.encoded), 4)
    return OcspResponse(
        encoded=bytes(data),
        hash_algorithm=_hash_algorithm(algorithm),
        issuer_name_hash=der.expect(name_hash, der.OCTET_STRING).content,
        issuer_key_hash=der.expect(issuer_key_hash, der.OCTET_STRING).content,
        serial=der.integer(serial),
        status=_status(status),
        this_update=der.time(this_update),
        next_update=next_update,
        responder_name=name,
        responder_key_hash=key_hash,
        certificates=_certificates(parts[3]) if len(parts) == 4 else (),
        signature=signature,
    )


def standing_of(
    chain: Sequence[Certificate],
    asked: Sequence[int],
    responses: Sequence[OcspResponse],
    now: dt.datetime,
) -> Standing:
    """What `responses` say of a chain (leaf first, root last) at `now`.

    Each certificate whose place stands in `asked` needs a response. What is there about another
    one counts too. Several about one must all be good: nobody chooses between two answers.
    """
    faults: list[str] = []
    on_hold: list[str] = []
    used: list[OcspResponse] = []
    ends: list[dt.datetime] = []
    for place, (certificate, issuer) in enumerate(pairwise(chain)):
        name = certificate.common_name[:64]
        about = [each for each in responses if each.is_about(certificate, issuer)]
        if not about and place in asked:
            faults.append(f"{name}: no response")
        for response in about:
            fault = response_fault(response, issuer, now)
            if fault is not None:
                faults.append(f"{name}: {fault}")
                continue
            used.append(response)
            ends.extend(_ends(response, issuer))
            if response.status is Status.ON_HOLD:
                on_hold.append(name)
            elif response.status is not Status.GOOD:
                faults.append(f"{name}: {response.status.value}")
    return Standing(
        fault=faults[0] if faults else None,
        on_hold=tuple(on_hold),
        used=tuple(used),
        ends=min(ends, default=None),
    )


def response_fault(response: OcspResponse, issuer: Certificate, now: dt.datetime) -> str | None:
    """Why a response about one of `issuer`'s certificates is not to be believed; None: it is."""
    if response.next_update is None:
        return "a response that never ends"
    if not response.this_update <= now < response.next_update:
        return f"a response of {response.this_update} to {response.next_update}"
    signer = _signer(response, issuer)
    if signer is None:
        return "a response by nobody whom its issuer certified for it"
    if signer is not issuer:
        if signer.issuer != issuer.subject or not holds_under(signer.signature, issuer.public_key):
            return f"a responder {signer.common_name[:64]} that the issuer did not certify"
        if not _is_for_ocsp(signer):
            return f"a responder {signer.common_name[:64]} that is not certified for OCSP alone"
        if not signer.not_before <= now <= signer.not_after:
            return f"a responder of {signer.not_before} to {signer.not_after}"
    if not holds_under(response.signature, signer.public_key):
        return "a response with a signature that does not verify"
    return None


def _signer(response: OcspResponse, issuer: Certificate) -> Certificate | None:
    """The issuer, or the one certificate that came along, by the name that the response gives."""

    def named(certificate: Certificate) -> bool:
        if response.responder_name is not None:
            return response.responder_name == certificate.subject
        # SHA-1 because RFC 6960 §4.2.1 says so; it picks a key, and the signature is what counts.
        name = hashlib.sha1(key_bits(certificate), usedforsecurity=False).digest()
        return response.responder_key_hash == name

    matching = [each for each in (issuer, *response.certificates) if named(each)]
    return matching[0] if len(matching) == 1 else None


def _is_for_ocsp(certificate: Certificate) -> bool:
    """Its extensions parse, and say that its key signs OCSP responses and no certificates."""
    value = certificate.extensions.get(EXTENDED_KEY_USAGE)
    try:
        purposes = () if value is None else der.read_sequence(value)
        certifies = not signs_no_certificates(certificate)
    except EvidenceFormatError:
        return False
    return OCSP_SIGNING in {each.content for each in purposes} and not certifies


def _ends(response: OcspResponse, issuer: Certificate) -> list[dt.datetime]:
    signer = _signer(response, issuer)
    return (
        []
        if signer is None or response.next_update is None
        else [
            response.next_update,
            signer.not_after,
        ]
    )


def _responder(element: der.Element) -> tuple[bytes | None, bytes | None]:
    if element.tag == _EXPLICIT[1]:
        return der.read_element(element.content, der.SEQUENCE).encoded, None
    inner = der.read_element(der.expect(element, _EXPLICIT[2]).content, der.OCTET_STRING)
    return None, inner.content


def _status(element: der.Element) -> Status:
    if element.tag == _REVOKED:
        return _revoked(element)
    status = {_GOOD: Status.GOOD, _UNKNOWN: Status.UNKNOWN}.get(element.tag)
    if status is None or element.content:
        raise EvidenceFormatError(f"OCSP response: status of tag {element.tag:#04x}")
    return status


def _revoked(element: der.Element) -> Status:
    moment, *reasons = _at_least(der.read_elements(element.content), 1)
    der.time(moment)
    if not reasons:
        return Status.REVOKED
    (reason,) = _exactly(reasons, 1)
    inner = der.read_element(der.expect(reason, _EXPLICIT[0]).content, _ENUMERATED)
    on_hold = inner.content == bytes((_CERTIFICATE_HOLD,))
    return Status.ON_HOLD if on_hold else Status.REVOKED


def _hash_algorithm(element: der.Element) -> bytes:
    name, *parameters = _at_least(der.read_sequence(element.encoded), 1)
    found = der.expect(name, der.OBJECT_IDENTIFIER).content
    if found not in _HASHES or any(each.encoded != b"\x05\x00" for each in parameters):
        raise EvidenceFormatError("OCSP response: CertID not by SHA-256 or SHA-384")
    return found


def _certificates(element: der.Element) -> tuple[Certificate, ...]:
    found = der.read_sequence(der.expect(element, _EXPLICIT[0]).content)
    if len(found) > _CERTIFICATES_MAX:
        raise EvidenceFormatError(
            f"OCSP response: {len(found)} certificates, at most {_CERTIFICATES_MAX}"
        )
    return tuple(
        parse_certificate(each.encoded, critical_known=_RESPONDER_CRITICAL) for each in found
    )


def _refuse_critical(element: der.Element) -> None:
    """No critical extension of a response or an answer is known; a nonce is not critical."""
    (extensions,) = _exactly(der.read_elements(element.content), 1)
    for extension in der.read_sequence(extensions.encoded):
        parts = der.read_sequence(extension.encoded)
        if not 2 <= len(parts) <= 3 or (len(parts) == 3 and der.boolean(parts[1])):
            raise EvidenceFormatError("OCSP response: an extension that is critical, or none")


def _exactly(elements: Sequence[der.Element], count: int) -> Sequence[der.Element]:
    if len(elements) != count:
        raise EvidenceFormatError(f"OCSP response: {len(elements)} parts, wanted {count}")
    return elements


def _at_least(elements: Sequence[der.Element], count: int) -> Sequence[der.Element]:
    if len(elements) < count:
        raise EvidenceFormatError(f"OCSP response: {len(elements)} parts, wanted {count} or more")
    return elements
