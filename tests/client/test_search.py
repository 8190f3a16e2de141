"""The search language: read exactly, refused at a column, written as it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.search import (
    CLAUSES_MAX,
    QUERY_CHARACTERS_MAX,
    QueryError,
    format_query,
    parse_order,
    parse_query,
)
from marketplace.wire import (
    WORDS_MAX,
    Clause,
    Comparison,
    NumberClause,
    OfferNumber,
    OfferOrder,
    OfferWord,
    WordClause,
)
from trust.encoding import INTEGER_MAX

WORDS = st.text(
    alphabet=st.characters(categories=("L", "N"), include_characters="-._:/;=<> "),
    min_size=1,
    max_size=20,
)
NUMBERS = st.builds(
    NumberClause,
    field=st.sampled_from(OfferNumber),
    comparison=st.sampled_from(Comparison),
    value=st.integers(min_value=0, max_value=INTEGER_MAX),
)
LISTS = st.builds(
    WordClause,
    field=st.sampled_from([each for each in OfferWord if each is not OfferWord.PLATFORM]),
    values=st.lists(WORDS, min_size=1, max_size=WORDS_MAX).map(tuple),
    excludes=st.booleans(),
)


def number(text: str) -> NumberClause:
    (clause,) = parse_query(text)
    assert isinstance(clause, NumberClause)
    return clause


def test_the_query_of_the_manual_is_read_clause_by_clause() -> None:
    found = parse_query("gpu=H100 vram>=80GiB tee in (snp,tdx) price<=2.00 left>=12h")
    assert found == (
        WordClause(field=OfferWord.GPU, values=("H100",), excludes=False),
        NumberClause(field=OfferNumber.MEMORY, comparison=Comparison.AT_LEAST, value=80 * 1024),
        WordClause(field=OfferWord.PLATFORM, values=("sev-snp", "tdx"), excludes=False),
        NumberClause(field=OfferNumber.PRICE, comparison=Comparison.AT_MOST, value=2_000_000),
        NumberClause(field=OfferNumber.LEFT, comparison=Comparison.AT_LEAST, value=43_200),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("price<0.000001", 1),
        ("price<=1.5cr", 1_500_000),
        ("memory=1.5GiB", 1536),
        ("memory=2TiB", 2 << 20),
        ("memory=7MiB", 7),
        ("left>1d", 86_400),
        ("left>1.5m", 90),
        ("gpus==8", 8),
        ("gpus = 8", 8),
    ],
)
def test_numbers_are_exact_in_the_smallest_unit(text: str, value: int) -> None:
    assert number(text).value == value


@pytest.mark.parametrize(
    ("text", "at", "suggestion"),
    [
        ("gpu=H100 regoin=eu", 9, "region"),
        ("pirce<=2", 0, "price"),
        ("vram>=80", 6, "80GiB"),
        ("vram>=80GB", 6, "80GiB"),
        ("left>=12", 6, "12h"),
        ("price<=2eur", 7, "2"),
        ("price<=0.0000001", 7, "0.000000"),
        ("gpu<=H100", 3, "gpu=…"),
        ("price in (1,2)", 6, "price<=…"),
        ("gpus=1.5", 5, "1"),
        ("gpus=8x", 5, "8"),
        ("gpu H100", 4, "gpu=…"),
        ("tee in (snp,", 12, ""),
        ("tee in snp", 7, ""),
        ("tee in (snp tdx)", 12, ""),
        ('gpu="H100', 4, ""),
        ("=8", 0, ""),
        ("memory=0.0001MiB", 7, ""),
        ("price<=9999999999999999", 7, ""),
        ("price<=-1", 7, ""),
        ("gpu=\x1b[2J", 4, ""),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_stands(
    text: str, at: int, suggestion: str
) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(text)
    assert (caught.value.at, caught.value.suggestion) == (at, suggestion)


def test_a_field_without_data_is_named_as_such_and_not_made_up() -> None:
    with pytest.raises(QueryError, match="this market knows no reliability of an offer") as caught:
        parse_query("reliability>=0.99")
    assert "price" in caught.value.text


def test_queries_have_bounds() -> None:
    with pytest.raises(QueryError, match=f"at most {CLAUSES_MAX} clauses"):
        parse_query("gpus=1 " * (CLAUSES_MAX + 1))
    with pytest.raises(QueryError, match=f"at most {QUERY_CHARACTERS_MAX} characters"):
        parse_query(" " * (QUERY_CHARACTERS_MAX + 1))
    with pytest.raises(QueryError, match=f"at most {WORDS_MAX} values"):
        parse_query(f"gpu in ({','.join('abcdefghijklmnopq')})")
    assert len(parse_query("gpus=1 " * CLAUSES_MAX)) == CLAUSES_MAX


@given(st.lists(NUMBERS | LISTS, max_size=5).map(tuple))
def test_a_query_that_is_written_is_read_as_it_was(clauses: tuple[Clause, ...]) -> None:
    text = format_query(clauses)
    if len(text) <= QUERY_CHARACTERS_MAX:
        assert parse_query(text) == clauses


@given(st.text(max_size=60))
def test_any_text_is_clauses_or_an_error_within_it(text: str) -> None:
    at = 0
    try:
        parse_query(text)
    except QueryError as error:
        at = error.at
    assert 0 <= at <= len(text)


def test_what_to_sort_by_is_a_field_and_may_go_down() -> None:
    assert parse_order("price") == (OfferOrder.PRICE, False)
    assert parse_order("-vram") == (OfferOrder.MEMORY, True)
    with pytest.raises(QueryError) as caught:
        parse_order("-prcie")
    assert (caught.value.at, caught.value.suggestion) == (1, "price")
    with pytest.raises(QueryError):
        parse_order("floor")
