"""Who is at the other end of a UNIX socket, by the kernel's word, and whether it may ask."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import Final

from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.errors import MachineRefusedError

_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h
_GROUPS_MAX: Final = 256
_CREDENTIALS: Final = struct.Struct("=iII")


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """The process that connected, or that listens, as it was then."""

    pid: int
    uid: int
    gids: frozenset[int]
    """Its group and its supplementary groups."""


def peer_of(channel: socket.socket) -> Peer:
    """Ask the kernel. Raises OSError."""
    content = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(content)
    gids = {gid}
    with contextlib.suppress(OSError):  # more groups than we read, or an old kernel: fewer rights
        groups = channel.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
        gids |= {each for (each,) in struct.iter_unpack("=I", groups)}
    return Peer(pid=pid, uid=uid, gids=frozenset(gids))


def check_caller(peer: Peer, config: LauncherConfig) -> None:
    """The caller is one that the host named. Raises MachineRefusedError."""
    if config.platform.confidential and peer.uid == 0:
        raise MachineRefusedError("agent-is-root", "the agent of a real host never runs as root")
    if peer.uid not in config.caller_uids and not peer.gids & set(config.caller_gids):
        raise MachineRefusedError("stranger", f"user {peer.uid} may not call this launcher")


def check_door(descriptors: tuple[int, ...]) -> None:
    """What came with a launch are two listening UNIX sockets. Raises MachineRefusedError.

    A guest is bound to whatever they are: a listening TCP socket would be a network card.
    """
    if len(descriptors) != 2:
        raise MachineRefusedError("bad-door", f"{len(descriptors)} sockets; wanted 2")
    for descriptor in descriptors:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise MachineRefusedError("bad-door", "a descriptor that is no socket")
        with socket.socket(fileno=os.dup(descriptor)) as channel:
            listens = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if channel.family != socket.AF_UNIX or channel.type != socket.SOCK_STREAM:
                raise MachineRefusedError("bad-door", "a socket that is no UNIX stream socket")
            if not listens:
                raise MachineRefusedError("bad-door", "a socket that does not listen")
