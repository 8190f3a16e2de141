"""A job's log as text: one line for each event, the same whenever it is asked for.

- A line is ``time what``: ``2026-09-21T13:46:40.000Z step 3/10 loss=2.5 tokens=2048``. An ended
  job's log has one more, which says how it ended.
- What an enclave or the market says is shown as text: a control character is written as its escape,
  because these lines go to a terminal as they are.
- `tail` sends all from the beginning, then what is new, and closes with 1000 only once the job is
  seen as ended: Ray's command asks for the status right after.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from client.gateway.ports import TuneEvent, TuneEventKind, TuneJob, TunePort
from marketplace.wire import JobState

CHUNK_CHARACTERS: Final = 20_000  # Ray's own; its client takes frames of 4 MiB
LINE_CHARACTERS_MAX: Final = 4096
LOG_CHARACTERS_MAX: Final = 64 << 20  # of one answer; a job of a million steps has about so many
POLL_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 20.0
SEND_SECONDS: Final = 60.0  # a client that does not read for so long is gone
MESSAGE_BYTES_MAX: Final = 1024  # a client has nothing to say on this socket
ENDED: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
)


def shown(text: str) -> str:
    """A text as one line that a terminal only prints."""
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
    return line if len(line) <= LINE_CHARACTERS_MAX else f"{line[:LINE_CHARACTERS_MAX]}…"


def log_line(event: TuneEvent) -> str:
    """One event as one line, with its line feed."""
    words = [_time(event.at)]
    if event.kind in {TuneEventKind.MEASURE, TuneEventKind.CHECKPOINT}:
        words.append(f"step {event.step}/{event.steps}")
    if event.kind is TuneEventKind.CHECKPOINT:
        words.append("checkpoint")
    words += [f"{shown(name)}={_number(event.measures[name])}" for name in sorted(event.measures)]
    if event.text:
        words.append(shown(event.text))
    return " ".join(words) + "\n"


def last_line(job: TuneJob) -> str:
    """How an ended job ended."""
    words = ["" if job.finished_at is None else _time(job.finished_at), "ended:", job.state.value]
    if job.trained_tokens is not None:
        words.append(f"tokens={job.trained_tokens}")
    if job.tuned_model is not None:
        words.append(f"model={shown(job.tuned_model)}")
    if job.code:
        words.append(shown(job.code))
    return " ".join(word for word in words if word) + "\n"


def log_text(job: TuneJob, events: Sequence[TuneEvent]) -> str:
    """A whole log; of one that is too long, the end."""
    text = "".join(map(log_line, events)) + (last_line(job) if job.state in ENDED else "")
    if len(text) <= LOG_CHARACTERS_MAX:
        return text
    return text[text.index("\n", len(text) - LOG_CHARACTERS_MAX) + 1 :]


def chunks(lines: Sequence[str]) -> list[str]:
    """Text in pieces of at most `CHUNK_CHARACTERS`."""
    text = "".join(lines)
    return [text[at : at + CHUNK_CHARACTERS] for at in range(0, len(text), CHUNK_CHARACTERS)]


def _time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _number(value: float) -> str:
    if isinstance(value, int) or value.is_integer():
        return str(int(value))
    return f"{value:.6g}"


# --- following -----------------------------------------------------------------------------------


Look = Callable[[str], Awaitable[TuneJob]]
"""Gives a job as it stands now. Raises NotFoundError."""


async def follow(port: TunePort, look: Look, job: str) -> AsyncIterator[str]:
    """Chunks of a log from its beginning, until the job has ended. Raises NotFoundError.

    The state is read before the events: what happened until the end is in the last of them.
    """
    after = 0
    while True:
        view = await look(job)
        events = await port.events(job, after=after)
        if events:
            after = events[-1].number
        ended = view.state in ENDED
        for chunk in chunks([*map(log_line, events), *([last_line(view)] if ended else [])]):
            yield chunk
        if ended:
            return
        await asyncio.sleep(POLL_SECONDS)


class Tails:
    """The open sockets on which logs are followed."""

    def __init__(self, port: TunePort, look: Look) -> None:
        self._port, self._look = port, look
        self._open: set[web.WebSocketResponse] = set()

    def __len__(self) -> int:
        return len(self._open)

    async def tail(self, request: web.Request, job: str) -> web.WebSocketResponse:
        """Upgrade, and follow a log on this socket to its end."""
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_SECONDS, max_msg_size=MESSAGE_BYTES_MAX, compress=False
        )
        self._open.add(socket)
        try:
            await socket.prepare(request)
            code, sending = await self._run(socket, job)
            await socket.close(code=code, message=sending)
        finally:
            self._open.discard(socket)
        return socket

    async def _run(self, socket: web.WebSocketResponse, job: str) -> tuple[int, bytes]:
        sender = asyncio.ensure_future(self._send(socket, job))
        reader = asyncio.ensure_future(_read(socket))
        try:
            await asyncio.wait({sender, reader}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not sender.done():
                return reader.result()
            try:
                await sender
            except ConnectionError:
                return WSCloseCode.OK, b""  # the client left: there is nobody to tell
            except Exception:  # noqa: BLE001  # whatever it was, a log cut short is no normal end
                return WSCloseCode.INTERNAL_ERROR, b"the log cannot be read now"
            return WSCloseCode.OK, b""
        finally:
            sender.cancel()
            reader.cancel()
            await asyncio.gather(sender, reader, return_exceptions=True)

    async def _send(self, socket: web.WebSocketResponse, job: str) -> None:
        async for chunk in follow(self._port, self._look, job):
            async with asyncio.timeout(SEND_SECONDS):
                await socket.send_str(chunk)

    async def close(self) -> None:
        """Close every socket: the gateway goes away."""
        for socket in list(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the gateway stops")


async def _read(socket: web.WebSocketResponse) -> tuple[int, bytes]:
    """Reads pongs and the client's close; whoever says anything else is shown out."""
    message = await socket.receive()
    if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
        return WSCloseCode.POLICY_VIOLATION, b"nothing is said on this socket"
    return WSCloseCode.OK, b""
