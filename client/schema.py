"""JSON Schema (draft 2020-12) of our documents, made from the types that check them.

Rules:
- The type is the truth and the schema its picture: `json_schema` reads the same annotations as
  `trust.encoding` does, and a test compares the published file with it.
- What a schema cannot say (rules between fields) stands in a class's docstring, which becomes its
  description. Lengths of texts are in UTF-8 bytes, and a schema counts characters: its bound is
  therefore the looser one.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import textwrap
import types
import typing
from typing import Annotated, Any, Final

from trust.encoding import Json, Pattern, Range, Size, Struct

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Final[dict[Any, str]] = {int: "integer", bool: "boolean", str: "string"}


def json_schema(document: type[Struct], *, title: str) -> dict[str, Json]:
    """The schema of a document's JSON, with a definition for each struct in it."""
    definitions: dict[str, Json] = {}
    reference = _struct(document, definitions)
    return {"$schema": DIALECT, "title": title, **reference, "$defs": dict(definitions)}


def _struct(kind: type[Struct], definitions: dict[str, Json]) -> dict[str, Json]:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # stands for itself while its own fields are read
        hints = typing.get_type_hints(kind, include_extras=True)
        words = _field_words(kind)
        properties: dict[str, Json] = {}
        for field in dataclasses.fields(kind):
            schema = _schema(hints[field.name], definitions)
            if field.name in words:
                schema = {**schema, "description": words[field.name]}
            properties[field.name] = schema
        if kind.TAG is not None:
            properties["name"] = {"const": kind.TAG}
        definitions[name] = {
            "type": "object",
            "description": inspect.cleandoc(kind.__doc__ or ""),
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _schema(annotation: Any, definitions: dict[str, Json]) -> dict[str, Json]:
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [_schema(each, definitions) for each in typing.get_args(annotation)]}
    if origin is Annotated:
        base, *limits = typing.get_args(annotation)
        schema = _schema(base, definitions)
        for limit in limits:
            schema |= _limit(limit, base)
        return schema
    if origin is tuple:
        item, _ellipsis = typing.get_args(annotation)
        return {"type": "array", "items": _schema(item, definitions)}
    if annotation is type(None):
        return {"type": "null"}
    if annotation is bytes:
        return {"type": "string", "contentEncoding": "base64url", "pattern": "^[A-Za-z0-9_-]*$"}
    if issubclass(annotation, enum.Enum):
        return {"enum": [each.value for each in annotation]}
    if issubclass(annotation, Struct):
        return _struct(annotation, definitions)
    return {"type": _PLAIN[annotation]}


def _limit(limit: object, base: Any) -> dict[str, Json]:
    match limit:
        case Range(least=least, most=most):
            return {"minimum": least, "maximum": most}
        case Pattern(expression=expression):
            return {"pattern": f"^(?:{expression})$"}
        case Size(least=least, most=most) if typing.get_origin(base) is tuple:
            return {"minItems": least, "maxItems": most}
        case Size(least=least, most=most) if base is bytes:
            return {"minLength": _characters(least), "maxLength": _characters(most)}
        case Size(most=most):
            return {"maxLength": most}
        case _:
            raise AssertionError(f"unknown limit {limit!r}")


def _characters(length: int) -> int:
    """Of base64url without padding (RFC 4648 §5)."""
    return (length * 8 + 5) // 6


def _field_words(kind: type) -> dict[str, str]:
    """The text that stands below each field in its class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    words: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            words[field.target.id] = inspect.cleandoc(below.value.value)
    return words
