"""Reports of GPUs and switches: the layout, and what may not be in it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.gpu_vendor import BLACKWELL, NONCE, Gpu
from trust.errors import BlindhostError, EvidenceFormatError, SizeLimitError
from trust.evidence.nvidia import (
    REPORT_BYTES_MAX,
    FeatureMode,
    GpuReport,
    driver_rim_id,
    parse_gpu_report,
    vbios_rim_id,
)
from trust.simulated.nvidia_gpu import response


@functools.cache
def good() -> bytes:
    return Gpu().device().report


def report(**changes: Any) -> GpuReport:
    return parse_gpu_report(Gpu(**changes).device().report)


def switch(opaque: list[tuple[int, bytes]]) -> GpuReport:
    """A switch's report, with one block, and signed by nobody."""
    block = bytes((1, 1, 51, 0, 1, 48, 0)) + bytes(48)
    asked = bytes.fromhex("11e001ff") + NONCE + b"\x00"
    body = response((1, block), bytes(32), [(6, b"96.10.73.00.01"), *opaque])
    return parse_gpu_report(asked + body + b"\x01" * 96)


def test_a_report_says_what_the_gpu_said() -> None:
    parsed = report()
    assert parsed.nonce == NONCE
    assert len(parsed.measurements) == 64
    assert parsed.driver_version == "580.95.05"
    assert parsed.vbios_version == "96.00.9F.00.01"
    assert parsed.feature_flag is FeatureMode.SPT
    assert parsed.protected_pcie is False
    assert not parsed.video_decoder_on
    assert parsed.signed_bytes == good()[:-96]


def test_the_nonce_is_the_one_of_the_request_and_not_of_the_response() -> None:
    parsed = report()
    at = 37 + 8 + 64 * 55
    assert good()[at : at + 32] != parsed.nonce == good()[4:36]


def test_names_of_manifests_are_nvidias() -> None:
    parsed = report()
    assert driver_rim_id(parsed, "GH100") == "NV_GPU_DRIVER_GH100_580.95.05"
    assert vbios_rim_id(parsed) == "NV_GPU_VBIOS_1010_0200_882_96009F0001"
    other = parse_gpu_report(Gpu(model=BLACKWELL, serial=b"GPUB0001").device().report)
    assert vbios_rim_id(other) == "NV_GPU_VBIOS_G525_0220_886_970088000F"


def test_a_switch_has_no_driver_and_one_board() -> None:
    parsed = switch([(22, bytes(range(8)))])
    assert parsed.driver_version is None
    assert driver_rim_id(parsed, "LS10") is None
    assert vbios_rim_id(parsed) == "NV_SWITCH_BIOS_5612_0002_890_9610730001"
    assert parsed.switch_pdis == (bytes(range(8)),)
    assert parsed.fwid is parsed.feature_flag is parsed.protected_pcie is None


def test_gpus_write_the_ids_of_switches_backwards() -> None:
    links = bytes(range(8)) * 9 + bytes(range(8, 16)) * 9
    parsed = report(opaque={22: links})
    assert parsed.switch_pdis == tuple(sorted((bytes(range(8))[::-1], bytes(range(8, 16))[::-1])))


def test_a_switch_lists_eight_gpus_and_then_its_links() -> None:
    gpus = b"".join(bytes((number,)) * 8 for number in (5, 1, 2, 3))
    parsed = switch([(22, bytes(8)), (26, gpus + b"\xff" * 32 + bytes(range(64)))])
    assert parsed.gpu_pdis == tuple(bytes((number,)) * 8 for number in (1, 2, 3, 5))


def test_a_decoder_that_is_not_said_to_be_off_is_on() -> None:
    assert report(opaque={11: None}).video_decoder_on
    assert report(opaque={11: b"\xaa"}).video_decoder_on


def test_the_known_trailing_zero_is_not_part_of_the_report() -> None:
    assert parse_gpu_report(good() + b"\x00") == parse_gpu_report(good())


def test_a_gpu_that_does_not_name_its_board_has_no_manifest() -> None:
    with pytest.raises(EvidenceFormatError, match="PROJECT"):
        vbios_rim_id(report(opaque={17: None}))


def test_a_report_that_is_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(SizeLimitError, match="at most 16384"):
        parse_gpu_report(good() + bytes(REPORT_BYTES_MAX))


@given(st.integers(0, 5000))
@settings(max_examples=200)
def test_a_report_cut_anywhere_is_refused(length: int) -> None:
    if length < len(good()):
        with pytest.raises(EvidenceFormatError):
            parse_gpu_report(good()[:length])


@given(st.binary(max_size=600))
def test_any_bytes_give_our_own_errors_only(data: bytes) -> None:
    for each in (data, good()[:37] + data, good()[:45] + data, good()[: 45 + 64 * 55] + data):
        with pytest.raises(BlindhostError):
            parse_gpu_report(each)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300)
def test_changed_bytes_parse_to_what_they_say_or_not_at_all(
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(good())
    for place, value in changes:
        data[place % len(data)] = value
    try:
        parsed = parse_gpu_report(bytes(data))
    except BlindhostError:
        return
    assert parsed.raw == bytes(data)
    assert parse_gpu_report(parsed.raw) == parsed
