"""Who leaves, who asks again, and what the enclave hears of either."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from client.gateway import streams
from tests.client.gateway.fakes import FakeServePort, failed, finish
from tests.client.gateway.rig import (
    ASKED,
    CHAT,
    RESPONSES,
    gateway,
)


@pytest.mark.parametrize("has_text", [False, True])
async def test_a_client_that_leaves_a_stream_cancels_it_in_the_enclave(has_text):
    async with gateway() as gate:
        gate.serving.script = [*(["half"] if has_text else []), asyncio.Event()]
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(0.5),
                gate.stream(CHAT, ASKED[CHAT]) as response,
            ):
                await response.content.read()
        async with asyncio.timeout(5):
            await gate.serving.ended.wait()
        assert gate.serving.closed == 1


async def leave(gate, **headers: str) -> None:
    """Ask, and go away while it is computed."""
    before = len(gate.serving.bodies)
    asking = asyncio.create_task(gate.post(CHAT, ASKED[CHAT], **headers))
    await gate.serving.reached(before + 1)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("is_known_to_be_gone", [False, True])
async def test_a_client_that_leaves_and_asks_again_joins_what_it_asked(is_known_to_be_gone):
    async with gateway() as gate:
        go = asyncio.Event()
        gate.serving.script = [go, "once", finish()]
        await leave(gate)
        if is_known_to_be_gone:
            await asyncio.sleep(2 * streams.GONE_SECONDS)
        again = asyncio.create_task(gate.post(CHAT, ASKED[CHAT], x_stainless_retry_count="1"))
        await gate.serving.reached(2, "models")
        await asyncio.sleep(2 * streams.GONE_SECONDS)
        go.set()
        assert (await again).json["choices"][0]["message"]["content"] == "once"
        assert len(gate.serving.bodies) == 1
        assert gate.serving.closed == 0


async def test_a_retry_of_what_has_just_ended_gets_the_same_answer():
    async with gateway() as gate:
        first = await gate.post(CHAT, ASKED[CHAT])
        again = await gate.post(CHAT, ASKED[CHAT], x_stainless_retry_count="1")
        assert again.json == first.json
        assert len(gate.serving.bodies) == 1
        assert first.headers["x-request-id"] != again.headers["x-request-id"]


async def test_a_retry_is_joined_to_the_same_body_and_route_alone():
    async with gateway() as gate:
        await gate.post(CHAT, ASKED[CHAT])
        await gate.post(CHAT, ASKED[CHAT] | {"seed": 1}, x_stainless_retry_count="1")
        await gate.post(RESPONSES, ASKED[RESPONSES], x_stainless_retry_count="1")
        assert len(gate.serving.bodies) == 3


async def test_a_retry_of_what_failed_is_asked_anew():
    async with gateway() as gate:
        gate.serving.scripts = [failed("busy")]
        assert (await gate.post(CHAT, ASKED[CHAT])).status == 429
        again = await gate.post(CHAT, ASKED[CHAT], x_stainless_retry_count="1")
        assert again.status == 200


async def test_equal_questions_that_are_no_retries_are_each_asked():
    async with gateway() as gate:
        go = asyncio.Event()
        gate.serving.script = [go, "x", finish()]
        both = [asyncio.create_task(gate.post(CHAT, ASKED[CHAT])) for _ in range(2)]
        await gate.serving.reached(2)
        go.set()
        assert [each.status for each in await asyncio.gather(*both)] == [200, 200]


async def test_a_request_that_nobody_asks_again_is_cancelled(monkeypatch):
    monkeypatch.setattr("client.gateway.retries.GRACE_SECONDS", 0.05)
    async with gateway() as gate:
        gate.serving.script = [asyncio.Event()]
        await leave(gate)
        async with asyncio.timeout(5):
            await gate.serving.ended.wait()
        assert gate.serving.closed == 1


async def test_an_answer_is_kept_for_a_short_while_alone(monkeypatch):
    monkeypatch.setattr("client.gateway.retries.WINDOW_SECONDS", 0.05)
    async with gateway() as gate:
        await gate.post(CHAT, ASKED[CHAT])
        await asyncio.sleep(0.2)
        await gate.post(CHAT, ASKED[CHAT], x_stainless_retry_count="1")
        assert len(gate.serving.bodies) == 2


async def test_only_so_many_answers_are_kept(monkeypatch):
    monkeypatch.setattr("client.gateway.retries.KEPT_MAX", 2)
    async with gateway() as gate:
        for seed in range(4):
            await gate.post(CHAT, ASKED[CHAT] | {"seed": seed})
        for seed in range(4):
            body = ASKED[CHAT] | {"seed": seed}
            await gate.post(CHAT, body, x_stainless_retry_count="1")
        asked_again = [body.seed for _, body in gate.serving.bodies[4:]]
        assert asked_again[:2] == [0, 1]


async def test_only_so_many_requests_run(monkeypatch):
    monkeypatch.setattr("client.gateway.retries.RUNNING_MAX", 2)
    async with gateway() as gate:
        go = asyncio.Event()
        gate.serving.script = [go, "x", finish()]
        both = [asyncio.create_task(gate.post(CHAT, ASKED[CHAT])) for _ in range(2)]
        await gate.serving.reached(2)
        third = await gate.post(CHAT, ASKED[CHAT])
        assert (third.status, third.error["code"]) == (429, "busy")
        go.set()
        await asyncio.gather(*both)


async def test_a_gateway_that_stops_breaks_its_streams_off():
    serving = FakeServePort()
    serving.script = ["half", asyncio.Event()]
    async with gateway(serving) as gate:
        body = json.dumps(ASKED[CHAT] | {"stream": True}).encode()
        head = [
            f"POST {CHAT} HTTP/1.1",
            f"Host: 127.0.0.1:{gate.port}",
            f"Authorization: Bearer {gate.key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        found = await reader.readuntil(b"half")
    with contextlib.suppress(ConnectionResetError):
        found += await reader.read()
    writer.close()
    assert b"[DONE]" not in found
    assert not found.endswith(b"0\r\n\r\n")
    assert serving.closed == 1


async def test_a_client_that_reads_nothing_is_left(monkeypatch):
    monkeypatch.setattr("client.gateway.streams.WRITE_SECONDS_MAX", 0.1)
    async with gateway() as gate:
        gate.serving.script = ["x" * (1 << 20)] * 64
        async with gate.stream(CHAT, ASKED[CHAT]) as response:
            async with asyncio.timeout(10):
                await gate.serving.ended.wait()
            assert gate.serving.closed == 1
            response.close()
