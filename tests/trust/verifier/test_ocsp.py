"""OCSP responses that came along: who may say *good*, of what, and for how long."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from cryptography.x509 import ocsp as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.gpu_vendor import (
    DAY,
    HOPPER,
    NOW,
    Ocsp,
    device_links,
    made,
    revoked,
    statuses,
)
from trust.errors import BlindhostError, SizeLimitError
from trust.verifier.certificates import Certificate, parse_certificate
from trust.verifier.ocsp import (
    RESPONSE_BYTES_MAX,
    OcspResponse,
    Standing,
    Status,
    parse_ocsp,
    response_fault,
    standing_of,
)

LINKS = device_links(HOPPER, b"GPU00001")


@functools.cache
def chain() -> tuple[Certificate, ...]:
    return tuple(parse_certificate(each) for each in made(LINKS))


@functools.cache
def responses() -> tuple[Ocsp, ...]:
    return tuple(statuses(LINKS, 1))


@functools.cache
def good() -> bytes:
    return responses()[0].response()


def standing(*given: OcspResponse) -> Standing:
    return standing_of(chain(), (1, 2, 3), given, NOW)


def parsed() -> list[OcspResponse]:
    return [parse_ocsp(each.response()) for each in responses()]


def test_a_response_says_what_a_common_library_reads_in_it() -> None:
    ours, theirs = parse_ocsp(good()), reference.load_der_ocsp_response(good())
    assert ours.serial == theirs.serial_number
    assert ours.issuer_key_hash == theirs.issuer_key_hash
    assert ours.issuer_name_hash == theirs.issuer_name_hash
    assert ours.this_update == theirs.this_update_utc
    assert ours.next_update == theirs.next_update_utc
    assert ours.responder_key_hash == theirs.responder_key_hash
    assert ours.signature.signed == theirs.tbs_response_bytes
    assert theirs.certificate_status is reference.OCSPCertStatus.GOOD
    assert ours.status is Status.GOOD


def test_a_chain_with_good_word_on_each_stands_until_the_first_of_it_ends() -> None:
    found = standing(*parsed())
    assert found.fault is None
    assert len(found.used) == 3
    assert found.ends == NOW + DAY / 2


def test_nobody_is_asked_about_the_leaf_and_the_root() -> None:
    assert standing(*parsed()).fault is None
    assert standing_of(chain(), (0, 1, 2, 3), parsed(), NOW).fault == (
        "GH100 A01 GSP FMC LF: no response"
    )


def test_word_on_the_leaf_counts_if_it_is_there() -> None:
    leaf = replace(statuses(LINKS, 0)[0], status=revoked(), by_issuer=True)
    found = standing(*parsed(), parse_ocsp(leaf.response()))
    assert found.fault == "GH100 A01 GSP FMC LF: revoked"


def test_a_hold_is_told_apart_from_a_revocation() -> None:
    held = replace(responses()[0], status=revoked(6))
    found = standing(parse_ocsp(held.response()), *parsed()[1:])
    assert found.fault is None
    assert found.on_hold == ("GH100 A01 GSP BROM",)


@pytest.mark.parametrize("reason", [None, 0, 1, 2, 3, 4, 5, 8, 9, 10])
def test_every_other_reason_is_a_revocation(reason: int | None) -> None:
    told = replace(responses()[0], status=revoked(reason))
    assert parse_ocsp(told.response()).status is Status.REVOKED


def test_a_response_is_about_one_certificate_of_one_issuer() -> None:
    rom, provisioner = chain()[1:3]
    response = parse_ocsp(good())
    assert response.is_about(rom, provisioner)
    assert not response.is_about(chain()[0], rom)
    assert not response.is_about(rom, chain()[3])


@pytest.mark.parametrize(
    ("seconds", "good_then"), [(0, True), (-1, False), (86399, True), (86400, False)]
)
def test_a_response_is_fresh_from_its_first_second_to_before_its_last(
    seconds: int, good_then: bool
) -> None:
    response = parse_ocsp(good())
    now = response.this_update + seconds * DAY / 86400
    fault = response_fault(response, chain()[2], now)
    assert (fault is None) is good_then


def test_the_responder_is_told_by_name_as_well() -> None:
    """RFC 6960 allows a name in place of the key's hash; a name of nobody is nobody's."""
    response = parse_ocsp(good())
    (responder,) = response.certificates
    by_name = replace(response, responder_name=responder.subject, responder_key_hash=None)
    assert response_fault(by_name, chain()[2], NOW) is None
    by_nobody = replace(by_name, responder_name=chain()[0].subject)
    assert response_fault(by_nobody, chain()[2], NOW) is not None


def test_two_responders_of_one_name_are_none() -> None:
    response = parse_ocsp(good())
    doubled = replace(response, certificates=response.certificates * 2)
    assert response_fault(doubled, chain()[2], NOW) is not None


def test_a_long_response_is_refused_by_its_size() -> None:
    with pytest.raises(SizeLimitError, match="at most 16384"):
        parse_ocsp(good() + bytes(RESPONSE_BYTES_MAX))


def test_the_issuer_can_not_lend_its_name_to_another_key() -> None:
    told = replace(responses()[1], by_issuer=True, signing_key="attacker")
    assert standing(parse_ocsp(told.response()), *parsed()).fault is not None


@given(st.binary(max_size=400))
def test_any_bytes_give_our_own_errors_only(data: bytes) -> None:
    for each in (data, good()[:20] + data, good() + data + b"\x00"):
        with pytest.raises(BlindhostError):
            parse_ocsp(each)


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_never_good_word_on_the_same_certificate(place: int, change: int) -> None:
    data = bytearray(good())
    data[place % len(data)] ^= change
    try:
        response = parse_ocsp(bytes(data))
    except BlindhostError:
        return
    rom, provisioner = chain()[1:3]
    assert (
        not response.is_about(rom, provisioner)
        or response_fault(response, provisioner, NOW) is not None
    )
