"""Sealed requests and replies: what opens, what doesn't, and what is seen of either."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.makers import generate
from tests.vectors import build
from trust.encoding import Struct, derive, digest
from trust.errors import (
    DocumentError,
    HpkeError,
    PaddingError,
    SealingError,
    SignatureError,
    SizeLimitError,
    TruncatedError,
)
from trust.identity import PartyKey
from trust.jobs import CLIENT_KEYS_MAX, ClientKey, GenerateRecipe
from trust.messages import (
    RequestKey,
    ServeCancel,
    ServeFrame,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
)
from trust.release_follow import SERVED_TOKENS
from trust.sealing import HPKE_ADDED_BYTES, HpkePrivateKey, hpke_seal
from trust.serving import (
    FINISH_BYTES_MAX,
    REQUEST_PADDING,
    SALT_BYTES,
    SEALED_BYTES_MAX,
    TICKS_MIN,
    ChatMessage,
    Finish,
    FinishReason,
    GenerateRequest,
    Opened,
    RecordKind,
    ReplayWindow,
    ReplyOpener,
    ReplySealer,
    RequestHeader,
    Role,
    chunk_bytes,
    open_request,
    record,
    request_info,
    request_plaintext,
    seal_request,
    ticks_shown,
)

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "serving.md"
FRAME = 64
SALT = bytes(range(SALT_BYTES))
TEXT, FINISH = RecordKind.TEXT, RecordKind.FINISH


@functools.cache
def hpke() -> HpkePrivateKey:
    return HpkePrivateKey.generate()


@functools.cache
def client() -> PartyKey:
    return PartyKey.generate()


def key_document(number: int = 1) -> RequestKey:
    return RequestKey(job=bytes(32), generation=1, rank=0, number=number, hpke_key=hpke().public)


KEY = key_document().digest


def body(**changes: Any) -> GenerateRequest:
    fields: dict[str, Any] = {
        "adapter": None,
        "messages": (ChatMessage(role=Role.USER, content="a ticket about a lost card"),),
        "prompt": None,
        "tokens_max": 16,
        "temperature": "0.7",
        "top_p": "1",
        "seed": 7,
        "stop": (),
    }
    return GenerateRequest(**(fields | changes))


def header(of: GenerateRequest, **changes: Any) -> RequestHeader:
    fields: dict[str, Any] = {
        "statement": bytes(32),
        "session": bytes(16),
        "sequence": 0,
        "request": digest(of.encode()),
        "response_secret": bytes(range(32)),
    }
    return RequestHeader(**(fields | changes))


def finish(**changes: Any) -> Finish:
    fields: dict[str, Any] = {
        "reason": FinishReason.STOP,
        "code": "",
        "text": "",
        "prompt_tokens": 12,
        "completion_tokens": 3,
    }
    return Finish(**(fields | changes))


def sealed(of: GenerateRequest | None = None, **changes: Any) -> bytes:
    of = of or body()
    return seal_request(of, header(of, **changes), client(), hpke_key=hpke().public, key=KEY)


def resealed(plain: bytes) -> bytes:
    """What a client of a broken mind might seal."""
    return hpke_seal(plain, hpke().public, info=request_info(KEY))


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": "and a prompt"}, "exactly one of messages and prompt"),
        ({"messages": None}, "exactly one of messages and prompt"),
        ({"messages": ()}, "length 0"),
        ({"temperature": "10.1"}, "at most 10"),
        ({"temperature": "-1"}, "not of the form"),
        ({"temperature": "1e1"}, "not of the form"),
        ({"top_p": "0"}, "wanted above 0"),
        ({"top_p": "0.000"}, "wanted above 0"),
        ({"top_p": "1.01"}, "at most 1"),
        ({"tokens_max": 0}, "wanted 1 to"),
        ({"stop": ("",)}, "length 0"),
        ({"stop": ("a",) * 17}, "length 17"),
        ({"adapter": bytes(31)}, "length 31"),
        ({"seed": -1}, "wanted 0 to"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DocumentError, match=text):
        body(**changes)


def test_prompts_secrets_and_replies_are_in_no_repr() -> None:
    asked = body()
    shown = repr((asked, header(asked), open_request(sealed(), hpke(), key=KEY)))
    shown += repr(body(messages=None, prompt="a ticket about a lost card"))
    shown += repr(Opened(text="a ticket about a lost card", finish=None))
    shown += repr(asked.messages)
    assert "lost card" not in shown
    assert repr(bytes(range(32))) not in shown


# --- requests ------------------------------------------------------------------------------------


def test_a_request_opens_as_it_was_sealed_and_says_who_signed_it() -> None:
    of = body(adapter=bytes([3]) * 32, stop=("\n\n", "ß"))
    opened = open_request(sealed(of, sequence=9), hpke(), key=KEY)
    assert opened.body == of
    assert opened.header == header(of, sequence=9)
    assert opened.client == client().identity


def test_a_strangers_request_opens_under_the_strangers_name() -> None:
    """Who may ask is for the job manifest to say, so the caller is told who signed."""
    stranger, of = PartyKey.generate(), body()
    data = seal_request(of, header(of), stranger, hpke_key=hpke().public, key=KEY)
    assert open_request(data, hpke(), key=KEY).client == stranger.identity


def test_a_request_under_another_request_key_does_not_open() -> None:
    with pytest.raises(HpkeError):
        open_request(sealed(), hpke(), key=key_document(2).digest)
    with pytest.raises(HpkeError):
        open_request(sealed(), HpkePrivateKey.generate(), key=KEY)


@settings(max_examples=40, deadline=None)
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_a_request_with_a_flipped_bit_does_not_open(at: int, bit: int) -> None:
    data = bytearray(_a_request())
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(HpkeError):
        open_request(bytes(data), hpke(), key=KEY)


@functools.cache
def _a_request() -> bytes:
    return sealed()


def test_a_cut_request_does_not_open() -> None:
    for length in (0, 1, HPKE_ADDED_BYTES, len(_a_request()) - 1):
        with pytest.raises(HpkeError):
            open_request(_a_request()[:length], hpke(), key=KEY)


def test_a_header_that_names_another_body_is_refused() -> None:
    asked = seal_request(body(), header(body(seed=8)), client(), hpke_key=hpke().public, key=KEY)
    with pytest.raises(SealingError, match="names another body"):
        open_request(asked, hpke(), key=KEY)


def test_a_header_under_a_forged_signature_is_refused() -> None:
    of = body()
    signed = bytearray(client().sign(header(of)).encode())
    signed[64:96] = PartyKey.generate().identity
    content = of.encode()
    plain = b"".join(len(p).to_bytes(4, "big") + p for p in (bytes(signed), content))
    with pytest.raises(SignatureError):
        open_request(resealed(plain + bytes(-len(plain) % 256)), hpke(), key=KEY)


def test_a_header_is_no_other_document_that_the_client_key_signs() -> None:
    of = body()
    parts = (client().sign(key_document()).encode(), of.encode())
    plain = b"".join(len(p).to_bytes(4, "big") + p for p in parts)
    with pytest.raises(DocumentError, match="label"):
        open_request(resealed(plain + bytes(-len(plain) % 256)), hpke(), key=KEY)


def test_padding_is_zeros_up_to_the_next_multiple_and_no_further() -> None:
    of = body()
    plain = request_plaintext(of, header(of), client())
    content = len(plain.rstrip(b"\x00"))
    assert content < len(plain)
    for broken in (
        plain[:-1] + b"\x01",
        plain[:content] + b"\x01" + plain[content + 1 :],
        plain + bytes(REQUEST_PADDING),
        plain[:-1],
        plain + b"\x00",
    ):
        with pytest.raises(PaddingError):
            open_request(resealed(broken), hpke(), key=KEY)


@pytest.mark.parametrize(
    "plain",
    [b"", bytes(3), b"\x00\x00\x00\x01", b"\xff" * 256, bytes(4), bytes(4) + b"\x00\x00\x01\x00"],
)
def test_parts_that_are_cut_off_are_refused(plain: bytes) -> None:
    with pytest.raises(TruncatedError):
        open_request(resealed(plain), hpke(), key=KEY)


def test_requests_show_their_size_in_steps_of_256_alone() -> None:
    sizes = {
        len(request_plaintext(of, header(of), client()))
        for of in (body(messages=None, prompt="x" * n) for n in range(0, 700, 13))
    }
    assert {size % REQUEST_PADDING for size in sizes} == {0}
    assert max(sizes) - min(sizes) == 3 * REQUEST_PADDING
    assert len(sizes) == 4


def test_a_request_that_no_message_holds_is_refused_before_it_is_sealed() -> None:
    long = ChatMessage(role=Role.USER, content="x" * (1 << 18))
    with pytest.raises(SizeLimitError):
        sealed(body(messages=(long, long)))
    with pytest.raises(SizeLimitError):
        open_request(bytes(SEALED_BYTES_MAX + 1), hpke(), key=KEY)
    fits = ServeRequest(request_key=KEY, sealed=bytes(SEALED_BYTES_MAX))
    assert len(fits.encode()) < 1 << 20
    with pytest.raises(DocumentError):
        dataclasses.replace(fits, sealed=bytes(SEALED_BYTES_MAX + 1))


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)


@settings(max_examples=30, deadline=None)
@given(
    messages=st.lists(
        st.builds(ChatMessage, role=st.sampled_from(Role), content=texts), min_size=1, max_size=4
    ),
    stop=st.lists(texts.filter(lambda t: 0 < len(t.encode()) <= 256), max_size=3),
    seed=st.none() | st.integers(min_value=0, max_value=(1 << 53) - 1),
    sequence=st.integers(min_value=0, max_value=(1 << 53) - 1),
)
def test_every_request_round_trips(
    messages: list[ChatMessage], stop: list[str], seed: int | None, sequence: int
) -> None:
    of = body(messages=tuple(messages), stop=tuple(stop), seed=seed)
    opened = open_request(sealed(of, sequence=sequence), hpke(), key=KEY)
    assert (opened.body, opened.header.sequence) == (of, sequence)


# --- the replay window ---------------------------------------------------------------------------


def test_a_number_is_taken_once() -> None:
    window = ReplayWindow()
    assert [window.take(n) for n in (0, 0, 5, 3, 5, 3, 4, 0)] == [
        True, False, True, True, False, False, True, False,
    ]  # fmt: skip


def test_a_number_behind_the_window_is_refused_although_it_never_came() -> None:
    window = ReplayWindow()
    assert window.take(5000)
    assert not window.take(5000 - ReplayWindow.WIDTH)
    assert window.take(5000 - ReplayWindow.WIDTH + 1)
    assert not window.take(5000 - ReplayWindow.WIDTH + 1)
    assert window.take(1 << 53)
    assert not window.take(5000)


@given(st.lists(st.integers(min_value=0, max_value=3000), max_size=60))
def test_the_window_takes_what_a_set_would_take(numbers: list[int]) -> None:
    window, taken, highest = ReplayWindow(), set(), -1
    for number in numbers:
        highest = max(highest, number)
        new = number not in taken and highest - number < ReplayWindow.WIDTH
        assert window.take(number) is new
        taken.add(number)


# --- replies -------------------------------------------------------------------------------------


def pair(**changes: Any) -> tuple[ReplySealer, ReplyOpener]:
    of = body()
    fields = {"salt": SALT, "frame_bytes": FRAME, **changes}
    return ReplySealer(header(of), **fields), ReplyOpener(header(of))


def said(*texts: str, ending: Finish | None = None, frame_bytes: int = FRAME) -> list[bytes]:
    """A reply: one frame for each text, then its finish in as many as it needs."""
    sealer, _ = pair(frame_bytes=frame_bytes)
    chunks = [sealer.chunk(record(TEXT, t.encode()) if t else b"") for t in texts]
    rest, room = (ending or finish()).encode(), frame_bytes - 3
    while rest:
        part, rest = rest[:room], rest[room:]
        chunks.append(sealer.chunk(record(FINISH, part), final=not rest))
    return chunks


def heard(chunks: list[bytes]) -> tuple[str, Finish | None, ReplyOpener]:
    _, opener = pair()
    opened = [opener.open(number, chunk) for number, chunk in enumerate(chunks)]
    endings = [each.finish for each in opened if each.finish]
    return "".join(each.text for each in opened), endings[0] if endings else None, opener


def test_a_reply_opens_as_it_was_said() -> None:
    text, ending, opener = heard(said("Your ", "", "card 💳", " is blocked."))
    assert text == "Your card 💳 is blocked."
    assert ending == finish()
    assert opener.finished


def test_a_reply_without_its_final_frame_is_not_finished() -> None:
    chunks = said("Your ", "card")
    for kept in range(len(chunks)):
        _, ending, opener = heard(chunks[:kept])
        assert ending is None
        assert not opener.finished


def test_every_chunk_has_one_size_whatever_it_brings() -> None:
    sealer, _ = pair()
    records = [b"", record(TEXT, b"x"), record(TEXT, b"x" * 61), record(FINISH, b"part")]
    sizes = [len(sealer.chunk(each)) for each in records]
    sizes.append(len(sealer.chunk(record(FINISH, b"last"), final=True)))
    sizes += [len(sealer.chunk(b"")) for _ in range(3)]
    assert sizes[0] == SALT_BYTES + chunk_bytes(FRAME)
    assert set(sizes[1:]) == {chunk_bytes(FRAME)}


def test_cover_after_the_final_frame_is_ignored_whatever_it_is() -> None:
    sealer, opener = pair()
    opener.open(0, sealer.chunk(record(FINISH, finish().encode()[:61])))
    rest = finish().encode()[61:]
    opener.open(1, sealer.chunk(record(FINISH, rest[:61])))
    last = opener.open(2, sealer.chunk(record(FINISH, rest[61:]), final=True))
    assert last.finish == finish()
    for number, chunk in ((3, sealer.chunk(b"")), (9, b"junk"), (0, b"")):
        assert opener.open(number, chunk) == Opened(text="", finish=None)
    assert opener.finished


def test_nothing_is_said_after_the_final_frame() -> None:
    sealer, _ = pair()
    sealer.chunk(record(FINISH, b"x"), final=True)
    with pytest.raises(SealingError, match="made before"):
        sealer.chunk(record(TEXT, b"and more"))
    with pytest.raises(SealingError, match="made before"):
        sealer.chunk(b"", final=True)
    assert sealer.count == 1


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_gap_and_a_repetition_are_refused(number: int) -> None:
    chunks = said("a", "b", "c")
    _, opener = pair()
    opener.open(0, chunks[0])
    with pytest.raises(TruncatedError, match="wanted 1"):
        opener.open(number, chunks[number])


def test_chunks_in_another_order_do_not_open_under_each_others_numbers() -> None:
    chunks = said("a", "b", "c")
    _, opener = pair()
    opener.open(0, chunks[0])
    with pytest.raises(SealingError, match="does not open"):
        opener.open(1, chunks[2])


def test_junk_that_a_carrier_slips_in_spoils_nothing() -> None:
    chunks = said("a", "b")
    _, opener = pair()
    text = ""
    for number, chunk in enumerate(chunks):
        for junk in (b"", b"x", bytes(len(chunk)), chunk[:-1], bytes([chunk[0] ^ 1]) + chunk[1:]):
            with pytest.raises(SealingError, match="does not open"):
                opener.open(number, junk)
        assert opener.count == number
        text += opener.open(number, chunk).text
    assert text == "ab"
    assert opener.finished


def test_every_flipped_byte_of_a_chunk_is_noticed() -> None:
    chunk = said("a")[0]
    for at in range(len(chunk)):
        _, opener = pair()
        broken = chunk[:at] + bytes([chunk[at] ^ 0x80]) + chunk[at + 1 :]
        with pytest.raises(SealingError, match="does not open"):
            opener.open(0, broken)


@pytest.mark.parametrize(
    "changes",
    [{"response_secret": bytes(32)}, {"request": bytes(32)}],
)
def test_a_reply_is_bound_to_its_secret_and_its_request(changes: dict[str, Any]) -> None:
    opener = ReplyOpener(dataclasses.replace(header(body()), **changes))
    with pytest.raises(SealingError, match="does not open"):
        opener.open(0, said("a")[0])


def test_a_chunk_is_what_the_specification_writes() -> None:
    asked = header(body())
    key, nonce = (
        derive((asked.response_secret,), f"response/{name}", asked.request, SALT)
        for name in ("key", "nonce")
    )
    for number, chunk in enumerate(said("a", "b")[:2]):
        sealed = chunk.removeprefix(SALT)
        counted = int.from_bytes(nonce[:12], "big") ^ number
        frame = AESGCM(key).decrypt(counted.to_bytes(12, "big"), sealed, b"")
        assert frame == record(TEXT, b"ab"[number : number + 1]) + bytes(FRAME - 4)


def test_two_replies_to_one_request_share_no_byte_of_their_keys() -> None:
    first, _ = pair()
    second, _ = pair(salt=bytes(32))
    same = record(TEXT, b"x")
    one, two = first.chunk(same)[SALT_BYTES:], second.chunk(same)[SALT_BYTES:]
    assert one != two
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 8


def test_a_frame_that_continues_is_not_a_final_one() -> None:
    """The host cannot make an end: what ends a reply is inside the AEAD."""
    sealer, opener = pair(frame_bytes=256)
    opened = opener.open(0, sealer.chunk(record(FINISH, finish().encode())))
    assert opened.finish is None
    assert not opener.finished


@pytest.mark.parametrize(
    ("records", "final", "error"),
    [
        (b"\x03\x00\x01x", False, "kind 3"),
        (b"\xff\x00\x00", False, "kind 255"),
        (b"\x00\x01\x00\x01x", False, "padding"),
        (record(TEXT, b"x")[:-1] + b"\x00" + b"\x00\x07", False, "padding"),
        (record(TEXT, "é".encode()[:1]), False, "no UTF-8"),
        (record(TEXT, b"\xed\xa0\x80"), False, "no UTF-8"),
        (b"\x01\x00\x3e" + bytes(61), False, "cut off"),
        (bytes(record(TEXT, b"x" * 60)) + b"\x01", False, "cut off"),
        (record(TEXT, b"x" * 59) + b"\x01\x00", False, "cut off"),
        (record(FINISH, b"{") + record(TEXT, b"x"), False, "kind 1 out of place"),
        (b"", True, "ends no finish"),
        (record(TEXT, b"x"), True, "ends no finish"),
        (record(FINISH, b"{}"), True, "ends no finish"),
    ],
)
def test_a_frame_that_says_what_no_frame_says_is_refused(
    records: bytes,
    final: bool,
    error: str,
) -> None:
    sealer, opener = pair()
    with pytest.raises(SealingError, match=error):
        opener.open(0, sealer.chunk(records, final=final))
    assert not opener.finished


def test_text_after_a_part_of_the_finish_is_refused_in_the_next_frame_too() -> None:
    sealer, opener = pair()
    opener.open(0, sealer.chunk(record(FINISH, b"blind")))
    with pytest.raises(SealingError, match="out of place"):
        opener.open(1, sealer.chunk(record(TEXT, b"x")))


def test_a_finish_without_end_is_refused() -> None:
    sealer, opener = pair(frame_bytes=1 << 14)
    parts = FINISH_BYTES_MAX // ((1 << 14) - 3)
    for number in range(parts):
        opener.open(number, sealer.chunk(record(FINISH, b"x" * ((1 << 14) - 3))))
    with pytest.raises(SealingError, match="finish of over"):
        opener.open(parts, sealer.chunk(record(FINISH, b"x" * ((1 << 14) - 3))))


def test_records_that_do_not_fit_are_not_cut() -> None:
    sealer, _ = pair()
    with pytest.raises(SealingError, match="a frame has 64"):
        sealer.chunk(record(TEXT, b"x" * 62))
    assert sealer.count == 0
    with pytest.raises(SealingError, match="at most 65535"):
        record(TEXT, bytes(1 << 16))
    with pytest.raises(SealingError, match="a salt of 31"):
        pair(salt=bytes(31))


def test_the_longest_finish_there_is_goes_through_the_smallest_frames() -> None:
    longest = finish(
        reason=FinishReason.ERROR,
        code="x" * 64,
        text="\x01" * 4096,
        prompt_tokens=(1 << 32) - 1,
        completion_tokens=(1 << 32) - 1,
    )
    assert len(longest.encode()) <= FINISH_BYTES_MAX
    text, ending, _ = heard(said("a", ending=longest))
    assert (text, ending) == ("a", longest)


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": FinishReason.ERROR},
        {"code": "busy"},
        {"text": "for people"},
        {"reason": FinishReason.LENGTH, "code": "too-long"},
    ],
)
def test_a_finish_has_a_code_exactly_if_it_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="finish"):
        finish(**changes)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(texts, max_size=6),
    frame_bytes=st.integers(min_value=64, max_value=300),
    cover=st.integers(min_value=0, max_value=4),
)
def test_every_reply_round_trips_cut_between_characters(
    texts: list[str], frame_bytes: int, cover: int
) -> None:
    pieces: list[str] = []
    for text in texts:
        for character in text:
            if pieces and len((pieces[-1] + character).encode()) <= frame_bytes - 3:
                pieces[-1] += character
            else:
                pieces.append(character)
    chunks = said(*pieces, frame_bytes=frame_bytes)
    chunks += [bytes(chunk_bytes(frame_bytes))] * cover
    text, ending, opener = heard(chunks)
    assert text == "".join(texts)
    assert ending == finish()
    assert opener.finished
    assert {len(each) for each in chunks[1:]} <= {chunk_bytes(frame_bytes)}


# --- the specification ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        GenerateRequest,
        RequestHeader,
        Finish,
        RequestKey,
        GenerateRecipe,
        ClientKey,
        ServeOffer,
        ServeRequest,
        ServeFrame,
        ServeRefused,
        ServeCancel,
    ],
)
def test_every_field_stands_in_the_specification(document: type[Struct]) -> None:
    text = SPEC.read_text(encoding="utf-8")
    for field in dataclasses.fields(document):
        assert re.search(rf"[|.,{{; ]{field.name}\b", text), field.name


def test_numbers_of_the_specification_are_those_of_the_code() -> None:
    text = SPEC.read_text(encoding="utf-8")
    for number in (
        SEALED_BYTES_MAX,
        FINISH_BYTES_MAX,
        HPKE_ADDED_BYTES,
        ReplayWindow.WIDTH,
        SERVED_TOKENS,
        1 << 18,
    ):
        assert f"{number:,}" in text, number
    for number in (REQUEST_PADDING, TICKS_MIN, CLIENT_KEYS_MAX, SALT_BYTES):
        assert re.search(rf"\b{number}\b", text), number


def test_worked_bytes() -> None:
    text = SPEC.read_text(encoding="utf-8")
    for name, value in (("body", digest(build.BODY.encode())), ("header", build.HEADER.digest)):
        assert re.search(rf"^{name} +{value.hex()}$", text, re.MULTILINE), name


# --- what is seen --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ticks", "shown"),
    [(1, 16), (15, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024), (1025, 2048)],
)
def test_ticks_show_as_the_next_power_of_two_and_at_least_16(ticks: int, shown: int) -> None:
    assert ticks_shown(ticks) == shown


@given(st.integers(min_value=1, max_value=1 << 24))
def test_what_is_shown_covers_the_reply_less_than_twice_over(ticks: int) -> None:
    shown = ticks_shown(ticks)
    assert shown.bit_count() == 1
    assert shown >= max(ticks, TICKS_MIN)
    assert shown == TICKS_MIN or shown < 2 * ticks
    assert ticks_shown(shown) == shown


def test_the_largest_frame_of_a_manifest_fits_its_message() -> None:
    recipe = dataclasses.replace(generate(), frame_bytes=1 << 14)
    sealer, _ = pair(frame_bytes=recipe.frame_bytes)
    frame = ServeFrame(exchange=bytes(32), number=0, chunk=sealer.chunk(b""))
    message = ServeFrames(frames=(frame,))
    assert ServeFrames.parse(message.encode()) == message
    with pytest.raises(DocumentError):
        dataclasses.replace(generate(), frame_bytes=(1 << 14) + 1)


def test_equal_lengths_make_equal_traffic_whatever_is_said() -> None:
    shown = []
    for words in (("yes", "", ""), ("no, and here is why", "é" * 20, "!")):
        ending = finish(completion_tokens=len(words[0]) % 10)
        shown.append([len(each) for each in said(*words, ending=ending)])
    assert shown[0] == shown[1]
