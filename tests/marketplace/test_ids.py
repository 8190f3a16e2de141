"""Ids sort by time, have one form, and are the same for the same thing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.ids import MILLISECONDS_MAX, RANDOM_BYTES, IdKind, check_id, derived_id, make_id
from trust.errors import EncodingError

MOMENTS = st.integers(min_value=0, max_value=MILLISECONDS_MAX)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(kind=st.sampled_from(IdKind), now=MOMENTS, random=RANDOM)
def test_made_ids_have_the_one_form(kind: IdKind, now: int, random: bytes) -> None:
    made = make_id(kind, now=now, random=random)
    assert check_id(kind, made) == made
    assert re.fullmatch(kind.value + r"_[0-9a-hjkmnp-tv-z]{26}", made)


@given(one=st.tuples(MOMENTS, RANDOM), other=st.tuples(MOMENTS, RANDOM))
def test_text_order_is_time_order(one: tuple[int, bytes], other: tuple[int, bytes]) -> None:
    first, second = (make_id(IdKind.LEASE, now=n, random=r) for n, r in (one, other))
    assert (first < second) == (one < other)
    assert (first == second) == (one == other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xfer",
        "hold_" + "0" * 26,
        "xfer_" + "0" * 25,
        "xfer_" + "0" * 27,
        "xfer_" + "0" * 25 + "u",
        "xfer_" + "0" * 25 + "A",
        "xfer_8" + "0" * 25,
        "xfer_" + "0" * 25 + "\n",
        "xfer_" + "0" * 25 + "٣",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        check_id(IdKind.TRANSFER, text)


@pytest.mark.parametrize(("now", "size"), [(-1, 10), (MILLISECONDS_MAX + 1, 10), (0, 9), (0, 11)])
def test_time_and_randomness_of_another_size_are_refused(now: int, size: int) -> None:
    with pytest.raises(EncodingError):
        make_id(IdKind.ORDER, now=now, random=bytes(size))


def test_what_a_rule_does_twice_has_one_id() -> None:
    def made(purpose: str, *parts: str) -> str:
        return derived_id(IdKind.TRANSFER, at=1, purpose=purpose, parts=parts)

    assert made("settle", "a", "b") == made("settle", "a", "b")
    assert len({made("settle", "a", "b"), made("settle", "ab", ""), made("mature", "a", "b")}) == 3
