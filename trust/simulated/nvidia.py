"""A simulated NVIDIA: roots made on this machine, which certify simulated GPUs and their firmware.

Rules:
- Certificates are named like NVIDIA's, with NVIDIA's algorithms and extensions. Whoever tells the
  two apart by name is wrong, and finds it out here.
- `SimulatedNvidia` holds private keys: its document is a secret of one folder. It is never printed,
  and it never travels.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from trust.encoding import Document, Size, Struct, digest
from trust.errors import DocumentError
from trust.simulated.nvidia_certificates import (
    Authority,
    Plan,
    authority,
    device_name,
    fwid_blackwell,
    fwid_hopper,
    issue,
    key_usage,
    list_service,
    name,
    new_key,
    ocsp_service,
    serial_of,
    serial_text,
)
from trust.simulated.nvidia_gpu import RimBytes, SimulatedGpu
from trust.simulated.nvidia_models import MEASUREMENT_BYTES, MODELS, GpuArchitecture, GpuModel, fwid
from trust.simulated.ocsp import Status, good, issue_responder, respond
from trust.simulated.rim import driver_manifest, sign_manifest, vbios_manifest

SERIAL_BYTES: Final = 8
_SERIAL_HEAD: Final = 0x41  # of every boot ROM's number, nine bytes in all
_VENDOR: Final = "48B02D"  # NVIDIA's, of IEEE
_DEVICES_FROM: Final = dt.datetime(2020, 10, 17, tzinfo=dt.UTC)
_ROOT_FROM: Final = dt.datetime(2021, 11, 5, tzinfo=dt.UTC)
_EARLIER: Final = dt.timedelta(days=1)
_RIM_ROOT_LIFE: Final = dt.timedelta(days=30 * 365)
_RIM_AUTHORITY_LIFE: Final = dt.timedelta(days=10 * 365)
_RIM_SIGNER_LIFE: Final = dt.timedelta(days=2 * 365)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line(Struct):
    """What NVIDIA holds for one architecture."""

    architecture: GpuArchitecture
    model: Authority
    """Certifies provisioners of this chip."""
    provisioner: Authority
    """Certifies boot ROMs."""
    rim_authority: Authority
    rim_issuer: Authority
    rim_signer: Authority
    rims: Annotated[tuple[RimBytes, ...], Size(least=2, most=2)]
    """Of its driver and its VBIOS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedNvidia(Document):
    """Two throwaway roots, what they certify, and the private keys of all of it."""

    LABEL: ClassVar[str] = "simulated-nvidia"

    device_root: Authority
    rim_root: Authority
    lines: Annotated[tuple[Line, ...], Size(least=1, most=len(GpuArchitecture))]

    @classmethod
    def create(cls, now: dt.datetime) -> Self:
        """Make all keys, and sign the reference manifests, at the aware time `now`."""
        return cls.certify(new_key(), new_key(), now=now)

    @classmethod
    def certify(
        cls,
        device_key: ec.EllipticCurvePrivateKey,
        rim_key: ec.EllipticCurvePrivateKey,
        *,
        now: dt.datetime,
    ) -> Self:
        """The same under two roots' keys that are there already."""
        device_root = issue(
            Plan(
                subject=name(CN="NVIDIA Device Identity CA", O="NVIDIA"),
                not_before=_ROOT_FROM,
                extensions=authority(),
            ),
            issuer=None,
            key=device_key,
        )
        rim_root = issue(
            Plan(
                subject=name(C="US", O="NVIDIA", CN="NVIDIA CoRIM signing Root CA"),
                not_before=now - _EARLIER,
                not_after=now + _RIM_ROOT_LIFE,
                extensions=authority(),
            ),
            issuer=None,
            key=rim_key,
        )
        lines = tuple(_line(MODELS[each], device_root, rim_root, now) for each in GpuArchitecture)
        return cls(device_root=device_root, rim_root=rim_root, lines=lines)

    @property
    def device_fingerprint(self) -> bytes:
        """SHA-256 of the device root's certificate, 32 bytes: what a policy must name."""
        return digest(self.device_root.certificate)

    @property
    def rim_fingerprint(self) -> bytes:
        """SHA-256 of the certificate of the reference manifests' root, 32 bytes."""
        return digest(self.rim_root.certificate)

    def to_bytes(self) -> bytes:
        """The document, private keys included: a file of mode 0600."""
        return self.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises EncodingError."""
        return cls.parse(data)

    def line(self, architecture: str) -> Line:
        """What it holds for this architecture. Raises DocumentError."""
        for each in self.lines:
            if each.architecture.value == architecture:
                return each
        known = ", ".join(each.architecture.value for each in self.lines)
        raise DocumentError(f"a simulated GPU is one of {known}; not {architecture[:32]!r}")

    def issue_gpu(self, serial: bytes, architecture: str = GpuArchitecture.HOPPER) -> SimulatedGpu:
        """A GPU with keys of its own, and no OCSP responses yet (`staple`).

        `serial` has 8 bytes: its boot ROM's number. Raises DocumentError.
        """
        if len(serial) != SERIAL_BYTES:
            raise DocumentError(f"serial of {len(serial)} bytes, wanted {SERIAL_BYTES}")
        line = self.line(architecture)
        rom = issue(
            rom_plan(MODELS[line.architecture], serial), issuer=line.provisioner, key=new_key()
        )
        key = new_key()
        leaf = issue(leaf_plan(MODELS[line.architecture], serial, key, rom), issuer=rom, key=key)
        above = (rom, line.provisioner, line.model, self.device_root)
        return SimulatedGpu(
            architecture=line.architecture,
            chain=tuple(each.certificate for each in (leaf, *above)),
            key=leaf.key,
            rims=line.rims,
            ocsp=(),
        )

    def staple(self, gpu: SimulatedGpu, now: dt.datetime) -> SimulatedGpu:
        """The same GPU with OCSP responses that are fresh at `now`."""
        responses = self._responses((self.line(gpu.architecture),), (gpu,), good(now), now)
        return replace(gpu, ocsp=tuple(responses))

    def rims(self) -> tuple[tuple[str, bytes], ...]:
        """(``gpu-rim``, XML) of each architecture's driver and VBIOS."""
        return tuple(("gpu-rim", rim) for each in self.lines for rim in each.rims)

    def ocsp(
        self, now: dt.datetime, *gpus: SimulatedGpu, status: Status | None = None
    ) -> tuple[tuple[str, bytes], ...]:
        """(``gpu-ocsp``, DER) on every certificate of the lines, and on the boot ROMs of `gpus`.

        None on the roots, and none on a GPU's own certificate: its boot ROM made that, and answers
        nobody (nvtrust asks for neither). `status` None: good at `now`.
        """
        responses = self._responses(self.lines, gpus, status or good(now), now)
        return tuple(("gpu-ocsp", each) for each in responses)

    def _responses(
        self,
        lines: tuple[Line, ...],
        gpus: tuple[SimulatedGpu, ...],
        status: Status,
        now: dt.datetime,
    ) -> Iterator[bytes]:
        pairs = [(gpu.chain[1], self.line(gpu.architecture).provisioner) for gpu in gpus]
        for line in lines:
            pairs += [
                (line.provisioner.certificate, line.model),
                (line.model.certificate, self.device_root),
                (line.rim_signer.certificate, line.rim_issuer),
                (line.rim_issuer.certificate, line.rim_authority),
                (line.rim_authority.certificate, self.rim_root),
            ]
        for certificate, issuer in pairs:
            responder = issue_responder(issuer, now)
            yield respond(certificate, issuer.certificate, status, responder=responder)


def _line(model: GpuModel, device_root: Authority, rim_root: Authority, now: dt.datetime) -> Line:
    chip, vendor = model.chip, "NVIDIA Corporation"
    identity = issue(
        Plan(
            subject=name(CN=f"NVIDIA {chip} Identity", O=vendor),
            not_before=_ROOT_FROM,
            extensions=(*authority(), list_service("crl/l1-root.crl"), ocsp_service()),
        ),
        issuer=device_root,
    )
    provisioner = issue(
        Plan(
            subject=name(CN=f"NVIDIA {chip} Provisioner ICA 1", O=vendor, C="US"),
            not_before=_ROOT_FROM,
            extensions=(
                *authority(),
                list_service(f"crl/l2-{chip.lower()}.crl"),
                ocsp_service(),
            ),
        ),
        issuer=identity,
    )
    rim_authority = issue(
        Plan(
            subject=name(CN=f"NVIDIA Reference Value {chip} CA", O=vendor, C="US"),
            not_before=now - _EARLIER,
            not_after=now + _RIM_AUTHORITY_LIFE,
            extensions=(*authority(), list_service("crl-corim/l1-corim"), ocsp_service()),
        ),
        issuer=rim_root,
    )
    rim_issuer = issue(
        Plan(
            subject=name(CN=f"NVIDIA Reference Value L3 {chip} 001", O=vendor, C="US"),
            not_before=now - _EARLIER,
            not_after=now + _RIM_AUTHORITY_LIFE,
            extensions=(*authority(path=0), ocsp_service()),
        ),
        issuer=rim_authority,
    )
    rim_signer = issue(
        Plan(
            subject=name(C="US", ST="CA", L="Santa Clara", O=vendor, CN="HCC RIM L4 Signer"),
            not_before=now - _EARLIER,
            not_after=now + _RIM_SIGNER_LIFE,
            extensions=(
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (key_usage("digital_signature"), True),
                ocsp_service(),
            ),
        ),
        issuer=rim_issuer,
    )
    chain = (rim_signer, rim_issuer, rim_authority, rim_root)
    return Line(
        architecture=model.architecture,
        model=identity,
        provisioner=provisioner,
        rim_authority=rim_authority,
        rim_issuer=rim_issuer,
        rim_signer=rim_signer,
        rims=(
            sign_manifest(driver_manifest(model), chain),
            sign_manifest(vbios_manifest(model), chain),
        ),
    )


def rom_plan(model: GpuModel, serial: bytes) -> Plan:
    """What the provisioner certifies of a boot ROM."""
    number = bytes((_SERIAL_HEAD,)) + serial
    subject = name(
        serialNumber=number.hex().upper(),
        C="US",
        O="NVIDIA Corporation",
        CN=f"{model.part} GSP BROM",
    )
    return Plan(
        subject=subject,
        not_before=_DEVICES_FROM,
        extensions=(*authority(signs_lists=False), ocsp_service()),
        serial=int.from_bytes(number, "big"),
    )


def leaf_plan(
    model: GpuModel,
    serial: bytes,
    key: ec.EllipticCurvePrivateKey,
    rom: Authority,
    *,
    firmware: bytes | None = None,
) -> Plan:
    """What the boot ROM certifies: the key of this firmware (None: the good one)."""
    measured = fwid(model) if firmware is None else firmware
    if model.architecture is GpuArchitecture.HOPPER:
        firmware_id = fwid_hopper(measured, rom.private_key.public_key())
    else:
        firmware_id = fwid_blackwell((measured, bytes(MEASUREMENT_BYTES)), model.part)
    return Plan(
        subject=name(
            serialNumber=serial_text(serial_of(key.public_key())),
            C="US",
            O="NVIDIA Corporation",
            CN=f"{model.part} GSP FMC LF",
        ),
        not_before=_DEVICES_FROM,
        extensions=(
            (key_usage("digital_signature"), True),
            device_name(model.chip, _VENDOR + serial[3:].hex().upper()),
            firmware_id,
        ),
    )
