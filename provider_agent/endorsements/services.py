"""Where vendors serve their endorsements, and how often each may be asked.

Rules:
- https, or plain http to loopback alone: a cache of Intel's on this machine (PCCS). Nothing served
  is believed, but whoever reads the wire learns which machine asks.
- No service is asked more often than its pace says: AMD's answers 429 to whoever hurries.

Sources: AMD publication 57230 §4; Intel PCS API v4; docs.nvidia.com, attestation services.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from provider_agent.endorsements.errors import EndorsementError

DIGEST_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One server."""

    name: str
    base: str
    """URL without a slash at its end."""
    pace_seconds: float
    """Least time between two requests."""
    certificate_sha256: bytes | None = None
    """Pinned, as a PCCS with a certificate of its own wants it; None: the system's authorities."""

    def __post_init__(self) -> None:
        """Raises EndorsementError."""
        parts = urlsplit(self.base)
        if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
            raise EndorsementError("bad-address", f"{self.name}: {self.base[:80]!r}")
        if self.base.endswith("/"):
            raise EndorsementError("bad-address", f"{self.name}: a slash at its end")
        pin = self.certificate_sha256
        if pin is not None and len(pin) != DIGEST_BYTES:
            raise EndorsementError("bad-address", f"{self.name}: a pin has {DIGEST_BYTES} bytes")
        if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
            return
        raise EndorsementError(
            "bad-address", f"{self.name}: {self.base[:80]!r}: wanted https, or http to loopback"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """All of them; the defaults are the vendors' own."""

    kds: Service = Service(name="amd-kds", base="https://kdsintf.amd.com", pace_seconds=2.0)
    pcs: Service = Service(
        name="intel-pcs", base="https://api.trustedservices.intel.com", pace_seconds=0.5
    )
    root_list: Service = Service(
        name="intel-root",
        base="https://certificates.trustedservices.intel.com",
        pace_seconds=0.5,
    )
    """Of the root's revocation list alone; a PCCS serves it itself."""
    is_pccs: bool = False
    """`pcs` is a cache on the host's side, and serves the root's list too."""
    rim: Service = Service(
        name="nvidia-rim", base="https://rim.attestation.nvidia.com", pace_seconds=0.5
    )
    ocsp: Service = Service(
        name="nvidia-ocsp", base="https://ocsp.ndis.nvidia.com", pace_seconds=0.2
    )

    def with_pccs(self, base: str, certificate_sha256: bytes | None = None) -> Services:
        """Intel's part from a PCCS. Raises EndorsementError."""
        pccs = Service(
            name="pccs", base=base, pace_seconds=0.0, certificate_sha256=certificate_sha256
        )
        return dataclasses.replace(self, pcs=pccs, is_pccs=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
