"""The inside of `sandbox.start`: a child that walls itself in, and becomes the enclave.

Rules:
- It begins as a fresh interpreter that never held the chip's key, takes one JSON object on stdin,
  and imports the standard library and `kernel` alone.
- Each namespace is taken or its refusal is reported; nothing is skipped in silence. A step that
  fails inside a namespace that was taken ends the child: half a wall is described as none.
- Every mount of the new root is made read-only by one call, so none can be forgotten. No file can
  grow either (RLIMIT_FSIZE 0), which holds where the mount namespace is refused.
- The enclave is process 1 of its PID namespace: when it ends, the kernel kills what it started.
  It is killed when this starter dies, and the starter when the chip dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import stat
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from provider_agent import kernel

NOBODY: Final = 65534
IMAGE_TARGET: Final = "/image"
DEVICES: Final = ("null", "zero", "urandom", "random")
ROOT_OPTIONS: Final = "mode=0755,size=1m"  # folders and empty mount points only
SPEC_BYTES_MAX: Final = 1 << 16
EXIT_NOT_STARTED: Final = 71  # EX_OSERR of sysexits.h
SIGNAL_EXIT: Final = 128  # the shell's: 128 + number of the signal that killed it
_SAVED_FD_MIN: Final = 64  # above every descriptor that the enclave gets

NAMESPACES: Final = {
    "mount": kernel.CLONE_NEWNS,
    "network": kernel.CLONE_NEWNET,
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
}


def main() -> NoReturn:
    """Read the spec, leave the host's namespaces, fork the enclave, wait for it."""
    kernel.die_with_parent(signal.SIGKILL)
    spec = json.loads(sys.stdin.buffer.read(SPEC_BYTES_MAX))
    report = int(spec["report"])
    if os.getppid() != spec["parent"]:  # the chip died before it could be named as parent
        os._exit(EXIT_NOT_STARTED)
    try:
        taken, refused = _leave_namespaces()
    except OSError as error:
        _say(report, {"failed": str(error)[:512]})
        os._exit(EXIT_NOT_STARTED)
    alive, alive_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive_writer)
        try:
            _become_enclave(spec, taken, refused, alive)
        except BaseException as error:  # noqa: BLE001 - a forked child must not run on as its parent
            _say(report, {"failed": f"{type(error).__name__}: {error}"[:512]})
        os._exit(EXIT_NOT_STARTED)
    _say(report, {"pid": pid})
    # The starter keeps nothing but the end of the pipe that says it is alive.
    os.closerange(3, alive_writer)
    os.closerange(alive_writer + 1, _descriptors_max())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(SIGNAL_EXIT - status if status < 0 else status)


def _say(report: int, value: dict[str, Any]) -> None:
    os.write(report, json.dumps(value).encode() + b"\n")


def _descriptors_max() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _leave_namespaces() -> tuple[list[str], list[str]]:
    """Take each namespace; without privilege, inside a user namespace of our own.

    Raises OSError where a user namespace is given whose ids cannot be mapped: there is no way back
    out of it, and nothing can be opened inside.
    """
    taken: list[str] = []
    refused: list[str] = []
    uid, gid = os.getuid(), os.getgid()
    try:
        kernel.unshare(NAMESPACES["mount"])
        taken.append("mount")
    except OSError:
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
        except OSError as error:
            refused.append(f"user: {error}")
        else:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1", encoding="ascii")
            taken.append("user")
    for name, flag in NAMESPACES.items():
        if name not in taken:
            try:
                kernel.unshare(flag)
                taken.append(name)
            except OSError as error:
                refused.append(f"{name}: {error}")
    return taken, refused


def _become_enclave(spec: dict[str, Any], taken: list[str], refused: list[str], alive: int) -> None:
    """Wall in, drop every privilege, say what holds, run the image.

    (1) New root, loopback. (2) No privilege, no core, no file that grows. (3) Dies with the
    starter. (4) Descriptors 0 to 5 and no others. (5) An empty environment.
    """
    os.setsid()
    os.umask(0o077)
    if "network" in taken:  # (1)
        kernel.loopback_up()
    if "uts" in taken:
        os_sethostname()
    image = spec["image"]
    if "mount" in taken:
        image = _make_root(spec, refused, own_processes="pid" in taken)
    else:
        os.chdir("/")
    _drop_privileges(keep_user="mount" not in taken)  # (2)
    kernel.die_with_parent(signal.SIGKILL)  # (3) after the change of user, which clears it
    if select.select([alive], [], [], 0)[0]:
        os._exit(EXIT_NOT_STARTED)
    report = _place_descriptors(spec)  # (4)
    isolation = {
        "namespaces": sorted(taken),
        "refused": refused,
        "read_only_root": "mount" in taken,
        "uid": os.getuid(),
    }
    _say(report, {"isolation": isolation})
    os.execve(spec["python"], [spec["python"], "-I", "-B", image], {})  # noqa: S606 # (5)


def os_sethostname() -> None:
    """Name the new UTS namespace: the host's name is none of the enclave's business."""
    import socket

    socket.sethostname("enclave")


def _make_root(spec: dict[str, Any], refused: list[str], *, own_processes: bool) -> str:
    """Build a root of read-only binds, move into it, and return the image's path in it."""
    root = spec["staging"]
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, ROOT_OPTIONS)
    os.umask(0o022)
    for path in spec["readable"]:
        _show(path, root + path)
    for name in DEVICES:
        _show(f"/dev/{name}", f"{root}/dev/{name}")
    _show(spec["image"], root + IMAGE_TARGET)
    Path(root, "proc").mkdir()
    if own_processes:  # a /proc of another PID namespace would show the host's processes
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        try:
            kernel.mount("proc", f"{root}/proc", "proc", flags)
        except OSError as error:  # where a container masks parts of its own /proc
            refused.append(f"proc: {error}")
    os.umask(0o077)
    os.chdir(root)
    kernel.pivot_root_here()
    kernel.mount_setattr("/", kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID)
    return IMAGE_TARGET


def _show(path: str, target: str) -> None:
    """Let `path` of the host be seen at `target`: a link as a link, all else as a bind."""
    mode = os.lstat(path).st_mode
    place = Path(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(mode):
        place.symlink_to(os.readlink(path))  # noqa: PTH115 - text, not a path to resolve
        return
    if stat.S_ISDIR(mode):
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)


def _drop_privileges(*, keep_user: bool) -> None:
    # Without a root of its own, the image lies in a folder that its owner alone can enter.
    if os.geteuid() == 0 and not keep_user:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    # With none left and no_new_privileges, execve gives none back, to user 0 neither
    # (capabilities(7), security/commoncap.c).
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    kernel.not_dumpable()
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def _place_descriptors(spec: dict[str, Any]) -> int:
    """Put null at 0 to 2, door and chip at 3 to 5; close the rest but the report's, which closes
    itself on execve. Returns the report's new number.
    """
    null = os.open("/dev/null", os.O_RDWR)
    wanted = [null, null, null, *spec["door"], spec["chip"]]
    saved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAVED_FD_MIN) for fd in wanted]
    report = fcntl.fcntl(spec["report"], fcntl.F_DUPFD_CLOEXEC, _SAVED_FD_MIN)
    for number, fd in enumerate(saved):
        os.dup2(fd, number, inheritable=True)
    os.closerange(len(saved), report)
    with contextlib.suppress(OSError):
        os.closerange(report + 1, _descriptors_max())
    return report
