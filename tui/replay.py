"""Facts in a file: one JSON object a line. A hub that replays them, and one that records.

``{"after": 120, "fact": "Balance", "free": 41200000, …}``: `after` is milliseconds since the line
before. Replay shows a recorded job screen exactly as it stood; commands do nothing, and say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final

from client.text import clean
from tui.commands import Command, Look, LookAway, Search
from tui.facts import FACTS, Fact, Failure, OfferPage

LINE_BYTES_MAX: Final = 4 << 20
KINDS: Final = {kind.__name__: kind for kind in FACTS}


class ReplayError(ValueError):
    """A line of a recording that is no fact; says which line, and why."""


def encode(fact: Fact, *, after: int = 0) -> str:
    """One line."""
    value = {"after": after, "fact": type(fact).__name__} | _plain(fact)
    return json.dumps(value, sort_keys=False, separators=(",", ":"))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    match value:
        case enum.Enum():
            return value.value
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value


def decode(lines: Iterable[str]) -> Iterator[tuple[int, Fact]]:
    """Milliseconds and facts. Raises ReplayError at the first line that is none."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            kind, after = KINDS[value.pop("fact")], int(value.pop("after"))
            yield after, _built(kind, value)
        except (KeyError, TypeError, ValueError) as error:
            raise ReplayError(f"line {number}: {type(error).__name__}: {error}") from error


def _built(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} is wanted")
    if value.keys() != hints.keys():
        odd = sorted(value.keys() ^ hints.keys())
        raise ValueError(f"{kind.__name__}: fields {odd} differ")
    return kind(**{name: _value(hints[name], each) for name, each in value.items()})


@functools.cache
def _hints(kind: Hashable) -> Mapping[str, Any]:
    """Fields and their types: evaluated once, because a page has hundreds of rows of one kind."""
    return typing.get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        if value is None and type(None) in typing.get_args(hint):
            return None
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return tuple(_value(parts[0], each) for each in value)
        return tuple(_value(part, each) for part, each in zip(parts, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return _built(typing.cast("type[Any]", hint), value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is str and isinstance(value, str):
        return clean(value, limit=1 << 16, keep="\n\t")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{type(value).__name__} where {hint.__name__} is wanted")
    return value


class Replay:
    """A hub that tells recorded facts; `speed` 0: all at once. It keeps what it was asked."""

    def __init__(self, facts: Iterable[tuple[int, Fact]], *, speed: float = 0.0) -> None:
        self._facts, self._speed = list(facts), speed
        self._arrive: Callable[[Fact], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.asked: list[Command] = []
        self._told: list[Fact] = []

    def start(self, arrive: Callable[[Fact], None]) -> None:
        """Begin to tell."""
        self._arrive = arrive
        self._task = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        for after, fact in self._facts:
            if self._speed:
                await asyncio.sleep(after / 1000 / self._speed)
            self.tell(fact)

    def tell(self, fact: Fact) -> None:
        """Tell one fact now."""
        self._told.append(fact)
        if self._arrive is not None:
            self._arrive(fact)

    def post(self, command: Command) -> None:
        """A recording can't act."""
        self.asked.append(command)
        known = self._known(command)
        if self._arrive is not None:
            for fact in known:
                self._arrive(fact)
        if not known and not isinstance(command, Look | LookAway) and self._facts:
            as_of = self._facts[-1][1].as_of
            words = "a recording is shown here: nothing was done"
            failure = Failure(
                as_of=as_of, where=command.id, code="replay", words=words, retry_in=None
            )
            self.tell(failure)

    def _known(self, command: Command) -> list[Fact]:
        """What was told already and answers this, as the port promises."""
        match command:
            case Look():
                return list(self._told)
            case Search(query=query, sort=sort):
                asked = (query, sort)
                pages = [each for each in self._told if isinstance(each, OfferPage)]
                return [each for each in pages if (each.query, each.sort) == asked]
            case _:
                return []

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
