"""The fields of a new job: what each is, its default, its range, and what it costs. Pure.

Ranges are those of `trust.jobs.LoraRecipe` where that names one; the owner's terms may be narrower,
and say so in the quote. Money is typed in credits and kept in microcredits; nothing is a float.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Final

from tui.facts import JobDraft, Recipe
from tui.text import MICROCREDITS

TEXT_CHARACTERS_MAX: Final = 128
"""Of a field."""
UINT32_MAX: Final = (1 << 32) - 1
CREDITS_MAX: Final = 1_000_000
"""Of a cap: a slip of the hand is not a fortune."""


class FieldKind(enum.StrEnum):
    """How a field is read."""

    WHOLE = "whole"
    RATE = "rate"
    """A decimal between 0 and 1, both excluded."""
    CHOICE = "choice"
    MONEY = "money"
    NAME = "name"
    HEX = "hex"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of the form."""

    name: str
    label: str
    kind: FieldKind
    default: str
    words: str
    """What it does."""
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()

    @property
    def range_words(self) -> str:
        """What is wanted."""
        match self.kind:
            case FieldKind.WHOLE:
                return f"a whole number from {self.least:,} to {self.most:,}"
            case FieldKind.RATE:
                return "a decimal between 0 and 1, at most 12 places"
            case FieldKind.CHOICE:
                return " or ".join(self.choices)
            case FieldKind.MONEY:
                return f"credits above 0, at most {CREDITS_MAX:,}, at most 6 places"
            case FieldKind.NAME:
                return "1 to 64 of a-z, A-Z, 0-9, '.', '_', '-', a letter or digit first"
            case FieldKind.HEX:
                return "nothing, or 64 to 128 hex digits"


def _whole(name: str, label: str, default: int, least: int, most: int, words: str) -> Field:
    return Field(
        name=name,
        label=label,
        kind=FieldKind.WHOLE,
        default=str(default),
        words=words,
        least=least,
        most=most,
    )


RECIPE: Final = (
    _whole("rank", "rank", 16, 1, 256, "size; more takes more memory"),
    _whole("alpha", "alpha", 32, 1, 1024, "weight of the adapter"),
    _whole("steps", "steps", 200, 1, UINT32_MAX, "the cost grows with it"),
    _whole("rows_per_step", "rows a step", 8, 1, 1 << 16, "the cost grows with it"),
    Field(
        name="learning_rate",
        label="learning rate",
        kind=FieldKind.RATE,
        default="0.0002",
        words="costs nothing",
    ),
    _whole("length_max", "longest row", 2048, 16, 1 << 20, "tokens; more takes more memory"),
    _whole("seed", "seed", 7, 0, UINT32_MAX, "the same seed, the same run"),
    Field(
        name="precision",
        label="precision",
        kind=FieldKind.CHOICE,
        default="bf16",
        words="fp32 costs about twice as much",
        choices=("bf16", "fp32"),
    ),
    _whole(
        "checkpoint_steps", "checkpoint every", 50, 1, UINT32_MAX, "steps lost if the host dies"
    ),
)
MONEY: Final = (
    Field(
        name="name",
        label="name",
        kind=FieldKind.NAME,
        default="",
        words="your own; hosts don't see it",
    ),
    Field(
        name="spend_max",
        label="never more than",
        kind=FieldKind.MONEY,
        default="",
        words="cr, held now; the rest returns",
    ),
    Field(
        name="price_max",
        label="price at most",
        kind=FieldKind.MONEY,
        default="",
        words="cr for a GPU and hour",
    ),
    Field(
        name="image",
        label="image",
        kind=FieldKind.HEX,
        default="",
        words="empty: what the policies name",
    ),
)
FIELDS: Final[Mapping[str, Field]] = {each.name: each for each in (*RECIPE, *MONEY)}
DEFAULTS: Final[Mapping[str, str]] = {each.name: each.default for each in FIELDS.values()}

_WHOLE: Final = re.compile(r"\A[0-9]{1,10}\Z")
_RATE: Final = re.compile(r"\A0\.([0-9]{1,12})\Z")
_MONEY: Final = re.compile(r"\A([0-9]{1,7})(?:\.([0-9]{1,6}))?\Z")
_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HEX: Final = re.compile(r"\A(?:[0-9a-f]{2}){32,64}\Z")


def fault_of(field: Field, text: str) -> str:
    """Why a field's text is not taken: wanted and got; empty: it is."""
    return "" if _holds(field, text) else f"wanted {field.range_words}; got {text or 'nothing'}"


def _holds(field: Field, text: str) -> bool:
    match field.kind:
        case FieldKind.WHOLE:
            return bool(_WHOLE.match(text)) and field.least <= int(text) <= field.most
        case FieldKind.RATE:
            found = _RATE.match(text)
            return found is not None and int(found[1]) > 0
        case FieldKind.CHOICE:
            return text in field.choices
        case FieldKind.MONEY:
            amount = microcredits(text)
            return amount is not None and 0 < amount <= CREDITS_MAX * MICROCREDITS
        case FieldKind.NAME:
            return _NAME.match(text) is not None
        case FieldKind.HEX:
            return not text or _HEX.match(text) is not None


def faults_of(fields: Mapping[str, str], *, names: tuple[Field, ...]) -> dict[str, str]:
    """Faults by field, in the order of the form. A checkpoint later than the last step is one."""
    found = {}
    for field in names:
        words = fault_of(field, fields.get(field.name, ""))
        if words:
            found[field.name] = words
    if {"steps", "checkpoint_steps"} <= {each.name for each in names} - set(found):
        steps, every = int(fields["steps"]), int(fields["checkpoint_steps"])
        if every > steps:
            text = f"wanted at most the {steps:,} steps of the run; got {every:,}"
            found["checkpoint_steps"] = text
    return found


def microcredits(text: str) -> int | None:
    """Credits as typed, exactly; None: it is no amount."""
    found = _MONEY.match(text)
    if found is None:
        return None
    return int(found[1]) * MICROCREDITS + int((found[2] or "").ljust(6, "0"))


def credits_text(amount: int) -> str:
    """The text that `microcredits` reads as this amount; empty for 0."""
    if amount <= 0:
        return ""
    whole, rest = divmod(amount, MICROCREDITS)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def draft_of(fields: Mapping[str, str], *, model: str, data: str, heldout: str) -> JobDraft | None:
    """The draft that these fields make; None: some field has a fault."""
    fields = {**DEFAULTS, **fields}
    if not model or not data or faults_of(fields, names=(*RECIPE, *MONEY)):
        return None
    spend, price = microcredits(fields["spend_max"]), microcredits(fields["price_max"])
    if spend is None or price is None:
        return None
    return JobDraft(
        name=fields["name"],
        model=model,
        data=data,
        heldout=heldout,
        recipe=Recipe(
            rank=int(fields["rank"]),
            alpha=int(fields["alpha"]),
            steps=int(fields["steps"]),
            rows_per_step=int(fields["rows_per_step"]),
            learning_rate=fields["learning_rate"],
            length_max=int(fields["length_max"]),
            seed=int(fields["seed"]),
            precision=fields["precision"],
            checkpoint_steps=int(fields["checkpoint_steps"]),
        ),
        spend_max=spend,
        price_max=price,
        image=fields["image"],
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeptDraft:
    """What is kept of a draft."""

    model: str = ""
    data: str = ""
    heldout: str = ""
    offer: str = ""
    submit: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By `Field.name`; only those that have no fault."""
