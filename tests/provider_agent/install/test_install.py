"""An install is a plan, all of it is on record, and all of it goes again."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from pathlib import Path

import pytest

from provider_agent.install import units
from provider_agent.install.applied import RECORD
from provider_agent.install.system import System
from tests.provider_agent.install.machine import (
    KEY_OPTION,
    MARKET,
    NOW,
    RELEASE_KEY,
    FakeMachine,
    contents,
    parse,
    run_on,
    snapshot,
    write_bundle,
)


def _text(host: FakeMachine) -> str:
    return "\n".join(host.lines)


# --- the main path -------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_changes_nothing(host: FakeMachine, old: Path) -> None:
    before = snapshot(host.root)
    assert host.run("install", "--dry-run", "--bundle", str(old), *KEY_OPTION, *MARKET) == 0
    assert snapshot(host.root) == before
    assert not host.calls()
    for name in (units.AGENT, units.SOCKET, units.LAUNCHER, "70-blindhost.rules", units.IDENTITY):
        assert name in _text(host)


def test_without_a_yes_and_with_nobody_to_ask_nothing_is_changed(
    host: FakeMachine, old: Path
) -> None:
    before = snapshot(host.root)
    assert host.run("install", "--bundle", str(old), *KEY_OPTION) == 0
    assert snapshot(host.root) == before
    assert "nobody to ask" in _text(host)


def test_an_install_starts_the_agent_and_keeps_the_identity_closed(
    host: FakeMachine, old: Path
) -> None:
    assert host.install(old, *MARKET) == 0
    assert host.version() == "0.1.0"
    assert host.is_active(units.AGENT)
    assert host.is_active(units.SOCKET)
    assert host.at(units.IDENTITY).stat().st_mode & 0o777 == 0o600
    assert host.at(units.IDENTITY).stat().st_size == 32
    assert host.at(units.RELEASE_KEY).read_text().strip() == RELEASE_KEY.identity.hex()
    assert str(host.at(units.COMMAND).readlink()) == "/opt/blindhost/current/bin/blindhost-agent"
    for each in units.host_files():
        assert host.at(each.path).read_text() == each.content


def test_an_agent_that_is_not_configured_is_installed_and_not_started(
    host: FakeMachine, old: Path
) -> None:
    assert host.install(old) == 0
    assert not host.is_active(units.AGENT)
    assert "not configured" in _text(host)
    assert host.install(old, *MARKET) == 0
    assert host.is_active(units.AGENT)


def test_two_installs_are_one(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == 0
    assert snapshot(host.root) == before


def test_settings_stand_in_quotes_where_nothing_is_expanded(host: FakeMachine, old: Path) -> None:
    more = ("--serve-arguments", '--gpu-model "a b" $HOME `id` \\')
    assert host.install(old, *MARKET, *more) == 0
    text = host.at(units.AGENT_ENVIRONMENT).read_text()
    assert r'BLINDHOST_MORE="--gpu-model \"a b\" \$HOME \`id\` \\"' in text


@pytest.mark.parametrize(
    "options",
    [MARKET[:2], MARKET[:4], (*MARKET[:1], "https://x\nLoadCredential=a", *MARKET[2:])],
)
def test_half_the_settings_or_a_line_break_are_refused(
    host: FakeMachine, old: Path, options: tuple[str, ...]
) -> None:
    before = snapshot(host.root)
    assert host.install(old, *options) == os.EX_CONFIG
    assert snapshot(host.root) == before


# --- uninstall -----------------------------------------------------------------------------------


def test_install_and_uninstall_leave_no_difference(host: FakeMachine, old: Path) -> None:
    before = snapshot(host.root)
    host.install(old, *MARKET)
    host.lease("done")
    assert snapshot(host.root) != before
    assert host.run("uninstall", "--yes", "--purge") == 0
    assert snapshot(host.root) == before
    assert _text(host).endswith("uninstalled")


def test_without_purge_the_identity_alone_stays_and_the_next_install_has_it(
    host: FakeMachine, old: Path
) -> None:
    before = snapshot(host.root)
    host.install(old, *MARKET)
    identity = host.at(units.IDENTITY).read_bytes()
    assert host.run("uninstall", "--yes") == 0
    more = snapshot(host.root).keys() - before.keys()
    assert more == {"etc/blindhost", "etc/blindhost/identity"}
    assert "--purge removes it" in _text(host)
    host.install(old, *MARKET)
    assert host.at(units.IDENTITY).read_bytes() == identity
    assert host.run("uninstall", "--yes", "--purge") == 0
    assert snapshot(host.root) == before


def test_an_uninstall_first_says_what_it_does(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    before = snapshot(host.root)
    assert host.run("uninstall", "--dry-run") == 0
    assert snapshot(host.root) == before
    assert units.IDENTITY in _text(host)
    assert f"systemctl stop {units.AGENT}" in _text(host)


def test_services_are_cleaned_before_their_units_go(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    host.forget_calls()
    assert host.run("uninstall", "--yes") == 0
    calls = host.calls()
    for unit in (units.AGENT, units.LAUNCHER):
        stop = next(i for i, c in enumerate(calls) if c.startswith("stop") and unit in c)
        clean = next(i for i, c in enumerate(calls) if c.startswith("clean") and unit in c)
        assert stop < clean
    assert calls[-2:] != []
    assert calls.index("daemon-reload") > max(i for i, c in enumerate(calls) if "clean" in c)
    assert {"userdel blindhost-vm", "groupdel blindhost"} <= set(calls)


def test_what_somebody_changed_is_left_and_named(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    rules = host.at("etc/udev/rules.d/70-blindhost.rules")
    rules.write_text("mine\n")
    host.at("etc/blindhost/launcher.json").write_text("{}")
    assert host.run("uninstall", "--yes") == 0
    assert rules.read_text() == "mine\n"
    assert "70-blindhost.rules: kept, it was changed since" in _text(host)
    assert "launcher.json" in _text(host)


def test_a_file_that_was_there_before_is_refused_or_replaced_and_put_back(
    host: FakeMachine, old: Path
) -> None:
    place = host.at("etc/modprobe.d/blindhost.conf")
    place.write_text("blacklist mine\n")
    place.chmod(0o640)
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert "modprobe.d/blindhost.conf is there, and is not ours" in _text(host)
    assert snapshot(host.root) == before
    assert host.install(old, *MARKET, "--replace") == 0
    assert "softdep" in place.read_text()
    assert host.run("uninstall", "--yes", "--purge") == 0
    assert snapshot(host.root) == before


def test_nothing_installed_is_nothing_to_uninstall(host: FakeMachine) -> None:
    before = snapshot(host.root)
    assert host.run("uninstall", "--yes") == 0
    assert snapshot(host.root) == before


# --- leases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["new", "serving", "ended", "reported", "?"])
def test_no_uninstall_while_a_lease_lives(host: FakeMachine, old: Path, stage: str) -> None:
    host.install(old, *MARKET)
    host.lease(stage)
    before = snapshot(host.root)
    assert host.run("uninstall", "--yes") == os.EX_TEMPFAIL
    assert snapshot(host.root) == before
    assert host.is_active(units.AGENT)


def test_a_lease_without_a_record_and_a_vm_that_runs_count_as_leases(
    host: FakeMachine, old: Path
) -> None:
    host.install(old, *MARKET)
    (host.at(units.STATE) / "leases/leas_2").mkdir(parents=True)
    assert host.run("uninstall", "--yes") == os.EX_TEMPFAIL
    (host.at(units.STATE) / "leases/leas_2").rmdir()
    (host.tools / "vms").write_text("blindhost-vm-leas_3.service loaded active running\n")
    assert host.run("uninstall", "--yes") == os.EX_TEMPFAIL
    (host.tools / "vms").unlink()
    assert host.run("uninstall", "--yes") == 0


def test_after_drain_waits_for_the_end_of_the_lease(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    host.lease("serving")
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        host.now += int(1000 * seconds)
        if len(pauses) == 3:
            host.lease("done")

    machine = host.machine()
    machine = dataclasses.replace(machine, clock=dataclasses.replace(machine.clock, pause=pause))
    assert run_on(machine, parse("uninstall", "--yes", "--purge", "--after-drain")) == 0
    assert len(pauses) == 3


def test_after_drain_gives_up_and_changes_nothing(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    host.lease("serving")
    before = snapshot(host.root)
    drain = ("--after-drain", "--drain-seconds", "60")
    assert host.run("uninstall", "--yes", *drain) == os.EX_TEMPFAIL
    assert host.now >= NOW + 60_000
    assert snapshot(host.root) == before


# --- before anything is changed ------------------------------------------------------------------


def test_preflight_says_every_reason_at_once_and_changes_nothing(
    host: FakeMachine, old: Path
) -> None:
    (host.tools / "systemd-sysusers").unlink()
    (host.tools / "python3.11").write_text("#!/bin/sh\necho 3 13\n")
    host.at("run/systemd/system").rmdir()
    host.uid = 1000
    host.at("usr/local/bin/blindhost-agent").write_text("another program")
    host.at("etc/blindhost").mkdir()
    host.at(units.IDENTITY).write_bytes(bytes(32))
    host.at(units.IDENTITY).chmod(0o644)
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert snapshot(host.root) == before
    for reason in (
        "user id 1000; wanted root",
        "no systemd-sysusers",
        "no Python 3.11",
        "systemd does not run this machine",
        "/usr/local/bin/blindhost-agent is there, and is not ours",
        "identity is open to others (mode 0644)",
    ):
        assert reason in _text(host)


def test_an_identity_of_another_length_is_refused(host: FakeMachine, old: Path) -> None:
    host.at("etc/blindhost").mkdir()
    host.at(units.IDENTITY).write_bytes(bytes(31))
    host.at(units.IDENTITY).chmod(0o600)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert "no key of 32 bytes" in _text(host)


def test_an_older_and_a_newer_release_are_not_installed_over_this_one(
    host: FakeMachine, old: Path, new: Path
) -> None:
    host.install(new, *MARKET)
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert "version 0.2.0 is installed, and this is 0.1.0" in _text(host)
    assert snapshot(host.root) == before


def test_another_release_of_the_same_number_is_refused(
    host: FakeMachine, old: Path, tmp_path: Path
) -> None:
    host.install(old, *MARKET)
    before = snapshot(host.root)
    twin = write_bundle(tmp_path / "twin.tar", "0.1.0", files=contents("0.1.0-twin"))
    assert host.install(twin, *MARKET) == os.EX_CONFIG
    assert "also calls itself 0.1.0" in _text(host)
    assert snapshot(host.root) == before


def test_a_unit_that_somebody_changed_stops_a_second_install(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    unit = host.at(f"etc/systemd/system/{units.AGENT}")
    unit.write_text(unit.read_text() + "# mine\n")
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert "use a drop-in" in _text(host)
    assert snapshot(host.root) == before


def test_one_at_a_time(host: FakeMachine, old: Path) -> None:
    descriptor = os.open(host.at("var/lib"), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert host.install(old, *MARKET) == os.EX_TEMPFAIL
    os.close(descriptor)
    assert host.install(old, *MARKET) == 0


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema":2,"entries":[]}', '{"schema":1,"entries":[{"kind":"x"}]}']
)
def test_a_record_that_does_not_parse_stops_everything(
    host: FakeMachine, old: Path, text: str
) -> None:
    host.install(old, *MARKET)
    host.at(RECORD).write_text(text)
    before = snapshot(host.root)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert host.run("uninstall", "--yes") == os.EX_CONFIG
    assert snapshot(host.root) == before


def test_a_record_can_name_no_command_of_its_own(host: FakeMachine, old: Path) -> None:
    host.install(old, *MARKET)
    value = json.loads(host.at(RECORD).read_text())
    value["entries"][-1]["name"] = "rm -rf /"
    host.at(RECORD).write_text(json.dumps(value))
    host.forget_calls()
    assert host.run("uninstall", "--yes") == 0
    assert not [call for call in host.calls() if "rm" in call.split()]


@pytest.mark.parametrize(("call", "later"), [(1, 1), (2, 2), (3, 4), (4, 5)])
def test_a_systemctl_that_fails_is_told_and_the_next_run_ends_the_same(
    host: FakeMachine, old: Path, call: int, later: int
) -> None:
    host.fail_at(call)
    assert host.install(old, *MARKET) == os.EX_CONFIG
    assert "made to fail" in _text(host)
    host.fail_at(None)
    assert host.install(old, *MARKET) == 0
    assert host.is_active(units.AGENT)
    before_call = len(host.calls())
    host.fail_at(later)
    assert host.run("uninstall", "--yes", "--purge") == os.EX_CONFIG
    assert len(host.calls()) > before_call
    host.fail_at(None)
    assert host.run("uninstall", "--yes", "--purge") == 0
    assert "opt/blindhost" not in snapshot(host.root)


# --- a folder instead of a machine ---------------------------------------------------------------


def test_a_prefix_is_laid_out_and_nothing_that_runs_is_touched(
    host: FakeMachine, old: Path
) -> None:
    before = snapshot(host.root)
    offline = System(root=host.root, tools=(str(host.tools),), offline=True, uid=0)
    machine = dataclasses.replace(host.machine(), system=offline)
    host.at("run/systemd/system").rmdir()
    (host.tools / "systemctl").write_text('#!/bin/sh\necho "$*" >> "${0%/*}/calls"\n')
    assert (
        run_on(machine, parse("install", "--yes", "--bundle", str(old), *KEY_OPTION, *MARKET)) == 0
    ), host.lines
    calls = host.calls()
    root = f"--root={host.root}"
    assert [c for c in calls if "enable" in c] == [
        f"{root} enable {unit}" for unit in (units.SOCKET, units.AGENT, units.TIMER)
    ]
    assert all(root in c for c in calls)
    assert run_on(machine, parse("uninstall", "--yes", "--purge")) == 0
    host.at("run/systemd/system").mkdir()
    assert snapshot(host.root) == before


def test_units_that_have_failed_are_cleaned_too(host: FakeMachine, old: Path) -> None:
    before = snapshot(host.root)
    host.install(old, *MARKET)
    host.lease("done")
    for unit in (units.AGENT, units.LAUNCHER, units.FETCH):
        (host.tools / f"failed-{unit}").touch()
    assert host.run("uninstall", "--yes", "--purge") == 0, host.lines
    assert snapshot(host.root) == before
