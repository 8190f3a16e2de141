"""Sealed artifacts: core, manifest, segments, padding, commitment (docs/spec/artifacts.md).

- The *core* names what an artifact is and who its custodians are. Its digest goes into the key
  (trust/custody.py) and is the ciphertext's associated data.
- The *manifest* adds what is known once it is sealed: lengths, the list of *ciphertext* digests,
  the key's commitment, and public files by name and digest. Its digest is the artifact's id.
- No digest of plaintext is ever public. Two seals of one plaintext share no byte.
- Plaintext = u64be length ‖ content ‖ zeros. Datasets are padded by Padmé to at least 64 KiB, so a
  length says little about the rows; other kinds have public sizes already.
- The commitment is checked before the first segment opens, so that a wrong key and a tampered
  file are told apart. GCM alone commits to no key: a custodian could make one ciphertext with two
  readings. Commitment and segment digests together close that (attacks.md, O1).
"""

from __future__ import annotations

import dataclasses
import enum
import hmac
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Final

from trust.encoding import (
    Bytes32,
    Count,
    Digest,
    Document,
    Name,
    Size,
    Struct,
    Uint32,
    Uint53,
    derive,
    digest,
)
from trust.errors import (
    DocumentError,
    PaddingError,
    SealingError,
    SegmentError,
    TruncatedError,
    WrongArtifactError,
    WrongKeyError,
)
from trust.sealing import HEADER_BYTES, SegmentCipher, plain_span, segment_count

LINEAGE_BYTES: Final = 33
CUSTODIANS_MAX: Final = 8
PUBLIC_FILES_MAX: Final = 16  # a model has five
LENGTH_BYTES: Final = 8
DATASET_BYTES_MIN: Final = 1 << 16
ENTROPY_BYTES: Final = 39

LineageId = Annotated[bytes, Size(least=LINEAGE_BYTES, most=LINEAGE_BYTES)]


class ArtifactKind(enum.StrEnum):
    """What an artifact holds."""

    WEIGHTS = "weights"
    DATASET = "dataset"
    ADAPTER = "adapter"
    CHECKPOINT = "checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Custodian(Struct):
    """A party whose consent opens the artifact, and the lineage key that it consents with."""

    identity: Bytes32
    lineage: LineageId
    epoch: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Origin(Struct):
    """Where a derived artifact was made."""

    job: Digest
    generation: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Core(Document):
    """What an artifact is, fixed before it is sealed."""

    LABEL: ClassVar[str] = "core"

    kind: ArtifactKind
    seal_id: Bytes32
    """Drawn by the sealer: no two artifacts have one core."""
    custodians: Annotated[tuple[Custodian, ...], Size(least=1, most=CUSTODIANS_MAX)]
    """Whose shares make the key, in this order."""
    origin: Origin | None
    """None for what a party sealed; job and generation for what an enclave made."""

    def _check(self) -> None:
        if len(set(self.custodians)) != len(self.custodians):
            raise DocumentError("core: a custodian entry stands twice")
        derived = self.kind in (ArtifactKind.ADAPTER, ArtifactKind.CHECKPOINT)
        if derived != (self.origin is not None):
            raise DocumentError(
                f"core: {self.kind.value} with{'' if self.origin else 'out'} origin"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PublicFile(Struct):
    """A file that anybody may read, bound by digest."""

    name: Name
    bytes: Uint53
    sha256: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Document):
    """A sealed artifact's public description. Its digest is the artifact's id."""

    LABEL: ClassVar[str] = "manifest"

    core: Core
    padded_bytes: Uint53
    """Length of the plaintext: length field, content and padding."""
    segments: Count
    segment_list: Digest
    """SHA-256 of the segments' SHA-256 digests, one after another."""
    commitment: Bytes32
    public_files: Annotated[tuple[PublicFile, ...], Size(least=0, most=PUBLIC_FILES_MAX)]

    def _check(self) -> None:
        if self.padded_bytes < LENGTH_BYTES:
            raise DocumentError(f"manifest: {self.padded_bytes} padded bytes hold no length")
        if self.segments != segment_count(self.padded_bytes):
            wanted = segment_count(self.padded_bytes)
            raise DocumentError(f"manifest: {self.segments} segments, its length makes {wanted}")
        names = [file.name for file in self.public_files]
        if names != sorted(set(names)):
            raise DocumentError("manifest: public files are sorted by name, each once")
        if self.public_files and self.core.kind is not ArtifactKind.WEIGHTS:
            raise DocumentError(f"manifest: a {self.core.kind.value} has no public files")


def commitment(key: bytes, core: Core) -> bytes:
    """What the manifest says of the key: 32 bytes that tell it from any other."""
    return derive((key,), "commitment", core.digest)


def padded_length(kind: ArtifactKind, content_bytes: int) -> int:
    """Length of the plaintext for this content. Padmé (Nikitin et al., PETS 2019) for datasets."""
    length = content_bytes + LENGTH_BYTES
    if kind is not ArtifactKind.DATASET:
        return length
    length = max(length, DATASET_BYTES_MIN)
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


class ArtifactSealer:
    """Seals one content under one core: segments out, then the manifest.

    `key` is custody's artifact key for this core; `entropy` is 39 fresh random bytes.
    """

    def __init__(self, *, core: Core, key: bytes, content_bytes: int, entropy: bytes) -> None:
        self._core, self._content_bytes = core, content_bytes
        self._padded = padded_length(core.kind, content_bytes)
        self._commitment = commitment(key, core)
        self._cipher = SegmentCipher.new(
            key=key, associated_data=core.digest, entropy=entropy, plain_bytes=self._padded
        )
        self._digests: list[bytes] = []

    def segments(self, content: Iterable[bytes]) -> Iterator[bytes]:
        """Yield ciphertext segments in order. Raises SealingError if content has another length."""
        pending = bytearray(self._content_bytes.to_bytes(LENGTH_BYTES, "big"))
        taken, chunks, index = 0, iter(content), 0
        while index < self._cipher.count:
            start, end = plain_span(index, self._padded)
            while len(pending) < end - start:
                chunk = next(chunks, None)
                if chunk is None:
                    break
                taken += len(chunk)
                pending += chunk
            if len(pending) < end - start:
                if taken != self._content_bytes:
                    raise SealingError(f"content of {taken} bytes, {self._content_bytes} were said")
                pending += bytes(end - start - len(pending))
            with memoryview(pending) as view:
                sealed = self._cipher.seal(index, view[: end - start])
            del pending[: end - start]
            self._digests.append(digest(sealed))
            index += 1
            yield sealed
        if pending or next(chunks, None):
            raise SealingError(f"content is longer than the {self._content_bytes} bytes said")

    def manifest(self, public_files: tuple[PublicFile, ...] = ()) -> Manifest:
        """The manifest, once every segment was taken."""
        if len(self._digests) != self._cipher.count:
            raise SealingError(f"{len(self._digests)} of {self._cipher.count} segments are sealed")
        return Manifest(
            core=self._core,
            padded_bytes=self._padded,
            segments=self._cipher.count,
            segment_list=digest(self.segment_list()),
            commitment=self._commitment,
            public_files=public_files,
        )

    def segment_list(self) -> bytes:
        """SHA-256 of each segment, one after another."""
        return b"".join(self._digests)


class SegmentList:
    """An artifact's segment digests, checked against its manifest."""

    def __init__(self, manifest: Manifest, data: bytes) -> None:
        if digest(data) != manifest.segment_list:
            raise WrongArtifactError("the segment list is not the one that the manifest names")
        if len(data) != 32 * manifest.segments:
            raise TruncatedError(f"{len(data) // 32} digests for {manifest.segments} segments")
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // 32

    def __getitem__(self, index: int) -> bytes:
        return self._data[32 * index : 32 * index + 32]

    def check(self, index: int, ciphertext: bytes) -> None:
        """Raises SegmentError unless this is segment `index`."""
        if digest(ciphertext) != self[index]:
            raise SegmentError(f"segment {index} is not the one that the manifest lists")


class ArtifactOpener:
    """Opens the segments of one artifact, in any order.

    (1) The segment list is the manifest's. (2) The key is the one that it commits to.
    (3) Each segment is the listed one, (4) authenticates at its place under the core's digest,
    (5) and the length field and the padding are what the format says.

    Raises WrongArtifactError, TruncatedError, WrongKeyError, SegmentError, PaddingError.
    """

    def __init__(
        self, *, manifest: Manifest, segment_list: bytes, key: bytes, first_segment: bytes
    ) -> None:
        self.list = SegmentList(manifest, segment_list)  # (1)
        if not hmac.compare_digest(commitment(key, manifest.core), manifest.commitment):  # (2)
            raise WrongKeyError("the key is not the one that the manifest commits to")
        self._padded = manifest.padded_bytes
        self.list.check(0, first_segment)  # (3)
        self._cipher = SegmentCipher(
            key=key,
            associated_data=manifest.core.digest,
            header=first_segment[:HEADER_BYTES],
            plain_bytes=manifest.padded_bytes,
        )
        head = self._cipher.open(0, first_segment)[:LENGTH_BYTES]  # (4)
        self.content_bytes = int.from_bytes(head, "big")
        wanted = padded_length(manifest.core.kind, self.content_bytes)
        if wanted != manifest.padded_bytes:  # (5)
            raise PaddingError(f"content makes {wanted} padded bytes, not {manifest.padded_bytes}")

    def __len__(self) -> int:
        return len(self.list)

    def open(self, index: int, ciphertext: bytes) -> tuple[int, bytes]:
        """Open segment `index`: where its content stands in the whole content, and the content."""
        if not 0 <= index < len(self.list):
            raise SegmentError(f"segment {index} of an artifact of {len(self.list)}")
        self.list.check(index, ciphertext)  # (3)
        plain = self._cipher.open(index, ciphertext)  # (4)
        start, end = plain_span(index, self._padded)
        first = LENGTH_BYTES - start if start < LENGTH_BYTES else 0
        beyond = max(0, end - LENGTH_BYTES - self.content_bytes)
        kept = max(first, len(plain) - beyond)
        if any(plain[kept:]):  # (5)
            raise PaddingError(f"segment {index}: padding is not zero")
        return max(0, start - LENGTH_BYTES), plain[first:kept]
