"""One check: what was found, what was wanted, what to do about it (host.md §1.1).

Rules:
- `actual` is null where nothing was read, never a default; *unknown* is never a pass.
- A check whose parent failed is skipped and names the parent: a host sees the first cause.
- 0: all blockers pass. 1: a blocker failed. 2: none failed, and of one nobody knows.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from provider_agent.doctor.context import Context

SCHEMA: Final = "blindhost/v1/host/check"
REPORT_SCHEMA: Final = "blindhost/v1/host/checks"
ACTUAL_CHARACTERS_MAX: Final = 400  # a check is for a person; the bundle holds the rest

Scalar = bool | int | str | None
Actual = Scalar | tuple[Scalar, ...]


class Status(enum.StrEnum):
    """What became of a check."""

    PASS = "pass"  # noqa: S105 - a word of the schema
    FAIL = "fail"
    WARN = "warn"
    UNKNOWN = "unknown"
    SKIP = "skip"


class Severity(enum.StrEnum):
    """What a failure costs the host."""

    BLOCKER = "blocker"
    DEGRADED = "degraded"
    ADVICE = "advice"


class Category(enum.StrEnum):
    """Whose matter it is."""

    CPU = "cpu"
    BIOS = "bios"
    FIRMWARE = "firmware"
    KERNEL = "kernel"
    KVM = "kvm"
    GPU = "gpu"
    HOST = "host"
    NETWORK = "network"
    STORAGE = "storage"
    MARKET = "market"
    SELFTEST = "selftest"


class RemedyKind(enum.StrEnum):
    """Where a remedy is applied."""

    BIOS = "bios"
    CMDLINE = "cmdline"
    PACKAGE = "package"
    FILE = "file"
    COMMAND = "command"
    VENDOR = "vendor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """One thing to do. Nothing here does it."""

    kind: RemedyKind
    text: str
    vendor: str | None = None
    """dell, amd, intel, nvidia, ami (and its licensees), lenovo; None: whoever made it."""
    reboot: bool = False
    irreversible: bool = False

    def to_json(self) -> dict[str, object]:
        """As the schema has it."""
        return {
            "kind": self.kind.value,
            "text": self.text,
            "vendor": self.vendor,
            "reboot": self.reboot,
            "irreversible": self.irreversible,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a row's judge found."""

    status: Status
    actual: Actual
    required: Actual = None
    """In place of the row's, where it depends on the machine."""
    note: str | None = None


Judge = Callable[["Context"], Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A check before it is made."""

    id: str
    title: str
    category: Category
    severity: Severity
    read: tuple[str, ...]
    """Sources: ``file:PATH``, ``msr:0x…``, ``cpuid:…``, ``ioctl:…``, ``command:…``, ``net:…``."""
    operator: str
    """How `actual` is compared with `required`: ==, >=, in, contains, exists, none."""
    required: Actual
    unit: str | None
    purpose: str
    judge: Judge
    remedies: tuple[Remedy, ...] = ()
    needs: tuple[str, ...] = ()
    """``launcher``: privileges that the agent alone lacks; ``market``: its address."""
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A check that was made."""

    row: Row
    status: Status
    actual: Actual
    required: Actual
    read_error: str | None = None
    note: str | None = None
    """A sentence for a person: why it is skipped, or what the number does not say."""
    cause: str | None = None
    """The failed check on account of which this one is skipped; None: another reason, or none."""

    def to_json(self) -> dict[str, object]:
        """As ``blindhost/v1/host/check`` has it."""
        row = self.row
        return {
            "schema": SCHEMA,
            "id": row.id,
            "title": row.title,
            "category": row.category.value,
            "status": self.status.value,
            "severity": row.severity.value,
            "actual": _listed(self.actual),
            "operator": row.operator,
            "required": _listed(self.required),
            "unit": row.unit,
            "read": list(row.read),
            "read_error": self.read_error,
            "purpose": row.purpose,
            "remediation": [each.to_json() for each in row.remedies],
            "needs": list(row.needs),
            "depends_on": list(row.depends_on),
            "note": self.note,
            "cause": self.cause,
        }


def good(actual: Actual, *, note: str | None = None, required: Actual = None) -> Outcome:
    """It is as it should be."""
    return Outcome(status=Status.PASS, actual=shown(actual), note=note, required=required)


def bad(actual: Actual, *, note: str | None = None, required: Actual = None) -> Outcome:
    """It is not."""
    return Outcome(status=Status.FAIL, actual=shown(actual), note=note, required=required)


def warn(actual: Actual, *, note: str | None = None, required: Actual = None) -> Outcome:
    """It works, and is not as we would have it."""
    return Outcome(status=Status.WARN, actual=shown(actual), note=note, required=required)


def skipped(note: str) -> Outcome:
    """It is no question on this machine, and why."""
    return Outcome(status=Status.SKIP, actual=None, note=note)


def decided(
    is_good: bool,  # noqa: FBT001 - the verdict itself
    actual: Actual,
    *,
    required: Actual = None,
    note: str | None = None,
) -> Outcome:
    """Pass or fail."""
    judge = good if is_good else bad
    return judge(actual, required=required, note=note)


def shown(actual: Actual) -> Actual:
    """What was found, fit for a terminal and a report: no control character, of bounded length."""
    if isinstance(actual, tuple):
        return tuple(_clean(each) for each in actual)
    return _clean(actual)


def clean_text(text: str, *, most: int = ACTUAL_CHARACTERS_MAX) -> str:
    """Text from outside without what a terminal would obey; cut, and says so."""
    kept = "".join(each if each.isprintable() else "�" for each in text[: most + 1])
    return kept if len(text) <= most else kept[:most] + "…"


def exit_status(checks: Iterable[Check]) -> int:
    """0, 1 or 2: see the rules above. What a failed parent hides is not known."""
    blockers = [each for each in checks if each.row.severity is Severity.BLOCKER]
    if any(each.status is Status.FAIL for each in blockers):
        return 1
    if any(each.status is Status.UNKNOWN or each.cause is not None for each in blockers):
        return 2
    return 0


def counts(checks: Iterable[Check]) -> Mapping[Status, int]:
    """How many of each status."""
    found = dict.fromkeys(Status, 0)
    for each in checks:
        found[each.status] += 1
    return found


def report_json(checks: Iterable[Check], *, command: str, offers: tuple[str, ...]) -> str:
    """The whole answer of ``--json``: one object, keys in a fixed order."""
    made = tuple(checks)
    value: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "command": command,
        "exit": exit_status(made),
        "counts": {status.value: number for status, number in counts(made).items()},
        "offers": list(offers),
        "checks": [each.to_json() for each in made],
    }
    return json.dumps(value, indent=1, ensure_ascii=True)


def _listed(value: Actual) -> object:
    return list(value) if isinstance(value, tuple) else value


def _clean(value: Scalar) -> Scalar:
    return clean_text(value) if isinstance(value, str) else value
