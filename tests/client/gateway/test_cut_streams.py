"""Whatever stops under a stream, its client sees an error, and never a clean end.

The gateway stands on its own socket, over the shipped port to the market; enclave and mailboxes are
in memory. A reply has a frame for each text, one without any, and the authenticated last one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from client.serving import MarketServePort
from tests.client.gateway.rig import ASKED as OF_FAKES
from tests.client.gateway.rig import CHAT, RESPONSES, SHAPES, Gateway, events, gateway
from tests.client.serve_stage import FakeEnclave, ServeStage
from tests.client.test_serving import CUT_OFF, serving
from trust.errors import BlindhostError
from trust.messages import ServeFrames, parse_message

MODEL = "tiny"
TEXTS = ("Once ", "upon ", "a ", "time")
FRAMES = len(TEXTS) + 2  # all that an enclave sends up to and with the last one
SILENCE = 0.2
ASKED = {shape: body | {"model": MODEL} for shape, body in OF_FAKES.items()}


class Enclave(FakeEnclave):
    """Takes the market away from its reader as it sends frame number `at`."""

    at: int | None = None
    fails = 0

    async def send(self, box: bytes, payload: bytes) -> None:
        with contextlib.suppress(BlindhostError):
            said = parse_message(payload)
            if isinstance(said, ServeFrames) and said.frames[0].number == self.at:
                self.stage.mail.fails = self.fails
        await super().send(box, payload)


@contextlib.asynccontextmanager
async def sealed(
    folder: Path, *, silence: float = SILENCE
) -> AsyncIterator[tuple[Enclave, Gateway, MarketServePort]]:
    enclave = Enclave(ServeStage(folder))
    enclave.replies = lambda _: TEXTS
    async with serving(enclave, silence_seconds=silence) as port, gateway(port) as gate:
        yield enclave, gate, port


def texts(body: bytes) -> str:
    """What a chat's stream said."""
    found = [each for each in events(body) if isinstance(each, dict) and "choices" in each]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in found)


def assert_broken_off(body: bytes) -> None:
    assert b"[DONE]" not in body
    assert b"response.completed" not in body
    assert b'finish_reason":"stop' not in body
    assert "cut_off" in json.dumps(events(body)[-1])


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_whose_enclave_stops_at_any_frame_is_broken_off(
    tmp_path: Path, shape: str
) -> None:
    async with sealed(tmp_path) as (enclave, gate, port):
        enclave.change_frames = lambda frames: []
        refused = await gate.post(shape, ASKED[shape] | {"stream": True})
        assert (refused.status, refused.error["code"]) == (502, "cut_off")
        for kept in range(1, FRAMES):
            enclave.change_frames = lambda frames, kept=kept: frames[:kept]
            body = await gate.cut(shape, ASKED[shape])
            assert_broken_off(body)
            if shape == CHAT:
                assert texts(body) == "".join(TEXTS[:kept])
        enclave.change_frames = lambda frames: frames
        port._silence_seconds = 10  # the whole reply may take its time
        async with gate.stream(shape, ASKED[shape]) as response:
            whole = await response.read()
        assert (b"response.completed" if shape == RESPONSES else b"[DONE]") in whole


async def test_a_stream_whose_frames_are_not_the_enclaves_own_is_broken_off(
    tmp_path: Path,
) -> None:
    async with sealed(tmp_path) as (enclave, gate, _):
        enclave.replies = lambda _: ("Hel", "lo")
        for change in CUT_OFF.values():
            enclave.change_frames = change
            async with gate.stream(CHAT, ASKED[CHAT]) as response:
                if response.status != 200:  # the first frame was wrong already
                    assert (await response.json())["error"]["code"] == "cut_off"
                    continue
            assert_broken_off(await gate.cut(CHAT, ASKED[CHAT]))


async def test_openai_raises_at_every_boundary_of_a_frame(tmp_path: Path) -> None:
    async with (
        sealed(tmp_path) as (enclave, gate, _),
        openai.AsyncOpenAI(base_url=gate.v1, api_key=gate.key, max_retries=0) as ask,
    ):
        for kept in range(FRAMES):
            enclave.change_frames = lambda frames, kept=kept: frames[:kept]
            said: list[str] = []
            with pytest.raises(openai.APIError):
                await chat(ask, said)
            assert "".join(said) == "".join(TEXTS[:kept])


@pytest.mark.parametrize("at", range(FRAMES - 1))
async def test_a_market_that_is_gone_for_a_moment_breaks_no_stream_off(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.serving.RETRY_SECONDS", 0.01)
    async with sealed(tmp_path, silence=20) as (enclave, gate, _):
        enclave.at, enclave.fails = at, 3
        async with gate.stream(CHAT, ASKED[CHAT]) as response:
            body = await response.read()
        assert texts(body) == "".join(TEXTS)
        assert events(body)[-1] == "[DONE]"
        assert len(enclave.requests) == 1  # nothing was asked twice


@pytest.mark.parametrize("at", range(FRAMES - 2))
async def test_a_market_that_stays_away_breaks_a_stream_off(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.serving.RETRY_SECONDS", 0.01)
    async with sealed(tmp_path) as (enclave, gate, _):
        await gate.post(CHAT, ASKED[CHAT])  # verified before the market goes
        enclave.at, enclave.fails = at, 1 << 30
        body = await gate.cut(CHAT, ASKED[CHAT])
        assert_broken_off(body)
        assert texts(body) == "".join(TEXTS[: at + 1])
        assert len(enclave.requests) == 2
        enclave.stage.mail.fails = 0


async def chat(ask: openai.AsyncOpenAI, said: list[str]) -> None:
    """Ask for a stream, and note what it says until it ends or raises."""
    stream = await ask.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
    )
    async for chunk in stream:
        said.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  up to an error
