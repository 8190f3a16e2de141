"""The targets hold without a fuzzer too: over their seeds, cut and changed in a few places."""

from __future__ import annotations

import hashlib
import importlib

import pytest

from tests.fuzz import material
from tests.fuzz.__main__ import HERE, TARGETS

SEEDS_MAX = 12  # of each target; the fuzzer takes all
CHANGES = 8


def changed(seed: bytes) -> list[bytes]:
    """The seed itself, cut, and with bytes changed where a digest says."""
    made = [seed, b"", seed[: len(seed) // 2], seed + seed[:1]]
    for number in range(CHANGES):
        drawn = hashlib.sha256(bytes((number,)) + seed).digest()
        place = int.from_bytes(drawn[:4], "big") % max(1, len(seed))
        made.append(seed[:place] + drawn[4:5] + seed[place + 1 :])
    return made


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_seeds_and_what_is_made_of_them(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.{name}")
    seeds = sorted(set(target.seeds()))
    assert seeds
    for seed in seeds[:: max(1, len(seeds) // SEEDS_MAX)]:
        for each in changed(seed):
            target.one(each)


def test_a_foreign_exception_gets_out_of_a_target() -> None:
    """The targets catch what is ours alone: else a fuzzer would find nothing in anything."""
    for name in TARGETS:
        text = (HERE / f"{name}.py").read_text(encoding="utf-8")
        assert "except BlindhostError" in text, name
        assert text.count("except") == text.count("except BlindhostError"), name


def test_parts_are_torn_apart_as_they_were_joined() -> None:
    parts = [(0, b"one"), (6, b""), (255, bytes(300))]
    assert list(material.parted(material.joined(parts))) == parts
    assert list(material.parted(b"\x01\x00\x00\x09short")) == [(1, b"short")]
    assert list(material.parted(b"\x01\x00")) == []
