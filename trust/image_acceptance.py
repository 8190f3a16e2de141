"""The decision on a release of a runtime image: ten checks, and each refuses with its own code.

Rules (docs/spec/image-releases.md §4):
- Every refusal is a `RefusedError`; nothing else is raised for what a stranger sent.
- Pure: memory comes in, and the memory to keep goes out. `now` is Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Final

from trust.errors import EncodingError, PolicyError, RefusedError, SignatureError
from trust.identity import Signed, verify, verify_signed
from trust.image_release import (
    DAY_MILLISECONDS,
    EmergencyConsent,
    ImageRelease,
    ReleaseBundle,
    ReleaseDemands,
    ReleaseMemory,
    Remembered,
    age_words,
    is_too_old,
)
from trust.merkle import MerkleError, leaf_hash, verify_consistency, verify_inclusion
from trust.transparency import (
    Checkpoint,
    Cosigned,
    Note,
    NoteKey,
    parse_note,
    parse_tlog_proof,
    verify_checkpoint,
    verify_cosignatures,
)
from trust.verifier.reference import ReferenceValues

SKEW_MILLISECONDS: Final = 300_000  # of others' clocks, into the future alone

_SEAL: Final = object()


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptedRelease:
    """A release that every check let pass. Only `accept_release` makes one."""

    release: ImageRelease
    rebuilders: tuple[bytes, ...]
    """Identities whose signatures counted."""
    stood: tuple[Cosigned, ...]
    """Witnesses' words on the checkpoint that covers it."""
    by_consent: bool
    """It has not stood long enough: the custodian said yes itself."""
    memory: ReleaseMemory
    """To be kept before the values are used."""
    values: ReferenceValues
    """Good now: this release's, and those of the one before where the demands allow it."""
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("AcceptedRelease is made by accept_release alone")


def accept_release(
    bundle: bytes,
    demands: ReleaseDemands,
    memory: ReleaseMemory | None,
    now: int,
    *,
    custodian: bytes,
    emergency_consent: bytes | None = None,
) -> AcceptedRelease:
    """Decide whether a release counts for a custodian.

    `bundle` is the bytes of a `ReleaseBundle`, `memory` what the last acceptance returned (None:
    there was none), `now` Unix milliseconds, `custodian` the identity whose consent would count,
    `emergency_consent` a signed `EmergencyConsent`.

    (1) Shape, sizes, unknown fields. (2) The image that the demands are about. (3) k signatures of
    different rebuilders. (4) Its date: not ahead, not too old. (5) Its number: not below the newest
    accepted, and no other release of the same number. (6) The log's signature, and the entry's
    place under it. (7) Witnesses, and (8) for how long: or consent to an emergency. (9) The head:
    signed, witnessed, and grown from the checkpoint of (6). (10) The head grew from the checkpoint
    in memory.

    Left to the caller: that `memory` is the newest, and that the returned one is kept first.

    Raises RefusedError; its code names the check.
    """
    parsed, release = _parse(bundle)  # (1)
    if release.name != demands.name:  # (2)
        raise RefusedError("release-name", f"found {release.name}, wanted {demands.name}")
    rebuilders = _check_rebuilders(parsed, demands)  # (3)
    if release.released_at > now + SKEW_MILLISECONDS:  # (4)
        raise RefusedError("release-ahead", f"dated {release.released_at}, now {now}")
    if is_too_old(release.released_at, demands, now):
        raise RefusedError("release-too-old", age_words(release.released_at, demands, now))
    if memory is not None:  # (5)
        _check_number(release, demands, memory)
    note, checkpoint = _check_entry(parsed, demands)  # (6)
    stood = _check_witnesses(note, demands, now, code="release-witnesses")  # (7)
    by_consent = not _has_stood(stood, demands, now)  # (8)
    if by_consent:
        _check_consent(release, stood, demands, now, custodian, emergency_consent)
    head = _check_head(parsed, checkpoint, demands, now)  # (9)
    if memory is not None:  # (10)
        _check_grown(parsed, memory.size, memory.root, head)
    kept = _remember(release, demands, memory, head)
    return AcceptedRelease(
        release=release,
        rebuilders=rebuilders,
        stood=stood,
        by_consent=by_consent,
        memory=kept,
        values=kept.values(demands, now),
        seal=_SEAL,
    )


def _parse(bundle: bytes) -> tuple[ReleaseBundle, ImageRelease]:
    try:
        parsed = ReleaseBundle.parse(bundle)
        return parsed, ImageRelease.parse(parsed.release)
    except (EncodingError, PolicyError) as error:
        raise RefusedError("release-malformed", str(error)) from error


def _check_rebuilders(bundle: ReleaseBundle, demands: ReleaseDemands) -> tuple[bytes, ...]:
    """Signatures of strangers count for nothing; one key counts once, whatever it signs."""
    known = [each for each in bundle.signatures if each.signer in demands.rebuilders]
    signers = tuple(dict.fromkeys(each.signer for each in known))
    if len(signers) != len(known):
        raise RefusedError(
            "release-rebuilder-twice", f"{len(known)} signatures of {len(signers)} rebuilders"
        )
    for each in known:
        try:
            verify(each.signer, each.signature, bundle.release)
        except SignatureError as error:
            raise RefusedError("release-signature", str(error)) from error
    if len(signers) < demands.rebuilders_least:
        raise RefusedError(
            "release-rebuilders",
            f"signed by {len(signers)} of the rebuilders, wanted {demands.rebuilders_least} "
            f"of {len(demands.rebuilders)}",
        )
    return signers


def _check_number(release: ImageRelease, demands: ReleaseDemands, memory: ReleaseMemory) -> None:
    if memory.name != demands.name or memory.log != demands.log:
        raise RefusedError(
            "release-memory",
            f"what is remembered is of {memory.name} in {memory.log}, "
            f"wanted {demands.name} in {demands.log}",
        )
    if release.number < memory.newest.number:
        raise RefusedError(
            "release-rollback", f"number {release.number}; {memory.newest.number} was accepted"
        )
    if release.number == memory.newest.number and release.digest != memory.newest.release:
        raise RefusedError(
            "release-twin",
            f"number {release.number} is {release.digest.hex()}, and was accepted as "
            f"{memory.newest.release.hex()}",
        )


def _check_entry(bundle: ReleaseBundle, demands: ReleaseDemands) -> tuple[Note, Checkpoint]:
    try:
        proof = parse_tlog_proof(bundle.proof)
    except EncodingError as error:
        raise RefusedError("release-proof-malformed", str(error)) from error
    checkpoint = _signed_by_log(proof.checkpoint, demands)
    try:
        entry = leaf_hash(bundle.release)
        verify_inclusion(entry, proof.index, checkpoint.size, proof.path, checkpoint.root)
    except MerkleError as error:
        raise RefusedError("release-not-in-log", str(error)) from error
    return proof.checkpoint, checkpoint


def _signed_by_log(note: Note, demands: ReleaseDemands) -> Checkpoint:
    try:
        return verify_checkpoint(note, NoteKey.parse(demands.log))
    except (EncodingError, SignatureError) as error:
        raise RefusedError("release-log-signature", str(error)) from error


def _check_witnesses(
    note: Note, demands: ReleaseDemands, now: int, *, code: str
) -> tuple[Cosigned, ...]:
    try:
        found = verify_cosignatures(note, demands.witness_keys)
    except SignatureError as error:
        raise RefusedError("release-cosignature", str(error)) from error
    for each in found:
        if each.at * 1000 > now + SKEW_MILLISECONDS:
            raise RefusedError(
                "release-cosigned-ahead", f"{each.witness.name} cosigned at {each.at} s"
            )
    if len(found) < demands.witnesses_least:
        raise RefusedError(
            code,
            f"cosigned by {len(found)} of the witnesses, wanted {demands.witnesses_least} "
            f"of {len(demands.witnesses)}",
        )
    return found


def _has_stood(stood: Sequence[Cosigned], demands: ReleaseDemands, now: int) -> bool:
    """As many witnesses as are demanded each saw it that long ago: one may backdate."""
    latest = now - demands.days_least * DAY_MILLISECONDS
    return sum(each.at * 1000 <= latest for each in stood) >= demands.witnesses_least


def _check_consent(
    release: ImageRelease,
    stood: Sequence[Cosigned],
    demands: ReleaseDemands,
    now: int,
    custodian: bytes,
    consent: bytes | None,
) -> None:
    """Consent waives the days alone, and of a release that its rebuilders call an emergency."""
    times = sorted(each.at * 1000 for each in stood)
    hours = (now - times[demands.witnesses_least - 1]) // 3_600_000
    if not release.emergency:
        raise RefusedError(
            "release-too-young", f"has stood {hours} hours, wanted {demands.days_least} days"
        )
    if consent is None:
        raise RefusedError(
            "release-emergency",
            f"has stood {hours} hours, wanted {demands.days_least} days: "
            "an emergency needs this custodian's own yes",
        )
    try:
        signed: Signed[EmergencyConsent] = verify_signed(
            EmergencyConsent, consent, signer=custodian
        )
    except (EncodingError, SignatureError) as error:
        raise RefusedError("release-consent", str(error)) from error
    said = signed.document
    if (said.release, said.name, said.number) != (release.digest, release.name, release.number):
        raise RefusedError(
            "release-consent", f"is to {said.release.hex()}, wanted {release.digest.hex()}"
        )


def _check_head(
    bundle: ReleaseBundle, covering: Checkpoint, demands: ReleaseDemands, now: int
) -> Checkpoint:
    try:
        note = parse_note(bundle.head)
    except EncodingError as error:
        raise RefusedError("release-head-malformed", str(error)) from error
    head = _signed_by_log(note, demands)
    _check_witnesses(note, demands, now, code="release-head-witnesses")
    _check_grown(bundle, covering.size, covering.root, head)
    return head


def _check_grown(bundle: ReleaseBundle, size: int, root: bytes, head: Checkpoint) -> None:
    """The head begins with the checkpoint of `size` and `root`: else one of them is a fork."""
    if size > head.size:
        raise RefusedError(
            "release-head-old", f"the log's head has {head.size} entries, and it had {size} before"
        )
    links = [each.path for each in bundle.links if each.size == size]
    if size == head.size:
        links = [()]  # nothing leads from a checkpoint to itself
    if not links:
        raise RefusedError(
            "release-unlinked",
            f"nothing leads from the checkpoint of {size} entries to that of {head.size}: "
            f"ask for a bundle with --since {size}",
        )
    try:
        verify_consistency(size, root, head.size, head.root, links[0])
    except MerkleError as error:
        raise RefusedError("release-fork", f"two checkpoints of one log: {error}") from error


def _remember(
    release: ImageRelease,
    demands: ReleaseDemands,
    memory: ReleaseMemory | None,
    head: Checkpoint,
) -> ReleaseMemory:
    newest = Remembered(
        number=release.number,
        release=release.digest,
        released_at=release.released_at,
        values=release.values,
    )
    previous = None
    if memory is not None:
        known = [each for each in (memory.newest, memory.previous) if each is not None]
        previous = next((each for each in known if each.number == release.number - 1), None)
    return ReleaseMemory(
        name=release.name,
        newest=newest,
        previous=previous,
        log=demands.log,
        size=head.size,
        root=head.root,
    )
