"""NVIDIA's reference manifests (RIM): SWID tags whose values a driver or VBIOS must measure.

Rules (docs/spec/evidence-nvidia.md §5; ISO/IEC 19770-2, TCG RIM Information Model):
- Only what the signature is over is read, and of that exactly the elements that NVIDIA writes.
- An index stands once, with its alternatives numbered from 0; a digest has 48 bytes.
- A manifest does not say whether it is a driver's or a VBIOS's: its version and product do, and
  they are compared with what the device reports. NVIDIA's names for manifests (`driver_rim_id`) are
  for fetching one: the file does not carry its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from trust.encoding import digest
from trust.errors import EvidenceFormatError
from trust.evidence.nvidia import MEASUREMENT_BYTES
from trust.verifier.certificates import Certificate
from trust.verifier.x509_ec import verify_p384_numbers
from trust.verifier.xml_signature import Element, SignedXml, parse_signed_xml

INDICES_MAX: Final = 255
ALTERNATIVES_MAX: Final = 32  # NVIDIA's have at most four

_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_HEX: Final = re.compile(r"[0-9a-f]{96}")
_WORD: Final = re.compile(r"[0-9A-Za-z_.-]{1,32}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_ACTIVE: Final = MappingProxyType({"True": True, "False": False})
_RESOURCE: Final = frozenset({"type", "index", "active", "alternatives", "name", "size"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rim:
    """One manifest, parsed and not believed."""

    encoded: bytes = field(repr=False)
    product: str
    """The chip: ``GH100``."""
    edition: str
    """``GPU`` or ``SWITCH``."""
    version: str
    """Of the driver or the VBIOS (colloquialVersion)."""
    golden: Mapping[int, tuple[bytes, ...]] = field(repr=False)
    """The good values of each active index; the device's block is one higher."""
    xml: SignedXml = field(repr=False)

    @property
    def chain(self) -> tuple[Certificate, ...]:
        """The signer's certificate first, the root last."""
        return self.xml.chain

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the file."""
        return digest(self.encoded)

    @property
    def name(self) -> str:
        """For a person."""
        return f"manifest of {self.product} {self.version}"

    def signature_fault(self) -> str | None:
        """What is wrong with digest or signature, under its own first certificate; None: nothing.

        Left to the caller: whether that certificate is anybody's.
        """
        if self.xml.digest != self.xml.stated_digest:
            return "content that its digest is not of"
        key = self.chain[0].public_key
        r, s = self.xml.signature_r, self.xml.signature_s
        if not r or not s or not verify_p384_numbers(key, r, s, self.xml.signed_info):
            return "a signature that does not verify"
        return None


def parse_rim(data: bytes) -> Rim:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with what was found."""
    xml = parse_signed_xml(data)
    root = xml.tree
    if root.tag != _SWID + "SoftwareIdentity":
        raise _wrong("a root that is no SoftwareIdentity")
    if [each.tag for each in root] != [_SWID + name for name in ("Entity", "Meta", "Payload")]:
        raise _wrong("not exactly an entity, a meta and a payload")
    entity, meta, payload = root
    if len(entity) or len(meta) or any((each.text or "").strip() for each in root.iter()):
        raise _wrong("elements or text where NVIDIA writes none")
    return Rim(
        encoded=bytes(data),
        product=_word(meta, "product"),
        edition=_word(meta, "edition"),
        version=_word(meta, "colloquialVersion"),
        golden=_golden(payload),
        xml=xml,
    )


def _golden(payload: Element) -> Mapping[int, tuple[bytes, ...]]:
    if len(payload) > INDICES_MAX:
        raise _wrong(f"{len(payload)} reference values, at most {INDICES_MAX}")
    values: dict[int, tuple[bytes, ...]] = {}
    active: set[int] = set()
    for resource in payload:
        index, hashes, counts = _resource(resource)
        if index in values:
            raise _wrong(f"index {index} stands twice")
        values[index] = hashes
        if counts:
            active.add(index)
    return MappingProxyType({index: values[index] for index in sorted(active)})


def _resource(resource: Element) -> tuple[int, tuple[bytes, ...], bool]:
    """Index, values, and whether they count."""
    if resource.tag != _SWID + "Resource" or len(resource):
        raise _wrong("a reference value that is no Resource")
    index, count = _number(resource, "index"), _number(resource, "alternatives")
    names = [f"{_HASH}{number}" for number in range(min(count, ALTERNATIVES_MAX + 1))]
    active = _ACTIVE.get(resource.get("active", ""))
    if (
        not 1 <= count <= ALTERNATIVES_MAX
        or set(resource.attrib) != _RESOURCE.union(names)
        or resource.get("type") != "Measurement"
        or resource.get("size") != str(MEASUREMENT_BYTES)
        or active is None
        or index >= INDICES_MAX
    ):
        raise _wrong(f"a reference value {index} that is not of the form that NVIDIA writes")
    texts = [str(resource.get(name)) for name in names]
    if not all(_HEX.fullmatch(text) for text in texts):
        raise _wrong(f"a digest of index {index} that is not 48 bytes in hexadecimal")
    return index, tuple(bytes.fromhex(text) for text in texts), active


def _number(element: Element, name: str) -> int:
    text = str(element.get(name, ""))
    if not _NUMBER.fullmatch(text):
        raise _wrong(f"{name} {text[:16]!r}, wanted a number")
    return int(text)


def _word(element: Element, name: str) -> str:
    text = str(element.get(name, ""))
    if not _WORD.fullmatch(text):
        raise _wrong(f"{name} {text[:32]!r}, wanted a word")
    return text


def _wrong(found: str) -> EvidenceFormatError:
    return EvidenceFormatError(f"reference manifest: {found}")
