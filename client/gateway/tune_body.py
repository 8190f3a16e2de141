"""The body of a fine-tune: OpenAI's fields, read strictly, become a `TuneRequest`.

- ``"auto"`` is what is configured. Old ``hyperparameters`` and those of ``method`` say the same.
- ``learning_rate_multiplier`` is exact: a decimal as it was written, times the configured rate.
- A field of ``blindhost.recipe`` that a hyperparameter sets too is refused: one of them would lose.
"""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Mapping
from typing import Final

from client.gateway.asked import Fields, fields, missing, plain_text
from client.gateway.errors import unsupported, wrong
from client.gateway.ports import TuneRequest

UINT32_MAX: Final = (1 << 32) - 1
PAIRS_MAX: Final = 16
SUFFIX_CHARACTERS_MAX: Final = 64
DEPTH_MAX: Final = 8
_INTEGERS: Final = {"n_epochs": "epochs", "batch_size": "rows_per_step"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneBody:
    """What was asked."""

    model: str
    training: str
    heldout: str | None
    recipe: Mapping[str, object]
    manifest: Mapping[str, object]
    suffix: str
    metadata: Mapping[str, str]

    def request(self, token: str) -> TuneRequest:
        """As the port takes it."""
        return TuneRequest(
            model=self.model,
            training=self.training,
            heldout=self.heldout,
            recipe=self.recipe,
            manifest=self.manifest,
            label=self.suffix,
            metadata=self.metadata,
            token=token,
        )


def parse_tune(body: Fields) -> TuneBody:
    """Parse completely. Raises ApiError, which names the field."""
    model, training = _wanted(body, "model"), _wanted(body, "training_file")
    heldout = body.text("validation_file")
    recipe = _hyperparameters(body)
    if (seed := body.whole("seed", least=0, most=UINT32_MAX)) is not None:
        recipe["seed"] = seed
    suffix = body.text("suffix") or ""
    if len(suffix) > SUFFIX_CHARACTERS_MAX:
        raise wrong("suffix", f"suffix has at most {SUFFIX_CHARACTERS_MAX} characters")
    body.only("integrations", [])
    metadata = _metadata(body.take("metadata"))
    own, manifest = _blindhost(body.take("blindhost"))
    body.end()
    if twice := sorted(set(own) & set(recipe)):
        raise wrong(f"blindhost.recipe.{twice[0]}", f"{twice[0]} is said twice")
    return TuneBody(
        model=model,
        training=training,
        heldout=heldout,
        recipe=recipe | own,
        manifest=manifest,
        suffix=suffix,
        metadata=metadata,
    )


def _wanted(body: Fields, field: str) -> str:
    value = body.text(field)
    if value is None:
        raise missing(field)
    return value


# --- hyperparameters -----------------------------------------------------------------------------


def _hyperparameters(body: Fields) -> dict[str, object]:
    old, method = body.take("hyperparameters"), body.take("method")
    found = {} if old is None else _settings(fields(old, "hyperparameters"))
    if method is None:
        return found
    said = fields(method, "method")
    kind = said.text("type")
    if kind != "supervised":
        raise unsupported("method", "the method is 'supervised' here, nothing else")
    supervised = said.take("supervised")
    said.end()
    if supervised is None:
        return found
    within = fields(supervised, "method.supervised")
    settings = within.take("hyperparameters")
    within.end()
    if settings is None:
        return found
    newer = _settings(fields(settings, "method.supervised.hyperparameters"))
    if found and found != newer:
        raise wrong("hyperparameters", "hyperparameters and those of the method differ")
    return newer


def _settings(said: Fields) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in _INTEGERS.items():
        value = said.take(name)
        if value in (None, "auto"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= UINT32_MAX:
            raise wrong(said.name(name), f"{name} is 'auto' or a whole number from 1")
        found[field] = value
    rate = said.take("learning_rate_multiplier")
    if rate not in (None, "auto"):
        found["learning_rate_multiplier"] = _decimal(rate, said.name("learning_rate_multiplier"))
    said.end()
    return found


def _decimal(value: object, where: str) -> str:
    """A positive number as it was written, without an exponent."""
    if not isinstance(value, int | decimal.Decimal) or isinstance(value, bool):
        raise wrong(where, f"{where} is 'auto' or a number", "invalid_type")
    number = decimal.Decimal(value)
    if not 0 < number <= 1_000_000 or number.adjusted() < -12:
        raise wrong(where, f"{where} is wanted above 0, at most a million, with 12 places")
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    if len(text) > 32:
        raise wrong(where, f"{where} has too many digits")
    return text


# --- the rest ------------------------------------------------------------------------------------


def _metadata(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > PAIRS_MAX:
        raise wrong("metadata", f"metadata is an object of at most {PAIRS_MAX} pairs")
    found = {}
    for key, each in value.items():
        text = plain_text(each, "metadata")
        if len(key) > 64 or len(text) > 512:
            raise wrong("metadata", "a key has at most 64 characters, a value 512")
        found[plain_text(key, "metadata")] = text
    return found


def _blindhost(value: object) -> tuple[dict[str, object], dict[str, object]]:
    """Recipe and manifest fields to replace."""
    if value is None:
        return {}, {}
    said = fields(value, "blindhost")
    found = []
    for name in ("recipe", "manifest"):
        each = said.take(name)
        if each is not None and not isinstance(each, dict):
            raise wrong(f"blindhost.{name}", f"blindhost.{name} is an object")
        _check_plain(each, f"blindhost.{name}", 0)
        found.append(dict(each or {}))
    said.end()
    return found[0], found[1]


def _check_plain(value: object, where: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise wrong(where, f"{where} is nested too deeply")
    if isinstance(value, decimal.Decimal):
        raise wrong(where, f'{where}: a decimal is a string here, e.g. "0.0004"')
    for each in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _check_plain(each, where, depth + 1)
