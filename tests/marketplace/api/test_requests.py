"""Who may ask, and how: signatures, replays, sizes, unknown routes and fields, over the socket."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from client.market_api import MarketRefusedError
from marketplace import wire, wire_hosts
from marketplace.api.app import build_app
from marketplace.api.auth import Rates
from marketplace.api.routes import ROUTES
from marketplace.ids import IdKind
from marketplace.replies import REPLY_DAYS, forget_old
from tests.marketplace.api.rig import Rig, key16, refused
from tests.marketplace.world import BUYER, CREDIT, DAY, HOST, MARKET, NOW, STRANGER, new_id
from trust.encoding import digest
from trust.errors import SignatureError
from trust.http_signature import sign_request, verify_response

Code = wire.ErrorCode


async def test_unsigned_request_is_refused(rig: Rig) -> None:
    (await rig.send_raw("GET", wire.ACCOUNT, b"", {})).expect(Code.UNSIGNED)


async def test_stale_signature_is_refused(rig: Rig) -> None:
    for off in (-301, 61):
        (await rig.send("GET", wire.ACCOUNT, now=NOW // 1000 + off)).expect(Code.UNSIGNED)
    assert (await rig.send("GET", wire.ACCOUNT, now=NOW // 1000 - 299)).status == 200


async def test_request_for_another_market_is_refused(rig: Rig) -> None:
    (await rig.send("GET", wire.ACCOUNT, market=bytes(32))).expect(Code.UNSIGNED)


@pytest.mark.parametrize(
    "change",
    [{"method": "PUT"}, {"target": "/v1/jobs"}, {"body": b"other"}],
    ids=["method", "target", "body"],
)
async def test_signature_over_another_request_is_refused(rig: Rig, change: object) -> None:
    (await rig.send("GET", wire.ACCOUNT, **change)).expect(Code.UNSIGNED)


async def test_request_in_anothers_name_is_refused(rig: Rig) -> None:
    signed = sign_request(
        STRANGER,
        market=MARKET.identity,
        method="GET",
        target=wire.ACCOUNT,
        body=b"",
        idempotency_key=None,
        now=NOW // 1000,
    )
    headers = {
        name: value.replace(STRANGER.identity.hex(), BUYER.identity.hex())
        for name, value in signed.headers.items()
    }
    (await rig.send_raw("GET", wire.ACCOUNT, b"", headers)).expect(Code.UNSIGNED)


async def test_every_answer_is_signed_for_its_request_refusals_too(rig: Rig) -> None:
    for target, status in ((wire.ACCOUNT, 200), (wire.target(wire.BLOB, digest=bytes(32)), 404)):
        signed = sign_request(
            STRANGER,
            market=MARKET.identity,
            method="GET",
            target=target,
            body=b"",
            idempotency_key=None,
            now=NOW // 1000,
        )
        sent = await rig.send_raw("GET", target, b"", dict(signed.headers))
        assert sent.status == status
        answer = {"market": MARKET.identity, "headers": sent.headers, "body": sent.body}
        verify_response(request=signed.digest, status=status, **answer)
        with pytest.raises(SignatureError):
            verify_response(request=bytes(32), status=status, **answer)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("POST", wire.ACCOUNT),
        ("PUT", wire.JOBS),
        ("DELETE", wire.OFFERS),
        ("GET", "/v2/market"),
        ("GET", wire.target(wire.MESSAGE, box=bytes(32), message=bytes(16))),
    ],
)
async def test_unknown_route_or_method_is_refused(rig: Rig, method: str, target: str) -> None:
    (await rig.send_raw(method, target, b"", {})).expect(Code.NO_ROUTE)


async def test_unknown_and_doubled_query_parameters_are_refused(rig: Rig) -> None:
    for target in (f"{wire.ACCOUNT}?x=1", f"{wire.STATEMENT}?after=1&after=2"):
        (await rig.send("GET", target)).expect(Code.MALFORMED)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"manifest":1}',
        b'{"manifest":"AA","more":1}',
        b'{"manifest":"AA","manifest":"AA"}',
        b'{"manifest":"AA=="}',
        b'{"manifest":1.5}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"manifest":' + b"9" * 5000 + b"}",
    ],
)
async def test_malformed_body_is_refused(rig: Rig, body: bytes) -> None:
    sent = await rig.send("POST", wire.JOBS, body, idempotency=key16())
    sent.expect(Code.MALFORMED)


@pytest.mark.parametrize(
    ("method", "target", "most"),
    [
        ("POST", wire.JOBS, wire.JSON_BYTES_MAX),
        ("PUT", wire.target(wire.BLOB, digest=bytes(32)), wire.BLOB_BYTES_MAX),
        (
            "PUT",
            wire.target(wire.MESSAGE, box=bytes(32), message=bytes(16)),
            wire.PAYLOAD_BYTES_MAX,
        ),
        ("PUT", wire.target(wire.DOCUMENT, digest=bytes(32)), wire.DOCUMENT_BODY_BYTES_MAX),
    ],
)
async def test_huge_body_is_refused(rig: Rig, method: str, target: str, most: int) -> None:
    body = bytes(most + 1)
    (await rig.send(method, target, body, idempotency=key16())).expect(Code.TOO_LARGE)


async def test_huge_body_that_hides_its_length_is_refused(rig: Rig) -> None:
    """Chunked: no Content-Length warns of it."""
    target = wire.target(wire.BLOB, digest=bytes(32))
    body = bytes(wire.BLOB_BYTES_MAX + 1)
    signed = sign_request(
        STRANGER,
        market=MARKET.identity,
        method="PUT",
        target=target,
        body=body,
        idempotency_key=None,
        now=NOW // 1000,
    )

    async def chunks():
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    async with rig.http.put(rig.url + target, data=chunks(), headers=signed.headers) as answer:
        assert answer.status == 413


async def test_body_that_is_cut_off_changes_nothing_and_the_market_goes_on(rig: Rig) -> None:
    content = b"c" * 100_000
    target = wire.target(wire.BLOB, digest=digest(content))
    signed = sign_request(
        STRANGER,
        market=MARKET.identity,
        method="PUT",
        target=target,
        body=content,
        idempotency_key=None,
        now=NOW // 1000,
    )
    port = int(rig.url.rpartition(":")[2])
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"PUT {target} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in signed.headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content[:50_000])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await rig.api(STRANGER).missing_blobs([digest(content)]) == (digest(content),)


async def test_get_with_a_body_is_refused(rig: Rig) -> None:
    (await rig.send("GET", wire.ACCOUNT, b"x")).expect(Code.TOO_LARGE)


# --- replays -------------------------------------------------------------------------------------


async def test_post_without_idempotency_key_is_refused(rig: Rig) -> None:
    body = wire.encode(rig.draft())
    sent = await rig.send("POST", wire.OFFERS, body, key=HOST)
    assert "Idempotency-Key" in sent.expect(Code.MALFORMED).text


async def test_replayed_request_is_answered_the_same_and_does_nothing_twice(rig: Rig) -> None:
    draft, key = rig.draft(), key16()
    first = await rig.send("POST", wire.OFFERS, wire.encode(draft), key=HOST, idempotency=key)
    assert first.status == 200
    await rig.api(HOST).withdraw_offer(draft.offer, key=key16())
    rig.time[0] += 1000
    again = await rig.send("POST", wire.OFFERS, wire.encode(draft), key=HOST, idempotency=key)
    assert again.body == first.body  # as it was answered then, although the offer is gone
    assert (await rig.api(HOST).get_offer(draft.offer)).state is wire.OfferState.UNLISTED


async def test_key_reused_for_another_request_is_refused(rig: Rig) -> None:
    key = key16()
    await rig.api(HOST).post_offer(rig.draft(), key=key)
    await refused(Code.KEY_REUSED, rig.api(HOST).post_offer(rig.draft(), key=key))


async def test_idempotency_key_belongs_to_its_identity(rig: Rig) -> None:
    key, draft = key16(), rig.draft()
    await rig.api(HOST).post_offer(draft, key=key)
    other = rig.draft(offer=new_id(IdKind.OFFER))
    view = await rig.api(STRANGER).post_offer(other, key=key)
    assert view.host == STRANGER.identity


async def test_refused_request_may_be_mended_and_asked_again_under_its_key(rig: Rig) -> None:
    job, key = await rig.publish(), key16()
    await refused(Code.NO_FUNDS, rig.api(BUYER).submit_job(job, key=key))
    await rig.fund()
    assert (await rig.api(BUYER).submit_job(job, key=key)).state is wire.JobState.QUEUED


async def test_same_request_twice_at_once_does_its_work_once(rig: Rig) -> None:
    await rig.fund()
    job, key = await rig.publish(), key16()
    views = await asyncio.gather(*(rig.api(BUYER).submit_job(job, key=key) for _ in range(4)))
    assert len({view.job for view in views}) == 1
    assert (await rig.api(BUYER).get_account()).held == views[0].money.reserved


async def test_two_jobs_at_once_never_hold_more_than_the_account_has(rig: Rig) -> None:
    await rig.fund(15 * CREDIT)
    jobs = [await rig.publish(), await rig.publish()]
    calls = [rig.api(BUYER).submit_job(job, key=key16()) for job in jobs]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [each for each in answers if isinstance(each, MarketRefusedError)]
    assert [each.error_code for each in refusals] == [Code.NO_FUNDS]
    account = await rig.api(BUYER).get_account()
    assert (account.available, account.held) == (5 * CREDIT, 10 * CREDIT)


async def test_replies_are_kept_for_their_days_and_no_longer(rig: Rig) -> None:
    key, late = key16(), NOW + 30 * DAY
    await rig.api(HOST).post_offer(rig.draft(ends_at=late), key=key)
    rig.time[0] += REPLY_DAYS * DAY
    await rig.write(lambda session: forget_old(session, rig.time[0]))
    other = rig.draft(ends_at=late)
    await refused(Code.KEY_REUSED, rig.api(HOST).post_offer(other, key=key))
    rig.time[0] += 1
    assert await rig.write(lambda session: forget_old(session, rig.time[0])) == 1
    assert (await rig.api(HOST).post_offer(other, key=key)).draft == other


async def test_identity_above_its_rate_is_refused_and_others_are_not(rig: Rig) -> None:
    runner = web.AppRunner(build_app(rig.market, Rates(per_minute=3)), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        rig.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for _ in range(3):
            assert (await rig.send("GET", wire.ACCOUNT)).status == 200
        (await rig.send("GET", wire.ACCOUNT)).expect(Code.TOO_MANY)
        assert (await rig.send("GET", wire.ACCOUNT, key=HOST)).status == 200
        rig.time[0] += 60_000
        assert (await rig.send("GET", wire.ACCOUNT)).status == 200
    finally:
        await runner.cleanup()


def test_every_path_of_the_wire_has_a_route_and_every_route_a_path() -> None:
    paths = {
        value
        for module in (wire, wire_hosts)
        for name, value in vars(module).items()
        if name.isupper() and str(value).startswith("/v1/")
    }
    assert {route.path for route in ROUTES} == paths
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
