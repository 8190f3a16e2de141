"""Tokens as text: half characters wait, stop strings never show, and pieces change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.transcript import Transcript


def decode(ids: Sequence[int]) -> str:
    """Token ids are bytes of UTF-8."""
    return bytes(ids).decode("utf-8", "replace")


def shown(text: str, cuts: list[int], stops: tuple[str, ...]) -> tuple[str, int, bool]:
    ids, transcript, out, start = list(text.encode()), Transcript(stops), "", 0
    for cut in [*sorted(c % (len(ids) + 1) for c in cuts), len(ids)]:
        out += transcript.take(ids[start:cut], decode, last=cut == len(ids))
        start = cut
    return out, transcript.tokens, transcript.stopped


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=6))
def test_every_way_to_cut_a_reply_shows_the_same_text(text: str, cuts: list[int]) -> None:
    assert shown(text, cuts, ()) == (text, len(text.encode()), False)


@given(st.text("ab\u20ac", max_size=30), st.lists(st.integers(0, 200), max_size=6))
def test_a_reply_stops_before_the_first_stop_string(text: str, cuts: list[int]) -> None:
    stops = ("ab\u20ac", "bb")
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    out, tokens, stopped = shown(text, cuts, stops)
    if not found:
        assert (out, stopped) == (text, False)
        return
    ends = [text.find(s) + len(s) for s in stops if s in text]
    assert (out, tokens, stopped) == (
        # Whichever stop is complete first ends it; what stood before that one is shown.
        text[: min(text.find(s) for s in stops if s in text[: min(ends)])],
        len(text[: min(ends)].encode()),
        True,
    )


def test_what_may_begin_a_stop_string_waits_for_the_next_token() -> None:
    transcript = Transcript(("END",))
    assert transcript.take(list(b"go E"), decode, last=False) == "go "
    assert transcript.take(list(b"N"), decode, last=False) == ""
    assert transcript.take(list(b"tire"), decode, last=False) == "ENtire"


def test_half_a_character_waits_and_is_shown_as_such_at_the_very_end() -> None:
    euro = list("\u20ac".encode())
    transcript = Transcript(())
    assert transcript.take(euro[:2], decode, last=False) == ""
    assert transcript.take(euro[2:], decode, last=False) == "\u20ac"
    assert transcript.take(euro[:1], decode, last=True) == "\ufffd"


@pytest.mark.parametrize("stops", [(), ("x",)])
def test_nothing_is_shown_after_the_end_of_an_empty_reply(stops: tuple[str, ...]) -> None:
    transcript = Transcript(stops)
    assert transcript.take([], decode, last=True) == ""
    assert transcript.tokens == 0
