"""A request's body, read strictly: what is not understood is refused by name, never passed over.

Numbers are read as decimals, because the wire has no floats: 0.1 + 0.2 arrives as 0.3.
"""

from __future__ import annotations

import dataclasses
import decimal
import json
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from client.gateway.errors import ApiError, unsupported, wrong
from trust.serving import MESSAGES_MAX, STOPS_MAX, ChatMessage, GenerateRequest

PLACES: Final = decimal.Decimal("1e-12")  # what a decimal of the wire has; floats end at 17 digits
SEED_MAX: Final = (1 << 53) - 1
TEXT_BYTES_MAX: Final = 1 << 18  # of a message or a prompt (trust.serving)
# Said by clients without meaning anything here: nothing is stored, metered by person, or tiered.
IGNORED: Final = frozenset(
    {
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    }
)


def parse_object(data: bytes) -> Fields:
    """A JSON object. Raises ApiError for anything else, and for a field that stands twice."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_float=decimal.Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object_without_duplicates,
        )
    except (ValueError, RecursionError, decimal.InvalidOperation) as error:
        raise wrong(None, "the body is not JSON", "invalid_json") from error
    if not isinstance(value, dict):
        raise wrong(None, "the body is not a JSON object", "invalid_json")
    return Fields(value)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise wrong(None, "a JSON object has a field twice", "invalid_json")
    return value


class Fields:
    """The fields of an object, each taken once; null is the same as absent."""

    def __init__(self, value: Mapping[str, object], where: str = "") -> None:
        self._value = {name: each for name, each in value.items() if each is not None}
        self._where = where

    def name(self, field: str) -> str:
        """The field as errors name it."""
        return self._where + field[:64]

    def take(self, field: str) -> object:
        """Whatever it is; None: absent."""
        return self._value.pop(field, None)

    def text(self, field: str) -> str | None:
        """A string."""
        value = self.take(field)
        if value is None:
            return None
        return plain_text(value, self.name(field))

    def flag(self, field: str) -> bool:
        """A boolean; absent is false."""
        value = self.take(field)
        if value is not None and not isinstance(value, bool):
            raise _kind(self.name(field), "a boolean", value)
        return bool(value)

    def whole(self, field: str, *, least: int, most: int) -> int | None:
        """An integer within its bounds."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise _kind(self.name(field), "an integer", value)
        if not least <= value <= most:
            raise wrong(self.name(field), f"{field} is wanted from {least} to {most}")
        return value

    def number(self, field: str, *, most: int) -> str | None:
        """A number from 0 to `most`, as the wire's decimal: 12 places, no zeros at its end."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, int | decimal.Decimal) or isinstance(value, bool):
            raise _kind(self.name(field), "a number", value)
        if not 0 <= value <= most:  # before it is written out: 1e999999 is short, and long
            raise wrong(self.name(field), f"{field} is wanted from 0 to {most}")
        places = decimal.Decimal(value).quantize(PLACES)
        return format(places, "f").rstrip("0").rstrip(".")

    def only(self, field: str, *allowed: object) -> None:
        """A field that may have these values, which change nothing, and no others."""
        value = self.take(field)
        if value is not None and not any(
            type(value) is type(each) and value == each for each in allowed
        ):
            raise unsupported(self.name(field))

    def off(self, field: str) -> None:
        """A switch that may be false alone."""
        if self.flag(field):
            raise unsupported(self.name(field))

    def zero(self, field: str) -> None:
        """A number that may be 0 alone."""
        if self.number(field, most=2) not in {None, "0"}:
            raise unsupported(self.name(field))

    def end(self, ignored: frozenset[str] = frozenset()) -> None:
        """Nothing else is there. Raises ApiError for the first field that is."""
        if rest := sorted(set(self._value) - ignored):
            raise unsupported(self.name(rest[0]))


def plain_text(value: object, where: str) -> str:
    """A string of a length that the wire carries, and that UTF-8 can hold."""
    if not isinstance(value, str):
        raise _kind(where, "a string", value)
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise wrong(where, f"{where} has half of a surrogate pair: no text") from error
    if length > TEXT_BYTES_MAX:
        raise wrong(
            where,
            f"{where} has {length} bytes; at most {TEXT_BYTES_MAX}",
            "string_above_max_length",
        )
    return value


def items(value: object, where: str) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise _kind(where, "a list", value)
    return value


def fields(value: object, where: str) -> Fields:
    """An object."""
    if not isinstance(value, dict):
        raise _kind(where, "an object", value)
    return Fields(value, where + ".")


def text_parts(value: object, where: str, types: frozenset[str]) -> str:
    """Content: a string, or a list of parts of text, one after another."""
    if isinstance(value, str):
        return plain_text(value, where)
    if not isinstance(value, list):
        raise _kind(where, "a string or a list of text parts", value)
    texts = []
    for index, each in enumerate(value):
        place = f"{where}[{index}]"
        part = fields(each, place)
        if part.text("type") not in types:
            raise unsupported(f"{place}.type", "parts of content are text here, nothing else")
        text = part.text("text")
        if text is None:
            raise missing(f"{place}.text")
        texts.append(text)
        part.only("annotations", [])
        part.only("logprobs", [])
        part.end()
    return plain_text("".join(texts), where)


def missing(where: str) -> ApiError:
    """A field that is wanted, and is not there."""
    return wrong(where, f"{where} is missing", "missing_required_parameter")


def _kind(where: str, wanted: str, found: object) -> ApiError:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    text = f"{where}: {wanted} is wanted, got {names.get(type(found), 'a number')}"
    return wrong(where, text, "invalid_type")


# --- what all shapes have in common --------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to write."""

    tokens_max: int | None
    """None: as many as the model may."""
    temperature: str
    top_p: str
    seed: int | None
    stop: tuple[str, ...]


def sampling(body: Fields, *tokens_fields: str) -> Sampling:
    """Take the fields that say how to write; `tokens_fields` are names of the reply's limit."""
    said = [(name, body.whole(name, least=1, most=(1 << 32) - 1)) for name in tokens_fields]
    limits = {limit for _, limit in said if limit is not None}
    if len(limits) > 1:
        raise wrong(tokens_fields[0], f"{' and '.join(tokens_fields)} differ")
    top_p = body.number("top_p", most=1) or "1"
    if top_p == "0":
        raise wrong("top_p", "top_p is wanted above 0, at most 1")
    return Sampling(
        tokens_max=limits.pop() if limits else None,
        temperature=body.number("temperature", most=2) or "1",
        top_p=top_p,
        seed=body.whole("seed", least=0, most=SEED_MAX),
        stop=_stops(body.take("stop")),
    )


def _stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else items(value, "stop")
    if len(listed) > STOPS_MAX:
        raise wrong("stop", f"stop has at most {STOPS_MAX} strings")
    stops = tuple(plain_text(each, f"stop[{index}]") for index, each in enumerate(listed))
    if not all(1 <= len(each.encode("utf-8")) <= 256 for each in stops):
        raise wrong("stop", "a string to stop at has 1 to 256 bytes")
    return stops


def check_count(messages: Sequence[object], where: str) -> None:
    """Raises ApiError for no messages, or too many."""
    if not 1 <= len(messages) <= MESSAGES_MAX:
        raise wrong(where, f"{where} has {len(messages)} entries; wanted 1 to {MESSAGES_MAX}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What was asked, in any of the three shapes."""

    model: str
    messages: tuple[ChatMessage, ...] | None
    """None where `prompt` is given."""
    prompt: str | None
    how: Sampling
    is_stream: bool
    has_usage: bool
    """Usage is wanted at a stream's end."""
    extras: Mapping[str, object]
    """What this shape's answer says again."""

    def request(self, *, reply_tokens_max: int) -> GenerateRequest:
        """The request's body; its adapter is the port's to name."""
        return GenerateRequest(
            adapter=None,
            messages=self.messages,
            prompt=self.prompt,
            tokens_max=self.how.tokens_max or reply_tokens_max,
            temperature=self.how.temperature,
            top_p=self.how.top_p,
            seed=self.how.seed,
            stop=self.how.stop,
        )
