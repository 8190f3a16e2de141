"""What the work of a job says, in plaintext, to the session that seals it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Every rank has its model and its rows."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The held-out rows were measured."""

    phase: str
    """``base`` or ``tuned``."""
    loss: float
    """Mean over `tokens` supervised tokens, in nats."""
    tokens: int
    rows: int
    exact_header: int
    """Rows whose reply's header is the reference's; 0 where the manifest asks for no replies."""
    exact_whole: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """One optimizer step was taken."""

    step: int
    loss: float
    """Mean over `tokens` supervised tokens of the global batch, before the step, in nats."""
    tokens: int
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointReady:
    """The run after `step`, in plaintext: the session seals it."""

    step: int
    content: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The job is done. An evaluate job has step 0 and no adapter."""

    step: int
    adapter: bytes
    tensors_digest: bytes
    """SHA-256 over the adapter's tensors; empty where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The work is over, and why. No event comes after it."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """New tokens of one reply."""

    handle: int
    ids: tuple[int, ...]
    finish: str
    """Empty while it goes on; else ``stop``, ``length`` or ``error``."""
    text: str
    """What is wrong, for ``error``."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """A serve job's engine made tokens."""

    items: tuple[Tokens, ...]


WorkEvent = Ready | Evaluated | Stepped | CheckpointReady | Generated | Finished | Failed
