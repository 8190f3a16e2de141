"""The machine as the installer sees it: a root folder, a few commands, and writes that are whole.

Rules:
- Everything hangs on one root folder, so that a test can lay out any machine; another root than
  ``/`` is *offline*: nothing of the running system is touched.
- A child gets a fixed PATH and nothing of the caller's environment.
- A file or a link is replaced by rename: after a kill at any moment it is the old one or the new.
- `fault` is called before and after every side effect; the product's does nothing, and a test's
  kills the process there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.install.errors import CommandError, InstallError

TOOLS: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
COMMAND_SECONDS_MAX: Final = 180  # `systemctl start` of the agent waits for READY=1
FILE_BYTES_MAX: Final = 1 << 22  # what is copied aside before it is replaced: units, rules
_OUTPUT_SHOWN: Final = 400
ABSENT: Final = "absent"
FOLDER: Final = "folder"


def no_fault(_point: str) -> None:
    """The product's fault hook."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a command answered."""

    status: int
    out: str
    err: str


class System:
    """One machine."""

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        tools: tuple[str, ...] = TOOLS,
        offline: bool = False,
        uid: int | None = None,
        fault: Callable[[str], None] = no_fault,
    ) -> None:
        self.root, self.tools, self.offline, self.fault = root, tools, offline, fault
        self.uid = os.geteuid() if uid is None else uid

    def at(self, name: str) -> Path:
        """Where an absolute name lies below this root."""
        return self.root / name.lstrip("/")

    def find(self, program: str) -> str | None:
        """The program's path among the tools; None: absent."""
        return shutil.which(program, path=":".join(self.tools))

    def run(
        self,
        argv: tuple[str, ...],
        *,
        allowed: tuple[int, ...] = (0,),
        seconds: float = COMMAND_SECONDS_MAX,
    ) -> Ran:
        """Run a command; `allowed` are the statuses that are no error. Raises CommandError."""
        program = argv[0] if argv[0].startswith("/") else self.find(argv[0])
        if program is None:
            raise CommandError(f"{argv[0]} is absent from {':'.join(self.tools)}")
        self.fault(f"before {' '.join(argv)}")
        try:
            done = subprocess.run(  # noqa: S603 - an argument list of ours, never a shell
                (program, *argv[1:]),
                env={"PATH": ":".join(self.tools), "LANG": "C.UTF-8", "SYSTEMD_PAGER": ""},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandError(f"{' '.join(argv)}: {error}") from error
        self.fault(f"after {' '.join(argv)}")
        ran = Ran(
            status=done.returncode,
            out=done.stdout.decode(errors="replace"),
            err=done.stderr.decode(errors="replace"),
        )
        if ran.status not in allowed:
            words = (ran.err or ran.out).strip()[-_OUTPUT_SHOWN:]
            raise CommandError(f"{' '.join(argv)}: status {ran.status}: {words}")
        return ran

    # --- files -----------------------------------------------------------------------------------

    def observe(self, name: str) -> str:
        """What lies there, in one line: absent, folder, ``file MODE SHA256``, ``link TARGET``."""
        path = self.at(name)
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        if stat.S_ISLNK(found.st_mode):
            return f"link {os.readlink(path)}"  # noqa: PTH115 - text, not a path to resolve
        if stat.S_ISDIR(found.st_mode):
            return FOLDER
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES_MAX:
            return f"other {stat.S_IFMT(found.st_mode):o} {found.st_size}"
        return file_state(path.read_bytes(), stat.S_IMODE(found.st_mode))

    def write_file(self, name: str, content: bytes, mode: int) -> None:
        """Replace a file, atomically and durably."""
        path, partial = self.at(name), partial_name(self.at(name))
        self.fault(f"before write {name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(partial, flags, 0o600), "wb") as file:  # noqa: PTH123 - with its mode
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        self.fault(f"half write {name}")
        partial.replace(path)
        _sync(path.parent)
        self.fault(f"after write {name}")

    def write_link(self, name: str, target: str) -> None:
        """Replace a symbolic link, atomically and durably."""
        path, partial = self.at(name), partial_name(self.at(name))
        self.fault(f"before link {name}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        self.fault(f"half link {name}")
        partial.replace(path)
        _sync(path.parent)
        self.fault(f"after link {name}")

    def make_folder(self, name: str, mode: int) -> None:
        """Make a folder, or give it this mode."""
        self.fault(f"before folder {name}")
        self.at(name).mkdir(mode=mode, exist_ok=True)
        self.at(name).chmod(mode)
        self.fault(f"after folder {name}")

    def remove(self, name: str) -> None:
        """Remove a file or a link, and what a killed write left beside it."""
        self.fault(f"before remove {name}")
        partial_name(self.at(name)).unlink(missing_ok=True)
        self.at(name).unlink(missing_ok=True)
        self.fault(f"after remove {name}")

    def remove_folder(self, name: str) -> bool:
        """Remove a folder if it is empty; whether it is gone."""
        self.fault(f"before rmdir {name}")
        try:
            self.at(name).rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        self.fault(f"after rmdir {name}")
        return True

    def remove_tree(self, name: str) -> None:
        """Remove a folder and all below it; it is ours alone."""
        self.fault(f"before rmtree {name}")
        if self.at(name).exists():
            shutil.rmtree(self.at(name))
        self.fault(f"after rmtree {name}")


def file_state(content: bytes, mode: int) -> str:
    """How `System.observe` writes a file."""
    return f"file {mode:04o} {hashlib.sha256(content).hexdigest()}"


def partial_name(path: Path) -> Path:
    """Where a file is written before it is renamed: one place for each, so a kill leaves one."""
    if path.name in ("", "..", "."):
        raise InstallError(f"no file's name: {path}")
    return path.with_name(f".{path.name}.blindhost-partial")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
