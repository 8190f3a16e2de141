"""Sealed requests and replies between a client and a serving enclave (docs/spec/serving.md).

- A request is sealed by HPKE to a *request key*, which the enclave renews hourly under its attested
  key and then erases: what is recorded today stays closed when a chip is broken tomorrow.
- HPKE's base mode authenticates nobody, so a signed header stands inside: a client key that the job
  manifest names signs the statement that it verified, its session, a sequence number, the body's
  digest and the response secret. For anything else the enclave computes nothing.
- A reply is a sequence of frames under keys from the response secret (chunked OHTTP's key schedule,
  draft-ietf-ohai-chunked-ohttp §6, with the secret inside the request in place of an HPKE export).
  Frames are of one size. The last one that counts has ``final`` as associated data; what follows it
  is cover. A reply without its final frame is an error, never a clean end.
- What host and network see: padded requests, and equal frames at equal times until a power of two
  of them is full (`ticks_shown`).

Plaintext of a request: ``u32be length ‖ signed header ‖ u32be length ‖ body ‖ zeros``.
Plaintext of a frame: records ``kind u8 ‖ u16be length ‖ content``, then zeros.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, ClassVar, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trust.encoding import (
    Bytes16,
    Count,
    Decimal,
    Digest,
    Document,
    Size,
    Struct,
    Text,
    Uint32,
    Uint53,
    derive,
    digest,
    label_bytes,
)
from trust.errors import (
    DocumentError,
    EncodingError,
    PaddingError,
    SealingError,
    SizeLimitError,
    TruncatedError,
)
from trust.identity import PartyKey, Signed, verify_signed
from trust.sealing import HPKE_ADDED_BYTES, TAG_BYTES, HpkePrivateKey, hpke_seal

REQUEST_PADDING: Final = 256
SEALED_BYTES_MAX: Final = 1 << 19  # of a request; what `trust.messages.ServeRequest` carries
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12
TICKS_MIN: Final = 16  # with this the number of frames told intents apart no better than chance
RECORD_BYTES: Final = 3
RECORD_CONTENT_BYTES_MAX: Final = (1 << 16) - 1
FINISH_BYTES_MAX: Final = 1 << 15  # 4,096 bytes of text, each escaped at worst, and the rest
MESSAGES_MAX: Final = 1024
STOPS_MAX: Final = 16
_FINAL, _MORE = b"final", b""

LongText = Annotated[str, Size(least=0, most=1 << 18)]


# --- what is asked -------------------------------------------------------------------------------


class Role(enum.StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatMessage(Struct):
    """One turn."""

    role: Role
    content: LongText = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest(Document):
    """A request's body: what to write, and how."""

    LABEL: ClassVar[str] = "generate-request"

    adapter: Digest | None
    """Artifact id of one of the job's adapters; None: the base."""
    messages: Annotated[tuple[ChatMessage, ...], Size(least=1, most=MESSAGES_MAX)] | None = (
        dataclasses.field(repr=False)
    )
    """A chat, put through the model's template; None where `prompt` is given."""
    prompt: LongText | None = dataclasses.field(repr=False)
    """Bare text to continue."""
    tokens_max: Count
    """Of the reply."""
    temperature: Decimal
    """0: the most probable token each time."""
    top_p: Decimal
    seed: Uint53 | None
    """The same request with the same seed gets the same reply; None: one is drawn."""
    stop: Annotated[
        tuple[Annotated[str, Size(least=1, most=256)], ...], Size(least=0, most=STOPS_MAX)
    ]
    """The reply ends before the first of these."""

    def _check(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise DocumentError("request: exactly one of messages and prompt is given")
        if float(self.temperature) > 10:
            raise DocumentError(f"request: temperature {self.temperature}; at most 10")
        if not 0 < float(self.top_p) <= 1:
            raise DocumentError(f"request: top_p {self.top_p}; wanted above 0, at most 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RequestHeader(Document):
    """Who asks, of whom, and under which secret the reply comes. Signed by the client key."""

    LABEL: ClassVar[str] = "request-header"

    statement: Digest
    """The enclave's statement of purpose *serve* that this client verified."""
    session: Bytes16
    sequence: Uint53
    """Each number of a session is taken once."""
    request: Digest
    """SHA-256 of the body."""
    response_secret: Annotated[bytes, Size(least=32, most=32)] = dataclasses.field(repr=False)


# --- what is answered ----------------------------------------------------------------------------


class FinishReason(enum.StrEnum):
    """Why a reply ends."""

    STOP = "stop"
    """The model ended it, or a stop string came."""
    LENGTH = "length"
    ERROR = "error"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finish(Document):
    """The last record of every reply."""

    LABEL: ClassVar[str] = "generate-finish"

    reason: FinishReason
    code: Annotated[str, Size(least=0, most=64)]
    """ERROR: a stable word; else empty."""
    text: Text
    """ERROR: for people; else empty."""
    prompt_tokens: Uint32
    completion_tokens: Uint32

    def _check(self) -> None:
        if (self.reason is FinishReason.ERROR) != bool(self.code):
            raise DocumentError(f"finish: reason {self.reason.value} with code {self.code!r}")
        if self.text and not self.code:
            raise DocumentError(f"finish: reason {self.reason.value} with a text")


class RecordKind(enum.IntEnum):
    """What a record in a frame is. Zero begins the padding."""

    TEXT = 1
    """UTF-8, cut anywhere between characters."""
    FINISH = 2
    """A part of a `Finish`, after all text; the final frame has the last part."""


# --- requests ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpenRequest:
    """A request that its sealing and signature hold for."""

    client: bytes
    header: RequestHeader
    body: GenerateRequest


def seal_request(
    body: GenerateRequest, header: RequestHeader, client: PartyKey, *, hpke_key: bytes, key: bytes
) -> bytes:
    """Seal a request to a request key whose document has the digest `key`.

    Raises HpkeError for a key that is none, SizeLimitError for a request that no message holds.
    """
    plain = request_plaintext(body, header, client)
    if len(plain) + HPKE_ADDED_BYTES > SEALED_BYTES_MAX:
        most = SEALED_BYTES_MAX - HPKE_ADDED_BYTES
        raise SizeLimitError(f"request: {len(plain)} bytes; at most {most}")
    return hpke_seal(plain, hpke_key, info=request_info(key))


def request_plaintext(body: GenerateRequest, header: RequestHeader, client: PartyKey) -> bytes:
    """What is sealed: signed header and body, each after its length, padded with zeros."""
    signed, content = client.sign(header).encode(), body.encode()
    plain = b"".join(
        (len(signed).to_bytes(4, "big"), signed, len(content).to_bytes(4, "big"), content)
    )
    return plain + bytes(-len(plain) % REQUEST_PADDING)


def open_request(sealed: bytes, private: HpkePrivateKey, *, key: bytes) -> OpenRequest:
    """Open a request, or raise.

    (1) It opens under this request key. (2) Its two parts are there, and zeros after them. (3) The
    header's signature holds. (4) The body is the one that it names.

    Left to the caller: that the signer is a client of the job, the statement one made for it, and
    the sequence number new. Raises HpkeError, SealingError, SignatureError or EncodingError.
    """
    if len(sealed) > SEALED_BYTES_MAX:
        raise SizeLimitError(f"request: {len(sealed)} sealed bytes; at most {SEALED_BYTES_MAX}")
    plain = private.open(sealed, info=request_info(key))  # (1)
    signed, rest = _part(plain)  # (2)
    content, padding = _part(rest)
    if any(padding) or len(padding) >= REQUEST_PADDING or len(plain) % REQUEST_PADDING:
        raise PaddingError("request: its padding is not zeros up to the next multiple")
    header: Signed[RequestHeader] = verify_signed(RequestHeader, signed, signer=None)  # (3)
    if header.document.request != digest(content):  # (4)
        raise SealingError("request: the header names another body")
    return OpenRequest(
        client=header.signer, header=header.document, body=GenerateRequest.parse(content)
    )


def request_info(key: bytes) -> bytes:
    """HPKE's ``info``: the request key's document, by digest."""
    return label_bytes("request") + key


def _part(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise TruncatedError("request: a part is cut off")
    return data[4 : 4 + length], data[4 + length :]


class ReplayWindow:
    """Which sequence numbers of one session were taken (RFC 4303 §3.4.3, 1,024 wide).

    Requests may overtake each other on the way; none is taken twice.
    """

    WIDTH: ClassVar[int] = 1024

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def take(self, sequence: int) -> bool:
        """Whether this number is new; it is not any more."""
        if sequence > self._highest:
            shift = sequence - self._highest
            self._seen = (
                (self._seen << shift) & ((1 << self.WIDTH) - 1) if shift < self.WIDTH else 0
            )
            self._highest = sequence
        behind = self._highest - sequence
        if behind >= self.WIDTH or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True


# --- replies -------------------------------------------------------------------------------------


def ticks_shown(ticks: int) -> int:
    """How many ticks a reply of so many seems to take: the next power of two, at least 16.

    `ticks` is at least 1, since a reply has a final frame.
    """
    return max(TICKS_MIN, 1 << (ticks - 1).bit_length())


def chunk_bytes(frame_bytes: int) -> int:
    """Length of every chunk but the first, which has `SALT_BYTES` more."""
    return frame_bytes + TAG_BYTES


class _Keys:
    def __init__(self, header: RequestHeader, salt: bytes) -> None:
        secret, request = (header.response_secret,), header.request
        self._aead = AESGCM(derive(secret, "response/key", request, salt))
        self._base = int.from_bytes(
            derive(secret, "response/nonce", request, salt)[:NONCE_BYTES], "big"
        )

    def nonce(self, number: int) -> bytes:
        return (self._base ^ number).to_bytes(NONCE_BYTES, "big")

    def seal(self, number: int, plain: bytes, ad: bytes) -> bytes:
        return self._aead.encrypt(self.nonce(number), plain, ad)

    def open(self, number: int, chunk: bytes, ad: bytes) -> bytes:
        return self._aead.decrypt(self.nonce(number), chunk, ad)


class ReplySealer:
    """Makes the chunks of one reply, each `frame_bytes` of plaintext. `salt`: 32 random bytes."""

    def __init__(self, header: RequestHeader, *, salt: bytes, frame_bytes: int) -> None:
        if len(salt) != SALT_BYTES:
            raise SealingError(f"reply: a salt of {len(salt)} bytes, wanted {SALT_BYTES}")
        self._keys, self._salt, self._frame_bytes = _Keys(header, salt), salt, frame_bytes
        self.count = 0
        """Chunks made so far: the number of the next."""
        self.finished = False
        """The final chunk is made; what follows is cover."""

    def chunk(self, records: bytes, *, final: bool = False) -> bytes:
        """The next chunk.

        Raises SealingError for records that do not fit a frame, or that come after the final one:
        nobody would ever read them.
        """
        if len(records) > self._frame_bytes:
            raise SealingError(f"{len(records)} bytes of records; a frame has {self._frame_bytes}")
        if self.finished and (records or final):
            raise SealingError("reply: its final chunk was made before")
        plain = records + bytes(self._frame_bytes - len(records))
        sealed = self._keys.seal(self.count, plain, _FINAL if final else _MORE)
        self.count += 1
        self.finished |= final
        return self._salt + sealed if self.count == 1 else sealed


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What one chunk brought."""

    text: str = dataclasses.field(repr=False)
    finish: Finish | None
    """With the final chunk."""


class ReplyOpener:
    """Opens the chunks of one reply, in order; whoever stops before `finished` was cut off.

    A chunk that raises changes nothing: junk that a carrier slips in does not spoil the reply.
    """

    def __init__(self, header: RequestHeader) -> None:
        self._header = header
        self._keys: _Keys | None = None
        self._finish = b""
        self.count = 0
        """Chunks opened so far: the number of the next. Lower ones are repetitions."""
        self.finished = False
        """The final chunk was opened."""

    def open(self, number: int, chunk: bytes) -> Opened:
        """Open chunk `number`.

        (1) What comes after the final chunk is cover, and is not looked at. (2) It is the next.
        (3) It opens: under the first chunk's salt, at its place, as the final one or not.
        (4) Its records are what a frame may hold, and the final one ends a `Finish`.

        Raises TruncatedError for a gap or a repetition, SealingError for all else.
        """
        if self.finished:  # (1)
            return Opened(text="", finish=None)
        if number != self.count:  # (2)
            raise TruncatedError(f"reply: chunk {number}, wanted {self.count}")
        keys, sealed = self._keys, chunk
        if keys is None:
            keys, sealed = _Keys(self._header, chunk[:SALT_BYTES]), chunk[SALT_BYTES:]
        plain, final = _open_chunk(keys, number, sealed)  # (3)
        text, tail = _parse_records(plain, self._finish)  # (4)
        finish = _parse_finish(tail) if final else None
        self._keys, self._finish, self.finished = keys, tail, final
        self.count += 1
        return Opened(text=text, finish=finish)


def _open_chunk(keys: _Keys, number: int, sealed: bytes) -> tuple[bytes, bool]:
    try:
        return keys.open(number, sealed, _MORE), False
    except InvalidTag:
        pass
    try:
        return keys.open(number, sealed, _FINAL), True
    except InvalidTag as error:
        raise SealingError(f"reply: chunk {number} does not open") from error


def record(kind: RecordKind, content: bytes) -> bytes:
    """One record of a frame. Raises SealingError for content that its length field cannot say."""
    if len(content) > RECORD_CONTENT_BYTES_MAX:
        raise SealingError(f"record of {len(content)} bytes; at most {RECORD_CONTENT_BYTES_MAX}")
    return bytes([kind]) + len(content).to_bytes(2, "big") + content


def _parse_records(plain: bytes, finish: bytes) -> tuple[str, bytes]:
    """The text of one frame, and `finish` with the parts of a `Finish` that stand in it."""
    text = ""
    while plain and plain[0]:
        kind, length = plain[0], int.from_bytes(plain[1:RECORD_BYTES], "big")
        content, rest = plain[RECORD_BYTES : RECORD_BYTES + length], plain[RECORD_BYTES + length :]
        if len(plain) < RECORD_BYTES + length:
            raise TruncatedError("reply: a record that is cut off")
        if kind == RecordKind.FINISH:
            finish += content
        elif kind == RecordKind.TEXT and not finish:
            try:
                text += content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise SealingError("reply: a text record that is no UTF-8") from error
        else:
            raise SealingError(f"reply: a record of kind {kind} out of place")
        plain = rest
    if any(plain):
        raise PaddingError("reply: a frame whose padding is not zeros")
    if len(finish) > FINISH_BYTES_MAX:
        raise SealingError(f"reply: a finish of over {FINISH_BYTES_MAX} bytes")
    return text, finish


def _parse_finish(data: bytes) -> Finish:
    try:
        return Finish.parse(data)
    except EncodingError as error:
        raise SealingError("reply: its final chunk ends no finish") from error
