"""The command line, over laid-out machines and over this one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from provider_agent.commands import doctor
from provider_agent.commands.leases import failed_checks
from provider_agent.doctor import docs
from provider_agent.doctor.check import Status
from provider_agent.doctor.hardware import HostProbe
from provider_agent.doctor.probe import MappingProbe
from provider_agent.doctor.rows import ROWS
from provider_agent.doctor.settings import SETTINGS
from provider_agent.doctor.view import HostView
from provider_agent.errors import AgentError
from tests.provider_agent.doctor.machines import Machine, genoa, laptop
from trust.simulated import SimulatedChip

DOC = Path(__file__).parents[3] / "docs" / "host" / "doctor.md"


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command")
    doctor.add_parser(commands)
    return parser.parse_args(arguments)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `doctor` over a machine: exit code, and what it printed."""

    def run_it(machine: Machine, *arguments: str) -> tuple[int, str]:
        root = tmp_path / "tree"
        if not root.exists():
            machine.lay(root)
        monkeypatch.setattr(doctor, "HostProbe", lambda **_: MappingProbe(machine.answers))
        monkeypatch.setattr(doctor, "ROOT", root)
        status = doctor.run(options("doctor", *arguments))
        return status, capsys.readouterr().out

    return run_it


def test_a_laptop_ends_with_1_and_a_way_on(run) -> None:
    status, text = run(laptop())
    assert status == 1
    assert "FAILED cpu.generation (blocker)" in text
    assert "FAILED gpu.model (blocker)" in text
    assert "simulated" in text


def test_json_is_one_object_and_nothing_else(run) -> None:
    status, text = run(laptop(), "--json")
    report = json.loads(text)
    assert report["exit"] == status == 1
    assert report["offers"] == ["simulated"]


def test_explain_says_what_why_and_found(run, simulated_chip: SimulatedChip) -> None:
    status, text = run(genoa(simulated_chip), "--explain", "gpu.cc_mode")
    assert status == 0
    assert "gpu.cc_mode: Every GPU is in confidential mode" in text
    assert "found       on" in text
    assert "--set-cc-mode=on" in text
    with pytest.raises(AgentError, match="no check is called"):
        run(genoa(simulated_chip), "--explain", "nothing")


def test_only_answers_for_what_was_asked(run, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    machine.answers["gpu-admin", "0000:41:00.0", "cc-mode"] = "off"
    status, text = run(machine, "--json", "--only", "gpu.bar")
    assert status == 0
    made = {each["id"] for each in json.loads(text)["checks"]}
    assert made == {"host.bare_metal", "gpu.model", "gpu.bar"}
    assert run(machine, "--only", "gpu.cc_mode")[0] == 1


def test_a_whole_run_stays_in_the_agents_home_for_leases_why(
    run, tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    machine = genoa(simulated_chip)
    machine.answers["gpu-admin", "0000:41:00.0", "cc-mode"] = "off"
    run(machine, "--only", "gpu.cc_mode", "--home", str(home))
    assert failed_checks(home / "doctor.json") is None  # a part is not the last run
    run(machine, "--home", str(home))
    found = failed_checks(home / "doctor.json")
    assert found is not None
    assert "gpu.cc_mode: fail" in found
    assert (home / "doctor.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AgentError, match="no agent has a home"):
        run(machine, "--home", str(tmp_path / "none"))


def test_an_offer_moves_the_limits(run, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    few = run(machine, "--json", "--only", "snp.bios.asid", "--offer", "vms=2")
    many = run(machine, "--json", "--only", "snp.bios.asid", "--offer", "vms=120")
    assert (few[0], many[0]) == (0, 1)
    assert json.loads(many[1])["checks"][-1]["required"] == 124
    for wrong in ("vms=0", "vms", "gpus=-1", "disk=3", "vms=1e3"):
        with pytest.raises(AgentError, match="--offer"):
            run(machine, "--offer", wrong)


def test_fix_shows_and_writes_only_when_told(run, tmp_path: Path, simulated_chip) -> None:
    machine = genoa(simulated_chip)
    machine.files["proc/sys/vm/nr_hugepages"] = "64\n"
    written = tmp_path / "tree/etc/sysctl.d/60-blindhost.conf"
    _, text = run(machine, "--fix")  # no terminal: nobody agreed
    assert "+vm.nr_hugepages = 0" in text
    assert "Nothing was written." in text
    assert not written.exists()
    _, text = run(machine, "--fix", "--yes")
    assert "+vm.nr_hugepages = 0" in text
    assert "vm.nr_hugepages = 0" in written.read_text()
    status, text = run(machine, "--fix", "--undo")
    assert (status, text) == (0, "Taken back.\n")
    assert not written.exists()
    with pytest.raises(AgentError, match="--fix --undo"):
        run(machine, "--undo")


def test_a_fix_that_cannot_help_says_so(run, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    machine.answers["msr", 0xC0010010] = 0
    status, text = run(machine, "--fix", "--yes")
    assert status == 1
    assert "yours to do" in text


def test_undo_names_what_it_left(run, tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    machine.files["proc/sys/vm/nr_hugepages"] = "64\n"
    run(machine, "--fix", "--yes")
    (tmp_path / "tree/etc/sysctl.d/60-blindhost.conf").write_text("mine\n")
    status, text = run(machine, "--fix", "--undo")
    assert status == 1
    assert "/etc/sysctl.d/60-blindhost.conf was changed since" in text


def test_a_bundle_is_written_where_it_was_asked(run, tmp_path: Path, simulated_chip) -> None:
    status, _ = run(genoa(simulated_chip), "--bundle", str(tmp_path / "b.tar.gz"))
    assert status == 1  # the simulated chip's root is no vendor's
    assert (tmp_path / "b.tar.gz").stat().st_size > 1000


def test_the_launchers_own_qemu_and_tool_are_asked(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    view = HostView(root=genoa(simulated_chip).lay(tmp_path))
    probe = doctor._probe(view, None)
    assert isinstance(probe, HostProbe)
    assert probe.qemu == "/opt/qemu/bin/qemu-system-x86_64"
    assert probe.admin_tool == ("/opt/gpu/bin/python", "-I", "-m", "nvidia_gpu_tools")
    (tmp_path / SETTINGS).write_text("{}")
    assert doctor._probe(view, None) == HostProbe(cache=doctor.CACHE, market=None)


def test_a_market_without_its_identity_is_not_asked(run, simulated_chip: SimulatedChip) -> None:
    with pytest.raises(AgentError, match="anybody could answer"):
        run(genoa(simulated_chip), "--market", "http://127.0.0.1:1")


def test_this_machine_can_be_doctored(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it is: every check is made, and none is a pass for want of an answer."""
    only = [r.id for r in ROWS if r.id not in ("host.disk", "qemu.probe")]
    status = doctor.run(options("doctor", "--json", "--only", *only))
    report = json.loads(capsys.readouterr().out)
    assert status in (0, 1, 2)
    assert len(report["checks"]) >= len(only)
    for each in report["checks"]:
        assert (each["status"] == Status.UNKNOWN.value) <= (each["actual"] is None)
        if each["status"] == Status.PASS.value:
            assert each["actual"] is not None


def test_a_selftest_of_what_is_not_here_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options("selftest", "--home", str(tmp_path), "--platform", "tdx", "--json")
    if Path("/sys/module/kvm_intel/parameters/tdx").exists():
        pytest.skip("this machine may have it")
    assert doctor.run(asked) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["command"], report["exit"], report["offers"]) == ("selftest", 1, [])
    assert doctor.run(options("selftest", "--home", str(tmp_path), "--platform", "sgx")) == 1
    assert "The selftest did not pass." in capsys.readouterr().out


# --- the document --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"), [("doctor", docs.doctor_table), ("selftest", docs.selftest_table)]
)
def test_the_document_has_the_rows_as_they_are(name: str, table) -> None:
    text = DOC.read_text(encoding="utf-8")
    between = text.partition(f"<!-- {name}:begin -->\n")[2].partition(f"<!-- {name}:end -->")[0]
    assert between.strip() == table()
