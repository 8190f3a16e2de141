"""A serve job's whole run over real sockets and sealing, with an engine that makes capitals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.enclave_runtime.fakes import GENERATE, World
from tests.enclave_runtime.serve_fakes import Client, FakeEngine, request
from tests.enclave_runtime.test_run import Hosted, host
from trust.identity import PartyKey
from trust.jobs import Close, InputRole
from trust.messages import Allowance, End, FollowUpKind, ProgressEvent, Purpose, SignedMessage
from trust.serving import FinishReason

__all__ = ["host"]


class Served:
    """One serving enclave, its agent, and a client."""

    def __init__(self, hosted: Hosted) -> None:
        self.hosted, self.world = hosted, hosted.world
        self.clients = [
            Client(key, self.world.job.digest, self.world.generation) for key in self.world.clients
        ]
        for each in self.clients:
            hosted.agent.parties[each.key.identity] = each.hear
        self.task: asyncio.Task[End] | None = None

    @property
    def client(self) -> Client:
        return self.clients[0]

    @property
    def engine(self) -> FakeEngine:
        return self.hosted.work

    def say(self, payload: bytes, client: Client | None = None) -> None:
        self.hosted.agent.say((client or self.client).key.identity, payload)

    async def until(self, ready: Callable[[], object], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not ready():
                if self.task.done():
                    raise AssertionError(f"ended: {self.task.result()}: {self.hosted.said}")
                await asyncio.sleep(0.005)

    async def start(self) -> None:
        self.task = self.hosted.run()
        await self.until(
            lambda: any(p.event is ProgressEvent.STARTED for p in self.hosted.progress)
        )

    async def verify(self, client: Client | None = None) -> None:
        client = client or self.client
        client.request_key = None
        self.say(client.challenge(), client)
        await self.until(lambda: client.request_key)

    async def reply(self, payload: bytes, client: Client | None = None):
        client = client or self.client
        reply = client.newest
        self.say(payload, client)
        await self.until(lambda: reply.finish or reply.refused)
        return reply

    async def close(self) -> End:
        close = self.world.buyer.sign(Close(job=self.world.job.digest, at=1))
        payload = SignedMessage(signed=close.encode()).encode()
        self.hosted.agent.say(self.world.buyer.identity, payload)
        return await asyncio.wait_for(self.task, 20)


@pytest.fixture
async def serve(host):
    served: list[Served] = []

    async def make(*, adapters: int = 0, allowance: Allowance | None = None, **world) -> Served:
        hosted = await host(World(recipe=GENERATE, adapters=adapters, **world))
        if allowance is not None:
            hosted.owner.allowances = [allowance]

        def prepare(job, manifests, public_files, *, generation) -> FakeEngine:
            assert set(manifests) == {InputRole.MODEL}
            hosted.work = FakeEngine(job, make_checkpoint=lambda _step: b"")
            hosted.change_work(hosted.work)
            return hosted.work

        hosted.prepare = prepare
        served.append(Served(hosted))
        await served[-1].start()
        return served[-1]

    yield make
    for each in served:
        if each.task and not each.task.done():
            each.task.cancel()
            await asyncio.gather(each.task, return_exceptions=True)


async def test_a_client_verifies_asks_and_gets_a_reply_that_ends_in_its_final_frame(serve) -> None:
    served = await serve(adapters=2)
    assert served.engine.adapters == [b"adapter 1", b"adapter 2"]
    await served.verify()
    adapter = served.world.adapters[1].digest
    reply = await served.reply(served.client.ask(request("hello", adapter=adapter)))
    assert reply.text == "HELLOHEL"
    finish = reply.finish
    assert (finish.reason, finish.prompt_tokens, finish.completion_tokens) == (
        FinishReason.LENGTH,
        5,
        8,
    )
    assert served.engine.asked[0].adapter == 2
    assert await served.close() is End.DONE
    last = served.hosted.market.receipts[-1]
    assert (last.end, last.step, last.tokens, last.outputs) == (End.DONE, 0, 1 << 16, ())
    assert served.hosted.progress[-1].event is ProgressEvent.FINISHED


async def test_frames_are_of_one_size_and_go_on_until_a_power_of_two(serve) -> None:
    served = await serve()
    await served.verify()
    short = await served.reply(served.client.ask(request("a", tokens_max=1)))
    long = await served.reply(served.client.ask(request("b" * 3, tokens_max=12)))
    await served.until(lambda: min(len(short.chunks), len(long.chunks)) >= 16)
    await asyncio.sleep(0.1)
    assert len(short.chunks) == len(long.chunks) == 16
    for reply in (short, long):
        assert {len(chunk) for chunk in reply.chunks[1:]} == {64 + 16}
        assert len(reply.chunks[0]) == 64 + 16 + 32


async def test_many_replies_of_two_clients_run_at_once_and_mix_nothing(serve) -> None:
    served = await serve()
    for client in served.clients:
        await served.verify(client)
    for number in range(8):
        client = served.clients[number % 2]
        served.say(client.ask(request("abcdefgh"[number] * 2, tokens_max=4)), client)
    replies = [r for c in served.clients for r in c.replies.values()]
    await served.until(lambda: all(r.finish for r in replies))
    assert sorted(r.text for r in replies) == [c * 4 for c in "ABCDEFGH"]


async def test_a_stop_string_ends_a_reply_and_frees_its_slot(serve) -> None:
    served = await serve()
    await served.verify()
    reply = await served.reply(served.client.ask(request("abcd", stop=("CD",))))
    assert (reply.text, reply.finish.reason) == ("AB", FinishReason.STOP)
    assert reply.finish.completion_tokens == 4
    assert served.engine.cancelled == [1]


# --- who is heard --------------------------------------------------------------------------------


async def test_a_hosts_own_well_sealed_request_is_refused_and_nothing_is_computed(serve) -> None:
    served = await serve()
    await served.verify()
    stranger = PartyKey.generate()
    reply = await served.reply(served.client.ask(request(), signer=stranger))
    assert reply.refused == "client-unknown"
    # In its own name it is not heard at all.
    other = Client(stranger, served.world.job.digest)
    served.hosted.agent.parties[stranger.identity] = other.hear
    other.statement, other.request_key = served.client.statement, served.client.request_key
    served.say(other.ask(request(), signer=stranger), other)
    served.say(other.challenge(), other)
    await served.reply(served.client.ask(request()))
    assert other.newest.refused is None
    assert other.newest.finish is None
    assert len(served.engine.asked) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"statement": bytes(32)}, "statement-unknown"),
        ({"request": bytes(32)}, "malformed"),
        ({"sequence": 0}, "replayed"),
    ],
)
async def test_a_request_that_does_not_check_gets_a_hint_and_no_reply(
    serve, changes: dict, code: str
) -> None:
    served = await serve()
    await served.verify()
    await served.reply(served.client.ask(request()))
    reply = await served.reply(served.client.ask(request(), **changes))
    assert (reply.refused, len(served.engine.asked)) == (code, 1)


async def test_the_same_sealed_request_is_answered_once(serve) -> None:
    served = await serve()
    await served.verify()
    payload = served.client.ask(request("x"))
    reply = await served.reply(payload)
    served.say(payload)
    await served.until(lambda: reply.refused)
    assert (reply.refused, len(served.engine.asked)) == ("replayed", 1)


async def test_challenges_that_overtake_each_other_are_all_answered(serve) -> None:
    served = await serve()
    old = served.client.challenge(nonce=bytes(32))
    served.say(old)  # as a gateway that restarted, or a host that replays
    served.say(served.client.challenge())
    await served.until(lambda: served.client.request_key)
    assert (await served.reply(served.client.ask(request()))).finish
    assert served.client.overtaken == [bytes(32)]
    assert not served.task.done()


async def test_a_statement_of_one_client_is_no_other_clients(serve) -> None:
    served = await serve()
    first, second = served.clients
    await served.verify(first)
    second.statement, second.request_key = first.statement, first.request_key
    reply = await served.reply(second.ask(request()), second)
    assert reply.refused == "statement-unknown"


async def test_a_challenge_in_anothers_name_or_for_another_purpose_gets_no_evidence(serve) -> None:
    served = await serve()
    first, second = served.clients
    served.say(first.challenge(verifier=second.key.identity))
    served.say(first.challenge(purpose=Purpose.RELEASE))
    served.say(second.challenge())  # said to come from the first
    await served.verify(second)
    assert (first.statement, first.request_key) == (None, None)


# --- one bad request fails alone -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (request("broken"), "template"),
        (request("x" * 16), "too-long"),
        (request(adapter=bytes(32)), "model-not-found"),
    ],
)
async def test_a_bad_request_fails_alone_with_a_sealed_error(serve, body, code: str) -> None:
    served = await serve()
    await served.verify()
    reply = await served.reply(served.client.ask(body))
    assert (reply.text, reply.finish.reason, reply.finish.code) == ("", FinishReason.ERROR, code)
    assert (await served.reply(served.client.ask(request("ok")))).text == "OKOKOKOK"


async def test_tokens_that_do_not_decode_fail_their_own_reply_alone(serve) -> None:
    served = await serve()
    await served.verify()
    reply = await served.reply(served.client.ask(request("!")))
    assert (reply.finish.reason, reply.finish.code) == (FinishReason.ERROR, "failed")
    assert served.engine.cancelled == [1]
    assert (await served.reply(served.client.ask(request("ok")))).text == "OKOKOKOK"


async def test_more_than_slots_and_queue_hold_are_told_that_it_is_busy(serve) -> None:
    served = await serve()
    served.engine.holds = True
    await served.verify()
    for _ in range(GENERATE.slots * 5):
        served.say(served.client.ask(request()))
    reply = await served.reply(served.client.ask(request()))
    assert reply.finish.code == "busy"
    served.engine.answer(served.engine.asked[0])
    first = next(iter(served.client.replies.values()))
    await served.until(lambda: first.finish)
    assert first.text == "HELLOHEL"


async def test_a_cancelled_reply_frees_its_slot_and_looks_like_any_other(serve) -> None:
    served = await serve()
    served.engine.holds = True
    await served.verify()
    served.say(served.client.ask(request()))
    await served.until(lambda: served.engine.asked)
    name = next(iter(served.client.replies))
    served.say(served.client.cancel(name, job=bytes(32)))
    served.say(served.clients[1].cancel(name), served.clients[1])
    served.say(served.client.cancel(name))
    reply = served.client.replies[name]
    await served.until(lambda: reply.finish)
    assert served.engine.cancelled == [1]
    served.engine.answer(served.engine.asked[0])  # too late: nobody hears it
    await served.until(lambda: len(reply.chunks) == 16)
    assert reply.text == ""


async def test_a_tokenizer_that_died_ends_the_run(serve) -> None:
    served = await serve()
    await served.verify()
    served.engine.dead = True
    served.say(served.client.ask(request()))
    await served.until(lambda: served.hosted.progress[-1].event is ProgressEvent.FAILED)
    assert "tokenizing child" in served.hosted.said


# --- allowances ----------------------------------------------------------------------------------


async def test_an_allowance_is_never_passed_and_more_is_asked_for_in_time(serve) -> None:
    served = await serve(
        allowance=Allowance(tokens=40, steps=0, reports=0), job_changes={"length_max": 64}
    )
    served.hosted.owner.allowances.append(Allowance(tokens=70, steps=0, reports=0))
    await served.verify()
    for _ in range(4):  # 13 tokens each
        reply = await served.reply(served.client.ask(request()))
        assert reply.finish.reason is FinishReason.LENGTH
    asked = [f for f in served.hosted.owner.heard if getattr(f, "kind", None)]
    assert asked[0].kind is FollowUpKind.ACCOUNT
    assert 20 <= asked[0].account.tokens <= 40
    reply = await served.reply(served.client.ask(request("x" * 11)))  # 52 are used, 70 allowed
    assert reply.finish.code == "out-of-tokens"
    assert reply.finish.prompt_tokens == 0


async def test_a_serve_job_whose_owner_grants_no_more_ends_out_of_budget(serve) -> None:
    served = await serve(allowance=Allowance(tokens=28, steps=0, reports=0))
    await served.verify()
    for _ in range(2):
        await served.reply(served.client.ask(request()))
    assert await asyncio.wait_for(served.task, 20) is End.OUT_OF_BUDGET
    closing = [f for f in served.hosted.owner.heard if getattr(f, "kind", None)][-1]
    assert (closing.kind, closing.account.tokens) == (FollowUpKind.CLOSE, 26)


async def test_replies_that_run_have_their_tokens_set_aside(serve) -> None:
    served = await serve(allowance=Allowance(tokens=30, steps=0, reports=0))
    served.engine.holds = True
    await served.verify()
    for _ in range(2):
        served.say(served.client.ask(request()))
    await served.until(lambda: len(served.engine.asked) == 2)
    reply = await served.reply(served.client.ask(request()))
    assert reply.finish.code == "out-of-tokens"


# --- the end -------------------------------------------------------------------------------------


async def test_only_the_jobs_buyer_closes_it(serve) -> None:
    served = await serve()
    for key, job in (
        (served.world.owner, served.world.job.digest),
        (served.client.key, served.world.job.digest),
        (served.world.buyer, bytes(32)),
    ):
        close = SignedMessage(signed=key.sign(Close(job=job, at=1)).encode()).encode()
        served.hosted.agent.say(key.identity, close)
        served.hosted.agent.say(served.world.buyer.identity, close)
    await served.verify()
    assert (await served.reply(served.client.ask(request()))).finish
    assert await served.close() is End.DONE
