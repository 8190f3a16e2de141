"""What was asked and not yet answered: messages can be lost, so a question is sent again.

Rules:
- A question has a key; asking under the same key replaces it, an answer removes it.
- It is sent again after `RESEND_MS_FIRST`, then after twice as long each time, at most every
  `RESEND_MS_MAX`. Everybody who is asked answers a repetition as it answered the first.
- After `WAIT_TOLD_MS` without an answer it is said, once, for whom the run waits; after
  `WAIT_MS_MAX` the run gives up.
- Time is a parameter: milliseconds of the enclave's monotonic clock.
"""

from __future__ import annotations

import dataclasses
from typing import Final

RESEND_MS_FIRST: Final = 5_000  # a broker on a laptop needs a second or two to verify and decide
RESEND_MS_MAX: Final = 60_000
WAIT_TOLD_MS: Final = 30_000  # longer than any answer takes, short enough to be useful
WAIT_MS_MAX: Final = 24 * 3_600_000  # a mailbox keeps a message for as long
QUESTIONS_MAX: Final = 1024  # 64 uncommitted checkpoints × 8 custodians, and a few more


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A message that wants an answer."""

    peer: bytes
    payload: bytes
    what: str
    """What is waited for, in words for people."""
    asked_ms: int
    due_ms: int
    pause_ms: int
    told: bool


class Questions:
    """The open questions of a session."""

    def __init__(self) -> None:
        self._open: dict[tuple[object, ...], Question] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: tuple[object, ...]) -> bool:
        return key in self._open

    def ask(
        self, key: tuple[object, ...], *, peer: bytes, payload: bytes, what: str, clock_ms: int
    ) -> None:
        """Note a question that is being sent now."""
        assert len(self._open) < QUESTIONS_MAX, "more open questions than a session can have"
        self._open[key] = Question(
            peer=peer,
            payload=payload,
            what=what,
            asked_ms=clock_ms,
            due_ms=clock_ms + RESEND_MS_FIRST,
            pause_ms=RESEND_MS_FIRST,
            told=False,
        )

    def answered(self, key: tuple[object, ...]) -> None:
        """Drop a question; an unknown key is no error, since answers repeat too."""
        self._open.pop(key, None)

    def drop_all_but(self, kind: str) -> None:
        """Drop every question whose key does not begin with `kind`."""
        self._open = {key: each for key, each in self._open.items() if key[0] == kind}

    def due(self, clock_ms: int) -> list[Question]:
        """Questions to send again now; each is noted as sent."""
        again = []
        for key, each in self._open.items():
            if each.due_ms <= clock_ms:
                pause = min(2 * each.pause_ms, RESEND_MS_MAX)
                again.append(each)
                self._open[key] = dataclasses.replace(each, due_ms=clock_ms + pause, pause_ms=pause)
        return again

    def untold(self, clock_ms: int) -> list[Question]:
        """Questions that have waited long enough to be told of; each is returned once."""
        found = []
        for key, each in self._open.items():
            if not each.told and clock_ms - each.asked_ms >= WAIT_TOLD_MS:
                self._open[key] = dataclasses.replace(each, told=True)
                found.append(each)
        return found

    def hopeless(self, clock_ms: int) -> Question | None:
        """A question that nobody answered within `WAIT_MS_MAX`; None if there is none."""
        old = (q for q in self._open.values() if clock_ms - q.asked_ms >= WAIT_MS_MAX)
        return next(old, None)
