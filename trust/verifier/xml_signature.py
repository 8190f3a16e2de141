"""XML with one enveloped signature, as NVIDIA's reference manifests are (XMLDSig, C14N 1.1).

Rules (docs/spec/evidence-nvidia.md §5):
- At most `XML_BYTES_MAX` bytes of ASCII, without ``<!`` (no DTD, no entity, no comment, no CDATA)
  and without processing instructions: what a reader sees is what was signed. Size comes first, and
  `_MARKUP_MAX`: canonical form takes time by elements and namespaces, not by bytes.
- No attribute of the XML namespace: then Canonical XML 1.0, which lxml makes, is 1.1.
- One Signature, the root's own child; in it exactly the elements below, each with its one
  algorithm; one Reference, and that of the whole document.
- What is read is the canonical form that the digest is over, parsed anew, never the file: nothing
  that the signature leaves out can be read by mistake.
- Nothing is believed here: `trust.verifier.rims` compares the digest and checks the signature.
"""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from lxml import etree

from trust.errors import EvidenceFormatError, SizeLimitError
from trust.verifier.certificates import Certificate
from trust.verifier.x509_ec import CHAIN_LENGTH_MAX, parse_base64_certificate

XML_BYTES_MAX: Final = 512 * 1024  # NVIDIA's have up to 26 KiB
# NVIDIA's have 6 namespace declarations, 99 tags and some 250 attributes. Canonical form costs
# (elements × namespaces in scope), so size alone bounds no time: 500 KiB can be made to take 26 s.
_MARKUP_MAX: Final = MappingProxyType({b"xmlns": 16, b"<": 4096, b"=": 8192})
_DECLARATION: Final = re.compile(rb"<\?xml[^<>?]*\?>\s*")

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_XML_NAMESPACE: Final = "{http://www.w3.org/XML/1998/namespace}"
_C14N11: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_SIGNATURE_BYTES: Final = 96  # r and s, 48 bytes each (RFC 4051 §2.3.6)
_SHA384_BYTES: Final = 48

Element = Any
"""An lxml element: its own types stand in a package that is none of ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedXml:
    """A document, and what its signature says; nothing is compared yet."""

    tree: Element = field(repr=False)
    """The root of what the digest is over: the document without its signature."""
    digest: bytes
    """SHA-384 of that, in canonical form."""
    stated_digest: bytes
    """What the signature says that it is."""
    signed_info: bytes = field(repr=False)
    """What is signed: SignedInfo in canonical form."""
    signature_r: int = field(repr=False)
    signature_s: int = field(repr=False)
    chain: tuple[Certificate, ...] = field(repr=False)
    """Of the signer, its own certificate first."""


def parse_signed_xml(data: bytes) -> SignedXml:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with what was found."""
    # (1) Size and alphabet, before the parser sees a byte.
    root = _parse(data)
    # (2) The one signature, in its place.
    signatures = list(root.iter(_DS + "Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise _wrong(f"{len(signatures)} signatures, wanted one, of the document itself")
    signature = signatures[0]
    # (3) What it says, element by element.
    info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    stated = _stated_digest(info)
    numbers = _base64(value, _SIGNATURE_BYTES)
    certificates = _certificates(key_info)
    # (4) Both canonical forms. SignedInfo carries the namespaces of the place where it stands.
    signed_info = _canonical(info)
    without = copy.deepcopy(root)
    _remove(without.find(_DS + "Signature"))
    content = _canonical(without)
    return SignedXml(
        tree=_parse(content),
        digest=hashlib.sha384(content).digest(),
        stated_digest=stated,
        signed_info=signed_info,
        signature_r=int.from_bytes(numbers[:48], "big"),
        signature_s=int.from_bytes(numbers[48:], "big"),
        chain=certificates,
    )


def _parse(data: bytes) -> Element:
    if len(data) > XML_BYTES_MAX:
        raise SizeLimitError(f"XML: {len(data)} bytes, at most {XML_BYTES_MAX}")
    declaration = _DECLARATION.match(data)
    body = data[declaration.end() :] if declaration else data
    if not body.isascii() or b"\x00" in body or b"<!" in body or b"<?" in body:
        raise _wrong("bytes that are no ASCII, a DTD, a comment, CDATA or an instruction")
    for mark, most in _MARKUP_MAX.items():
        if body.count(mark) > most:
            raise _wrong(f"{body.count(mark)} times {mark.decode()!r}, at most {most}")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
    )
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _wrong("it does not parse") from error
    for each in root.iter():
        if any(name.startswith(_XML_NAMESPACE) for name in each.attrib):
            raise _wrong("an attribute of the XML namespace")
    return root


def _canonical(element: Element) -> bytes:
    try:
        return bytes(etree.tostring(element, method="c14n"))
    except etree.C14NError as error:  # a namespace without a scheme (C14N 1.1 §1.3)
        raise _wrong("it has no canonical form") from error


def _stated_digest(info: Element) -> bytes:
    """The digest in SignedInfo, whose algorithms are the ones that we know, in their order."""
    canonical, method, reference = _children(
        info, "CanonicalizationMethod", "SignatureMethod", "Reference"
    )
    transforms, digest_method, digest_value = _children(
        reference, "Transforms", "DigestMethod", "DigestValue"
    )
    _algorithm(canonical, _C14N11)
    _algorithm(method, _ECDSA_SHA384)
    if dict(reference.attrib) != {"URI": ""}:
        raise _wrong("a Reference that is not to the whole document")
    enveloped, canonical_again = _children(transforms, "Transform", "Transform")
    _algorithm(enveloped, _ENVELOPED)
    _algorithm(canonical_again, _C14N11)
    _algorithm(digest_method, _SHA384)
    return _base64(digest_value, _SHA384_BYTES)


def _certificates(key_info: Element) -> tuple[Certificate, ...]:
    (held,) = _children(key_info, "X509Data")
    if not 2 <= len(held) <= CHAIN_LENGTH_MAX:
        raise _wrong(f"{len(held)} certificates, wanted 2 to {CHAIN_LENGTH_MAX}")
    return tuple(
        parse_base64_certificate(_text(each))
        for each in _children(held, *("X509Certificate",) * len(held))
    )


def _children(parent: Element, *names: str) -> list[Element]:
    """The children of `parent`, which are these, in this order, and nothing between them."""
    found = [each.tag for each in parent]
    wanted = [_DS + name for name in names]
    gaps = [parent.text, *(each.tail for each in parent)]
    if found != wanted or any((gap or "").strip() for gap in gaps):
        raise _wrong(f"{_local(parent)} without exactly {', '.join(names)}")
    return list(parent)


def _algorithm(element: Element, wanted: str) -> None:
    if dict(element.attrib) != {"Algorithm": wanted} or len(element) or _text(element).strip():
        found = element.get("Algorithm", "none")[:96]
        raise _wrong(f"{_local(element)} {found!r}, wanted {wanted!r} alone")


def _base64(element: Element, size: int) -> bytes:
    if len(element) or element.attrib:
        raise _wrong(f"{_local(element)} with more in it than base64")
    try:
        value = base64.b64decode(b"".join(_text(element).split()), validate=True)
    except binascii.Error as error:
        raise _wrong(f"{_local(element)} is not base64") from error
    if len(value) != size:
        raise _wrong(f"{_local(element)} of {len(value)} bytes, wanted {size}")
    return value


def _text(element: Element) -> bytes:
    return (element.text or "").encode("utf-8")


def _remove(signature: Element) -> None:
    """Take it out and leave the text behind it where it stands (XMLDSig §6.6.4)."""
    parent, before, tail = signature.getparent(), signature.getprevious(), signature.tail or ""
    if before is None:
        parent.text = (parent.text or "") + tail
    else:
        before.tail = (before.tail or "") + tail
    parent.remove(signature)


def _local(element: Element) -> str:
    return str(etree.QName(element).localname)[:64]


def _wrong(found: str) -> EvidenceFormatError:
    return EvidenceFormatError(f"signed XML: {found}")
