"""Any fact, built from its class by hypothesis: texts are hostile, numbers are large."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing

from hypothesis import strategies as st

from tests.tui.rig import NOW
from tui.facts import FACTS, STAGES, Fact

IDS = ("", "b0" * 32, "b1" * 32, "offr_01", "owner", "demo", "ft:demo:01")
HOSTILE = (
    "",
    "plain",
    "\x1b]52;c;AAAA\x07",
    "[@click=app.quit]x[/]",
    "\u202eabc",
    "\x9b2J",
    "日本語",
)


def _of(hint: object) -> st.SearchStrategy[object]:
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return st.one_of(*(_of(each) for each in typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return st.lists(_of(parts[0]), max_size=4).map(tuple)
        return st.tuples(*(_of(each) for each in parts))
    if hint is type(None):
        return st.none()
    if dataclasses.is_dataclass(hint):
        return built(typing.cast("type", hint))
    assert isinstance(hint, type)
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.one_of(st.integers(0, 5), st.integers(0, 10**15))
    assert hint is str, hint
    return st.one_of(st.sampled_from(IDS), st.sampled_from(HOSTILE), st.sampled_from(STAGES))


def built(kind: type) -> st.SearchStrategy[object]:
    """A dataclass, each field by its type; a fact's `as_of` is about now."""
    hints = typing.get_type_hints(kind)
    fields = {each.name: _of(hints[each.name]) for each in dataclasses.fields(kind)}
    if issubclass(kind, Fact):
        fields["as_of"] = st.integers(NOW - 100_000, NOW + 1_000)
    return st.builds(kind, **fields)


def facts(*kinds: type[Fact]) -> st.SearchStrategy[Fact]:
    """Any fact of these kinds; of all, where none is named."""
    return st.one_of(*(built(each) for each in kinds or FACTS))
