"""A Debian that is booted below a folder, by systemd-nspawn, as reference host.md §2.3 found it.

``python -m tests.provider_agent.install.nspawn FOLDER`` makes the tree once (as root; it needs
mmdebstrap and a Debian mirror). The tests find it by `VARIABLE`, copy it, and download nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "BLINDHOST_NSPAWN_ROOT"
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,udev,python3,passwd"
BOOT_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30


def why_not() -> str | None:
    """Why no Debian can be booted here; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("systemd-nspawn") is None:
        return "no systemd-nspawn"
    folder = os.environ.get(VARIABLE)
    if not folder or not (Path(folder) / "usr/lib/systemd/systemd").exists():
        return f"{VARIABLE} names no tree; docs/host/install.md says how to make one"
    if not (Path(folder) / "usr/bin/python3.11").exists():
        return "the tree has no Python 3.11, which this release runs on"
    return None


def prepare(folder: Path) -> None:
    subprocess.run(
        ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(folder)], check=True
    )


class Container:
    """A booted tree."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root, self.leader = root, leader

    def run(
        self, *argv: str, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-p", "-r", "-w", *argv],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            start_new_session=True,  # a kill in there reaches nobody out here
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
            },
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-p", name, "--value", unit).stdout.strip()

    def wait(self, unit: str, name: str, *, other_than: str, seconds: float = 60) -> str:
        """Wait until a unit's property has another value; that value."""
        end = time.monotonic() + seconds
        while (found := self.show(unit, name)) in (other_than, ""):
            assert time.monotonic() < end, f"{unit} {name} stays {found!r}"
            time.sleep(0.2)
        return found


@contextlib.contextmanager
def boot(tree: Path, root: Path) -> Iterator[Container]:
    """Copy the tree, boot it, and stop it at the end."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(root)], check=True)
    log = root.with_suffix(".log").open("wb")
    process = subprocess.Popen(
        ["systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit", "-b"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        start_new_session=True,
    )
    try:
        yield Container(root, _wait_for_boot(process, root))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_for_boot(process: subprocess.Popen[bytes], root: Path) -> int:
    end = time.monotonic() + BOOT_SECONDS_MAX
    while time.monotonic() < end:
        assert process.poll() is None, root.with_suffix(".log").read_text(errors="replace")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            container = Container(root, int(children[0]))
            with contextlib.suppress(subprocess.TimeoutExpired):
                state = container.run("systemctl", "is-system-running", check=False, seconds=10)
                if state.stdout.strip() in {"running", "degraded"}:
                    return container.leader
        time.sleep(0.2)
    raise AssertionError(root.with_suffix(".log").read_text(errors="replace"))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
