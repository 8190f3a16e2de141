"""Make the golden vectors of evidence again. Run it, and git must see no change.

`python -m tests.vectors.evidence.build` writes every file and takes away what no script makes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from tests.vectors.evidence.format import BASES, HERE, PLATFORMS, Scenario, written

MODULES = tuple(f"tests.vectors.evidence.{name}" for name in PLATFORMS)


def bases(modules: Iterable[str] = MODULES) -> dict[str, bytes]:
    """Files of bases/, by their path."""
    found: dict[str, Any] = {}
    for module in modules:
        for name, value in importlib.import_module(module).BASES.items():
            assert name not in found, name
            found[name] = value
    return {f"{BASES.name}/{name}.json": written(value) for name, value in found.items()}


def scenarios(modules: Iterable[str] = MODULES) -> tuple[Scenario, ...]:
    """All scenarios. Two of one platform never have one name."""
    made = tuple(s for module in modules for s in importlib.import_module(module).SCENARIOS)
    names = [(each.platform, each.name) for each in made]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, twice
    assert {each.platform for each in made} <= set(PLATFORMS)
    return made


def files(modules: Iterable[str] = MODULES) -> dict[str, bytes]:
    """All files by their path below here."""
    made = bases(modules)
    for each in scenarios(modules):
        made[f"{each.platform}/{each.name}.json"] = written(each.as_json())
    return made


def stored_files() -> set[str]:
    """Paths of all vectors that are there."""
    return {
        str(path.relative_to(HERE))
        for folder in (BASES.name, *PLATFORMS)
        for path in (HERE / folder).glob("*.json")
    }


def main() -> None:
    """Write them."""
    made = files()
    for path in stored_files() - set(made):
        (HERE / path).unlink()
    for path, content in made.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(content)


if __name__ == "__main__":
    main()
