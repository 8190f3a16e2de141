"""The anchors of belief: a root certificate is pinned by its SHA-256, never by its name.

Rules:
- A vendor's root is one of `VENDOR_ROOTS`; it is *real*. Any other pinned root is *simulated*: to
  pin it is to say in so many words that evidence under it proves nothing about hardware.
- A root is pinned for one product: AMD's root for Milan says nothing about a Genoa.
- Root certificates travel with the evidence. A copy with the same name, serial and dates under
  another key has another SHA-256, and that alone decides.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trust.encoding import Digest, Struct
from trust.errors import DocumentError
from trust.evidence.claims import Product

# SHA-256 of AMD's root certificates (ARK), as AMD's key distribution service hands them out.
VENDOR_ROOTS: Final = MappingProxyType(
    {
        Product.MILAN: bytes.fromhex(
            "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
        ),
        Product.GENOA: bytes.fromhex(
            "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
        ),
        Product.TURIN: bytes.fromhex(
            "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
        ),
    }
)


class RootKind(enum.Enum):
    """Whether hardware stands behind a root."""

    REAL = "real"
    SIMULATED = "simulated"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedRoot(Struct):
    """A root certificate that a policy believes, for one product."""

    kind: RootKind
    product: Product
    fingerprint: Digest
    """SHA-256 of the root certificate."""

    def _check(self) -> None:
        """A vendor's root is called real, and nothing else is. Raises DocumentError."""
        if self.kind is RootKind.REAL and self.fingerprint != VENDOR_ROOTS[self.product]:
            raise DocumentError(
                f"root {self.fingerprint.hex()} is called real, and is not the vendor's "
                f"for {self.product.value}"
            )
        if self.kind is RootKind.SIMULATED and self.fingerprint in VENDOR_ROOTS.values():
            raise DocumentError(
                f"root {self.fingerprint.hex()} is called simulated, and is a vendor's"
            )

    def __str__(self) -> str:
        return f"{self.kind.value} {self.product.value} root {self.fingerprint.hex()}"


def vendor_root(product: Product) -> PinnedRoot:
    """The vendor's own root for `product`."""
    return PinnedRoot(kind=RootKind.REAL, product=product, fingerprint=VENDOR_ROOTS[product])
