"""The units are what host.md measured: network or privilege, never both, and little of either."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from provider_agent.install import units
from provider_agent.install.errors import InstallError

ANALYZE = shutil.which("systemd-analyze")
NEEDS_ANALYZE = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze")
VM = "blindhost-vm-leas_1.service"
EXPOSURE_MAX = {units.AGENT: 20, units.FETCH: 20, units.LAUNCHER: 35, VM: 20}  # tenths


def _settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


TEXTS = {each.path.rpartition("/")[2]: each.content for each in units.host_files()}
SANDBOXED = {
    units.AGENT: TEXTS[units.AGENT],
    units.FETCH: TEXTS[units.FETCH],
    units.LAUNCHER: TEXTS[units.LAUNCHER],
    VM: units.vm_unit("/usr/bin/qemu-system-x86_64 -version"),
}


@pytest.mark.parametrize("name", [units.AGENT, units.FETCH])
def test_what_reaches_the_network_may_do_nothing(name: str) -> None:
    found = _settings(TEXTS[name])
    assert found["DynamicUser"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["PrivateDevices"] == ["yes"]
    assert "DeviceAllow" not in found


@pytest.mark.parametrize("name", [units.LAUNCHER, units.UPDATE, VM])
def test_what_may_do_something_has_no_network(name: str) -> None:
    found = _settings({**TEXTS, **SANDBOXED}[name])
    assert found["PrivateNetwork"] == ["yes"]
    assert not {"AF_INET", "AF_INET6", "AF_NETLINK"} & set(
        " ".join(found["RestrictAddressFamilies"]).split()
    )


def test_the_agent_is_watched_and_finds_its_key_as_a_credential() -> None:
    found = _settings(TEXTS[units.AGENT])
    assert (found["Type"], found["WatchdogSec"]) == (["notify"], ["60"])
    assert found["LoadCredential"] == [f"identity:{units.IDENTITY}"]
    assert found["Requires"] == [units.SOCKET]


def test_the_launchers_socket_is_for_root_and_one_group() -> None:
    found = _settings(TEXTS[units.SOCKET])
    assert found["ListenSequentialPacket"] == [units.LAUNCHER_SOCKET]
    assert (found["SocketMode"], found["SocketGroup"]) == (["0660"], [units.GROUP])


def test_a_vm_is_emulated_with_one_setting_less_and_no_other() -> None:
    less = set(units.vm_properties(emulated=False)) - set(units.vm_properties(emulated=True))
    assert less == {"MemoryDenyWriteExecute=yes"}


@pytest.mark.parametrize(
    ("value", "wanted"), [("/opt/50%", "/opt/50%%"), ("%h%%", "%%h%%%%"), ("a\\b", "a\\\\b")]
)
def test_a_percent_sign_in_a_value_is_no_specifier(value: str, wanted: str) -> None:
    assert units.escape(value) == wanted
    assert f"ExecStart={wanted}\n" in units.vm_unit(value)


@pytest.mark.parametrize("value", ["a\nUser=root", "a\rb", "a\x00", "\x7f"])
def test_a_line_break_in_a_value_is_refused(value: str) -> None:
    with pytest.raises(InstallError):
        units.vm_unit(value)


def test_no_unit_has_a_specifier_but_the_state_folder() -> None:
    for name, text in TEXTS.items():
        assert set(re.findall(r"%.", text)) <= {"%S"}, name


# --- systemd's own word --------------------------------------------------------------------------


def _lay_out(folder: Path) -> list[Path]:
    paths = []
    for name, text in {**TEXTS, **SANDBOXED}.items():
        if name.endswith((".service", ".socket", ".timer")):
            (folder / name).write_text(text)
            paths.append(folder / name)
    return paths


@pytest.mark.slow
@NEEDS_ANALYZE
def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *_lay_out(tmp_path)],
        capture_output=True, text=True, check=False, env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    ours = [
        line
        for line in done.stderr.splitlines()
        if "blindhost" in line and "is not executable" not in line
    ]
    assert not ours


@pytest.mark.slow
@NEEDS_ANALYZE
def test_a_setting_that_systemd_does_not_know_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "blindhost-x.service").write_text("[Service]\nExecStart=/bin/true\nNoSuch=yes\n")
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", tmp_path / "blindhost-x.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "NoSuch" in done.stderr


def _exposure(path: Path, text: str) -> int:
    """systemd's figure, in tenths: 0 nothing to fear, 100 everything."""
    path.write_text(text)
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--no-pager", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: (\d+)\.(\d)", done.stdout)
    assert found, done.stdout + done.stderr
    return 10 * int(found.group(1)) + int(found.group(2))


@pytest.mark.slow
@NEEDS_ANALYZE
@pytest.mark.parametrize("name", SANDBOXED)
def test_exposure_stays_below_its_gate(tmp_path: Path, name: str) -> None:
    assert _exposure(tmp_path / name, SANDBOXED[name]) <= EXPOSURE_MAX[name]


@pytest.mark.slow
@NEEDS_ANALYZE
def test_a_unit_without_its_sandbox_fails_the_gate(tmp_path: Path) -> None:
    assert _exposure(tmp_path / "x.service", "[Service]\nExecStart=/bin/true\n") > 35
