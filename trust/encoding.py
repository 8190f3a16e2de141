"""Canonical encoding: one value has one sequence of bytes, and anything else is refused.

Rules (docs/spec/encoding.md):
- A *document* is ``label ‖ 0x00 ‖ JSON``; label = ``blindhost/v1/<name>``; JSON is RFC 8785.
- Values: integers 0 … 2⁵³-1, booleans, strings, null, lists, objects. No floats: decimals are
  strings. Bytes are base64url without padding. Times are Unix milliseconds, UTC.
- Every field is present; unknown, missing and duplicate fields are refused; a document that does
  not re-encode to its own bytes is refused. A document has at most `DOCUMENT_BYTES_MAX` bytes.
- A document's *digest* is the SHA-256 of those bytes.

A document type is a frozen dataclass that derives from `Document`. Field types are built from
``int``, ``bool``, ``str``, ``bytes``, enums, ``X | None``, ``tuple[X, ...]`` and `Struct`, narrowed
by the annotations below: the type says everything that is checked when a document is parsed, and
the same checks run when one is made.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self, cast

import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trust.errors import DocumentError, EncodingError, SizeLimitError

LABEL_PREFIX: Final = "blindhost/v1/"
DOCUMENT_BYTES_MAX: Final = 1 << 20  # a manifest of 140 GB names its segment list by digest
DEPTH_MAX: Final = 16  # deepest document of ours has 6
INTEGER_MAX: Final = (1 << 53) - 1  # what every JSON reader keeps exactly (RFC 8785 §3.2.2.3)
KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32

_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?")
_LABEL = re.compile(r"[a-z][a-z0-9-]*(/[a-z][a-z0-9-]*)*")


# --- narrowing annotations -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Length of bytes, of a string in UTF-8 bytes, or of a list."""

    least: int
    most: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Bounds of an integer, both included."""

    least: int
    most: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pattern:
    """A regular expression that a string matches as a whole."""

    expression: str


Bytes16 = Annotated[bytes, Size(least=16, most=16)]
Bytes32 = Annotated[bytes, Size(least=32, most=32)]
Bytes64 = Annotated[bytes, Size(least=64, most=64)]
Digest = Annotated[bytes, Size(least=DIGEST_BYTES, most=DIGEST_BYTES)]
Uint16 = Annotated[int, Range(least=0, most=(1 << 16) - 1)]
Uint32 = Annotated[int, Range(least=0, most=(1 << 32) - 1)]
Uint53 = Annotated[int, Range(least=0, most=INTEGER_MAX)]
Count = Annotated[int, Range(least=1, most=(1 << 32) - 1)]
UnixMilliseconds = Uint53
Microcredits = Uint53
Decimal = Annotated[str, Pattern(expression=_DECIMAL.pattern)]
Name = Annotated[str, Pattern(expression=r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")]
Text = Annotated[str, Size(least=0, most=4096)]


# --- bytes and text ------------------------------------------------------------------------------


def base64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse_base64url(text: str) -> bytes:
    """Decode strictly: no padding, no white space, no other alphabet, no stray bits."""
    try:
        data = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise EncodingError(f"not base64url: {_shown(text)}") from error
    if base64url(data) != text:
        raise EncodingError(f"not the canonical base64url of its bytes: {_shown(text)}")
    return data


def parse_hex(text: str) -> bytes:
    """Decode lower-case hexadecimal, nothing else."""
    if not re.fullmatch(r"([0-9a-f]{2})*", text):
        raise EncodingError(f"not lower-case hexadecimal: {_shown(text)}")
    return bytes.fromhex(text)


def digest(data: bytes) -> bytes:
    """SHA-256 of `data`: 32 bytes."""
    return hashlib.sha256(data).digest()


def label_bytes(name: str) -> bytes:
    """``blindhost/v1/<name>`` and the zero byte that ends it."""
    if not _LABEL.fullmatch(name):
        raise EncodingError(f"not a label: {_shown(name)}")
    return (LABEL_PREFIX + name).encode("ascii") + b"\x00"


def labelled_digest(name: str, *parts: bytes) -> bytes:
    """SHA-256 of ``label ‖ 0x00 ‖ (u32be length ‖ part)…``: 32 bytes."""
    return digest(label_bytes(name) + b"".join(_prefixed(part) for part in parts))


def derive(keys: tuple[bytes, ...], name: str, *arguments: bytes | int) -> bytes:
    """HKDF-SHA256 (RFC 5869) over 32-byte keys one after another, with an empty salt.

    ``info`` is ``label ‖ 0x00 ‖ (u32be length ‖ bytes)`` for each argument; an integer is u64be.
    Returns 32 bytes. Raises EncodingError if a key has another length: a short key is never padded.
    """
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise EncodingError(f"derive {name}: every key has {KEY_BYTES} bytes, and there is one")
    info = label_bytes(name) + b"".join(
        _prefixed(a.to_bytes(8, "big") if isinstance(a, int) else a) for a in arguments
    )
    kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
    return kdf.derive(b"".join(keys))


def _prefixed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}… ({len(text)} characters)"


# --- JSON ----------------------------------------------------------------------------------------

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def canonical_json(value: Json) -> bytes:
    """Encode by RFC 8785. Raises EncodingError for floats, big integers and lone surrogates."""
    _check_json(value, depth=0)
    try:
        return rfc8785.dumps(cast(Any, value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise EncodingError(f"cannot be canonical JSON: {error}") from error


def parse_canonical_json(data: bytes, *, bytes_max: int = DOCUMENT_BYTES_MAX) -> Json:
    """Parse JSON that is already canonical; anything else is refused, duplicates included."""
    if len(data) > bytes_max:
        raise SizeLimitError(f"JSON of {len(data)} bytes; at most {bytes_max}")
    value = parse_json(data)
    if canonical_json(value) != data:
        raise EncodingError("JSON is not canonical (RFC 8785), or has a field twice")
    return value


def parse_json(data: bytes) -> Json:
    """Parse JSON of our value set, canonical or not; duplicates are refused."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise EncodingError(f"not JSON: {type(error).__name__}") from error
    except ValueError as error:  # int() refuses numbers of over 4,300 digits
        raise EncodingError("not JSON: a number with too many digits") from error
    _check_json(value, depth=0)
    return cast(Json, value)


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise EncodingError("a JSON object has a field twice")
    return value


def _refuse_number(text: str) -> typing.NoReturn:
    raise EncodingError(f"numbers are integers here: got {_shown(text)}")


def _check_json(value: object, *, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise EncodingError(f"JSON is nested deeper than {DEPTH_MAX}")
    match value:
        case None | bool() | str():
            return
        case int():
            if not 0 <= value <= INTEGER_MAX:
                raise EncodingError(f"integer out of 0…2^53-1: {_shown(value)}")
        case list():
            for item in value:
                _check_json(item, depth=depth + 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise EncodingError(f"a field's name is a string: got {_shown(key)}")
                _check_json(item, depth=depth + 1)
        case _:
            raise EncodingError(f"no JSON value of ours: {type(value).__name__}")


# --- typed documents -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Struct:
    """A frozen dataclass with a fixed set of typed fields; the building block of documents.

    A struct that stands in a union carries a ``TAG``: its value is the field ``name`` in JSON, and
    tells the members of the union apart.
    """

    TAG: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for name, annotation in _fields(type(self)).items():
            _encode(annotation, getattr(self, name), f"{type(self).__name__}.{name}")
        self._check()

    def _check(self) -> None:
        """Rules between fields; a subclass overrides it. Raises DocumentError."""

    def to_json(self) -> dict[str, Json]:
        """The object as it stands in JSON."""
        value: dict[str, Json] = {} if self.TAG is None else {"name": self.TAG}
        for name, annotation in _fields(type(self)).items():
            value[name] = _encode(annotation, getattr(self, name), name)
        return value

    @classmethod
    def from_json(cls, value: Json, *, where: str = "") -> Self:
        """Parse completely, or raise DocumentError that names the field."""
        where = where or cls.__name__
        if not isinstance(value, dict):
            raise DocumentError(f"{where}: an object is wanted, got {type(value).__name__}")
        annotations = _fields(cls)
        wanted = set(annotations) | (set() if cls.TAG is None else {"name"})
        if unknown := sorted(set(value) - wanted):
            raise DocumentError(f"{where}: unknown field {_shown(unknown[0])}")
        if missing := sorted(wanted - set(value)):
            raise DocumentError(f"{where}: missing field {missing[0]!r}")
        if cls.TAG is not None and value["name"] != cls.TAG:
            raise DocumentError(f"{where}: name is {_shown(value['name'])}, wanted {cls.TAG!r}")
        return cls(**{n: _decode(a, value[n], f"{where}.{n}") for n, a in annotations.items()})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Document(Struct):
    """A struct with a label of its own, so that it can be named by digest and signed."""

    LABEL: ClassVar[str]

    def encode(self) -> bytes:
        """``label ‖ 0x00 ‖ canonical JSON``. Raises SizeLimitError above `DOCUMENT_BYTES_MAX`."""
        data = label_bytes(self.LABEL) + canonical_json(cast(Json, self.to_json()))
        if len(data) > DOCUMENT_BYTES_MAX:
            raise SizeLimitError(f"{self.LABEL}: {len(data)} bytes; at most {DOCUMENT_BYTES_MAX}")
        return data

    @property
    def digest(self) -> bytes:
        """SHA-256 of the encoded document: its name everywhere."""
        return digest(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the one canonical encoding of a document of this label; refuse all else."""
        if len(data) > DOCUMENT_BYTES_MAX:
            raise SizeLimitError(f"{cls.LABEL}: {len(data)} bytes; at most {DOCUMENT_BYTES_MAX}")
        label = label_bytes(cls.LABEL)
        if not data.startswith(label):
            found = data.partition(b"\x00")[0][:64]
            raise DocumentError(f"label is {found!r}, wanted {(LABEL_PREFIX + cls.LABEL)!r}")
        return cls.from_json(parse_canonical_json(data[len(label) :]))


_FIELDS: Final[dict[type[Struct], dict[str, Any]]] = {}


def _fields(cls: type[Struct]) -> Mapping[str, Any]:
    """Field name -> annotation, in the order of the class; looked up once for each class."""
    if cls not in _FIELDS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _FIELDS[cls] = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return _FIELDS[cls]


def _union(annotation: object) -> tuple[Any, ...] | None:
    origin = typing.get_origin(annotation)
    return typing.get_args(annotation) if origin in (typing.Union, types.UnionType) else None


def _encode(annotation: Any, value: object, where: str) -> Json:
    """Check `value` against `annotation`, and return it as JSON."""
    if members := _union(annotation):
        return _encode_union(members, value, where)
    if typing.get_origin(annotation) is Annotated:
        base, *limits = typing.get_args(annotation)
        encoded = _encode(base, value, where)
        for limit in limits:
            _check_limit(limit, value, where)
        return encoded
    if typing.get_origin(annotation) is tuple:
        (item, _ellipsis) = typing.get_args(annotation)
        if not isinstance(value, tuple):
            raise DocumentError(f"{where}: a tuple is wanted, got {type(value).__name__}")
        return [_encode(item, each, f"{where}[{i}]") for i, each in enumerate(value)]
    if not _is_instance(value, annotation):
        raise DocumentError(f"{where}: {_kind(annotation)} is wanted, got {type(value).__name__}")
    match value:
        case Struct():
            return cast(Json, value.to_json())
        case bytes():
            return base64url(value)
        case enum.Enum():
            return cast(str, value.value)
        case _:
            return cast(Json, value)


def _encode_union(members: tuple[Any, ...], value: object, where: str) -> Json:
    if value is None and type(None) in members:
        return None
    for member in members:
        base = typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member
        if (typing.get_origin(base) or base) is tuple or _is_instance(value, base):
            return _encode(member, value, where)
    raise DocumentError(f"{where}: {type(value).__name__} is none of its types")


def _decode(annotation: Any, value: Json, where: str) -> Any:
    """Turn JSON into the type that `annotation` names; the caller's constructor checks limits."""
    if members := _union(annotation):
        return _decode_union(members, value, where)
    if typing.get_origin(annotation) is Annotated:
        return _decode(typing.get_args(annotation)[0], value, where)
    if typing.get_origin(annotation) is tuple:
        (item, _ellipsis) = typing.get_args(annotation)
        if not isinstance(value, list):
            raise DocumentError(f"{where}: a list is wanted, got {type(value).__name__}")
        return tuple(_decode(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation.from_json(value, where=where)
    if annotation is bytes:
        if not isinstance(value, str):
            raise DocumentError(f"{where}: base64url is wanted, got {type(value).__name__}")
        try:
            return parse_base64url(value)
        except EncodingError as error:
            raise DocumentError(f"{where}: {error}") from error
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        try:
            return annotation(value)
        except ValueError as error:
            allowed = ", ".join(str(m.value) for m in annotation)
            raise DocumentError(f"{where}: {_shown(value)}; wanted one of {allowed}") from error
    if not _is_instance(value, annotation):
        raise DocumentError(f"{where}: {_kind(annotation)} is wanted, got {type(value).__name__}")
    return value


def _decode_union(members: tuple[Any, ...], value: Json, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    rest = [member for member in members if member is not type(None)]
    if len(rest) == 1:
        return _decode(rest[0], value, where)
    tag = value.get("name") if isinstance(value, dict) else None
    for member in rest:
        if tag is not None and tag == member.TAG:
            return member.from_json(value, where=where)
    raise DocumentError(f"{where}: {_shown(tag)} is none of {', '.join(m.TAG for m in rest)}")


def _is_instance(value: object, annotation: Any) -> bool:
    if annotation is int:  # True is an int to Python, and not to us
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _kind(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(f"{where}: half a surrogate pair is no text") from error


def _check_limit(limit: object, value: Any, where: str) -> None:
    match limit:
        case Size(least=least, most=most):
            length = len(_utf8(value, where)) if isinstance(value, str) else len(value)
            if not least <= length <= most:
                raise DocumentError(f"{where}: length {length}, wanted {least} to {most}")
        case Range(least=least, most=most):
            if not least <= value <= most:
                raise DocumentError(f"{where}: {value}, wanted {least} to {most}")
        case Pattern(expression=expression):
            if not re.fullmatch(expression, value):
                raise DocumentError(f"{where}: {_shown(value)} is not of the form {expression}")
        case _:
            raise AssertionError(f"unknown limit {limit!r}")
