"""What an endorsement of each kind looks like, and how long it is good: shape, and no belief.

Rules:
- Size is looked at first; a content that is not of its kind is refused with what was found.
- A lifetime is read from the object itself, never from a header of whoever served it. It can be a
  lie: then a verifier refuses it, and nothing was lost but time.
- Kinds are those of docs/spec/evidence.md; a file's name is its kind, and for the GPU's, of which
  there are several, its kind, a dot and what it is of.

Sources: AMD publication 57230; Intel PCS API v4, appendices A and B; RFC 5280, RFC 6960.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509 import ocsp

from provider_agent.endorsements.errors import EndorsementError
from trust.errors import BlindhostError
from trust.verifier.certificates import parse_certificate, parse_revocation_list

SNP: Final = "snp"
TDX: Final = "tdx"
GPU: Final = "gpu"
PLATFORMS: Final = (SNP, TDX, GPU)

VCEK_KINDS: Final = ("vcek", "ask", "ark", "crl")
VLEK_KINDS: Final = ("vlek", "asvk", "ark", "crl")
TDX_KINDS: Final = (
    "tdx-tcb-info",
    "tdx-tcb-info-chain",
    "tdx-qe-identity",
    "tdx-qe-identity-chain",
    "tdx-pck-crl",
    "tdx-pck-crl-chain",
    "tdx-root-crl",
)
RIM: Final = "gpu-rim"
OCSP: Final = "gpu-ocsp"

ROTATING: Final = frozenset({"crl", "tdx-tcb-info", "tdx-qe-identity", "tdx-pck-crl"}) | {
    "tdx-root-crl",
    OCSP,
}
"""Kinds of which a newer one may say what this one does not yet: a revocation, an advisory."""

CERTIFICATE_BYTES_MAX: Final = 8 * 1024
CHAIN_BYTES_MAX: Final = 32 * 1024
LIST_BYTES_MAX: Final = 256 * 1024
JSON_BYTES_MAX: Final = 256 * 1024  # Intel's longest TCB information has some 20 KiB
RIM_BYTES_MAX: Final = 512 * 1024
OCSP_BYTES_MAX: Final = 64 * 1024
CHAIN_CERTIFICATES_MAX: Final = 8  # NVIDIA's longest has five
RIM_CERTIFICATES_MAX: Final = 8

_RIM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RIM_ROOT: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>)?\s*<([A-Za-z][\w:.-]{0,64})"
)
_RIM_CERTIFICATE: Final = re.compile(
    rb"<(?:[A-Za-z0-9]+:)?X509Certificate>([A-Za-z0-9+/=\s]{1,16384})"
    rb"</(?:[A-Za-z0-9]+:)?X509Certificate>"
)
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    """From when until when an object says of itself that it is good."""

    begins: dt.datetime
    ends: dt.datetime | None
    """None: it does not say, and no verifier takes it for fresh."""


def kind_of(name: str) -> str:
    """The kind of a file of this name."""
    return name.partition(".")[0]


def platform_of(kind: str) -> str:
    """The folder in which a kind is kept. Raises EndorsementError for one that nobody knows."""
    if kind in {*VCEK_KINDS, *VLEK_KINDS}:
        return SNP
    if kind in TDX_KINDS:
        return TDX
    if kind in {RIM, OCSP}:
        return GPU
    raise EndorsementError("unknown-kind", f"{kind[:32]!r} is no endorsement")


def check_name(name: str) -> str:
    """A name that is a file's, of a kind there is. Raises EndorsementError."""
    if not _FILE.fullmatch(name) or ((kind := kind_of(name)) != name and kind not in {RIM, OCSP}):
        raise EndorsementError("unknown-kind", f"{name[:32]!r} is no name of an endorsement")
    platform_of(kind_of(name))
    return name


def check_rim_id(text: str) -> str:
    """An id as NVIDIA's service spells them: it becomes a part of an address, and of a file's name.

    Raises EndorsementError.
    """
    if not _RIM_ID.fullmatch(text) or ".." in text:
        raise EndorsementError("bad-subject", f"{text[:40]!r} is no id of a RIM")
    return text


def lifetime(kind: str, content: bytes) -> Lifetime:
    """Look at the shape; the lifetime it says. Raises EndorsementError with what was found."""
    platform_of(kind)
    limit, read = _READERS[kind]
    if len(content) > limit:
        raise EndorsementError("wrong-content", f"{kind}: {len(content)} bytes, at most {limit}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a library frowns at today, it refuses tomorrow
            return read(content)
    except (BlindhostError, ValueError, TypeError, RecursionError, Warning) as error:
        text = str(error)[:160]
        raise EndorsementError("wrong-content", f"{kind}: not of this kind: {text}") from error


def pem_chain(content: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file, 1 to `CHAIN_CERTIFICATES_MAX`. Raises ValueError."""
    if content.count(b"-----BEGIN CERTIFICATE-----") > CHAIN_CERTIFICATES_MAX:
        raise ValueError(f"over {CHAIN_CERTIFICATES_MAX} certificates")
    return x509.load_pem_x509_certificates(content)


def rim_certificates(content: bytes) -> list[x509.Certificate]:
    """The certificates that stand in a RIM's signature, found as text. Raises ValueError."""
    found = _RIM_CERTIFICATE.findall(content)
    if not 1 <= len(found) <= RIM_CERTIFICATES_MAX:
        raise ValueError(f"{len(found)} certificates in its signature")
    try:
        return [
            x509.load_der_x509_certificate(base64.b64decode(b"".join(each.split()), validate=True))
            for each in found
        ]
    except binascii.Error as error:
        raise ValueError(f"a certificate that is no base64: {error}") from error


# --- readers -------------------------------------------------------------------------------------


def _amd_certificate(content: bytes) -> Lifetime:
    found = parse_certificate(content)
    return Lifetime(begins=found.not_before, ends=found.not_after)


def _amd_list(content: bytes) -> Lifetime:
    found = parse_revocation_list(content)
    return Lifetime(begins=found.this_update, ends=found.next_update)


def _list(content: bytes) -> Lifetime:
    found = x509.load_der_x509_crl(content)
    return Lifetime(begins=found.last_update_utc, ends=found.next_update_utc)


def _of_all(certificates: Sequence[x509.Certificate]) -> Lifetime:
    return Lifetime(
        begins=max(each.not_valid_before_utc for each in certificates),
        ends=min(each.not_valid_after_utc for each in certificates),
    )


def _chain(content: bytes) -> Lifetime:
    return _of_all(pem_chain(content))


def _rim(content: bytes) -> Lifetime:
    root = _RIM_ROOT.match(content)
    if root is None or not content.rstrip().endswith(b"</" + root[1] + b">"):
        raise ValueError("it is no XML, or is cut off")
    return _of_all(rim_certificates(content))


def _ocsp(content: bytes) -> Lifetime:
    found = ocsp.load_der_ocsp_response(content)
    if found.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"the responder says {found.response_status.name}")
    single = list(found.responses)
    ends = [each.next_update_utc for each in single]
    known = [each for each in ends if each is not None]
    return Lifetime(
        begins=max(each.this_update_utc for each in single),
        ends=min(known) if len(known) == len(ends) else None,
    )


def _signed_json(member: str) -> Callable[[bytes], Lifetime]:
    def read(content: bytes) -> Lifetime:
        value = json.loads(content)
        if not isinstance(value, dict) or set(value) != {member, "signature"}:
            raise ValueError(f"it is no object of {member} and signature")
        body = value[member]
        if not isinstance(body, dict):
            raise TypeError(f"{member} is no object")
        begins, ends = (dt.datetime.fromisoformat(str(body.get(n))) for n in _DATES)
        if begins.tzinfo is None or ends.tzinfo is None:
            raise ValueError("a date without its zone")
        return Lifetime(begins=begins, ends=ends)

    return read


_DATES: Final = ("issueDate", "nextUpdate")
_READERS: Final[dict[str, tuple[int, Callable[[bytes], Lifetime]]]] = {
    **dict.fromkeys(
        ("vcek", "vlek", "ask", "asvk", "ark"), (CERTIFICATE_BYTES_MAX, _amd_certificate)
    ),
    "crl": (LIST_BYTES_MAX, _amd_list),
    "tdx-tcb-info": (JSON_BYTES_MAX, _signed_json("tcbInfo")),
    "tdx-qe-identity": (JSON_BYTES_MAX, _signed_json("enclaveIdentity")),
    **dict.fromkeys(
        (each for each in TDX_KINDS if each.endswith("-chain")), (CHAIN_BYTES_MAX, _chain)
    ),
    "tdx-pck-crl": (LIST_BYTES_MAX, _list),
    "tdx-root-crl": (LIST_BYTES_MAX, _list),
    RIM: (RIM_BYTES_MAX, _rim),
    OCSP: (OCSP_BYTES_MAX, _ocsp),
}
