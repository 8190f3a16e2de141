"""Chat for the hub: the home's own gateway, asked by its public API on loopback.

- One process reads the client key's box: the gateway. The window never opens that box itself, so a
  window and a program of the buyer's may speak at once.
- The gateway verifies the enclave before it seals; `/v1/models` says to whose chip.
- A stream that ends without ``data: [DONE]`` was cut, whatever came before; its text stays.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from client.text import clean
from tui.clock import Clock
from tui.commands import Ask
from tui.facts import ChatHead, Delta, Fact, Failure, TurnEnd, TurnWhy

ENDPOINT_FILE: Final = "gateway-endpoint.json"
FILE_BYTES_MAX: Final = 4096
ANSWER_BYTES_MAX: Final = 1 << 20
LINE_BYTES_MAX: Final = 1 << 20
LIST_SECONDS: Final = 10.0
POLL_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 90.0  # the gateway keeps a stream alive every 15 s
DELTA_CHARACTERS_MAX: Final = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where the gateway listens, and what it wants to be shown."""

    url: str
    key: str = dataclasses.field(repr=False)


class TalkError(Exception):
    """The gateway does not answer as it should; for people."""


def find_endpoint(home: Path) -> Endpoint | None:
    """The running gateway of a home; None: none. Raises TalkError if it is unreadable."""
    path = home / ENDPOINT_FILE
    try:
        value = json.loads(_read(path))
        url, key_file = value["url"], Path(value["key_file"])
        if not url.startswith("http://127.0.0.1:"):
            raise TalkError("the gateway's endpoint is not on loopback")
        return Endpoint(url=url, key=_read(key_file).decode("ascii").strip())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TalkError(f"{path.name}: {type(error).__name__}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX)


class Talk:
    """What `tui.hub` uses: `watch` while somebody looks, `ask` for each turn and model."""

    def __init__(self, home: Path, arrive: Callable[[Fact], None], clock: Clock) -> None:
        self._home, self._arrive, self._clock = home, arrive, clock
        self._heads: dict[str, ChatHead] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._stopped: set[str] = set()

    async def watch(self) -> None:
        """Tell who is served, every two seconds; ends when it is cancelled."""
        while True:
            await self.list_models()
            await asyncio.sleep(POLL_SECONDS)

    async def list_models(self) -> None:
        """Tell who is served now, and who no longer."""
        try:
            endpoint = find_endpoint(self._home)
            found = [] if endpoint is None else await self._models(endpoint)
        except (TalkError, aiohttp.ClientError, TimeoutError, OSError) as error:
            self._fail(f"the gateway does not say who is served: {_words(error)}")
            found = []
        else:
            if endpoint is None:
                self._fail("no gateway runs for this home: start `blindhost gateway` beside this")
        names = {each.model for each in found}
        for head in found:
            self._heads[head.model] = head
            self._arrive(head)
        for name in [each for each in self._heads if each not in names]:
            gone = dataclasses.replace(self._heads.pop(name), gone=True, as_of=self._clock())
            self._arrive(gone)

    async def _models(self, endpoint: Endpoint) -> list[ChatHead]:
        async with (
            _session(endpoint, seconds=LIST_SECONDS) as session,
            session.get(f"{endpoint.url}/v1/models") as response,
        ):
            value = _object(await _bounded(response), response.status)
        try:
            return [_head(each, self._clock()) for each in value["data"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise TalkError(
                f"a list of models of another shape ({type(error).__name__})"
            ) from error

    def _fail(self, words: str) -> None:
        failure = Failure(
            as_of=self._clock(), where="chat", code="gateway", words=clean(words), retry_in=None
        )
        self._arrive(failure)

    # --- turns ------------------------------------------------------------------------------------

    def ask(self, command: Ask) -> None:
        """Begin a reply. A turn and model that was asked already goes on as it is."""
        name = command.turn, command.model
        if name in self._running:
            return
        task = asyncio.create_task(self._turn(command))
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))

    def stop_turn(self, turn: str) -> None:
        """Stop the replies of a turn: the gateway sees the stream go, and cancels it."""
        for (of, _), task in list(self._running.items()):
            if of == turn:
                self._stopped.add(turn)
                task.cancel()

    async def close(self) -> None:
        """Stop all."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _turn(self, command: Ask) -> None:
        began, tokens = self._clock(), 0
        why, words = TurnWhy.CUT, "the stream ended without its last word"
        try:
            async for delta, finish, usage in self._stream(command):
                tokens = usage or tokens
                if delta:
                    self._tell(command, delta)
                if finish:
                    why, words = _WHY.get(finish, TurnWhy.CUT), ""
        except asyncio.CancelledError:
            why, words = TurnWhy.STOPPED, ""
            if command.turn not in self._stopped:
                raise
        except (TalkError, aiohttp.ClientError, TimeoutError, OSError) as error:
            refused = isinstance(error, TalkError)
            why, words = TurnWhy.REFUSED if refused else TurnWhy.CUT, _words(error)
        finally:
            end = TurnEnd(
                as_of=self._clock(),
                turn=command.turn,
                model=command.model,
                why=why,
                words=clean(words),
                tokens=tokens,
                milliseconds=max(0, self._clock() - began),
            )
            self._arrive(end)

    def _tell(self, command: Ask, delta: str) -> None:
        text = clean(delta, limit=DELTA_CHARACTERS_MAX, keep="\n\t")
        self._arrive(Delta(as_of=self._clock(), turn=command.turn, model=command.model, text=text))

    async def _stream(self, command: Ask) -> AsyncIterator[tuple[str, str, int]]:
        """Words, finish reason, tokens so far: as they come. Raises TalkError for a refusal."""
        endpoint = find_endpoint(self._home)
        if endpoint is None:
            raise TalkError("no gateway runs for this home")
        body: dict[str, Any] = {
            "model": command.model,
            "messages": [{"role": role, "content": text} for role, text in command.messages],
            "temperature": float(command.temperature),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if command.tokens_max is not None:
            body["max_tokens"] = command.tokens_max
        url = f"{endpoint.url}/v1/chat/completions"
        async with (
            _session(endpoint, seconds=None) as session,
            session.post(url, json=body) as response,
        ):
            if response.status != 200:
                raise TalkError(_refusal(_object(await _bounded(response), response.status)))
            held: list[tuple[str, str, int]] = []
            async for line in _lines(response):
                if line == "[DONE]":
                    for each in held:
                        yield each
                    return
                for each in _pieces(json.loads(line)):
                    if each[1]:
                        held.append(each)  # an end counts once the stream has ended as well
                    else:
                        yield each
        raise TalkError("cut: the stream ended without [DONE]")


_WHY: Final = {"stop": TurnWhy.STOP, "length": TurnWhy.LENGTH}


def _pieces(value: Any) -> list[tuple[str, str, int]]:
    if "error" in value:
        raise TalkError(_refusal(value))
    usage = (value.get("usage") or {}).get("completion_tokens", 0)
    found = [
        (each["delta"].get("content") or "", each.get("finish_reason") or "", usage)
        for each in value.get("choices", [])
    ]
    return found or [("", "", usage)]


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Payloads of server-sent events. Raises TalkError for a line that is too long."""
    async for line in response.content:
        if len(line) > LINE_BYTES_MAX:
            raise TalkError("an event of over a megabyte")
        if line.startswith(b"data: "):
            yield line[6:].decode("utf-8").strip()


def _session(endpoint: Endpoint, *, seconds: float | None) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=seconds, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {endpoint.key}"}, timeout=timeout, trust_env=False
    )


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    content = await response.content.read(ANSWER_BYTES_MAX)
    while not response.content.at_eof() and len(content) < ANSWER_BYTES_MAX:
        content += await response.content.read(ANSWER_BYTES_MAX - len(content))
    if not response.content.at_eof():
        raise TalkError("an answer of over a megabyte")
    return content


def _object(content: bytes, status: int) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise TalkError(f"answer {status} is no JSON") from error
    if not isinstance(value, dict):
        raise TalkError(f"answer {status} is no JSON object")
    return value


def _refusal(value: dict[str, Any]) -> str:
    error = value.get("error")
    words = error.get("message") if isinstance(error, dict) else None
    return clean(str(words or "refused, without a word why"))


def _head(value: dict[str, Any], now: int) -> ChatHead:
    ours = value.get("blindhost") or {}
    sealed = ours.get("sealed_to") or {}
    verified = sealed.get("verified_at")
    return ChatHead(
        as_of=now,
        model=clean(str(value["id"]), limit=128),
        words="",
        chip=clean(str(sealed.get("chip") or ""), limit=128),
        verified_at=None if verified is None else int(verified) * 1000,
        job=clean(str(ours.get("job") or ""), limit=64),
        gone=False,
    )


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, TalkError) else type(error).__name__
