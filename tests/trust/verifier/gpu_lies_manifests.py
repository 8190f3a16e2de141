"""Lies in what a manifest's signature covers: check 33."""

from __future__ import annotations

from dataclasses import replace

from tests.trust.verifier.gpu_lie_edits import (
    Lies,
    attribute,
    elements,
    lie,
    no_evidence,
    payload,
    resources,
    rim,
    rim_chain,
    xml,
)
from tests.trust.verifier.gpu_vendor import (
    DAY,
    HOPPER,
    NOW,
    SIGNS_STATUS,
    device_links,
    rim_links,
)
from trust.simulated.nvidia_certificates import authority
from trust.simulated.rim import Resource

LIES: Lies = []

# --- 33: a manifest's signature ------------------------------------------------------------------

lie(
    LIES,
    "rim-signature",
    "manifest-signed-by-another",
    "Another key signed the manifest.",
    rim(signing_key="attacker"),
)
lie(
    LIES,
    "rim-signature",
    "digest-of-another",
    "The signed digest is not the content's.",
    rim(digest=bytes(48)),
)
lie(
    LIES,
    "rim-signature",
    "manifest-changed-after-signing",
    "A value that no GPU has is made inactive.",
    xml(b'index="63" active="False"', b'index="62" active="False"'),
)
lie(
    LIES,
    "rim-signature",
    "tag-changed-after-signing",
    "The tag's name is changed after it was signed.",
    xml(b'version="1.0"', b'version="1.1"'),
)
lie(
    LIES,
    "rim-signature",
    "reference-changed",
    "White space between two elements is changed.",
    xml(b"\n    <ns0:Payload", b"\n   <ns0:Payload"),
)
lie(
    LIES,
    "rim-chain",
    "manifest-root-of-another",
    "Manifests are signed under a root with NVIDIA's name.",
    rim_chain(3, key="attacker"),
)
lie(
    LIES,
    "rim-chain",
    "manifest-under-the-device-root",
    "The root of devices stands behind manifests.",
    lambda case: replace(
        case,
        rims=tuple(
            replace(e, links=(*rim_links(HOPPER)[:3], device_links(HOPPER, b"GPU00001")[-1]))
            for e in case.rims
        ),
    ),
)
lie(
    LIES,
    "rim-chain",
    "manifest-signer-by-another",
    "The signer is certified by an attacker's key.",
    rim_chain(0, signer="attacker"),
)
lie(
    LIES,
    "rim-chain",
    "manifest-signer-is-an-authority",
    "An authority's own key signed the manifest.",
    rim_chain(0, extensions=authority()),
)
lie(
    LIES,
    "rim-chain",
    "manifest-path-too-long",
    "The authority allows no issuer beneath it.",
    rim_chain(2, extensions=authority(path=0)),
)
lie(
    LIES,
    "rim-validity",
    "manifest-signer-of-yesterday",
    "The signer's certificate ended yesterday.",
    rim_chain(0, not_after=NOW - DAY),
)
lie(
    LIES,
    "rim-validity",
    "manifest-issuer-of-tomorrow",
    "The issuer's certificate begins tomorrow.",
    rim_chain(1, not_before=NOW + DAY),
)

NOT_XML = "rim-signature"
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-a-dtd",
    "A document type is declared.",
    xml(b"<SoftwareIdentity", b"<!DOCTYPE SoftwareIdentity>\n<SoftwareIdentity"),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-entities",
    "Entities make a long text of a short one.",
    xml(
        b"<SoftwareIdentity",
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;">]>\n<SoftwareIdentity',
    ),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-an-external-entity",
    "An entity names a file of the verifier's.",
    xml(
        b"<SoftwareIdentity",
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n<SoftwareIdentity',
    ),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-a-comment",
    "A comment, which no digest is over, splits a digest.",
    xml(b"<ds:DigestValue>", b"<ds:DigestValue><!-- x -->"),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-cdata",
    "A digest stands in CDATA.",
    xml(b"</ds:DigestValue>", b"<![CDATA[]]></ds:DigestValue>"),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-with-an-instruction",
    "An instruction for a style sheet is there.",
    xml(b"<ns0:Entity", b"<?xml-stylesheet href='x'?><ns0:Entity"),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-in-utf-16",
    "The file is in UTF-16.",
    rim(xml_edit=lambda data: data.decode().encode("utf-16")),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-too-long",
    "The file has more than 512 KiB.",
    rim(xml_edit=lambda data: data + b" " * (512 * 1024)),
)
no_evidence(
    LIES,
    NOT_XML,
    "xml-too-deep",
    "Elements stand in each other a thousand deep.",
    xml(b"<ns0:Entity", b"<x>" * 1000 + b"</x>" * 1000 + b"<ns0:Entity"),
)
no_evidence(
    LIES,
    NOT_XML,
    "two-signatures",
    "A second signature stands before the good one.",
    rim(
        xml_edit=lambda data: data.replace(
            b"<ns0:Entity",
            data[data.index(b"<ds:Signature ") : data.index(b"</SoftwareIdentity>")]
            + b"<ns0:Entity",
            1,
        )
    ),
)
no_evidence(
    LIES,
    NOT_XML,
    "no-signature",
    "The manifest is not signed.",
    rim(xml_edit=lambda data: data[: data.index(b"<ds:Signature ")] + b"</SoftwareIdentity>"),
)
no_evidence(
    LIES,
    NOT_XML,
    "signature-deeper",
    "The signature stands in the payload.",
    rim(
        xml_edit=lambda data: data.replace(b"</ns0:Payload>", b"", 1).replace(
            b"</ds:Signature>", b"</ds:Signature></ns0:Payload>", 1
        )
    ),
)
no_evidence(
    LIES,
    NOT_XML,
    "wrapped-manifest",
    "The signed manifest stands inside a false one.",
    rim(xml_edit=lambda data: data[: data.index(b">") + 1] + data + b"</SoftwareIdentity>"),
)
no_evidence(
    LIES,
    NOT_XML,
    "wrapped-in-an-object",
    "A false payload stands in an Object of the signature.",
    xml(b"</ds:Signature>", b"<ds:Object><ns0:Payload/></ds:Object></ds:Signature>"),
)
no_evidence(
    LIES,
    NOT_XML,
    "reference-to-a-part",
    "The reference is to one element, by its id.",
    rim(info_edit=lambda info: info.replace('URI=""', 'URI="#payload"')),
)
no_evidence(
    LIES,
    NOT_XML,
    "reference-without-uri",
    "The reference names nothing.",
    rim(info_edit=lambda info: info.replace(' URI=""', "")),
)
no_evidence(
    LIES,
    NOT_XML,
    "two-references",
    "There is a second reference.",
    rim(
        info_edit=lambda info: info.replace(
            "</ds:SignedInfo>",
            info[info.index("<ds:Reference") : info.index("</ds:SignedInfo>")] + "</ds:SignedInfo>",
        )
    ),
)
no_evidence(
    LIES,
    NOT_XML,
    "transform-by-xpath",
    "A transform takes the payload out of what is signed.",
    rim(algorithms={"Transform": "http://www.w3.org/TR/1999/REC-xpath-19991116"}),
)
no_evidence(
    LIES,
    NOT_XML,
    "transform-with-comments",
    "The canonical form is the one with comments.",
    rim(algorithms={"Transform": "http://www.w3.org/2006/12/xml-c14n11#WithComments"}),
)
no_evidence(
    LIES,
    NOT_XML,
    "exclusive-canonical-form",
    "SignedInfo is in exclusive canonical form.",
    rim(algorithms={"CanonicalizationMethod": "http://www.w3.org/2001/10/xml-exc-c14n#"}),
)
no_evidence(
    LIES,
    NOT_XML,
    "digest-by-sha-1",
    "The digest is by SHA-1.",
    rim(algorithms={"DigestMethod": "http://www.w3.org/2000/09/xmldsig#sha1"}),
)
no_evidence(
    LIES,
    NOT_XML,
    "signature-by-hmac",
    "The signature is an HMAC under a public key.",
    rim(algorithms={"SignatureMethod": "http://www.w3.org/2000/09/xmldsig#hmac-sha1"}),
)
no_evidence(
    LIES,
    NOT_XML,
    "attribute-of-xml",
    "An element has an xml:id.",
    xml(b"<ns0:Payload", b'<ns0:Payload xml:id="payload"'),
)
no_evidence(
    LIES,
    NOT_XML,
    "key-in-the-signature",
    "The signature brings a bare key.",
    xml(b"<ds:X509Data>", b"<ds:KeyValue/><ds:X509Data>"),
)
no_evidence(
    LIES,
    NOT_XML,
    "index-twice",
    "NVIDIA signs a manifest with two values at one index.",
    resources(Resource(index=7, active=True, values=(bytes(48),))),
)
no_evidence(
    LIES,
    NOT_XML,
    "hidden-alternative",
    "A reference value has more digests than it says.",
    payload(lambda held: (attribute(held[0], "alternatives", "2"), *held[1:])),
)
no_evidence(
    LIES,
    NOT_XML,
    "active-in-other-words",
    "A reference value is neither active nor not.",
    payload(lambda held: (attribute(held[0], "active", "true"), *held[1:])),
)
no_evidence(
    LIES,
    NOT_XML,
    "second-payload",
    "NVIDIA signs a manifest with two payloads.",
    elements(lambda root: replace(root, children=(*root.children, root.children[2]))),
)
lie(
    LIES,
    "rim-chain",
    "manifest-signed-by-a-responder",
    "NVIDIA's responder for this issuer, whose key is for OCSP, signed the manifest.",
    rim_chain(0, extensions=(SIGNS_STATUS[0], (SIGNS_STATUS[1][0], False))),
)
