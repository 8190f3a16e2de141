"""What to ask which service for, and what its answer holds: pure functions.

Rules:
- An address is made of checked parts alone (`subjects`).
- An answer is taken apart here and looked at (`shapes`); bytes that a vendor signed stay as they
  were served. What was asked for is compared with what came: chip, TCB, FMSPC, id.

Sources: AMD publication 57230 §4; Intel PCS API v4 (`tcb`, `qe/identity`, `pckcrl`, `rootcacrl`);
NVIDIA/nvtrust RIM service; RFC 6960 §4.1, appendix A.1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from provider_agent.endorsements import shapes
from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.services import Service, Services
from provider_agent.endorsements.subjects import (
    TURIN_ID_BYTES,
    GpuSubject,
    SnpSubject,
    TdxSubject,
    Wanted,
)
from trust.encoding import digest
from trust.errors import BlindhostError
from trust.evidence.claims import Product
from trust.verifier.certificates import parse_certificate
from trust.verifier.endorsements import certified_tcb, hardware_id

TCB_INFO_CHAIN: Final = "TCB-Info-Issuer-Chain"
IDENTITY_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"
LIST_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"
ANSWER_BYTES_MAX: Final = 1 << 20  # base64 of the largest RIM, and its envelope
_OCSP_NAME_HEX: Final = 32
_LEVELS: Final = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
_TURIN_LEVELS: Final = {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}

Content = tuple[str, bytes]
"""Name of a file, and what goes into it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer with status 200."""

    body: bytes
    headers: Mapping[str, str]
    """Those that were asked for, by the names under which they were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request, and the files that come of it."""

    service: Service
    platform: str
    names: tuple[str, ...]
    target: str
    read: Callable[[Answer], tuple[Content, ...]]
    """Raises EndorsementError."""
    body: bytes | None = None
    """Of a POST; None: a GET."""
    content_type: str | None = None
    header: str | None = None
    body_bytes_max: int = shapes.LIST_BYTES_MAX


def asks_of(wanted: Wanted, services: Services) -> tuple[Ask, ...]:
    """Everything but what hangs on a RIM's own certificates (`ocsp_asks`)."""
    found: list[Ask] = []
    if wanted.snp is not None:
        found += _snp_asks(wanted.snp, services)
    if wanted.tdx is not None:
        found += _tdx_asks(wanted.tdx, services)
    if wanted.gpu is not None:
        found += [_rim_ask(each, services) for each in dict.fromkeys(wanted.gpu.rims)]
    return tuple(found)


def names_of(wanted: Wanted, rims: Iterable[bytes] = ()) -> dict[str, tuple[str, ...]]:
    """Names of all files that must be here, by platform; `rims`: those that are."""
    found: dict[str, tuple[str, ...]] = {}
    if wanted.snp is not None:
        found[shapes.SNP] = shapes.VLEK_KINDS if wanted.snp.loaded else shapes.VCEK_KINDS
    if wanted.tdx is not None:
        found[shapes.TDX] = shapes.TDX_KINDS
    if wanted.gpu is not None:
        names = [f"{shapes.RIM}.{each}" for each in dict.fromkeys(wanted.gpu.rims)]
        found[shapes.GPU] = (*names, *(_ocsp_name(e) for e, _ in _checked(wanted.gpu, rims)))
    return found


# --- AMD -----------------------------------------------------------------------------------------


def _snp_asks(subject: SnpSubject, services: Services) -> list[Ask]:
    key = "vlek" if subject.loaded else "vcek"
    base = f"/{key}/v1/{subject.product.value}"
    issuer = "asvk" if subject.loaded else "ask"
    asks = [
        Ask(
            service=services.kds,
            platform=shapes.SNP,
            names=(issuer, "ark"),
            target=f"{base}/cert_chain",
            read=lambda answer: _amd_chain(answer.body, issuer),
        ),
        Ask(
            service=services.kds,
            platform=shapes.SNP,
            names=("crl",),
            target=f"{base}/crl",
            read=lambda answer: _one("crl", answer.body),
        ),
    ]
    if not subject.loaded:
        asks.insert(
            0,
            Ask(
                service=services.kds,
                platform=shapes.SNP,
                names=("vcek",),
                target=f"{base}/{_chip(subject)}?{_levels(subject)}",
                read=lambda answer: _vcek(subject, answer.body),
                body_bytes_max=shapes.CERTIFICATE_BYTES_MAX,
            ),
        )
    return asks


def _chip(subject: SnpSubject) -> str:
    size = TURIN_ID_BYTES if subject.product is Product.TURIN else len(subject.chip_id)
    return subject.chip_id[:size].hex()


def _levels(subject: SnpSubject) -> str:
    """Security patch levels, where the product has them (docs/spec/evidence-snp.md §2)."""
    tcb = subject.tcb
    places = _TURIN_LEVELS if subject.product is Product.TURIN else _LEVELS
    return "&".join(f"{n}SPL={tcb[at]:02d}" for n, at in places.items())


def _amd_chain(body: bytes, issuer: str) -> tuple[Content, ...]:
    try:
        found = shapes.pem_chain(body)
    except ValueError as error:
        raise _wrong(f"the chain: {error}") from error
    if len(found) != 2:
        raise _wrong(f"a chain of {len(found)} certificates, wanted 2")
    first, root = (each.public_bytes(Encoding.DER) for each in found)
    return (*_one(issuer, first), *_one("ark", root))


def _vcek(subject: SnpSubject, body: bytes) -> tuple[Content, ...]:
    contents = _one("vcek", body)
    try:
        found = parse_certificate(body)
        chip, tcb = hardware_id(found), certified_tcb(found, subject.product)
    except BlindhostError as error:
        raise _wrong(f"vcek: {error}") from error
    if chip != subject.chip_id:
        raise _wrong("vcek: of another chip")
    if tcb != subject.tcb:
        raise _wrong("vcek: of another TCB")
    return contents


# --- Intel ---------------------------------------------------------------------------------------


def _tdx_asks(subject: TdxSubject, services: Services) -> list[Ask]:
    pcs = services.pcs
    return [
        Ask(
            service=pcs,
            platform=shapes.TDX,
            names=("tdx-tcb-info", "tdx-tcb-info-chain"),
            target=f"/tdx/certification/v4/tcb?fmspc={subject.fmspc.hex().upper()}",
            header=TCB_INFO_CHAIN,
            read=lambda answer: _tcb_info(subject, answer),
        ),
        Ask(
            service=pcs,
            platform=shapes.TDX,
            names=("tdx-qe-identity", "tdx-qe-identity-chain"),
            target="/tdx/certification/v4/qe/identity",
            header=IDENTITY_CHAIN,
            read=lambda answer: _with_chain("tdx-qe-identity", answer.body, answer),
        ),
        Ask(
            service=pcs,
            platform=shapes.TDX,
            names=("tdx-pck-crl", "tdx-pck-crl-chain"),
            target=f"/sgx/certification/v4/pckcrl?ca={subject.authority}&encoding=der",
            header=LIST_CHAIN,
            read=lambda answer: _with_chain("tdx-pck-crl", _plain(answer.body), answer),
            body_bytes_max=2 * shapes.LIST_BYTES_MAX,
        ),
        Ask(
            service=pcs if services.is_pccs else services.root_list,
            platform=shapes.TDX,
            names=("tdx-root-crl",),
            target="/sgx/certification/v4/rootcacrl" if services.is_pccs else "/IntelSGXRootCA.der",
            read=lambda answer: _one("tdx-root-crl", _plain(answer.body)),
            body_bytes_max=2 * shapes.LIST_BYTES_MAX,
        ),
    ]


def _plain(body: bytes) -> bytes:
    """A list as a PCCS may write it, in hex. DER of over 127 bytes is never ASCII throughout."""
    try:
        return bytes.fromhex(body.decode("ascii"))
    except ValueError:
        return body


def _tcb_info(subject: TdxSubject, answer: Answer) -> tuple[Content, ...]:
    contents = _with_chain("tdx-tcb-info", answer.body, answer)
    found = str(json.loads(answer.body)["tcbInfo"].get("fmspc"))
    if found.lower() != subject.fmspc.hex():
        raise _wrong(f"tdx-tcb-info: of FMSPC {found[:16]!r}, wanted {subject.fmspc.hex()}")
    return contents


def _with_chain(kind: str, body: bytes, answer: Answer) -> tuple[Content, ...]:
    chain = b"".join(unquote_to_bytes(each) for each in answer.headers.values())
    return (*_one(kind, body), *_one(f"{kind}-chain", chain))


# --- NVIDIA --------------------------------------------------------------------------------------


def _rim_ask(rim: str, services: Services) -> Ask:
    return Ask(
        service=services.rim,
        platform=shapes.GPU,
        names=(f"{shapes.RIM}.{rim}",),
        target=f"/v1/rim/{quote(rim, safe='')}",
        read=lambda answer: _rim(rim, answer.body),
        body_bytes_max=ANSWER_BYTES_MAX,
    )


def _rim(rim: str, body: bytes) -> tuple[Content, ...]:
    # The answer's own `sha256` is not looked at: of which bytes it is stands nowhere, no client of
    # NVIDIA's reads it, and the RIM is signed.
    try:
        value = json.loads(body)
        found, text = value["id"], value["rim"]
        content = base64.b64decode(text, validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _wrong(f"RIM {rim}: no answer of a RIM service: {error!r}"[:200]) from error
    if found != rim:
        raise _wrong(f"RIM {rim}: the answer is {str(found)[:64]!r}")
    return _one(f"{shapes.RIM}.{rim}", content)


def ocsp_asks(subject: GpuSubject, rims: Iterable[bytes], services: Services) -> tuple[Ask, ...]:
    """One request for each certificate of the devices and of the RIMs, but for roots."""
    return tuple(_ocsp_ask(*each, services) for each in _checked(subject, rims))


def _checked(
    subject: GpuSubject, rims: Iterable[bytes]
) -> list[tuple[x509.Certificate, x509.Certificate]]:
    chains = [shapes.pem_chain(each) for each in subject.chains]
    for each in rims:
        try:
            chains.append(shapes.rim_certificates(each))
        except ValueError:
            continue  # refused where it was fetched; here it came from a disk
    pairs = {each[0]: each for chain in chains for each in _pairs(chain)}
    return list(pairs.values())


def _pairs(
    chain: Sequence[x509.Certificate],
) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """Each certificate with its issuer, found by name; a root has none but itself."""
    issuers = {each.subject: each for each in chain}
    return [
        (each, issuers[each.issuer])
        for each in chain
        if each.issuer != each.subject and each.issuer in issuers
    ]


def _ocsp_name(certificate: x509.Certificate) -> str:
    named = digest(certificate.public_bytes(Encoding.DER)).hex()
    return f"{shapes.OCSP}.{named[:_OCSP_NAME_HEX]}"


def _ocsp_ask(certificate: x509.Certificate, issuer: x509.Certificate, services: Services) -> Ask:
    # Without a nonce: the answer is stapled, and outlives this request.
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
    name = _ocsp_name(certificate)
    return Ask(
        service=services.ocsp,
        platform=shapes.GPU,
        names=(name,),
        target="/",
        body=builder.build().public_bytes(Encoding.DER),
        content_type="application/ocsp-request",
        read=lambda answer: _ocsp(name, certificate.serial_number, answer.body),
        body_bytes_max=shapes.OCSP_BYTES_MAX,
    )


def _ocsp(name: str, serial: int, body: bytes) -> tuple[Content, ...]:
    contents = _one(name, body)
    found = {each.serial_number for each in ocsp.load_der_ocsp_response(body).responses}
    if serial not in found:
        raise _wrong("OCSP: of another certificate")
    return contents


# --- shared --------------------------------------------------------------------------------------


def _one(name: str, content: bytes) -> tuple[Content, ...]:
    """Refuses what is not of its kind."""
    shapes.lifetime(shapes.kind_of(name), content)
    return ((name, content),)


def _wrong(text: str) -> EndorsementError:
    return EndorsementError("wrong-content", text)
