"""Releases of runtime images: when a custodian believes that an image is what its source says.

Rules (docs/spec/image-releases.md):
- Whoever publishes images could read everything, so a publisher's signature counts for nothing.
  What counts is k of the rebuilders that the custodian names: each built the image from its source.
- A release must have stood in a log, where everybody could look at it, for days: w witnesses that
  the custodian names cosigned a checkpoint that covers it, at least that long ago.
- A custodian remembers the newest number and the newest checkpoint that it accepted. Lower numbers,
  and logs that do not go on from that checkpoint, are refused for ever.
- The market is none of these: demands that name a key of it as rebuilder or witness do not load.
- Here are the documents and what is demanded; `trust.image_acceptance` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from trust.encoding import (
    Bytes32,
    Bytes64,
    Count,
    Digest,
    Document,
    Name,
    Range,
    Size,
    Struct,
    Uint53,
    UnixMilliseconds,
)
from trust.errors import PolicyError, RefusedError
from trust.merkle import PROOF_HASHES_MAX
from trust.transparency import (
    COSIGNATURE,
    ED25519,
    NAME_CHARACTERS_MAX,
    NOTE_BYTES_MAX,
    TLOG_PROOF_BYTES_MAX,
    NoteKey,
)
from trust.verifier.reference import ReferenceValues, joined

DAY_MILLISECONDS: Final = 86_400_000
REBUILDERS_MAX: Final = 16
WITNESSES_MAX: Final = 16
NEVER_MAX: Final = 16
LINKS_MAX: Final = 256  # older checkpoints that one bundle leads on from
RELEASE_BYTES_MAX: Final = (1 << 16) - 1  # tlog-tiles: an entry's length is a u16

REBUILDERS_DEFAULT: Final = 2
WITNESSES_DEFAULT: Final = 2
DAYS_DEFAULT: Final = 7
AGE_DAYS_DEFAULT: Final = 180

Hash = Annotated[bytes, Size(least=32, most=32)]
Verifier = Annotated[str, Size(least=1, most=NAME_CHARACTERS_MAX + 64)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRelease(Document):
    """One release of one image: these bytes are the log's entry, and what rebuilders sign."""

    LABEL: ClassVar[str] = "image-release"

    version: Annotated[int, Range(least=1, most=1)]
    name: Name
    """Of the image; releases of one name are numbered."""
    number: Count
    """Rises by one."""
    released_at: UnixMilliseconds
    image: Digest
    """SHA-256 that names what is launched: an image's manifest, or a source's lock file."""
    values: ReferenceValues
    notes: Digest
    """SHA-256 of the words for people."""
    emergency: bool
    """Its rebuilders say that waiting is worse: it counts for custodians that say yes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmergencyConsent(Document):
    """A custodian's own yes to one release that has not stood long enough."""

    LABEL: ClassVar[str] = "image-release/consent"

    release: Digest
    name: Name
    number: Count
    at: UnixMilliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildSignature(Struct):
    """A signature over the release's bytes; what `trust.identity` makes of them."""

    signer: Bytes32
    signature: Bytes64


@dataclass(frozen=True, kw_only=True, slots=True)
class Link(Struct):
    """How the head goes on from an older checkpoint of `size` entries."""

    size: Uint53
    path: Annotated[tuple[Hash, ...], Size(least=0, most=PROOF_HASHES_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseBundle(Document):
    """A release with all that a custodian needs to believe it. It travels as a file."""

    LABEL: ClassVar[str] = "image-release/bundle"

    release: Annotated[bytes, Size(least=1, most=RELEASE_BYTES_MAX)]
    """Bytes of an `ImageRelease`."""
    signatures: Annotated[tuple[RebuildSignature, ...], Size(least=0, most=64)]
    proof: Annotated[bytes, Size(least=1, most=TLOG_PROOF_BYTES_MAX)]
    """A tlog-proof: the entry, under a checkpoint that was cosigned long enough ago."""
    head: Annotated[bytes, Size(least=1, most=NOTE_BYTES_MAX)]
    """The log's newest checkpoint, cosigned."""
    links: Annotated[tuple[Link, ...], Size(least=0, most=LINKS_MAX)]
    """From the proof's checkpoint, and from those that custodians may remember, to the head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseDemands(Document):
    """Whom a custodian believes about an image, and how much of it."""

    LABEL: ClassVar[str] = "image-release/demands"

    name: Name
    """Of the image."""
    rebuilders: Annotated[tuple[Bytes32, ...], Size(least=2, most=REBUILDERS_MAX)]
    rebuilders_least: Annotated[int, Range(least=2, most=REBUILDERS_MAX)]
    """k. One rebuilder is one point of failure: no demands with one load."""
    log: Verifier
    """Verifier key of the log: its name is the log's origin."""
    witnesses: Annotated[tuple[Verifier, ...], Size(least=1, most=WITNESSES_MAX)]
    """Verifier keys of witnesses, type 0x04."""
    witnesses_least: Annotated[int, Range(least=1, most=WITNESSES_MAX)]
    days_least: Annotated[int, Range(least=1, most=365)]
    """How long a release has stood before it counts, in days of 86,400 s."""
    age_days_max: Annotated[int, Range(least=1, most=3650)]
    """How old a release may be and still count, by its own date."""
    previous_allowed: bool
    """The release with the number before the newest one counts too."""
    never: Annotated[tuple[Bytes32, ...], Size(least=1, most=NEVER_MAX)]
    """Identities, and so Ed25519 keys, that count for nothing: the market's."""

    def _check(self) -> None:
        """Rules between fields. Raises PolicyError, and EncodingError for what is no key."""
        log = NoteKey.parse(self.log)
        keys = self.witness_keys
        if log.type != ED25519 or any(each.type != COSIGNATURE for each in keys):
            raise PolicyError("a log's key is of type 0x01, a witness's of type 0x04")
        publics = [each.public for each in keys]
        if len(set(self.rebuilders)) != len(self.rebuilders):
            raise PolicyError("a rebuilder is named twice")
        if len(set(publics)) != len(publics) or len({each.name for each in keys}) != len(keys):
            raise PolicyError("a witness is named twice, or two share a key")
        if log.public in publics:
            raise PolicyError("a log is no witness of itself")
        if any(each in self.never for each in (*self.rebuilders, *publics)):
            raise PolicyError("a rebuilder or witness is one of the keys that never count")
        if self.rebuilders_least > len(self.rebuilders) or self.witnesses_least > len(keys):
            raise PolicyError("more rebuilders or witnesses are demanded than are named")

    @property
    def witness_keys(self) -> tuple[NoteKey, ...]:
        """The witnesses, parsed."""
        return tuple(NoteKey.parse(each) for each in self.witnesses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered(Struct):
    """A release that was accepted."""

    number: Count
    release: Digest
    released_at: UnixMilliseconds
    values: ReferenceValues


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseMemory(Document):
    """What a custodian keeps of one image: the newest release and checkpoint it accepted."""

    LABEL: ClassVar[str] = "image-release/memory"

    name: Name
    newest: Remembered
    previous: Remembered | None
    """The release with the number before it, if that was accepted."""
    log: Verifier
    size: Uint53
    """Entries under the newest checkpoint."""
    root: Hash

    def values(self, demands: ReleaseDemands, now: int) -> ReferenceValues:
        """What is good at `now`: the newest, and the one before it where the demands allow it.

        Asked again for each appraisal: an old release stops to count without anybody's doing.
        Raises RefusedError (``release-too-old``, ``release-name``).
        """
        if demands.name != self.name:
            raise RefusedError("release-name", f"found {self.name}, wanted {demands.name}")
        allowed = [self.newest]
        if self.previous is not None and demands.previous_allowed:
            allowed.append(self.previous)
        young = [each for each in allowed if not is_too_old(each.released_at, demands, now)]
        if not young:
            raise RefusedError("release-too-old", age_words(self.newest.released_at, demands, now))
        return joined(each.values for each in young)


def is_too_old(released_at: int, demands: ReleaseDemands, now: int) -> bool:
    """Whether a release of that date counts no more."""
    return now - released_at > demands.age_days_max * DAY_MILLISECONDS


def age_words(released_at: int, demands: ReleaseDemands, now: int) -> str:
    """Found and wanted, for a refusal."""
    days = (now - released_at) // DAY_MILLISECONDS
    return f"released {days} days ago; at most {demands.age_days_max}"
