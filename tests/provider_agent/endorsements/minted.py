"""Endorsements under throwaway roots, in the forms in which vendors serve them."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from provider_agent.endorsements.subjects import GpuSubject, SnpSubject, TdxSubject
from tests.trust.verifier import vendor
from trust.evidence.claims import Product
from trust.verifier.certificates import parse_certificate
from trust.verifier.endorsements import certified_tcb

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
FMSPC = "90c06f000000"
RIM_ID = "NV_GPU_DRIVER_GH100_550.144.03"


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(ec.SECP384R1())


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@functools.cache
def certificate(
    name: str, issuer: str, serial: int = 7, begins: dt.datetime = NOW - DAY, days: int = 1000
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key(name).public_key())
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(begins + days * DAY)
        .sign(key(issuer), hashes.SHA384())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


@functools.cache
def revocation_list(issuer: str, begins: dt.datetime = NOW - DAY, days: int = 30) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(named(issuer))
    builder = builder.last_update(begins).next_update(begins + days * DAY)
    return builder.sign(key(issuer), hashes.SHA384()).public_bytes(Encoding.DER)


# --- AMD -----------------------------------------------------------------------------------------


@functools.cache
def amd(product: Product = Product.GENOA) -> dict[str, bytes]:
    return dict(vendor.simulated_chip(product).endorsements())


def amd_chain(product: Product = Product.GENOA) -> bytes:
    found = (x509.load_der_x509_certificate(amd(product)[each]) for each in ("ask", "ark"))
    return pem(*found)


def snp_subject(product: Product = Product.GENOA) -> SnpSubject:
    tcb = certified_tcb(parse_certificate(amd(product)["vcek"]), product)
    assert tcb is not None
    return SnpSubject(product=product, chip_id=vendor.simulated_chip(product).chip_id, tcb=tcb)


# --- Intel ---------------------------------------------------------------------------------------

ROOT, PLATFORM, SIGNING = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX TCB Signing"


def intel_chain(name: str) -> bytes:
    return pem(certificate(name, ROOT), certificate(ROOT, ROOT, days=5000))


def as_header(chain: bytes) -> str:
    return quote(chain.decode(), safe="")


def signed_json(
    member: str, begins: dt.datetime = NOW - 10 * DAY, days: int = 30, **more: str
) -> bytes:
    body = {
        "version": 3,
        "issueDate": begins.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nextUpdate": (begins + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **more,
    }
    return json.dumps({member: body, "signature": "00" * 64}).encode()


def tcb_info(begins: dt.datetime = NOW - 10 * DAY, fmspc: str = FMSPC, days: int = 30) -> bytes:
    return signed_json("tcbInfo", begins, days, fmspc=fmspc.upper())


def intel(begins: dt.datetime = NOW - 10 * DAY) -> dict[str, bytes]:
    """The seven objects, by kind."""
    return {
        "tdx-tcb-info": tcb_info(begins),
        "tdx-tcb-info-chain": intel_chain(SIGNING),
        "tdx-qe-identity": signed_json("enclaveIdentity", begins, id="TD_QE"),
        "tdx-qe-identity-chain": intel_chain(SIGNING),
        "tdx-pck-crl": revocation_list(PLATFORM),
        "tdx-pck-crl-chain": intel_chain(PLATFORM),
        "tdx-root-crl": revocation_list(ROOT),
    }


def tdx_subject() -> TdxSubject:
    return TdxSubject(fmspc=bytes.fromhex(FMSPC), authority="platform")


# --- NVIDIA --------------------------------------------------------------------------------------

GPU_ROOT, GPU_MODEL, GPU_LEAF = "NVIDIA Device Identity CA", "NVIDIA GH100 Identity", "GH100 leaf"
RIM_ROOT, RIM_SIGNER = "NVIDIA Reference Value L2", "NVIDIA RIM signer"


def gpu_chain() -> bytes:
    return pem(
        certificate(GPU_LEAF, GPU_MODEL, 11),
        certificate(GPU_MODEL, GPU_ROOT, 12),
        certificate(GPU_ROOT, GPU_ROOT, 13),
    )


def rim(days: int = 700) -> bytes:
    chain = (certificate(RIM_SIGNER, RIM_ROOT, 21, days=days), certificate(RIM_ROOT, RIM_ROOT, 22))
    texts = "".join(
        "<ds:X509Certificate>"
        f"{base64.b64encode(each.public_bytes(Encoding.DER)).decode()}"
        "</ds:X509Certificate>\n"
        for each in chain
    )
    return f'<?xml version="1.0"?><SoftwareIdentity>{texts}</SoftwareIdentity>\n'.encode()


def rim_answer(content: bytes | None = None, rim_id: str = RIM_ID) -> bytes:
    text = base64.b64encode(rim() if content is None else content).decode()
    return json.dumps({"id": rim_id, "rim": text, "sha256": "of something"}).encode()


def gpu_subject() -> GpuSubject:
    return GpuSubject(rims=(RIM_ID,), chains=(gpu_chain(),))


def ocsp_answer(
    request: bytes, begins: dt.datetime = NOW - DAY / 2, *, ends: bool = True, serial: int = 0
) -> bytes:
    """What the responder of these issuers says."""
    asked = ocsp.load_der_ocsp_request(request)
    known = [
        (certificate(GPU_LEAF, GPU_MODEL, 11), certificate(GPU_MODEL, GPU_ROOT, 12)),
        (certificate(GPU_MODEL, GPU_ROOT, 12), certificate(GPU_ROOT, GPU_ROOT, 13)),
        (certificate(RIM_SIGNER, RIM_ROOT, 21), certificate(RIM_ROOT, RIM_ROOT, 22)),
    ]
    wanted = serial or asked.serial_number
    subject, issuer = next(each for each in known if each[0].serial_number == wanted)
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject,
        issuer=issuer,
        algorithm=hashes.SHA384(),
        cert_status=ocsp.OCSPCertStatus.GOOD,
        this_update=begins,
        next_update=begins + 7 * DAY if ends else None,
        revocation_time=None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    answer = builder.sign(key(issuer.subject.rfc4514_string().removeprefix("CN=")), hashes.SHA384())
    return answer.public_bytes(Encoding.DER)
