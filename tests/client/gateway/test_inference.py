"""What of a request reaches the enclave, and what is refused before it does."""

from __future__ import annotations

import dataclasses
import json

import pytest

from client.gateway.ports import SealedTo
from tests.client.gateway.fakes import ADAPTER, BASE, NOW, TUNED
from tests.client.gateway.rig import (
    ASKED,
    CHAT,
    COMPLETIONS,
    HI,
    RESPONSES,
    SHAPES,
    gateway,
)
from trust.serving import ChatMessage, Role


async def asked(path: str, **more: object):
    """The port's view of one request."""
    async with gateway() as gate:
        answer = await gate.post(path, ASKED[path] | more)
        assert answer.status == 200, answer.body
        [(model, body)] = gate.serving.bodies
        return model, body


async def refused(path: str, **more: object):
    """The error of a request that never reaches an enclave."""
    async with gateway() as gate:
        answer = await gate.post(path, ASKED[path] | more)
        assert gate.serving.bodies == []
        return answer


# --- models --------------------------------------------------------------------------------------


async def test_models_are_listed_and_found_by_names_with_colons():
    async with gateway() as gate:
        listed = (await gate.get("/v1/models")).json
        assert [each["id"] for each in listed["data"]] == [TUNED, BASE]
        assert listed["object"] == "list"
        assert listed["has_more"] is False
        for name in (TUNED, TUNED.replace(":", "%3A")):
            answer = await gate.get(f"/v1/models/{name}")
            assert answer.json == {
                "id": TUNED,
                "object": "model",
                "created": NOW // 1000,
                "owned_by": "blindhost",
                "blindhost": {"job": "ab" * 32, "sealed_to": None},
            }


async def test_a_listed_model_says_to_whose_chip_its_requests_are_sealed():
    async with gateway() as gate:
        sealed_to = SealedTo(chip=b"\xc4" * 64, generation=2, verified_at=NOW)
        tuned, base = gate.serving.served
        gate.serving.served = [dataclasses.replace(tuned, sealed_to=sealed_to), base]
        listed = (await gate.get("/v1/models")).json["data"]
    assert listed[0]["blindhost"]["sealed_to"] == {
        "chip": "c4" * 64,
        "generation": 2,
        "verified_at": NOW // 1000,
    }
    assert listed[1]["blindhost"]["sealed_to"] is None


async def test_a_model_that_nobody_serves_is_not_found():
    async with gateway() as gate:
        for answer in (
            await gate.get("/v1/models/ft:none:0"),
            await gate.post(CHAT, ASKED[CHAT] | {"model": "ft:none:0"}),
        ):
            assert answer.status == 404
            assert answer.error["code"] == "model_not_found"
            assert answer.error["param"] == "model"
        assert gate.serving.bodies == []


# --- what reaches the port -----------------------------------------------------------------------


async def test_a_chat_is_asked_as_it_stands():
    model, body = await asked(
        CHAT,
        model=TUNED,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c", "refusal": None},
            {"role": "user", "content": "d"},
        ],
        max_completion_tokens=17,
        temperature=0.7,
        top_p=0.95,
        seed=11,
        stop=["\n", "END"],
    )
    assert model == TUNED
    assert body.adapter is None  # the port's to fill in
    assert body.prompt is None
    assert body.messages == (
        ChatMessage(role=Role.SYSTEM, content="Be brief."),
        ChatMessage(role=Role.USER, content="ab"),
        ChatMessage(role=Role.ASSISTANT, content="c"),
        ChatMessage(role=Role.USER, content="d"),
    )
    assert (body.tokens_max, body.seed, body.stop) == (17, 11, ("\n", "END"))
    assert (body.temperature, body.top_p) == ("0.7", "0.95")


async def test_what_is_not_said_has_openais_defaults_and_the_models_limit():
    _, body = await asked(CHAT)
    assert (body.temperature, body.top_p, body.seed, body.stop) == ("1", "1", None, ())
    assert body.tokens_max == 64


@pytest.mark.parametrize(
    ("number", "wire"),
    [
        ("0", "0"),
        ("0.0", "0"),
        ("1", "1"),
        ("1.0", "1"),
        ("0.70", "0.7"),
        ("0.30000000000000004", "0.3"),
        ("1e-7", "0.0000001"),
        ("1E0", "1"),
        ("2", "2"),
        ("1e-999999999", "0"),
    ],
)
async def test_numbers_become_decimals_without_a_floats_tail(number, wire):
    async with gateway() as gate:
        text = json.dumps(ASKED[CHAT])[:-1] + f', "temperature": {number}}}'
        assert (await gate.post(CHAT, text.encode())).status == 200
        assert gate.serving.bodies[0][1].temperature == wire


@pytest.mark.parametrize("prompt", ["Once", ["Once"]])
async def test_a_completion_continues_bare_text(prompt):
    _, body = await asked(COMPLETIONS, prompt=prompt, max_tokens=5, stop="x")
    assert (body.messages, body.prompt) == (None, "Once")
    assert (body.tokens_max, body.stop) == (5, ("x",))


async def test_a_response_is_asked_with_its_instructions_first():
    _, body = await asked(
        RESPONSES,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "a", "type": "message"},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "b", "annotations": [], "logprobs": []}
                ],
            },
            {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
        ],
        max_output_tokens=9,
        store=False,
        tools=[],
        previous_response_id=None,
    )
    assert [(each.role.value, each.content) for each in body.messages] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert body.tokens_max == 9


async def test_fields_that_change_nothing_are_taken():
    await asked(
        CHAT,
        n=1,
        logprobs=False,
        tools=[],
        response_format={"type": "text"},
        presence_penalty=0,
        frequency_penalty=0.0,
        user="me",
        store=False,
        logit_bias=None,
        metadata={"a": "b"},
    )


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "n", 2),
        (CHAT, "n", True),
        (CHAT, "logprobs", True),
        (CHAT, "top_logprobs", 3),
        (CHAT, "logit_bias", {"50256": -100}),
        (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (CHAT, "tool_choice", "required"),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "response_format", {"type": "json_object"}),
        (CHAT, "response_format", {"type": "json_schema", "json_schema": {}}),
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "audio", {"voice": "x", "format": "wav"}),
        (CHAT, "presence_penalty", 0.5),
        (CHAT, "frequency_penalty", 1),
        (CHAT, "store", True),
        (CHAT, "reasoning_effort", "high"),
        (CHAT, "web_search_options", {}),
        (CHAT, "made_up", 0),
        (COMPLETIONS, "echo", True),
        (COMPLETIONS, "suffix", "tail"),
        (COMPLETIONS, "best_of", 2),
        (COMPLETIONS, "n", 3),
        (COMPLETIONS, "logprobs", 1),
        (COMPLETIONS, "prompt", ["a", "b"]),
        (COMPLETIONS, "prompt", [1, 2, 3]),
        (COMPLETIONS, "messages", HI),
        (RESPONSES, "previous_response_id", "resp_1"),
        (RESPONSES, "store", True),
        (RESPONSES, "background", True),
        (RESPONSES, "tools", [{"type": "web_search"}]),
        (RESPONSES, "include", ["message.output_text.logprobs"]),
        (RESPONSES, "text", {"format": {"type": "json_object"}}),
        (RESPONSES, "truncation", "auto"),
        (RESPONSES, "reasoning", {"effort": "high"}),
        (RESPONSES, "conversation", "conv_1"),
        (RESPONSES, "prompt", {"id": "p"}),
    ],
)
async def test_what_is_not_done_here_is_refused_by_name(path, field, value):
    answer = await refused(path, **{field: value})
    assert answer.status == 400
    assert answer.error["param"] == field
    assert answer.error["code"] == "unsupported_parameter"
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "field", "value", "param"),
    [
        (CHAT, "model", 7, "model"),
        (CHAT, "model", None, "model"),
        (CHAT, "messages", None, "messages"),
        (CHAT, "messages", [], "messages"),
        (CHAT, "messages", "hi", "messages"),
        (CHAT, "messages", ["hi"], "messages[0]"),
        (CHAT, "messages", [*HI, {"role": "robot", "content": "x"}], "messages[1].role"),
        (CHAT, "messages", [{"content": "x"}], "messages[0].role"),
        (CHAT, "messages", [{"role": "tool", "content": "x"}], "messages[0].role"),
        (CHAT, "messages", [{"role": "user"}], "messages[0].content"),
        (CHAT, "messages", [{"role": "user", "content": 5}], "messages[0].content"),
        (CHAT, "messages", [{"role": "user", "content": "\ud800"}], "messages[0].content"),
        (
            CHAT,
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].type",
        ),
        (CHAT, "messages", [{"role": "user", "content": "x", "name": "n"}], "messages[0].name"),
        (CHAT, "messages", [{"role": "user", "content": "x" * 262_145}], "messages[0].content"),
        (CHAT, "messages", HI * 1025, "messages"),
        (CHAT, "messages", [{"role": "user", "content": "x" * 262_144}] * 5, "messages"),
        (CHAT, "temperature", "1", "temperature"),
        (CHAT, "temperature", 2.1, "temperature"),
        (CHAT, "temperature", -0.1, "temperature"),
        (CHAT, "temperature", True, "temperature"),
        (CHAT, "temperature", 10**400, "temperature"),
        (CHAT, "top_p", 0, "top_p"),
        (CHAT, "top_p", 1.01, "top_p"),
        (CHAT, "seed", 1.5, "seed"),
        (CHAT, "seed", -1, "seed"),
        (CHAT, "seed", 1 << 53, "seed"),
        (CHAT, "max_tokens", 0, "max_tokens"),
        (CHAT, "max_tokens", "5", "max_tokens"),
        (CHAT, "max_completion_tokens", 65, "max_completion_tokens"),
        (CHAT, "stop", 5, "stop"),
        (CHAT, "stop", ["a", 5], "stop[1]"),
        (CHAT, "stop", "", "stop"),
        (CHAT, "stop", ["a"] * 17, "stop"),
        (CHAT, "stop", "x" * 257, "stop"),
        (CHAT, "stream", "yes", "stream"),
        (CHAT, "stream_options", {"include_usage": True}, "stream_options"),
        (COMPLETIONS, "prompt", None, "prompt"),
        (COMPLETIONS, "prompt", 5, "prompt"),
        (COMPLETIONS, "max_tokens", 65, "max_tokens"),
        (RESPONSES, "input", None, "input"),
        (RESPONSES, "input", [{"type": "function_call_output"}], "input[0].type"),
        (RESPONSES, "max_output_tokens", 65, "max_output_tokens"),
        (RESPONSES, "metadata", {"a": 5}, "metadata.a"),
        (RESPONSES, "instructions", [], "instructions"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_name(path, field, value, param):
    answer = await refused(path, **{field: value})
    assert answer.status == 400
    assert answer.error["param"] == param


async def test_two_names_of_one_limit_may_not_differ():
    answer = await refused(CHAT, max_tokens=5, max_completion_tokens=6)
    assert (answer.status, answer.error["param"]) == (400, "max_completion_tokens")
    _, body = await asked(CHAT, max_tokens=5, max_completion_tokens=5)
    assert body.tokens_max == 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "a", "model": "b"}',
        b'{"model": "tiny-chat", "messages": [{"role": "user", "role": "system", "content": "x"}]}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"seed": ' + b"1" * 5000 + b"}",
        b'{"temperature": 1e' + b"9" * 30 + b"}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(body):
    async with gateway() as gate:
        for path in SHAPES:
            answer = await gate.post(path, body)
            assert answer.status == 400
            assert answer.error["type"] == "invalid_request_error"
        assert gate.calls == []


async def test_an_adapters_name_is_passed_on_as_it_was_said():
    model, body = await asked(CHAT, model=TUNED)
    assert model == TUNED
    assert ADAPTER.hex()[:16] in model
    assert body.adapter is None
