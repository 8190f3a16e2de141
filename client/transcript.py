"""A transcript of one release, to open offline: evidence, policy, log entry, signed by its keeper.

- It is one JSON object, for any reader: documents stand in it whole, as base64url, so that each can
  be checked by its own rules. What a person reads beside them (``lines``) proves nothing.
- `open_transcript` needs no home, no keys and no market. The hardware's word it checks itself; that
  *this* broker released on it is its keeper's word, and carries that signature.
- No share and no key stands in it: the grant in the log entry is sealed to the enclave.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Final

from client.dry_run import Appraisal, Seated, appraise_kept, releases
from client.evidence import KeptEvidence
from client.files import HomeError, write_durably
from trust.encoding import (
    Bytes32,
    Digest,
    Document,
    UnixMilliseconds,
    base64url,
    digest,
    parse_base64url,
    parse_json,
)
from trust.errors import EncodingError, SignatureError
from trust.identity import PartyKey, Signed, verify_signed
from trust.release_state import LogEntry
from trust.verifier.policy import AppraisalPolicy

FORMAT: Final = "blindhost/v1/transcript"
FILE_BYTES_MAX: Final = 4 << 20  # evidence of 128 KiB and a log entry of 1 MiB, in base64
_FIELDS: Final = frozenset({"format", "evidence", "policy", "entry", "word", "lines"})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseWord(Document):
    """Signed by a custodian: this entry is in my release log, and this evidence is what I kept."""

    LABEL: ClassVar[str] = "client/release-word"

    market: Bytes32
    """Whom the enclave was to be metered by."""
    evidence: Digest
    """Of the `KeptEvidence`."""
    policy: Digest
    entry: Digest
    """Of the `LogEntry`: the log's chain up to it."""
    at: UnixMilliseconds
    """When this was said."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """A transcript that was opened: its parts belong together, and its word is signed."""

    kept: KeptEvidence
    policy: AppraisalPolicy
    seat: Seated
    word: Signed[ReleaseWord]

    def appraise(self, now: int) -> Appraisal:
        """The verdict at `now` (Unix milliseconds), made from what stands here alone."""
        market = self.word.document.market
        return appraise_kept(self.kept, self.policy, market, self.seat, now)


def make_transcript(
    key: PartyKey,
    market: bytes,
    kept: KeptEvidence,
    policy: AppraisalPolicy,
    seat: Seated,
    now: int,
) -> bytes:
    """A transcript as JSON, with the verdict of `now` for people."""
    word = ReleaseWord(
        market=market,
        evidence=kept.digest,
        policy=policy.digest,
        entry=seat.entry.digest,
        at=now,
    )
    verdict = appraise_kept(kept, policy, market, seat, now)
    value: dict[str, Any] = {
        "format": FORMAT,
        "evidence": base64url(kept.encode()),
        "policy": base64url(policy.encode()),
        "entry": base64url(seat.entry.encode()),
        "word": base64url(key.sign(word).encode()),
        "lines": [
            f"{each.outcome.value}: {each.id}: found {each.found}; wanted {each.wanted}"
            for each in verdict.lines
        ],
    }
    return json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n"


def write_transcript(path: Path, content: bytes) -> None:
    """Write a transcript. Raises HomeError if something has that name."""
    if path.exists():
        raise HomeError(f"{path.name} is there already; it is never overwritten")
    write_durably(path, content)


def open_transcript(content: bytes) -> Transcript:
    """Open a transcript. Its evidence is not appraised yet.

    (1) The form. (2) Each part parses, whole. (3) The word is signed, and names just these parts.
    (4) The entry is a release, by whoever signed the word: the statement in it was made for that
    verifier.

    Raises EncodingError or SignatureError.
    """
    if len(content) > FILE_BYTES_MAX:
        raise EncodingError(f"a transcript of {len(content)} bytes; at most {FILE_BYTES_MAX}")
    value = parse_json(content)  # (1)
    if not isinstance(value, dict) or set(value) != _FIELDS or value["format"] != FORMAT:
        raise EncodingError(f"no transcript: an object of format {FORMAT} is wanted")
    kept = KeptEvidence.parse(_part(value, "evidence"))  # (2)
    policy = AppraisalPolicy.parse(_part(value, "policy"))
    entry_bytes = _part(value, "entry")
    entry = LogEntry.parse(entry_bytes)
    word = verify_signed(ReleaseWord, _part(value, "word"), signer=None)  # (3)
    said = word.document
    named = (said.evidence, said.policy, said.entry)
    if named != (kept.digest, policy.digest, digest(entry_bytes)):
        raise SignatureError("the word is about other evidence, another policy or another entry")
    seats = releases([entry])  # (4)
    if not seats:
        raise EncodingError("the log entry is no release")
    (seat,) = seats
    if seat.statement.verifier != word.signer:
        raise SignatureError(
            f"the statement was made for {seat.statement.verifier.hex()[:16]}…,"
            f" the word is by {word.signer.hex()[:16]}…"
        )
    return Transcript(kept=kept, policy=policy, seat=seat, word=word)


def _part(value: dict[str, Any], name: str) -> bytes:
    text = value[name]
    if not isinstance(text, str):
        raise EncodingError(f"transcript: {name} is base64url")
    return parse_base64url(text)
