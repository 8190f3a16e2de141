"""Checks for a person: first causes first, remedies by vendor, counts, and what can be offered.

Rules:
- Plain lines without colour or control characters: the same words for a screen reader and a log.
- What is offered is decided from the checks alone. A laptop is offered the simulated platform,
  which is called so each time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from provider_agent.doctor.check import (
    Actual,
    Check,
    Remedy,
    Row,
    Severity,
    Status,
    clean_text,
    counts,
    exit_status,
)
from provider_agent.doctor.engine import first_causes

WIDTH: Final = 96
SIMULATED: Final = "simulated"
_HIDDEN_SHOWN_MAX: Final = 8
_WORD: Final = {
    Status.FAIL: "FAILED",
    Status.UNKNOWN: "UNKNOWN",
    Status.WARN: "WARNING",
    Status.PASS: "pass",
    Status.SKIP: "skipped",
}
_OPERATOR: Final = {
    "==": "",
    "in": "one of ",
    ">=": "at least ",
    "<=": "at most ",
    "<": "below ",
    ">": "more than ",
    "contains": "",
    "exists": "",
    "none": "",
}
_PLATFORMS: Final = {"sev-snp": "snp.vm_type", "tdx": "tdx.vm_type"}


def offers(checks: Sequence[Check]) -> tuple[str, ...]:
    """Platforms that this machine can offer, by the checks: the simulated one always.

    A confidential one is offered when its own check passed and no blocker failed or is unknown.
    """
    by_id = {each.row.id: each for each in checks}
    found = []
    if exit_status(checks) == 0:
        for platform, name in _PLATFORMS.items():
            if (each := by_id.get(name)) is not None and each.status is Status.PASS:
                found.append(platform)
    return (*found, SIMULATED)


def render(checks: Sequence[Check], *, vendor: str | None) -> str:
    """A doctor's answer. `vendor`: whose remedies come first (dell, amd, …); None: any."""
    return "\n".join([*_summary(checks, vendor), "", *_verdict(checks)])


def render_selftest(checks: Sequence[Check]) -> str:
    """A selftest's answer: what was seen to work, and of what that says nothing."""
    verdict = "The selftest did not pass."
    if exit_status(checks) == 0:
        verdict = (
            "The simulated platform works here: an enclave was started, verified by the buyers' "
            "own verifier, given a key, and stopped. That says nothing about hardware."
        )
    lines = [f"{_WORD[each.status]:8} {each.row.id:22} {_measured(each)}" for each in checks]
    return "\n".join([*lines, "", *_summary(checks, None), "", *textwrap.wrap(verdict, WIDTH)])


def tested(checks: Sequence[Check]) -> tuple[str, ...]:
    """The platform that a selftest has seen to work, if it has."""
    return (SIMULATED,) if exit_status(checks) == 0 else ()


def _summary(checks: Sequence[Check], vendor: str | None) -> list[str]:
    """Causes first, then how many of each status."""
    lines: list[str] = []
    for each in first_causes(checks):
        lines += _cause(each, checks, vendor)
    number = counts(checks)
    lines.append(", ".join(f"{number[status]} {_WORD[status].lower()}" for status in _WORD))
    return lines


def explain(row: Row, check: Check | None) -> str:
    """One check: what it reads, why, and what to do. With its result, if it was made."""
    lines = [f"{row.id}: {row.title}", ""]
    lines += textwrap.wrap(row.purpose, WIDTH)
    lines += [
        "",
        f"category    {row.category.value}, {row.severity.value}",
        f"reads       {', '.join(row.read) or 'nothing: see the note'}",
        f"wants       {_wanted(row, row.required)}",
        f"depends on  {', '.join(row.depends_on) or 'nothing'}",
    ]
    if check is not None:
        lines.append(f"found       {_found(check)}")
    if row.remedies:
        lines += ["", "What to do:", *_remedies(row.remedies, None)]
    return "\n".join(lines)


def _cause(check: Check, checks: Sequence[Check], vendor: str | None) -> list[str]:
    row = check.row
    lines = [f"{_WORD[check.status]} {row.id} ({row.severity.value}): {row.title}"]
    lines.append(f"    found {_found(check)}; wanted {_wanted(row, check.required)}")
    lines += textwrap.wrap(row.purpose, WIDTH - 4, initial_indent="    ", subsequent_indent="    ")
    if check.status in (Status.FAIL, Status.WARN):
        lines += _remedies(row.remedies, vendor)
    hidden = [each.row.id for each in checks if each.cause == row.id]
    if hidden:
        more = f" and {len(hidden) - _HIDDEN_SHOWN_MAX} more" if len(hidden) > 8 else ""
        lines.append(f"    hides {', '.join(hidden[:_HIDDEN_SHOWN_MAX])}{more}")
    return [*lines, ""]


def _remedies(remedies: Sequence[Remedy], vendor: str | None) -> list[str]:
    """The maker's own first, then those of nobody, then the others': a host may be rebranded."""
    rank = {vendor: 0, None: 1}
    lines = []
    for each in sorted(remedies, key=lambda r: rank.get(r.vendor, 2)):
        marks = [each.kind.value, *([each.vendor] if each.vendor else [])]
        marks += ["reboot"] * each.reboot + ["cannot be undone"] * each.irreversible
        lines += textwrap.wrap(
            f"-> [{', '.join(marks)}] {each.text}",
            WIDTH - 4,
            initial_indent="    ",
            subsequent_indent="       ",
        )
    return lines


def _verdict(checks: Sequence[Check]) -> list[str]:
    found = offers(checks)
    real = [each for each in found if each != SIMULATED]
    if real:
        return [f"This machine can offer: {', '.join(real)}."]
    blockers = [
        each.row.id
        for each in first_causes(checks)
        if each.row.severity is Severity.BLOCKER and each.status in (Status.FAIL, Status.UNKNOWN)
    ]
    what = f" ({', '.join(blockers[:4])})" if blockers else ""
    return [
        *textwrap.wrap(
            f"This machine can offer no confidential platform as it is{what}. It can run the "
            "simulated platform, which protects nothing from this host and is never listed as "
            "confidential:",
            WIDTH,
        ),
        "    blindhost-agent simulated-root --home ROOT",
        "    blindhost-agent simulated-chip --root ROOT --home HOME",
        "    blindhost-agent selftest --home HOME --platform simulated",
    ]


def _found(check: Check) -> str:
    found = _text(check.actual) if check.actual is not None else "nothing that could be read"
    if check.read_error:
        found += f" ({check.read_error})"
    if check.note:
        found += f" ({check.note})"
    return clean_text(found, most=600)


def _measured(check: Check) -> str:
    unit = f" {check.row.unit}" if check.row.unit and check.actual is not None else ""
    return (check.note or "-") if check.actual is None else f"{_text(check.actual)}{unit}"


def _text(value: Actual) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value)
    return "-" if value is None else str(value)


def _wanted(row: Row, required: Actual) -> str:
    unit = f" {row.unit}" if row.unit else ""
    return f"{_OPERATOR[row.operator]}{_text(required)}{unit}"
