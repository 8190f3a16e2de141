"""The blindness check names each planted leak, in every encoding and place, and nothing else."""

from __future__ import annotations

import base64
import gzip
import secrets
import zlib

import numpy as np
import pytest

from demo.blindness import PIECE_BYTES, WINDOW_BYTES, Searcher

CANARY = b"CANARY-9f31c4-the-heron-is-blue"
WEIGHTS = np.random.default_rng(7).normal(size=4096).astype("<f4").tobytes()
BF16 = (np.frombuffer(WEIGHTS, dtype="<u4") >> 16).astype("<u2").tobytes()
NOISE = np.random.default_rng(8).bytes(1 << 16)


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return Searcher(canaries={"canary": CANARY}, weights={"weights": BF16})


def planted(leak: bytes, at: int) -> bytes:
    return NOISE[:at] + leak + NOISE[at:]


CANARY_SPELLINGS = {
    "plain": CANARY,
    "hex": CANARY.hex().encode(),
    "HEX": CANARY.hex().upper().encode(),
    "base64": base64.b64encode(CANARY),
    "base64 after one byte": base64.b64encode(b"x" + CANARY),
    "base64 after two bytes": base64.b64encode(b"xy" + CANARY + b"z"),
    "base64url": base64.urlsafe_b64encode(b"\xff\xfe" + CANARY),
    "gzip": gzip.compress(b"rows: " + CANARY + NOISE[:64]),
    "zlib": zlib.compress(b"rows: " + CANARY + NOISE[:64]),
}


@pytest.mark.parametrize("spelling", CANARY_SPELLINGS)
@pytest.mark.parametrize("at", [0, 1, 4097, len(NOISE)])
def test_a_leaked_canary_is_named(searcher: Searcher, spelling: str, at: int) -> None:
    hits = searcher.search("database", planted(CANARY_SPELLINGS[spelling], at))
    assert {(hit.secret, hit.place.partition("!")[0]) for hit in hits} == {("canary", "database")}


def window(start: int) -> bytes:
    return BF16[start : start + WINDOW_BYTES]


def as_fp32(part: bytes) -> bytes:
    return (np.frombuffer(part, dtype="<u2").astype("<u4") << 16).tobytes()


@pytest.mark.parametrize("start", [0, 1, 15, 16, 17, 1000, len(BF16) - WINDOW_BYTES])
@pytest.mark.parametrize("at", [0, 3, 8, 5000])
def test_any_window_of_the_weights_is_named_at_any_offset(
    searcher: Searcher, start: int, at: int
) -> None:
    hits = searcher.search("blobs", planted(window(start), at))
    assert [(hit.secret, hit.encoding) for hit in hits] == [("weights", "plain")]


@pytest.mark.parametrize(
    ("spelling", "leak"),
    [
        ("hex", BF16[64:128].hex().encode()),
        ("HEX", BF16[64:128].hex().upper().encode()),
        ("base64", base64.b64encode(BF16[63:160])),
        ("base64", base64.b64encode(BF16[64:160])),
        ("base64", base64.b64encode(BF16[65:160])),
        ("base64url", base64.urlsafe_b64encode(BF16[64:320])),
        ("bf16→fp32 plain", as_fp32(BF16[64:128])),
        ("bf16→fp32 base64", base64.b64encode(as_fp32(BF16[64:160]))),
        ("bf16→fp32 hex", as_fp32(BF16[64:160]).hex().encode()),
    ],
)
def test_encoded_weights_are_named(searcher: Searcher, spelling: str, leak: bytes) -> None:
    hits = searcher.search("log", planted(leak, 77))
    assert any(hit.secret == "weights" and hit.encoding.startswith(spelling) for hit in hits)


def test_fp32_weights_are_found_as_bf16() -> None:
    searcher = Searcher(canaries={}, weights={"weights": WEIGHTS})
    hits = searcher.search("socket", planted(BF16[64:128], 3))
    assert [hit.encoding for hit in hits] == ["fp32→bf16 plain"]


def test_a_leak_across_two_pieces_is_named(searcher: Searcher) -> None:
    content = bytes(PIECE_BYTES - 10) + CANARY + bytes(100)
    assert [hit.offset for hit in searcher.search("file", content)] == [PIECE_BYTES - 10]


def test_noise_zeros_and_text_are_no_hits() -> None:
    searcher = Searcher(canaries={"canary": CANARY}, weights={"weights": BF16})
    for content in (secrets.token_bytes(1 << 20), bytes(1 << 20), b"lorem ipsum " * 10_000, b""):
        assert searcher.search("file", content) == []
    assert searcher.bytes_searched >= 2 << 20
