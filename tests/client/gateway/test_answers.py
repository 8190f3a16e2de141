"""Answers, whole and streamed, and what a reply that breaks off looks like."""

from __future__ import annotations

import asyncio

import pytest

from client.gateway import streams
from client.gateway.ports import CutOffError, NotFoundError, UnavailableError
from tests.client.gateway.fakes import BASE, failed, finish
from tests.client.gateway.rig import (
    ASKED,
    CHAT,
    COMPLETIONS,
    RESPONSES,
    SHAPES,
    events,
    gateway,
)
from trust.errors import EvidenceFormatError, RefusedError, SealingError
from trust.serving import FinishReason

# --- whole answers -------------------------------------------------------------------------------


async def test_a_chat_completion_has_openais_shape():
    async with gateway() as gate:
        value = (await gate.post(CHAT, ASKED[CHAT])).json
        assert value.pop("id").startswith("chatcmpl-")
        assert value.pop("created") > 1_700_000_000
        assert value == {
            "object": "chat.completion",
            "model": BASE,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }


async def test_a_text_completion_has_openais_shape():
    async with gateway() as gate:
        gate.serving.script = ["abc", finish(FinishReason.LENGTH)]
        value = (await gate.post(COMPLETIONS, ASKED[COMPLETIONS])).json
        assert value["object"] == "text_completion"
        assert value["choices"] == [
            {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}
        ]
        assert value["usage"]["total_tokens"] == 10


async def test_a_response_cut_by_its_limit_is_incomplete():
    async with gateway() as gate:
        gate.serving.script = ["abc", finish(FinishReason.LENGTH)]
        value = (await gate.post(RESPONSES, ASKED[RESPONSES])).json
        assert value["status"] == "incomplete"
        assert value["incomplete_details"] == {"reason": "max_output_tokens"}
        assert value["output"][0]["content"][0]["text"] == "abc"
        assert value["usage"]["input_tokens"] == 7
        assert value["usage"]["output_tokens"] == 3
        assert value["store"] is False


async def test_ids_are_never_twice_the_same_and_every_answer_names_its_request():
    async with gateway() as gate:
        answers = [await gate.post(CHAT, ASKED[CHAT]) for _ in range(3)]
        assert len({each.json["id"] for each in answers}) == 3
        assert len({each.headers["x-request-id"] for each in answers}) == 3
        assert len(gate.serving.bodies) == 3  # equal questions that are no retries


# --- errors --------------------------------------------------------------------------------------

ERRORS = [
    ([NotFoundError("gone")], 404, "model_not_found", {}),
    ([UnavailableError("no enclave")], 503, "unavailable", {"Retry-After": "2"}),
    ([RefusedError("terms", "no")], 403, "terms", {}),
    ([EvidenceFormatError("bad report")], 403, "evidence_refused", {}),
    ([SealingError("bad frame")], 502, "failed", {}),
    ([CutOffError("cut")], 502, "cut_off", {}),
    ([], 502, "cut_off", {}),  # an iterator that ends without a finish
    (failed("model-not-found"), 404, "model_not_found", {}),
    (failed("too-long", "300 tokens"), 400, "context_length_exceeded", {}),
    (failed("busy"), 429, "busy", {"retry-after-ms": "1000"}),
    (failed("out-of-tokens"), 429, "out_of_tokens", {"Retry-After": "3600"}),
    (failed("template"), 400, "template", {}),
    (failed("failed"), 502, "failed", {}),
    (failed("never-heard-of"), 502, "never-heard-of", {}),
]


@pytest.mark.parametrize("path", SHAPES)
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("script", "status", "code", "headers"), ERRORS)
async def test_an_error_before_the_first_byte_has_its_own_status(
    path, is_stream, script, status, code, headers
):
    async with gateway() as gate:
        gate.serving.script = script
        answer = await gate.post(path, ASKED[path] | {"stream": is_stream})
        assert (answer.status, answer.error["code"]) == (status, code)
        assert set(answer.error) == {"message", "type", "param", "code"}
        for name, value in headers.items():
            assert answer.headers[name] == value


async def test_a_prompt_that_is_too_long_is_named():
    for path, param in ((CHAT, "messages"), (COMPLETIONS, "prompt"), (RESPONSES, "input")):
        async with gateway() as gate:
            gate.serving.script = failed("too-long")
            assert (await gate.post(path, ASKED[path])).error["param"] == param


async def test_a_fault_of_ours_says_nothing_of_what_was_asked():
    async with gateway() as gate:
        gate.serving.script = [ValueError("secret prompt")]
        for is_stream in (False, True):
            answer = await gate.post(CHAT, ASKED[CHAT] | {"stream": is_stream})
            assert answer.status == 500
            assert b"secret" not in answer.body


async def test_a_reply_cut_off_is_no_answer_though_text_came():
    async with gateway() as gate:
        gate.serving.script = ["half of ", CutOffError("cut")]
        answer = await gate.post(CHAT, ASKED[CHAT])
        assert answer.status == 502
        assert b"half" not in answer.body


# --- streams -------------------------------------------------------------------------------------


async def test_a_chat_streams_with_usage_and_an_end_mark():
    async with gateway() as gate:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        answer = await gate.post(CHAT, ASKED[CHAT] | more)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"].startswith("req_")
        *chunks, last, done = events(answer.body)
        assert done == "[DONE]"
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert len({each["id"] for each in chunks}) == 1
        assert all(each["usage"] is None for each in chunks)
        deltas = [each["choices"][0]["delta"] for each in chunks]
        assert deltas == [
            {"role": "assistant", "content": ""},
            {"content": "Hello"},
            {"content": ", "},
            {"content": "world"},
            {},
        ]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_usage_is_not_streamed_unless_it_is_asked_for():
    async with gateway() as gate:
        answer = await gate.post(CHAT, ASKED[CHAT] | {"stream": True})
        assert b"usage" not in answer.body


async def test_a_completion_streams():
    async with gateway() as gate:
        *chunks, done = events(
            (await gate.post(COMPLETIONS, ASKED[COMPLETIONS] | {"stream": True})).body
        )
        assert done == "[DONE]"
        assert "".join(each["choices"][0]["text"] for each in chunks) == "Hello, world"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_response_streams_its_events_in_order():
    async with gateway() as gate:
        found = events((await gate.post(RESPONSES, ASKED[RESPONSES] | {"stream": True})).body)
        assert [each["type"].removeprefix("response.") for each in found] == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        assert [each["sequence_number"] for each in found] == list(range(11))
        assert found[-1]["response"]["output"][0]["content"][0]["text"] == "Hello, world"


@pytest.mark.parametrize("path", SHAPES)
@pytest.mark.parametrize(
    ("last", "code"),
    [
        ([CutOffError("cut")], "cut_off"),
        ([], "cut_off"),
        (failed("out-of-tokens"), "out_of_tokens"),
        ([UnavailableError("lost")], "unavailable"),
    ],
)
async def test_a_stream_that_breaks_off_says_so_and_never_ends_cleanly(path, last, code):
    async with gateway() as gate:
        gate.serving.script = ["half", *last]
        body = await gate.cut(path, ASKED[path])
        found = events(body)
        assert found[-1]["error"]["code"] == code
        assert "[DONE]" not in found
        assert b"response.completed" not in body


async def test_a_fault_of_ours_in_a_stream_ends_the_connection_without_its_text():
    async with gateway() as gate:
        gate.serving.script = ["half", ValueError("secret prompt")]
        body = await gate.cut(CHAT, ASKED[CHAT])
        assert b"secret" not in body
        assert b"[DONE]" not in body


async def test_silence_is_filled_with_comments(monkeypatch):
    monkeypatch.setattr(streams, "PING_SECONDS", 0.05)
    async with gateway() as gate:
        go, on = asyncio.Event(), asyncio.Event()
        gate.serving.script = [go, "late", on, "r", finish()]
        async with gate.stream(CHAT, ASKED[CHAT]) as response:
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if body.count(b": ping\n\n") == 2:
                    go.set()
                if b"late" in body and body.count(b": ping\n\n") >= 3:
                    on.set()
        assert body.startswith(b'data: {"id"')
        assert events(body)[-1] == "[DONE]"
        assert (
            "".join(each["choices"][0]["delta"].get("content", "") for each in events(body)[:-1])
            == "later"
        )


async def test_an_error_after_pings_is_an_event(monkeypatch):
    monkeypatch.setattr(streams, "PING_SECONDS", 0.05)
    async with gateway() as gate:
        go = asyncio.Event()
        gate.serving.script = [go, *failed("busy")]
        body = await gate.cut(CHAT, ASKED[CHAT], go.set)
        assert events(body)[-1]["error"]["code"] == "busy"
