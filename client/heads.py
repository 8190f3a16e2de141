"""Is this log the newest of its custodian? The question that a broker asks before it releases.

- A broker that was restored or copied does not know it; others do: a place of its own outside its
  backups, the market, and the other custodians of its jobs.
- Another custodian answers by a signed `HeadSeen` that names the very head that it was shown, so an
  old answer, or one that the market made up, is worth nothing.
- The answer is the newest head that was kept *before* the shown one: a log that went on from an old
  copy may be the longer one by now, and only its own broker can tell that its chain is another.
- Who once saw that it is behind notes that in its own place, and knows it after a restart.
- Whoever withholds an answer stops the release of shares, and gains none.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final

from client.release_log import HeadPlace, ReleaseLog
from trust.encoding import Bytes32, Digest, Document
from trust.errors import SessionError
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import Attachment, LogHead
from trust.release_state import Standing

SHOWN_MAX: Final = 256  # heads that were shown and may still be answered


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeadSeen(Document):
    """Custodian → custodian, signed: the newest head of yours that I ever saw."""

    LABEL: ClassVar[str] = "head/seen"

    custodian: Bytes32
    """Who answers."""
    shown: Digest
    """The head that it was shown, which made it answer."""
    newest: Attachment
    """Signed `LogHead` of the one that asked."""


class HeadKeeper:
    """What this broker knows of its own newest head, and keeps of others'."""

    def __init__(self, log: ReleaseLog, place: HeadPlace, key: PartyKey) -> None:
        self._log, self._place, self._key = log, place, key
        self._shown: dict[bytes, None] = {}
        self.standing = Standing.CURRENT
        self.heard: frozenset[bytes] = frozenset()
        """Custodians that answered since this start."""
        for kept in (place.newest(key.identity), place.ahead(key.identity)):
            if kept is not None:
                self.compare(kept)

    def own(self, now: int) -> Signed[LogHead]:
        """The head of this log, signed, and kept in the own place."""
        head = self._log.head(self._key, now=now)
        if self.standing is Standing.CURRENT:
            self._place.keep(head)
        return head

    def show(self, now: int) -> Signed[LogHead]:
        """A head to show to another custodian: only an answer that names it counts."""
        head = self.own(now)
        while len(self._shown) >= SHOWN_MAX:
            del self._shown[next(iter(self._shown))]
        self._shown[head.digest] = None
        return head

    def compare(self, head: Signed[LogHead]) -> None:
        """Somebody's head of this custodian. Behind it, nothing is released any more."""
        if self._log.is_behind(head.document):
            self.standing = Standing.BEHIND
            self._place.note_ahead(head)

    def answer(self, shown: Signed[LogHead]) -> Signed[HeadSeen]:
        """Keep another custodian's head, and tell it the newest one of its."""
        newest = self._place.newest(shown.signer) or shown
        self._place.keep(shown)
        return self._key.sign(
            HeadSeen(custodian=self._key.identity, shown=shown.digest, newest=newest.encode())
        )

    def take(self, seen: Signed[HeadSeen]) -> None:
        """Another custodian's answer. Raises SessionError, SignatureError."""
        said = seen.document
        if said.custodian != seen.signer:
            raise SessionError("a head seen by somebody else than its signer")
        if said.shown not in self._shown:
            raise SessionError("an answer to a head that was not shown since this start")
        newest = verify_signed(LogHead, said.newest, signer=self._key.identity)
        self.compare(newest)
        self.heard |= {seen.signer}
