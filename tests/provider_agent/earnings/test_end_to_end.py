"""A real enclave's receipt is carried, kept, settled and computed again; or the job refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from marketplace.wire import LeaseState
from provider_agent.cache import BlobCache
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.desk import Desk
from provider_agent.earnings.host_market import HostMarket
from provider_agent.earnings.statement import Accounts, make_statement
from provider_agent.journal import Journal
from provider_agent.keeper import Keeper
from provider_agent.market_client import MarketAddress
from provider_agent.offers import OfferKeeper
from provider_agent.refusals import Enrolment
from provider_agent.runtime_image import measure_runtime
from tests.marketplace.api.rig import Rig, root, serve_rig
from tests.marketplace.world import HOST, MARKET
from tests.provider_agent.fakes import make_runtime
from tests.provider_agent.test_end_to_end import ENCLAVE, chip_of
from trust.verifier.policy import simulated_policy


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    (tmp_path / "market").mkdir()
    async with serve_rig(tmp_path / "market") as served:
        yield served


def host_of(rig: Rig) -> HostMarket:
    address = MarketAddress(url=rig.url, identity=MARKET.identity, certificate_sha256=None)
    return HostMarket(rig.http, address=address, key=HOST, clock=lambda: rig.time[0])


@pytest.mark.parametrize("enrolment", [Enrolment.SIMULATED, Enrolment.REAL])
async def test_a_receipt_is_kept_settled_and_recomputed_unless_the_host_refuses_the_job(
    rig: Rig, tmp_path: Path, enrolment: Enrolment
) -> None:
    runtime = make_runtime(tmp_path / "runtime", program=ENCLAVE)
    image = measure_runtime(runtime)
    rig.home.save_policy(simulated_policy(root().fingerprint, [image]))
    job = await rig.submitted(images=(image,))
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    host = host_of(rig)
    (listed,) = await host.host_leases()
    posted = await rig.api(HOST).get_offer(listed.offer)
    desk = Desk(
        tmp_path,
        market=host,
        identity=MARKET.identity,
        enrolment=enrolment,
        clock=lambda: rig.time[0],
    )
    offer = OfferKeeper(
        tmp_path / "offer",
        market=host,
        draft=posted.draft,
        clock=lambda: rig.time[0],
        note=desk.accounts.offer_is,
    )
    async with chip_of(tmp_path / "chip", runtime) as launcher:
        keeper = Keeper(
            journal=Journal(tmp_path / "leases"),
            market=host,
            chip=launcher,
            cache=BlobCache(tmp_path / "cache", bytes_max=1 << 22),
            clock=lambda: rig.time[0],
            gate=desk.gate(offer),
            accounts=desk.accounts,
        )
        try:
            await desk.round(offer, keeper)
            async with asyncio.timeout(60):
                if enrolment is Enrolment.SIMULATED:
                    assert (await launcher.wait(lease)).exit == 0
                while keeper.busy:
                    await desk.round(offer, keeper)
        finally:
            await keeper.close()
        desk.close()
    with Book(tmp_path / BOOK_FILE) as book:
        carried, terms, spans = book.receipts(lease), book.leases(), book.spans()
    assert terms[lease].fee_ppm == listed.fee_ppm
    settlements = await host.settlements(lease)
    if enrolment is Enrolment.REAL:  # its model is of a simulated lineage
        assert (carried, settlements) == ((), ())
        assert await rig.lease_state(lease) is not LeaseState.READY
        (ended,) = await host.host_leases()
        assert "refused-other-enrolment" in ended.reason
        return
    assert [each.signed for each in carried] == [each.signed for each in settlements]
    accounts = Accounts(
        leases=await host.host_leases(),
        settlements={lease: settlements},
        receipts={lease: carried},
        terms=terms,
        spans=spans,
        paid_out=await host.paid_out(),
    )
    found = make_statement(accounts, rig.time[0])
    assert found.holds
    assert [each.lease for each in found.lines] == [lease]
