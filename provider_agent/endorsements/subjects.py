"""Of what hardware endorsements are wanted; kept beside them, so that they are fetched again.

Rules:
- A subject is read from evidence (a report, a quote, a GPU's chain) or from the command line. Both
  are the host's own word: a wrong one fetches what no verifier takes.
- What is read is checked in full before any of it becomes a part of an address.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.shapes import CHAIN_BYTES_MAX, check_rim_id, pem_chain
from trust.errors import BlindhostError
from trust.evidence.claims import Product
from trust.evidence.snp import SIGNING_KEY_VLEK, TCB_BYTES, parse_snp_report
from trust.verifier import der

CHIP_ID_BYTES: Final = 64
TURIN_ID_BYTES: Final = 8
FMSPC_BYTES: Final = 6
QUOTE_BYTES_MAX: Final = 16 * 1024
WANTED_BYTES_MAX: Final = 1 << 20
RIMS_MAX: Final = 32  # two of each device of the largest machine, and some to spare
CHAINS_MAX: Final = 16

_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]{1,8192}-----END CERTIFICATE-----"
)
_SGX_EXTENSIONS: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_FMSPC: Final = der.oid("1.2.840.113741.1.13.1.4")
_AUTHORITIES: Final = {
    "Intel SGX PCK Platform CA": "platform",
    "Intel SGX PCK Processor CA": "processor",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpSubject:
    """One AMD chip under one TCB."""

    product: Product
    chip_id: bytes
    """64 bytes; Turin uses the first 8, and the rest are zero."""
    tcb: bytes
    """The reported TCB, 8 bytes as the firmware writes them."""
    loaded: bool = False
    """It signs with a key of its cloud provider's (VLEK), which AMD serves to that provider alone:
    the key's certificate is imported, the rest is fetched."""

    def __post_init__(self) -> None:
        """Raises EndorsementError."""
        if len(self.chip_id) != CHIP_ID_BYTES or len(self.tcb) != TCB_BYTES:
            raise EndorsementError("bad-subject", "a chip id has 64 bytes, and a TCB 8")
        if not self.loaded and not any(self.chip_id):
            raise EndorsementError("bad-subject", "the chip id is masked: snphost config reset")
        if self.product is Product.TURIN and any(self.chip_id[TURIN_ID_BYTES:]):
            raise EndorsementError("bad-subject", "a Turin's chip id has 8 bytes, then zeros")


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxSubject:
    """One platform of Intel's."""

    fmspc: bytes
    """Family, model, stepping, platform type and custom SKU: 6 bytes."""
    authority: str
    """Who certified its key: ``platform`` or ``processor``."""

    def __post_init__(self) -> None:
        """Raises EndorsementError."""
        if len(self.fmspc) != FMSPC_BYTES or self.authority not in _AUTHORITIES.values():
            raise EndorsementError("bad-subject", "an FMSPC of 6 bytes, platform or processor")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSubject:
    """The GPUs and switches of one host."""

    rims: tuple[str, ...]
    """Ids of reference values: of the driver's version, and of each VBIOS."""
    chains: tuple[bytes, ...]
    """PEM, leaf first and root last: of each device."""

    def __post_init__(self) -> None:
        """Raises EndorsementError."""
        if len(self.rims) > RIMS_MAX or len(self.chains) > CHAINS_MAX:
            raise EndorsementError("bad-subject", f"{RIMS_MAX} RIMs, {CHAINS_MAX} chains at most")
        for each in self.rims:
            check_rim_id(each)
        for chain in self.chains:
            try:
                if len(chain) > CHAIN_BYTES_MAX or len(pem_chain(chain)) < 2:
                    raise ValueError("too long, or a certificate alone")
            except ValueError as error:
                raise EndorsementError("bad-subject", f"no chain of a GPU: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Everything that is wanted on this host; each None: there is no such hardware."""

    snp: SnpSubject | None = None
    tdx: TdxSubject | None = None
    gpu: GpuSubject | None = None

    def to_bytes(self) -> bytes:
        """JSON."""
        value: dict[str, object] = {}
        if self.snp is not None:
            value["snp"] = {
                "product": self.snp.product.value,
                "chip_id": self.snp.chip_id.hex(),
                "tcb": self.snp.tcb.hex(),
                "loaded": self.snp.loaded,
            }
        if self.tdx is not None:
            value["tdx"] = {"fmspc": self.tdx.fmspc.hex(), "authority": self.tdx.authority}
        if self.gpu is not None:
            chains = [base64.b64encode(each).decode() for each in self.gpu.chains]
            value["gpu"] = {"rims": list(self.gpu.rims), "chains": chains}
        return json.dumps(value, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Wanted:
        """Inverse of `to_bytes`. Raises EndorsementError."""
        if len(data) > WANTED_BYTES_MAX:
            raise EndorsementError("bad-subject", f"wanted.json: {len(data)} bytes")
        try:
            value = json.loads(data)
            snp, tdx, gpu = (value.get(each) for each in ("snp", "tdx", "gpu"))
            return cls(
                snp=None
                if snp is None
                else SnpSubject(
                    product=Product(snp["product"]),
                    chip_id=bytes.fromhex(snp["chip_id"]),
                    tcb=bytes.fromhex(snp["tcb"]),
                    loaded=snp["loaded"] is True,
                ),
                tdx=None
                if tdx is None
                else TdxSubject(fmspc=bytes.fromhex(tdx["fmspc"]), authority=tdx["authority"]),
                gpu=None
                if gpu is None
                else GpuSubject(
                    rims=tuple(str(each) for each in gpu["rims"]),
                    chains=tuple(base64.b64decode(each, validate=True) for each in gpu["chains"]),
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EndorsementError("bad-subject", f"wanted.json: {error!r}"[:200]) from error


# --- read from evidence --------------------------------------------------------------------------


def snp_subject(report: bytes, product: Product | None = None) -> SnpSubject:
    """The chip of an SNP report. `product`: of a report too old to say. Raises EndorsementError."""
    try:
        found = parse_snp_report(report)
    except BlindhostError as error:
        raise EndorsementError("bad-subject", str(error)) from error
    if found.cpuid is not None:
        product = product_of(found.cpuid.family, found.cpuid.model)
    if product is None:
        raise EndorsementError("bad-subject", "the report does not say of what product it is")
    return SnpSubject(
        product=product,
        chip_id=found.chip_id,
        tcb=found.reported_tcb,
        loaded=found.signing_key == SIGNING_KEY_VLEK,
    )


def product_of(family: int, model: int) -> Product | None:
    """The product of a family and model (AMD publication 57230 §4.1); None: no SNP product."""
    if family == 0x1A:
        return Product.TURIN if model <= 0x1F else None
    if family == 0x19:
        if model <= 0x0F:
            return Product.MILAN
        return Product.GENOA if model <= 0x1F or 0xA0 <= model <= 0xAF else None
    return None


def tdx_subject(quote: bytes) -> TdxSubject:
    """The platform of a TDX quote, from its PCK certificate. Raises EndorsementError.

    The certificate is found as text: to say where in a quote it stands is a verifier's.
    """
    if len(quote) > QUOTE_BYTES_MAX:
        raise EndorsementError("bad-subject", f"quote: {len(quote)} bytes")
    found = _PEM.search(quote)
    if found is None:
        raise EndorsementError("bad-subject", "the quote carries no PCK certificate")
    try:
        certificate = x509.load_pem_x509_certificate(found.group())
        value = certificate.extensions.get_extension_for_oid(_SGX_EXTENSIONS).value
        if not isinstance(value, x509.UnrecognizedExtension):
            raise TypeError("no extension of Intel's")
        fmspc = _member(value.value, _FMSPC)
        (name,) = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return TdxSubject(fmspc=fmspc, authority=_AUTHORITIES[str(name.value)])
    except (BlindhostError, ValueError, TypeError, KeyError, x509.ExtensionNotFound) as error:
        raise EndorsementError("bad-subject", f"the quote's certificate: {error}") from error


def _member(extension: bytes, name: bytes) -> bytes:
    for each in der.read_sequence(extension):
        pair = der.read_sequence(each.encoded)
        if len(pair) == 2 and der.expect(pair[0], der.OBJECT_IDENTIFIER).content == name:
            return der.expect(pair[1], der.OCTET_STRING).content
    raise ValueError("it names no FMSPC")
