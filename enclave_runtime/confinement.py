"""What a child of the enclave gives up, by system calls of Linux alone.

- `close_all_but`: a fork inherits every descriptor of its parent, the enclave's door among them.
- `die_with_parent`: no child outlives the enclave.
- `confine`: for good, in this order: resource limits, no new privileges, and a seccomp filter
  that allows computing, memory, and reading and writing of what is open. Everything else (open,
  socket, connect, clone, execve, ptrace, kill …) answers EPERM. On a processor whose table is not
  here, it refuses.

Sources: prctl(2), seccomp(2); linux/audit.h, linux/filter.h; asm/unistd_64.h, asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import resource
import signal
import struct
from pathlib import Path
from typing import Final

from trust.errors import RefusedError

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO_EPERM: Final = 0x00050000 | 1
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# read write close fstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
# rt_sigreturn sched_yield mremap madvise getpid sigaltstack exit getrusage gettid futex
# sched_getaffinity clock_gettime exit_group getrandom membarrier rseq
_CALLS: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "x86_64": (
        0xC000003E,
        (
            *(
                0,
                1,
                3,
                5,
                7,
                8,
                9,
                10,
                11,
                12,
                13,
                14,
                15,
                24,
                25,
                28,
                39,
                131,
                60,
                98,
                186,
                202,
                204,
            ),
            *(228, 231, 318, 324, 334),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(
                63,
                64,
                57,
                80,
                73,
                62,
                222,
                226,
                215,
                214,
                134,
                135,
                139,
                124,
                216,
                233,
                172,
                132,
                93,
            ),
            *(165, 178, 98, 123, 113, 94, 278, 283, 293),
        ),
    ),
}

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def close_all_but(*kept: int) -> None:
    """In a fork: close every descriptor but these, and keep the parent's objects from doing so.

    A socket object of the parent's that is collected later would close its number again, which
    may be this process's own by then.
    """
    gc.freeze()
    edges = [-1, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(edges):
        if low + 1 < high:  # CPython 3.11 takes an empty range that begins at 0 for all of them
            os.closerange(low + 1, high)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that forked it, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def confine(*, cpu_seconds: int, memory_bytes: int) -> None:
    """Give up everything but computing; `memory_bytes` is on top of what is mapped now.

    Raises RefusedError on a processor without a table, OSError where the kernel refuses.
    """
    machine = os.uname().machine
    if machine not in _CALLS:
        known = ", ".join(sorted(_CALLS))
        raise RefusedError("confinement", f"no system call table for {machine}; known: {known}")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, mapped + memory_bytes),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    _prctl(_PR_SET_DUMPABLE, 0)  # no other process of this user may look inside
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _install_filter(*_CALLS[machine])


def _install_filter(architecture: int, calls: tuple[int, ...]) -> None:
    program = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr; x32 numbers have bit 30, so none of them is equal
    ]
    for number in calls:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program.append((_RETURN, 0, 0, _ERRNO_EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def _prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> None:
    words = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    if _LIBC.prctl(ctypes.c_int(option), *words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
