"""Sealed requests over a market in memory: what comes back is the enclave's, whole, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from client.gateway.ports import CutOffError, NotFoundError, Piece, UnavailableError
from client.market_api import MarketUnreachableError
from client.serving import MarketServePort
from marketplace.wire import JobState
from tests.client.serve_stage import FakeEnclave, MailOf, ServeStage, asked
from tests.client.test_serve_session import BAD_OFFERS
from trust.encoding import digest
from trust.errors import RefusedError
from trust.identity import PartyKey
from trust.messages import (
    ServeFrame,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
    parse_message,
)
from trust.serving import (
    FinishReason,
    GenerateRequest,
    OpenRequest,
    RequestHeader,
    seal_request,
)


@pytest.fixture
def stage(tmp_path: Path) -> ServeStage:
    return ServeStage(tmp_path)


@contextlib.asynccontextmanager
async def serving(*enclaves: FakeEnclave, **changed: Any) -> AsyncIterator[MarketServePort]:
    """A port with these enclaves at work."""
    tasks = [asyncio.create_task(each.run()) for each in enclaves]
    try:
        async with enclaves[0].stage.port(**changed) as port:
            yield port
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def whole(
    port: MarketServePort, model: str = "tiny", body: GenerateRequest | None = None
) -> str:
    """The text of a reply that ended well."""
    pieces = [piece async for piece in port.generate(model, body or asked())]
    assert [each.finish for each in pieces[:-1]] == [None] * (len(pieces) - 1)
    finish = pieces[-1].finish
    assert finish is not None
    assert finish.reason is FinishReason.STOP
    return "".join(each.text for each in pieces)


def requests(stage: ServeStage, enclave: FakeEnclave) -> list[ServeRequest]:
    """What lies in the enclave's box."""
    parsed = [parse_message(each.payload) for each in stage.mail.boxes[enclave.box]]
    return [each for each in parsed if isinstance(each, ServeRequest)]


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


# --- names ---------------------------------------------------------------------------------------


async def test_models_are_the_bases_and_adapters_of_running_jobs(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    adapter = stage.adapters[0].digest
    async with serving(enclave) as port:
        base, tuned = await port.models()
        assert (base.name, base.adapter) == ("tiny", None)
        assert (tuned.name, tuned.adapter) == (f"ft:tiny:{adapter.hex()[:16]}", adapter)
        assert base.job == stage.job.digest.hex()
        assert (base.length_max, base.reply_tokens_max) == (64, 32)
        assert base.created_at == 1_800_000_000
    async with stage.port(names={}) as port:
        base, _ = await port.models()
        assert base.name == stage.base.digest.hex()[:16]


async def test_newest_running_job_answers_for_a_name_that_two_have(stage: ServeStage) -> None:
    first = FakeEnclave(stage)
    second = FakeEnclave(stage, stage.enter())
    first.replies, second.replies = (lambda _: ("old",)), (lambda _: ("new",))
    async with serving(first, second) as port:
        assert [each.job for each in await port.models()] == [second.job.digest.hex()] * 2
        assert await whole(port) == "new"
        stage.states[second.job.digest] = JobState.QUEUED
        stage.now += 2_000
        assert await whole(port) == "old"


async def test_name_that_is_nothings_and_job_that_does_not_run_yet_are_told_apart(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        with pytest.raises(NotFoundError):
            await whole(port, "tinier")
        for state, error in (
            (JobState.STARTING, UnavailableError),
            (JobState.FAILED, NotFoundError),
        ):
            stage.states[stage.job.digest] = state
            stage.now += 2_000
            assert await port.models() == ()
            with pytest.raises(error):
                await whole(port)


async def test_market_cannot_name_a_job_that_this_buyer_never_signed(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    (stage.home.folder / "jobs" / stage.job.digest.hex()).unlink()
    async with serving(enclave) as port:
        assert await port.models() == ()


# --- asking --------------------------------------------------------------------------------------


async def test_reply_comes_piece_by_piece_and_the_request_names_the_adapter(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    adapter = stage.adapters[0].digest
    async with serving(enclave) as port:
        assert await whole(port, f"ft:tiny:{adapter.hex()[:16]}") == "Hello"
        assert await whole(port, "tiny") == "Hello"
    assert [each.body.adapter for each in enclave.requests] == [adapter, None]
    assert [each.header.sequence for each in enclave.requests] == [0, 1]
    assert enclave.requests[0].header.response_secret != enclave.requests[1].header.response_secret
    assert {each.client for each in enclave.requests} == {stage.client.identity}
    assert enclave.challenges == 1
    assert enclave.cancelled == []
    assert stage.mail.acknowledged[stage.client.identity] > 0


async def test_nothing_that_was_asked_stands_in_the_open(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.replies = lambda _: ("a secret answer",)
    async with serving(enclave) as port:
        assert await whole(port, body=asked("a secret question")) == "a secret answer"
    everything = b"".join(m.payload for box in stage.mail.boxes.values() for m in box)
    assert b"secret" not in everything


async def test_many_replies_at_once_go_each_to_its_own_reader(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)

    def echo(opened: OpenRequest) -> list[str]:
        assert opened.body.messages is not None
        return list(opened.body.messages[0].content)

    enclave.replies = echo
    async with serving(enclave) as port:
        texts = [f"request {n}" for n in range(48)]
        replies = await asyncio.gather(*(whole(port, body=asked(each)) for each in texts))
    assert replies == texts
    assert enclave.challenges == 1
    assert [each.header.sequence for each in enclave.requests] == list(range(48))


async def test_enclave_whose_run_has_not_begun_is_asked_again(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.begins_after = 3
    async with serving(enclave, challenge_seconds=0.02) as port:
        assert await whole(port) == "Hello"
    assert enclave.challenges == 4


async def test_askers_of_an_enclave_that_is_gone_share_one_wait(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.begins_after = 1000
    async with serving(enclave, offer_seconds=0.3) as port:
        tasks = [asyncio.create_task(whole(port)) for _ in range(16)]
        await settled(lambda: enclave.challenges == 1)
        tasks[0].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError)
        assert all(isinstance(each, UnavailableError) for each in ended[1:])
        assert enclave.challenges == 1
        enclave.begins_after = 0
        assert await whole(port) == "Hello"


async def test_verified_again_after_an_hour_with_a_fresh_nonce(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        await whole(port)
        stage.now += 3_600_000
        await whole(port)
    assert enclave.challenges == 2
    assert len(enclave.statements) == 2


async def test_new_generation_gets_a_session_of_its_own(stage: ServeStage) -> None:
    lost = FakeEnclave(stage)
    async with serving(lost) as port:
        assert await whole(port) == "Hello"
        successor = FakeEnclave(stage)
        task = asyncio.create_task(successor.run())
        assert await whole(port) == "Hello"
        task.cancel()
    assert len(lost.requests) == len(successor.requests) == 1


async def test_closing_the_iterator_cancels_in_the_enclave(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.change_frames = lambda frames: frames[:2]
    async with serving(enclave) as port:
        reply = port.generate("tiny", asked())
        assert isinstance(await anext(reply), Piece)
        await reply.aclose()  # type: ignore[attr-defined]
        await settled(lambda: bool(enclave.cancelled))
    assert enclave.cancelled == [sealed_exchange(requests(stage, enclave)[0])]


def sealed_exchange(request: ServeRequest) -> bytes:
    return digest(request.sealed)


async def test_cancelled_asker_cancels_in_the_enclave(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.silent = True
    async with serving(enclave) as port:
        task = asyncio.create_task(whole(port))
        await settled(lambda: bool(enclave.requests))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settled(lambda: bool(enclave.cancelled))


async def test_request_longer_than_any_message_is_refused_before_it_is_sent(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        long = dataclasses.replace(asked(), messages=asked("x" * (1 << 18)).messages * 2)  # type: ignore[operator]
        with pytest.raises(RefusedError, match="too-long"):
            await whole(port, body=long)
        assert await whole(port) == "Hello"
    assert len(requests(stage, enclave)) == 1


async def test_error_of_the_enclave_is_a_finish_and_no_exception(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.replies, enclave.error = (lambda _: ()), "busy"
    async with serving(enclave) as port:
        (piece,) = [piece async for piece in port.generate("tiny", asked())]
    assert piece.text == ""
    assert piece.finish is not None
    assert (piece.finish.reason, piece.finish.code) == (FinishReason.ERROR, "busy")


# --- a host or a market that changes frames ------------------------------------------------------


def changed_chunk(frames: list[ServeFrame], at: int) -> list[ServeFrame]:
    bad = bytearray(frames[at].chunk)
    bad[-1] ^= 1
    frames[at] = dataclasses.replace(frames[at], chunk=bytes(bad))
    return frames


def renumbered(frames: list[ServeFrame]) -> list[ServeFrame]:
    return [dataclasses.replace(each, number=n) for n, each in enumerate(frames)]


CUT_OFF: dict[str, Callable[[list[ServeFrame]], list[ServeFrame]]] = {
    "a frame repeated": lambda f: [f[0], f[0], *f[1:]],
    "a frame repeated as the next": lambda f: renumbered([f[0], f[0], *f[1:]]),
    "a frame replayed late": lambda f: [f[0], f[1], f[0], *f[2:]],
    "a frame missing": lambda f: [f[0], *f[2:]],
    "a frame missing and the rest renumbered": lambda f: renumbered([f[0], *f[2:]]),
    "two frames swapped": lambda f: [f[1], f[0], *f[2:]],
    "two frames swapped and renumbered": lambda f: renumbered([f[1], f[0], *f[2:]]),
    "a bit flipped in the first": lambda f: changed_chunk(f, 0),
    "a bit flipped in the last": lambda f: changed_chunk(f, 3),
    "a chunk cut short": lambda f: [
        dataclasses.replace(f[0], chunk=f[0].chunk[:-1]),
        *f[1:],
    ],
    "a chunk of one byte": lambda f: [dataclasses.replace(f[0], chunk=b"\x00"), *f[1:]],
    "cover in place of the final": lambda f: renumbered([*f[:3], f[4]]),
}


@pytest.mark.parametrize("how", sorted(CUT_OFF))
async def test_reply_is_cut_off_and_never_ends_with(stage: ServeStage, how: str) -> None:
    enclave = FakeEnclave(stage)
    enclave.change_frames = CUT_OFF[how]
    async with serving(enclave) as port:
        with pytest.raises(CutOffError):
            await whole(port)
        await settled(lambda: bool(enclave.cancelled))
        enclave.change_frames = lambda frames: frames
        assert await whole(port) == "Hello"


@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_reply_without_its_final_frame_is_cut_off_by_silence(
    stage: ServeStage, kept: int
) -> None:
    enclave = FakeEnclave(stage)
    enclave.change_frames = lambda frames: frames[:kept]
    async with serving(enclave, silence_seconds=0.1) as port:
        with pytest.raises(CutOffError, match=r"nothing heard of the reply for 0\.1 s"):
            await whole(port)


async def test_frames_of_one_exchange_do_not_open_as_anothers(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    first: list[list[ServeFrame]] = []

    def keep_and_swap(frames: list[ServeFrame]) -> list[ServeFrame]:
        first.append(frames)
        if len(first) == 1:
            return frames
        return [dataclasses.replace(each, exchange=frames[0].exchange) for each in first[0]]

    enclave.change_frames = keep_and_swap
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        with pytest.raises(CutOffError):
            await whole(port)


async def test_frames_of_unknown_exchanges_and_cover_are_passed_over(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    enclave.change_frames = lambda frames: [
        dataclasses.replace(frames[0], exchange=bytes(32)),
        *frames,
        *frames,
    ]
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        assert await whole(port) == "Hello"


# --- hints ---------------------------------------------------------------------------------------


async def test_renewed_request_key_is_asked_for_once_for_all_that_were_refused(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        await whole(port)
        enclave.renew()
        replies = await asyncio.gather(*(whole(port) for _ in range(16)))
    assert replies == ["Hello"] * 16
    assert enclave.challenges == 2
    assert set(enclave.refused) == {"request-key-unknown"}
    assert len(enclave.requests) == 17
    sent = requests(stage, enclave)
    assert len({each.sealed for each in sent}) == len(sent)


async def test_endless_refusals_end_after_one_more_request(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        await whole(port)
        before = len(requests(stage, enclave))
        enclave.keys.clear()
        with pytest.raises(UnavailableError, match="opens no request"):
            await whole(port)
        await asyncio.sleep(0.05)
    assert len(requests(stage, enclave)) == before + 2
    assert enclave.challenges == 2


async def test_forged_refusals_cost_one_renewal_and_one_request_and_no_reply(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    forged = 0

    async def forge(request: ServeRequest) -> None:
        nonlocal forged
        forged += 1
        if forged == 1:
            said = ServeRefused(exchange=sealed_exchange(request), code="request-key-unknown")
            await enclave.send(stage.client.identity, said.encode())

    enclave.before_reply = forge
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        await settled(lambda: bool(enclave.cancelled))
    assert enclave.challenges == 2
    assert forged == 2
    assert enclave.cancelled == [sealed_exchange(requests(stage, enclave)[0])]


async def test_refusal_of_a_reply_that_has_begun_is_no_refusal(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    whole_frames: list[ServeFrame] = []

    def begin(frames: list[ServeFrame]) -> list[ServeFrame]:
        whole_frames.extend(frames)
        return frames[:1]

    enclave.change_frames = begin
    async with serving(enclave) as port:
        reply = port.generate("tiny", asked())
        assert (await anext(reply)).text == "Hel"
        said = ServeRefused(exchange=whole_frames[0].exchange, code="malformed")
        await enclave.send(stage.client.identity, said.encode())
        for frame in whole_frames[1:]:
            await enclave.send(stage.client.identity, ServeFrames(frames=(frame,)).encode())
        rest = [piece async for piece in reply]
    assert "".join(each.text for each in rest) == "lo"
    assert rest[-1].finish is not None
    assert enclave.challenges == 1


# --- enclaves that are not to be believed --------------------------------------------------------

UNHEARD = {"another nonce"}
"""Nobody waits for such an answer, so it is dropped, and the wait ends."""


@pytest.mark.parametrize("fault", sorted(BAD_OFFERS))
async def test_nothing_is_sent_to_an_enclave_with(stage: ServeStage, fault: str) -> None:
    enclave = FakeEnclave(stage)
    change, code = BAD_OFFERS[fault]
    change(enclave)
    async with serving(enclave, offer_seconds=0.1 if fault in UNHEARD else 5.0) as port:
        if fault in UNHEARD:
            with pytest.raises(UnavailableError, match="no enclave answered"):
                await whole(port)
        else:
            with pytest.raises(RefusedError) as caught:
                await whole(port)
            assert caught.value.code == code
    assert requests(stage, enclave) == []


async def test_evidence_is_taken_once_so_a_replayed_offer_answers_nothing(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    kept: list[Any] = []

    def replay(offer: Any) -> Any:
        kept.append(offer)
        return kept[0]

    enclave.change_offer = replay
    async with serving(enclave, offer_seconds=0.2) as port:
        assert await whole(port) == "Hello"
        stage.now += 3_600_000
        with pytest.raises(UnavailableError, match="no enclave answered"):
            await whole(port)
    assert len(requests(stage, enclave)) == 1


async def test_request_key_older_than_one_seen_before_is_refused(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    old = enclave.party.sign(enclave.request_key).encode()
    enclave.renew()
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        stage.now += 3_600_000
        enclave.change_offer = lambda offer: dataclasses.replace(offer, request_key=old)
        with pytest.raises(RefusedError, match="request-key-older"):
            await whole(port)
    assert len(requests(stage, enclave)) == 1


async def test_closed_job_is_asked_nothing_whatever_the_market_shows(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        stage.close(stage.job)
        with pytest.raises(RefusedError, match="job-closed"):
            await whole(port)
    assert len(requests(stage, enclave)) == 1


async def test_base_alone_is_served_by_documents_that_the_market_carries(tmp_path: Path) -> None:
    stage = ServeStage(tmp_path, adapters=0)
    enclave = FakeEnclave(stage, seated=False)
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"


# --- a box that others write to ------------------------------------------------------------------


async def test_strangers_flood_neither_stops_the_reader_nor_ends_a_reply(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    stranger = PartyKey.generate().identity
    kept: list[ServeFrame] = []

    def hold(frames: list[ServeFrame]) -> list[ServeFrame]:
        kept.extend(frames)
        return frames[:1]

    enclave.change_frames = hold
    box = stage.client.identity
    async with serving(enclave) as port:
        reply = port.generate("tiny", asked())
        assert (await anext(reply)).text == "Hel"
        wrong = ServeFrame(exchange=kept[0].exchange, number=1, chunk=secrets.token_bytes(272))
        for number in range(1500):
            junk = (
                secrets.token_bytes(200),
                ServeFrames(frames=(wrong,)).encode(),
                ServeRefused(exchange=wrong.exchange, code="malformed").encode(),
            )[number % 3]
            await stage.mail.post(box, junk, stranger)
        await stage.mail.post(box, b"no message", enclave.box)
        await stage.mail.post(box, enclave.offer(box, bytes(32)).encode(), enclave.box)
        for frame in kept[1:]:
            await enclave.send(box, ServeFrames(frames=(frame,)).encode())
        rest = [piece async for piece in reply]
    assert "".join(each.text for each in rest) == "lo"
    assert rest[-1].finish is not None


async def test_strangers_offer_under_the_right_nonce_does_not_take_the_enclaves_place(
    stage: ServeStage,
) -> None:
    enclave = FakeEnclave(stage)
    stranger = PartyKey.generate()

    async def forge(offer: ServeOffer) -> None:
        broken = dataclasses.replace(offer, request_key=bytes(96))
        await stage.mail.post(stage.client.identity, broken.encode(), stranger.identity)

    enclave.before_offer = forge
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"


async def test_another_jobs_host_ends_no_reply_that_is_not_its_own(stage: ServeStage) -> None:
    first = FakeEnclave(stage)
    second = FakeEnclave(stage, stage.enter())
    kept: list[ServeFrame] = []

    def hold(frames: list[ServeFrame]) -> list[ServeFrame]:
        kept.extend(frames)
        return frames[:1]

    box = stage.client.identity
    async with serving(first, second) as port:
        assert await whole(port) == "Hello"  # the second is heard from now on
        assert len(second.requests) == 1
        stage.states[second.job.digest] = JobState.SUCCEEDED
        stage.now += 2_000
        first.change_frames = hold
        reply = port.generate("tiny", asked())
        assert (await anext(reply)).text == "Hel"
        wrong = dataclasses.replace(kept[1], chunk=bytes(272))
        await second.send(box, ServeFrames(frames=(wrong,)).encode())
        for frame in kept[1:]:
            await first.send(box, ServeFrames(frames=(frame,)).encode())
        assert "".join([piece.text async for piece in reply]) == "lo"


async def test_reader_goes_on_after_the_market_was_gone(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.serving.RETRY_SECONDS", 0.0)
    enclave = FakeEnclave(stage)
    async with serving(enclave) as port:
        stage.mail.fails = 3
        assert await whole(port) == "Hello"
    assert stage.mail.fails == 0


class Unreachable(MailOf):
    async def post_message(self, box: bytes, payload: bytes) -> None:
        raise MarketUnreachableError("gone")


async def test_market_that_is_gone_makes_models_unavailable(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    mail = Unreachable(stage.mail, stage.client.identity)
    async with serving(enclave, mail=mail) as port:
        with pytest.raises(UnavailableError, match="does not take the message"):
            await whole(port)


async def test_jobs_that_do_not_name_this_client_are_not_its_to_ask(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)
    other = PartyKey.generate()
    async with serving(enclave, client=other, mail=MailOf(stage.mail, other.identity)) as port:
        assert await port.models() == ()
        with pytest.raises(NotFoundError):
            await whole(port)
    assert enclave.challenges == 0


async def test_hosts_own_well_sealed_request_is_refused_and_ends_no_reply_of_the_client(
    stage: ServeStage,
) -> None:
    """The request key is public, so a host seals as well as anybody; only a client key signs."""
    enclave = FakeEnclave(stage)
    host = PartyKey.generate()
    async with serving(enclave) as port:
        assert await whole(port) == "Hello"
        key = enclave.request_key
        body = asked()
        header = RequestHeader(
            statement=next(iter(enclave.statements)),
            session=bytes(16),
            sequence=0,
            request=digest(body.encode()),
            response_secret=bytes(32),
        )
        sealed = seal_request(body, header, host, hpke_key=key.hpke_key, key=key.digest)
        request = ServeRequest(request_key=key.digest, sealed=sealed)
        await stage.mail.post(enclave.box, request.encode(), stage.client.identity)
        assert await whole(port) == "Hello"
    assert enclave.refused == ["statement-unknown"]
    assert {each.client for each in enclave.requests} == {stage.client.identity}
    assert enclave.challenges == 1


async def test_reader_that_is_gone_is_said(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage)

    class Broken(MailOf):
        async def read_messages(self, *, after: int, wait_seconds: int) -> Any:
            raise ValueError("a bug")

    async with serving(enclave, mail=Broken(stage.mail, stage.client.identity)) as port:
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="read no more"):
            await whole(port)
