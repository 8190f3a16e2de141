"""A newer release is changed to when nobody is in the way, and gone back from when it fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provider_agent.install import units
from provider_agent.install.applied import UPGRADE_RECORD
from provider_agent.install.errors import CommandError, InstallError
from provider_agent.install.gate import Window, parse_window
from provider_agent.install.health import ServiceFacts, Verdict, check_no_worse, judge
from provider_agent.journal import Stage as LeaseStage
from tests.provider_agent.install.machine import (
    KILLED,
    MARKET,
    NOW,
    FakeMachine,
    contents,
    snapshot,
    write_bundle,
)
from trust.identity import PartyKey

TROUBLES = ["silent", "stale", "failed", "loop", "slow", "start"]
SAMPLE = 23
MOMENTS_MAX = 700


@pytest.fixture
def installed(host: FakeMachine, old: Path) -> FakeMachine:
    assert host.install(old, *MARKET) == 0
    host.forget_calls()
    return host


def _upgrade(host: FakeMachine, bundle: Path, *more: str) -> int:
    return host.run("upgrade", "--bundle", str(bundle), *more)


def _record(host: FakeMachine) -> dict[str, object]:
    value: dict[str, object] = json.loads(host.at(UPGRADE_RECORD).read_text())
    return value


def _units(host: FakeMachine) -> dict[str, str]:
    """What decides which version runs: the link and every host file."""
    found = snapshot(host.root)
    return {
        name: text
        for name, text in found.items()
        if name.startswith(("etc/", "usr/")) or name == "opt/blindhost/current"
    }


# --- forward -------------------------------------------------------------------------------------


def test_an_upgrade_changes_link_and_units_and_restarts(installed: FakeMachine, new: Path) -> None:
    assert _upgrade(installed, new) == 0
    assert installed.version() == "0.2.0"
    assert "WatchdogSec=45" in installed.at(f"etc/systemd/system/{units.AGENT}").read_text()
    assert installed.at("etc/systemd/system/blindhost-extra.service").exists()
    assert installed.at("opt/blindhost/0.1.0").exists()
    calls = installed.calls()
    assert calls.index("daemon-reload") < calls.index(f"restart {units.AGENT}")
    assert _record(installed)["stage"] == "done"


def test_after_an_upgrade_an_uninstall_leaves_nothing(
    host: FakeMachine, old: Path, new: Path
) -> None:
    before = snapshot(host.root)
    host.install(old, *MARKET)
    assert _upgrade(host, new) == 0
    assert host.run("uninstall", "--yes", "--purge") == 0
    assert snapshot(host.root) == before


def test_two_versions_stay_and_a_third_goes(
    installed: FakeMachine, new: Path, tmp_path: Path
) -> None:
    assert _upgrade(installed, new) == 0
    third = write_bundle(tmp_path / "third.tar", "0.10.0")
    assert _upgrade(installed, third) == 0
    there = sorted(path.name for path in installed.at("opt/blindhost").iterdir())
    assert there == ["0.10.0", "0.2.0", "current"]
    # What 0.10.0 does not have goes with 0.2.0's units.
    assert not installed.at("etc/systemd/system/blindhost-extra.service").exists()


def test_an_agent_that_was_stopped_by_hand_stays_stopped(installed: FakeMachine, new: Path) -> None:
    (installed.tools / "active" / units.AGENT).unlink()
    assert _upgrade(installed, new) == 0
    assert installed.version() == "0.2.0"
    assert not installed.is_active(units.AGENT)


# --- refused -------------------------------------------------------------------------------------


def test_an_older_release_is_refused(installed: FakeMachine, new: Path, old: Path) -> None:
    assert _upgrade(installed, new) == 0
    before = snapshot(installed.root)
    assert _upgrade(installed, old) == os.EX_CONFIG
    assert "0.1.0 is older than 0.2.0" in "\n".join(installed.lines)
    assert snapshot(installed.root) == before


def test_the_same_release_is_nothing_to_do(installed: FakeMachine, old: Path) -> None:
    before = snapshot(installed.root)
    assert _upgrade(installed, old) == 0
    assert snapshot(installed.root) == before
    assert not installed.calls()


def test_a_release_by_another_key_is_refused(installed: FakeMachine, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "o.tar", "0.2.0", key=PartyKey.from_bytes(b"\x06" * 32))
    before = snapshot(installed.root)
    assert _upgrade(installed, other) == os.EX_CONFIG
    assert snapshot(installed.root) == before


def test_a_unit_that_somebody_changed_stops_it(installed: FakeMachine, new: Path) -> None:
    unit = installed.at(f"etc/systemd/system/{units.AGENT}")
    unit.write_text("mine\n")
    before = snapshot(installed.root)
    assert _upgrade(installed, new) == os.EX_CONFIG
    assert snapshot(installed.root) == before


def test_without_an_install_there_is_nothing_to_upgrade(host: FakeMachine, new: Path) -> None:
    host.at("etc/blindhost").mkdir()
    assert _upgrade(host, new) == os.EX_CONFIG
    assert not host.at("opt/blindhost").exists()


# --- only when nobody is in the way --------------------------------------------------------------


def test_while_a_lease_lives_it_unpacks_beside_and_waits(installed: FakeMachine, new: Path) -> None:
    installed.lease("serving")
    before = _units(installed)
    assert _upgrade(installed, new) == os.EX_TEMPFAIL
    assert _units(installed) == before
    assert installed.at("opt/blindhost/0.2.0").exists()
    assert not [c for c in installed.calls() if c.startswith("restart")]
    installed.lease("done")
    assert _upgrade(installed, new) == 0
    assert installed.version() == "0.2.0"


def test_a_maintenance_window_lets_it_pass_and_another_does_not(
    installed: FakeMachine, new: Path
) -> None:
    installed.lease("serving")
    assert _upgrade(installed, new, "--window", "17:00-18:00") == os.EX_TEMPFAIL
    assert installed.version() == "0.1.0"
    assert _upgrade(installed, new, "--window", "03:00-04:00", "--window", "15:30-16:30") == 0
    assert installed.version() == "0.2.0"


@pytest.mark.parametrize(
    ("text", "at", "holds"),
    [
        ("16:00-16:01", 0, True),
        ("16:00-16:01", 59_999, True),
        ("16:00-16:01", 60_000, False),
        ("15:59-16:00", 0, False),
        ("22:00-16:01", 0, True),
        ("22:00-16:00", 0, False),
        ("22:00-02:00", 9 * 3_600_000, True),
    ],
)
def test_a_window_holds_its_start_and_not_its_end(text: str, at: int, *, holds: bool) -> None:
    assert parse_window(text).holds(NOW + at) == holds


@pytest.mark.parametrize("text", ["", "24:00-01:00", "1:00-2:00", "01:00-02:60", "01:00-02:00 "])
def test_a_window_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InstallError, match="wanted HH:MM-HH:MM"):
        parse_window(text)


def test_an_empty_window_never_holds() -> None:
    assert not any(Window(start=5, end=5).holds(NOW + m * 60_000) for m in range(1440))


def test_the_gate_knows_the_agents_word_for_a_lease_that_is_over() -> None:
    from provider_agent.install.gate import _DONE

    assert LeaseStage.DONE.value == _DONE


# --- back by itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_version_that_does_not_work_is_gone_back_from(
    installed: FakeMachine, new: Path, trouble: str
) -> None:
    installed.trouble("0.2.0", trouble)
    before = _units(installed)
    assert _upgrade(installed, new) == 1
    assert _units(installed) == before
    assert installed.is_active(units.AGENT)
    record = _record(installed)
    assert (record["stage"], record["refused"]) == ("went-back", ["0.2.0"])
    assert "went back from 0.2.0 to 0.1.0" in "\n".join(installed.lines)
    calls = installed.calls()
    assert calls.index("reset-failed blindhost-agent.service") < len(calls)
    assert calls[-1] == f"restart {units.AGENT}"


def test_it_waits_as_long_as_it_was_told_and_no_longer(installed: FakeMachine, new: Path) -> None:
    installed.trouble("0.2.0", "silent")
    assert _upgrade(installed, new, "--watch-seconds", "30") == 1
    assert 30_000 < installed.now - NOW < 34_000
    assert "no market answered within 30 s" in str(_record(installed)["reason"])


def test_a_crash_loop_is_seen_before_the_deadline(installed: FakeMachine, new: Path) -> None:
    installed.trouble("0.2.0", "loop")
    assert _upgrade(installed, new) == 1
    assert installed.now == NOW


def test_what_was_gone_back_from_is_not_tried_again_unattended(
    installed: FakeMachine, new: Path, tmp_path: Path
) -> None:
    installed.trouble("0.2.0", "failed")
    assert _upgrade(installed, new) == 1
    installed.forget_calls()
    assert _upgrade(installed, new, "--unattended") == 0
    assert not installed.calls()
    assert installed.version() == "0.1.0"
    installed.trouble("0.2.0", "none")
    assert _upgrade(installed, new) == 0
    later = write_bundle(tmp_path / "later.tar", "0.3.0")
    assert _upgrade(installed, later, "--unattended") == 0
    assert installed.version() == "0.3.0"


def test_unattended_takes_what_was_fetched(installed: FakeMachine, new: Path) -> None:
    assert installed.run("upgrade", "--unattended") == 0
    assert installed.lines == ["nothing was fetched"]
    spool = installed.at(units.SPOOL)
    spool.mkdir()
    (spool / "release.tar").write_bytes(new.read_bytes())
    assert installed.run("upgrade", "--unattended") == 0
    assert installed.version() == "0.2.0"


def test_every_call_of_systemctl_that_fails_ends_in_the_old_version_or_the_new(
    tmp_path: Path, old: Path, new: Path
) -> None:
    ends = set()
    for call in range(1, 40):
        host = FakeMachine(tmp_path / f"fail-{call}")
        assert host.install(old, *MARKET) == 0
        before = _units(host)
        host.fail_at(call)
        status = _upgrade(host, new)
        version = host.version()
        ends.add((status, version))
        assert (status, version) in {
            (0, "0.2.0"), (1, "0.1.0"), (os.EX_CONFIG, "0.1.0"),
        }, host.lines  # fmt: skip
        if version == "0.1.0":
            assert _units(host) == before
        assert host.is_active(units.AGENT)
        made = (host.tools / "count").read_text().strip()
        if int(made) < call:
            break
    assert {(0, "0.2.0"), (1, "0.1.0")} <= ends


# --- killed --------------------------------------------------------------------------------------


def _kill(tmp_path: Path, old: Path, new: Path, *, trouble: str, first: int, step: int) -> int:
    wanted = "0.2.0" if trouble == "none" else "0.1.0"
    for moment in range(first, MOMENTS_MAX, step):
        host = FakeMachine(tmp_path / f"{trouble}-{moment}")
        assert host.install(old, *MARKET) == 0
        before = _units(host)
        host.trouble("0.2.0", trouble)
        status = host.run_killed(moment, "upgrade", "--bundle", str(new))
        if status != KILLED:
            return moment
        again = _upgrade(host, new, "--unattended")
        assert again in {0, 1}, (moment, host.lines)
        assert host.version() == wanted, moment
        if trouble != "none":
            assert _units(host) == before, moment
        assert host.is_active(units.AGENT)
        assert host.run("uninstall", "--yes", "--purge") == 0
        assert not host.at("opt/blindhost").exists()
    raise AssertionError("it never ended")


@pytest.mark.parametrize("trouble", ["none", "failed"])
def test_an_upgrade_that_is_killed_is_taken_up_by_the_next(
    tmp_path: Path, old: Path, new: Path, trouble: str
) -> None:
    assert _kill(tmp_path, old, new, trouble=trouble, first=0, step=SAMPLE) > 50


@pytest.mark.full
@pytest.mark.parametrize("trouble", ["none", "failed"])
@pytest.mark.parametrize("first", range(1, SAMPLE))
def test_wherever_it_is_killed(
    tmp_path: Path, old: Path, new: Path, trouble: str, first: int
) -> None:
    _kill(tmp_path, old, new, trouble=trouble, first=first, step=SAMPLE)


@pytest.mark.full
@pytest.mark.parametrize("trouble", [each for each in TROUBLES if each != "failed"])
@pytest.mark.parametrize("first", [2, 11])  # they end alike: each other moment costs a minute
def test_wherever_it_is_killed_in_every_other_trouble(
    tmp_path: Path, old: Path, new: Path, trouble: str, first: int
) -> None:
    _kill(tmp_path, old, new, trouble=trouble, first=first, step=SAMPLE)


# --- doctor --------------------------------------------------------------------------------------


def _doctor(host: FakeMachine, version: str, *failed: str) -> None:
    checks = [
        {"id": name, "severity": "blocker", "status": "fail" if name != "b" else "unknown"}
        for name in failed
    ]
    checks.append({"id": "d", "severity": "degraded", "status": "fail"})
    path = host.at(f"opt/blindhost/{version}")
    (path / "doctor.json").write_text(json.dumps({"checks": checks}))


def test_a_version_whose_doctor_finds_more_is_refused_and_one_that_finds_no_more_is_not(
    installed: FakeMachine, new: Path
) -> None:
    installed.lease("serving")
    assert _upgrade(installed, new) == os.EX_TEMPFAIL  # unpacked, waits
    installed.lease("done")
    _doctor(installed, "0.1.0", "a")
    _doctor(installed, "0.2.0", "a", "b")
    before = _units(installed)
    assert _upgrade(installed, new) == os.EX_CONFIG
    assert "does not pass b" in "\n".join(installed.lines)
    assert _units(installed) == before
    _doctor(installed, "0.2.0", "a")
    assert _upgrade(installed, new) == 0
    assert installed.version() == "0.2.0"


def test_a_version_without_a_doctor_after_one_that_had_it_is_refused(
    installed: FakeMachine, new: Path
) -> None:
    _doctor(installed, "0.1.0")
    assert _upgrade(installed, new) == os.EX_CONFIG
    assert "the new version has none" in "\n".join(installed.lines)
    assert _upgrade(installed, new, "--doctor", "") == 0


def test_nothing_to_compare_with_is_no_reason() -> None:
    check_no_worse(frozenset({"a"}), None)
    with pytest.raises(CommandError):
        check_no_worse(None, frozenset())


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "restarts", "heartbeat", "passed", "wanted"),
    [
        ("active", 0, 1000, 0, Verdict.GOOD),
        ("active", 2, 1000, 0, Verdict.GOOD),
        ("active", 3, 1000, 0, Verdict.BACK),
        ("active", 0, 999, 0, Verdict.WAIT),
        ("active", 0, None, 0, Verdict.WAIT),
        ("active", 0, None, 120_000, Verdict.WAIT),
        ("active", 0, None, 120_001, Verdict.BACK),
        ("activating", 0, 1000, 0, Verdict.WAIT),
        ("activating", 0, 1000, 120_001, Verdict.BACK),
        ("failed", 0, 1000, 0, Verdict.BACK),
        ("inactive", 0, None, 120_001, Verdict.BACK),
    ],
)
def test_good_is_ready_and_a_heartbeat_after_the_change(
    active: str, restarts: int, heartbeat: int | None, passed: int, wanted: Verdict
) -> None:
    facts = ServiceFacts(active=active, restarts=restarts, heartbeat=heartbeat)
    assert judge(facts, since=1000, now=1000 + passed, limit=120_000)[0] is wanted


def test_a_release_may_have_no_host_file_less_than_it_needs(tmp_path: Path) -> None:
    assert any(path.endswith("blindhost-agent.service") for path in contents("0.1.0"))
