"""Models, chat, completions and responses, over `ServePort`: parse, ask once, write.

All three shapes become one `GenerateRequest`. What an answer says of tokens and ends is what the
enclave says in its authenticated last record.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from client.gateway.asked import Fields, Question, parse_object
from client.gateway.chat import ChatWriter, parse_chat
from client.gateway.completions import CompletionWriter, parse_completion
from client.gateway.errors import ApiError, finish_error, generate_error, no_model, wrong
from client.gateway.guard import read_body
from client.gateway.ports import Piece, ServedModel, ServePort
from client.gateway.responses import ResponseWriter, parse_response
from client.gateway.retries import Answer, Retries
from client.gateway.streams import Writer, collect, stream, until_gone
from trust.errors import BlindhostError, SizeLimitError
from trust.serving import Finish, FinishReason

Clock = Callable[[], int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One of OpenAI's ways to ask."""

    parse: Callable[[Fields], Question]
    writer: Callable[[Question, int], Writer]
    """With the second at which the reply begins."""
    prompt_field: str
    """Where a prompt that is too long stands."""
    tokens_field: str


CHAT: Final = Shape(
    parse=parse_chat,
    writer=lambda question, created: ChatWriter(question=question, created=created),
    prompt_field="messages",
    tokens_field="max_completion_tokens",
)
COMPLETION: Final = Shape(
    parse=parse_completion,
    writer=lambda question, created: CompletionWriter(question=question, created=created),
    prompt_field="prompt",
    tokens_field="max_tokens",
)
RESPONSE: Final = Shape(
    parse=parse_response,
    writer=lambda question, created: ResponseWriter(question=question, created=created),
    prompt_field="input",
    tokens_field="max_output_tokens",
)


class Inference:
    """The routes, and the requests that run. `clock`: Unix milliseconds."""

    def __init__(self, port: ServePort, clock: Clock) -> None:
        self._port, self._clock = port, clock
        self._retries = Retries()
        self._streams: set[asyncio.Task[object]] = set()

    def routes(self) -> list[web.RouteDef]:
        """For the application's table."""
        return [
            web.get("/v1/models", self._models, allow_head=False),
            web.get("/v1/models/{model:.+}", self._model, allow_head=False),
            web.post("/v1/chat/completions", self._asking(CHAT)),
            web.post("/v1/completions", self._asking(COMPLETION)),
            web.post("/v1/responses", self._asking(RESPONSE)),
        ]

    async def close(self) -> None:
        """Cancel what runs, here and in the enclave, and wait until it is."""
        await self._retries.close()
        streams = set(self._streams)
        for each in streams:
            each.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _models(self, request: web.Request) -> web.Response:
        del request
        models = [_listed(each) for each in await self._port.models()]
        return web.json_response({"object": "list", "data": models, "has_more": False})

    async def _model(self, request: web.Request) -> web.Response:
        return web.json_response(_listed(await self._served(request.match_info["model"])))

    async def _served(self, name: str) -> ServedModel:
        for each in await self._port.models():
            if each.name == name:
                return each
        raise no_model(name)

    def _asking(self, shape: Shape) -> Handler:
        async def ask(request: web.Request) -> web.StreamResponse:
            return await self._ask(request, shape)

        return ask

    async def _ask(self, request: web.Request, shape: Shape) -> web.StreamResponse:
        data = await read_body(request)
        question = shape.parse(parse_object(data))
        served = await self._served(question.model)
        limit = question.how.tokens_max
        if limit is not None and limit > served.reply_tokens_max:
            raise wrong(
                shape.tokens_field,
                f"a reply of {limit} tokens; at most {served.reply_tokens_max} of this model",
            )
        body = question.request(reply_tokens_max=served.reply_tokens_max)
        try:
            body.encode()
        except SizeLimitError as error:  # before it is sealed for nothing
            raise wrong(shape.prompt_field, str(error), "string_above_max_length") from error

        writer = shape.writer(question, self._clock() // 1000)

        def refusal(found: Finish | BlindhostError) -> ApiError | None:
            if isinstance(found, BlindhostError):
                return generate_error(found, question.model)
            if found.reason is FinishReason.ERROR:
                return finish_error(found, model=question.model, param=shape.prompt_field)
            return None

        def pieces() -> AsyncIterator[Piece]:
            return self._port.generate(question.model, body)

        if question.is_stream:
            task = asyncio.current_task()
            assert task is not None
            self._streams.add(task)
            try:
                return await stream(request, pieces(), writer, refusal)
            finally:
                self._streams.discard(task)

        async def compute() -> Answer:
            try:
                text, finish = await collect(pieces())
            except BlindhostError as error:
                raise refusal(error) or error from error
            refused = refusal(finish)
            if refused is not None:
                raise refused
            return writer.whole(text, finish)

        gone = asyncio.create_task(until_gone(request))
        try:
            answer = await self._retries.answer(
                hashlib.sha256(request.path.encode() + b"\x00" + data).digest(),
                compute,
                is_retry=_is_retry(request),
                gone=gone,
            )
        finally:
            gone.cancel()
        return web.json_response(answer)


def _is_retry(request: web.Request) -> bool:
    """Whether the client says that it asks this again (openai-python's own header)."""
    return request.headers.get("x-stainless-retry-count", "0") not in {"", "0"}


def _listed(model: ServedModel) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_at,
        "owned_by": "blindhost",
        "blindhost": {"job": model.job, "sealed_to": _sealed_to(model)},
    }


def _sealed_to(model: ServedModel) -> dict[str, object] | None:
    """Ours: clients of OpenAI's API ignore what they don't know."""
    found = model.sealed_to
    if found is None:
        return None
    return {
        "chip": None if found.chip is None else found.chip.hex(),
        "generation": found.generation,
        "verified_at": found.verified_at // 1000,
    }
