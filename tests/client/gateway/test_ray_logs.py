"""Logs as Ray's client reads and follows them, and sockets that are misused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.gateway import ray_jobs, ray_logs
from client.gateway.ports import TuneEvent, TuneEventKind
from client.gateway.ray_logs import CHUNK_CHARACTERS, chunks, log_line, log_text
from marketplace.wire import JobState
from tests.client.gateway.fakes import NOW
from tests.client.gateway.ray_rig import Rig, ray_rig, until


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(ray_logs, "POLL_SECONDS", 0.01)
    async with ray_rig(tmp_path / "gateway") as served:
        yield served


def event(**more) -> TuneEvent:
    said = {"number": 1, "at": NOW, "kind": TuneEventKind.MEASURE, "text": ""}
    return TuneEvent(**(said | {"step": 3, "steps": 10, "measures": {}} | more))


# --- logs ----------------------------------------------------------------------------------------


async def test_a_log_is_followed_from_its_beginning_each_time_and_ends_with_1000(rig: Rig) -> None:
    job = await rig.started("a")
    rig.port.finish(job)
    whole = json.loads((await rig.ask("GET", "/api/jobs/a/logs"))[1])["logs"]
    for _ in range(2):
        socket = await rig.tail()
        assert "".join([message.data async for message in socket]) == whole
        assert socket.close_code == 1000
    assert whole.splitlines()[0] == "2026-09-21T14:13:20.000Z queued"


async def test_the_end_is_on_record_before_the_socket_closes(rig: Rig) -> None:
    job = await rig.started("a")
    socket = await rig.tail()
    await socket.receive_str()
    rig.port.move(job, JobState.FAILED, message="line 3 is too long", code="row-too-long")
    assert "failed" in "".join([message.data async for message in socket])
    found = await rig.details("a")
    assert (found["status"], found["error_type"]) == ("FAILED", "row-too-long")


async def test_chunks_are_small_and_their_text_is_harmless(rig: Rig) -> None:
    job = await rig.started("a")
    for number in range(3000):
        rig.port.emit(job, TuneEventKind.TEXT, text=f"{number}\x1b]0;x\x07\n\u202eevil " + "y" * 40)
    rig.port.move(job, JobState.CANCELLED)
    socket = await rig.tail()
    heard = [message.data async for message in socket]
    assert len(heard) > 3
    assert max(map(len, heard)) <= 20_000
    lines = "".join(heard).splitlines()
    assert len(lines) == 3003
    assert all(line.isprintable() for line in lines)


async def test_whoever_talks_on_the_socket_is_shown_out(rig: Rig) -> None:
    await rig.started("a")
    for say in ("hello", "x" * 100_000):
        socket = await rig.tail()
        await socket.receive_str()
        await socket.send_str(say)
        async for _ in socket:
            pass
        assert socket.close_code in {1008, 1009}
    await until(lambda: len(rig.ray._tails) == 0)


async def test_so_many_followers_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.started("a")
    monkeypatch.setattr(ray_jobs, "TAILS_MAX", 2)
    sockets = [await rig.tail() for _ in range(2)]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await rig.tail()
    assert refused.value.status == 429
    await sockets[0].close()
    await until(lambda: len(rig.ray._tails) == 1)
    await rig.tail()


async def test_a_log_that_breaks_off_does_not_look_like_an_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.started("a")
    socket = await rig.tail()
    await socket.receive_str()

    async def broken(job: str, *, after: int):
        raise OSError("disk")

    monkeypatch.setattr(rig.port, "events", broken)
    assert [message async for message in socket] == []
    assert socket.close_code == 1011


async def test_the_tail_is_no_plain_page(rig: Rig) -> None:
    await rig.started("a")
    assert (await rig.ask("GET", "/api/jobs/a/logs/tail"))[0] == 400


async def test_a_follower_that_is_silent_stays_and_one_that_is_dead_is_dropped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await rig.started("a")
    monkeypatch.setattr(ray_logs, "HEARTBEAT_SECONDS", 0.2)
    dead = await rig.tail(autoping=False)
    alive = await rig.tail()
    assert (await alive.receive_str()).endswith("queued\n")
    listening = asyncio.create_task(alive.receive())
    await until(lambda: len(rig.ray._tails) == 1)
    rig.port.move(job, JobState.RUNNING)
    assert (await listening).data.endswith("running\n")
    await dead.close()
    await alive.close()


async def test_a_gateway_that_stops_says_so_to_its_followers(rig: Rig) -> None:
    await rig.started("a")
    socket = await rig.tail()
    await socket.receive_str()
    closing = asyncio.create_task(rig.ray.close())
    assert [message async for message in socket] == []
    assert socket.close_code == 1001
    await closing


async def test_a_job_that_is_deleted_while_followed_does_not_look_ended(rig: Rig) -> None:
    job = await rig.started("a")
    socket = await rig.tail()
    await socket.receive_str()
    rig.port.move(job, JobState.CANCELLED)
    await rig.port.forget(job)
    assert "ended" not in "".join([message.data async for message in socket])
    assert socket.close_code == 1011


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"measures": {"tokens": 2048.0, "loss": 2.5}}, "step 3/10 loss=2.5 tokens=2048"),
        ({"measures": {"loss": 1 / 3}}, "step 3/10 loss=0.333333"),
        ({"measures": {"loss": float("nan")}}, "step 3/10 loss=nan"),
        ({"measures": {"loss": float("inf")}}, "step 3/10 loss=inf"),
        ({"measures": {"tokens": 10_000_000}}, "step 3/10 tokens=10000000"),
        ({"kind": TuneEventKind.CHECKPOINT}, "step 3/10 checkpoint"),
        ({"kind": TuneEventKind.STATE, "text": "running"}, "running"),
        ({"kind": TuneEventKind.TEXT, "text": "a\nb\x1b[31m"}, "a\\nb\\x1b[31m"),
    ],
)
def test_an_event_is_one_line(said, line: str) -> None:
    assert log_line(event(**said)) == f"2026-09-21T14:13:20.000Z {line}\n"


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=20), st.floats(), max_size=4))
def test_no_event_is_more_than_one_line_or_controls_a_terminal(text: str, measures) -> None:
    line = log_line(event(kind=TuneEventKind.TEXT, text=text, measures=measures))
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@given(st.lists(st.text(max_size=50), max_size=20))
def test_chunks_are_the_text(lines: list[str]) -> None:
    assert "".join(chunks(lines * 100)) == "".join(lines * 100)
    assert all(0 < len(each) <= CHUNK_CHARACTERS for each in chunks(lines * 100))


async def test_of_a_log_that_is_too_long_the_end_is_shown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await rig.port.job(await rig.started("a"))
    events = [event(number=n, step=n) for n in range(1, 100)]
    monkeypatch.setattr(ray_logs, "LOG_CHARACTERS_MAX", 200)
    text = log_text(dataclasses.replace(job, state=JobState.FAILED, finished_at=NOW), events)
    assert len(text) <= 200
    assert text.startswith("2026-")
    assert text.endswith("ended: failed\n")
