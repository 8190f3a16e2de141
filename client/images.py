"""Image releases from each side: publisher, witness, auditor, and the custodian that accepts one.

- A log is a public folder; a bundle is a file that is passed. No home reads another home.
- A witness keeps what it is about to cosign before it cosigns it: after a crash it has seen more
  than it said, never less. So does a custodian: the memory is on the disk before its values count.
- A home's demands name its market among the keys that never count, or they do not load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final

from client.files import HomeError, make_folder, write_durably
from client.home import Home
from client.image_log import LogFolder, Tree
from client.keystore import Keystore
from trust.encoding import Document, Range, Size, Uint53, UnixMilliseconds, digest
from trust.errors import BlindhostError, PolicyError, RefusedError
from trust.identity import Signed, verify_signed
from trust.image_acceptance import AcceptedRelease, accept_release
from trust.image_release import (
    LINKS_MAX,
    EmergencyConsent,
    Hash,
    ImageRelease,
    Link,
    RebuildSignature,
    ReleaseBundle,
    ReleaseDemands,
    ReleaseMemory,
    Verifier,
)
from trust.merkle import leaf_hash
from trust.transparency import (
    COSIGNATURE,
    ED25519,
    NAME_CHARACTERS_MAX,
    Checkpoint,
    NoteKey,
    NoteSignature,
    NoteSigner,
    verify_checkpoint,
)
from trust.verifier.reference import ReferenceValues

ROLES: Final = {"log": ED25519, "witness": COSIGNATURE}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NoteKeyFile(Document):
    """A log's or witness's private key at rest."""

    LABEL: ClassVar[str] = "client/note-key"

    name: Annotated[str, Size(least=1, most=NAME_CHARACTERS_MAX)]
    type: Annotated[int, Range(least=1, most=255)]
    sealed: Annotated[bytes, Size(least=28, most=1024)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WitnessMemory(Document):
    """The newest checkpoint of one log that this witness cosigned."""

    LABEL: ClassVar[str] = "client/witness"

    log: Verifier
    size: Uint53
    root: Hash
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What a walk over a whole log found; it found nothing wrong, or there would be none."""

    checkpoint: Checkpoint
    releases: tuple[ImageRelease, ...]
    """In the log's order."""
    checkpoints: int
    """Older and newest checkpoints whose signatures and roots were checked."""


class ImageFolder:
    """The folder ``images`` of a home: demands, memory, keys of a log or witness."""

    def __init__(self, home: Home) -> None:
        self._home, self._folder = home, home.folder / "images"

    # --- keys of a log or a witness --------------------------------------------------------------

    def new_signer(self, keys: Keystore, role: str, name: str) -> NoteSigner:
        """Draw the home's key as a log or as a witness. Raises HomeError if there is one."""
        path = self._path(f"{role}-key")
        if path.exists():
            raise HomeError(f"this home has a {role} key already; it is never overwritten")
        secret = secrets.token_bytes(32)
        signer = NoteSigner(name, ROLES[role], secret)
        sealed = keys.seal_secret(secret, f"note {role}")
        write_durably(path, NoteKeyFile(name=name, type=ROLES[role], sealed=sealed).encode())
        return signer

    def signer(self, keys: Keystore, role: str) -> NoteSigner:
        """The home's key as a log or as a witness. Raises HomeError if there is none."""
        path = self._path(f"{role}-key")
        if not path.exists():
            raise HomeError(f"this home has no {role} key: `blindhost image key` draws one")
        file = NoteKeyFile.parse(path.read_bytes())
        return NoteSigner(file.name, file.type, keys.open_secret(file.sealed, f"note {role}"))

    # --- a custodian's ---------------------------------------------------------------------------

    def keep_demands(self, demands: ReleaseDemands) -> None:
        """Keep this home's demands. Raises PolicyError unless its market counts for nothing."""
        self._check_market(demands)
        write_durably(self._path("demands"), demands.encode())

    def demands(self) -> ReleaseDemands:
        """What this home demands. Raises HomeError where there is nothing, and PolicyError."""
        path = self._path("demands")
        if not path.exists():
            raise HomeError("this home demands nothing of images: `blindhost image demand` says it")
        demands = ReleaseDemands.parse(path.read_bytes())
        self._check_market(demands)
        return demands

    def memory(self) -> ReleaseMemory | None:
        """What was accepted last; None: nothing ever."""
        path = self._path("memory")
        return ReleaseMemory.parse(path.read_bytes()) if path.exists() else None

    def values(self, now: int) -> ReferenceValues:
        """What is good at `now` (Unix milliseconds). Raises RefusedError, HomeError."""
        memory = self.memory()
        if memory is None:
            raise HomeError("this home has accepted no release of an image")
        return memory.values(self.demands(), now)

    def accept(
        self, bundle: bytes, keys: Keystore, now: int, *, emergency_yes: bool = False
    ) -> AcceptedRelease:
        """Check a bundle, and keep what it says if every check lets it pass.

        `emergency_yes` signs this custodian's consent to exactly the release in the bundle; a
        consent that was signed before counts again. Raises RefusedError, HomeError, PolicyError.
        """
        with self._locked():
            demands, memory = self.demands(), self.memory()
            consent = self._consent(bundle, keys, now, say_yes=emergency_yes)
            accepted = accept_release(
                bundle,
                demands,
                memory,
                now,
                custodian=keys.party.identity,
                emergency_consent=consent,
            )
            name = accepted.release.digest.hex()
            if consent is not None and accepted.by_consent:
                write_durably(self._path(f"consent-{name}"), consent)
            write_durably(self._path(f"accepted-{name}"), bundle)
            write_durably(self._path("memory"), accepted.memory.encode())
        return accepted

    def _consent(self, bundle: bytes, keys: Keystore, now: int, *, say_yes: bool) -> bytes | None:
        try:
            release = ImageRelease.parse(ReleaseBundle.parse(bundle).release)
        except BlindhostError:
            return None  # `accept_release` says what is wrong with it
        path = self._path(f"consent-{release.digest.hex()}")
        if path.exists():
            return path.read_bytes()
        if not say_yes:
            return None
        yes = EmergencyConsent(
            release=release.digest, name=release.name, number=release.number, at=now
        )
        return keys.party.sign(yes).encode()

    # --- a witness's -----------------------------------------------------------------------------

    def witness(self, keys: Keystore, log: LogFolder, key: NoteKey, now: int) -> NoteSignature:
        """Cosign a log's newest checkpoint.

        (1) It is signed by the log. (2) The tiles have its root. (3) The log grew from the newest
        checkpoint that was cosigned before: smaller, or another root there, is refused. (4) The
        clock has not gone back. (5) Keep it, and then (6) cosign.

        Raises RefusedError, SignatureError, HomeError.
        """
        signer = self.signer(keys, "witness")
        with self._locked():
            note = log.head()
            if note is None:
                raise HomeError("nothing was published in this folder")
            found = verify_checkpoint(note, key)  # (1)
            tree = Tree(log.leaves(found.size))
            if tree.root(found.size) != found.root:  # (2)
                raise RefusedError("witness-tiles", "the tiles do not have the checkpoint's root")
            path = self._path(f"witnessed-{digest(key.name.encode()).hex()[:32]}")
            if path.exists():
                self._check_seen(WitnessMemory.parse(path.read_bytes()), tree, found, key, now)
            seen = WitnessMemory(log=str(key), size=found.size, root=found.root, at=now)
            write_durably(path, seen.encode())  # (5)
            return signer.cosign(found, now // 1000)  # (6)

    def _check_seen(
        self, seen: WitnessMemory, tree: Tree, found: Checkpoint, key: NoteKey, now: int
    ) -> None:
        if seen.log != str(key):
            raise RefusedError("witness-key", f"cosigned {seen.log} before, wanted {key}")
        if found.size < seen.size or tree.root(seen.size) != seen.root:  # (3)
            raise RefusedError(
                "witness-fork",
                f"the log of {found.size} entries does not go on from the {seen.size} cosigned",
            )
        if now < seen.at:  # (4)
            raise RefusedError("witness-clock", f"now {now}, cosigned before at {seen.at}")

    # --- files -----------------------------------------------------------------------------------

    def _check_market(self, demands: ReleaseDemands) -> None:
        if self._home.config.market not in demands.never:
            raise PolicyError("these demands do not name this home's market as never counting")

    def _path(self, name: str) -> Path:
        make_folder(self._folder)
        return self._folder / name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


# --- a publisher's -------------------------------------------------------------------------------


def publish(log: LogFolder, signer: NoteSigner, release: ImageRelease) -> Checkpoint:
    """Append a release to a log. Raises RefusedError unless its number is the next of its name."""

    def check(entries: list[bytes]) -> None:
        before = [e for e in map(ImageRelease.parse, entries) if e.name == release.name]
        _check_next(before[-1] if before else None, release)

    return log.append(release.encode(), signer, check)


def _check_next(before: ImageRelease | None, release: ImageRelease) -> None:
    wanted = before.number + 1 if before else 1
    if release.number != wanted:
        raise RefusedError("log-number", f"{release.name} number {release.number}, wanted {wanted}")
    if before and release.released_at < before.released_at:
        raise RefusedError("log-date", f"{release.name} {wanted} is dated before {wanted - 1}")


def make_bundle(
    log: LogFolder,
    key: NoteKey,
    release: ImageRelease,
    signatures: Sequence[bytes],
    *,
    witnesses: int,
    since: Sequence[int] = (),
) -> ReleaseBundle:
    """Put together what custodians need; `signatures` are signed releases, as rebuilders made them.

    The checkpoint that covers the release is the oldest one with enough cosignatures, so that they
    prove the longest time; the head is the newest with enough. `since` are sizes of checkpoints
    that custodians remember, beside those that the log keeps.

    Raises HomeError, SignatureError.
    """
    newest, entries = log.own(key)
    if release.encode() not in entries:
        raise HomeError(f"{release.name} number {release.number} is not in this log")
    index = entries.index(release.encode())
    sizes = [each for each in log.sizes() if index < each <= newest.size]
    enough = [each for each in sizes if len(log.checkpoint(each).signatures) > witnesses]
    covering, head = (enough[0], enough[-1]) if enough else (sizes[-1], sizes[-1])
    room = max(LINKS_MAX - 1 - len(since), 1)
    kept = [each for each in log.sizes() if each < head][-room:]
    tree = Tree([leaf_hash(each) for each in entries])
    linked = sorted({covering, *kept, *(each for each in since if each < head)} - {head})
    found = [verify_signed(ImageRelease, each, signer=None) for each in signatures]
    if any(each.digest != release.digest for each in found):
        raise HomeError("a rebuilder's signature is of another release")
    return ReleaseBundle(
        release=release.encode(),
        signatures=tuple(_signature(each) for each in found),
        proof=log.prove(index, covering).encode(),
        head=log.checkpoint(head).encode(),
        links=tuple(Link(size=each, path=tree.consistency(each, head)) for each in linked),
    )


def _signature(signed: Signed[ImageRelease]) -> RebuildSignature:
    return RebuildSignature(signer=signed.signer, signature=signed.signature)


# --- an auditor's --------------------------------------------------------------------------------


def audit(log: LogFolder, key: NoteKey, memory: ReleaseMemory | None = None) -> Audit:
    """Walk a whole log.

    (1) The head is signed, and the entries have its root. (2) Every tile is what the entries make.
    (3) Every older checkpoint that is kept is signed, and begins this log. (4) Every entry is a
    release, and the numbers of each name rise by one from 1. (5) The checkpoint in memory begins
    this log.

    Raises RefusedError (``audit-…``, ``log-…``), SignatureError, EncodingError, HomeError.
    """
    newest, entries = log.own(key)  # (1)
    tree = Tree([leaf_hash(each) for each in entries])
    for name, content in tree.tiles(newest.size).items():  # (2)
        if log.tile(name) != content:
            raise RefusedError("audit-tile", f"{name} is not what the entries make")
    sizes = log.sizes()
    for size in sizes:  # (3)
        older = verify_checkpoint(log.checkpoint(size), key)
        if older.size != size or size > newest.size or tree.root(size) != older.root:
            raise RefusedError("audit-fork", f"the checkpoint of {size} does not begin this log")
    releases = tuple(ImageRelease.parse(each) for each in entries)
    last: dict[str, ImageRelease] = {}
    for release in releases:  # (4)
        _check_next(last.get(release.name), release)
        last[release.name] = release
    if memory is not None and (  # (5)
        memory.size > newest.size or tree.root(memory.size) != memory.root
    ):
        raise RefusedError(
            "audit-memory", f"the checkpoint of {memory.size} in memory does not begin this log"
        )
    return Audit(checkpoint=newest, releases=releases, checkpoints=len(sizes))
