"""The short list of what may leave the enclave, and in what shape.

What leaves: sealed artifacts (ciphertext), their manifests and checkpoint reports, progress sealed
to the buyer, and receipts. Nothing else has a function here, and nothing else has a way out.

Rules (attacks.md, 5 and 10):
- Every number about the model is an output of the model. A mean leaves if it is over at least
  `report_tokens_min` supervised tokens of at least `report_rows_min` rows, rounded to 0.01; at most
  `reports_max` of them in a run, and no more than the custodians' allowances. Scores count too.
  What may not leave is left out, and the run goes on.
- A row counts once in a mean: a dataset of few rows, repeated, makes no more rows.
- When progress is sent depends on the manifest and the terms, never on what the rows hold.
- A record is signed by the attested key *inside*, padded to a multiple of `PADDING_BYTES`, and
  sealed to the key that the job manifest names. Errors about rows take this way and no other.
- Terms are checked here too, although the brokers did: the enclave enforces what it was given.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final, Protocol

from enclave_runtime.grants import least
from trust.encoding import label_bytes
from trust.errors import RefusedError
from trust.identity import PartyKey
from trust.jobs import GenerateRecipe, JobManifest, LoraRecipe, Terms
from trust.messages import CheckpointAt, Measure, Progress, ProgressEvent, SealedProgress
from trust.sealing import hpke_seal

PADDING_BYTES: Final = 256  # wire-objects §5: a record's length tells its kind and little more
PROGRESS_RECORDS_MAX: Final = 500  # records about steps in one run; a curve needs no more points
TEXT_CHARACTERS_MAX: Final = 256  # room for a line number and a reason, not for a tensor
VALUE_MAX: Final = 1e9  # a loss above this has diverged; its digits would be a channel
SCREEN_TEXT: Final = "terms that name a screen are refused until screening exists"


def check_terms(job: JobManifest, terms: Terms) -> None:
    """Refuse a job that its terms do not allow.

    (1) No screen: it could not be kept. (2) The recipe is listed, (3) within its rank and steps.
    (4) Replies, of evaluations too, are no longer than the output terms say.

    Raises RefusedError: ``screen``, ``recipe``, ``rank``, ``steps`` or ``reply``.
    """
    if terms.screen is not None:  # (1)
        raise RefusedError("screen", SCREEN_TEXT)
    recipe = job.recipe
    limits = next((each for each in terms.recipes if each.recipe == recipe.TAG), None)
    if limits is None:  # (2)
        allowed = ", ".join(each.recipe for each in terms.recipes)
        raise RefusedError("recipe", f"recipe {recipe.TAG}; the terms allow {allowed}")
    if isinstance(recipe, LoraRecipe):  # (3)
        if recipe.rank > limits.rank_max:
            raise RefusedError("rank", f"rank {recipe.rank}; the terms allow {limits.rank_max}")
        if job.steps > limits.steps_max:
            raise RefusedError("steps", f"{job.steps} steps; the terms allow {limits.steps_max}")
    writes = recipe if isinstance(recipe, GenerateRecipe) else recipe.evaluation
    if writes is not None:  # (4)
        reply, most = writes.reply_tokens_max, terms.output.reply_tokens_max
        if reply > most:
            raise RefusedError("reply", f"replies of {reply} tokens; the terms allow {most}")


# --- losses and scores ---------------------------------------------------------------------------


class EvaluatedEvent(Protocol):
    """What an evaluation measured (enclave_runtime.work)."""

    @property
    def phase(self) -> str: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def exact_header(self) -> int: ...  # noqa: D102
    @property
    def exact_whole(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(kw_only=True, slots=True)
class _Window:
    """Steps whose mean has not left yet."""

    weighted: float = 0.0
    tokens: int = 0
    rows: int = 0


class Reports:
    """Which losses and scores leave. Deterministic: the same events give the same reports."""

    def __init__(self, job: JobManifest, terms: Terms) -> None:
        self._job, self._terms = job, terms
        self._window = _Window()
        self.used = 0
        """Reports that left in this run."""
        self.refused = 0
        """Reports that were large enough and were refused by the number."""
        rows = job.recipe.rows_per_step if isinstance(job.recipe, LoraRecipe) else 1
        self._every = max(-(-terms.report_rows_min // rows), -(-job.steps // PROGRESS_RECORDS_MAX))

    def is_due(self, step: int) -> bool:
        """Whether a record about steps is sent after this one: public counts alone decide."""
        return step % self._every == 0 or step == self._job.steps

    def stepped(self, loss: float, tokens: int, rows: int) -> None:
        """Take one step's mean loss over `tokens` supervised tokens of `rows` rows."""
        window = self._window
        window.weighted += loss * tokens
        window.tokens += tokens
        window.rows = min(window.rows + rows, self._job.rows)

    def take_loss(self, allowed: int | None) -> tuple[Measure, ...]:
        """The mean over all steps since the last one, if it may leave; it goes on growing if not.

        `allowed` is what the custodians' allowances still give; None: no bound.
        """
        window = self._window
        if not self._is_wide(window.tokens, window.rows):
            return ()
        self._window = _Window()
        mean = window.weighted / window.tokens
        return self._admit([("loss", mean)], window.tokens, window.rows, allowed)

    def take_evaluation(self, event: EvaluatedEvent, allowed: int | None) -> tuple[Measure, ...]:
        """An evaluation's loss and scores, as far as they may leave."""
        evaluation = self._job.recipe.evaluation
        if evaluation is None or not self._is_wide(event.tokens, event.rows):
            return ()
        found = [(f"loss_{event.phase}", event.loss)]
        if evaluation.reply_tokens_max:
            found.append((f"exact_whole_{event.phase}", event.exact_whole / event.rows))
            if evaluation.header_ends_with:
                found.append((f"exact_header_{event.phase}", event.exact_header / event.rows))
        return self._admit(found, event.tokens, event.rows, allowed)

    def _is_wide(self, tokens: int, rows: int) -> bool:
        return tokens >= self._terms.report_tokens_min and rows >= self._terms.report_rows_min

    def _admit(
        self, found: list[tuple[str, float]], tokens: int, rows: int, allowed: int | None
    ) -> tuple[Measure, ...]:
        left = least(self._terms.reports_max - self.used, allowed)
        assert left is not None
        measures = [
            Measure(measure=name, value=text, over_tokens=tokens, over_rows=rows)
            for name, value in found
            if (text := rounded(value)) is not None
        ]
        kept = measures[: max(0, left)]
        self.used += len(kept)
        self.refused += len(measures) - len(kept)
        return tuple(kept)


def rounded(value: float) -> str | None:
    """A number as a decimal, rounded to 0.01; None if it is no finite number from 0 to 10⁹."""
    if not math.isfinite(value) or not 0 <= value <= VALUE_MAX:
        return None
    return f"{value + 0.0:.2f}"


# --- progress ------------------------------------------------------------------------------------


class ProgressLog:
    """Numbered records for the buyer, each signed, padded and sealed."""

    def __init__(
        self, *, job: JobManifest, generation: int, rank: int, signing_key: PartyKey
    ) -> None:
        self._job, self._name = job, job.digest
        self._generation, self._rank, self._key = generation, rank, signing_key
        self._number = 0

    def record(
        self,
        event: ProgressEvent,
        *,
        step: int,
        tokens: int,
        milliseconds: int,
        measures: tuple[Measure, ...] = (),
        text: str = "",
        tensors: bytes | None = None,
        resumed_from: CheckpointAt | None = None,
    ) -> bytes:
        """The next record as a message for the buyer's box: a `SealedProgress`, encoded."""
        self._number += 1
        progress = Progress(
            job=self._name,
            generation=self._generation,
            rank=self._rank,
            number=self._number,
            event=event,
            step=step,
            steps=self._job.steps,
            tokens=tokens,
            milliseconds=milliseconds,
            measures=measures,
            text=shown(text),
            tensors=tensors,
            resumed_from=resumed_from,
        )
        padded = pad(self._key.sign(progress).encode())
        info = label_bytes("progress") + self._name
        sealed = hpke_seal(padded, self._job.progress_key, info=info)
        return SealedProgress(job=self._name, sealed=sealed).encode()


def pad(content: bytes) -> bytes:
    """``u32be length ‖ content ‖ zeros``, to the next multiple of `PADDING_BYTES`."""
    padded = len(content).to_bytes(4, "big") + content
    return padded + bytes(-len(padded) % PADDING_BYTES)


def shown(text: str) -> str:
    """A text cut to `TEXT_CHARACTERS_MAX` printable ASCII characters; others become ``?``."""
    kept = text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 3] + "..."
    return "".join(c if " " <= c <= "~" else "?" for c in kept)
