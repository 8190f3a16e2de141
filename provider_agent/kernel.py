"""The system calls that Python 3.11 does not offer, each as one function that raises OSError.

Rules:
- Thin: no policy here. Numbers come from the kernel's headers (include/uapi/linux/{sched,mount,
  prctl,capability,if}.h) and are the same on x86-64 and arm64.
- Imports the standard library alone: this runs in a child that has nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2

_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave these namespaces for new ones (unshare(2))."""
    _call("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or change a mount (mount(2))."""
    kind_bytes = kind.encode() if kind is not None else None
    _call(
        f"mount {target}",
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind_bytes,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
    )


def mount_setattr(target: str, attributes: int) -> None:
    """Set attributes on a mount and on all that is mounted below it (mount_setattr(2))."""
    attr = struct.pack("=QQQQ", attributes, 0, 0, 0)
    _call(
        f"mount_setattr {target}",
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_long(_AT_FDCWD),
            os.fsencode(target),
            ctypes.c_ulong(_AT_RECURSIVE),
            attr,
            ctypes.c_size_t(len(attr)),
        ),
    )


def pivot_root_here() -> None:
    """Make the working directory the root, and let go of the old one (pivot_root(2), NOTES)."""
    number = ctypes.c_long(_number(_SYS_PIVOT_ROOT))
    _call("pivot_root", _libc.syscall(number, b".", b"."))
    _call("umount2", _libc.umount2(b".", ctypes.c_int(_MNT_DETACH)))
    os.chdir("/")


def loopback_up() -> None:
    """Bring ``lo`` up in the network namespace of this process (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        answer = fcntl.ioctl(channel, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("16sH", answer)[1] | _IFF_UP
        fcntl.ioctl(channel, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))


def die_with_parent(signal: int) -> None:
    """Be sent this signal when the thread that forked this process ends."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal)


def no_new_privileges() -> None:
    """No execve gives this process or its children more than they have."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def not_dumpable() -> None:
    """No core dump and no ptrace by processes of the same user; the next execve undoes it."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets (capset(2))."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", _libc.syscall(ctypes.c_long(_number(_SYS_CAPSET)), header, bytes(24)))


def _prctl(name: str, option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)
    _call(f"prctl {name}", result)


def _number(numbers: dict[str, int]) -> int:
    machine = os.uname().machine
    if machine not in numbers:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine}")
    return numbers[machine]
