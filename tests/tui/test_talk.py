"""Chat over a gateway: refusals, cuts, stops; a gateway that lies about its stream."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from aiohttp import web

from tests.tui.rig import NOW
from tui.commands import Ask
from tui.facts import ChatHead, Delta, Failure, TurnEnd, TurnWhy
from tui.talk import Talk

KEY = "bh-key-of-this-machine"
MODEL = {
    "id": "demo",
    "object": "model",
    "created": 1,
    "owned_by": "blindhost",
    "blindhost": {
        "job": "b0" * 32,
        "sealed_to": {"chip": "9c" * 64, "generation": 1, "verified_at": NOW // 1000},
    },
}


def chunk(text: str = "", finish: str | None = None, tokens: int = 0) -> bytes:
    value: dict = {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}
    if tokens:
        value["usage"] = {"completion_tokens": tokens}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Gateway:
    """Answers as scripted; keeps what it was asked."""

    def __init__(self) -> None:
        self.models: object = {"object": "list", "data": [MODEL]}
        self.script: list[bytes | asyncio.Event] = []
        self.status = 200
        self.refusal: object = {"error": {"message": "no such model"}}
        self.asked: list[dict] = []
        self.gone = asyncio.Event()

    async def list_models(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return web.json_response(self.models)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.status != 200:
            return web.json_response(self.refusal, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for each in self.script:
                if isinstance(each, asyncio.Event):
                    await each.wait()
                else:
                    await response.write(each)
        except (asyncio.CancelledError, ConnectionResetError):
            self.gone.set()
            raise
        return response


@pytest.fixture
async def gateway(tmp_path):
    made = Gateway()
    app = web.Application()
    app.router.add_get("/v1/models", made.list_models)
    app.router.add_post("/v1/chat/completions", made.chat)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    (tmp_path / "gateway-key").write_text(KEY)
    endpoint = {"url": f"http://127.0.0.1:{port}", "key_file": str(tmp_path / "gateway-key")}
    (tmp_path / "gateway-endpoint.json").write_text(json.dumps(endpoint))
    yield made
    await runner.cleanup()


class Told:
    def __init__(self, home) -> None:
        self.facts: list = []
        self.talk = Talk(home, self.facts.append, lambda: NOW)

    def of(self, kind: type) -> list:
        return [each for each in self.facts if isinstance(each, kind)]

    async def until(self, kind: type) -> None:
        async with asyncio.timeout(10):
            while not self.of(kind):  # noqa: ASYNC110 - a list is filled, nothing is set
                await asyncio.sleep(0.005)

    async def turn(self, name: str = "t1") -> TurnEnd:
        self.talk.ask(ask(name))
        await self.until(TurnEnd)
        return self.of(TurnEnd)[-1]


def ask(turn: str = "t1") -> Ask:
    return Ask(
        id=f"ask-{turn}",
        turn=turn,
        model="demo",
        messages=(("user", "hello"),),
        temperature="0",
        tokens_max=16,
    )


@pytest.fixture
def told(tmp_path) -> Told:
    return Told(tmp_path)


async def test_who_is_served_is_told_with_the_chip_that_words_are_sealed_to(gateway, told):
    await told.talk.list_models()
    [head] = told.of(ChatHead)
    assert (head.model, head.chip, head.verified_at) == ("demo", "9c" * 64, NOW // 1000 * 1000)
    gateway.models = {"object": "list", "data": []}
    await told.talk.list_models()
    assert told.of(ChatHead)[-1].gone


async def test_a_reply_streams_to_its_end(gateway, told):
    gateway.script = [chunk("We "), chunk("help."), chunk(finish="stop", tokens=2)]
    gateway.script += [b": keep-alive\n\n", b"data: [DONE]\n\n"]
    end = await told.turn()
    assert (end.why, end.words, end.tokens) == (TurnWhy.STOP, "", 2)
    assert "".join(each.text for each in told.of(Delta)) == "We help."
    assert gateway.asked[0]["messages"] == [{"role": "user", "content": "hello"}]
    assert gateway.asked[0]["max_tokens"] == 16


async def test_without_a_limit_the_model_gives_as_much_as_it_does(gateway, told):
    gateway.script = [chunk(finish="stop"), b"data: [DONE]\n\n"]
    told.talk.ask(dataclasses.replace(ask(), tokens_max=None))
    await told.until(TurnEnd)
    assert "max_tokens" not in gateway.asked[0]


async def test_a_stream_that_ends_without_done_is_cut_though_it_named_a_reason(gateway, told):
    gateway.script = [chunk("half"), chunk(finish="stop")]
    end = await told.turn()
    assert end.why is TurnWhy.REFUSED or end.why is TurnWhy.CUT
    assert "without [DONE]" in end.words
    assert "".join(each.text for each in told.of(Delta)) == "half"


async def test_an_error_inside_a_stream_ends_the_turn_with_its_words(gateway, told):
    gateway.script = [chunk("half"), b'data: {"error": {"message": "cut off"}}\n\n']
    end = await told.turn()
    assert end.why is TurnWhy.REFUSED
    assert end.words == "cut off"


async def test_a_refusal_is_told_in_the_gateways_words_and_never_raw(gateway, told):
    gateway.status, gateway.refusal = 404, {"error": {"message": "no \x1b]52;c;AA\x07 model"}}
    end = await told.turn()
    assert end.why is TurnWhy.REFUSED
    assert "\x1b" not in end.words
    assert "no \ufffd]52" in end.words


async def test_control_characters_of_a_model_never_become_words(gateway, told):
    gateway.script = [chunk("a\x1b[2Jb\u202ec\td\n"), chunk(finish="stop"), b"data: [DONE]\n\n"]
    await told.turn()
    assert told.of(Delta)[0].text == "a\ufffd[2Jb\ufffdc\td\n"


async def test_stopping_a_turn_closes_the_stream_and_says_that_it_was_you(gateway, told):
    gateway.script = [chunk("half"), asyncio.Event()]
    told.talk.ask(ask())
    await told.until(Delta)
    told.talk.stop_turn("t1")
    await asyncio.wait_for(gateway.gone.wait(), 5)
    await told.until(TurnEnd)
    assert told.of(TurnEnd)[0].why is TurnWhy.STOPPED


async def test_asking_a_turn_twice_asks_once(gateway, told):
    gateway.script = [chunk("x"), chunk(finish="stop"), b"data: [DONE]\n\n"]
    told.talk.ask(ask())
    await told.turn()
    assert len(gateway.asked) == 1


@pytest.mark.parametrize(
    "models", [{"data": [{}]}, {"data": 3}, {}, {"data": [None]}], ids=["bare", "number", "", "no"]
)
async def test_a_list_of_another_shape_is_a_sentence(gateway, told, models):
    gateway.models = models
    await told.talk.list_models()
    [failure] = told.of(Failure)
    assert "another shape" in failure.words


async def test_no_gateway_and_one_beyond_loopback_are_sentences(tmp_path, told):
    await told.talk.list_models()
    assert "start `blindhost gateway`" in told.of(Failure)[-1].words
    endpoint = {"url": "http://192.0.2.1:80", "key_file": str(tmp_path / "k")}
    (tmp_path / "gateway-endpoint.json").write_text(json.dumps(endpoint))
    await told.talk.list_models()
    assert "not on loopback" in told.of(Failure)[-1].words
    end = await told.turn()
    assert end.why is TurnWhy.REFUSED
