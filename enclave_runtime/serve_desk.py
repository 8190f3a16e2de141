"""The desk of a serve job: joins clients' requests, the tokenizing child, the engine, and frames.

- Everything here happens on the run's one thread, in turn; what waits (tokenizing, decoding) is a
  job of the run's, one at a time.
- A request that does not open is answered by a hint; one that did, by a sealed finish: it fails
  alone, whatever is wrong with it.
- Frames go at ticks of the clock. A tick is left out while the host takes nothing, and never
  because of what a reply says.
"""

from __future__ import annotations

import array
import dataclasses
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from enclave_runtime.actions import Action
from enclave_runtime.events import Generated
from enclave_runtime.serving import Exchange, Serving
from enclave_runtime.session import Session
from enclave_runtime.tokens import RowError
from enclave_runtime.transport import Clock, Door
from trust.encoding import digest
from trust.errors import RefusedError
from trust.messages import ServeRefused, ServeRequest
from trust.serving import Finish, FinishReason, GenerateRequest

T = TypeVar("T")

BACKLOG_FRAMES_MAX: Final = 8  # messages that the host has not taken: a tick is left out above it
SEED_BYTES: Final = 6  # a seed of 48 bits, where the client gave none
TEXT_CHARACTERS_MAX: Final = 500


class Engine(Protocol):
    """The work of a serve job, as its desk uses it."""

    def prompt(self, request: GenerateRequest) -> bytes: ...  # noqa: D102
    def decode(self, ids: bytes) -> str: ...  # noqa: D102
    def ask(self, asked: Asked) -> None: ...  # noqa: D102
    def cancel(self, handle: int) -> None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the engine is asked for."""

    handle: int
    ids: bytes
    """The prompt: u32 token ids."""
    adapter: int
    """0: the base; n: the job's adapter number n, from 1."""
    tokens_max: int
    temperature: float
    top_p: float
    seed: int


class Aside(Protocol):
    """`_Run._inside`: call in a thread, one at a time."""

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]: ...  # noqa: D102


class Do(Protocol):
    """`_Run._do`: a job beside everything else, and what follows from it, in its turn."""

    def __call__(  # noqa: D102
        self,
        job: Coroutine[Any, Any, T],
        then: Callable[[T], list[Action]],
        broken: Callable[[Exception], list[Action]],
    ) -> None: ...


class ServeDesk:
    """Between one session's clients and its engine."""

    def __init__(
        self,
        serving: Serving,
        session: Session,
        engine: Engine,
        door: Door,
        clock: Clock,
        *,
        aside: Aside,
        do: Do,
        fail: Callable[[Exception], list[Action]],
    ) -> None:
        self._serving, self._session, self._engine = serving, session, engine
        self._door, self._clock = door, clock
        self._aside, self._do, self._fail = aside, do, fail
        self._decoding = False

    @property
    def tick_seconds(self) -> float:
        """How often `tick` is called."""
        return self._serving.recipe.tick_milliseconds / 1000

    # --- requests --------------------------------------------------------------------------------

    def asked(self, client: bytes, request: ServeRequest) -> list[Action]:
        """Open a request, and have its prompt made into tokens."""
        try:
            exchange = self._serving.open(client, request, self._clock.now_ms())
        except RefusedError as error:
            hint = ServeRefused(exchange=digest(request.sealed), code=error.code)
            self._door.send(client, hint.encode())
            return []
        try:
            adapter = self._serving.adapter(exchange)
        except RefusedError as error:
            return self._refuse(exchange, error)
        self._do(
            self._prompt(exchange.request),
            lambda prompt: self._prompted(exchange, adapter, prompt),
            self._fail,
        )
        return []

    async def _prompt(self, request: GenerateRequest) -> bytes | RowError:
        """Tokens of the prompt, or what is wrong with it."""
        try:
            return await self._aside(lambda: self._engine.prompt(request))
        except RowError as error:
            return error

    def _prompted(self, exchange: Exchange, adapter: int, prompt: bytes | RowError) -> list[Action]:
        if exchange.finish is not None or exchange.handle not in self._serving.exchanges:
            return []  # cancelled meanwhile
        if isinstance(prompt, RowError):
            return self._refuse(exchange, RefusedError("template", prompt.text))
        tokens = len(prompt) // array.array("I").itemsize
        try:
            reply = self._serving.reserve(exchange, tokens, self._session.tokens_left)
        except RefusedError as error:
            starved = error.code == "out-of-tokens"
            actions = self._refuse(exchange, error)
            return actions + (self._session.starved(self._clock.now_ms()) if starved else [])
        request = exchange.request
        seed = request.seed
        self._engine.ask(
            Asked(
                handle=exchange.handle,
                ids=prompt,
                adapter=adapter,
                tokens_max=reply,
                temperature=float(request.temperature),
                top_p=float(request.top_p),
                seed=int.from_bytes(os.urandom(SEED_BYTES), "big") if seed is None else seed,
            )
        )
        return self._use(exchange, tokens)

    def cancelled(self, client: bytes, name: bytes) -> list[Action]:
        """A client wants a reply no more: its slot is free, its frames go on as if nothing was."""
        exchange = self._serving.find(client, name)
        if exchange is not None:
            self._engine.cancel(exchange.handle)
            self._end(exchange, FinishReason.STOP)
        return []

    def _refuse(self, exchange: Exchange, error: RefusedError) -> list[Action]:
        self._end(exchange, FinishReason.ERROR, code=error.code, text=error.text)
        return []

    # --- replies ---------------------------------------------------------------------------------

    def generated(self, event: Generated) -> list[Action]:
        """Tokens that the engine made."""
        actions: list[Action] = []
        for item in event.items:
            exchange = self._serving.exchanges.get(item.handle)
            if exchange is None or exchange.finish is not None:
                continue  # cancelled, or stopped before
            exchange.new_ids += item.ids
            actions += self._use(exchange, len(item.ids))
            if item.finish == FinishReason.ERROR.value:
                self._end(exchange, FinishReason.ERROR, code="failed", text=item.text)
            elif item.finish:
                exchange.ended = FinishReason(item.finish)
        self._decode()
        return actions

    def _decode(self) -> None:
        """Have what is new decoded, unless that is going on: it goes round again then."""
        news = self._news()
        if self._decoding or not news:
            return
        self._decoding = True
        self._do(self._decoded_texts(news), self._decoded, self._fail)

    def _news(self) -> list[tuple[Exchange, list[int], bool]]:
        return [
            (each, each.new_ids, each.ended is not None)
            for each in self._serving.exchanges.values()
            if each.finish is None and (each.new_ids or each.ended is not None)
        ]

    async def _decoded_texts(
        self, news: Sequence[tuple[Exchange, list[int], bool]]
    ) -> list[tuple[Exchange, str | RowError, bool]]:
        for exchange, _ids, _last in news:
            exchange.new_ids = []

        def decode(ids: Sequence[int]) -> str:
            return self._engine.decode(array.array("I", ids).tobytes())

        def text(exchange: Exchange, ids: list[int], last: bool) -> str | RowError:  # noqa: FBT001
            try:
                return exchange.transcript.take(ids, decode, last=last)
            except RowError as error:  # what cannot be decoded fails alone
                return error

        def texts() -> list[tuple[Exchange, str | RowError, bool]]:
            return [(each, text(each, ids, last), last) for each, ids, last in news]

        return await self._aside(texts)

    def _decoded(self, texts: list[tuple[Exchange, str | RowError, bool]]) -> list[Action]:
        self._decoding = False
        for exchange, text, last in texts:
            if exchange.finish is not None or exchange.handle not in self._serving.exchanges:
                continue  # cancelled meanwhile, or the run is over
            if isinstance(text, RowError):
                self._engine.cancel(exchange.handle)
                self._end(exchange, FinishReason.ERROR, code="failed", text=text.text)
                continue
            exchange.text += text.encode("utf-8", "replace")
            if exchange.transcript.stopped:
                self._engine.cancel(exchange.handle)
                self._end(exchange, FinishReason.STOP)
            elif last:
                assert exchange.ended is not None
                self._end(exchange, exchange.ended)
        self._decode()
        return []

    def _use(self, exchange: Exchange, tokens: int) -> list[Action]:
        self._serving.use(exchange, tokens)
        return self._session.served(tokens, self._clock.now_ms())

    def _end(
        self, exchange: Exchange, reason: FinishReason, *, code: str = "", text: str = ""
    ) -> None:
        finish = Finish(
            reason=reason,
            code=code,
            text=text[:TEXT_CHARACTERS_MAX],
            prompt_tokens=exchange.prompt_tokens,
            completion_tokens=exchange.transcript.tokens,
        )
        self._serving.finish(exchange, finish)

    # --- frames ----------------------------------------------------------------------------------

    def tick(self) -> list[Action]:
        """Send one frame of every reply."""
        if self._door.backlog <= BACKLOG_FRAMES_MAX:
            for client, frames in self._serving.frames():
                self._door.send(client, frames.encode())
        return []
