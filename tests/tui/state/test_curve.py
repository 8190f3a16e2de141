"""The folded curve: any order gives the same, and its size does not grow with the run."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tui.state.curve import BUCKETS_MAX, Curve, add, number, numbers, sentence, trend

POINTS = st.lists(
    st.tuples(st.integers(0, 50_000), st.integers(0, 900).map(lambda n: f"{n / 100:.2f}")),
    min_size=1,
    max_size=30,
)


def folded(points) -> Curve:
    curve = Curve()
    for step, text in points:
        curve = add(curve, step, text)
    return curve


@given(POINTS, st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_fold_to_the_same_curve(points, random):
    mixed = [*points, *points[:3]]
    random.shuffle(mixed)
    assert folded(mixed) == folded(points)


@given(POINTS)
def test_no_value_is_lost_from_the_span_of_its_bucket(points):
    curve = folded(points)
    assert len(curve.buckets) <= BUCKETS_MAX
    for step, text in points:
        bucket = curve.buckets[step // curve.stride]
        assert bucket is not None
        assert bucket.low <= float(text) <= bucket.high
    assert curve.lowest is not None
    assert curve.lowest.value == min(float(text) for _, text in points)
    assert curve.last is not None
    assert curve.last.step == max(step for step, _ in points)


def test_a_hundred_thousand_steps_take_no_more_room_than_a_thousand():
    curve = folded((step, "1.5") for step in range(0, 100_000, 100))
    assert len(curve.buckets) <= BUCKETS_MAX


@given(st.text(max_size=12))
def test_what_is_no_finite_number_is_left_out(text):
    curve = add(Curve(), 1, text)
    value = number(text)
    assert curve.empty is (value is None)
    assert value is None or math.isfinite(value)
    assert add(Curve(), 1, "nan").empty
    assert add(Curve(), -1, "1.0").empty
    assert add(Curve(), 1 << 60, "1.0").empty


def test_the_sentence_says_where_it_stands_where_it_goes_and_its_lowest():
    curve = folded((step, f"{3 - step / 100:.3f}") for step in range(100))
    assert sentence(curve) == "loss 2.010, falling; lowest 2.010 at step 99"
    assert trend(folded((step, "2.0") for step in range(100))) == "level"
    assert trend(folded((step, f"{1 + step / 10:.2f}") for step in range(100))) == "rising"
    assert trend(folded([(1, "2.0")])) == ""
    assert sentence(Curve()) == ""


def test_at_most_ten_numbers_are_said_from_the_first_to_the_last():
    words = numbers(folded((step, f"{step}") for step in range(500)))
    assert words.startswith("loss at step 0: 0.000, ")
    assert words.endswith("499: 499.000")
    assert words.count(":") == 10
