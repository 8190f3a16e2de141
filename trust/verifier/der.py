"""A reader for the part of DER (X.690) that AMD's certificates and lists are written in.

Rules:
- Lengths are definite and in their shortest form, tags have one byte; anything else is refused.
- Every read says which tag it wants; a read of a whole value refuses trailing bytes.
- There is no recursion: the caller descends one level at a time, so depth is the caller's own.

It exists because every VCEK has the serial number 0, for which cryptography's certificate loader
warns that it will raise in a future release; and because a chain check wants the exact bytes.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from trust.errors import EvidenceFormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

ELEMENTS_MAX: Final = 4096  # entries of a revocation list; AMD's longest has one
_INTEGER_BYTES_MAX: Final = 21  # serial numbers have at most 20 (RFC 5280 §4.1.2.2), and a sign
_LENGTH_BYTES_MAX: Final = 4  # of the long form; more than any size limit of ours allows

_TIMES: Final = {
    UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
    GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """One tag, length and value."""

    tag: int
    content: bytes
    encoded: bytes
    """Tag and length included: what signatures and comparisons are over."""


def read_elements(data: bytes) -> tuple[Element, ...]:
    """Split `data` into the elements that it consists of, one after another, to its end."""
    elements: list[Element] = []
    offset = 0
    while offset < len(data):
        if len(elements) == ELEMENTS_MAX:
            raise EvidenceFormatError(f"DER: over {ELEMENTS_MAX} elements in one value")
        element = _read_at(data, offset)
        elements.append(element)
        offset += len(element.encoded)
    return tuple(elements)


def read_element(data: bytes, tag: int) -> Element:
    """Read the one element that `data` is; refuse another tag and trailing bytes."""
    element = _read_at(data, 0)
    if len(element.encoded) != len(data):
        extra = len(data) - len(element.encoded)
        raise EvidenceFormatError(f"DER: {extra} bytes after the value")
    return expect(element, tag)


def expect(element: Element, tag: int) -> Element:
    """`element` itself, if it has this tag."""
    if element.tag != tag:
        raise EvidenceFormatError(f"DER: tag {element.tag:#04x}, wanted {tag:#04x}")
    return element


def read_sequence(data: bytes) -> tuple[Element, ...]:
    """The elements of the SEQUENCE that `data` is."""
    return read_elements(read_element(data, SEQUENCE).content)


def integer(element: Element) -> int:
    """A non-negative INTEGER in its shortest form."""
    content = expect(element, INTEGER).content
    if not 1 <= len(content) <= _INTEGER_BYTES_MAX:
        raise EvidenceFormatError(f"DER: an INTEGER of {len(content)} bytes")
    if content[0] & 0x80:
        raise EvidenceFormatError("DER: a negative INTEGER")
    if len(content) > 1 and content[0] == 0 and not content[1] & 0x80:
        raise EvidenceFormatError("DER: an INTEGER that is not in its shortest form")
    return int.from_bytes(content, "big")


def boolean(element: Element) -> bool:
    """A BOOLEAN: DER knows 0x00 and 0xFF alone."""
    content = expect(element, BOOLEAN).content
    if content not in {b"\x00", b"\xff"}:
        raise EvidenceFormatError(f"DER: a BOOLEAN of {content[:4].hex() or 'no bytes'}")
    return content == b"\xff"


def bit_string(element: Element) -> bytes:
    """A BIT STRING of whole bytes."""
    content = expect(element, BIT_STRING).content
    if content[:1] != b"\x00":
        raise EvidenceFormatError("DER: a BIT STRING that is not of whole bytes")
    return content[1:]


def text(element: Element) -> str:
    """A string of printable ASCII, in any of the three types that AMD uses.

    Control characters are refused, so that a name can stand in an error's text and a log.
    """
    if element.tag not in {UTF8_STRING, PRINTABLE_STRING, IA5_STRING}:
        raise EvidenceFormatError(f"DER: tag {element.tag:#04x}, wanted a string")
    if any(not 0x20 <= byte <= 0x7E for byte in element.content):
        raise EvidenceFormatError("DER: a string that is not printable ASCII")
    return element.content.decode("ascii")


def time(element: Element) -> dt.datetime:
    """A UTCTime or GeneralizedTime in the form of RFC 5280 §4.1.2.5: seconds, and Z."""
    pattern = _TIMES.get(element.tag)
    match = pattern.fullmatch(element.content) if pattern else None
    if match is None:
        raise EvidenceFormatError(f"DER: not a time: {element.content[:20]!r}")
    year, month, day, hour, minute, second = (int(group) for group in match.groups())
    if element.tag == UTC_TIME:
        year += 2000 if year < 50 else 1900
    try:
        return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError as error:
        raise EvidenceFormatError(f"DER: not a time: {element.content!r}") from error


def oid(dotted: str) -> bytes:
    """Content bytes of an OBJECT IDENTIFIER, from its dotted form (X.690 §8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return bytes(content)


def _read_at(data: bytes, offset: int) -> Element:
    if len(data) < offset + 2:
        raise EvidenceFormatError("DER: cut off before a length")
    tag, length = data[offset], data[offset + 1]
    start = offset + 2
    if tag & 0x1F == 0x1F:
        raise EvidenceFormatError("DER: a tag of more than one byte")
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= _LENGTH_BYTES_MAX:
            raise EvidenceFormatError(f"DER: a length of {count} bytes, or an indefinite one")
        digits = data[start : start + count]
        length = int.from_bytes(digits, "big")
        if len(digits) < count or digits[0] == 0 or length < 0x80:
            raise EvidenceFormatError("DER: a length that is not in its shortest form")
        start += count
    if len(data) < start + length:
        raise EvidenceFormatError(f"DER: cut off: {len(data) - start} of {length} bytes")
    end = start + length
    return Element(tag=tag, content=data[start:end], encoded=data[offset:end])
