"""One simulated NVIDIA for all tests of it: keys are quick, and the same ones do."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

from trust.simulated import GpuArchitecture, SimulatedGpu, SimulatedNvidia

NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
NONCE = bytes(range(32))
DS = "{http://www.w3.org/2000/09/xmldsig#}"
SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"


@cache
def nvidia() -> SimulatedNvidia:
    return SimulatedNvidia.create(NOW)


@cache
def gpu(architecture: GpuArchitecture = GpuArchitecture.HOPPER) -> SimulatedGpu:
    return nvidia().staple(nvidia().issue_gpu(bytes(range(8)), architecture), NOW)


def certificates(value: SimulatedGpu) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(each) for each in value.chain]


def signed_by(certificate: x509.Certificate, signature: bytes, content: bytes) -> None:
    """Raises InvalidSignature."""
    r, s = (int.from_bytes(signature[at : at + 48], "big") for at in (0, 48))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), content, ec.ECDSA(hashes.SHA384()))


def check_xml(data: bytes) -> list[x509.Certificate]:
    """The chain in it. Digest and signature hold as lxml, which did not write it, sees them."""
    root = etree.fromstring(data)
    signature = root.find(DS + "Signature")
    info = signature.find(DS + "SignedInfo")
    held = [
        x509.load_der_x509_certificate(base64.b64decode(each.text))
        for each in signature.iter(DS + "X509Certificate")
    ]
    value = base64.b64decode(signature.findtext(DS + "SignatureValue"))
    signed_by(held[0], value, etree.tostring(info, method="c14n"))
    stated = base64.b64decode(info.findtext(f".//{DS}DigestValue"))
    before = signature.getprevious()
    before.tail = (before.tail or "") + (signature.tail or "")
    root.remove(signature)
    assert hashlib.sha384(etree.tostring(root, method="c14n")).digest() == stated
    return held
