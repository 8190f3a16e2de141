"""A machine below a folder, with a systemctl that keeps books, fails when told, and refuses what
the real one refuses: to stop, disable or clean a unit whose file is gone."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from provider_agent.commands.install import Machine, add_parser, run_on
from provider_agent.install import units
from provider_agent.install.archive import Bundle
from provider_agent.install.bundle import make_bundle, make_requirements
from provider_agent.install.environment import MARK, is_complete
from provider_agent.install.release import HOST_FILES, INSTALLER, REQUIREMENTS, WHEELS
from provider_agent.install.system import System, no_fault
from provider_agent.install.upgrade import Clock
from trust.identity import PartyKey

NOW = 1_764_000_000_000  # 16:00 UTC
RELEASE_KEY = PartyKey.from_bytes(b"\x05" * 32)
KILLED = 9
MARKET = ("--market", "https://market.example", "--market-identity", "ab" * 32, "--ask", "3600000")
WHEEL = "blindhost-1.0.0-py3-none-any.whl"
PIP = "pip-1.0-py3-none-any.whl"

_SYSTEMCTL = r"""#!/bin/sh
here=${0%/*}
root=@ROOT@
units=$root/etc/systemd/system
echo "$*" >> "$here/calls"
n=0; [ -e "$here/count" ] && read -r n < "$here/count"
n=$((n + 1)); echo $n > "$here/count"
if [ -e "$here/fail-at" ]; then
    read -r f < "$here/fail-at"
    [ "$n" = "$f" ] && { echo "made to fail" >&2; exit 1; }
fi
verb=$1; shift
version=$(/usr/bin/readlink "$root/opt/blindhost/current")
trouble=none; [ -e "$here/trouble-$version" ] && read -r trouble < "$here/trouble-$version"
known() { [ -e "$units/$1" ] || { echo "Unit $1 not loaded." >&2; exit 5; }; }
start() {
    if [ "$1" = blindhost-agent.service ]; then
        [ -e "$root/etc/blindhost/agent.env" ] || return 0
        [ "$trouble" = start ] && {
            /bin/rm -f "$here/active/$1"; echo "Job failed." >&2; exit 1
        }
    fi
    : > "$here/active/$1"
}
case $verb in
daemon-reload) ;;
reset-failed) for unit in "$@"; do /bin/rm -f "$here/failed-$unit"; done ;;
enable)
    for unit in "$@"; do
        [ "$unit" = --now ] && continue
        known "$unit"; echo "$unit" > "$units/wants/$unit"; start "$unit"
    done ;;
disable) for unit in "$@"; do known "$unit"; /bin/rm -f "$units/wants/$unit"; done ;;
stop) for unit in "$@"; do known "$unit"; /bin/rm -f "$here/active/$unit"; done ;;
restart) for unit in "$@"; do known "$unit"; start "$unit"; done ;;
try-restart) ;;
clean)
    for unit in "$@"; do
        [ "$unit" = --what=all ] && continue
        known "$unit"
        [ -e "$here/active/$unit" ] || [ -e "$here/failed-$unit" ] && {
            echo "Unit is not inactive or has pending job." >&2; exit 1
        }
        name=${unit%.service}; [ "$name" = blindhost-agent ] && name=blindhost
        [ -e "$root/var/lib/private/$name" ] || {
            echo "Failed to clean unit $unit: No matching resources found." >&2; exit 1
        }
        /bin/rm -rf "$root/var/lib/private/$name"
    done ;;
list-units) [ -e "$here/vms" ] && /bin/cat "$here/vms"; exit 0 ;;
is-active) if [ -e "$here/active/$1" ]; then echo active; else echo inactive; exit 3; fi ;;
show)
    state=inactive; [ -e "$here/active/blindhost-agent.service" ] && state=active
    restarts=0; status="market heartbeat 9999999999999"
    case $trouble in
        silent) status= ;;
        stale) status="market heartbeat 1" ;;
        failed) state=failed ;;
        loop) state=activating; restarts=5; status= ;;
        slow) state=activating; status= ;;
    esac
    echo "ActiveState=$state"; echo "NRestarts=$restarts"; echo "StatusText=$status" ;;
*) echo "no such verb: $verb" >&2; exit 1 ;;
esac
"""

_OTHER = '#!/bin/sh\necho "${0##*/} $*" >> "${0%/*}/calls"\n'
_PYTHON = "#!/bin/sh\necho 3 11\n"
_AGENT = """#!/bin/sh
case $1 in doctor) [ -e "${0%/*}/../doctor.json" ] || { echo "usage: blindhost-agent" >&2; exit 2; }
/bin/cat "${0%/*}/../doctor.json" ;; esac
"""
_FOLDERS = (
    "etc/systemd/system/wants", "etc/udev/rules.d", "etc/modprobe.d", "var/lib/private",
    "var/cache/private", "opt", "usr/local/bin", "run/systemd/system",
)  # fmt: skip


def contents(version: str, **more: bytes) -> dict[str, bytes]:
    """The files of a small bundle; `more` by host file name replaces or adds."""
    wheels = {WHEEL: f"wheel of {version}".encode(), PIP: b"pip"}
    files = {HOST_FILES + each.path: each.content.encode() for each in units.host_files()}
    for name, content in more.items():
        files[f"{HOST_FILES}etc/systemd/system/blindhost-{name}.service"] = content
    return {
        INSTALLER: f"installer of {version}".encode(),
        REQUIREMENTS: make_requirements(wheels),
        **{WHEELS + name: content for name, content in wheels.items()},
        **files,
    }


def write_bundle(
    path: Path, version: str, *, key: PartyKey = RELEASE_KEY, files: dict[str, bytes] | None = None
) -> Path:
    files = contents(version) if files is None else files
    path.write_bytes(make_bundle(files, version=version, created=NOW, key=key))
    return path


def build_without_pip(system: System, bundle: Bundle, name: str) -> None:
    """As `environment.build`, with the same steps and faults, and no pip."""
    if is_complete(system, name, bundle.release):
        return
    system.remove_tree(name)
    system.make_folder(name, 0o755)
    place = system.at(name)
    bundle.unpack(place)
    system.fault(f"unpacked {name}")
    (place / "bin").mkdir()
    (place / "bin/blindhost-agent").write_text(_AGENT)
    (place / "bin/blindhost-agent").chmod(0o755)
    system.write_file(f"{name}/{MARK}", bundle.release.digest.hex().encode(), 0o644)


class FakeMachine:
    """The folder, its tools and its clock."""

    def __init__(self, folder: Path) -> None:
        self.root, self.tools = folder / "root", folder / "tools"
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True)
        (self.tools / "active").mkdir(parents=True)
        self._tool("systemctl", _SYSTEMCTL.replace("@ROOT@", str(self.root)))
        for name in ("systemd-sysusers", "userdel", "groupdel", "udevadm"):
            self._tool(name, _OTHER)
        self._tool("python3.11", _PYTHON)
        self.now, self.uid = NOW, 0
        self.lines: list[str] = []

    def _tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def machine(self, fault: Callable[[str], None] = no_fault) -> Machine:
        return Machine(
            system=System(root=self.root, tools=(str(self.tools),), uid=self.uid, fault=fault),
            builder=build_without_pip,
            clock=Clock(now=lambda: self.now, pause=self._pause),
            say=self.lines.append,
        )

    def _pause(self, seconds: float) -> None:
        self.now += int(seconds * 1000)

    def run(self, *arguments: str, fault: Callable[[str], None] = no_fault) -> int:
        self.lines.clear()
        return run_on(self.machine(fault), parse(*arguments))

    def run_killed(self, at: int, *arguments: str) -> int:
        """Run in a process that dies at its fault `at`, from 0: its status, `KILLED` if it did."""
        pid = os.fork()
        if pid == 0:
            count = -1

            def die(_point: str) -> None:
                nonlocal count
                count += 1
                if count == at:
                    os._exit(KILLED)

            try:
                os._exit(self.run(*arguments, fault=die))
            except BaseException:  # noqa: BLE001 - a forked child must not run on as pytest
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def install(self, bundle: Path, *more: str) -> int:
        return self.run("install", "--yes", "--bundle", str(bundle), *KEY_OPTION, *more)

    def trouble(self, version: str, word: str) -> None:
        (self.tools / f"trouble-{version}").write_text(f"{word}\n")

    def fail_at(self, call: int | None) -> None:
        for name in ("count", "fail-at"):
            (self.tools / name).unlink(missing_ok=True)
        if call is not None:
            (self.tools / "fail-at").write_text(f"{call}\n")

    def calls(self) -> list[str]:
        path = self.tools / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def forget_calls(self) -> None:
        (self.tools / "calls").unlink(missing_ok=True)

    def is_active(self, unit: str) -> bool:
        return (self.tools / "active" / unit).exists()

    def version(self) -> str:
        return str((self.root / "opt/blindhost/current").readlink())

    def at(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def lease(self, stage: str, name: str = "leas_1") -> None:
        folder = self.at(units.STATE) / "leases" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record").write_text(f'{{"stage":"{stage}"}}')


KEY_OPTION = ("--release-key", RELEASE_KEY.identity.hex())


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command", required=True))
    return parser.parse_args(arguments)


def snapshot(root: Path) -> dict[str, str]:
    """Every path below a root: kind, mode, content or target; of a secret no content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = f"link {path.readlink()}"
        elif stat.S_ISDIR(mode):
            found[name] = f"folder {stat.S_IMODE(mode):o}"
        else:
            content = b"<secret>" if name.endswith("blindhost/identity") else path.read_bytes()
            found[name] = f"file {stat.S_IMODE(mode):o} {content!r}"
    return found


assert sys.platform == "linux"
