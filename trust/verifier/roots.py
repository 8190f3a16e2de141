"""The anchors of belief: a root certificate is pinned by its SHA-256, never by its name.

Rules:
- A vendor's root is one of `VENDOR_ROOTS`; it is *real*. Any other pinned root is *simulated*: to
  pin it is to say in so many words that evidence under it proves nothing about hardware.
- A root is pinned as one anchor: AMD's root for Milan says nothing about a Genoa, and the root of
  NVIDIA's devices nothing about NVIDIA's reference measurements.
- Root certificates travel with the evidence. A copy with the same name, serial and dates under
  another key has another SHA-256, and that alone decides.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from trust.encoding import Digest, Struct
from trust.errors import DocumentError, PolicyError
from trust.evidence.claims import Product


class Anchor(enum.Enum):
    """What a root certificate is believed about."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"
    INTEL_SGX = "Intel SGX"
    """Intel's provisioning certificates, revocation lists, TCB info and quoting enclaves."""
    NVIDIA_DEVICE = "NVIDIA device"
    """The certificates in GPUs and switches, and their revocation."""
    NVIDIA_RIM = "NVIDIA RIM"
    """Reference measurements of drivers and VBIOSes."""


# SHA-256 of the certificates that the vendors' own services hand out.
VENDOR_ROOTS: Final = MappingProxyType(
    {
        Anchor.MILAN: bytes.fromhex(
            "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"
        ),
        Anchor.GENOA: bytes.fromhex(
            "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"
        ),
        Anchor.TURIN: bytes.fromhex(
            "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"
        ),
        Anchor.INTEL_SGX: bytes.fromhex(
            "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
        ),
        Anchor.NVIDIA_DEVICE: bytes.fromhex(
            "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
        ),
        Anchor.NVIDIA_RIM: bytes.fromhex(
            "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
        ),
    }
)
ANCHOR_WORDS: Final = MappingProxyType(
    {anchor.value.lower().replace(" ", "-"): anchor for anchor in Anchor}
)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_PRODUCTS: Final = {Anchor(product.value): product for product in Product}


class RootKind(enum.Enum):
    """Whether hardware stands behind a root."""

    REAL = "real"
    SIMULATED = "simulated"


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedRoot(Struct):
    """A root certificate that a policy believes, as one anchor."""

    kind: RootKind
    anchor: Anchor
    fingerprint: Digest
    """SHA-256 of the root certificate."""

    def _check(self) -> None:
        """A vendor's root is called real, and nothing else is. Raises DocumentError."""
        if self.kind is RootKind.REAL and self.fingerprint != VENDOR_ROOTS[self.anchor]:
            raise DocumentError(
                f"root {self.fingerprint.hex()} is called real, and is not the vendor's "
                f"for {self.anchor.value}"
            )
        if self.kind is RootKind.SIMULATED and self.fingerprint in VENDOR_ROOTS.values():
            raise DocumentError(
                f"root {self.fingerprint.hex()} is called simulated, and is a vendor's"
            )

    @property
    def product(self) -> Product | None:
        """The AMD product line that it is pinned for; None: it is not AMD's."""
        return _PRODUCTS.get(self.anchor)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.anchor.value} root {self.fingerprint.hex()}"


def vendor_root(anchor: Anchor) -> PinnedRoot:
    """The vendor's own root."""
    return PinnedRoot(kind=RootKind.REAL, anchor=anchor, fingerprint=VENDOR_ROOTS[anchor])


def amd_root(product: Product) -> PinnedRoot:
    """AMD's own root for `product`."""
    return vendor_root(Anchor(product.value))


def find_root(roots: Iterable[PinnedRoot], fingerprint: bytes) -> PinnedRoot | None:
    """The one pin with this fingerprint; None if there is none, or more than one."""
    matching = [each for each in roots if each.fingerprint == fingerprint]
    return matching[0] if len(matching) == 1 else None


def parse_simulated_root(text: str) -> PinnedRoot:
    """A root as people write it: ``nvidia-device=<hex>``; a bare ``<hex>`` is a Genoa's.

    Raises PolicyError, and DocumentError for a vendor's own root.
    """
    word, _, fingerprint = text.rpartition("=")
    anchor = ANCHOR_WORDS.get(word or "genoa")
    if anchor is None or not _FINGERPRINT.fullmatch(fingerprint):
        raise PolicyError(
            f"root {text[:80]!r}: wanted [ANCHOR=]FINGERPRINT, 64 hex digits, and an anchor of "
            + ", ".join(sorted(ANCHOR_WORDS))
        )
    return PinnedRoot(
        kind=RootKind.SIMULATED, anchor=anchor, fingerprint=bytes.fromhex(fingerprint)
    )
