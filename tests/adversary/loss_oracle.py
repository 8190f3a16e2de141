"""The published attack on reported losses (docs/attacks.md, 5): the output embedding's space.

A buyer who trains at rate 0 on rows with one supervised token is told ``-log p(label | prompt)``.
Over prompts × labels these are ``h · w - log Z``: after centring each prompt's row, a matrix of the
model's hidden rank, whose row space is the column space of the (centred) output embedding of these
labels. Whoever has it knows the hidden size, and each embedding up to one small linear map.

Where a report is a mean over at least `tokens_min` tokens, the attacker puts one row that it asks
about among fillers that are the same each time: they shift every answer by one constant, and
centring takes that away. What is left is the rounding, times the tokens of a report.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is asked: every label after every prompt, prompt by prompt; then the fillers."""

    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    """Texts of one token each."""
    fillers: int
    """Rows of a report beside the one that is asked about."""

    @property
    def count(self) -> int:
        """Questions without fillers."""
        return len(self.prompts) * len(self.labels)

    def rows(self) -> bytes:
        """The buyer's dataset, JSONL: questions, then fillers."""
        asked = [(prompt, label) for prompt in self.prompts for label in self.labels]
        asked += [(f"filler {n}", self.labels[n % len(self.labels)]) for n in range(self.fillers)]
        return "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": label},
                    ]
                }
            )
            + "\n"
            for prompt, label in asked
        ).encode()


def log_probabilities(answers: Sequence[float | None], questions: Questions) -> Matrix:
    """Answers as prompts × labels. A prompt that was not answered whole is left out."""
    wide = len(questions.labels)
    rows = [answers[start : start + wide] for start in range(0, questions.count, wide)]
    return -np.array([row for row in rows if len(row) == wide and None not in row], dtype=float)


def row_space(logs: Matrix, hidden: int) -> Matrix:
    """An orthonormal basis, [hidden or fewer, labels], of what `logs` says of the embedding."""
    centred = logs - logs.mean(axis=1, keepdims=True)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    rank = int((sizes > sizes[0] * 1e-9).sum())
    return np.asarray(directions[: min(hidden, rank)])


def hidden_size(logs: Matrix) -> int:
    """Where the singular values fall off most."""
    centred = logs - logs.mean(axis=1, keepdims=True)
    sizes = np.linalg.svd(centred, compute_uv=False)[:-1]
    return int(np.argmax(sizes[:-1] / np.maximum(sizes[1:], 1e-300))) + 1


def relative_error(basis: Matrix, embedding: Matrix) -> float:
    """How much of the embedding [labels, hidden], centred, lies outside the basis: 0 to 1."""
    centred = embedding - embedding.mean(axis=0)
    outside = centred - basis.T @ (basis @ centred)
    return float(np.linalg.norm(outside) / np.linalg.norm(centred))


def unmixed(means: Iterable[float | None], tokens: int) -> list[float | None]:
    """Sums out of means over `tokens` tokens: the answer, and the fillers' constant."""
    return [None if mean is None else mean * tokens for mean in means]
