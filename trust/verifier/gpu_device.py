"""One NVIDIA device: its report beside its certificates, and what the two say together.

Rules (docs/spec/evidence-nvidia.md §3):
- The chip is named by the certificates, whose subjects carry its model; a report names none.
- A device has two numbers. `device_id` is burnt in, and stands in the certificate of its boot ROM:
  it is one chip's for ever, and switches are wired by it. `serial` is that of the leaf, whose key
  belongs to the firmware too: it may change with an update.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from trust.errors import EvidenceFormatError
from trust.evidence.nvidia import (
    MEASUREMENT_BYTES,
    PDI_BYTES,
    FeatureMode,
    GpuReport,
    parse_gpu_report,
)
from trust.messages import GpuDevice, GpuDeviceKind
from trust.verifier import der
from trust.verifier.certificates import Certificate
from trust.verifier.x509_ec import parse_pem_chain

CHAIN_LENGTH: Final = 5  # firmware's key, boot ROM, provisioner, model, root
_SERIAL_BYTES_MAX: Final = 21  # what the DER reader lets an INTEGER have

# Both of TCG's DICE: the one on Hopper and switches, and the one on Blackwell.
_FWID_HOPPER: Final = der.oid("2.23.133.5.4.1")
_FWID_BLACKWELL: Final = der.oid("2.23.133.5.4.1.1")
_SHA384: Final = der.oid("2.16.840.1.101.3.4.2.2")
_FWIDS: Final = 0xA6  # field fwids of a DICE TcbInfo
_FWIDS_MAX: Final = 16
_MODEL: Final = re.compile(r"\b(GH100|GB[12][0-9]{2}|LS_10)\b")


class Architecture(enum.StrEnum):
    """A generation of NVIDIA's devices."""

    HOPPER = "hopper"
    BLACKWELL = "blackwell"
    SWITCH_LS10 = "switch-ls10"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuClaims:
    """What one device's evidence says. Believed when it stands in a `VerifiedGpus`."""

    index: int
    """Its place in the evidence."""
    architecture: Architecture
    chip: str
    """As in the names of reference manifests: ``GH100``."""
    serial: bytes
    """Of its leaf certificate, without leading zeros: at most 20 bytes (NVIDIA's ueid)."""
    device_id: bytes
    """Burnt into the chip: 8 bytes."""
    driver_version: str | None
    """None: a switch."""
    vbios_version: str
    fwid: bytes | None
    """48 bytes; None: an old driver, or a switch."""
    feature_flag: FeatureMode | None
    """None: an old driver, or a switch."""
    protected_pcie: bool | None
    """None: an old driver, a Blackwell, or a switch."""
    switch_pdis: tuple[bytes, ...]
    """Switches that a GPU is wired to; a switch's own."""
    gpu_pdis: tuple[bytes, ...]
    """GPUs that a switch is wired to."""
    measurements: Mapping[int, bytes] = field(repr=False)
    """48 bytes by block number."""
    on_hold: tuple[str, ...]
    """Names of its certificates, and its manifests', that are revoked for a time."""

    @property
    def is_switch(self) -> bool:
        """It is no GPU."""
        return self.architecture is Architecture.SWITCH_LS10

    @property
    def mode(self) -> FeatureMode | None:
        """How it takes part in a confidential VM; None: it doesn't say, or contradicts itself.

        Before drivers had the flag, Hopper knew two modes, and told them apart by Protected PCIe.
        """
        flag, protected = self.feature_flag, self.protected_pcie
        if flag is None and protected is not None and self.architecture is Architecture.HOPPER:
            return FeatureMode.PPCIE if protected else FeatureMode.SPT
        if protected is not None and protected is not (flag is FeatureMode.PPCIE):
            return None
        return flag


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A report and a chain, parsed and not believed."""

    index: int
    kind: GpuDeviceKind
    report: GpuReport
    chain: tuple[Certificate, ...]
    """Its own first, the root last; at least two."""

    @property
    def leaf(self) -> Certificate:
        """The certificate of the key that signed the report."""
        return self.chain[0]

    @property
    def rom(self) -> Certificate:
        """The certificate of the chip's boot ROM."""
        return self.chain[1]

    @property
    def name(self) -> str:
        """For a person: ``device 3``."""
        return f"device {self.index}"

    @property
    def serial(self) -> bytes:
        """Of the leaf certificate: at most 20 bytes, without leading zeros."""
        serial = self.leaf.serial
        return serial.to_bytes((serial.bit_length() + 7) // 8, "big")

    @property
    def device_id(self) -> bytes:
        """The last 8 bytes of the boot ROM's serial number; the byte before them says its kind."""
        return self.rom.serial.to_bytes(_SERIAL_BYTES_MAX, "big")[-PDI_BYTES:]


def parse_device(index: int, device: GpuDevice) -> Device:
    """Parse one device. Raises SizeLimitError or EvidenceFormatError, with its index."""
    chain = parse_pem_chain(device.chain)
    if len(chain) < 2:
        raise EvidenceFormatError(
            f"device {index}: a chain of {len(chain)} certificates, wanted {CHAIN_LENGTH}"
        )
    return Device(
        index=index, kind=device.kind, report=parse_gpu_report(device.report), chain=chain
    )


def model_of(certificate: Certificate) -> str | None:
    """The chip that a certificate's subject names, in the certificate's words; None: none."""
    found = set(_MODEL.findall(certificate.common_name))
    return found.pop() if len(found) == 1 else None


def architecture_of(device: Device) -> Architecture | None:
    """By the leaf's subject; None if it names no chip that we know."""
    model = model_of(device.leaf)
    if model is None:
        return None
    if model == "LS_10":
        return Architecture.SWITCH_LS10
    return Architecture.HOPPER if model == "GH100" else Architecture.BLACKWELL


def chip_of(device: Device) -> str:
    """As manifests write it; empty if the leaf names no chip that we know."""
    return (model_of(device.leaf) or "").replace("_", "")


def certified_fwid(certificate: Certificate) -> bytes | None:
    """The firmware that a leaf's key belongs to, 48 bytes; None if the leaf doesn't say."""
    hopper = certificate.extensions.get(_FWID_HOPPER)
    blackwell = certificate.extensions.get(_FWID_BLACKWELL)
    try:
        if hopper is not None and blackwell is None:
            _version, _key, fwid = der.read_sequence(hopper)
            return _fwid(fwid)
        if blackwell is not None and hopper is None:
            fwids = [each for each in der.read_sequence(blackwell) if each.tag == _FWIDS]
            (listed,) = (der.read_elements(each.content) for each in fwids)
            return _fwid(listed[0]) if 1 <= len(listed) <= _FWIDS_MAX else None
    except (EvidenceFormatError, ValueError):
        return None
    return None


def claims_of(device: Device, architecture: Architecture, on_hold: tuple[str, ...]) -> GpuClaims:
    """What a device says, in types that no longer know its layout."""
    report = device.report
    return GpuClaims(
        index=device.index,
        architecture=architecture,
        chip=chip_of(device),
        serial=device.serial,
        device_id=device.device_id,
        driver_version=report.driver_version,
        vbios_version=report.vbios_version,
        fwid=report.fwid,
        feature_flag=report.feature_flag,
        protected_pcie=report.protected_pcie,
        switch_pdis=report.switch_pdis,
        gpu_pdis=report.gpu_pdis,
        measurements=report.measurements,
        on_hold=on_hold,
    )


def _fwid(element: der.Element) -> bytes | None:
    algorithm, value = der.read_sequence(element.encoded)
    good = der.expect(algorithm, der.OBJECT_IDENTIFIER).content == _SHA384
    content = der.expect(value, der.OCTET_STRING).content
    return content if good and len(content) == MEASUREMENT_BYTES else None
