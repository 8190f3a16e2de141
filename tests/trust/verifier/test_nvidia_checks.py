"""Verified GPUs: what they are, when they end, and that no changed byte becomes one."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import functools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.gpu_vendor import (
    BLACKWELL,
    DAY,
    NONCE,
    NOW,
    Case,
    Gpu,
    changed,
    device_links,
    driver_rim,
    made,
    pinned,
    rim_links,
    vbios_rim,
)
from trust.encoding import digest
from trust.errors import BlindhostError, EvidenceFormatError, EvidenceSignatureError, SizeLimitError
from trust.messages import GpuDevice, GpuDeviceKind, GpuEvidence
from trust.simulated import SimulatedNvidia
from trust.verifier.gpu_subject import RESPONSES_MAX, RIMS_MAX
from trust.verifier.nvidia import CHECK_NUMBERS, VerifiedGpus, check_gpu, verify_gpu
from trust.verifier.results import Verdict
from trust.verifier.roots import Anchor
from trust.verifier.x509_ec import CHAIN_BYTES_MAX, parse_pem_chain


def verify(case: Case) -> VerifiedGpus:
    return verify_gpu(case.evidence(), case.endorsements(), case.roots(), case.nonce, case.now)


@functools.cache
def good() -> tuple[GpuEvidence, tuple[tuple[str, bytes], ...]]:
    return Case().evidence(), Case().endorsements()


def is_accepted(evidence: GpuEvidence, endorsements: tuple[tuple[str, bytes], ...]) -> bool:
    try:
        verify_gpu(evidence, endorsements, Case().roots(), NONCE, NOW)
    except BlindhostError:
        return False
    return True


# --- what is verified ----------------------------------------------------------------------------


def test_verified_gpus_name_chip_versions_and_serials() -> None:
    (claims,) = verify(Case()).devices
    assert (claims.chip, claims.driver_version) == ("GH100", "580.95.05")
    assert claims.vbios_version == "96.00.9F.00.01"
    assert claims.device_id == b"GPU00001"
    assert claims.serial[0] != 0
    assert len(claims.serial) <= 20
    assert claims.measurements[8] != bytes(48)


def test_verified_gpus_are_made_by_the_verifier_alone() -> None:
    with pytest.raises(TypeError, match=r"made by trust.verifier alone"):
        dataclasses.replace(verify(Case()), seal=object())


def test_they_end_with_the_first_of_what_they_stand_on() -> None:
    assert verify(Case()).expires_at == NOW + DAY / 2  # the OCSP responses
    soon = NOW + DAY / 4
    leaf = changed(device_links(Gpu().model, Gpu().serial), 0, not_after=soon)
    assert verify(Case(gpus=(Gpu(links=leaf),))).expires_at == soon
    signer = changed(rim_links(Gpu().model), 0, not_after=soon)
    rims = tuple(replace(each, links=signer) for each in Case().rims)
    assert verify(Case(rims=rims)).expires_at == soon
    responder = Case(ocsp_edit=lambda found: [replace(e, responder_ends=soon) for e in found])
    assert verify(responder).expires_at == soon


def test_the_age_of_the_oldest_word_is_kept() -> None:
    old = NOW - 3 * DAY
    case = Case(ocsp_edit=lambda found: [*found[:-1], replace(found[-1], this_update=old)])
    assert verify(case).status_of == old


def test_collateral_is_what_was_used_and_nothing_else() -> None:
    others = tuple(("gpu-rim", e.file()) for e in (driver_rim(BLACKWELL), vbios_rim(BLACKWELL)))
    verified = verify(Case(further=others))
    assert {(each.kind, each.sha256) for each in verified.collateral} == {
        (kind, digest(content)) for kind, content in Case().endorsements()
    }


def test_both_roots_are_named() -> None:
    anchors = {root.anchor for root in verify(Case()).roots}
    assert anchors == {Anchor.NVIDIA_DEVICE, Anchor.NVIDIA_RIM}


def test_the_first_check_that_does_not_hold_is_named_by_its_number() -> None:
    with pytest.raises(EvidenceSignatureError, match="GPU check 29, gpu-signature: refused"):
        verify(Case(gpus=(Gpu(signing_key="attacker"),)))


def test_a_line_names_the_device_that_it_refuses() -> None:
    case = Case(gpus=(Gpu(), Gpu(serial=b"GPU00002"), Gpu(serial=b"GPU00003", signing_key="x")))
    given_ = (case.evidence(), case.endorsements(), case.roots(), NONCE, NOW)
    (line,) = [each for each in check_gpu(*given_) if not each.passed]
    assert line.found.startswith("device 2: ")


def test_kinds_of_other_platforms_are_not_looked_at() -> None:
    assert verify(Case(further=(("ark", b"no certificate"), ("tdx-qe-identity", b"{}"))))


def test_the_same_bytes_twice_say_the_same_once() -> None:
    assert verify(Case(further=Case().endorsements()))


def test_no_check_is_passed_by_having_nothing_to_look_at() -> None:
    case = Case(rims=())
    given_ = (case.evidence(), case.endorsements(), case.roots(), NONCE, NOW)
    lines = {each.id: each.verdict for each in check_gpu(*given_)}
    assert set(lines) == set(CHECK_NUMBERS)
    for check in ("rim-signature", "rim-chain", "rim-validity", "rim-measurements", "ocsp-rim"):
        assert lines[check] is Verdict.NOT_CHECKED


def test_a_root_pinned_twice_is_no_root() -> None:
    case = Case()
    twice = (*case.roots(), pinned(Anchor.NVIDIA_RIM, case.roots()[0].fingerprint))
    with pytest.raises(EvidenceSignatureError, match="gpu-chain"):
        verify_gpu(case.evidence(), case.endorsements(), twice, NONCE, NOW)


def test_nobody_pinned_nobody_believed() -> None:
    with pytest.raises(EvidenceSignatureError, match="no root, since none is pinned"):
        verify_gpu(*good(), (), NONCE, NOW)


def test_a_naive_time_and_a_short_nonce_are_our_own_mistakes() -> None:
    with pytest.raises(ValueError, match="aware"):
        verify_gpu(*good(), Case().roots(), NONCE, NOW.replace(tzinfo=None))
    with pytest.raises(ValueError, match="31 bytes"):
        verify_gpu(*good(), Case().roots(), NONCE[1:], NOW)


# --- limits --------------------------------------------------------------------------------------


def test_too_many_endorsements_are_refused_before_they_are_parsed() -> None:
    many = tuple(("gpu-rim", bytes((n,))) for n in range(RIMS_MAX + 1))
    more = tuple(("gpu-ocsp", bytes((n,))) for n in range(RESPONSES_MAX + 1))
    for endorsements in (many, more):
        with pytest.raises(EvidenceFormatError, match="at most 16 and 64"):
            check_gpu(good()[0], endorsements, Case().roots(), NONCE, NOW)


def test_a_long_chain_is_refused_by_its_size() -> None:
    device = GpuDevice(kind=GpuDeviceKind.GPU, report=b"x", chain=b"-" * CHAIN_BYTES_MAX)
    with pytest.raises(EvidenceFormatError, match="after 0 certificates"):
        check_gpu(GpuEvidence(devices=(device,)), (), (), NONCE, NOW)
    with pytest.raises(SizeLimitError, match="at most 32768"):
        parse_pem_chain(b"-" * (CHAIN_BYTES_MAX + 1))


# --- any changed byte ----------------------------------------------------------------------------


def with_report(report: bytes) -> GpuEvidence:
    (device,) = good()[0].devices
    return GpuEvidence(devices=(dataclasses.replace(device, report=report),))


def test_the_unchanged_is_accepted() -> None:
    assert is_accepted(*good())


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=25)
def test_a_flipped_bit_of_a_report_is_never_accepted(place: int, bit: int) -> None:
    report = bytearray(good()[0].devices[0].report)
    report[place % len(report)] ^= 1 << bit
    assert not is_accepted(with_report(bytes(report)), good()[1])


@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=25)
def test_a_changed_byte_of_a_certificate_is_never_accepted(
    which: int, place: int, change: int
) -> None:
    """In DER: the base64 around it has bits that say nothing."""
    links = device_links(Gpu().model, Gpu().serial)

    def edit(chain: list[bytes]) -> list[bytes]:
        data = bytearray(chain[which])
        data[place % len(data)] ^= change
        return [*chain[:which], bytes(data), *chain[which + 1 :]]

    (device,) = good()[0].devices
    try:
        chain = pem_of(edit(made(links)))
    except BlindhostError:
        return
    other = GpuEvidence(devices=(dataclasses.replace(device, chain=chain),))
    assert not is_accepted(other, good()[1])


@given(st.integers(0, 7), st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=25)
def test_a_changed_byte_of_an_endorsement_never_lets_another_gpu_in(
    which: int, place: int, change: int
) -> None:
    """A manifest may be written in other ways; what it measures is the same then, or refused."""
    endorsements = list(good()[1])
    kind, content = endorsements[which]
    data = bytearray(content)
    data[place % len(data)] ^= change
    endorsements[which] = (kind, bytes(data))
    accepted = is_accepted(good()[0], tuple(endorsements))
    assert not accepted or kind == "gpu-rim"
    bad = Gpu(measurements={7: bytes(range(48))}, opaque={20: None})
    assert not is_accepted(GpuEvidence(devices=(bad.device(),)), tuple(endorsements))


def pem_of(chain: list[bytes]) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(each) + b"\n-----END CERTIFICATE-----\n"
        for each in chain
    )


# --- the simulated vendor ------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["hopper", "blackwell"])
def test_what_the_simulated_vendor_mints_is_verified_by_the_same_code(architecture: str) -> None:
    nvidia = SimulatedNvidia.create(NOW)
    gpu = nvidia.issue_gpu(b"12345678", architecture)
    endorsements = (*nvidia.rims(), *nvidia.ocsp(NOW, gpu))
    roots = (
        pinned(Anchor.NVIDIA_DEVICE, nvidia.device_fingerprint),
        pinned(Anchor.NVIDIA_RIM, nvidia.rim_fingerprint),
    )
    evidence = GpuEvidence(devices=(gpu.device(NONCE),))
    verified = verify_gpu(evidence, endorsements, roots, NONCE, NOW)
    assert verified.devices[0].device_id == b"12345678"
    later = NOW + dt.timedelta(days=400)
    with pytest.raises(EvidenceSignatureError, match="ocsp-device"):
        verify_gpu(evidence, endorsements, roots, NONCE, later)
