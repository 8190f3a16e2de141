"""The tables of docs/host/doctor.md, from the rows themselves: a test compares them."""

from __future__ import annotations

from provider_agent.doctor.check import Row
from provider_agent.doctor.rows import FIXED_IDS, ROWS
from provider_agent.doctor.selftest_rows import Facts, make_rows


def doctor_table() -> str:
    """Every check of `doctor`, in its order."""
    return _table(ROWS)


def selftest_table() -> str:
    """Every check of `selftest`, in its order."""
    return _table(make_rows(Facts(platform="simulated")))


def _table(rows: tuple[Row, ...]) -> str:
    lines = ["| id | what is checked | severity | depends on | `--fix` |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.id}` | {row.title} | {row.severity.value} "
        f"| {', '.join(f'`{each}`' for each in row.depends_on) or '-'} "
        f"| {'yes' if row.id in FIXED_IDS else '-'} |"
        for row in rows
    ]
    return "\n".join(lines)
