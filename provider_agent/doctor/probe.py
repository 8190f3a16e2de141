"""What is no file: registers, ioctls, programs and peers, behind one question-and-answer Protocol.

Questions (a tuple, so that a test's machine is a mapping) and their answers:

- ``("msr", 0xC0010010)``, ``("cpuid", 0x8000001F, "edx")``, ``("kvm-vm-types",)``: a number
- ``("snp-platform-status",)``: an object, see `hardware.snp_platform_status`
- ``("openable", "/dev/sev")``: ``""``, or the kernel's word for why not
- ``("command", NAME)``: ``{"status": int, "output": str}``; the names are `hardware.COMMANDS`
- ``("qmp", "query-sev-capabilities")``, ``("qmp", "qom-list-types")``: QEMU's own answer
- ``("qemu-boot",)``: milliseconds until a boot sector's marker came, or why it never came
- ``("gpu-admin", BDF, "cc-mode" | "ppcie-mode")``: ``on``, ``off``, ``devtools``
- ``("clock",)``: ``{"synchronised": bool, "offset_microseconds": int}``
- ``("space",)``, ``("disk-read",)``: free bytes below the cache, and bytes a second read from it
- ``("qgs",)``: whether the quote service takes a connection
- ``("market",)``: ``{"signed": bool, "enrolled": bool, "offset_milliseconds": int,
  "round_trip_milliseconds": [int]}``; ``("market-speed",)``: kilobits a second through its blobs

What has no answer raises UnreadError, and that is *unknown*.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from provider_agent.doctor.view import AbsentError, UnreadError

OUTPUT_BYTES_MAX: Final = 8 << 20  # dmesg of a big host is 1 MiB
COMMAND_SECONDS_MAX: Final = 20.0
PIECE_BYTES: Final = 1 << 16
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Question = tuple[str | int, ...]


class Probe(Protocol):
    """Answers questions about one machine."""

    def ask(self, question: Question) -> object:
        """The answer. Raises UnreadError where there is none."""
        ...


class MappingProbe:
    """A machine in a mapping: what is not in it is not there. A string ``!…`` is a refusal."""

    def __init__(self, answers: Mapping[Question, object]) -> None:
        self._answers = dict(answers)

    def ask(self, question: Question) -> object:
        """The mapping's answer. Raises AbsentError, or UnreadError for ``!EACCES`` and the like."""
        if question not in self._answers:
            raise AbsentError(f"{said(question)}: absent")
        answer = self._answers[question]
        if isinstance(answer, str) and answer.startswith("!"):
            raise UnreadError(f"{said(question)}: {answer[1:]}")
        return answer


class RememberingProbe:
    """Asks each question once, so that checks agree with each other, and a slow one costs once."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._known: dict[Question, object] = {}

    def ask(self, question: Question) -> object:
        """The first answer, or the first error again."""
        if question not in self._known:
            try:
                self._known[question] = self._probe.ask(question)
            except UnreadError as error:
                self._known[question] = error
        answer = self._known[question]
        if isinstance(answer, UnreadError):
            raise type(answer)(str(answer))
        return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a program said before it ended by itself."""

    status: int
    """Exit status, or minus the signal."""
    content: bytes
    """Standard output and error together."""

    @property
    def text(self) -> str:
        """As text."""
        return self.content.decode("utf-8", "replace")


def said(question: Question) -> str:
    """A question for a person: registers in hex."""
    return ":".join(hex(each) if isinstance(each, int) else each for each in question)


def run_bounded(
    command: Sequence[str],
    *,
    given: bytes = b"",
    seconds: float = COMMAND_SECONDS_MAX,
    output_max: int = OUTPUT_BYTES_MAX,
    until: bytes | None = None,
) -> Output:
    """Run a program of ours within a time and a size; it and what it started are dead afterwards.

    `given` goes to its standard input, at most what a pipe holds (64 KiB). With `until`, those
    bytes in its output end it, and count as its own end. Raises AbsentError where there is no such
    program; UnreadError where it hangs, floods, or does not start.
    """
    name = os.path.basename(command[0])  # noqa: PTH119 - a name to show, no file
    try:
        process = subprocess.Popen(  # noqa: S603 - callers pass fixed lists
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise AbsentError(f"{name}: not installed") from error
    except OSError as error:
        raise UnreadError(f"{name}: {error.strerror}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(given[:PIECE_BYTES])
                process.stdin.close()
            content = _collect(process.stdout.fileno(), name, seconds, output_max, until)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0 if until is not None and until in content else 1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    return Output(status=status, content=content)


def _collect(
    descriptor: int, name: str, seconds: float, output_max: int, until: bytes | None
) -> bytes:
    deadline = time.monotonic() + seconds
    content = bytearray()
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(left, 0))
        if left <= 0 or not ready:
            raise UnreadError(f"{name}: no end after {seconds:g} s")
        piece = os.read(descriptor, PIECE_BYTES)
        content += piece
        if len(content) > output_max:
            raise UnreadError(f"{name}: over {output_max} bytes of output")
        if not piece or (until is not None and until in content):
            return bytes(content)
