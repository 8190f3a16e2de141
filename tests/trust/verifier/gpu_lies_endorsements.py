"""Lies in OCSP responses, and with manifests that fit nothing: checks 31, 32 and 34."""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.trust.verifier.gpu_lie_edits import (
    Lies,
    attribute,
    gpu,
    lie,
    meta,
    no_evidence,
    ocsp,
    payload,
    resources,
    then,
    without_ocsp,
)
from tests.trust.verifier.gpu_vendor import (
    DAY,
    HOPPER,
    NOW,
    SIGNS_STATUS,
    UNKNOWN,
    driver_rim,
    revoked,
)
from trust.simulated.certificates import sequence, tlv
from trust.simulated.nvidia_certificates import authority
from trust.simulated.nvidia_models import golden
from trust.simulated.rim import Element, Resource
from trust.verifier import der

LIES: Lies = []

# --- 31: revocation ------------------------------------------------------------------------------

for place, who in enumerate(("boot-rom", "provisioner", "model")):
    lie(
        LIES,
        "ocsp-device",
        f"no-word-on-the-{who}",
        f"The host withholds the response on the {who}.",
        without_ocsp(place),
    )
    lie(
        LIES,
        "ocsp-device",
        f"{who}-revoked",
        f"The {who}'s certificate is revoked.",
        ocsp(place, status=revoked()),
    )
lie(
    LIES,
    "ocsp-device",
    "rom-revoked-without-reason",
    "The boot ROM's certificate is revoked.",
    ocsp(0, status=revoked(None)),
)
lie(
    LIES,
    "ocsp-device",
    "rom-unknown",
    "The responder knows no such certificate.",
    ocsp(0, status=UNKNOWN),
)
lie(
    LIES,
    "ocsp-device",
    "response-of-yesterday",
    "A response's time is over.",
    ocsp(1, this_update=NOW - 2 * DAY, next_update=NOW),
)
lie(
    LIES,
    "ocsp-device",
    "response-of-tomorrow",
    "A response is not true yet.",
    ocsp(1, this_update=NOW + DAY, next_update=NOW + 2 * DAY),
)
lie(
    LIES,
    "ocsp-device",
    "response-without-end",
    "A response does not say when it ends.",
    ocsp(1, next_update=None),
)
lie(
    LIES,
    "ocsp-device",
    "response-on-another-serial",
    "The response is about another certificate.",
    ocsp(0, serial=7),
)
lie(
    LIES,
    "ocsp-device",
    "response-on-another-issuer-name",
    "The CertID has another issuer's name.",
    ocsp(0, name_hash=bytes(48)),
)
lie(
    LIES,
    "ocsp-device",
    "response-on-another-issuer-key",
    "The CertID has another issuer's key.",
    ocsp(0, key_hash=bytes(48)),
)
lie(
    LIES,
    "ocsp-device",
    "responder-not-for-ocsp",
    "The responder is certified for no such thing.",
    ocsp(0, responder_extensions=SIGNS_STATUS[:1]),
)
lie(
    LIES,
    "ocsp-device",
    "responder-for-servers",
    "The responder is certified for TLS servers.",
    ocsp(
        0,
        responder_extensions=(
            SIGNS_STATUS[0],
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True),
        ),
    ),
)
lie(
    LIES,
    "ocsp-device",
    "responder-is-an-authority",
    "The responder may certify others.",
    ocsp(0, responder_extensions=(*authority(), SIGNS_STATUS[1])),
)
lie(
    LIES,
    "ocsp-device",
    "responder-of-another-issuer",
    "An attacker has certified the responder.",
    ocsp(0, certified_by="attacker"),
)
lie(
    LIES,
    "ocsp-device",
    "responder-of-yesterday",
    "The responder's certificate ended yesterday.",
    ocsp(0, responder_ends=NOW - DAY),
)
lie(
    LIES,
    "ocsp-device",
    "response-signed-by-another",
    "Another key than the responder's signed it.",
    ocsp(0, signing_key="attacker"),
)
lie(
    LIES,
    "ocsp-device",
    "responder-withheld",
    "The responder's certificate is not there.",
    ocsp(0, certificates=()),
)
lie(
    LIES,
    "ocsp-device",
    "response-by-the-gpu-itself",
    "The GPU's own key says that its ROM is good.",
    ocsp(0, by_issuer=True, signing_key="leaf 4750553030303031"),
)
lie(
    LIES,
    "ocsp-device",
    "two-answers",
    "Of two responses on the boot ROM one says that it is revoked.",
    lambda case: replace(
        case, ocsp_edit=lambda found: [*found, replace(found[0], status=revoked())]
    ),
)
lie(
    LIES,
    "ocsp-rim",
    "no-word-on-the-signer",
    "The host withholds the response on a manifest's signer.",
    without_ocsp(3),
)
lie(
    LIES,
    "ocsp-rim",
    "rim-signer-revoked",
    "The signer of a manifest is revoked.",
    ocsp(3, status=revoked(1)),
)
lie(
    LIES,
    "ocsp-rim",
    "rim-issuer-revoked",
    "The issuer of a manifest's signer is revoked.",
    ocsp(4, status=revoked(2)),
)
lie(
    LIES,
    "ocsp-rim",
    "rim-authority-stale",
    "The word on a manifest's authority is over.",
    ocsp(5, this_update=NOW - 9 * DAY, next_update=NOW - 8 * DAY),
)
lie(
    LIES,
    "ocsp-hold",
    "rom-on-hold",
    "The boot ROM's certificate is revoked for a time.",
    ocsp(0, status=revoked(6)),
)
lie(
    LIES,
    "ocsp-hold",
    "rim-signer-on-hold",
    "The signer of a manifest is revoked for a time.",
    ocsp(3, status=revoked(6)),
)
lie(
    LIES,
    "ocsp-age",
    "old-word",
    "A response says of itself that it is true for a month.",
    ocsp(2, this_update=NOW - 20 * DAY, next_update=NOW + 10 * DAY),
)

CRITICAL = sequence(
    tlv(der.OBJECT_IDENTIFIER, der.oid("1.2.3")),
    tlv(der.BOOLEAN, b"\xff"),
    tlv(der.OCTET_STRING, b""),
)
no_evidence(
    LIES,
    "ocsp-device",
    "certid-by-sha-1",
    "The CertID is by SHA-1.",
    ocsp(0, hash_name="sha1", hash_oid=der.oid("1.3.14.3.2.26")),
)
no_evidence(
    LIES,
    "ocsp-device",
    "service-busy",
    "The service answered that it is busy.",
    ocsp(0, edit=lambda _data: sequence(tlv(0x0A, b"\x03"))),
)
no_evidence(
    LIES,
    "ocsp-device",
    "critical-extension",
    "A response has a critical extension.",
    ocsp(0, extensions=tlv(0xA1, sequence(CRITICAL))),
)
no_evidence(
    LIES,
    "ocsp-device",
    "critical-extension-of-an-answer",
    "An answer has a critical extension.",
    ocsp(0, single_extensions=tlv(0xA1, sequence(CRITICAL))),
)
no_evidence(
    LIES,
    "ocsp-device",
    "bytes-after-a-response",
    "A byte stands after a response.",
    ocsp(0, edit=lambda data: data + b"\x00"),
)

# --- 32: which manifest --------------------------------------------------------------------------

lie(
    LIES,
    "rim-driver",
    "no-driver-manifest",
    "The host withholds the driver's manifest.",
    lambda case: replace(case, rims=case.rims[1:]),
    "rim-measurements",
)
lie(
    LIES,
    "rim-driver",
    "manifest-of-another-driver",
    "The manifest is of an older driver.",
    meta("colloquialVersion", "570.10.01"),
    "rim-measurements",
)
lie(
    LIES,
    "rim-driver",
    "manifest-of-another-product",
    "The driver's manifest is for another chip.",
    meta("product", "GB100"),
    "rim-measurements",
)
lie(
    LIES,
    "rim-driver",
    "two-driver-manifests",
    "Two manifests are of this driver.",
    lambda case: replace(case, rims=(*case.rims, driver_rim(HOPPER, tag_id=bytes(48)))),
)
lie(
    LIES,
    "rim-vbios",
    "no-vbios-manifest",
    "The host withholds the VBIOS's manifest.",
    lambda case: replace(case, rims=case.rims[:1]),
    "rim-measurements",
)
lie(
    LIES,
    "rim-vbios",
    "manifest-of-another-vbios",
    "The manifest is of an older VBIOS.",
    meta("colloquialVersion", "96.00.5E.00.01", 1),
    "rim-measurements",
)
lie(
    LIES,
    "rim-vbios",
    "manifest-of-a-switch",
    "The VBIOS's manifest is a switch's.",
    meta("edition", "SWITCH", 1),
    "rim-measurements",
)

# --- 34: measurements ----------------------------------------------------------------------------


def _inactive(held: tuple[Element, ...]) -> tuple[Element, ...]:
    return tuple(attribute(each, "active", "False") for each in held)


lie(
    LIES,
    "rim-measurements",
    "driver-measured-otherwise",
    "The GPU measures another driver.",
    gpu(measurements={7: bytes(range(48))}),
)
lie(
    LIES,
    "rim-measurements",
    "vbios-measured-otherwise",
    "The GPU measures another VBIOS.",
    gpu(measurements={9: bytes(range(48))}),
)
lie(
    LIES,
    "rim-measurements",
    "measured-nothing",
    "Zeros stand where the driver is measured.",
    gpu(measurements={22: bytes(48)}),
)
lie(
    LIES,
    "rim-measurements",
    "measured-something",
    "A value stands where zeros are good.",
    gpu(measurements={0: bytes(range(48))}),
)
lie(
    LIES,
    "rim-measurements",
    "active-in-both",
    "Both manifests have the same good value at one index.",
    resources(Resource(index=7, active=True, values=golden(HOPPER, 7)), which=1),
)
lie(
    LIES,
    "rim-measurements",
    "nothing-active",
    "No index is active in either manifest.",
    then(payload(_inactive), payload(_inactive, 1)),
)
lie(
    LIES,
    "rim-measurements",
    "active-beyond-the-blocks",
    "A value is wanted where the GPU has no block.",
    resources(Resource(index=64, active=True, values=(bytes(48),))),
)
lie(
    LIES,
    "rim-measurements",
    "more-values-than-blocks",
    "There are more good values than blocks.",
    resources(*(Resource(index=i, active=True, values=(bytes(48),)) for i in range(64, 104))),
)
lie(
    LIES,
    "rim-measurements",
    "decoder-on",
    "NVDEC0 is on, and its block is not a good one.",
    gpu(opaque={11: b"\xaa"}, measurements={35: bytes(48)}),
)
lie(
    LIES,
    "rim-measurements",
    "decoder-not-said",
    "It isn't said that NVDEC0 is off; its block is bad.",
    gpu(opaque={11: None}, measurements={35: bytes(48)}),
)
