"""Request keys, replay windows, receipts and frames of a serve job, without I/O."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.serving import REQUEST_KEY_MS, SESSIONS_MAX, Serving, _whole_characters
from tests.enclave_runtime.fakes import GENERATE, Table, World
from tests.enclave_runtime.serve_fakes import Client, request
from trust.errors import RefusedError, SessionError
from trust.identity import PartyKey
from trust.jobs import ClientKey
from trust.messages import Allowance, Purpose, ServeRequest, Statement
from trust.serving import Finish, FinishReason


class Desk:
    """A `Serving` and a client that has been offered its key."""

    def __init__(self, **world) -> None:
        self.world = World(recipe=GENERATE, **world)
        self.serving = Serving(self.world.brief(), PartyKey.generate())
        self.client = Client(self.world.clients[0], self.world.job.digest)
        self.offer(0)

    def offer(self, clock_ms: int) -> None:
        launch = self.world.launch
        self.client.statement = Statement(
            version=1,
            purpose=Purpose.SERVE,
            verifier=self.client.key.identity,
            nonce=os.urandom(32),
            hpke_key=bytes(1216),
            signing_key=bytes(32),
            job=launch.job,
            lease=launch.lease,
            generation=launch.generation,
            rank=0,
            ranks=1,
            launch=launch.digest,
            gpu_evidence=None,
        )
        self.client.request_key = self.serving.offer(self.client.statement, clock_ms)

    def open(self, payload: bytes, clock_ms: int = 0):
        return self.serving.open(self.client.key.identity, ServeRequest.parse(payload), clock_ms)

    def refused(self, payload: bytes, clock_ms: int = 0) -> str:
        with pytest.raises(RefusedError) as caught:
            self.open(payload, clock_ms)
        return caught.value.code


def test_a_request_key_lives_for_an_hour_and_a_request_to_the_one_before_is_refused() -> None:
    desk = Desk()
    first = desk.client.request_key
    late = desk.client.ask(request())
    assert desk.open(desk.client.ask(request()), REQUEST_KEY_MS - 1)
    assert desk.refused(late, REQUEST_KEY_MS) == "request-key-unknown"
    desk.offer(REQUEST_KEY_MS)
    assert desk.client.request_key.document.number == first.document.number + 1
    assert desk.client.request_key.document.hpke_key != first.document.hpke_key
    assert desk.open(desk.client.ask(request()), REQUEST_KEY_MS)


def test_an_older_statement_of_a_client_still_serves_and_the_fifth_last_does_not() -> None:
    desk = Desk()
    payload = desk.client.ask(request())
    for _ in range(3):
        desk.offer(0)
    assert desk.open(payload)
    desk.client.sequence = 50
    again = desk.client.ask(request())
    for _ in range(4):
        desk.offer(0)
    assert desk.refused(again) == "statement-unknown"


def test_a_clients_sessions_under_one_key_are_bounded() -> None:
    desk = Desk()
    for _ in range(SESSIONS_MAX):
        desk.open(desk.client.ask(request(), session=os.urandom(16)))
    assert desk.refused(desk.client.ask(request(), session=os.urandom(16))) == "sessions"
    desk.offer(REQUEST_KEY_MS)
    assert desk.open(desk.client.ask(request(), session=os.urandom(16)), REQUEST_KEY_MS)


def test_a_client_keys_own_tokens_are_a_bound_of_their_own() -> None:
    key = PartyKey.generate()
    desk = Desk(
        job_changes={
            "client_keys": (ClientKey(identity=key.identity, tokens=10),),
        }
    )
    desk.client = Client(key, desk.world.job.digest)
    desk.offer(0)
    exchange = desk.open(desk.client.ask(request()))
    assert desk.serving.reserve(exchange, 2, None) == 8
    other = desk.open(desk.client.ask(request(tokens_max=1)))
    with pytest.raises(RefusedError, match="this client key") as caught:
        desk.serving.reserve(other, 1, None)
    assert caught.value.code == "out-of-tokens"
    desk.serving.use(exchange, 6)
    finish = Finish(
        reason=FinishReason.STOP, code="", text="", prompt_tokens=2, completion_tokens=4
    )
    desk.serving.finish(exchange, finish)
    assert desk.serving.reserve(other, 3, None) == 1


def test_nobody_but_the_named_clients_is_heard() -> None:
    desk = Desk()
    desk.serving.check_client(desk.world.clients[1].identity)
    with pytest.raises(SessionError, match="no client of this job"):
        desk.serving.check_client(desk.world.buyer.identity)


def test_what_was_forgotten_opens_nothing() -> None:
    desk = Desk()
    payload = desk.client.ask(request())
    desk.serving.erase()
    assert desk.refused(payload) == "request-key-unknown"


@given(st.text(max_size=30), st.integers(4, 20))
def test_text_is_cut_between_characters_and_nothing_is_lost(text: str, most: int) -> None:
    left, parts = text.encode(), []
    while left:
        part = _whole_characters(left, most)
        assert 0 < len(part) <= most
        parts.append(part.decode())
        left = left[len(part) :]
    assert "".join(parts) == text


@settings(max_examples=25)
@given(st.text(max_size=200), st.integers(64, 300))
def test_a_reply_comes_whole_through_frames_of_any_size(text: str, frame_bytes: int) -> None:
    desk = Desk(job_changes={"recipe": dataclasses.replace(GENERATE, frame_bytes=frame_bytes)})
    exchange = desk.open(desk.client.ask(request()))
    exchange.text = text.encode()
    finish = Finish(
        reason=FinishReason.ERROR,
        code="failed",
        text="x" * 40,
        prompt_tokens=5,
        completion_tokens=7,
    )
    desk.serving.finish(exchange, finish)
    ticks = 0
    while desk.serving.exchanges:
        ticks += 1
        for client, frames in desk.serving.frames():
            assert client == desk.client.key.identity
            desk.client.hear(frames.encode())
    reply = desk.client.newest
    assert (reply.text, reply.finish) == (text, finish)
    assert ticks >= 16
    assert ticks & (ticks - 1) == 0


# --- receipts ------------------------------------------------------------------------------------


def test_receipts_tell_served_tokens_rounded_up_and_at_most_hourly() -> None:
    table = Table(World(recipe=GENERATE))
    table.start()
    table.begin()
    receipts = table.market.receipts
    assert (receipts[-1].tokens, receipts[-1].step) == (1 << 16, 0)
    table.follow(table.session.served(70_000, table.clock))
    table.tick(60_000)
    assert receipts[-1].tokens == 1 << 16
    table.tick(3_600_000)
    assert receipts[-1].tokens == 2 << 16
    table.follow(table.session.served(1 << 17, table.clock))
    table.tick(60_000)
    assert receipts[-1].tokens == 2 << 16


def test_an_account_tells_tokens_exactly_and_asks_again_after_ten_minutes() -> None:
    table = Table(World(recipe=GENERATE))
    table.owner.allowances = [Allowance(tokens=1000, steps=0, reports=0)]
    table.start()
    table.begin()
    table.follow(table.session.served(600, table.clock))
    accounts = [each.account.tokens for each in table.owner.heard if hasattr(each, "account")]
    assert accounts == [600]
    table.follow(table.session.served(100, table.clock))
    table.tick(600_000)
    accounts = [each.account.tokens for each in table.owner.heard if hasattr(each, "account")]
    assert accounts == [600, 700]
    assert table.session.tokens_left == 300


def test_evidence_for_a_statement_of_nobodys_challenge_is_no_offer() -> None:
    table = Table(World(recipe=GENERATE))
    table.start()
    table.begin()
    client = Client(table.world.clients[0], table.world.job.digest)
    peer = client.key.identity
    (action,) = table.session.receive(peer, client.challenge(), 0)
    for changes in ({"verifier": table.world.market.identity}, {"signing_key": bytes(32)}):
        other = dataclasses.replace(action.statement, **changes)
        with pytest.raises(SessionError):
            table.session.evidence_ready(other, platform="sev-snp", report=bytes(1184), clock_ms=0)
    (sent,) = table.session.evidence_ready(
        action.statement, platform="sev-snp", report=bytes(1184), clock_ms=0
    )
    assert sent.peer == peer
