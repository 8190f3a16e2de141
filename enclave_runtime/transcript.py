"""A reply's tokens as text, piece by piece: what may be shown now, and where it stops.

- Text is decoded from a little before what is new, because a token's text may depend on the one
  before it; what ends in half a character waits for the next token (as text-generation servers do:
  vLLM, ``detokenize_incrementally``).
- What could be the beginning of a stop string waits too, so that none is ever shown.
- With stop strings each token is looked at alone: which one completed a stop does not depend on
  how the tokens came in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

HALF: Final = "\ufffd"  # what a decoder writes for bytes that are no character yet

Decode = Callable[[Sequence[int]], str]


class Transcript:
    """The text of one reply."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._ids: list[int] = []
        self._before = self._decoded = 0  # of these ids: where decoding begins, what was shown
        self._held = ""
        self.stopped = False
        """A stop string came: nothing more is shown."""

    @property
    def tokens(self) -> int:
        """Tokens up to the one that ended the reply."""
        return len(self._ids)

    def take(self, ids: Sequence[int], decode: Decode, *, last: bool) -> str:
        """The text that may be shown after these tokens; `last`: no more will come."""
        pieces = [ids[i : i + 1] for i in range(len(ids))] if self._stops else [ids]
        shown = ""
        for piece in pieces:
            if self.stopped:
                return shown
            self._ids += piece
            shown += self._admit(self._new_text(decode, last=False))
        if last and not self.stopped:
            shown += self._admit(self._new_text(decode, last=True))
            if not self.stopped:
                shown, self._held = shown + self._held, ""
        return shown

    def _new_text(self, decode: Decode, *, last: bool) -> str:
        if self._decoded == len(self._ids):
            return ""
        known = decode(self._ids[self._before : self._decoded])
        whole = decode(self._ids[self._before :])
        if (whole.endswith(HALF) and not last) or len(whole) <= len(known):
            return ""
        self._before, self._decoded = self._decoded, len(self._ids)
        return whole[len(known) :]

    def _admit(self, text: str) -> str:
        """What of the held and the new text may be shown; notes a stop."""
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
