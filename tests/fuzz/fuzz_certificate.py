"""Certificates: the parser, and everything that is asked of one."""

from __future__ import annotations

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.evidence.claims import Product
from trust.verifier import endorsements
from trust.verifier.certificates import Certificate, parse_certificate


def seeds() -> list[bytes]:
    return material.endorsements("vcek", "vlek", "ask", "asvk", "ark")


_ASKED = (
    Certificate.may_sign_certificates,
    Certificate.may_sign_lists,
    endorsements.role_of_issuer,
    endorsements.product_of_root,
    endorsements.product_in_extension,
    endorsements.hardware_id,
    endorsements.csp_id,
    *(lambda each, p=product: endorsements.certified_tcb(each, p) for product in Product),
)


def one(data: bytes) -> None:
    try:
        certificate = parse_certificate(data)
    except BlindhostError:
        return
    assert certificate.encoded == data
    for ask in _ASKED:
        try:
            ask(certificate)
        except BlindhostError:
            continue
    certificate.signature.holds_under(certificate.public_key)
