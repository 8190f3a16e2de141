"""What a session asks its shell to do. The shell does it and calls back; it decides nothing."""

from __future__ import annotations

import dataclasses

from trust.artifacts import Manifest
from trust.messages import CheckpointAt, End, ServeRequest, Statement


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Send a message to a party's box."""

    peer: bytes
    payload: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NeedEvidence:
    """Have the hardware sign this statement, then call `evidence_ready`."""

    statement: Statement


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NeedManifest:
    """Fetch the manifest with this artifact id, then call `manifest_ready`."""

    artifact: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GotKeys:
    """The vault holds every share: fill the inputs, then call `begun`."""

    at: CheckpointAt | None
    """Where to start; None: at the beginning."""
    manifest: Manifest | None
    """The checkpoint's manifest, with `at`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MayRun:
    """The run may take steps up to and including this one."""

    until: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """Every custodian acknowledged this checkpoint."""

    step: int
    artifact: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OutputsGranted:
    """The vault holds the outputs' own shares: reopen them, then call `reopened` or `end`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeAsked:
    """A client asks something of a serve job; whether it may, opening it tells."""

    client: bytes
    request: ServeRequest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeCancelled:
    """A client wants a reply no more."""

    client: bytes
    exchange: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Nobody answered for a while; for people to know for whom the run waits."""

    peer: bytes
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """The run is over: stop the work and forget the keys; the closing goes on."""

    end: End
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """Nothing is left to say: exit."""

    end: End


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ignored:
    """A message that changed nothing, and why."""

    reason: str


Action = (
    Send
    | NeedEvidence
    | NeedManifest
    | GotKeys
    | MayRun
    | Committed
    | OutputsGranted
    | ServeAsked
    | ServeCancelled
    | Waiting
    | Stopping
    | Closed
    | Ignored
)
