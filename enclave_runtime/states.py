"""The states of a session, and the one table of what moves a verifier from state to state.

- A pair of state and event that has no row changes nothing, for any sender and any content.
- The run's own states have no table: each is left in one place, named in `Session`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Mapping
from typing import Final

from enclave_runtime.grants import Bound
from trust.artifacts import Manifest
from trust.identity import Signed
from trust.messages import CheckpointAt, FollowUp, FollowUpKind, Purpose, Scope, Statement


class VerifierState(enum.Enum):
    """How far one verifier has been asked."""

    GREETING = "greeting"
    CHALLENGED = "challenged"
    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"


class RunState(enum.Enum):
    """How far the run is."""

    OPENING = "opening"
    CHOOSING = "choosing"
    """All granted; the stated checkpoint's manifest or a share of it is still wanted."""
    RUNNING = "running"
    REOPENING = "reopening"
    CLOSING = "closing"
    ENDED = "ended"


class Answer(enum.Enum):
    """What can happen to a verifier."""

    CHALLENGE = "challenge"
    EVIDENCE = "evidence"
    """Ours, made by the hardware."""
    GRANT = "grant"
    METERED = "metered"
    REFUSED = "refused"
    STALE = "stale"
    ACKNOWLEDGEMENT = "acknowledgement"
    POSTED = "posted"


TRANSITIONS: Final[Mapping[tuple[Purpose, VerifierState, Answer], VerifierState]] = {
    (Purpose.RELEASE, VerifierState.GREETING, Answer.CHALLENGE): VerifierState.CHALLENGED,
    (Purpose.RELEASE, VerifierState.CHALLENGED, Answer.EVIDENCE): VerifierState.ASKED,
    (Purpose.RELEASE, VerifierState.ASKED, Answer.GRANT): VerifierState.GRANTED,
    (Purpose.RELEASE, VerifierState.ASKED, Answer.STALE): VerifierState.GREETING,
    (Purpose.RELEASE, VerifierState.ASKED, Answer.REFUSED): VerifierState.REFUSED,
    # Answers to follow-ups: the seat stays granted, whatever they are.
    (Purpose.RELEASE, VerifierState.GRANTED, Answer.GRANT): VerifierState.GRANTED,
    (Purpose.RELEASE, VerifierState.GRANTED, Answer.REFUSED): VerifierState.GRANTED,
    (Purpose.RELEASE, VerifierState.GRANTED, Answer.ACKNOWLEDGEMENT): VerifierState.GRANTED,
    (Purpose.METER, VerifierState.GREETING, Answer.CHALLENGE): VerifierState.CHALLENGED,
    (Purpose.METER, VerifierState.CHALLENGED, Answer.EVIDENCE): VerifierState.ASKED,
    (Purpose.METER, VerifierState.ASKED, Answer.METERED): VerifierState.GRANTED,
    (Purpose.METER, VerifierState.ASKED, Answer.STALE): VerifierState.GREETING,
    (Purpose.METER, VerifierState.ASKED, Answer.REFUSED): VerifierState.REFUSED,
    (Purpose.METER, VerifierState.GRANTED, Answer.POSTED): VerifierState.GRANTED,
}


# --- what is known of one verifier ---------------------------------------------------------------


@dataclasses.dataclass(kw_only=True, slots=True)
class Asking:
    """A follow-up that waits for its answer."""

    follow_up: FollowUp
    artifacts: tuple[Signed[Manifest], ...]
    scopes: frozenset[Scope]


@dataclasses.dataclass(kw_only=True, slots=True)
class Verifier:
    """One relying party, and how far it has been asked."""

    identity: bytes
    purpose: Purpose
    state: VerifierState = VerifierState.GREETING
    nonce: bytes | None = None
    """Of the newest challenge; once granted, the granted statement's."""
    nonces: set[bytes] = dataclasses.field(default_factory=set)
    statement: Statement | None = None
    greetings: int = 0
    stated: CheckpointAt | None = None
    bound: Bound | None = None
    allowed_steps: int = 0
    """Steps that the newest allowance added."""
    allowed_tokens: int = 0
    """Likewise, tokens."""
    asked_at: set[tuple[str, int]] = dataclasses.field(default_factory=set)
    """Where more allowance was asked for: once when it ran low and once at zero, for each bound."""
    number: int = 0
    renumbered: int = 0
    asking: Asking | None = None
    queue: deque[tuple[FollowUpKind, tuple[Signed[Manifest], ...]]] = dataclasses.field(
        default_factory=deque
    )
    closed: bool = False

    def wants(self, kind: FollowUpKind) -> bool:
        """A follow-up of this kind is asked, or waits to be."""
        asked = self.asking is not None and self.asking.follow_up.kind is kind
        return asked or any(queued is kind for queued, _artifacts in self.queue)
