"""Unknown is no pass, a failed parent hides its children, and no judge ends the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provider_agent.doctor.check import (
    SCHEMA,
    Category,
    Outcome,
    Row,
    Severity,
    Status,
    bad,
    exit_status,
    good,
    report_json,
)
from provider_agent.doctor.context import Context
from provider_agent.doctor.engine import find_row, first_causes, make_checks
from provider_agent.doctor.probe import MappingProbe
from provider_agent.doctor.rows import ROWS
from provider_agent.doctor.view import HostView, UnreadError
from provider_agent.errors import AgentError
from tests.provider_agent.doctor.machines import NOW, Machine, genoa
from trust.simulated import SimulatedChip


def row(name: str, judge, *, depends_on=(), severity=Severity.BLOCKER) -> Row:
    return Row(
        id=name,
        title=name,
        category=Category.HOST,
        severity=severity,
        read=("file:x",),
        operator="==",
        required=1,
        unit=None,
        purpose="A test.",
        judge=judge,
        depends_on=depends_on,
    )


def context(root: Path) -> Context:
    return Context(view=HostView(root=root), probe=MappingProbe({}), now=NOW)


def passes(_: Context) -> Outcome:
    return good(1)


def fails(_: Context) -> Outcome:
    return bad(0)


def unread(_: Context) -> Outcome:
    raise UnreadError("x: EACCES")


def trips(_: Context) -> Outcome:
    return good([1, 2][int("3")])


def test_a_failed_parent_hides_its_children_and_their_children(tmp_path: Path) -> None:
    rows = [
        row("a", fails),
        row("b", passes, depends_on=("a",)),
        row("c", fails, depends_on=("b",)),
        row("d", passes),
    ]
    made = {each.row.id: each for each in make_checks(rows, context(tmp_path))}
    assert [made[n].status for n in "abcd"] == [Status.FAIL, Status.SKIP, Status.SKIP, Status.PASS]
    assert made["b"].cause == made["c"].cause == "a"
    assert [each.row.id for each in first_causes(tuple(made.values()))] == ["a"]


@pytest.mark.parametrize(("judge", "words"), [(unread, "EACCES"), (trips, "IndexError")])
def test_unread_and_unreadable_are_unknown_and_have_no_value(
    tmp_path: Path, judge, words: str
) -> None:
    (made,) = make_checks([row("a", judge)], context(tmp_path))
    assert made.status is Status.UNKNOWN
    assert made.actual is None
    assert words in str(made.read_error)


def test_a_child_of_the_unknown_is_still_looked_at(tmp_path: Path) -> None:
    made = make_checks([row("a", unread), row("b", fails, depends_on=("a",))], context(tmp_path))
    assert [each.status for each in made] == [Status.UNKNOWN, Status.FAIL]


@pytest.mark.parametrize(
    ("judges", "severity", "wanted"),
    [
        ((passes, passes), Severity.BLOCKER, 0),
        ((passes, unread), Severity.BLOCKER, 2),
        ((unread, fails), Severity.BLOCKER, 1),
        ((unread, fails), Severity.DEGRADED, 0),
    ],
)
def test_the_exit_code_is_of_the_blockers(tmp_path: Path, judges, severity, wanted: int) -> None:
    rows = [row(str(n), judge, severity=severity) for n, judge in enumerate(judges)]
    assert exit_status(make_checks(rows, context(tmp_path))) == wanted


def test_a_blocker_that_a_smaller_failure_hides_is_unknown(tmp_path: Path) -> None:
    rows = [row("a", fails, severity=Severity.ADVICE), row("b", passes, depends_on=("a",))]
    assert exit_status(make_checks(rows, context(tmp_path))) == 2


def test_only_makes_what_is_asked_and_what_it_depends_on(tmp_path: Path) -> None:
    rows = [row("a", passes), row("b", passes, depends_on=("a",)), row("c", fails)]
    made = make_checks(rows, context(tmp_path), only=("b",))
    assert [each.row.id for each in made] == ["a", "b"]


def test_an_id_that_no_row_has_is_refused_with_what_is_near() -> None:
    with pytest.raises(AgentError, match=r"near it: .*gpu\.cc_mode"):
        find_row(ROWS, "cc_mode")
    with pytest.raises(AgentError, match="no check is called"):
        find_row(ROWS, "x\x1b[31m")


def test_the_report_is_json_of_the_schema(tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    machine.answers["msr", 0xC0010010] = "!EACCES"
    made = tuple(machine.checks(tmp_path).values())
    report = json.loads(report_json(made, command="doctor", offers=("simulated",)))
    assert report["exit"] == 2
    assert sum(report["counts"].values()) == len(report["checks"]) == len(ROWS)
    by_id = {each["id"]: each for each in report["checks"]}
    assert by_id["snp.bios.smee"] == {
        "schema": SCHEMA,
        "id": "snp.bios.smee",
        "title": "Memory encryption is on",
        "category": "bios",
        "status": "unknown",
        "severity": "blocker",
        "actual": None,
        "operator": "==",
        "required": 1,
        "unit": None,
        "read": ["msr:0xc0010010"],
        "read_error": "msr:0xc0010010: EACCES",
        "purpose": by_id["snp.bios.smee"]["purpose"],
        "remediation": by_id["snp.bios.smee"]["remediation"],
        "needs": ["launcher"],
        "depends_on": ["cpu.generation"],
        "note": None,
        "cause": None,
    }
    assert set(by_id["snp.bios.smee"]["remediation"][0]) == {
        "kind",
        "text",
        "vendor",
        "reboot",
        "irreversible",
    }


def test_a_machine_of_which_nothing_can_be_read_passes_nothing(tmp_path: Path) -> None:
    checks = Machine().checks(tmp_path)
    assert not [n for n, c in checks.items() if c.status is Status.PASS]
    assert exit_status(checks.values()) != 0
    assert all(c.actual is None for c in checks.values() if c.status is Status.UNKNOWN)


def test_refused_files_are_unknown_with_the_kernels_word(
    tmp_path: Path, simulated_chip: SimulatedChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads everything, so the refusal is made where the file is opened."""
    machine, real = genoa(simulated_chip), os.open

    def refuse(path, *args, **options):
        if str(path).endswith("/lockdown"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    made = machine.checks(tmp_path)["host.lockdown"]
    assert made.status is Status.UNKNOWN
    assert "EACCES" in str(made.read_error)


def test_a_file_that_is_slow_to_be_unread_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def slow(self: HostView, path: str, **_: object) -> bytes:
        looked.append(path)
        raise UnreadError(f"{path}: no end after 10 s")

    monkeypatch.setattr(HostView, "content", slow)
    make_checks(ROWS, context(tmp_path))
    assert looked.count("proc/cpuinfo") == 1


HOSTILE = {
    "escapes": b"\x1b]52;c;AAAA\x07" * 50,
    "deep": b"[[[[" * 9000,
    "binary": b"\x00\xff\xfe" * 4000,
    "digits": b"9" * 9000,
    "empty": b"",
}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=name, marks=[pytest.mark.full] * (number > 1))
        for number, (name, content) in enumerate(HOSTILE.items())
    ],
)
def test_no_content_of_any_file_ends_the_doctor_or_reaches_a_terminal(
    tmp_path: Path, simulated_chip: SimulatedChip, content: bytes
) -> None:
    """Each file of a good machine in turn holds garbage: the others are judged as before."""
    from provider_agent.doctor.render import render

    machine = genoa(simulated_chip)
    root = machine.lay(tmp_path)
    for path, good_content in machine.files.items():
        (root / path).write_bytes(content)
        made = make_checks(ROWS, machine.context(root))
        assert len(made) == len(ROWS)
        text = render(made, vendor=None) + report_json(made, command="doctor", offers=())
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        data = good_content if isinstance(good_content, bytes) else good_content.encode()
        (root / path).write_bytes(data)


@pytest.mark.parametrize("value", [None, "x", -1, 1 << 70, {}, [], True, {"status": 0}])
def test_no_answer_of_any_probe_ends_the_doctor(
    tmp_path: Path, simulated_chip: SimulatedChip, value: object
) -> None:
    machine = genoa(simulated_chip)
    root = machine.lay(tmp_path)
    for question in machine.answers:
        other = machine.but()
        other.answers[question] = value
        assert len(make_checks(ROWS, other.context(root))) == len(ROWS)
