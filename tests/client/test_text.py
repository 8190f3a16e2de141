"""What others chose reaches a terminal as letters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.text import REPLACEMENT, clean

ATTACKS = ("\x1b]52;c;aGk=\x1b\\", "\x1b[2J", "\x9b31m", "\x07", "\x7f", "\u202eevil", "\u2066x")
FORBIDDEN = {chr(n) for n in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F))} | {
    chr(n) for n in (*range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
}


def test_no_control_sequence_and_no_turned_direction_survives() -> None:
    for attack in ATTACKS:
        assert not FORBIDDEN & set(clean(attack))
        assert REPLACEMENT in clean(attack)


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_whatever_comes_out_is_short_and_harmless(text: str, limit: int) -> None:
    shown = clean(text, limit=limit)
    assert len(shown) <= max(limit, 1)
    assert not FORBIDDEN & set(shown)


@given(st.text(alphabet=st.characters(categories=("L", "N", "P")), max_size=50))
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert clean(text) == text


def test_tab_and_newline_stay_only_where_they_are_asked_for() -> None:
    assert clean("a\tb\nc") == f"a{REPLACEMENT}b{REPLACEMENT}c"
    assert clean("a\tb\nc", keep="\n\t") == "a\tb\nc"


def test_a_megabyte_is_cut_before_it_is_looked_at() -> None:
    assert clean("\x1b" * (1 << 20), limit=10) == REPLACEMENT * 9 + "…"


def test_scripts_that_need_joiners_keep_them() -> None:
    assert clean("नमस्\u200dते") == "नमस्\u200dते"
