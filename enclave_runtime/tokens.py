"""Rows → token ids, in a child process without keys, door or network.

- The child is forked before any key exists. Its only descriptors are two pipes; confinement.py
  takes files, sockets, other processes, and all but so much time and memory.
- One question, one answer, each bounded. A late, too long or cut off answer ends the child.
- A broken line, a panic of the tokenizer, a template without end: each is a RowError with the
  line's number (from 1), and none is lost silently. The enclave itself goes on.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import time
from typing import Final, NoReturn

from enclave_runtime.confinement import close_all_but, confine, die_with_parent
from enclave_runtime.pipes import read_exactly, write_all
from enclave_runtime.rows import ID_BYTES, Row
from enclave_runtime.templating import Templater, error_text
from trust.errors import BlindhostError, RefusedError
from trust.jobs import LossOn
from trust.model_files import ModelFiles

LINE_BYTES_MAX: Final = 4 << 20  # a row of a million tokens
ANSWER_SECONDS_MAX: Final = 10.0  # a row takes under a millisecond
START_SECONDS_MAX: Final = 60.0  # loading a vocabulary of 256,000 words on a busy machine
CPU_SECONDS_MAX: Final = 3600  # 10 million rows
SERVE_CPU_SECONDS_MAX: Final = 366 * 86_400  # a serve job goes on for months
MEMORY_BYTES_MAX: Final = 1 << 30  # a vocabulary of 256,000 words takes about 200 MB
TEXT_BYTES_MAX: Final = LINE_BYTES_MAX  # a reference reply is no longer than its line
DECODED_BYTES_PER_TOKEN_MAX: Final = 2048  # trust.model_files bounds a token to 512 characters
_ASKED: Final = struct.Struct(">BI")
_OK, _REFUSED = 0, 1
_ROW, _PROMPT, _DECODE, _CHAT, _TEXT = 1, 2, 3, 4, 5


class RowError(BlindhostError):
    """A line that cannot become tokens. The text may quote nothing of it but its shape."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line, self.text = line, text


class _ChildGoneError(Exception):
    """The child ended, was late, or answered more than it may."""


class TokensChild:
    """The parent's end of the child. Raises RefusedError if template or tokenizer do not load."""

    def __init__(
        self,
        files: ModelFiles,
        *,
        loss_on: LossOn,
        length_max: int,
        cpu_seconds: int = CPU_SECONDS_MAX,
    ) -> None:
        self._length_max = length_max
        asked_read, self._asked = os.pipe()
        self._answers, answers_write = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run_child(parent, asked_read, answers_write, files, loss_on, length_max, cpu_seconds)
        os.close(asked_read)
        os.close(answers_write)
        self._ended: str | None = None
        try:
            status, text = self._answer(4096, START_SECONDS_MAX)
        except _ChildGoneError as error:
            raise RefusedError("tokenizer", f"did not load: {error}") from error
        if status != _OK:
            self.stop()
            raise RefusedError("tokenizer", text.decode("utf-8", "replace"))

    def row(self, number: int, line: bytes) -> Row:
        """Tokens of a row. Raises RowError."""
        return self._row(self._ask(number, _ROW, line, (ID_BYTES + 1) * self._length_max))

    def prompt(self, number: int, line: bytes) -> tuple[Row, str]:
        """Tokens before the last reply, and the reply's text. Raises RowError."""
        most = 4 + (ID_BYTES + 1) * self._length_max + TEXT_BYTES_MAX
        answer = self._ask(number, _PROMPT, line, most)
        length = int.from_bytes(answer[:4], "big")
        return self._row(answer[4 : 4 + length]), answer[4 + length :].decode("utf-8")

    def ask_prompt(self, text: bytes, *, chat: bool) -> bytes:
        """u32 token ids of a prompt: a JSON row of messages, or bare text. Raises RowError.

        A longer one than a row may be is cut one token above that: whoever asks sees it.
        """
        most = ID_BYTES * (self._length_max + 1)
        return self._ask(1, _CHAT if chat else _TEXT, text, most)

    @property
    def ended(self) -> bool:
        """The child is gone: it answers nothing any more."""
        return self._ended is not None

    def decode(self, number: int, ids: bytes) -> str:
        """Text of u32 token ids of row `number`'s reply. Raises RowError."""
        most = DECODED_BYTES_PER_TOKEN_MAX * (len(ids) // ID_BYTES + 1)
        return self._ask(number, _DECODE, ids, most).decode("utf-8", "replace")

    def stop(self) -> None:
        """Kill it, wait for it, and close its pipes. May be called again."""
        if self._ended is not None:
            return
        os.kill(self.pid, signal.SIGKILL)
        _pid, status = os.waitpid(self.pid, 0)
        os.close(self._asked)
        os.close(self._answers)
        code = os.waitstatus_to_exitcode(status)
        self._ended = f"ended by signal {-code}" if code < 0 else f"ended with status {code}"

    @staticmethod
    def _row(answer: bytes) -> Row:
        tokens, rest = divmod(len(answer), ID_BYTES + 1)
        if rest or not tokens:
            raise RefusedError("tokenizer", f"an answer of {len(answer)} bytes is no row")
        return Row(ids=answer[: ID_BYTES * tokens], supervised=answer[ID_BYTES * tokens :])

    def _ask(self, number: int, question: int, body: bytes, most: int) -> bytes:
        if len(body) > LINE_BYTES_MAX:
            raise RowError(number, f"{len(body)} bytes; at most {LINE_BYTES_MAX}")
        if self._ended is not None:
            raise RowError(number, f"the tokenizing child {self._ended} before")
        try:
            write_all(self._asked, _ASKED.pack(question, len(body)) + body)
            status, answer = self._answer(most, ANSWER_SECONDS_MAX)
        except BrokenPipeError as error:
            self.stop()
            raise RowError(number, f"the tokenizing child {self._ended}") from error
        except _ChildGoneError as error:
            raise RowError(number, str(error)) from error
        if status != _OK:
            raise RowError(number, answer.decode("utf-8", "replace"))
        return answer

    def _answer(self, most: int, seconds: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + seconds
        head = self._read(_ASKED.size, deadline, seconds)
        status, length = _ASKED.unpack(head)
        if length > max(most, 4096):
            self.stop()
            raise _ChildGoneError(f"the tokenizing child answered {length} bytes; at most {most}")
        return status, self._read(length, deadline, seconds)

    def _read(self, length: int, deadline: float, seconds: float) -> bytes:
        content = b""
        while len(content) < length:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._answers], [], [], max(0.0, left))
            if not ready:
                self.stop()
                raise _ChildGoneError(f"tokenizing took longer than {seconds:g} s")
            part = os.read(self._answers, length - len(content))
            if not part:
                self.stop()
                raise _ChildGoneError(f"the tokenizing child {self._ended}")
            content += part
        return content


# --- the child -----------------------------------------------------------------------------------


def _run_child(
    parent: int,
    asked: int,
    answers: int,
    files: ModelFiles,
    loss_on: LossOn,
    length_max: int,
    cpu_seconds: int,
) -> NoReturn:
    """Confine this fork, load, and answer until the pipe ends. Never returns."""
    status = 1
    try:
        close_all_but(asked, answers)
        die_with_parent(parent)
        _serve(asked, answers, files, loss_on, length_max, cpu_seconds)
        status = 0
    finally:
        os._exit(status)


def _serve(
    asked: int,
    answers: int,
    files: ModelFiles,
    loss_on: LossOn,
    length_max: int,
    cpu_seconds: int,
) -> None:
    try:
        confine(cpu_seconds=cpu_seconds, memory_bytes=MEMORY_BYTES_MAX)
        templater = Templater(files, loss_on=loss_on, length_max=length_max)
    except BaseException as error:  # noqa: BLE001 - pyo3's panics derive from BaseException
        text = error_text(error)
        _reply(answers, _REFUSED, text.encode())
        return
    _reply(answers, _OK, b"")
    while True:
        try:
            question, length = _ASKED.unpack(read_exactly(asked, _ASKED.size))
            body = read_exactly(asked, length)
        except EOFError:
            return
        try:
            if question == _ROW:
                row = templater.row(body)
                answer = row.ids + row.supervised
            elif question == _PROMPT:
                prompt, reply = templater.prompt(body)
                tokens = prompt.ids + prompt.supervised
                answer = len(tokens).to_bytes(4, "big") + tokens + reply.encode()
            elif question == _DECODE:
                answer = templater.decode(body).encode()
            else:
                answer = templater.ask(body, chat=question == _CHAT)
        except BaseException as error:  # noqa: BLE001 - pyo3's panics derive from BaseException
            _reply(answers, _REFUSED, error_text(error).encode("utf-8", "replace")[:4096])
        else:
            _reply(answers, _OK, answer)


def _reply(answers: int, status: int, body: bytes) -> None:
    write_all(answers, _ASKED.pack(status, len(body)) + body)
