"""What a host asks about itself, by the agent's own client; strangers may not ask it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from marketplace import wire, wire_hosts
from marketplace.api.routes import ROUTES
from provider_agent.commands import cache as cache_command
from provider_agent.commands import connect
from provider_agent.commands import earnings as earnings_command
from provider_agent.commands import leases as leases_command
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.host_market import HostMarket
from provider_agent.earnings.lines import State
from provider_agent.earnings.statement import Accounts, make_statement
from provider_agent.errors import RejectedError
from provider_agent.market_client import MarketAddress
from tests.marketplace.api.rig import Rig, key16
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, MARKET, STRANGER
from trust.encoding import canonical_json
from trust.identity import PartyKey

MINUTE = 60_000


def host(rig: Rig, key: PartyKey = HOST) -> HostMarket:
    address = MarketAddress(url=rig.url, identity=MARKET.identity, certificate_sha256=None)
    return HostMarket(rig.http, address=address, key=key, clock=lambda: rig.time[0])


async def accounts(market: HostMarket) -> Accounts:
    leases = await market.host_leases()
    return Accounts(
        leases=leases,
        settlements={each.lease: await market.settlements(each.lease) for each in leases},
        receipts={},
        terms={},
        spans=(),
        paid_out=await market.paid_out(),
    )


async def test_a_hosts_statement_recomputes_over_the_socket(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += 30 * MINUTE
    await enclave.send_receipt(enclave.receipt(milliseconds=30 * MINUTE, step=5, tokens=5000))
    found = make_statement(await accounts(host(rig)), rig.time[0])
    assert found.holds
    (line,) = found.lines
    assert line.net > 0
    assert [each.state for each in line.parts] == [State.MATURING]
    assert (await host(rig).market()).fee_ppm == 100_000


async def test_nobody_but_its_host_sees_a_leases_settlements_or_an_offers_demand(
    rig: Rig,
) -> None:
    enclave = await rig.running()
    (lease,) = await host(rig).host_leases()
    assert enclave.lease == lease.lease
    for other in (HOST_2, BUYER, STRANGER):
        assert await host(rig, other).host_leases() == ()
        for asking in (
            host(rig, other).settlements(lease.lease),
            host(rig, other).demand(lease.offer, hours=24),
        ):
            with pytest.raises(RejectedError) as refusal:
                await asking
            assert refusal.value.code == wire.ErrorCode.NOT_FOUND
    assert (await host(rig).demand(lease.offer, hours=24)).won == 1


async def test_no_more_than_thirty_days_back_are_asked_for(rig: Rig) -> None:
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key16())
    most = wire_hosts.DEMAND_HOURS_MAX
    assert (await host(rig).demand(draft.offer, hours=most)).orders == 0
    with pytest.raises(RejectedError):
        await host(rig).demand(draft.offer, hours=most + 1)


def test_every_path_of_wire_hosts_has_a_route() -> None:
    paths = {v for v in vars(wire_hosts).values() if str(v).startswith("/v1/")}
    assert len(paths) == 3
    assert paths <= {route.path for route in ROUTES}


# --- the commands ---------------------------------------------------------------------------------


def parsed(rig: Rig, home: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (earnings_command, leases_command, cache_command):
        module.add_parser(commands)
    market = ("--market", rig.url, "--market-identity", MARKET.identity.hex())
    return parser.parse_args([*words, "--home", str(home), *market])


@pytest.fixture
def home(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "agent"
    found.mkdir(mode=0o700)
    key = found / connect.KEY_FILE
    key.write_bytes(HOST.to_bytes())
    key.chmod(0o600)
    for module in (connect, earnings_command, leases_command):
        monkeypatch.setattr(module, "wall_clock", lambda: rig.time[0])
    return found


async def test_the_earnings_command_shows_every_shape_and_its_status_says_whether_it_holds(
    rig: Rig, home: Path
) -> None:
    enclave = await rig.running()
    rig.time[0] += 30 * MINUTE
    await enclave.send_receipt(enclave.receipt(milliseconds=30 * MINUTE, step=5, tokens=5000))
    options = parsed(rig, home, "earnings")
    statement = await earnings_command._statement(options)
    assert statement.holds
    for word, sign in (("--csv", "running_total"), ("--json", '"holds": true'),
                       ("--beancount", "Income:"), ("--lease", enclave.lease),
                       ("--day", "totals")):  # fmt: skip
        assert sign in earnings_command.shown(statement, parsed(rig, home, "earnings", word))
    assert (home / BOOK_FILE).exists()


async def test_why_no_leases_asks_the_market_and_keeps_the_history(rig: Rig, home: Path) -> None:
    draft = rig.draft(ask_microcredits_per_gpu_hour=3 * CREDIT)
    await rig.api(HOST).post_offer(draft, key=key16())
    (home / "offer").write_bytes(canonical_json(draft.to_json()))
    (home / "doctor.json").write_text(
        json.dumps({"checks": [{"id": "gpu.bar", "status": "fail", "severity": "blocker"}]})
    )
    await rig.submitted()
    text = await leases_command._why(parsed(rig, home, "leases", "--why"))
    assert "this host fails gpu.bar: fail" in text
    assert "1 of 1 orders lost by price (1 buyer)" in text
    assert "bids to" not in text  # one buyer's bid is nobody's business
    with Book(home / BOOK_FILE) as book:
        assert book.matches() == ()
    assert "no lease" in await leases_command._leases(parsed(rig, home, "leases"))
