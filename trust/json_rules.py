"""Strict JSON with floats, and the rules that make a closed schema.

- A rule takes where a value stands and the value, and raises DocumentError unless it fits.
- Numbers are finite and of bounded length, keys stand once, nesting is at most `DEPTH_MAX`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from trust.errors import DocumentError, EncodingError

DEPTH_MAX: Final = 12  # a tokenizer.json of ours has 6
NUMBER_CHARACTERS_MAX: Final = 40

Rule = Callable[[str, Any], None]


def parse_strict_json(name: str, data: bytes) -> Any:
    """Parse JSON whose numbers are finite and whose keys stand once.

    Raises EncodingError that begins with `name`.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lambda pairs: _once(name, pairs),
            parse_float=_float,
            parse_int=_int,
            parse_constant=_refuse_constant,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise EncodingError(f"{name}: not JSON ({type(error).__name__})") from error
    _check_depth(name, value, 0)
    return value


def _once(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise EncodingError(f"{name}: an object has a key twice")
    return value


def _float(text: str) -> float:
    if len(text) > NUMBER_CHARACTERS_MAX or not math.isfinite(float(text)):
        raise EncodingError(f"a number that no schema of ours has: {text[:24]}")
    return float(text)


def _int(text: str) -> int:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise EncodingError(f"an integer of {len(text)} digits; at most {NUMBER_CHARACTERS_MAX}")
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise EncodingError(f"{text} is not JSON")


def _check_depth(name: str, value: object, depth: int) -> None:
    if not isinstance(value, dict | list):
        return
    if depth > DEPTH_MAX:
        raise EncodingError(f"{name}: nested deeper than {DEPTH_MAX}")
    for item in value.values() if isinstance(value, dict) else value:
        _check_depth(name, item, depth + 1)


def wrong(where: str, value: object, wanted: str) -> NoReturn:
    """Raise DocumentError: what was found and what was wanted."""
    shown = repr(value)
    shown = shown if len(shown) <= 64 else f"{shown[:61]}…"
    raise DocumentError(f"{where}: {shown}; wanted {wanted}")


def integer(least: int, most: int) -> Rule:
    """An integer within bounds, and no boolean."""

    def rule(where: str, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            wrong(where, value, f"an integer from {least} to {most}")

    return rule


def number(least: float, most: float) -> Rule:
    """A number within bounds, and no boolean."""

    def rule(where: str, value: Any) -> None:
        if type(value) not in {int, float} or not least <= value <= most:
            wrong(where, value, f"a number from {least} to {most}")

    return rule


def one_of(*allowed: object) -> Rule:
    """One of these values, of the same type."""

    def rule(where: str, value: Any) -> None:
        if not any(type(value) is type(each) and value == each for each in allowed):
            wrong(where, value, " or ".join(json.dumps(each) for each in allowed))

    return rule


def text(most: int) -> Rule:
    """Text of at most `most` characters."""

    def rule(where: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > most:
            wrong(where, value, f"text of at most {most} characters")

    return rule


def matching(expression: str) -> Rule:
    """Text that matches the expression as a whole."""

    def rule(where: str, value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(expression, value):
            wrong(where, value, f"text of the form {expression}")

    return rule


def list_of(item: Rule, *, most: int, least: int = 0) -> Rule:
    """A list of so many items, each by one rule."""

    def rule(where: str, value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            wrong(where, value, f"a list of {least} to {most}")
        for index, each in enumerate(value):
            item(f"{where}[{index}]", each)

    return rule


def mapping_of(item: Rule, *, most: int, key: str = r"(?s).{1,512}") -> Rule:
    """An object with any keys of one form, each value by one rule."""

    def rule(where: str, value: Any) -> None:
        if not isinstance(value, dict) or len(value) > most:
            wrong(where, value, f"an object of at most {most}")
        for name, each in value.items():
            if not re.fullmatch(key, name):
                wrong(where, name, f"keys of the form {key}")
            item(where, each)

    return rule


def object_of(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """An object with all of `required`, and nothing beside `optional`."""
    known = {**required, **(optional or {})}

    def rule(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            wrong(where, value, "an object")
        if unknown := sorted(set(value) - set(known)):
            raise DocumentError(f"{where}: unknown key {unknown[0][:64]!r}")
        if missing := sorted(set(required) - set(value)):
            raise DocumentError(f"{where}: missing key {missing[0]!r}")
        for name, each in value.items():
            known[name](f"{where}.{name}", each)

    return rule


def either(*rules: Rule) -> Rule:
    """Any of these; the last one's error is the one that is shown."""

    def rule(where: str, value: Any) -> None:
        for each in rules[:-1]:
            try:
                return each(where, value)
            except DocumentError:
                continue
        return rules[-1](where, value)

    return rule


def typed(kinds: Callable[[], Mapping[str, Mapping[str, Rule]]]) -> Rule:
    """An object whose `type` says which keys it has."""

    def rule(where: str, value: Any) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in kinds():
            wrong(f"{where}.type", kind, " or ".join(kinds()))
        object_of({"type": one_of(kind), **kinds()[kind]})(where, value)

    return rule
