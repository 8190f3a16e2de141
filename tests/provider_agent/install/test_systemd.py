"""In a real systemd: three units, crash, hang, activation, upgrade, way back, and nothing left.

The Debian below `nspawn.VARIABLE` is booted once; `standin.py` runs under the real units. The tests
run in the order in which they stand, each from the state that the one before it left.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider_agent.install import units
from provider_agent.install.bundle import make_installer, make_requirements
from provider_agent.install.release import HOST_FILES, INSTALLER, REQUIREMENTS, WHEELS
from tests.provider_agent.install import nspawn
from tests.provider_agent.install.machine import MARKET, RELEASE_KEY, write_bundle
from tests.provider_agent.install.nspawn import Container
from tests.provider_agent.install.wheels import find_pip, standin_wheel

PIP = find_pip()
REASON = nspawn.why_not() or (None if PIP else "no wheel of pip here")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]
AGENT_COMMAND = "/usr/local/bin/blindhost-agent"
VM = "blindhost-vm-leas_1.service"

IGNORED = re.compile(
    # What a running system writes by itself, and the copies that shadow's tools leave.
    r"/(proc|sys|dev|run|tmp)(/|$)|/var/(log|tmp|lib/systemd)(/|$)"
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|/root(/|$)|/etc/\.pwd\.lock$"
    r"|/etc/(ld\.so\.cache|machine-id|mtab|resolv\.conf|localtime|hostname)$"
)


def _bundle(path: Path, version: str, behaviour: str) -> Path:
    assert PIP is not None
    wheels = {
        f"blindhost-{version}-py3-none-any.whl": standin_wheel(version, behaviour=behaviour),
        PIP[0]: PIP[1],
    }
    files = {
        INSTALLER: make_installer(RELEASE_KEY.identity),
        REQUIREMENTS: make_requirements(wheels),
        **{WHEELS + name: content for name, content in wheels.items()},
        **{HOST_FILES + each.path: each.content.encode() for each in units.host_files()},
    }
    return write_bundle(path, version, files=files)


def _files(container: Container) -> set[str]:
    """Kind, mode, owner, path and target of everything on the root's file system."""
    done = container.run("find", "/", "-xdev", "-printf", r"%p\t%y %m %U:%G %l\n")
    lines = done.stdout.splitlines()
    return {line for line in lines if not IGNORED.match(line.partition("\t")[0])}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Container, set[str]]]:
    folder = tmp_path_factory.mktemp("nspawn")
    with nspawn.boot(Path(os.environ[nspawn.VARIABLE]), folder / "root") as container:
        inside = folder / "root/root"
        _bundle(inside / "good.tar", "0.1.0", "good")
        _bundle(inside / "better.tar", "0.2.0", "good")
        _bundle(inside / "silent.tar", "0.3.0", "silent")
        _bundle(inside / "crash.tar", "0.4.0", "crash")
        _bundle(inside / "fetched.tar", "0.5.0", "good")
        (inside / "installer.pyz").write_bytes(make_installer(RELEASE_KEY.identity))
        yield container, _files(container)


@pytest.fixture
def container(fresh: tuple[Container, set[str]]) -> Container:
    return fresh[0]


def _report(container: Container) -> dict[str, object]:
    text = container.run("cat", f"{units.STATE}/report.json").stdout
    value: dict[str, object] = json.loads(text)
    return value


def test_the_installer_starts_the_agent_in_its_sandbox(container: Container) -> None:
    container.run("sh", "-c", "mkdir /etc/blindhost && echo {} > /etc/blindhost/launcher.json")
    install = ("python3", "-I", "/root/installer.pyz", "install", "--bundle", "/root/good.tar")
    container.run(*install, "--dry-run", *MARKET)
    assert container.run("test", "-e", "/opt/blindhost", check=False).returncode == 1
    # A careful root has a umask under which nobody else could read what is installed.
    container.run("sh", "-c", 'umask 077; exec "$@"', "sh", *install, "--yes", *MARKET)
    assert container.show(units.AGENT, "ActiveState") == "active"
    report = _report(container)
    assert report["arguments"] == [
        "serve", "--home", "/var/lib/blindhost", "--market", MARKET[1],
        "--market-identity", MARKET[3], "--ask", MARKET[5],
    ]  # fmt: skip
    assert report["uid"] != 0
    assert report["credential"] == 32
    assert report["inet"] == "ok"
    assert report["identity"] == "EACCES"
    assert (report["write_etc"], report["write_opt"]) == ("EROFS", "EROFS")
    assert report["raw_socket"] == "EPERM"
    assert report["packet_socket"] == "EAFNOSUPPORT"
    assert report["unshare"] == "EPERM"
    assert report["kmsg"] == "ENOENT"


def test_the_launcher_knows_its_caller_and_has_no_network(container: Container) -> None:
    report = _report(container)
    launcher = report["launcher"]
    assert isinstance(launcher, dict)
    assert (launcher["uid"], launcher["peer"]) == (0, report["uid"])
    assert launcher["inet"] == "EAFNOSUPPORT"
    assert launcher["namespace"] != report["namespace"]
    assert launcher["unshare"] == "EPERM"
    assert launcher["write_etc"] == "EROFS"


def test_status_is_one_screen_and_knows_the_heartbeat(container: Container) -> None:
    found = json.loads(container.run(AGENT_COMMAND, "status", "--json").stdout)
    assert found["version"] == "0.1.0"
    assert found["units"][units.AGENT] == "active"
    assert found["units"][units.SOCKET] == "active"
    assert found["heartbeat"] > 0
    assert (found["changed"], found["leases"]) == ([], [])
    assert len(container.run(AGENT_COMMAND, "status").stdout.splitlines()) <= 24


def test_a_killed_agent_is_restarted(container: Container) -> None:
    before = container.show(units.AGENT, "MainPID")
    assert int(before) > 1
    container.run("sh", "-c", f"kill -KILL {before}")
    container.wait(units.AGENT, "NRestarts", other_than="0")
    container.wait(units.AGENT, "ActiveState", other_than="activating")
    assert container.show(units.AGENT, "MainPID") not in (before, "0")


def test_an_agent_that_hangs_is_restarted_by_its_watchdog(container: Container) -> None:
    drop_in = f"/run/systemd/system/{units.AGENT}.d"
    text = "[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\nRestartSec=1\\n"
    container.run("sh", "-c", f"mkdir -p {drop_in} && printf '{text}' > {drop_in}/fast.conf")
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", units.AGENT)
    before = container.show(units.AGENT, "MainPID")
    assert int(before) > 1
    container.run("sh", "-c", f"kill -STOP {before}")
    container.wait(units.AGENT, "NRestarts", other_than="0")
    assert container.show(units.AGENT, "MainPID") != before
    container.run("rm", "-r", drop_in)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", units.AGENT)


def test_a_packet_on_the_socket_revives_the_launcher(container: Container) -> None:
    container.run("systemctl", "stop", units.LAUNCHER)
    assert container.show(units.LAUNCHER, "ActiveState") == "inactive"
    container.run("systemctl", "restart", units.AGENT)  # its first act is to ask the launcher
    assert container.show(units.LAUNCHER, "ActiveState") == "active"


def test_a_vm_has_neither_network_nor_privilege_and_holds_an_uninstall_up(
    container: Container,
) -> None:
    properties = [f"--property={each}" for each in units.vm_properties(emulated=False)]
    start = ("systemd-run", "--quiet", "--service-type=exec", f"--unit={VM}", *properties)
    container.run(*start, "sleep", "600")
    pid = container.show(VM, "MainPID")
    status = container.run("cat", f"/proc/{pid}/status").stdout
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\t0\t", status, re.MULTILINE)
    devices = container.run("cat", f"/proc/{pid}/net/dev").stdout
    assert re.findall(r"^ *(\w+):", devices, re.MULTILINE) == ["lo"]
    held = container.run(AGENT_COMMAND, "uninstall", "--yes", check=False)
    assert held.returncode == os.EX_TEMPFAIL
    assert "1 lease(s) live" in held.stdout
    container.run("systemctl", "restart", units.LAUNCHER, units.AGENT)
    assert container.show(VM, "MainPID") == pid
    container.run("systemctl", "stop", VM)


def test_an_upgrade_runs_the_new_version(container: Container) -> None:
    container.run(AGENT_COMMAND, "upgrade", "--bundle", "/root/better.tar")
    assert container.run("readlink", units.CURRENT).stdout.strip() == "0.2.0"
    exe = container.run("cat", f"/proc/{container.show(units.AGENT, 'MainPID')}/cmdline").stdout
    assert "/opt/blindhost/0.2.0/" in exe or "/opt/blindhost/current/" in exe


@pytest.mark.parametrize("name", ["silent", "crash"])
def test_a_failed_upgrade_goes_back_by_itself(container: Container, name: str) -> None:
    bundle = f"/root/{name}.tar"
    done = container.run(
        AGENT_COMMAND, "upgrade", "--bundle", bundle, "--watch-seconds", "8", check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert container.run("readlink", units.CURRENT).stdout.strip() == "0.2.0"
    assert container.show(units.AGENT, "ActiveState") == "active"
    found = json.loads(container.run(AGENT_COMMAND, "status", "--json").stdout)
    assert found["upgrade"]["stage"] == "went-back"


def test_the_updater_changes_to_what_was_fetched_and_has_no_network(container: Container) -> None:
    """The fetcher itself finds nobody at that address: the updater does not depend on it."""
    settings = (
        "BLINDHOST_RELEASES=https://127.0.0.1:9\\nBLINDHOST_UPDATE_MORE=--watch-seconds=20\\n"
    )
    container.run("sh", "-c", f"printf '{settings}' > {units.UPDATE_ENVIRONMENT}")
    container.run("mkdir", "-p", "-m", "700", units.SPOOL)
    container.run("cp", "/root/fetched.tar", f"{units.SPOOL}/release.tar")
    container.run("systemctl", "start", units.UPDATE)
    assert container.show(units.FETCH, "Result") == "exit-code"
    assert container.run("readlink", units.CURRENT).stdout.strip() == "0.5.0"
    assert container.show(units.AGENT, "ActiveState") == "active"
    journal = container.run("journalctl", "-u", units.FETCH, "--no-pager", "-o", "cat").stdout
    assert "refused: https://127.0.0.1:9/latest" in journal


def test_an_uninstall_leaves_no_file_no_user_and_no_unit(
    fresh: tuple[Container, set[str]],
) -> None:
    container, before = fresh
    container.run(AGENT_COMMAND, "uninstall", "--yes", "--purge")
    after = _files(container)
    assert sorted(after - before) == []
    assert sorted(before - after) == []
    for database, name in (("passwd", "blindhost-vm"), ("group", "blindhost")):
        assert container.run("getent", database, name, check=False).returncode != 0
    units_left = container.run("systemctl", "list-units", "--all", "--plain", "--no-legend")
    assert "blindhost" not in units_left.stdout
