"""The agent's HTTP side against the real market on a real socket."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from marketplace.wire import LeaseEvent, LeaseReport, LeaseState, OfferState
from provider_agent.errors import RejectedError, UnavailableError
from provider_agent.market_client import HttpMarket, MarketAddress
from tests.marketplace.api.rig import Rig, key16, serve_rig
from tests.marketplace.world import HOST, HOST_2, MARKET, STRANGER
from trust.encoding import digest
from trust.errors import EncodingError
from trust.messages import lease_address


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with serve_rig(tmp_path) as served:
        yield served


def market(rig: Rig, key=HOST, *, url: str = "", identity: bytes = MARKET.identity) -> HttpMarket:
    address = MarketAddress(url=url or rig.url, identity=identity, certificate_sha256=None)
    return HttpMarket(rig.http, address=address, key=key, clock=lambda: rig.time[0])


async def test_an_offer_is_listed_kept_alive_and_withdrawn(rig: Rig) -> None:
    host, draft = market(rig), rig.draft()
    assert (await host.put_offer(draft, key16())).state is OfferState.LISTED
    assert (await host.put_offer(draft, key16())).state is OfferState.LISTED
    assert (await host.heartbeat(draft.offer)).draft == draft
    await host.withdraw(draft.offer)
    await host.withdraw(draft.offer)
    with pytest.raises(RejectedError, match="conflict"):
        await host.heartbeat(draft.offer)


async def test_a_lease_is_seen_briefed_and_reported_by_its_host_alone(rig: Rig) -> None:
    host, other = market(rig), market(rig, HOST_2)
    job = await rig.submitted()
    lease = await rig.claimed(job)
    assert [each.lease for each in await host.leases()] == [lease]
    assert await other.leases() == ()
    assert await host.briefing(lease) is None  # the buyer has not ordered it
    await rig.ordered(job, lease)
    briefing = await host.briefing(lease)
    assert briefing is not None
    assert briefing.job == job.encode()
    with pytest.raises(RejectedError):
        await other.briefing(lease)
    for _ in range(2):  # an agent that was killed reports again
        await host.report_lease(lease, LeaseReport(event=LeaseEvent.LAUNCHED, reason="launched"))
    assert await rig.lease_state(lease) is LeaseState.ATTESTING


async def test_messages_go_out_as_the_lease_and_come_in_once_acknowledged(rig: Rig) -> None:
    host = market(rig)
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    box = STRANGER.identity
    for _ in range(2):
        await host.post_message(box, b"\x01" * 16, b"sealed", lease)
    (posted,) = await rig.api(STRANGER).get_messages(box, after=0)
    assert (posted.sender, posted.payload) == (lease_address(lease), b"sealed")
    address = lease_address(lease)
    for number in range(3):
        message = bytes([number]) * 16
        await rig.api(STRANGER).post_message(address, b"grant", message=message)
    page = await host.read_messages(lease, 0, 0)
    assert [each.message[0] for each in page] == [0, 1, 2]
    assert [each.message[0] for each in await host.read_messages(lease, page[0].number, 0)] == [
        1,
        2,
    ]
    await host.acknowledge(lease, page[1].number)
    assert [each.message[0] for each in await host.read_messages(lease, 0, 0)] == [2]


async def test_blobs_are_stored_and_found(rig: Rig) -> None:
    host, content = market(rig), b"ciphertext" * 1000
    assert await host.get_blob(digest(content)) is None
    await host.put_blob(digest(content), content)
    assert await host.get_blob(digest(content)) == content
    with pytest.raises(RejectedError):
        await host.put_blob(bytes(32), content)


async def test_a_market_that_is_not_the_named_one_is_no_market(rig: Rig) -> None:
    with pytest.raises(UnavailableError, match="not the market's"):
        await market(rig, identity=STRANGER.identity).leases()


async def test_a_socket_that_nobody_listens_on_is_unavailable(rig: Rig) -> None:
    with pytest.raises(UnavailableError):
        await market(rig, url="http://127.0.0.1:9").leases()


@pytest.mark.parametrize("status", [200, 404, 409, 500])
async def test_an_answer_that_is_not_signed_says_neither_yes_nor_no(rig: Rig, status: int) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=b'{"leases":[]}')

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        with pytest.raises(UnavailableError, match="not the market's"):
            await market(rig, url=f"http://127.0.0.1:{port}").leases()
    finally:
        await runner.cleanup()


async def test_an_endless_answer_is_cut_off(rig: Rig) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(bytes(1 << 20))
        return response

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with pytest.raises(UnavailableError, match="answer of over"):
            await market(rig, url=f"http://127.0.0.1:{runner.addresses[0][1]}").leases()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "pin"),
    [
        ("http://192.0.2.1:80", None),
        ("http://market.example", None),
        ("https://market.example", None),
        ("http://127.0.0.1:80", bytes(32)),
        ("ftp://127.0.0.1", None),
        ("http://127.0.0.1:80/path", None),
        ("http://127.0.0.1:80?q", None),
    ],
)
def test_an_address_that_would_send_in_the_clear_or_to_anybody_is_refused(
    url: str, pin: bytes | None
) -> None:
    with pytest.raises(EncodingError, match="market"):
        MarketAddress(url=url, identity=bytes(32), certificate_sha256=pin)


def test_loopback_and_pinned_https_are_the_two_ways() -> None:
    near = MarketAddress(url="http://[::1]:80", identity=bytes(32), certificate_sha256=None)
    dataclasses.replace(near, url="https://market.example:443", certificate_sha256=bytes(32))
    assert aiohttp.Fingerprint(bytes(32))


@pytest.mark.parametrize("off", [-1, 1], ids=["behind", "ahead"])
async def test_a_host_whose_clock_is_off_is_told_so_and_nothing_of_it_is_believed(
    rig: Rig, off: int
) -> None:
    year = 365 * 86_400_000
    address = MarketAddress(url=rig.url, identity=MARKET.identity, certificate_sha256=None)
    host = HttpMarket(rig.http, address=address, key=HOST, clock=lambda: rig.time[0] + off * year)
    with pytest.raises(UnavailableError, match=r"unsigned: .*signed \d+ s (ago|in the future)"):
        await host.leases()
