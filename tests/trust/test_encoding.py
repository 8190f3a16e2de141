"""One value, one encoding; everything else is refused, and the field is named."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust.encoding import (
    DOCUMENT_BYTES_MAX,
    INTEGER_MAX,
    Bytes32,
    Decimal,
    Document,
    Size,
    Struct,
    Uint32,
    base64url,
    canonical_json,
    derive,
    label_bytes,
    labelled_digest,
    parse_base64url,
    parse_canonical_json,
    parse_hex,
)
from trust.errors import BlindhostError, DocumentError, EncodingError, SizeLimitError


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Left(Struct):
    TAG: ClassVar[str | None] = "left"
    count: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Right(Struct):
    TAG: ClassVar[str | None] = "right"
    rate: Decimal


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample(Document):
    LABEL: ClassVar[str] = "test/sample"
    key: Bytes32
    either: Left | Right
    colour: Colour
    maybe: Bytes32 | None
    several: Annotated[tuple[Left, ...], Size(least=1, most=2)]
    flag: bool


SAMPLE = Sample(
    key=bytes(range(32)),
    either=Right(rate="0.0002"),
    colour=Colour.RED,
    maybe=None,
    several=(Left(count=7),),
    flag=True,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, INTEGER_MAX)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner)
    ),
    max_leaves=8,
)


def changed(**changes: object) -> bytes:
    value = SAMPLE.to_json() | changes
    return label_bytes("test/sample") + canonical_json({k: v for k, v in value.items() if v != "-"})


def test_a_document_reads_back_as_itself_and_has_one_digest() -> None:
    assert Sample.parse(SAMPLE.encode()) == SAMPLE
    assert SAMPLE.digest == Sample.parse(SAMPLE.encode()).digest
    assert SAMPLE.encode().startswith(b"blindhost/v1/test/sample\x00{")


@given(JSON_VALUES)
def test_canonical_json_reads_back_as_itself(value: object) -> None:
    assert parse_canonical_json(canonical_json(value)) == value


@given(st.binary(max_size=200))
def test_random_bytes_raise_our_errors_only(data: bytes) -> None:
    for parse in (Sample.parse, parse_canonical_json):
        with pytest.raises(BlindhostError):
            parse(b"\xff" + data)


@given(st.binary(max_size=64))
def test_base64url_reads_back_and_has_one_form(data: bytes) -> None:
    assert parse_base64url(base64url(data)) == data


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q Q", "Q+Q/", "é", "A"])
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_base64url(text)


@pytest.mark.parametrize("text", ["AB", "abc", "0x00", " 00"])
def test_other_spellings_of_hex_are_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_hex(text)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extra": 1}, "unknown field 'extra'"),
        ({"flag": "-"}, "missing field 'flag'"),
        ({"flag": 1}, "Sample.flag: bool is wanted"),
        ({"key": "AAAA"}, "Sample.key: length 3"),
        ({"key": "A A"}, "Sample.key: not base64url"),
        ({"colour": "blue"}, "Sample.colour: 'blue'; wanted one of red"),
        ({"several": []}, "Sample.several: length 0"),
        ({"several": [{"name": "left", "count": True}]}, "Sample.several[0].count: int is wanted"),
        ({"several": [{"name": "right", "count": 1}]}, "Sample.several[0]: name is 'right'"),
        ({"either": {"name": "up"}}, "Sample.either: 'up' is none of left, right"),
        ({"either": {"name": "right", "rate": "1e3"}}, "rate: '1e3' is not of the form"),
        ({"either": {"name": "right", "rate": "01"}}, "rate: '01' is not of the form"),
        ({"either": {"name": "left", "count": 1 << 32}}, "count: 4294967296, wanted 0 to"),
    ],
)
def test_a_wrong_field_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(DocumentError) as error:
        Sample.parse(changed(**changes))
    assert named in str(error.value)


def test_the_same_checks_run_when_a_document_is_made() -> None:
    with pytest.raises(DocumentError, match=r"Left\.count: -1"):
        Left(count=-1)
    with pytest.raises(DocumentError, match="int is wanted, got bool"):
        Left(count=True)


def test_another_label_is_refused() -> None:
    data = SAMPLE.encode().replace(b"test/sample", b"test/other!", 1)
    with pytest.raises(DocumentError, match="label is"):
        Sample.parse(data)


def test_json_that_is_not_canonical_is_refused() -> None:
    label = label_bytes("test/sample")
    pretty = json.dumps(SAMPLE.to_json(), indent=1).encode()
    reordered = json.dumps(dict(reversed(SAMPLE.to_json().items())), separators=(",", ":")).encode()
    for data in (pretty, reordered, SAMPLE.encode()[len(label) :] + b" "):
        with pytest.raises(EncodingError):
            Sample.parse(label + data)


def test_a_field_that_stands_twice_is_refused() -> None:
    with pytest.raises(EncodingError, match="field twice"):
        parse_canonical_json(b'{"a":1,"a":1}')


@pytest.mark.parametrize(
    "data", [b"1.5", b"-1", b"1e3", b"NaN", b"9007199254740992", b"1" * 5000, b"\xff", b"[", b"-0"]
)
def test_numbers_that_are_no_small_naturals_are_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        parse_canonical_json(data)


def test_a_document_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SizeLimitError):
        Sample.parse(b"[" * (DOCUMENT_BYTES_MAX + 1))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(EncodingError):
        parse_canonical_json(b"[" * 18 + b"]" * 18)
    with pytest.raises(EncodingError):
        parse_canonical_json(b"[" * 100_000)


def test_arguments_of_a_derivation_do_not_run_together() -> None:
    key = (bytes(32),)
    assert derive(key, "test", b"ab", b"c") != derive(key, "test", b"a", b"bc")
    assert derive(key, "test", 1) != derive(key, "test", 1, 1)
    assert derive(key, "test", b"a") != derive(key, "tests", b"a")
    assert labelled_digest("test", b"ab", b"c") != labelled_digest("test", b"a", b"bc")


def test_a_short_key_is_never_padded() -> None:
    for keys in ((bytes(31),), (bytes(33),), ()):
        with pytest.raises(EncodingError):
            derive(keys, "test")


def test_half_a_surrogate_pair_is_an_error_of_ours() -> None:
    from trust.serving import ChatMessage, Role

    with pytest.raises(DocumentError, match="half a surrogate pair"):
        ChatMessage(role=Role.USER, content="\ud800")
