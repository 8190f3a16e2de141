"""trust/http_signature.py: each covered component, changed, makes the request somebody else's."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trust.encoding import digest, label_bytes
from trust.errors import BlindhostError, DocumentError, EncodingError, SignatureError
from trust.http_signature import (
    AGE_SECONDS_MAX,
    SKEW_SECONDS_MAX,
    HttpRequest,
    Method,
    SignedRequest,
    sign_request,
    sign_response,
    verify_head,
    verify_request,
    verify_response,
)
from trust.identity import PartyKey, verify, verify_signed
from trust.jobs import Close

NOW = 1_800_000_000
MARKET, OTHER_MARKET = bytes([9]) * 32, bytes([8]) * 32
KEY = PartyKey.from_bytes(bytes([1]) * 32)
STRANGER = PartyKey.from_bytes(bytes([2]) * 32)
ID = bytes(range(16))
ASKED = {"method": "POST", "target": "/v1/jobs?after=3", "body": b'{"a":1}'}


def signed(**changes: object) -> SignedRequest:
    values = {"market": MARKET, "idempotency_key": ID, "now": NOW, **ASKED}
    return sign_request(KEY, **(values | changes))


def verified(headers: dict[str, str], **changes: object):
    values = {"market": MARKET, "now": NOW, "headers": headers, **ASKED}
    return verify_request(**(values | changes))


def test_signed_request_names_its_signer_and_its_key() -> None:
    request = signed()
    found = verified(dict(request.headers))
    assert found.identity == KEY.identity
    assert found.idempotency_key == ID
    assert found.body == ASKED["body"]
    assert found.digest == request.digest
    assert found.content_digest == digest(ASKED["body"])


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"target": "/v1/jobs?after=4"},
        {"target": "/v1/jobs"},
        {"target": "/v1/offers?after=3"},
        {"body": b'{"a":2}'},
        {"body": b""},
        {"market": OTHER_MARKET},
    ],
)
def test_request_for_another_method_target_body_or_market_is_refused(change: object) -> None:
    headers = dict(signed().headers)
    with pytest.raises(SignatureError):
        verified(headers, **change)


def test_request_under_anothers_identity_is_refused() -> None:
    headers = dict(signed().headers)
    mine = KEY.identity.hex()
    headers["Signature-Input"] = headers["Signature-Input"].replace(mine, STRANGER.identity.hex())
    with pytest.raises(SignatureError, match=STRANGER.identity.hex()):
        verified(headers)


def test_changed_dropped_or_added_idempotency_key_is_refused() -> None:
    headers = dict(signed().headers)
    for key in (None, f'"{bytes(16).hex()}"'):
        changed = headers | {"Idempotency-Key": key} if key else dict(headers)
        if key is None:
            del changed["Idempotency-Key"]
        with pytest.raises(SignatureError):
            verified(changed)
    without = dict(signed(idempotency_key=None).headers)
    assert verified(dict(without)).idempotency_key is None
    with pytest.raises(SignatureError):
        verified(without | {"Idempotency-Key": f'"{ID.hex()}"'})


def test_digest_header_that_is_not_the_bodys_is_refused_by_accept() -> None:
    head = verify_head(
        market=MARKET,
        method=ASKED["method"],
        target=ASKED["target"],
        headers=dict(signed().headers),
        now=NOW,
    )
    with pytest.raises(SignatureError, match="body of 5 bytes"):
        head.accept(b"other")
    assert head.accept(ASKED["body"]).identity == KEY.identity


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (NOW + AGE_SECONDS_MAX, True),
        (NOW + AGE_SECONDS_MAX + 1, False),
        (NOW - SKEW_SECONDS_MAX, True),
        (NOW - SKEW_SECONDS_MAX - 1, False),
    ],
)
def test_stale_and_future_signatures_are_refused(now: int, good: bool) -> None:
    headers = dict(signed().headers)
    if good:
        assert verified(headers, now=now).identity == KEY.identity
    else:
        with pytest.raises(SignatureError, match=r"ago|future"):
            verified(headers, now=now)


def test_time_moved_forward_in_the_header_is_refused() -> None:
    headers = dict(signed().headers)
    headers["Signature-Input"] = headers["Signature-Input"].replace(
        f"created={NOW}", f"created={NOW + 500}"
    )
    with pytest.raises(SignatureError):
        verified(headers, now=NOW + 500)


@pytest.mark.parametrize("name", ["Signature-Input", "Signature", "Content-Digest"])
def test_missing_header_is_refused_by_name(name: str) -> None:
    headers = dict(signed().headers)
    del headers[name]
    with pytest.raises(EncodingError, match=name):
        verified(headers)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Signature-Input", '"@query" ', ""),
        ("Signature-Input", "sig=", "sig1="),
        ("Signature-Input", 'alg="ed25519"', 'alg="hmac-sha256"'),
        ("Signature-Input", "http/request", "http/response"),
        ("Signature-Input", ";created=", ";expires=9;created="),
        ("Signature", "sig=:", "sig=::"),
        ("Content-Digest", "sha-256", "sha-512"),
        ("Idempotency-Key", '"', ""),
    ],
)
def test_headers_have_one_form(name: str, old: str, new: str) -> None:
    headers = dict(signed().headers)
    assert old in headers[name]
    headers[name] = headers[name].replace(old, new)
    with pytest.raises(EncodingError):
        verified(headers)


def test_signature_has_one_encoding() -> None:
    """Base64 has stray bits in its last character: only one reading is taken."""
    headers = dict(signed().headers)
    value = headers["Signature"]
    twin = next(
        value[:-4] + c + value[-3:]
        for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
        if c != value[-4]
        and base64.b64decode(value[5:-4] + c + "==") == base64.b64decode(value[5:-1])
    )
    with pytest.raises(EncodingError, match="canonical"):
        verified(headers | {"Signature": twin})


def test_oversized_header_is_refused_before_it_is_parsed() -> None:
    headers = dict(signed().headers)
    headers["Signature-Input"] += " " * 4096
    with pytest.raises(EncodingError, match="at most"):
        verified(headers)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "v1",
        "/",
        "//",
        "/v1//jobs",
        "/v1/jobs?",
        "/v1/jo bs",
        "/v1/%6a",
        "/v1/a#b",
        "/" + "a" * 1024,
    ],
)
def test_target_that_a_library_might_rewrite_is_neither_signed_nor_verified(target: str) -> None:
    with pytest.raises(DocumentError):
        signed(target=target)
    with pytest.raises(BlindhostError):
        verified(dict(signed().headers), target=target)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(EncodingError):
        verified(dict(signed().headers), method="DELETE")


def test_request_signature_is_no_signature_over_a_document_of_another_kind() -> None:
    """▸ The label keeps consent to a request apart from consent to anything else."""
    request = signed()
    signature = base64.b64decode(request.headers["Signature"][5:-1])
    close = Close(job=bytes(32), at=NOW)
    with pytest.raises(SignatureError):
        verify(KEY.identity, signature, close.encode())
    request_bytes = HttpRequest(
        market=MARKET,
        method=Method.POST,
        target=ASKED["target"],
        content_digest=digest(ASKED["body"]),
        idempotency_key=ID,
        created=NOW,
    ).encode()
    verify(KEY.identity, signature, request_bytes)  # it is this document's, and its label's
    assert request_bytes.startswith(label_bytes("http/request"))
    with pytest.raises(DocumentError, match="label"):
        verify_signed(Close, signature + KEY.identity + request_bytes, signer=None)


def test_document_signature_does_not_sign_a_request() -> None:
    headers = dict(signed().headers)
    other = KEY.sign(Close(job=digest(b""), at=NOW))
    headers["Signature"] = f"sig=:{base64.b64encode(other.signature).decode()}:"
    with pytest.raises(SignatureError):
        verified(headers)


# --- answers -------------------------------------------------------------------------------------

ANSWERED = {"request": bytes([5]) * 32, "status": 200, "body": b'{"ok":true}'}


def answer_headers(**changes: object) -> dict[str, str]:
    return sign_response(KEY, **({"now": NOW} | ANSWERED | changes))


def test_signed_answer_verifies_for_its_request_alone() -> None:
    headers = answer_headers()
    verify_response(market=KEY.identity, headers=headers, **ANSWERED)
    for change in ({"request": bytes(32)}, {"status": 402}, {"body": b""}):
        with pytest.raises(SignatureError):
            verify_response(market=KEY.identity, headers=headers, **(ANSWERED | change))


def test_answer_by_another_than_the_market_is_refused() -> None:
    headers = sign_response(STRANGER, now=NOW, **ANSWERED)
    with pytest.raises(SignatureError, match="wanted"):
        verify_response(market=KEY.identity, headers=headers, **ANSWERED)


def test_unsigned_answer_is_refused() -> None:
    with pytest.raises(EncodingError, match="missing"):
        verify_response(market=KEY.identity, headers={}, **ANSWERED)


def test_request_headers_are_no_answer() -> None:
    with pytest.raises(EncodingError):
        verify_response(market=KEY.identity, headers=dict(signed().headers), **ANSWERED)


@given(st.sampled_from(sorted(signed().headers)), st.integers(0, 400), st.integers(0, 127))
def test_any_other_character_in_any_header_is_refused(name: str, at: int, code: int) -> None:
    headers = dict(signed().headers)
    value = headers[name]
    at %= len(value)
    if value[at] == chr(code):
        return
    headers[name] = value[:at] + chr(code) + value[at + 1 :]
    with pytest.raises((EncodingError, SignatureError)):
        verified(headers)
