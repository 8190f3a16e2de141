"""A vendor of lies about GPUs: chains, reports, manifests and OCSP responses in the real formats,
with whatever a test wants wrong. Keys are derived from names and nothing is drawn, so that golden
vectors come out the same each time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.vectors.evidence.keys import ec_key
from trust.encoding import digest
from trust.messages import GpuDevice, GpuDeviceKind, GpuEvidence
from trust.simulated.certificates import integer, sequence, tlv
from trust.simulated.chip import private_bytes
from trust.simulated.nvidia import rom_plan
from trust.simulated.nvidia_certificates import (
    NEVER_ENDS,
    Plan,
    authority,
    device_name,
    fwid_blackwell,
    fwid_hopper,
    key_usage,
    name,
    ocsp_service,
)
from trust.simulated.nvidia_gpu import REQUEST_HEAD, SimulatedGpu
from trust.simulated.nvidia_models import MODELS, GpuArchitecture, GpuModel, fwid
from trust.simulated.rim import (
    Element,
    assemble,
    driver_manifest,
    sign_info,
    signed_info,
    tree,
    vbios_manifest,
    write,
)
from trust.verifier import der
from trust.verifier.gpu_appraisal import appraise_gpus
from trust.verifier.gpu_policy import BLACKWELL_FLOOR, HOPPER_FLOOR, GpuDemands, gpu_demands
from trust.verifier.nvidia import judge_gpu
from trust.verifier.results import CheckLine
from trust.verifier.roots import Anchor, PinnedRoot, RootKind
from trust.verifier.x509_ec import ECDSA_SHA384

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NONCE = bytes(range(32))
HOPPER, BLACKWELL = MODELS[GpuArchitecture.HOPPER], MODELS[GpuArchitecture.BLACKWELL]
SHA384 = der.oid("2.16.840.1.101.3.4.2.2")
VENDOR = "NVIDIA Corporation"


# --- certificates --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Link:
    """One certificate of a chain that is to be made."""

    plan: Plan
    key: str
    signer: str | None = None
    """Name of the key that signs; None: that of the next link, or its own."""
    issuer: x509.Name | None = None
    """Whom it names above itself; None: the next link's subject."""
    by_sha256: bool = False
    curve: type[ec.EllipticCurve] = ec.SECP384R1


Links = tuple[Link, ...]


def made(links: Links) -> list[bytes]:
    """DER of each, in their order: leaf first."""
    above = [*links[1:], links[-1]]
    return [_made(link, issuer) for link, issuer in zip(links, above, strict=True)]


@functools.cache
def _made(link: Link, above: Link) -> bytes:
    key = ec_key(link.key, link.curve).real
    plan = link.plan
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    serial = int.from_bytes(own.digest, "big") >> 1 if plan.serial is None else plan.serial
    builder = (
        x509.CertificateBuilder()
        .subject_name(plan.subject)
        .issuer_name(above.plan.subject if link.issuer is None else link.issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(plan.not_before)
        .not_valid_after(plan.not_after)
    )
    for extension, critical in (*plan.extensions, (own, False)):
        builder = builder.add_extension(extension, critical=critical)
    signer = ec_key(link.signer or above.key, above.curve if link.signer is None else ec.SECP384R1)
    hash_algorithm = hashes.SHA256() if link.by_sha256 else hashes.SHA384()
    signed = builder.sign(signer.real, hash_algorithm, ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)


def pem(chain: Sequence[bytes]) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(each).public_bytes(serialization.Encoding.PEM)
        for each in chain
    )


def changed(links: Links, place: int, **changes: Any) -> Links:
    """The chain with another link there; changes are of the link, or else of its plan."""
    link = links[place]
    own = {field.name for field in dataclasses.fields(Link)}
    plan = {key: value for key, value in changes.items() if key not in own}
    kept = {key: value for key, value in changes.items() if key in own}
    other = dataclasses.replace(link, plan=dataclasses.replace(link.plan, **plan), **kept)
    return (*links[:place], other, *links[place + 1 :])


def _authority(
    subject: x509.Name, *, ends: dt.datetime = NEVER_ENDS, path: int | None = None
) -> Plan:
    return Plan(
        subject=subject,
        not_before=NOW - 100 * DAY,
        not_after=ends,
        extensions=(*authority(path=path), ocsp_service()),
    )


def device_links(model: GpuModel, serial: bytes, firmware: bytes | None = None) -> Links:
    """Leaf, boot ROM, provisioner, model and root of one device."""
    number = serial.hex()
    measured = fwid(model) if firmware is None else firmware
    rom_key = ec_key(f"rom {number}").real.public_key()
    names = (
        fwid_hopper(measured, rom_key)
        if model.architecture is GpuArchitecture.HOPPER
        else fwid_blackwell((measured, bytes(48)), model.part)
    )
    leaf = Plan(
        subject=name(serialNumber=number, C="US", O=VENDOR, CN=f"{model.part} GSP FMC LF"),
        not_before=NOW - 100 * DAY,
        extensions=(
            (key_usage("digital_signature"), True),
            device_name(model.chip, number),
            names,
        ),
    )
    chip = model.chip
    return (
        Link(plan=leaf, key=f"leaf {number}"),
        Link(plan=rom_plan(model, serial), key=f"rom {number}"),
        Link(
            plan=_authority(name(CN=f"NVIDIA {chip} Provisioner ICA 1", O=VENDOR, C="US")),
            key=f"provisioner {chip}",
        ),
        Link(plan=_authority(name(CN=f"NVIDIA {chip} Identity", O=VENDOR)), key=f"model {chip}"),
        Link(plan=_authority(name(CN="NVIDIA Device Identity CA", O="NVIDIA")), key="device root"),
    )


def rim_links(model: GpuModel) -> Links:
    """Signer, issuer, authority and root of a manifest."""
    chip, ends = model.chip, NOW + 400 * DAY
    signer = Plan(
        subject=name(C="US", O=VENDOR, CN="HCC RIM L4 Signer"),
        not_before=NOW - DAY,
        not_after=ends,
        extensions=(
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage("digital_signature"), True),
        ),
    )
    return (
        Link(plan=signer, key=f"rim signer {chip}"),
        Link(
            plan=_authority(
                name(CN=f"NVIDIA Reference Value L3 {chip} 001", O=VENDOR), ends=ends, path=0
            ),
            key=f"rim issuer {chip}",
        ),
        Link(
            plan=_authority(name(CN=f"NVIDIA Reference Value {chip} CA", O=VENDOR), ends=ends),
            key=f"rim authority {chip}",
        ),
        Link(
            plan=_authority(name(C="US", O="NVIDIA", CN="NVIDIA CoRIM signing Root CA"), ends=ends),
            key="rim root",
        ),
    )


# --- reports -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device's evidence; the defaults are a good one."""

    model: GpuModel = HOPPER
    serial: bytes = b"GPU00001"
    links: Links | None = None
    kind: GpuDeviceKind = GpuDeviceKind.GPU
    request: bytes = REQUEST_HEAD + NONCE + b"\x00"
    measurements: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
    opaque: Mapping[int, bytes | None] = dataclasses.field(default_factory=dict)
    body_edit: Callable[[bytes], bytes] = bytes
    """Before the signature."""
    signing_key: str | None = None
    report_edit: Callable[[bytes], bytes] = bytes
    """After it."""
    chain_edit: Callable[[list[bytes]], list[bytes]] = list
    pem_edit: Callable[[bytes], bytes] = bytes

    @property
    def chain(self) -> Links:
        return self.links or device_links(self.model, self.serial)

    def device(self) -> GpuDevice:
        chain = made(self.chain)
        simulated = SimulatedGpu(
            architecture=self.model.architecture,
            chain=tuple(made(device_links(self.model, self.serial))),
            key=private_bytes(ec_key("nobody").real),
            rims=(),
            ocsp=(),
        )
        body = self.body_edit(
            simulated.response_body(NONCE, measurements=self.measurements, opaque=self.opaque)
        )
        key = ec_key(self.signing_key or self.chain[0].key)
        numbers = decode_dss_signature(key.sign(self.request + body, ec.ECDSA(hashes.SHA384())))
        signature = b"".join(each.to_bytes(48, "big") for each in numbers)
        return GpuDevice(
            kind=self.kind,
            report=self.report_edit(self.request + body + signature),
            chain=self.pem_edit(pem(self.chain_edit(chain))),
        )


# --- manifests -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rim:
    """One manifest; the defaults of `driver_rim` and `vbios_rim` are good ones."""

    root: Element
    links: Links
    signing_key: str | None = None
    digest: bytes | None = None
    """In place of the content's own."""
    algorithms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    info_edit: Callable[[str], str] = str
    """Of SignedInfo, before it is signed."""
    xml_edit: Callable[[bytes], bytes] = bytes
    """Of the whole file, after."""

    def file(self) -> bytes:
        content = hashlib.sha384(write(self.root, canonical=True).encode()).digest()
        stated = content if self.digest is None else self.digest
        info = self.info_edit(signed_info(stated, self.algorithms))
        value = sign_info(info, ec_key(self.signing_key or self.links[0].key))
        return self.xml_edit(assemble(self.root, info, value, made(self.links)))


def driver_rim(model: GpuModel = HOPPER, **changes: Any) -> Rim:
    manifest = dataclasses.replace(driver_manifest(model), **changes)
    return Rim(root=tree(manifest), links=rim_links(model))


def vbios_rim(model: GpuModel = HOPPER, **changes: Any) -> Rim:
    manifest = dataclasses.replace(vbios_manifest(model), **changes)
    return Rim(root=tree(manifest), links=rim_links(model))


# --- OCSP ----------------------------------------------------------------------------------------

GOOD = tlv(0x80, b"")
UNKNOWN = tlv(0x82, b"")


def generalized(moment: dt.datetime) -> bytes:
    return tlv(der.GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


def revoked(reason: int | None = 1) -> bytes:
    why = b"" if reason is None else tlv(0xA0, tlv(0x0A, bytes((reason,))))
    return tlv(0xA1, generalized(NOW - DAY) + why)


SIGNS_STATUS: tuple[tuple[x509.ExtensionType, bool], ...] = (
    (key_usage("digital_signature"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True),
)


@dataclass(frozen=True, kw_only=True)
class Ocsp:
    """One response; the defaults are a good one by a responder that the issuer certified."""

    about: str
    """Common name of the certificate, for a test to pick one."""
    certificate: bytes
    issuer: bytes
    issuer_link: Link
    status: bytes = GOOD
    this_update: dt.datetime = NOW - DAY / 2
    next_update: dt.datetime | None = NOW + DAY / 2
    serial: int | None = None
    name_hash: bytes | None = None
    key_hash: bytes | None = None
    hash_name: str = "sha384"
    hash_oid: bytes = SHA384
    responder: Link | None = None
    """None: made by default; see `by_issuer`."""
    by_issuer: bool = False
    """The issuer signs itself."""
    signing_key: str | None = None
    responder_extensions: tuple[tuple[x509.ExtensionType, bool], ...] = SIGNS_STATUS
    responder_ends: dt.datetime = NOW + 100 * DAY
    certified_by: str | None = None
    """Name of the key that certifies the responder; None: the issuer's."""
    single_extensions: bytes = b""
    extensions: bytes = b""
    certificates: tuple[bytes, ...] | None = None
    edit: Callable[[bytes], bytes] = bytes

    def response(self) -> bytes:
        certificate = x509.load_der_x509_certificate(self.certificate)
        issuer = x509.load_der_x509_certificate(self.issuer)
        responder_link = Link(
            plan=Plan(
                subject=name(CN=f"NVIDIA OCSP Responder {self.issuer_link.key}", O=VENDOR),
                not_before=NOW - 10 * DAY,
                not_after=self.responder_ends,
                extensions=self.responder_extensions,
            ),
            key=f"ocsp {self.issuer_link.key}",
            signer=self.certified_by,
        )
        responder = made((responder_link, self.issuer_link))[0]
        certificates = self.certificates
        if certificates is None:
            certificates = () if self.by_issuer else (responder,)
        signer = self.issuer_link.key if self.by_issuer else responder_link.key
        named = issuer if self.by_issuer else x509.load_der_x509_certificate(responder)
        hashed = functools.partial(hashlib.new, self.hash_name)
        identity = sequence(
            sequence(tlv(der.OBJECT_IDENTIFIER, self.hash_oid), b"\x05\x00"),
            tlv(
                der.OCTET_STRING,
                self.name_hash or hashed(issuer.subject.public_bytes()).digest(),
            ),
            tlv(der.OCTET_STRING, self.key_hash or hashed(_bits(issuer)).digest()),
            integer(certificate.serial_number if self.serial is None else self.serial),
        )
        single = sequence(
            identity,
            self.status,
            generalized(self.this_update),
            b"" if self.next_update is None else tlv(0xA0, generalized(self.next_update)),
            self.single_extensions,
        )
        responder_name = hashlib.sha1(_bits(named), usedforsecurity=False).digest()
        signed = sequence(
            tlv(0xA2, tlv(der.OCTET_STRING, responder_name)),
            generalized(self.this_update),
            sequence(single),
            self.extensions,
        )
        value = ec_key(self.signing_key or signer).sign(signed, ec.ECDSA(hashes.SHA384()))
        basic = sequence(
            signed,
            ECDSA_SHA384,
            tlv(der.BIT_STRING, b"\x00" + value),
            tlv(0xA0, sequence(*certificates)) if certificates else b"",
        )
        kind = tlv(der.OBJECT_IDENTIFIER, der.oid("1.3.6.1.5.5.7.48.1.1"))
        body = tlv(0xA0, sequence(kind, tlv(der.OCTET_STRING, basic)))
        return self.edit(sequence(tlv(0x0A, b"\x00"), body))


def _bits(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def statuses(links: Links, first: int) -> list[Ocsp]:
    """Good responses on all certificates of a chain from `first` on, but for its root."""
    chain = made(links)
    return [
        Ocsp(
            about=str(x509.load_der_x509_certificate(chain[at]).subject.rfc4514_string()),
            certificate=chain[at],
            issuer=chain[at + 1],
            issuer_link=links[at + 1],
        )
        for at in range(first, len(links) - 1)
    ]


# --- a case --------------------------------------------------------------------------------------


DEMANDS = gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR, gpus_most=8)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A whole input; the defaults are good: one Hopper, alone."""

    gpus: tuple[Gpu, ...] = (Gpu(),)
    rims: tuple[Rim, ...] = (driver_rim(), vbios_rim())
    ocsp_edit: Callable[[list[Ocsp]], list[Ocsp]] = list
    further: tuple[tuple[str, bytes], ...] = ()
    """Endorsements that the host adds."""
    device_root: bytes | None = None
    rim_root: bytes | None = None
    nonce: bytes = NONCE
    now: dt.datetime = NOW
    demands: GpuDemands = DEMANDS

    def evidence(self) -> GpuEvidence:
        return GpuEvidence(devices=tuple(each.device() for each in self.gpus))

    def responses(self) -> list[Ocsp]:
        found = [each for gpu in self.gpus for each in statuses(gpu.chain, 1)]
        found += [each for rim in self.rims for each in statuses(rim.links, 0)]
        return list({each.certificate: each for each in found}.values())

    def endorsements(self) -> tuple[tuple[str, bytes], ...]:
        return (
            *(("gpu-rim", each.file()) for each in self.rims),
            *(("gpu-ocsp", each.response()) for each in self.ocsp_edit(self.responses())),
            *self.further,
        )

    def roots(self) -> tuple[PinnedRoot, ...]:
        device = self.device_root or digest(made(device_links(HOPPER, b"GPU00001"))[-1])
        rim = self.rim_root or digest(made(rim_links(HOPPER))[-1])
        return (pinned(Anchor.NVIDIA_DEVICE, device), pinned(Anchor.NVIDIA_RIM, rim))


def pinned(anchor: Anchor, fingerprint: bytes) -> PinnedRoot:
    return PinnedRoot(kind=RootKind.SIMULATED, anchor=anchor, fingerprint=fingerprint)


def lines_of(case: Case) -> tuple[CheckLine, ...]:
    """All lines of the verifier; and, if all pass, those of the policy."""
    given = (case.evidence(), case.endorsements(), case.roots(), case.nonce, case.now)
    lines, verified = judge_gpu(*given)
    if verified is None:
        return lines
    return lines + appraise_gpus(verified, case.demands, case.now)


def refusing(case: Case) -> set[str]:
    return {each.id for each in lines_of(case) if not each.passed}
