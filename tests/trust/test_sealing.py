"""Our streaming AEAD is Tink's, both ways; HPKE opens under one key and one info."""

from __future__ import annotations

import io
import secrets

import pytest
import tink
from tink import cleartext_keyset_handle, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from trust.errors import HpkeError, SealingError, SegmentError
from trust.sealing import (
    FIRST_PLAIN_BYTES,
    HEADER_BYTES,
    HPKE_KEY_BYTES,
    PLAIN_BYTES,
    SEGMENT_BYTES,
    HpkePrivateKey,
    SegmentCipher,
    hpke_seal,
    plain_span,
    segment_count,
)

KEY = bytes(range(32))
AAD = b"associated data"
BOUNDARIES = [
    0,
    1,
    FIRST_PLAIN_BYTES - 1,
    FIRST_PLAIN_BYTES,
    FIRST_PLAIN_BYTES + 1,
    FIRST_PLAIN_BYTES + PLAIN_BYTES - 1,
    FIRST_PLAIN_BYTES + PLAIN_BYTES,
    FIRST_PLAIN_BYTES + PLAIN_BYTES + 1,
    FIRST_PLAIN_BYTES + 2 * PLAIN_BYTES,
]


def sealed(plaintext: bytes, key: bytes = KEY) -> list[bytes]:
    cipher = SegmentCipher.new(
        key=key, associated_data=AAD, entropy=secrets.token_bytes(39), plain_bytes=len(plaintext)
    )
    spans = [plain_span(i, len(plaintext)) for i in range(cipher.count)]
    return [cipher.seal(i, plaintext[a:b]) for i, (a, b) in enumerate(spans)]


def cipher_for(segments: list[bytes], length: int, aad: bytes = AAD) -> SegmentCipher:
    return SegmentCipher(
        key=KEY, associated_data=aad, header=segments[0][:HEADER_BYTES], plain_bytes=length
    )


@pytest.fixture(scope="module")
def tinks() -> streaming_aead.StreamingAead:
    streaming_aead.register()
    params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_BYTES,
        derived_key_size=32,
        hkdf_hash_type=common_pb2.SHA256,
    )
    key = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, params=params, key_value=KEY)
    data = tink_pb2.KeyData(
        type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
        value=key.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    keyset = tink_pb2.Keyset(
        primary_key_id=1,
        key=[
            tink_pb2.Keyset.Key(
                key_data=data,
                status=tink_pb2.ENABLED,
                key_id=1,
                output_prefix_type=tink_pb2.RAW,
            )
        ],
    )
    handle = cleartext_keyset_handle.read(tink.BinaryKeysetReader(keyset.SerializeToString()))
    return handle.primitive(streaming_aead.StreamingAead)


class Kept(io.BytesIO):
    """Tink closes what it writes to; the bytes are kept."""

    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


@pytest.mark.parametrize("length", BOUNDARIES)
def test_tink_opens_what_we_seal(tinks: streaming_aead.StreamingAead, length: int) -> None:
    plaintext = secrets.token_bytes(length)
    with tinks.new_decrypting_stream(io.BytesIO(b"".join(sealed(plaintext))), AAD) as stream:
        assert stream.read() == plaintext


@pytest.mark.parametrize("length", BOUNDARIES)
def test_we_open_what_tink_seals(tinks: streaming_aead.StreamingAead, length: int) -> None:
    plaintext = secrets.token_bytes(length)
    sink = Kept()
    with tinks.new_encrypting_stream(sink, AAD) as stream:
        stream.write(plaintext)
    file = sink.kept
    segments = [file[i : i + SEGMENT_BYTES] for i in range(0, len(file), SEGMENT_BYTES)]
    cipher = cipher_for(segments, length)
    assert len(segments) == segment_count(length)
    assert b"".join(cipher.open(i, s) for i, s in enumerate(segments)) == plaintext


def test_segments_open_in_any_order() -> None:
    plaintext = secrets.token_bytes(2 * SEGMENT_BYTES)
    segments = sealed(plaintext)
    cipher = cipher_for(segments, len(plaintext))
    for index in (2, 0, 1):
        start, end = plain_span(index, len(plaintext))
        assert cipher.open(index, segments[index]) == plaintext[start:end]


def test_two_seals_of_one_plaintext_share_no_segment() -> None:
    first, second = sealed(b"same"), sealed(b"same")
    assert first[0][1:HEADER_BYTES] != second[0][1:HEADER_BYTES]
    assert first[0][HEADER_BYTES:] != second[0][HEADER_BYTES:]


def test_swapped_repeated_truncated_and_flipped_segments_are_refused() -> None:
    plaintext = secrets.token_bytes(3 * PLAIN_BYTES)
    segments = sealed(plaintext)
    cipher = cipher_for(segments, len(plaintext))
    flipped = bytes([segments[1][0] ^ 1]) + segments[1][1:]
    for index, wrong in (
        (1, segments[2]),  # swapped
        (2, segments[1]),  # repeated
        (1, segments[1][:-1]),  # cut
        (1, segments[1] + b"\x00"),  # lengthened
        (1, flipped),
        (3, segments[1]),  # in the last one's place
        (4, segments[1]),  # beyond the end
        (0, segments[1]),  # in the first one's place
    ):
        with pytest.raises(SegmentError):
            cipher.open(index, wrong)


def test_a_file_that_ends_early_does_not_open_as_a_shorter_one() -> None:
    plaintext = secrets.token_bytes(FIRST_PLAIN_BYTES + PLAIN_BYTES)
    segments = sealed(plaintext)
    shorter = cipher_for(segments, FIRST_PLAIN_BYTES)
    with pytest.raises(SegmentError, match="does not authenticate"):
        shorter.open(0, segments[0])


def test_other_associated_data_is_refused() -> None:
    segments = sealed(b"content")
    with pytest.raises(SegmentError):
        cipher_for(segments, 7, b"another core").open(0, segments[0])


def test_the_sealer_refuses_the_wrong_amount_of_anything() -> None:
    with pytest.raises(SealingError, match="entropy"):
        SegmentCipher.new(key=KEY, associated_data=AAD, entropy=bytes(38), plain_bytes=1)
    cipher = SegmentCipher.new(key=KEY, associated_data=AAD, entropy=bytes(39), plain_bytes=4)
    for index, plain in ((0, b"abc"), (0, b"abcde"), (1, b"")):
        with pytest.raises(SealingError):
            cipher.seal(index, plain)


def test_hpke_opens_under_its_key_and_info_only() -> None:
    ours, other = HpkePrivateKey.generate(), HpkePrivateKey.generate()
    assert len(ours.public) == HPKE_KEY_BYTES
    message = hpke_seal(b"share", ours.public, info=b"info")
    assert len(message) == 5 + 1136
    assert ours.open(message, info=b"info") == b"share"
    assert HpkePrivateKey.from_bytes(ours.to_bytes()).open(message, info=b"info") == b"share"
    for key, sealed_message, info in (
        (other, message, b"info"),
        (ours, message, b"other info"),
        (ours, message[:-1], b"info"),
        (ours, bytes([message[0] ^ 1]) + message[1:], b"info"),
        (ours, b"", b"info"),
        (ours, bytes((1 << 20) + 2000), b"info"),
    ):
        with pytest.raises(HpkeError):
            key.open(sealed_message, info=info)


def test_an_x25519_only_key_is_refused() -> None:
    for public in (bytes(32), bytes(1215), b"\xff" * 1216):
        with pytest.raises(HpkeError):
            hpke_seal(b"share", public, info=b"info")
