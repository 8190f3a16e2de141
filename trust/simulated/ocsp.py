"""Writes OCSP responses (RFC 6960) as NVIDIA's service: signed by a delegated responder.

Rules:
- Each issuer has a responder of its own, certified by that issuer for nothing but OCSP; its
  certificate comes with the response.
- The writer checks nothing: a test asks for a responder without the key usage, another's status, a
  time that is over.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from trust.simulated.nvidia_certificates import Authority, Plan, issue, key_usage, name

RESPONSE_LIFE: Final = dt.timedelta(days=365)  # as simulated lists; a policy's bound is nearer
RESPONDER_LIFE: Final = dt.timedelta(days=2 * 365)
EARLIER: Final = dt.timedelta(days=1)  # so that a verifier with a slow clock does not wait a day
RESPONSE_EARLIER: Final = dt.timedelta(minutes=10)  # the same; policies take a day and no more
SIGNS_STATUS: Final = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (key_usage("digital_signature"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True),
    (x509.OCSPNoCheck(), False),
)
"""What a certificate says that may sign the status of its issuer's other certificates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What a response says of one certificate."""

    this_update: dt.datetime
    next_update: dt.datetime | None
    certificate_status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    revoked_at: dt.datetime | None = None
    reason: x509.ReasonFlags | None = None


def good(now: dt.datetime) -> Status:
    """A good certificate, as known at the aware time `now`."""
    return Status(this_update=now - RESPONSE_EARLIER, next_update=now + RESPONSE_LIFE)


def issue_responder(
    issuer: Authority,
    now: dt.datetime,
    *,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = SIGNS_STATUS,
) -> Authority:
    """A new responder of this issuer."""
    plan = Plan(
        subject=name(CN="NVIDIA OCSP Responder", O="NVIDIA Corporation", C="US"),
        not_before=now - EARLIER,
        not_after=now + RESPONDER_LIFE,
        extensions=extensions,
    )
    return issue(plan, issuer=issuer)


def respond(certificate: bytes, issuer: bytes, status: Status, *, responder: Authority) -> bytes:
    """A response on a certificate of this issuer (both DER): DER of an OCSPResponse."""
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=x509.load_der_x509_certificate(certificate),
            issuer=x509.load_der_x509_certificate(issuer),
            algorithm=hashes.SHA384(),
            cert_status=status.certificate_status,
            this_update=status.this_update,
            next_update=status.next_update,
            revocation_time=status.revoked_at,
            revocation_reason=status.reason,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.x509)
        .certificates([responder.x509])
    )
    signed = builder.sign(responder.private_key, hashes.SHA384())
    return signed.public_bytes(serialization.Encoding.DER)


def refuse(status: ocsp.OCSPResponseStatus) -> bytes:
    """A response that answers nothing: the service is too busy, or does not know."""
    builder = ocsp.OCSPResponseBuilder.build_unsuccessful(status)
    return builder.public_bytes(serialization.Encoding.DER)
