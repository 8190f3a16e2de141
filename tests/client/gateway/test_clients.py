"""Clients as they are published, unmodified, against the gateway's own socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import openai
import pytest

from client.gateway.ports import CutOffError, UnavailableError
from tests.client.gateway.fakes import BASE, TUNED, failed, finish
from tests.client.gateway.rig import HI, Gateway, gateway
from trust.errors import RefusedError
from trust.serving import FinishReason

STREAM_ENDS = (openai.APIError, openai.APIConnectionError)


def client(gate: Gateway, **options) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=gate.v1, api_key=gate.key, **options)


# --- openai --------------------------------------------------------------------------------------


async def test_openai_lists_and_finds_models():
    async with gateway() as gate, client(gate) as ask:
        assert [each.id async for each in ask.models.list()] == [TUNED, BASE]
        assert (await ask.models.retrieve(TUNED)).id == TUNED
        with pytest.raises(openai.NotFoundError) as caught:
            await ask.models.retrieve("ft:none:0")
        assert caught.value.code == "model_not_found"


async def test_openai_chats():
    async with gateway() as gate, client(gate) as ask:
        reply = await ask.chat.completions.create(
            model=TUNED, messages=HI, temperature=0.1 + 0.2, max_tokens=9, seed=4, stop=["x"]
        )
        assert reply.choices[0].message.content == "Hello, world"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.total_tokens == 10
        assert reply._request_id.startswith("req_")
        [(model, body)] = gate.serving.bodies
        assert (model, body.temperature, body.tokens_max) == (TUNED, "0.3", 9)


async def test_openai_chats_from_a_thread():
    def talk(gate: Gateway) -> str | None:
        with openai.OpenAI(base_url=gate.v1, api_key=gate.key) as ask:
            return ask.chat.completions.create(model=BASE, messages=HI).choices[0].message.content

    async with gateway() as gate:
        assert await asyncio.to_thread(talk, gate) == "Hello, world"


async def test_openai_streams_a_chat_with_usage():
    async with gateway() as gate, client(gate) as ask:
        stream = await ask.chat.completions.create(
            model=BASE, messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [each async for each in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == (
            "Hello, world"
        )
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens == 3


async def test_openais_stream_reader_puts_a_chat_together():
    async with gateway() as gate, client(gate) as ask:
        async with ask.chat.completions.stream(model=BASE, messages=HI) as stream:
            async for _ in stream:
                pass
            whole = await stream.get_final_completion()
        assert whole.choices[0].message.content == "Hello, world"


async def test_openai_completes_and_streams_text():
    async with gateway() as gate, client(gate) as ask:
        whole = await ask.completions.create(model=BASE, prompt="Once", max_tokens=5)
        assert whole.choices[0].text == "Hello, world"
        stream = await ask.completions.create(model=BASE, prompt="Once", stream=True)
        assert "".join([each.choices[0].text async for each in stream]) == "Hello, world"


async def test_openai_asks_for_responses_and_streams_them():
    async with gateway() as gate, client(gate) as ask:
        whole = await ask.responses.create(
            model=BASE, input="hi", instructions="Be brief.", temperature=0.5, store=False
        )
        assert whole.output_text == "Hello, world"
        assert (whole.status, whole.temperature) == ("completed", 0.5)
        assert whole.usage.total_tokens == 10
        follow = await ask.responses.create(  # a conversation goes on by sending it again
            model=BASE, input=[*HI, *[each.to_dict() for each in whole.output], *HI]
        )
        assert follow.output_text == "Hello, world"
        assert [each.role.value for each in gate.serving.bodies[1][1].messages] == [
            "user",
            "assistant",
            "user",
        ]
        async with ask.responses.stream(model=BASE, input="hi") as stream:
            kinds = [each.type async for each in stream]
            assert (await stream.get_final_response()).output_text == "Hello, world"
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"


async def test_openai_sees_a_response_that_its_limit_cut():
    async with gateway() as gate, client(gate) as ask:
        gate.serving.script = ["abc", finish(FinishReason.LENGTH)]
        async with ask.responses.stream(model=BASE, input="hi", max_output_tokens=3) as stream:
            kinds = [each.type async for each in stream]
        assert kinds[-1] == "response.incomplete"


async def test_a_cut_stream_raises_in_openai_whatever_is_streamed():
    async with gateway() as gate, client(gate) as ask:
        gate.serving.script = ["half", CutOffError("cut")]
        for begin in (
            lambda: ask.chat.completions.create(model=BASE, messages=HI, stream=True),
            lambda: ask.completions.create(model=BASE, prompt="x", stream=True),
            lambda: ask.responses.create(model=BASE, input="x", stream=True),
        ):
            stream = await begin()
            with pytest.raises(openai.APIError) as caught:
                async for _ in stream:
                    pass
            assert caught.value.code == "cut_off"


async def test_a_key_that_is_wrong_raises_and_is_not_tried_again():
    async with gateway() as gate, openai.AsyncOpenAI(base_url=gate.v1, api_key="sk-x") as ask:
        with pytest.raises(openai.AuthenticationError):
            await ask.models.list()
        assert gate.calls == []


@pytest.mark.parametrize(
    ("script", "error", "code"),
    [
        (failed("out-of-tokens"), openai.RateLimitError, "out_of_tokens"),
        ([RefusedError("terms", "no")], openai.PermissionDeniedError, "terms"),
        (failed("too-long"), openai.BadRequestError, "context_length_exceeded"),
    ],
)
async def test_openai_does_not_ask_again_for_what_will_not_change(script, error, code):
    async with gateway() as gate, client(gate) as ask:
        gate.serving.script = script
        with pytest.raises(error) as caught:
            await ask.chat.completions.create(model=BASE, messages=HI)
        assert caught.value.code == code
        assert len(gate.serving.bodies) == 1


async def test_openai_asks_again_for_what_may_change():
    async with gateway() as gate, client(gate) as ask:
        gate.serving.scripts = [failed("busy"), [UnavailableError("not now")]]
        reply = await ask.chat.completions.create(model=BASE, messages=HI)
        assert reply.choices[0].message.content == "Hello, world"
        assert len(gate.serving.bodies) == 3


async def test_openai_names_the_field_that_is_not_done_here():
    async with gateway() as gate, client(gate) as ask:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask.chat.completions.create(model=BASE, messages=HI, n=2)
        assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")


async def test_openai_that_grows_impatient_twice_is_computed_once():
    async with gateway() as gate, client(gate, timeout=0.7, max_retries=2) as ask:
        go = asyncio.Event()
        gate.serving.script = [go, "once", finish()]
        asking = asyncio.create_task(ask.chat.completions.create(model=BASE, messages=HI))
        await gate.serving.reached(3, "models")  # two time-outs, and the third request is here
        go.set()
        assert (await asking).choices[0].message.content == "once"
        assert len(gate.serving.bodies) == 1


# --- langchain-openai ----------------------------------------------------------------------------


async def test_langchain_invokes_and_streams():
    from langchain_openai import ChatOpenAI

    async with gateway() as gate:
        model = ChatOpenAI(base_url=gate.v1, api_key=gate.key, model=TUNED, temperature=0)
        reply = await model.ainvoke([("system", "Be brief."), ("human", "hi")])
        assert reply.content == "Hello, world"
        assert reply.usage_metadata["total_tokens"] == 10
        pieces = [each async for each in model.astream("hi")]
        assert "".join(each.content for each in pieces) == "Hello, world"
        gate.serving.script = ["half", CutOffError("cut")]
        with pytest.raises(openai.APIError):
            _ = [each async for each in model.astream("hi")]


# --- commands ------------------------------------------------------------------------------------


async def command(*words: str, **environment: str) -> tuple[int, str, str]:
    """Run a command to its end; its code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


def llm_home(folder: Path, gate: Gateway) -> Path:
    """A configuration as `llm`'s own manual has it."""
    (folder / "keys.json").write_text(json.dumps({"blindhost": gate.key}))
    lines = [
        "- model_id: mine",
        f'  model_name: "{TUNED}"',
        f"  api_base: {gate.v1}",
        "  api_key_name: blindhost",
    ]
    (folder / "extra-openai-models.yaml").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
async def test_llm_prompts_with_and_without_a_stream(tmp_path):
    async with gateway() as gate:
        home = str(llm_home(tmp_path, gate))
        for more in ([], ["--no-stream"]):
            code, out, errors = await command(
                sys.executable, "-m", "llm", "-m", "mine", "hi", *more, LLM_USER_PATH=home
            )
            assert (code, out.strip()) == (0, "Hello, world"), errors
        gate.serving.script = ["half", CutOffError("cut")]
        code, _, errors = await command(
            sys.executable, "-m", "llm", "-m", "mine", "hi", LLM_USER_PATH=home
        )
        assert code != 0
        assert "cut" in errors


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_chats_and_streams_and_notices_a_cut():
    async with gateway() as gate:
        words = ["curl", "-sS", "-N", f"{gate.v1}/chat/completions"]
        words += ["-H", f"Authorization: Bearer {gate.key}", "-H", "Content-Type: application/json"]
        body = {"model": BASE, "messages": HI}
        code, out, _ = await command(*words, "-d", json.dumps(body))
        assert code == 0
        assert json.loads(out)["choices"][0]["message"]["content"] == "Hello, world"
        code, out, _ = await command(*words, "-d", json.dumps(body | {"stream": True}))
        assert code == 0
        assert out.endswith("data: [DONE]\n\n")
        gate.serving.script = ["half", CutOffError("cut")]
        code, out, errors = await command(*words, "-d", json.dumps(body | {"stream": True}))
        assert code == 18, errors  # transfer closed with outstanding data
        assert "cut_off" in out
        assert "[DONE]" not in out
