"""Stands in for the agent and the launcher under their real units, in a real systemd.

The installer's commands are the real ones; `serve` and `launcher` say what their sandbox lets them
do, and nothing else. `standin_behaviour.BEHAVIOUR` differs between versions.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from provider_agent.commands import install
from provider_agent.install.notify import Notifier

SOCKET = "/run/blindhost/launcher.sock"
CLONE_NEWUSER = 0x10000000


def behaviour() -> str:
    from standin_behaviour import BEHAVIOUR  # type: ignore[import-not-found]

    return str(BEHAVIOUR)


def outcome(act: Callable[[], object]) -> str:
    """``ok``, or the name of the error."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def ask_launcher() -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(20)
        channel.connect(SOCKET)
        channel.send(b"who")
        return json.loads(channel.recv(4096))


def serve() -> int:
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    if behaviour() == "crash":
        return 1
    credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
    report = {
        "uid": os.getuid(),
        "arguments": sys.argv[1:],
        "credential": len((credentials / "identity").read_bytes()),
        "identity": outcome(lambda: Path("/etc/blindhost/identity").read_bytes()),
        "write_etc": outcome(lambda: Path("/etc/x").write_text("x")),
        "write_opt": outcome(lambda: Path("/opt/blindhost/x").write_text("x")),
        "raw_socket": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        "packet_socket": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "inet": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "unshare": outcome(unshare),
        "kmsg": outcome(lambda: Path("/dev/kmsg").read_bytes()),
        "namespace": str(Path("/proc/self/ns/net").readlink()),
        "launcher": ask_launcher(),
    }
    (home / "report.json").write_text(json.dumps(report))
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    notifier.ready()
    while True:
        notifier.ping()
        if behaviour() != "silent":
            notifier.heartbeat(int(time.time() * 1000))
        time.sleep(0.5)


def launcher() -> int:
    with socket.socket(fileno=3) as listener:
        while True:
            channel, _ = listener.accept()
            with channel:
                peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                channel.recv(64)
                answer = {
                    "uid": os.getuid(),
                    "peer": struct.unpack("3i", peer)[1],
                    "inet": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
                    "unshare": outcome(unshare),
                    "write_etc": outcome(lambda: Path("/etc/x").write_text("x")),
                    "namespace": str(Path("/proc/self/ns/net").readlink()),
                }
                channel.send(json.dumps(answer).encode())


def main() -> int:
    match sys.argv[1:2]:
        case ["serve"]:
            return serve()
        case ["launcher"]:
            return launcher()
        case ["doctor"]:
            sys.stdout.write(json.dumps({"checks": []}))
            return 0
        case _:
            return install.main(sys.argv[1:])
