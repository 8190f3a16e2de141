"""What the gateway's routes need of the rest of the client: two small ports.

- `client.serving` fills `ServePort`: sealed requests to attested enclaves.
- `client.tuning` fills `TunePort`: datasets sealed, jobs signed and submitted, followed, stopped.
- Tests fill both in memory. Routes know nothing of markets, keys or evidence.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from marketplace.wire import JobState
from trust.errors import BlindhostError
from trust.serving import Finish, GenerateRequest


class NotFoundError(BlindhostError):
    """Nothing has this name here."""


class UnavailableError(BlindhostError):
    """Nobody can answer now: no enclave serves this model, or it is not reached. Ask again."""


class CutOffError(BlindhostError):
    """A reply that ended without its authenticated last frame: it is an error, never an end."""


# --- inference -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealedTo:
    """The enclave that a model's requests are sealed to now: it was verified for this client."""

    chip: bytes | None
    """64 bytes, by its evidence; None if that names no chip."""
    generation: int
    verified_at: int
    """Unix milliseconds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model that can be asked for by name."""

    name: str
    """``<base>`` or ``ft:<base>:<first 16 hex digits of the adapter's id>``."""
    created_at: int
    """Unix seconds."""
    job: str
    """The serve job, hex."""
    adapter: bytes | None
    """Artifact id; None: the base."""
    length_max: int
    """Tokens of prompt and reply together."""
    reply_tokens_max: int
    sealed_to: SealedTo | None
    """None: nothing was asked yet, so nobody was verified."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What came of a reply since the last piece."""

    text: str
    finish: Finish | None
    """With the last piece alone."""


class ServePort(Protocol):
    """Enclaves that serve this buyer."""

    async def models(self) -> Sequence[ServedModel]:
        """What can be asked for now, newest first."""
        ...

    def generate(self, model: str, body: GenerateRequest) -> AsyncIterator[Piece]:
        """Ask, and get the reply piece by piece; `body.adapter` is filled in from `model`.

        The last piece has a `Finish`, whose reason may be ERROR. Closing the iterator cancels the
        request in the enclave. Raises NotFoundError, UnavailableError, CutOffError.
        """
        ...


# --- jobs ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A dataset that was uploaded here, and sealed at once."""

    id: str
    """``file-<first 32 hex digits of the artifact's id>``."""
    name: str
    size: int
    """Bytes of the plaintext."""
    rows: int
    purpose: str
    created_at: int
    """Unix seconds."""
    artifact: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneRequest:
    """A fine-tune to submit. What is not said here comes from the gateway's configured defaults."""

    model: str
    """Name of a base in the gateway's configuration."""
    training: str
    """File id."""
    heldout: str | None
    """File id; None: no evaluation."""
    recipe: Mapping[str, object]
    """Fields of `trust.jobs.LoraRecipe` to replace, as JSON has them; and
    `learning_rate_multiplier`, a decimal in a string: times the configured rate."""
    manifest: Mapping[str, object]
    """Fields of `trust.jobs.JobManifest` to replace, e.g. ``spend_max_microcredits``."""
    label: str
    """For people and for the client that asked; it never leaves this machine."""
    metadata: Mapping[str, str]
    """Likewise."""
    token: str
    """The same token again is the same submission: nothing runs or is charged twice."""


class TuneEventKind(enum.StrEnum):
    """What an event tells."""

    STATE = "state"
    MEASURE = "measure"
    CHECKPOINT = "checkpoint"
    TEXT = "text"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneEvent:
    """One thing that happened to a job, numbered from 1, as the enclave sealed it to the buyer."""

    number: int
    at: int
    """Unix milliseconds when it was heard here."""
    kind: TuneEventKind
    text: str
    step: int
    steps: int
    measures: Mapping[str, float]
    """CHECKPOINT has none; MEASURE e.g. ``loss``."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneJob:
    """A job as this buyer sees it."""

    job: str
    """Digest, hex."""
    state: JobState
    message: str
    """What it waits for, or why it ended."""
    code: str
    """FAILED: a stable word; else empty."""
    model: str
    tuned_model: str | None
    """Name to chat with, once it is done (`ServedModel.name`)."""
    training: str
    heldout: str | None
    created_at: int
    """Unix milliseconds."""
    finished_at: int | None
    trained_tokens: int | None
    recipe: Mapping[str, object]
    label: str
    metadata: Mapping[str, str]


class TunePort(Protocol):
    """The buyer's own datasets and jobs."""

    async def base_models(self) -> Sequence[str]:
        """Names that `TuneRequest.model` may have."""
        ...

    async def add_file(self, path: Path, *, name: str, purpose: str) -> StoredFile:
        """Check every row, seal, keep the ciphertext; the plaintext at `path` is the caller's.

        Raises client.dataset.RowError for the first broken line, which it names.
        """
        ...

    async def files(self) -> Sequence[StoredFile]:
        """All, newest first."""
        ...

    def read_file(self, file: str) -> AsyncIterator[bytes]:
        """The plaintext, opened again with the buyer's own key. Raises NotFoundError."""
        ...

    async def delete_file(self, file: str) -> None:
        """Forget it here. Raises NotFoundError."""
        ...

    async def submit(self, request: TuneRequest) -> TuneJob:
        """Submit, once for each token. Raises NotFoundError, RefusedError, MarketRefusedError."""
        ...

    async def job(self, job: str) -> TuneJob:
        """Raises NotFoundError."""
        ...

    async def jobs(self) -> Sequence[TuneJob]:
        """All that were submitted here, newest first."""
        ...

    async def events(self, job: str, *, after: int) -> Sequence[TuneEvent]:
        """What happened after event number `after`, oldest first. Raises NotFoundError."""
        ...

    async def cancel(self, job: str) -> bool:
        """Stop it for good; False: it had ended before. Raises NotFoundError."""
        ...

    async def forget(self, job: str) -> bool:
        """Show an ended job no more; False: it has not ended. Raises NotFoundError."""
        ...
