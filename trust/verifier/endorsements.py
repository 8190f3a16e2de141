"""AMD's endorsements of an SNP key: which ones there must be, and what their extensions say.

Rules (docs/spec/evidence-snp.md §3):
- Endorsements are exactly one endorsement key (``vcek`` or ``vlek``), its issuer (``ask`` or
  ``asvk``), one ``ark`` and at most one ``crl``, each in DER. A kind that is unknown or stands
  twice is refused: nobody chooses between two answers.
- They come from the host and are not believed: what they say is text until `verify_snp` has led a
  chain from it to a pin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from trust.encoding import digest
from trust.errors import EvidenceFormatError
from trust.evidence.claims import Product, SigningKey
from trust.verifier import der
from trust.verifier.certificates import (
    Certificate,
    RevocationList,
    parse_certificate,
    parse_revocation_list,
)
from trust.verifier.results import Collateral

ENDORSEMENTS_MAX: Final = 4  # an endorsement key, its issuer, the root, a revocation list

# AMD's extensions stand under this arc (AMD publication 57230, "VCEK Certificate").
_AMD: Final = "1.3.6.1.4.1.3704.1."
PRODUCT_NAME: Final = der.oid(_AMD + "2")
HARDWARE_ID: Final = der.oid(_AMD + "4")
CSP_ID: Final = der.oid(_AMD + "5")
# The extension that certifies each of the eight bytes of a TCB value, in the bytes' order. One that
# the product reserves is certified too, as a spare number.
_TCB_ARCS: Final = {
    Product.MILAN: (1, 2, 4, 5, 6, 7, 3, 8),
    Product.GENOA: (1, 2, 4, 5, 6, 7, 3, 8),
    Product.TURIN: (9, 1, 2, 3, 5, 6, 7, 8),
}
TCB_EXTENSIONS: Final = {
    product: tuple(der.oid(f"{_AMD}3.{arc}") for arc in arcs) for product, arcs in _TCB_ARCS.items()
}
CHIP_ID_BYTES: Final = 64
TURIN_HARDWARE_ID_BYTES: Final = 8

COMMON_NAMES: Final = {SigningKey.VCEK: "SEV-VCEK", SigningKey.VLEK: "SEV-VLEK"}
_ISSUER_KINDS: Final = {SigningKey.VCEK: "ask", SigningKey.VLEK: "asvk"}
ISSUER_PREFIXES: Final = {SigningKey.VCEK: "SEV-", SigningKey.VLEK: "SEV-VLEK-"}
ROOT_PREFIX: Final = "ARK-"
# "Milan-B0" names a stepping besides the product; "Genoa" and "Turin" stand alone.
_PRODUCT_NAME: Final = re.compile(r"(Milan|Genoa|Turin)(?:-[A-Z][0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpEndorsements:
    """What AMD says about the key that signed a report; parsed, and not believed."""

    kind: SigningKey
    endorsement_key: Certificate
    issuer: Certificate
    root: Certificate
    revocations: RevocationList | None
    """None if the host stapled none: check 6 refuses."""
    collateral: tuple[Collateral, ...]


def parse_snp_endorsements(endorsements: Sequence[tuple[str, bytes]]) -> SnpEndorsements:
    """Sort (kind, DER) pairs and parse each. Raises EvidenceFormatError or SizeLimitError.

    A kind that is unknown or stands twice is refused: nobody chooses between two answers.
    """
    if len(endorsements) > ENDORSEMENTS_MAX:
        raise EvidenceFormatError(
            f"{len(endorsements)} SNP endorsements, at most {ENDORSEMENTS_MAX}"
        )
    by_kind = dict(endorsements)
    if len(by_kind) != len(endorsements):
        raise EvidenceFormatError("an SNP endorsement of one kind stands twice")
    kinds = [kind for kind in SigningKey if kind.value in by_kind]
    if len(kinds) != 1:
        raise EvidenceFormatError(f"{len(kinds)} SNP endorsement keys, wanted one, vcek or vlek")
    (kind,) = kinds
    certificates = (kind.value, _ISSUER_KINDS[kind], "ark")
    if missing := [each for each in certificates if each not in by_kind]:
        raise EvidenceFormatError(f"no SNP endorsement of kind {missing[0]}")
    if unknown := sorted(set(by_kind) - {*certificates, "crl"}):
        raise EvidenceFormatError(
            f"SNP endorsement of kind {unknown[0][:32]!r} beside a {kind.value}"
        )
    endorsement_key, issuer, root = (parse_certificate(by_kind[each]) for each in certificates)
    return SnpEndorsements(
        kind=kind,
        endorsement_key=endorsement_key,
        issuer=issuer,
        root=root,
        revocations=parse_revocation_list(by_kind["crl"]) if "crl" in by_kind else None,
        collateral=tuple(
            Collateral(kind=each, sha256=digest(by_kind[each])) for each in sorted(by_kind)
        ),
    )


# --- what certificates say -----------------------------------------------------------------------


def product_named(name: str) -> Product | None:
    """The product of this very name; None if there is none."""
    return next((each for each in Product if each.value == name), None)


def role_of_issuer(certificate: Certificate) -> tuple[SigningKey, Product] | None:
    """What kind of key, of what product, an issuer of this name certifies; None: no issuer's name.

    ``SEV-VLEK-Genoa`` certifies VLEKs of Genoa, ``SEV-Genoa`` VCEKs. Nothing else in an issuer's
    certificate tells the two apart.
    """
    for kind, prefix in ISSUER_PREFIXES.items():
        product = product_named(certificate.common_name.removeprefix(prefix))
        if product is not None and certificate.common_name.startswith(prefix):
            return kind, product
    return None


def product_of_root(certificate: Certificate) -> Product | None:
    """The product in a root's name; None if it is no root's name."""
    name = certificate.common_name
    return product_named(name.removeprefix(ROOT_PREFIX)) if name.startswith(ROOT_PREFIX) else None


def product_in_extension(certificate: Certificate) -> Product | None:
    """The product in productName; None if it is absent or unknown."""
    value = certificate.extensions.get(PRODUCT_NAME)
    if value is None:
        return None
    element = der.read_element(value, der.IA5_STRING)
    match = _PRODUCT_NAME.fullmatch(der.text(element))
    return product_named(match.group(1)) if match else None


def hardware_id(certificate: Certificate) -> bytes | None:
    """HWID as CHIP_ID writes it: 64 bytes, of which Turin uses 8. None if there is none."""
    value = certificate.extensions.get(HARDWARE_ID)
    if value is None:
        return None
    # AMD writes the bytes themselves, and wrote them as an OCTET STRING before. The lengths 8, 64
    # and 10, 66 are distinct, so nothing can be read both ways.
    if len(value) in {TURIN_HARDWARE_ID_BYTES + 2, CHIP_ID_BYTES + 2}:
        value = der.read_element(value, der.OCTET_STRING).content
    if product_in_extension(certificate) is Product.TURIN and len(value) == TURIN_HARDWARE_ID_BYTES:
        value += bytes(CHIP_ID_BYTES - TURIN_HARDWARE_ID_BYTES)
    return value if len(value) == CHIP_ID_BYTES else None


def csp_id(certificate: Certificate) -> str | None:
    """The cloud provider that holds a VLEK; None if the certificate names none."""
    value = certificate.extensions.get(CSP_ID)
    return None if value is None else der.text(der.read_element(value, der.IA5_STRING)) or None


def certified_tcb(certificate: Certificate, product: Product) -> bytes | None:
    """The TCB value that the key stands for: 8 bytes. None if an extension of it is missing."""
    values = []
    for extension in TCB_EXTENSIONS[product]:
        value = certificate.extensions.get(extension)
        if value is None:
            return None
        number = der.integer(der.read_element(value, der.INTEGER))
        if number > 0xFF:
            return None
        values.append(number)
    return bytes(values)
