"""The market's refusals over the real process's socket, each in the market's own words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from demo.display import Display
from demo.jobs import JOB
from demo.parties import Stage, StepError
from demo.story import Story
from marketplace import wire
from marketplace.ledger import audit
from marketplace.store import Store
from tests.end_to_end.live import Live, LiveEnclave, now_milliseconds
from tests.marketplace.api.rig import key16, lineage_of, refused
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, MARKET, OWNER, STRANGER
from trust.http_signature import sign_request
from trust.identity import PartyKey, Signed
from trust.jobs import Close, Dispute, Input, InputRole, RankLease, Screen
from trust.messages import Receipt, ReceiptPosted, Refused, SignedMessage

Code = wire.ErrorCode

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def told() -> Iterator[Story]:
    """A market, two parties, a published model and a job of a buyer without money."""
    with Stage() as stage:
        # A key that the tests know: what a market could sign, it signs in vain.
        (stage.home("market") / "key").write_bytes(MARKET.to_bytes())
        story = Story(stage, Display())
        story.open_market()
        assert bytes.fromhex(story.market_identity) == MARKET.identity
        story.make_parties()
        story.publish_model()
        stage.command(
            "blindhost-market", "credit", "--home", str(stage.home("market")),
            "--identity", BUYER.identity.hex(), "--microcredits", str(1000 * CREDIT),
        )  # fmt: skip
        yield story


@pytest.fixture
async def live(told: Story) -> AsyncIterator[Live]:
    store = Store.open_file(told.stage.home("market") / "market.db")
    async with aiohttp.ClientSession() as session:
        yield Live(told=told, http=session, store=store)
        with store.reading() as reading:
            assert audit(reading) == ()  # whatever was tried, the books are whole
    store.close()


def test_a_job_without_funds_is_refused_and_nothing_is_held(told: Story) -> None:
    home = told.stage.home("buyer")
    rows = home / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text("".join(json.dumps(row) + "\n" for _ in range(16)), encoding="utf-8")
    sealed = told.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")
    told.rows, told.row_count = sealed["artifact"], sealed["rows"]
    told.publish_policy("buyer", sealed["lineage"])
    job = JOB | {"recipe": JOB["recipe"] | {"evaluation": None}}
    with pytest.raises(StepError, match="no-funds"):
        told.submit(job)
    account = told.blindhost("buyer", "account")
    assert (account["available"], account["held"]) == (0, 0)


def test_a_dataset_with_a_broken_line_is_refused_by_its_number(told: Story) -> None:
    rows = told.stage.home("buyer") / "broken.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(row) + '\n{"messages": []}\n', encoding="utf-8")
    with pytest.raises(StepError, match="line 2"):
        told.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")


# --- requests and frames -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/accounts/me", b"", 401, "unsigned"),
        ("POST", "/v1/jobs", b"{}", 401, "unsigned"),
        ("GET", "/v1/books", b"", 404, "no-route"),
    ],
)
async def test_what_is_unsigned_or_unknown_is_refused_before_anything_else(
    told: Story, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, told.market_url + path, data=body or None) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (status, code)


async def test_a_replayed_frame_is_taken_once_and_its_id_carries_nothing_else(live: Live) -> None:
    enclave = await live.started(await live.submitted())
    message, hello = key16(), enclave.hello().encode()
    post = live.api(HOST).post_message
    sent = [
        await post(MARKET.identity, hello, message=message, lease=enclave.lease) for _ in range(3)
    ]
    assert sent == [wire.StoredResult.CREATED, wire.StoredResult.EXISTS, wire.StoredResult.EXISTS]
    other = post(MARKET.identity, hello + b" ", message=message, lease=enclave.lease)
    await refused(Code.CONFLICT, other)
    await enclave.answer()
    more = live.api(HOST).get_messages(enclave.address, after=enclave.after, lease=enclave.lease)
    assert await more == ()  # one challenge, for three frames


async def test_a_replayed_request_does_nothing_twice_and_a_stale_one_nothing(live: Live) -> None:
    job, key = await live.published(), key16()
    held = (await live.api(BUYER).get_account()).held
    await live.api(BUYER).submit_job(job, key=key)
    await live.api(BUYER).submit_job(job, key=key)
    spend = job.document.spend_max_microcredits
    assert (await live.api(BUYER).get_account()).held == held + spend
    other = await live.published()
    await refused(Code.KEY_REUSED, live.api(BUYER).submit_job(other, key=key))
    for changes in ({"now": now_milliseconds() // 1000 - 400}, {"market": bytes(32)}):
        fields: dict[str, Any] = {
            "market": MARKET.identity,
            "method": "GET",
            "target": wire.ACCOUNT,
            "body": b"",
            "idempotency_key": None,
            "now": now_milliseconds() // 1000,
        }
        headers = dict(sign_request(BUYER, **(fields | changes)).headers)
        url = live.told.market_url + wire.ACCOUNT
        async with live.http.get(url, headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "unsigned")


async def test_nobody_reads_or_acts_for_another(live: Live) -> None:
    enclave = await live.started(await live.submitted())
    stranger = live.api(STRANGER)
    await refused(Code.FORBIDDEN, stranger.get_messages(BUYER.identity, after=0))
    as_lease = {"lease": enclave.lease}
    await refused(Code.NOT_FOUND, stranger.get_messages(enclave.address, after=0, **as_lease))
    posting = stranger.post_message(MARKET.identity, b"x", message=key16(), **as_lease)
    await refused(Code.NOT_FOUND, posting)
    for asking in (stranger.get_job, stranger.get_job_documents, stranger.get_receipts):
        await refused(Code.NOT_FOUND, asking(enclave.job.digest))
    await refused(Code.NOT_FOUND, stranger.get_briefing(enclave.lease))


# --- jobs and terms ------------------------------------------------------------------------------


async def test_a_job_in_anothers_name_or_over_unknown_inputs_is_refused(live: Live) -> None:
    job = await live.published()
    await refused(Code.REFUSED, live.api(STRANGER).submit_job(job, key=key16()))
    forged = STRANGER.sign(job.document)
    await refused(Code.FORBIDDEN, live.api(STRANGER).submit_job(forged, key=key16()))
    unknown = (job.document.inputs[0], Input(role=InputRole.DATASET, artifact=bytes(32)))
    bad = await live.published(inputs=unknown)
    await refused(Code.NOT_FOUND, live.api(BUYER).submit_job(bad, key=key16()))


async def test_a_job_under_old_terms_is_refused_before_anything_is_held(live: Live) -> None:
    owner = PartyKey.generate()
    job = await live.published(owner=owner)
    await live.api(owner).put_document(live.agreed(owner, number=2))
    before = await live.api(BUYER).get_account()
    await refused(Code.OUTDATED, live.api(BUYER).submit_job(job, key=key16()))
    assert await live.api(BUYER).get_account() == before


async def test_terms_with_a_screen_or_of_another_are_refused(live: Live) -> None:
    owner = PartyKey.generate()
    screen = Screen(guard=bytes(32), policy_text=bytes(32))
    error = await refused(
        Code.REFUSED, live.api(owner).put_document(live.agreed(owner, screen=screen))
    )
    assert "screen" in error.text
    thief = live.agreed(STRANGER, lineages=(lineage_of(owner),))
    await live.api(STRANGER).put_document(thief)
    job = await live.published(owner=owner)
    under = dataclasses.replace(job.document, terms=thief.digest)
    await refused(Code.REFUSED, live.api(BUYER).submit_job(BUYER.sign(under), key=key16()))


# --- generations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signer", [MARKET, OWNER, HOST, STRANGER], ids=["market", "owner", "host", "stranger"]
)
async def test_a_generation_that_the_market_or_another_made_is_refused(
    live: Live, signer: PartyKey
) -> None:
    job = await live.submitted()
    lease = await live.claimed(job)
    forged = await live.order(job, signer)
    await refused(Code.FORBIDDEN, live.api(signer).order_generation(forged, key=key16()))
    await refused(Code.REFUSED, live.api(BUYER).order_generation(forged, key=key16()))
    assert (await live.api(BUYER).get_job(job.digest)).generation == 0
    await refused(Code.CONFLICT, live.api(HOST).get_briefing(lease))  # nothing to launch


async def test_a_jump_other_leases_and_a_second_order_are_refused(live: Live) -> None:
    job = await live.submitted()
    await live.claimed(job)
    good = await live.order(job)
    other = (RankLease(rank=0, lease="leas_" + "0" * 26),)
    api = live.api(BUYER)
    for changes in ({"number": 2, "before": bytes(32)}, {"leases": other}):
        await refused(
            Code.CONFLICT, api.order_generation(await live.order(job, **changes), key=key16())
        )
    await api.order_generation(good, key=key16())
    twin = BUYER.sign(dataclasses.replace(good.document, expires_at=good.document.expires_at + 1))
    await refused(Code.CONFLICT, api.order_generation(twin, key=key16()))


# --- evidence ------------------------------------------------------------------------------------


async def answered_no(enclave: LiveEnclave, code: str, nonce: bytes) -> None:
    answer = await enclave.answer()
    assert isinstance(answer, Refused), answer
    assert (answer.verifier, answer.nonce, answer.code) == (MARKET.identity, nonce, code)


async def test_evidence_with_a_nonce_that_is_used_or_unknown_is_refused(live: Live) -> None:
    enclave = await live.started(await live.submitted())
    await enclave.post(enclave.request(enclave.statement(bytes(32))).encode())
    await answered_no(enclave, "nonce-unknown", bytes(32))
    challenge = await enclave.challenge()
    request = enclave.request(enclave.statement(challenge.nonce)).encode()
    await enclave.post(request)
    assert (await enclave.answer()).LABEL == "session/metered"
    await enclave.post(request)
    await answered_no(enclave, "nonce-unknown", challenge.nonce)


async def test_a_key_that_the_host_supplied_is_not_metered(live: Live) -> None:
    """Its own key shown over another's report; its own image; then a receipt under its key."""
    enclave = await live.started(await live.submitted())
    challenge = await enclave.challenge()
    real = enclave.statement(challenge.nonce)
    shown = dataclasses.replace(real, signing_key=HOST.identity)
    await enclave.post(enclave.request(real, shown=shown).encode())
    await answered_no(enclave, "evidence-report-data", challenge.nonce)
    challenge = await enclave.challenge()
    own = enclave.statement(challenge.nonce, signing_key=HOST.identity)
    await enclave.post(enclave.request(own, image=bytes(48)).encode())
    await answered_no(enclave, "evidence-measurement", challenge.nonce)
    await receipt_refused(enclave, enclave.receipt(signer=HOST, step=1), "receipt-unknown-key")
    view = await live.api(HOST).get_lease(enclave.lease)
    assert view.ready_at is None


# --- receipts ------------------------------------------------------------------------------------


async def balances(enclave: LiveEnclave) -> list[object]:
    found: list[object] = [
        await enclave.rig.api(each).get_account() for each in (HOST, HOST_2, OWNER, BUYER)
    ]
    return [*found, await enclave.rig.api(BUYER).get_receipts(enclave.job.digest)]


async def receipt_refused(enclave: LiveEnclave, receipt: Signed[Receipt], code: str | None) -> None:
    """It is answered with this code and moves nothing; None: it is dropped without an answer."""
    before = await balances(enclave)
    await enclave.post(SignedMessage(signed=receipt.encode()).encode())
    if code is None:  # the box is taken in order: an answer to a later hello comes after it
        await enclave.challenge()
    else:
        await answered_no(enclave, code, receipt.digest)
    assert await balances(enclave) == before


async def test_forged_inflated_and_foreign_receipts_settle_nothing(live: Live) -> None:
    enclave, other = await live.running(HOST), await live.running(HOST_2)
    first = enclave.receipt(milliseconds=5, step=1, tokens=1024)
    assert await enclave.send_receipt(first) == ReceiptPosted(receipt=first.digest)
    enclave.last = first
    more = {"milliseconds": 3_600_000, "step": 50, "tokens": 51_200}
    for signer in (HOST, HOST_2, OWNER, BUYER, MARKET, STRANGER, other.signing):
        await receipt_refused(
            enclave, enclave.receipt(signer=signer, **more), "receipt-unknown-key"
        )
    inflated = dataclasses.replace(first, document=enclave.receipt(**more).document)
    await enclave.post(SignedMessage(signed=inflated.encode()).encode())
    await enclave.challenge()  # what does not hold is dropped: this is the first answer
    for changes in ({"generation": 2}, {"rank": 1}, {"job": other.job.digest}):
        await receipt_refused(enclave, enclave.receipt(**(more | changes)), "receipt-wrong-lease")
    named = enclave.receipt(lease=other.lease, job=other.job.digest, **more)
    await receipt_refused(other, named, "receipt-unknown-key")
    await receipt_refused(enclave, named, None)  # not from the lease that it names
    await receipt_refused(other, first, None)  # settled, and another host's
    for each in (enclave, other):  # nobody speaks to another's enclave through the market
        more = live.api(each.host).get_messages(each.address, after=each.after, lease=each.lease)
        assert await more == ()
    assert [each.signed for each in await live.api(BUYER).get_receipts(enclave.job.digest)] == [
        first.encode()
    ]


async def test_a_replayed_receipt_settles_once_and_forks_and_falls_do_not(live: Live) -> None:
    enclave = await live.running()
    first = enclave.receipt(milliseconds=60_000, step=8, tokens=8 * 1024)
    assert await enclave.send_receipt(first) == ReceiptPosted(receipt=first.digest)
    after = await balances(enclave)
    for _ in range(2):
        assert await enclave.send_receipt(first) == ReceiptPosted(receipt=first.digest)
        assert await balances(enclave) == after
    enclave.last = first
    fork = enclave.receipt(number=1, before=None, milliseconds=60_000, step=9, tokens=9 * 1024)
    await receipt_refused(enclave, fork, "receipt-forked")
    falling = enclave.receipt(milliseconds=60_000, step=7, tokens=7 * 1024)
    await receipt_refused(enclave, falling, "receipt-decreasing")
    last = enclave.receipt(milliseconds=60_000, step=9, tokens=9 * 1024, end="stopped")
    assert await enclave.send_receipt(last) == ReceiptPosted(receipt=last.digest)
    enclave.last = last
    late = enclave.receipt(milliseconds=60_000, step=10, tokens=10 * 1024)
    await receipt_refused(enclave, late, "receipt-after-end")


async def test_inflated_time_is_paid_by_the_markets_own_clock(live: Live) -> None:
    began = now_milliseconds()
    enclave = await live.running()
    receipt = enclave.receipt(milliseconds=1000 * 3_600_000, step=10, tokens=10 * 1024)
    assert await enclave.send_receipt(receipt) == ReceiptPosted(receipt=receipt.digest)
    (view,) = await live.api(BUYER).get_receipts(enclave.job.digest)
    most = CREDIT * (now_milliseconds() - began) // 3_600_000
    assert view.host_amount + view.fee_amount <= most


async def test_a_receipt_of_an_older_generation_settles_nothing(live: Live) -> None:
    enclave = await live.running(HOST)
    await live.lose(enclave)
    await live.started(enclave.job, HOST_2)
    late = enclave.receipt(milliseconds=60_000, step=10, tokens=10 * 1024)
    await receipt_refused(enclave, late, "receipt-old-generation")


async def test_a_second_enclave_or_a_key_in_use_is_not_metered(live: Live) -> None:
    first, second = await live.running(HOST), await live.started(await live.submitted(), HOST_2)
    twin = dataclasses.replace(first, signing=PartyKey.generate())
    challenge = await twin.challenge()
    await twin.post(twin.request(twin.statement(challenge.nonce)).encode())
    await answered_no(twin, "seat-taken", challenge.nonce)
    second.signing = first.signing
    challenge = await second.challenge()
    await second.post(second.request(second.statement(challenge.nonce)).encode())
    await answered_no(second, "key-in-use", challenge.nonce)


# --- orders of nobody ----------------------------------------------------------------------------


async def test_closing_and_disputing_are_the_buyers(live: Live) -> None:
    enclave = await live.running()
    receipt = enclave.receipt(milliseconds=5, step=1, tokens=1024)
    await enclave.send_receipt(receipt)
    for party in (HOST, OWNER, STRANGER, MARKET):
        api, now = live.api(party), now_milliseconds()
        close = party.sign(Close(job=enclave.job.digest, at=now))
        await refused(Code.FORBIDDEN, api.close_job(close, key=key16()))
        dispute = party.sign(Dispute(receipt=receipt.digest, reason="slow", at=now))
        await refused(Code.FORBIDDEN, api.dispute(dispute, key=key16()))
    nobodys = STRANGER.sign(Close(job=bytes(32), at=1))
    await refused(Code.NOT_FOUND, live.api(STRANGER).close_job(nobodys, key=key16()))
