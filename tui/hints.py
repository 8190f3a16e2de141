"""Sentences about checks, refusals and stages, from ``data/hints.toml``; never from a host.

- A check's hint says what it means, and what an attacker gains where it is not made.
- A refusal's hint says who can end it; a stage's who acts, and what to change after it failed.
- An id without a hint gets none: a screen shows the id, and no sentence that was made up.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).with_name("data") / "hints.toml"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckHint:
    """One check of an appraisal."""

    means: str
    gains: str
    """What an attacker gains if it were skipped."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RefusalHint:
    """One ground on which a custodian releases nothing."""

    means: str
    ends: str
    """Who can end it, and how."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageHint:
    """One stage of a job."""

    means: str
    waits: str
    """For whom it waits, and what ends the wait."""
    fault: str
    """Whose fault a failure here is: ``host``, ``buyer``, ``platform``, ``custodian``."""
    change: str
    """What to change after it failed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """All of them, by id."""

    checks: Mapping[str, CheckHint]
    refusals: Mapping[str, RefusalHint]
    stages: Mapping[str, StageHint]


@functools.cache
def hints() -> Hints:
    """The file that is shipped. Raises TypeError for an entry with a field too few or too many."""
    with PATH.open("rb") as file:
        value: dict[str, dict[str, dict[str, Any]]] = tomllib.load(file)
    return Hints(
        checks={key: CheckHint(**each) for key, each in value["check"].items()},
        refusals={key: RefusalHint(**each) for key, each in value["refusal"].items()},
        stages={key: StageHint(**each) for key, each in value["stage"].items()},
    )


def check_hint(check: str) -> CheckHint | None:
    """What a check means; None: nobody wrote it down."""
    return hints().checks.get(check)


def refusal_hint(code: str) -> RefusalHint | None:
    """What a refusal means; None: nobody wrote it down."""
    return hints().refusals.get(code)
