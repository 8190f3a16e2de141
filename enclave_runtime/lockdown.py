"""What this whole process gives up once it has started, whatever code runs in it later.

Rules:
- `give_up_privileges`: no core dump, no tracing by processes of the same user, no new privileges.
- `refuse_writes`: from then on an audit hook, which nothing can remove, refuses every open for
  writing, every change of a file or folder, every program started, and every connection that is
  not to this machine's loopback. Forks inherit it. Sockets that are open already go on working:
  they are the door.
- The hook is a second wall. Native code does not pass by it; the sandbox around the enclave has no
  writable path and no network to begin with.

Source: Python's table of audit events (docs.python.org/3.11/library/audit_events.html); prctl(2).
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import resource
import sys
from functools import partial
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_TMPFILE
_WRITING_MODES: Final = frozenset("wax+")
_SINK: Final = "/dev/null"  # what is written there is gone

_REFUSED: Final = frozenset(
    {
        "ensurepip.bootstrap",
        "ftplib.connect",
        "http.client.connect",
        "os.chmod",
        "os.chown",
        "os.exec",
        "os.link",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.setxattr",
        "os.spawn",
        "os.startfile",
        "os.symlink",
        "os.system",
        "os.truncate",
        "os.utime",
        "pty.spawn",
        "shutil.copyfile",
        "shutil.move",
        "shutil.rmtree",
        "smtplib.connect",
        "socket.gethostbyaddr",
        "socket.sendmsg",
        "socket.sendto",
        "sqlite3.connect",
        "subprocess.Popen",
        "sys.remote_exec",
        "tempfile.mkdtemp",
        "tempfile.mkstemp",
        "urllib.Request",
        "webbrowser.open",
    }
)
_ENTRIES: Final = frozenset({"os.mkdir", "os.rmdir"})  # one entry for each report
_ADDRESSED: Final = frozenset({"socket.bind", "socket.connect"})
_RESOLVING: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})


class ForbiddenError(PermissionError):
    """Something inside the enclave tried what nothing inside it may do."""


def give_up_privileges() -> None:
    """No core file, no tracing, no new privileges. Raises OSError where the kernel refuses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def refuse_writes(*, except_under: str | None) -> None:
    """Install the audit hook, for good. Raises ForbiddenError from whatever is refused later.

    `except_under`: the one folder where the hardware's reports are asked for; None: there is none.
    """
    sys.addaudithook(partial(_judge, except_under))


def _judge(except_under: str | None, event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        path, mode, flags = arguments
        # A number is a descriptor that is open already: nothing new is reached by it.
        harmless = isinstance(path, int) or path == _SINK or _is_under(except_under, path)
        if _writes(mode, flags) and not harmless:
            raise ForbiddenError(f"open for writing: {str(path)[:128]}")
    elif event in _ENTRIES and _is_under(except_under, arguments[0]):
        return
    elif event in _REFUSED:
        raise ForbiddenError(f"{event} is refused")
    elif event in _ADDRESSED and not _is_loopback(arguments[-1]):
        raise ForbiddenError(f"{event} beyond loopback is refused")
    elif event in _RESOLVING and not _is_loopback_host(arguments[0]):
        raise ForbiddenError(f"{event}: no name is looked up")


def _is_loopback_host(host: object) -> bool:
    return host is None or host == "localhost" or _is_loopback((host,))


def _is_under(folder: str | None, path: object) -> bool:
    if folder is None or not isinstance(path, str | os.PathLike):
        return False
    text = os.fspath(path)
    return isinstance(text, str) and text.startswith(folder + "/") and ".." not in text


def _writes(mode: object, flags: object) -> bool:
    by_mode = isinstance(mode, str) and not _WRITING_MODES.isdisjoint(mode)
    # O_TMPFILE contains O_DIRECTORY, with which folders are read.
    reading_flags = flags & ~os.O_DIRECTORY if isinstance(flags, int) else 0
    return by_mode or bool(reading_flags & (_WRITING & ~os.O_DIRECTORY))


def _is_loopback(address: object) -> bool:
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return False
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return False
