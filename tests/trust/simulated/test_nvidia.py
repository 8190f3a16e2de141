"""A simulated NVIDIA certifies as NVIDIA does, and its GPUs answer for the nonce they are given."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from tests.trust.simulated.makers import NONCE, NOW, certificates, gpu, nvidia, signed_by
from trust.encoding import digest
from trust.errors import DocumentError
from trust.evidence.nvidia import Opaque, parse_gpu_report
from trust.messages import GpuDeviceKind, GpuEvidence
from trust.simulated import GpuArchitecture, SimulatedGpu, SimulatedNvidia
from trust.simulated.nvidia import leaf_plan, rom_plan
from trust.simulated.nvidia_certificates import FWID_BLACKWELL, FWID_HOPPER, issue, new_key
from trust.simulated.nvidia_gpu import FEATURE_FLAG, request
from trust.simulated.nvidia_models import MEASUREMENTS, MODELS, fwid
from trust.verifier.roots import VENDOR_ROOTS

SHARED = Path(__file__).parents[4] / "shared" / "vectors" / "nvidia"
BOTH = pytest.mark.parametrize("architecture", list(GpuArchitecture))
REAL = {
    GpuArchitecture.HOPPER: "h100_driver580_trustee_trailing",
    GpuArchitecture.BLACKWELL: "gb100_blackwell_driver575",
}


def real(architecture: GpuArchitecture, name: str) -> bytes:
    path = SHARED / REAL[architecture] / name
    if not path.exists():
        pytest.skip("no ../shared/vectors here")
    return path.read_bytes()


# --- certificates --------------------------------------------------------------------------------


@BOTH
def test_five_certificates_lead_from_the_gpu_to_the_root(architecture: GpuArchitecture) -> None:
    chain = certificates(gpu(architecture))
    assert len(chain) == 5
    for one, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        one.verify_directly_issued_by(issuer)
    assert digest(gpu(architecture).chain[-1]) == nvidia().device_fingerprint
    assert gpu(architecture).root_fingerprint == nvidia().device_fingerprint


@BOTH
@pytest.mark.vectors
def test_names_and_extensions_are_the_vendors(architecture: GpuArchitecture) -> None:
    def words(name: x509.Name) -> list[tuple[str, str]]:
        return [
            (each.oid.dotted_string, re.sub(r"\b[0-9A-F]{18,}\b|\b\d+$", "#", str(each.value)))
            for each in name
        ]

    def shape(one: x509.Certificate) -> object:
        held = {each.oid.dotted_string: each.critical for each in one.extensions}
        return words(one.subject), words(one.issuer), held, one.not_valid_after_utc

    theirs = x509.load_pem_x509_certificates(real(architecture, "cert_chain.pem"))
    ours = certificates(gpu(architecture))
    for one, other in zip(ours, theirs, strict=True):
        mine, vendors = shape(one), shape(other)
        # Older Hopper boot ROMs name no OCSP service; Blackwell's do, as ours.
        vendors[2].setdefault("1.3.6.1.5.5.7.1.1", False) if "BROM" in str(one.subject) else None
        assert mine == vendors


@BOTH
def test_the_leaf_names_the_firmware_that_the_report_names(architecture: GpuArchitecture) -> None:
    oid = FWID_HOPPER if architecture is GpuArchitecture.HOPPER else FWID_BLACKWELL
    leaf = certificates(gpu(architecture))[0]
    value = leaf.extensions.get_extension_for_oid(oid).value.value
    model = MODELS[architecture]
    assert fwid(model) in value
    if architecture is GpuArchitecture.HOPPER:
        assert value[-48:] == fwid(model)  # the one that Hopper's readers take
    else:
        assert value.index(fwid(model)) < value.index(bytes(48))  # the first counts
    report = parse_gpu_report(gpu(architecture).device(NONCE).report)
    assert report.fwid == fwid(model)


@BOTH
@pytest.mark.vectors
def test_the_firmware_extension_has_the_vendors_form(architecture: GpuArchitecture) -> None:
    oid = FWID_HOPPER if architecture is GpuArchitecture.HOPPER else FWID_BLACKWELL
    theirs = x509.load_pem_x509_certificates(real(architecture, "cert_chain.pem"))
    ours = certificates(gpu(architecture))

    def shape(chain: list[x509.Certificate]) -> bytes:
        value: bytes = chain[0].extensions.get_extension_for_oid(oid).value.value
        device = (
            chain[1]
            .public_key()
            .public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        value = value.replace(device, b"the boot ROM's key")
        return re.sub(rb"\x04\x30(?!\x00{48}).{48}", b"an FWID", value, flags=re.DOTALL)

    assert shape(ours) == shape(theirs)


def test_each_gpu_has_keys_and_a_serial_of_its_own() -> None:
    first, second = (nvidia().issue_gpu(bytes([n]) * 8) for n in (1, 2))
    assert first.serial != second.serial
    assert first.chain[0] != second.chain[0]
    assert first.chain[1] != second.chain[1]
    assert first.chain[2:] == second.chain[2:]


def test_no_root_of_ours_is_a_vendors_and_no_two_are_the_same() -> None:
    other = SimulatedNvidia.create(NOW)
    ours = {nvidia().device_fingerprint, nvidia().rim_fingerprint}
    theirs = {other.device_fingerprint, other.rim_fingerprint}
    assert len(ours | theirs) == 4
    assert not (ours | theirs) & set(VENDOR_ROOTS.values())


@pytest.mark.parametrize(
    ("serial", "architecture"), [(bytes(7), "hopper"), (bytes(9), "hopper"), (bytes(8), "ampere")]
)
def test_no_gpu_of_another_kind_or_number_is_made(serial: bytes, architecture: str) -> None:
    with pytest.raises(DocumentError):
        nvidia().issue_gpu(serial, architecture)


# --- what a GPU says -----------------------------------------------------------------------------


@BOTH
def test_a_gpu_signs_the_request_with_the_nonce_and_its_whole_answer(
    architecture: GpuArchitecture,
) -> None:
    device = gpu(architecture).device(NONCE)
    assert device.kind is GpuDeviceKind.GPU
    assert device.report[:37] == request(NONCE)
    (leaf, *_) = certificates(gpu(architecture))
    signed, signature = device.report[:-96], device.report[-96:]
    signed_by(leaf, signature, signed)
    for place in (4, 36, 37 + 4, 37 + 20, len(signed) - 1):
        bent = bytearray(signed)
        bent[place] ^= 1
        with pytest.raises(InvalidSignature):
            signed_by(leaf, signature, bytes(bent))
    assert x509.load_pem_x509_certificates(device.chain)[0] == leaf
    assert GpuEvidence.parse(GpuEvidence(devices=(device,)).encode()).devices == (device,)


@BOTH
def test_another_nonce_gives_another_answer(architecture: GpuArchitecture) -> None:
    one = parse_gpu_report(gpu(architecture).device(NONCE).report)
    other = parse_gpu_report(gpu(architecture).device(bytes(32)).report)
    assert (one.nonce, other.nonce) == (NONCE, bytes(32))
    assert one.raw[-200:] != other.raw[-200:]


@BOTH
@pytest.mark.vectors
def test_the_report_has_the_blocks_and_fields_of_a_real_one(architecture: GpuArchitecture) -> None:
    ours = parse_gpu_report(gpu(architecture).device(NONCE).report)
    theirs = parse_gpu_report(real(architecture, "evidence.bin"))
    assert len(ours.measurements) == len(theirs.measurements) == MEASUREMENTS
    newer = {Opaque.PROTECTED_PCIE_STATUS, Opaque.FEATURE_FLAG, 34}  # since driver 580
    fields = set(theirs.opaque) | newer
    assert set(ours.opaque) == fields - {33}  # SYS_ENABLE_STATUS: Blackwell before 580
    for kind in set(ours.opaque) & set(theirs.opaque) - {Opaque.DRIVER_VERSION}:
        assert len(ours.opaque[kind]) == len(theirs.opaque[kind]), kind


def test_a_lie_is_signed_as_it_is_told() -> None:
    liar, wrong = gpu(), b"\x11" * 48
    body = liar.response_body(
        NONCE, measurements={9: wrong}, opaque={FEATURE_FLAG: None, 20: wrong}
    )
    report = liar.signed(request(NONCE), body)
    signed_by(certificates(liar)[0], report[-96:], report[:-96])
    parsed = parse_gpu_report(report)
    assert parsed.measurements[10] == wrong
    assert parsed.fwid == wrong
    assert FEATURE_FLAG not in parsed.opaque


def test_a_leaf_can_be_certified_for_other_firmware() -> None:
    model, line = MODELS[GpuArchitecture.HOPPER], nvidia().line("hopper")
    rom, key = issue(rom_plan(model, bytes(8)), issuer=line.provisioner), new_key()
    leaf = issue(leaf_plan(model, bytes(8), key, rom, firmware=b"\x22" * 48), issuer=rom, key=key)
    value = leaf.x509.extensions.get_extension_for_oid(FWID_HOPPER).value.value
    assert value.endswith(b"\x22" * 48)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_nonce_of_another_length_is_not_asked_with(length: int) -> None:
    with pytest.raises(DocumentError, match="wanted 32"):
        gpu().device(bytes(length))


# --- documents -----------------------------------------------------------------------------------


def test_root_and_gpu_come_back_as_they_were_stored() -> None:
    assert SimulatedNvidia.from_bytes(nvidia().to_bytes()) == nvidia()
    assert SimulatedGpu.from_bytes(gpu().to_bytes()) == gpu()


def test_no_private_key_is_shown_or_travels() -> None:
    shown = repr(nvidia()) + repr(gpu())
    travels = b"".join((*dict(gpu().endorsements()).values(), gpu().device(NONCE).chain))
    for secret in (nvidia().device_root.key, nvidia().rim_root.key, gpu().key):
        assert repr(secret) not in shown
        assert secret not in travels
    assert json.dumps(gpu().key.hex()) not in shown


def test_a_gpu_with_another_number_of_certificates_is_no_document() -> None:
    with pytest.raises(DocumentError):
        dataclasses.replace(gpu(), chain=gpu().chain[:4])
