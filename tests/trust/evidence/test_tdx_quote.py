"""The parser of TDX quotes: one shape, and everything else refused with words."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.tdx_vendor import GUEST, LAUNCH, good, register
from trust.errors import EvidenceFormatError, SizeLimitError
from trust.evidence.tdx import (
    QUOTE_BYTES_MAX,
    TdAttributes,
    launch_config_id,
    parse_tdx_quote,
)

V4, V5 = good(version=4).quote(), good().quote()
BODY_4, BODY_5 = 48, 54


def edited(quote: bytes, offset: int, value: bytes) -> bytes:
    return quote[:offset] + value + quote[offset + len(value) :]


@pytest.mark.parametrize(("quote", "start"), [(V4, BODY_4), (V5, BODY_5)])
def test_every_field_of_the_body_is_read_from_its_own_place(quote: bytes, start: int) -> None:
    body = parse_tdx_quote(quote).body
    for offset, value in (
        (0, body.tee_tcb_svn),
        (16, body.mr_seam),
        (64, body.mr_signer_seam),
        (112, body.seam_attributes),
        (128, body.xfam.to_bytes(8, "little")),
        (136, body.mr_td),
        (184, body.mr_config_id),
        (232, body.mr_owner),
        (280, body.mr_owner_config),
        (328, b"".join(body.rtmr)),
        (520, body.report_data),
    ):
        assert quote[start + offset : start + offset + len(value)] == value
    assert body.mr_td == register(1)
    assert body.rtmr == GUEST.rtmr
    assert body.attributes.sept_ve_disable


def test_what_only_tdx_1_5_carries_is_none_in_version_4_and_not_zero() -> None:
    fourth, fifth = parse_tdx_quote(V4).body, parse_tdx_quote(V5).body
    assert (fourth.tee_tcb_svn_2, fourth.mr_service_td) == (None, None)
    assert fifth.tee_tcb_svn_2 == GUEST.tee_tcb_svn_2
    assert fifth.mr_service_td == bytes(48)


def test_a_version_5_quote_can_hold_a_body_of_tdx_1_0() -> None:
    header = edited(V4[:48], 0, b"\x05\x00")
    quote = header + struct.pack("<HI", 2, 584) + V4[48:]
    body = parse_tdx_quote(quote).body
    assert body.mr_service_td is None
    assert body.mr_td == register(1)


@pytest.mark.parametrize(
    ("bit", "name"),
    [
        (0, "debug"),
        (28, "sept_ve_disable"),
        (29, "migratable"),
        (30, "pks"),
        (31, "key_locker"),
        (63, "perfmon"),
    ],
)
def test_each_attribute_is_its_own_bit(bit: int, name: str) -> None:
    quote = edited(V5, BODY_5 + 120, (1 << bit).to_bytes(8, "little"))
    attributes = parse_tdx_quote(quote).body.attributes
    wanted = dict.fromkeys(
        ("debug", "sept_ve_disable", "migratable", "pks", "key_locker", "perfmon"), False
    )
    assert attributes == TdAttributes(**{**wanted, name: True}, reserved=0)


@pytest.mark.parametrize("bit", [1, 7, 8, 27, 32, 62])
def test_every_other_attribute_is_kept_as_reserved(bit: int) -> None:
    quote = edited(V5, BODY_5 + 120, (1 << bit).to_bytes(8, "little"))
    assert parse_tdx_quote(quote).body.attributes.reserved == 1 << bit


def test_zeros_after_a_quote_are_cut_off_and_counted() -> None:
    quote = parse_tdx_quote(V5 + bytes(3065))
    assert quote.raw == V5
    assert quote.trailing_zeros == 3065


@pytest.mark.parametrize("extra", [b"\x01", b"\x00\x00\x01", b"\x01\x00"])
def test_any_other_byte_after_a_quote_is_refused(extra: bytes) -> None:
    with pytest.raises(EvidenceFormatError, match="bytes after it that are not zero"):
        parse_tdx_quote(V5 + extra)


def test_size_is_looked_at_before_anything_else() -> None:
    with pytest.raises(SizeLimitError, match=f"{QUOTE_BYTES_MAX + 1} bytes"):
        parse_tdx_quote(bytes(QUOTE_BYTES_MAX + 1))
    assert parse_tdx_quote(V5.ljust(QUOTE_BYTES_MAX, b"\x00")).raw == V5


@pytest.mark.parametrize("quote", [V4, V5])
def test_a_quote_that_is_cut_off_anywhere_is_refused(quote: bytes) -> None:
    for length in range(len(quote)):
        with pytest.raises(EvidenceFormatError):
            parse_tdx_quote(quote[:length])


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"\x03\x00", "version 3"),
        (2, b"\x03\x00", "key type 3"),
        (4, bytes(4), "TEE type 0x0"),
        (8, b"\x01", "reserved bytes"),
        (11, b"\x01", "reserved bytes"),
        (12, b"\x00", "quoting enclave of"),
        (48, b"\x04\x00", "body 4"),
        (50, b"\x00", "body 3 of"),
    ],
)
def test_a_header_of_anything_else_is_refused_with_words(
    offset: int, value: bytes, words: str
) -> None:
    with pytest.raises(EvidenceFormatError, match=words):
        parse_tdx_quote(edited(V5, offset, value))


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("where", ["section", "certification", "chain"])
def test_lengths_that_do_not_add_up_are_refused(where: str, change: int) -> None:
    start = len(GUEST.encode(5))
    offset = start + {"section": 0, "certification": 134, "chain": 622}[where]
    (length,) = struct.unpack_from("<I", V5, offset)
    with pytest.raises(EvidenceFormatError):
        parse_tdx_quote(edited(V5, offset, struct.pack("<I", length + change)) + b"\x01")


def test_a_launch_digest_is_padded_with_sixteen_zeros() -> None:
    assert launch_config_id(LAUNCH) == LAUNCH + bytes(16)
    for wrong in (b"", LAUNCH[:-1], LAUNCH + b"\x00", bytes(48)):
        with pytest.raises(EvidenceFormatError, match="wanted 32"):
            launch_config_id(wrong)


@given(st.binary(max_size=7000))
@settings(deadline=None)
def test_random_bytes_raise_our_error_and_no_other(data: bytes) -> None:
    with pytest.raises((EvidenceFormatError, SizeLimitError)):
        parse_tdx_quote(data)


@given(
    st.sampled_from([V4, V5]),
    st.dictionaries(st.integers(0, 1500), st.binary(min_size=1, max_size=4), max_size=6),
    st.integers(0, 64),
)
@settings(deadline=None, max_examples=300)
def test_a_parsed_quote_says_what_its_bytes_say(
    quote: bytes, edits: dict[int, bytes], cut: int
) -> None:
    for offset, value in edits.items():
        quote = edited(quote, offset, value)
    quote = quote[: len(quote) - cut]
    try:
        parsed = parse_tdx_quote(quote)
    except (EvidenceFormatError, SizeLimitError):
        return
    assert quote == parsed.raw + bytes(parsed.trailing_zeros)
    assert parsed.raw.startswith(parsed.signed_bytes)
    start = BODY_5 if parsed.version == 5 else BODY_4
    assert parsed.body.mr_td == quote[start + 136 : start + 184]
    assert parse_tdx_quote(parsed.raw).body == parsed.body
