"""Signed HTTP requests and answers, after RFC 9421 (message signatures) and RFC 9530 (digests).

What is signed is a *document*, not RFC 9421's text base. A party key signs documents and nothing
else (trust/identity.py), so that no signature can ever be read as another kind of consent; to let
it sign free text for one protocol would give that away for the sake of third-party verifiers, of
which there are none here: both ends are ours. So the covered components of RFC 9421 are the fields
of `HttpRequest` and `HttpResponse`, whose labels are in no other use, and the headers are those of
RFC 9421 in the one form that is allowed:

    Content-Digest: sha-256=:<base64>:
    Idempotency-Key: "<32 hex characters>"
    Signature-Input: sig=("@method" "@path" "@query" "content-digest" "idempotency-key");
                     created=<Unix seconds>;keyid="<hex>";alg="ed25519";tag="<label>"
    Signature: sig=:<base64>:

Rules:
- A request is for one market: its identity is covered, and not sent. Host and scheme are not
  covered: the identity says more than a name does, and a relay may stand in between.
- The body's SHA-256 is covered, an empty body's too. Whoever verifies a head has verified no body
  yet: only `VerifiedHead.accept` makes a `VerifiedRequest`.
- A request is at most `AGE_SECONDS_MAX` old. Inside that time a replay is answered by its
  idempotency key: it does nothing twice. What changes nothing may go without a key.
- An answer covers the digest of the request document, so it can answer no other request.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import hmac
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from trust.encoding import (
    LABEL_PREFIX,
    Bytes16,
    Bytes32,
    Digest,
    Document,
    Pattern,
    Range,
    Uint53,
    digest,
)
from trust.errors import EncodingError, SignatureError
from trust.identity import SIGNATURE_BYTES, PartyKey, verify

AGE_SECONDS_MAX: Final = 300  # a slow link and a laptop's clock; replays do no harm meanwhile
SKEW_SECONDS_MAX: Final = 60  # a clock may be so far ahead of the verifier's
TARGET_CHARACTERS_MAX: Final = 1024  # the longest path of ours has about 200
HEADER_CHARACTERS_MAX: Final = 512  # the longest of the four has about 260

CONTENT_DIGEST: Final = "Content-Digest"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
SIGNATURE_INPUT: Final = "Signature-Input"
SIGNATURE: Final = "Signature"

# Only characters that no HTTP library rewrites: what was signed is what arrives.
_TARGET = rf"(?=.{{1,{TARGET_CHARACTERS_MAX}}}$)(/[A-Za-z0-9._-]+)+(\?[A-Za-z0-9._=&-]+)?"
_BASE64_32 = r"[A-Za-z0-9+/]{43}="
_BASE64_64 = r"[A-Za-z0-9+/]{86}=="
_CONTENT_DIGEST = re.compile(rf"sha-256=:({_BASE64_32}):")
_IDEMPOTENCY_KEY = re.compile(r'"([0-9a-f]{32})"')
_SIGNATURE = re.compile(rf"sig=:({_BASE64_64}):")
_CREATED = r";created=(0|[1-9][0-9]{0,15})"
_PARAMETERS = _CREATED + r';keyid="([0-9a-f]{64})";alg="ed25519";tag="([a-z0-9/-]+)"'
_REQUEST_COVERED = '("@method" "@path" "@query" "content-digest" "idempotency-key")'
_RESPONSE_COVERED = (
    '("@status" "content-digest"'
    ' "@method";req "@path";req "@query";req "content-digest";req "idempotency-key";req)'
)
_REQUEST_INPUT = re.compile(re.escape(f"sig={_REQUEST_COVERED}") + _PARAMETERS)
_RESPONSE_INPUT = re.compile(re.escape(f"sig={_RESPONSE_COVERED}") + _PARAMETERS)


class Method(enum.StrEnum):
    """The methods in use."""

    GET = "GET"
    PUT = "PUT"
    POST = "POST"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest(Document):
    """What a party signs to ask something of one market."""

    LABEL: ClassVar[str] = "http/request"

    market: Bytes32
    method: Method
    target: Annotated[str, Pattern(expression=_TARGET)]
    """Path and query, as they stand in the request line."""
    content_digest: Digest
    """SHA-256 of the body."""
    idempotency_key: Bytes16 | None
    """None: the request changes nothing, or only stores bytes under their own digest."""
    created: Uint53
    """Unix seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HttpResponse(Document):
    """What a market signs when it answers one request."""

    LABEL: ClassVar[str] = "http/response"

    request: Digest
    """Digest of the `HttpRequest` that it answers."""
    status: Annotated[int, Range(least=100, most=599)]
    content_digest: Digest
    created: Uint53
    """Unix seconds by the market's clock."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignedRequest:
    """Headers to send, and the digest that a good answer covers."""

    headers: Mapping[str, str]
    digest: bytes
    """Digest of the request document: 32 bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedRequest:
    """A request whose signature holds, over this body too."""

    identity: bytes
    """Who asks: 32 bytes."""
    digest: bytes
    """Digest of the request document: 32 bytes; it changes with `created`."""
    idempotency_key: bytes | None
    """16 bytes; None where nothing can be done twice."""
    body: bytes

    @property
    def content_digest(self) -> bytes:
        """SHA-256 of the body."""
        return digest(self.body)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedHead:
    """A request whose signature holds. Its body has not been seen."""

    identity: bytes
    request: HttpRequest

    def accept(self, body: bytes) -> VerifiedRequest:
        """Take the body. Raises SignatureError unless it is the one that was signed."""
        if not hmac.compare_digest(digest(body), self.request.content_digest):
            raise SignatureError(f"body of {len(body)} bytes is not the one that was signed")
        return VerifiedRequest(
            identity=self.identity,
            digest=self.request.digest,
            idempotency_key=self.request.idempotency_key,
            body=body,
        )


# --- requests ------------------------------------------------------------------------------------


def sign_request(
    key: PartyKey,
    *,
    market: bytes,
    method: str,
    target: str,
    body: bytes,
    idempotency_key: bytes | None,
    now: int,
) -> SignedRequest:
    """Sign a request to `market` (identity, 32 bytes). `now` is in Unix seconds.

    Raises DocumentError for a method, target or key that is not of the allowed form.
    """
    request = HttpRequest(
        market=market,
        method=Method(method),
        target=target,
        content_digest=digest(body),
        idempotency_key=idempotency_key,
        created=now,
    )
    headers = _headers(key, request, covered=_REQUEST_COVERED, created=now)
    headers[CONTENT_DIGEST] = _content_digest_header(request.content_digest)
    if idempotency_key is not None:
        headers[IDEMPOTENCY_KEY] = f'"{idempotency_key.hex()}"'
    return SignedRequest(headers=headers, digest=request.digest)


def verify_head(
    *, market: bytes, method: str, target: str, headers: Mapping[str, str], now: int
) -> VerifiedHead:
    """Verify a request before its body is read.

    (1) Each header has its one form. (2) It is neither older than `AGE_SECONDS_MAX` nor from the
    future. (3) The signature holds over exactly this method, target, digest of a body, idempotency
    key and time, for this market. Left to the caller: the body (`VerifiedHead.accept`), replays
    (by identity and idempotency key), and whether this identity may ask it.

    `headers` is looked up by the names above, case-insensitively if the mapping is. `now` is in
    Unix seconds. Raises EncodingError for (1), SignatureError for (2) and (3).
    """
    created, identity = _parse_input(headers, _REQUEST_INPUT, HttpRequest.LABEL)  # (1)
    signature = _decoded(_matched(headers, SIGNATURE, _SIGNATURE))
    content_digest = _decoded(_matched(headers, CONTENT_DIGEST, _CONTENT_DIGEST))
    key = None
    if IDEMPOTENCY_KEY in headers:
        key = bytes.fromhex(_matched(headers, IDEMPOTENCY_KEY, _IDEMPOTENCY_KEY))
    if method not in {each.value for each in Method}:
        raise EncodingError(f"method {method[:16]!r} is none of ours")
    _check_age(created, now)  # (2)
    request = HttpRequest(
        market=market,
        method=Method(method),
        target=target,
        content_digest=content_digest,
        idempotency_key=key,
        created=created,
    )
    _verify(identity, signature, request, what=f"request to market {market.hex()}")  # (3)
    return VerifiedHead(identity=identity, request=request)


def verify_request(
    *, market: bytes, method: str, target: str, headers: Mapping[str, str], body: bytes, now: int
) -> VerifiedRequest:
    """`verify_head` and `accept` in one, for a body that is already here."""
    head = verify_head(market=market, method=method, target=target, headers=headers, now=now)
    return head.accept(body)


# --- answers -------------------------------------------------------------------------------------


def sign_response(
    key: PartyKey, *, request: bytes, status: int, body: bytes, now: int
) -> dict[str, str]:
    """Headers of an answer to the request document with digest `request`."""
    response = HttpResponse(
        request=request, status=status, content_digest=digest(body), created=now
    )
    headers = _headers(key, response, covered=_RESPONSE_COVERED, created=now)
    headers[CONTENT_DIGEST] = _content_digest_header(response.content_digest)
    return headers


def verify_response(
    *, market: bytes, request: bytes, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Verify that `market` answered exactly the request with digest `request` by this body.

    (1) Each header has its one form. (2) The signer is the market wanted. (3) The signature holds
    over request, status and body. Its time is not checked: it answers a request of just now.

    Raises EncodingError for (1), SignatureError for (2) and (3).
    """
    created, identity = _parse_input(headers, _RESPONSE_INPUT, HttpResponse.LABEL)  # (1)
    signature = _decoded(_matched(headers, SIGNATURE, _SIGNATURE))
    if identity != market:  # (2)
        raise SignatureError(f"answer is signed by {identity.hex()}, wanted {market.hex()}")
    response = HttpResponse(
        request=request, status=status, content_digest=digest(body), created=created
    )
    _verify(identity, signature, response, what=f"answer {status}")  # (3)


# --- parts ---------------------------------------------------------------------------------------


def _headers(key: PartyKey, document: Document, *, covered: str, created: int) -> dict[str, str]:
    signature = base64.b64encode(key.sign(document).signature).decode("ascii")
    return {
        SIGNATURE_INPUT: (
            f'sig={covered};created={created};keyid="{key.identity.hex()}"'
            f';alg="ed25519";tag="{LABEL_PREFIX}{document.LABEL}"'
        ),
        SIGNATURE: f"sig=:{signature}:",
    }


def _content_digest_header(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"


def _parse_input(
    headers: Mapping[str, str], form: re.Pattern[str], label: str
) -> tuple[int, bytes]:
    match = form.fullmatch(_header(headers, SIGNATURE_INPUT))
    if match is None:
        raise EncodingError(f"{SIGNATURE_INPUT} is not of the one allowed form")
    if match[3] != LABEL_PREFIX + label:
        raise EncodingError(f"{SIGNATURE_INPUT}: tag {match[3][:64]!r}, wanted that of {label}")
    return int(match[1]), bytes.fromhex(match[2])


def _matched(headers: Mapping[str, str], name: str, form: re.Pattern[str]) -> str:
    match = form.fullmatch(_header(headers, name))
    if match is None:
        raise EncodingError(f"{name} is not of the one allowed form")
    return match[1]


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if value is None:
        raise EncodingError(f"header {name} is missing")
    if len(value) > HEADER_CHARACTERS_MAX:
        raise EncodingError(f"{name}: {len(value)} characters; at most {HEADER_CHARACTERS_MAX}")
    return value


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise EncodingError("a header's value is not base64") from error
    if base64.b64encode(data).decode("ascii") != text:  # stray bits: one value, one form
        raise EncodingError("a header's value is not canonical base64")
    return data


def _check_age(created: int, now: int) -> None:
    if created < now - AGE_SECONDS_MAX:
        raise SignatureError(f"signed {now - created} s ago; at most {AGE_SECONDS_MAX}")
    if created > now + SKEW_SECONDS_MAX:
        raise SignatureError(f"signed {created - now} s in the future; at most {SKEW_SECONDS_MAX}")


def _verify(identity: bytes, signature: bytes, document: Document, *, what: str) -> None:
    assert len(signature) == SIGNATURE_BYTES
    try:
        verify(identity, signature, document.encode())
    except SignatureError as error:
        raise SignatureError(f"{what}: no good signature by {identity.hex()}") from error
