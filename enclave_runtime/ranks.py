"""Local ranks: forks of the enclave, made before any key or thread exists.

- A rank inherits the shared map and two pipes, and closes every other descriptor: it has no door,
  and never a key. The kernel kills it when the enclave ends.
- Each rank has a session of its own: the scheduler then shares the processor between ranks, not
  within one slice (sched(7), autogroup).
- `join_world` makes the process group and accelerate's `Accelerator`, and refuses another world
  size than the manifest's: accelerate's launcher starts one process in silence on a CPU.
- What one rank reports is read by the parent alone. The parent waits for all, and kills what is
  left when one dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from enclave_runtime.confinement import close_all_but, die_with_parent
from enclave_runtime.environment import THREADS_PER_RANK, set_rank_environment
from enclave_runtime.pipes import Frame, FrameReader, write_frame
from trust.errors import BlindhostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

_STANDARD: Final = (0, 1, 2)  # kept, since opening a substitute for them is an open for writing
COLLECTIVE_WAIT: Final = timedelta(hours=1)  # one rank may wait this long for its siblings' step
ERROR_CHARACTERS_MAX: Final = 500
PIPE_BYTES: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A rank's place, as the rank sees it."""

    rank: int
    world_size: int
    control: int
    """Pipe from the parent."""
    reports: int
    """Pipe to the parent."""
    store_port: int
    """Loopback port of the ranks' rendezvous; rank 0 listens on `store_listener`."""
    store_listener: int


@dataclasses.dataclass(kw_only=True, slots=True)
class RankChild:
    """A rank, as the parent sees it."""

    rank: int
    pid: int
    pidfd: int
    """Readable once the process has ended."""
    control: int
    reader: FrameReader
    status: int | None = None
    """Exit code, negative for a signal; None while it runs."""

    def end(self) -> None:
        """Kill it unless it ended, wait for it, close its descriptors. May be called again."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
        for descriptor in (self.pidfd, self.control, self.reader.descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.pidfd = self.control = self.reader.descriptor = -1

    def reap(self) -> int:
        """Wait for its end; returns `status`."""
        _pid, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status


def fork_ranks(world_size: int, main: Callable[[Seat], None]) -> list[RankChild]:
    """Fork the ranks; each runs `main` and exits. Raises RefusedError if a thread exists.

    A fork of a process with threads holds their locks for ever (fork(2)).
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise RefusedError("threads", f"ranks are forked before any thread exists; {threads} run")
    with socket.create_server(("127.0.0.1", 0), backlog=world_size) as listener:
        port, children = listener.getsockname()[1], list[RankChild]()
        for rank in range(world_size):
            control_read, control = os.pipe()
            reports, reports_write = os.pipe()
            seat = Seat(
                rank=rank,
                world_size=world_size,
                control=control_read,
                reports=reports_write,
                store_port=port,
                store_listener=listener.fileno(),
            )
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                _run_rank(parent, seat, main)
            os.close(control_read)
            os.close(reports_write)
            os.set_blocking(reports, False)
            children.append(
                RankChild(
                    rank=rank,
                    pid=pid,
                    pidfd=os.pidfd_open(pid),
                    control=control,
                    reader=FrameReader(reports),
                )
            )
    return children


def _run_rank(parent: int, seat: Seat, main: Callable[[Seat], None]) -> NoReturn:
    """The whole life of a rank. Never returns: the code after the fork is the parent's."""
    status = 1
    try:
        kept = (seat.store_listener,) if seat.rank == 0 else ()
        close_all_but(*_STANDARD, seat.control, seat.reports, *kept)
        die_with_parent(parent)
        os.setsid()
        set_rank_environment(rank=seat.rank, world_size=seat.world_size, port=seat.store_port)
        main(seat)
        status = 0
    except BaseException as error:  # noqa: BLE001 - the rank's entry point
        text = (
            str(error) if isinstance(error, BlindhostError) else f"{type(error).__name__}: {error}"
        )
        with contextlib.suppress(OSError):
            fields = {"text": f"rank {seat.rank}: {text}"[:ERROR_CHARACTERS_MAX]}
            write_frame(seat.reports, Frame(kind="failed", fields=fields))
    finally:
        os._exit(status)


def join_world(seat: Seat, *, wanted: int) -> Any:
    """Meet the other ranks; returns accelerate's `Accelerator`.

    Raises RefusedError unless there are as many as the manifest says.
    """
    import torch
    import torch.distributed as dist
    from accelerate import Accelerator

    torch.set_num_threads(THREADS_PER_RANK)
    torch.use_deterministic_algorithms(mode=True)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1",
        seat.store_port,
        seat.world_size,
        is_master=seat.rank == 0,
        master_listen_fd=seat.store_listener if seat.rank == 0 else None,
        use_libuv=True,
    )
    dist.init_process_group(
        "gloo",
        store=store,
        rank=seat.rank,
        world_size=seat.world_size,
        timeout=COLLECTIVE_WAIT,
    )
    accelerator = Accelerator(cpu=True)
    check_world_size(accelerator.num_processes, wanted=wanted)
    return accelerator


def check_world_size(found: int, *, wanted: int) -> None:
    """Raises RefusedError unless the world has as many ranks as the manifest says."""
    if found != wanted:
        raise RefusedError("world-size", f"{found} ranks are running, the manifest says {wanted}")
