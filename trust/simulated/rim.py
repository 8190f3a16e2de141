"""Writes reference manifests (RIM) as NVIDIA's: SWID tags with an enveloped XML signature.

Rules:
- Written as text, in the file's own form and in the canonical one (C14N 1.1) from the same tree, so
  that what is signed does not depend on the library with which a verifier canonicalises.
- ECDSA on P-384 over SHA-384, algorithms by the names that NVIDIA's files give them.
- The writer checks nothing. A test changes `Manifest` before it is signed, or the text afterwards.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trust.simulated.nvidia_certificates import Authority
from trust.simulated.nvidia_models import (
    DRIVER_INDICES,
    MEASUREMENT_BYTES,
    VBIOS_INDICES,
    GpuModel,
    golden,
    made_up,
)

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
RIM_MODEL: Final = (
    "https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/"
)
SHA384: Final = "http://www.w3.org/2001/04/xmlenc#sha384"  # NVIDIA's namespace of digests
XMLDSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
C14N11: Final = "http://www.w3.org/2006/12/xml-c14n11"
ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
DIGEST_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
UNUSED_INDEX: Final = 63
"""Listed as inactive, as most of the lines of NVIDIA's files are."""

_PREFIXES: Final = MappingProxyType(
    {"": SWID, "ns0": SWID, "ns1": RIM_MODEL, "ns2": SHA384, "SHA384": SHA384, "ds": XMLDSIG}
)
_SIGNATURE_NUMBER_BYTES: Final = 48
_BASE64_LINE: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One reference value: the good digests at one index."""

    index: int
    active: bool
    values: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a manifest says."""

    chip: str
    version: str
    """Of the driver or the VBIOS: ``colloquialVersion``."""
    tag_id: bytes
    resources: tuple[Resource, ...]


def driver_manifest(model: GpuModel) -> Manifest:
    """The good values that a driver loads."""
    return _manifest(model, version=model.driver, indices=DRIVER_INDICES)


def vbios_manifest(model: GpuModel) -> Manifest:
    """The good values that a VBIOS loads."""
    return _manifest(model, version=model.vbios, indices=VBIOS_INDICES)


def _manifest(model: GpuModel, *, version: str, indices: Sequence[int]) -> Manifest:
    zeros = bytes(MEASUREMENT_BYTES)
    return Manifest(
        chip=model.chip,
        version=version,
        tag_id=made_up(model, "tag", version),
        resources=(
            *(Resource(index=i, active=True, values=golden(model, i)) for i in indices),
            Resource(index=UNUSED_INDEX, active=False, values=(zeros,)),
        ),
    )


def sign_manifest(manifest: Manifest, chain: Sequence[Authority]) -> bytes:
    """The manifest as XML, signed by the first of `chain`; the chain stands in it, root last."""
    return sign_tree(tree(manifest), chain)


# --- the tree ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """An element: no text but white space, which this writer gives it."""

    name: str
    """With its prefix."""
    declares: tuple[str, ...] = ()
    """Prefixes whose namespaces it declares; "" is the default one."""
    attributes: tuple[tuple[str, str], ...]
    """(name with prefix, value), in the file's order."""
    children: tuple[Element, ...] = ()


def tree(manifest: Manifest) -> Element:
    """The manifest without a signature."""
    meta = (
        ("colloquialVersion", manifest.version),
        ("edition", "GPU"),
        ("product", manifest.chip),
        ("revision", "r1"),
        ("PayloadType", "direct"),
        ("ns1:BindingSpec", "RIMIM"),
        ("ns1:BindingSpecVersion", "1.01"),
        ("ns1:PlatformManufacturerId", "5703"),
        ("ns1:PlatformManufacturerStr", "NVIDIA Corporation"),
        ("ns1:PlatformModel", manifest.chip),
        ("ns1:FirmwareManufacturer", "NVIDIA Corporation"),
        ("ns1:FirmwareManufacturerId", "5703"),
    )
    creator = (("name", "NVIDIA Corporation"), ("role", "softwareCreator tagCreator"))
    return Element(
        name="SoftwareIdentity",
        declares=("", "ns0", "ns2"),
        attributes=(
            ("corpus", "false"),
            ("name", manifest.chip),
            ("patch", "false"),
            ("supplemental", "false"),
            ("tagId", manifest.tag_id.hex()),
            ("version", "1.0"),
            ("tagVersion", "0"),
        ),
        children=(
            Element(name="ns0:Entity", attributes=creator),
            Element(name="ns0:Meta", declares=("ns1",), attributes=meta),
            Element(
                name="ns0:Payload",
                declares=("SHA384",),
                attributes=(),
                children=tuple(_resource(each) for each in manifest.resources),
            ),
        ),
    )


def _resource(resource: Resource) -> Element:
    return Element(
        name="ns0:Resource",
        attributes=(
            ("type", "Measurement"),
            ("index", str(resource.index)),
            ("active", str(resource.active)),
            ("alternatives", str(len(resource.values))),
            *((f"ns2:Hash{n}", value.hex()) for n, value in enumerate(resource.values)),
            ("name", f"Measurement_{resource.index}"),
            ("size", str(MEASUREMENT_BYTES)),
        ),
    )


# --- text ----------------------------------------------------------------------------------------


def write(element: Element, *, canonical: bool, depth: int = 0) -> str:
    """The element as text: in the file's form, or in the form of C14N 1.1."""
    declared = [(f"xmlns:{p}" if p else "xmlns", _PREFIXES[p]) for p in element.declares]
    attributes = list(element.attributes)
    if canonical:  # namespaces by prefix, then attributes by namespace and local name (§2.3)
        declared.sort(key=lambda each: each[0])
        attributes.sort(key=lambda each: _place(each[0]))
    head = element.name + "".join(
        f' {name}="{escape(value, {chr(34): "&quot;"})}"'
        if canonical
        else f" {name}={quoteattr(value)}"
        for name, value in (*declared, *attributes)
    )
    if not element.children:
        return f"<{head}></{element.name}>" if canonical else f"<{head}/>"
    indent = "\n" + "    " * (depth + 1)
    inner = "".join(
        indent + write(child, canonical=canonical, depth=depth + 1) for child in element.children
    )
    return f"<{head}>{inner}\n{'    ' * depth}</{element.name}>"


def _place(name: str) -> tuple[str, str]:
    prefix, colon, local = name.partition(":")
    return (_PREFIXES[prefix], local) if colon else ("", name)


# --- the signature -------------------------------------------------------------------------------


def sign_tree(root: Element, chain: Sequence[Authority]) -> bytes:
    """Sign a tree of any content (XMLDSig §3.1): the whole file."""
    content = hashlib.sha384(write(root, canonical=True).encode("utf-8")).digest()
    info = signed_info(content)
    value = sign_info(info, chain[0].private_key)
    return assemble(root, info, value, [each.certificate for each in chain])


def signed_info(content_digest: bytes, algorithms: Mapping[str, str] | None = None) -> str:
    """SignedInfo as it stands in the file. `algorithms` are others, by the element's name."""
    named = {
        "CanonicalizationMethod": C14N11,
        "SignatureMethod": ECDSA_SHA384,
        "Transform": C14N11,
        "DigestMethod": DIGEST_SHA384,
        **(algorithms or {}),
    }
    return (
        "<ds:SignedInfo>"
        f'<ds:CanonicalizationMethod Algorithm="{named["CanonicalizationMethod"]}"/>'
        f'<ds:SignatureMethod Algorithm="{named["SignatureMethod"]}"/>'
        '<ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{ENVELOPED}"/>'
        f'<ds:Transform Algorithm="{named["Transform"]}"/>'
        "</ds:Transforms>"
        f'<ds:DigestMethod Algorithm="{named["DigestMethod"]}"/>'
        f"<ds:DigestValue>{_base64(content_digest)}</ds:DigestValue>"
        "</ds:Reference></ds:SignedInfo>"
    )


def sign_info(info: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign SignedInfo in canonical form: r ‖ s, 96 bytes.

    A part of a document carries the namespaces that are in scope where it stands (C14N §2.4).
    """
    in_scope = sorted(("xmlns", "xmlns:ds", "xmlns:ns0", "xmlns:ns2"))
    head = "".join(f' {each}="{_PREFIXES[each.partition(":")[2]]}"' for each in in_scope)
    canonical = _open_empty_elements(info.replace("<ds:SignedInfo>", f"<ds:SignedInfo{head}>", 1))
    numbers = decode_dss_signature(key.sign(canonical.encode("utf-8"), ec.ECDSA(hashes.SHA384())))
    return b"".join(each.to_bytes(_SIGNATURE_NUMBER_BYTES, "big") for each in numbers)


def assemble(root: Element, info: str, value: bytes, chain: Sequence[bytes]) -> bytes:
    """The file: the tree with a signature as its last child. `chain` is DER, the root last."""
    certificates = "".join(
        f"<ds:X509Certificate>{_lines(each)}\n</ds:X509Certificate>" for each in chain
    )
    signature = (
        f'<ds:Signature xmlns:ds="{XMLDSIG}">{info}'
        f"<ds:SignatureValue>{_base64(value)}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
    end = f"</{root.name}>"
    text = write(root, canonical=False)
    return f"{text.removesuffix(end)}{signature}{end}\n".encode()


def _open_empty_elements(text: str) -> str:
    """``<a b="c"/>`` as ``<a b="c"></a>``; no text and no value of SignedInfo has a ``<``."""
    parts = []
    for part in text.split("<"):
        element, empty, rest = part.partition("/>")
        parts.append(f"{element}></{element.split(' ', 1)[0]}>{rest}" if empty else part)
    return "<".join(parts)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _lines(data: bytes) -> str:
    text = _base64(data)
    return "\n".join(text[at : at + _BASE64_LINE] for at in range(0, len(text), _BASE64_LINE))
