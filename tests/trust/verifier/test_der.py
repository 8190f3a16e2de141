"""The DER reader: one reading for each string of bytes, or a refusal."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.vendor import Chain, replaced, simulated_chip
from trust.errors import BlindhostError, EvidenceFormatError
from trust.simulated import certificates as minting
from trust.verifier import der
from trust.verifier.certificates import parse_certificate, parse_revocation_list


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("", "cut off before a length"),
        ("30", "cut off before a length"),
        ("3005020101", "cut off"),
        ("3080020101" + "0000", "indefinite"),
        ("308103020101", "shortest form"),
        ("30820003020101", "shortest form"),
        ("3085" + "0000000003" + "020101", "a length of 5 bytes"),
        ("3f0100", "more than one byte"),
        ("300302010100", "1 bytes after"),
        ("3103020101", "wanted 0x30"),
    ],
)
def test_a_second_way_to_write_a_value_is_refused(data: str, text: str) -> None:
    with pytest.raises(EvidenceFormatError, match=text):
        der.read_sequence(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("content", "text"),
    [("", "of 0 bytes"), ("80", "negative"), ("0001", "shortest form"), ("01" * 22, "22 bytes")],
)
def test_an_integer_has_one_form_and_no_sign(content: str, text: str) -> None:
    element = der.read_element(minting.tlv(der.INTEGER, bytes.fromhex(content)), der.INTEGER)
    with pytest.raises(EvidenceFormatError, match=text):
        der.integer(element)


@given(st.integers(0, 2**160))
def test_an_integer_is_read_as_it_was_written(value: int) -> None:
    assert der.integer(der.read_element(minting.integer(value), der.INTEGER)) == value


@given(st.integers(0, 8000 * 365 * 86400))
def test_a_time_is_read_as_it_was_written(seconds: int) -> None:
    moment = dt.datetime(1950, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    (element,) = der.read_elements(minting.time(moment))
    assert der.time(element) == moment


@pytest.mark.parametrize(
    ("tag", "content"),
    [
        (der.UTC_TIME, b"2611241200Z"),
        (der.UTC_TIME, b"261124120000+0100"),
        (der.UTC_TIME, b"261324120000Z"),
        (der.UTC_TIME, b"20261124120000Z"),
        (der.GENERALIZED_TIME, b"20261124120000.5Z"),
        (der.GENERALIZED_TIME, b"20260230120000Z"),
        (der.INTEGER, b"261124120000Z"),
    ],
)
def test_a_time_in_another_form_is_refused(tag: int, content: bytes) -> None:
    (element,) = der.read_elements(minting.tlv(tag, content))
    with pytest.raises(EvidenceFormatError, match="not a time"):
        der.time(element)


@pytest.mark.parametrize("content", [b"SEV-Genoa\n", b"\x1b[2J", b"SEV-Genoa\x00", "Gén".encode()])
def test_a_name_that_could_write_in_a_log_is_refused(content: bytes) -> None:
    (element,) = der.read_elements(minting.tlv(der.UTF8_STRING, content))
    with pytest.raises(EvidenceFormatError, match="printable"):
        der.text(element)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff\xff"])
def test_a_boolean_is_one_of_two_bytes(content: bytes) -> None:
    (element,) = der.read_elements(minting.tlv(der.BOOLEAN, content))
    with pytest.raises(EvidenceFormatError, match="BOOLEAN"):
        der.boolean(element)


def test_a_value_of_more_elements_than_we_count_is_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="over 4096 elements"):
        der.read_elements(b"\x05\x00" * 4097)


def test_an_extension_that_stands_twice_is_refused() -> None:
    twice = (*Chain().issuer_extensions, Chain().issuer_extensions[0])
    with pytest.raises(EvidenceFormatError, match="stands twice"):
        parse_certificate(Chain(issuer_extensions=twice).endorsements()["ask"])


def test_a_critical_extension_that_we_do_not_know_is_refused() -> None:
    unknown = minting.Extension(name=der.oid("2.5.29.30"), value=b"\x30\x00", critical=True)
    extensions = (*Chain().issuer_extensions, unknown)
    with pytest.raises(EvidenceFormatError, match="critical and unknown"):
        parse_certificate(Chain(issuer_extensions=extensions).endorsements()["ask"])


def test_basic_constraints_that_do_not_say_authority_say_no() -> None:
    extensions = replaced(Chain().issuer_extensions, minting.AUTHORITY.name, bytes.fromhex("3000"))
    ask = parse_certificate(Chain(issuer_extensions=extensions).endorsements()["ask"])
    assert not ask.may_sign_certificates()


def test_a_delta_list_is_refused() -> None:
    """Its critical extension says that it is not the whole list (RFC 5280 §5.2.4)."""
    whole = der.read_sequence(simulated_chip().crl)[0].content
    delta = minting.Extension(name=der.oid("2.5.29.27"), value=b"\x02\x01\x01", critical=True)
    extensions = minting.tlv(0xA0, minting.sequence(delta.encode()))
    signed = minting.sequence(whole, extensions)
    crl = minting.sequence(signed, minting.PSS_ALGORITHM, minting.tlv(der.BIT_STRING, bytes(513)))
    with pytest.raises(EvidenceFormatError, match="critical and unknown"):
        parse_revocation_list(crl)


def test_two_different_algorithms_in_one_certificate_are_refused() -> None:
    signed, _algorithm, value = der.read_sequence(simulated_chip().ask)
    other = bytes.fromhex("300d06092a864886f70d01010c0500")
    with pytest.raises(EvidenceFormatError, match="two different"):
        parse_certificate(minting.sequence(signed.encoded, other, value.encoded))


def test_oids_are_written_as_x690_says() -> None:
    assert der.oid("2.5.4.3") == bytes.fromhex("550403")
    assert der.oid("1.3.6.1.4.1.3704.1.3.8") == bytes.fromhex("2b060104019c78010308")


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_raise_our_error_and_no_other(data: bytes) -> None:
    for parse in (parse_certificate, parse_revocation_list):
        with pytest.raises(BlindhostError):
            parse(data)


@given(
    st.sampled_from(["vcek", "ask", "ark", "crl"]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 8),
)
@settings(max_examples=500, deadline=None)
def test_a_mutated_endorsement_parses_or_raises_our_error_and_no_other(
    kind: str, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(dict(simulated_chip().endorsements())[kind])
    for place, value in edits:
        data[place % len(data)] = value
    data = data[: len(data) - cut]
    try:
        if kind == "crl":
            parse_revocation_list(bytes(data))
        else:
            certificate = parse_certificate(bytes(data))
            certificate.may_sign_certificates()
    except BlindhostError:
        return
    assert cut == 0
