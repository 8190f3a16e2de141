"""A simulated AMD: a root made on this machine, which certifies simulated chips.

Rules:
- The root is named like AMD's, with AMD's serial numbers, algorithms and extensions. Whoever tells
  the two apart by name is wrong, and finds it out here.
- `SimulatedRoot` holds private keys: its document is a secret of one folder. It is never printed,
  and it never travels. Keys take seconds to make, so make them once and keep the document.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trust.encoding import Document, digest
from trust.errors import DocumentError
from trust.evidence.claims import Product
from trust.simulated.certificates import (
    AUTHORITY,
    AUTHORITY_OF_LEAVES,
    SIGNS_CERTIFICATES,
    SIGNS_CERTIFICATES_AND_LISTS,
    issue_certificate,
    issue_revocation_list,
)
from trust.simulated.chip import (
    MODELS,
    CertificateBytes,
    KeyBytes,
    ListBytes,
    SimulatedChip,
    private_bytes,
    vcek_extensions,
)

_ROOT_LIFE: Final = dt.timedelta(days=25 * 365)  # AMD's last 25 years
_KEY_LIFE: Final = dt.timedelta(days=7 * 365)  # AMD's last seven
_LIST_LIFE: Final = dt.timedelta(days=365)  # AMD's last about a year
_EARLIER: Final = dt.timedelta(days=1)  # so that a verifier with a slow clock does not wait a day
_RSA_BITS: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRoot(Document):
    """A throwaway ARK with its ASK and revocation list, and the private keys of both."""

    LABEL: ClassVar[str] = "simulated-root"

    product: Product
    ark: CertificateBytes
    ask: CertificateBytes
    crl: ListBytes
    ark_key: KeyBytes = dataclasses.field(repr=False)
    """PKCS #8, DER: a secret."""
    ask_key: KeyBytes = dataclasses.field(repr=False)
    """PKCS #8, DER: a secret."""

    def _check(self) -> None:
        """A product that can be simulated: nobody needs a make-believe Milan."""
        if self.product not in MODELS:
            raise DocumentError(f"a simulated root is Genoa or Turin, not {self.product.value}")

    @classmethod
    def create(cls, now: dt.datetime, *, product: Product = Product.GENOA) -> Self:
        """Make the two RSA-4096 keys (seconds) and certify them from the aware time `now` on."""
        return cls.certify(
            _new_rsa_key(), _new_rsa_key(), product=product, now=now, revoked_serials=()
        )

    @classmethod
    def certify(
        cls,
        ark_key: rsa.RSAPrivateKey,
        ask_key: rsa.RSAPrivateKey,
        *,
        product: Product,
        now: dt.datetime,
        revoked_serials: Iterable[int],
    ) -> Self:
        """Certify keys that are there already."""
        if product not in MODELS:
            raise DocumentError(f"a simulated root is Genoa or Turin, not {product.value}")
        model, ark_name = MODELS[product], f"ARK-{product.value}"
        not_before, not_after = now - _EARLIER, now + _ROOT_LIFE
        ark = issue_certificate(
            serial=model.serial,
            subject=ark_name,
            issuer=ark_name,
            not_before=not_before,
            not_after=not_after,
            public_key=ark_key.public_key(),
            extensions=(SIGNS_CERTIFICATES_AND_LISTS, AUTHORITY),
            signing_key=ark_key,
        )
        ask = issue_certificate(
            serial=model.issuer_serial,
            subject=f"SEV-{product.value}",
            issuer=ark_name,
            not_before=not_before,
            not_after=not_after,
            public_key=ask_key.public_key(),
            extensions=(AUTHORITY_OF_LEAVES, SIGNS_CERTIFICATES),
            signing_key=ark_key,
        )
        return cls(
            product=product,
            ark=ark,
            ask=ask,
            crl=_revocation_list(ark_name, ark_key, now, revoked_serials),
            ark_key=private_bytes(ark_key),
            ask_key=private_bytes(ask_key),
        )

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the ARK certificate, 32 bytes: what a policy must name."""
        return digest(self.ark)

    def to_bytes(self) -> bytes:
        """The document, private keys included: a file of mode 0600."""
        return self.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises EncodingError."""
        return cls.parse(data)

    def with_new_list(self, now: dt.datetime, *, revoked_serials: Iterable[int] = ()) -> Self:
        """The same root with a list that is fresh at `now`; chips made from it carry that one."""
        crl = _revocation_list(
            f"ARK-{self.product.value}", _rsa_key(self.ark_key), now, revoked_serials
        )
        return dataclasses.replace(self, crl=crl)

    def issue_chip(self, chip_id: bytes, now: dt.datetime) -> SimulatedChip:
        """A chip with a key of its own. `chip_id` has 64 bytes; Turin's last 56 are zero."""
        model = MODELS[self.product]
        key = ec.generate_private_key(ec.SECP384R1())
        vcek = issue_certificate(
            serial=0,
            subject="SEV-VCEK",
            issuer=f"SEV-{self.product.value}",
            not_before=now - _EARLIER,
            not_after=now + _KEY_LIFE,
            public_key=key.public_key(),
            extensions=vcek_extensions(self.product, model.tcb, chip_id),
            signing_key=_rsa_key(self.ask_key),
        )
        return SimulatedChip(
            product=self.product,
            chip_id=chip_id,
            vcek=vcek,
            ask=self.ask,
            ark=self.ark,
            crl=self.crl,
            key=private_bytes(key),
        )


def _revocation_list(
    issuer: str, key: rsa.RSAPrivateKey, now: dt.datetime, serials: Iterable[int]
) -> bytes:
    return issue_revocation_list(
        issuer=issuer,
        this_update=now - _EARLIER,
        next_update=now + _LIST_LIFE,
        serials=serials,
        signing_key=key,
    )


def _new_rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def _rsa_key(data: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_der_private_key(data, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise DocumentError("a simulated root's keys are RSA")
    return key
