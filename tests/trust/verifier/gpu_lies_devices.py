"""Lies in a device's certificates, signature and firmware: checks 28 to 30."""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from tests.trust.verifier.gpu_lie_edits import (
    BLOCK,
    RECORD,
    Lies,
    at,
    gpu,
    lie,
    links,
    meta,
    no_evidence,
    on_blackwell,
    rooted,
    then,
)
from tests.trust.verifier.gpu_vendor import (
    DAY,
    HOPPER,
    NONCE,
    NOW,
    Links,
    changed,
    device_links,
    made,
)
from trust.encoding import digest
from trust.messages import GpuDeviceKind
from trust.simulated.nvidia_certificates import authority, key_usage, name
from trust.simulated.nvidia_gpu import REQUEST_HEAD

LIES: Lies = []

# --- 28: the chain -------------------------------------------------------------------------------

FAKE: Links = changed(device_links(HOPPER, b"GPU00001"), 4, key="attacker")

lie(
    LIES,
    "gpu-chain",
    "root-of-another",
    "All is issued under a root with NVIDIA's name and another key.",
    gpu(links=FAKE),
)
lie(
    LIES,
    "gpu-chain",
    "root-pinned-for-manifests",
    "The root of manifests has issued device certificates.",
    then(
        rooted(4, key="rim root"),
        lambda case: replace(case, device_root=digest(made(device_links(HOPPER, b"GPU00001"))[-1])),
    ),
)
lie(
    LIES,
    "gpu-chain",
    "chain-without-provisioner",
    "The boot ROM is certified by the model's authority.",
    gpu(links=tuple(e for i, e in enumerate(device_links(HOPPER, b"GPU00001")) if i != 2)),
)
lie(
    LIES,
    "gpu-chain",
    "chain-of-six",
    "A GPU's own key certifies a further leaf.",
    gpu(
        links=(
            replace(device_links(HOPPER, b"GPU00001")[0], key="attacker"),
            *changed(
                device_links(HOPPER, b"GPU00001"),
                0,
                extensions=(
                    *authority(),
                    *device_links(HOPPER, b"GPU00001")[0].plan.extensions[1:],
                ),
            ),
        )
    ),
)
lie(
    LIES,
    "gpu-chain",
    "leaf-signed-by-another",
    "The leaf is signed by an attacker's key.",
    links(0, signer="attacker"),
)
lie(
    LIES,
    "gpu-chain",
    "provisioner-signed-by-another",
    "The provisioner is signed by an attacker's key.",
    links(2, signer="attacker"),
)
lie(
    LIES,
    "gpu-chain",
    "leaf-names-another",
    "The leaf names another issuer, whose key signed it.",
    links(0, issuer=name(CN="GH100 A01 GSP BROM", O="NVIDIA")),
)
lie(
    LIES,
    "gpu-chain",
    "rom-is-no-authority",
    "The boot ROM's certificate says that it is no authority.",
    links(
        1,
        extensions=(
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage("key_cert_sign"), True),
        ),
    ),
)
lie(
    LIES,
    "gpu-chain",
    "rom-without-constraints",
    "The boot ROM's certificate has no basicConstraints.",
    links(1, extensions=((key_usage("key_cert_sign"), True),)),
)
lie(
    LIES,
    "gpu-chain",
    "provisioner-signs-no-certificates",
    "The provisioner's key may sign lists alone.",
    links(
        2,
        extensions=(
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (key_usage("crl_sign"), True),
        ),
    ),
)
lie(
    LIES,
    "gpu-chain",
    "path-too-long",
    "The model's authority allows no authority beneath it.",
    links(3, extensions=authority(path=0)),
)
lie(
    LIES,
    "gpu-chain",
    "leaf-is-an-authority",
    "The leaf may certify others.",
    links(0, extensions=(*authority(), *device_links(HOPPER, b"GPU00001")[0].plan.extensions[1:])),
)
lie(
    LIES,
    "gpu-chain",
    "leaf-signs-certificates",
    "The leaf's key may sign certificates and reports.",
    links(
        0,
        extensions=(
            (key_usage("digital_signature", "key_cert_sign"), True),
            *device_links(HOPPER, b"GPU00001")[0].plan.extensions[1:],
        ),
    ),
)
lie(
    LIES,
    "gpu-chain",
    "leaf-by-sha-256",
    "The leaf is signed with SHA-256.",
    links(0, by_sha256=True),
)
lie(
    LIES,
    "gpu-chain",
    "constraints-that-do-not-parse",
    "The boot ROM's basicConstraints are cut off.",
    links(
        1,
        extensions=(
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.19"), b"\x30\x03\x01"), True),
            (key_usage("key_cert_sign"), True),
        ),
    ),
)
no_evidence(
    LIES,
    "gpu-chain",
    "chain-of-one",
    "There is a leaf alone.",
    gpu(chain_edit=lambda chain: chain[:1]),
)
no_evidence(
    LIES,
    "gpu-chain",
    "text-in-the-chain",
    "A line of text stands between two certificates.",
    gpu(
        pem_edit=lambda data: data.replace(
            b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\nroot\n", 1
        )
    ),
)
no_evidence(
    LIES,
    "gpu-chain",
    "unknown-critical-extension",
    "The leaf has a critical extension unknown.",
    links(
        0,
        extensions=(
            *device_links(HOPPER, b"GPU00001")[0].plan.extensions,
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), True),
        ),
    ),
)

lie(
    LIES,
    "gpu-validity",
    "leaf-of-tomorrow",
    "The leaf is valid from tomorrow.",
    links(0, not_before=NOW + DAY),
)
lie(
    LIES,
    "gpu-validity",
    "provisioner-of-yesterday",
    "The provisioner's certificate ended yesterday.",
    links(2, not_after=NOW - DAY),
)
lie(
    LIES,
    "gpu-validity",
    "root-of-yesterday",
    "The root ended yesterday.",
    rooted(4, not_after=NOW - DAY),
)

lie(
    LIES,
    "gpu-model",
    "leaf-of-another-chip",
    "The boot ROM of a GB100 has certified a GH100.",
    links(1, subject=name(C="US", O="NVIDIA Corporation", CN="GB100 A01 GSP BROM")),
)
lie(
    LIES,
    "gpu-model",
    "provisioner-of-another-chip",
    "The provisioner is for GB100.",
    links(2, subject=name(CN="NVIDIA GB100 Provisioner ICA 1", O="NVIDIA Corporation")),
)
lie(
    LIES,
    "gpu-model",
    "authority-of-another-chip",
    "The model's authority is LS_10's.",
    links(3, subject=name(CN="NVIDIA LS_10 Identity", O="NVIDIA Corporation")),
)
lie(
    LIES,
    "gpu-model",
    "gpu-as-a-switch",
    "A GPU is shown as a switch, with a manifest for one.",
    then(gpu(kind=GpuDeviceKind.SWITCH), meta("edition", "SWITCH", 1)),
)

# --- 29, 30: the signature and the firmware ------------------------------------------------------

lie(
    LIES,
    "gpu-signature",
    "signed-by-another",
    "Another key signed the report.",
    gpu(signing_key="attacker"),
)
lie(
    LIES,
    "gpu-signature",
    "changed-after-signing",
    "A block that no manifest names is changed.",
    gpu(report_edit=at(37 + RECORD + 63 * BLOCK + 7, b"\x01")),
)
lie(
    LIES,
    "gpu-signature",
    "request-not-signed",
    "Request and response are of two exchanges.",
    gpu(request=REQUEST_HEAD + NONCE[::-1] + b"\x00", report_edit=at(4, NONCE)),
)
lie(
    LIES,
    "gpu-fwid",
    "firmware-of-another",
    "The report names other firmware than the leaf.",
    gpu(opaque={20: bytes(range(48))}),
)
lie(
    LIES,
    "gpu-fwid",
    "leaf-of-other-firmware",
    "The leaf is certified for other firmware.",
    gpu(links=device_links(HOPPER, b"GPU00001", bytes(range(48)))),
)
lie(
    LIES,
    "gpu-fwid",
    "leaf-without-firmware",
    "The leaf does not say which firmware it is for.",
    links(0, extensions=device_links(HOPPER, b"GPU00001")[0].plan.extensions[:2]),
)
lie(
    LIES,
    "gpu-fwid",
    "second-firmware-on-blackwell",
    "The report names the second FWID of the leaf.",
    on_blackwell(gpu(opaque={20: bytes(48)})),
)
