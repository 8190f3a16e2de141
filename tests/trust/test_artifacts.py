"""A sealed artifact opens whole, or says which of key, name, segment and padding is wrong."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.makers import core, custodian
from trust.artifacts import (
    DATASET_BYTES_MIN,
    ArtifactKind,
    ArtifactOpener,
    ArtifactSealer,
    Manifest,
    Origin,
    PublicFile,
    commitment,
    padded_length,
)
from trust.encoding import digest
from trust.errors import (
    DocumentError,
    PaddingError,
    SealingError,
    SegmentError,
    TruncatedError,
    WrongArtifactError,
    WrongKeyError,
)
from trust.sealing import FIRST_PLAIN_BYTES, PLAIN_BYTES, SegmentCipher, segment_count

KEY = bytes(range(32))


@dataclasses.dataclass
class Sealed:
    manifest: Manifest
    segment_list: bytes
    segments: list[bytes]


def seal(content: bytes, key: bytes = KEY, kind: ArtifactKind = ArtifactKind.WEIGHTS) -> Sealed:
    sealer = ArtifactSealer(
        core=core(kind), key=key, content_bytes=len(content), entropy=secrets.token_bytes(39)
    )
    segments = list(
        sealer.segments(content[i : i + 100_000] for i in range(0, len(content), 100_000))
    )
    return Sealed(sealer.manifest(), sealer.segment_list(), segments)


def opened(artifact: Sealed, key: bytes = KEY, segments: Sequence[bytes] | None = None) -> bytes:
    segments = artifact.segments if segments is None else segments
    opener = ArtifactOpener(
        manifest=artifact.manifest,
        segment_list=artifact.segment_list,
        key=key,
        first_segment=segments[0],
    )
    content = bytearray(opener.content_bytes)
    for index, segment in enumerate(segments):
        start, part = opener.open(index, segment)
        content[start : start + len(part)] = part
    return bytes(content)


@pytest.mark.parametrize("kind", list(ArtifactKind))
@pytest.mark.parametrize(
    "length",
    [0, 1, FIRST_PLAIN_BYTES - 9, FIRST_PLAIN_BYTES - 8, FIRST_PLAIN_BYTES, 2 * PLAIN_BYTES],
)
def test_content_of_any_length_and_kind_reads_back(kind: ArtifactKind, length: int) -> None:
    content = secrets.token_bytes(length)
    assert opened(seal(content, kind=kind)) == content


def test_two_seals_of_one_plaintext_share_no_byte_of_id_commitment_or_key() -> None:
    first, second = seal(b"the same rows"), seal(b"the same rows")
    assert first.manifest.digest != second.manifest.digest
    assert first.manifest.commitment != second.manifest.commitment
    assert first.manifest.segment_list != second.manifest.segment_list
    assert not set(first.segments) & set(second.segments)


def test_no_field_of_a_manifest_is_a_digest_of_plaintext() -> None:
    content = b"guess me"
    sealed = seal(content)
    plain = len(content).to_bytes(8, "big") + content
    said = {sealed.manifest.segment_list, sealed.manifest.commitment, sealed.manifest.digest}
    assert not said & {digest(content), digest(plain), digest(digest(content))}


def test_a_wrong_key_is_told_apart_from_a_tampered_file() -> None:
    sealed = seal(b"content")
    with pytest.raises(WrongKeyError):
        opened(sealed, key=bytes(32))
    tampered = [
        bytes([sealed.segments[0][50] ^ 1]).join((sealed.segments[0][:50], sealed.segments[0][51:]))
    ]
    with pytest.raises(SegmentError, match="segment 0 is not the one"):
        opened(sealed, segments=tampered)


def test_flipped_dropped_swapped_truncated_and_repeated_segments_are_refused() -> None:
    sealed = seal(secrets.token_bytes(3 * PLAIN_BYTES))
    a, b, c, d = sealed.segments
    for segments in ([a, c, b, d], [a, b, b, d], [a, b, c[:-1], d], [b, a, c, d], [a, b, c, d, d]):
        with pytest.raises(SegmentError):
            opened(sealed, segments=segments)
    short = dataclasses.replace(sealed.manifest, segment_list=digest(sealed.segment_list[:96]))
    with pytest.raises(TruncatedError):
        opened(Sealed(short, sealed.segment_list[:96], sealed.segments[:3]))


def test_an_artifact_under_anothers_name_is_refused() -> None:
    first, second = seal(b"one"), seal(b"two")
    with pytest.raises(WrongArtifactError):
        opened(Sealed(first.manifest, second.segment_list, second.segments))
    renamed = dataclasses.replace(second.manifest, core=first.manifest.core)
    with pytest.raises(WrongKeyError):
        opened(Sealed(renamed, second.segment_list, second.segments))


def test_one_ciphertext_cannot_stand_under_two_cores() -> None:
    sealed = seal(b"one")
    other = core(ArtifactKind.WEIGHTS)
    lie = dataclasses.replace(sealed.manifest, core=other, commitment=commitment(KEY, other))
    with pytest.raises(SegmentError, match="does not authenticate"):
        opened(Sealed(lie, sealed.segment_list, sealed.segments))


def resealed(plain: bytes, kind: ArtifactKind) -> Sealed:
    """A well-formed lie: an artifact whose padded plaintext its sealer chose freely."""
    honest = seal(b"", kind=kind).manifest
    cipher = SegmentCipher.new(
        key=KEY,
        associated_data=honest.core.digest,
        entropy=secrets.token_bytes(39),
        plain_bytes=len(plain),
    )
    segments = [cipher.seal(0, plain)]
    return Sealed(
        dataclasses.replace(
            honest,
            padded_bytes=len(plain),
            segments=segment_count(len(plain)),
            segment_list=digest(digest(segments[0])),
        ),
        digest(segments[0]),
        segments,
    )


def test_padding_that_says_something_is_refused() -> None:
    plain = (3).to_bytes(8, "big") + b"abc" + bytes(DATASET_BYTES_MIN - 11)
    assert opened(resealed(plain, ArtifactKind.DATASET)) == b"abc"
    loud = plain[:-1] + b"!"
    with pytest.raises(PaddingError, match="not zero"):
        opened(resealed(loud, ArtifactKind.DATASET))


def test_a_length_field_that_does_not_fit_is_refused() -> None:
    for length in (4, 2, 1 << 63):
        with pytest.raises(PaddingError):
            opened(resealed(length.to_bytes(8, "big") + b"abc", ArtifactKind.WEIGHTS))


def test_content_that_is_shorter_or_longer_than_said_is_not_sealed() -> None:
    for content in (b"12", b"1234", b""):
        sealer = ArtifactSealer(
            core=core(ArtifactKind.WEIGHTS), key=KEY, content_bytes=3, entropy=bytes(39)
        )
        with pytest.raises(SealingError, match="said"):
            list(sealer.segments([content]))


def test_a_manifest_before_its_segments_is_refused() -> None:
    sealer = ArtifactSealer(
        core=core(ArtifactKind.WEIGHTS), key=KEY, content_bytes=3, entropy=bytes(39)
    )
    with pytest.raises(SealingError, match="0 of 1 segments"):
        sealer.manifest()


@settings(max_examples=200)
@given(st.integers(0, 1 << 40))
def test_padme_hides_all_but_a_few_bits_and_costs_at_most_an_eighth(length: int) -> None:
    padded = padded_length(ArtifactKind.DATASET, length)
    assert padded >= max(length + 8, DATASET_BYTES_MIN)
    assert padded <= max((length + 8) * 1.125, DATASET_BYTES_MIN)
    assert padded_length(ArtifactKind.DATASET, padded - 8) == padded


@pytest.mark.parametrize(
    "changes",
    [
        {"segments": 2},
        {"padded_bytes": 7},
        {"public_files": (PublicFile(name="b", bytes=1, sha256=bytes(32)),) * 2},
        {
            "public_files": (
                PublicFile(name="b", bytes=1, sha256=bytes(32)),
                PublicFile(name="a", bytes=1, sha256=bytes(32)),
            )
        },
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(DocumentError):
        dataclasses.replace(seal(b"x").manifest, **changes)


def test_a_core_that_contradicts_itself_is_refused() -> None:
    weights = core(ArtifactKind.WEIGHTS)
    for changes in (
        {"origin": Origin(job=bytes(32), generation=1)},
        {"kind": ArtifactKind.ADAPTER},
        {"custodians": ()},
        {"custodians": (custodian(1), custodian(1))},
        {"custodians": tuple(custodian(i) for i in range(9))},
    ):
        with pytest.raises(DocumentError):
            dataclasses.replace(weights, **changes)
