"""Makes checks in the order of their dependencies, and lets no judge end the others.

Rules:
- Unread is *unknown*; a parent that failed skips its children, and its children's children.
- A judge that trips over what it read (hostile, or a kernel that we do not know) is *unknown* too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from provider_agent.doctor.check import (
    Check,
    Outcome,
    Row,
    Severity,
    Status,
    clean_text,
    shown,
)
from provider_agent.doctor.context import Context, NotApplicableError
from provider_agent.doctor.view import UnreadError
from provider_agent.errors import AgentError

_TRIPS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a judge may do with content that no kernel of ours ever wrote."""


def make_checks(
    rows: Sequence[Row], context: Context, *, only: Iterable[str] = ()
) -> tuple[Check, ...]:
    """Make every check, or those in `only` and what they depend on. In the order of `rows`.

    A parent stands before its children (a test looks at the rows). Raises AgentError for an id in
    `only` that no row has.
    """
    known = {row.id: row for row in rows}
    wanted = _with_parents(known, tuple(only)) or set(known)
    made: dict[str, Check] = {}
    for row in rows:
        if row.id in wanted:
            made[row.id] = _make(row, context, made)
    return tuple(made.values())


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row of this id. Raises AgentError."""
    for row in rows:
        if row.id == name:
            return row
    near = [row.id for row in rows if name.rpartition(".")[2] in row.id]
    hint = f"; near it: {', '.join(near[:6])}" if near else ""
    raise AgentError(f"no check is called {clean_text(name, most=60)!r}{hint}")


def first_causes(checks: Sequence[Check]) -> tuple[Check, ...]:
    """What to look at, worst first: failed before unknown before warned, blockers before others."""
    order = (Status.FAIL, Status.UNKNOWN, Status.WARN)
    severities = list(Severity)
    found = [each for each in checks if each.status in order]
    return tuple(
        sorted(found, key=lambda c: (severities.index(c.row.severity), order.index(c.status)))
    )


def _with_parents(known: Mapping[str, Row], names: tuple[str, ...]) -> set[str]:
    wanted: set[str] = set()
    todo = list(names)
    while todo:
        row = find_row(tuple(known.values()), todo.pop())
        if row.id not in wanted:
            wanted.add(row.id)
            todo += row.depends_on
    return wanted


def _make(row: Row, context: Context, made: Mapping[str, Check]) -> Check:
    for parent in row.depends_on:
        above = made[parent]
        if above.status is Status.FAIL or above.cause is not None:
            cause = above.cause or parent
            return _check(row, Status.SKIP, note=f"skipped because {cause} failed", cause=cause)
    above_all = [made[parent] for parent in row.depends_on]
    if above_all and all(each.status is Status.SKIP for each in above_all):
        return _check(row, Status.SKIP, note=above_all[0].note)
    try:
        outcome: Outcome = row.judge(context)
    except NotApplicableError as error:
        return _check(row, Status.SKIP, note=clean_text(str(error)))
    except UnreadError as error:
        return _check(row, Status.UNKNOWN, read_error=clean_text(str(error)))
    except _TRIPS as error:
        reason = f"what was read is none that we know: {type(error).__name__}"
        return _check(row, Status.UNKNOWN, read_error=reason)
    required = row.required if outcome.required is None else outcome.required
    if outcome.status is Status.UNKNOWN:
        return _check(row, Status.UNKNOWN, note=outcome.note)
    return Check(
        row=row,
        status=outcome.status,
        actual=outcome.actual,
        required=shown(required),
        note=None if outcome.note is None else clean_text(outcome.note),
    )


def _check(
    row: Row,
    status: Status,
    *,
    read_error: str | None = None,
    note: str | None = None,
    cause: str | None = None,
) -> Check:
    return Check(
        row=row,
        status=status,
        actual=None,
        required=row.required,
        read_error=read_error,
        note=note,
        cause=cause,
    )
