"""A serving host minds its windows, price and refusals each round, over restarts."""

from pathlib import Path

import pytest

from marketplace.wire import OfferState
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.desk import VERSION_FILE, Desk, check_start
from provider_agent.earnings.maintenance import Plan, Window
from provider_agent.earnings.pricing import choose
from provider_agent.earnings.strategies import Fixed, name_of
from provider_agent.errors import UnavailableError
from provider_agent.refusals import Enrolment, HostRefusedError
from tests.marketplace.world import CREDIT
from tests.provider_agent.earnings.made import HOUR, START, lease_view
from tests.provider_agent.earnings.test_pricing import FakeDemand
from tests.provider_agent.test_lifecycle import World
from tests.provider_agent.test_offers import Scene


class Met:
    """What a market says of itself."""

    def __init__(self, now: int) -> None:
        self.now, self.fee_ppm = now, 7


class MetMarket(FakeDemand):
    """A market whose clock is `off` milliseconds behind the host's."""

    def __init__(self, host: "Host") -> None:
        super().__init__()
        self.host, self.off, self.away, self.met = host, 0, 0, 0

    async def market(self) -> Met:
        if self.away:
            self.away -= 1
            raise UnavailableError("away")
        self.met += 1
        return Met(self.host.now - self.off)


class Host:
    def __init__(self, home: Path) -> None:
        self.world, self.scene = World(home), Scene(home)
        self.home = home
        self.now = START
        self.market = MetMarket(self)
        self.start()

    def start(self) -> None:
        """An agent, or the next one."""
        self.desk = Desk(
            self.home,
            market=self.market,
            identity=bytes(32),
            enrolment=Enrolment.SIMULATED,
            clock=lambda: self.now,
        )
        self.scene.now = self.world.now = self.now
        self.offer = self.scene.keeper()
        self.keeper = self.world.keeper()
        self.keeper._gate = None  # these leases are of no offer; what is refused has its own test
        self.keeper._accounts = self.desk.accounts

    async def rounds(self, count: int = 6) -> None:
        self.scene.now = self.world.now = self.now
        for _ in range(count):
            await self.desk.round(self.offer, self.keeper)


@pytest.fixture
def host(tmp_path: Path):
    found = Host(tmp_path)
    yield found
    found.world.chip.crash()


def plan(host: Host, *, drain: bool) -> Window:
    window = Window(
        id="w", at=host.now + HOUR, milliseconds=HOUR, reason="kernel", drain=drain,
        planned_at=host.now,
    )  # fmt: skip
    Plan(host.home).add(window, ())
    return window


async def test_a_drain_takes_no_lease_lets_the_running_one_go_on_ends_it_and_comes_back(
    host: Host,
) -> None:
    name = host.world.market.open_lease()
    await host.rounds()
    assert host.world.chip.launched == [name]
    window = plan(host, drain=True)
    await host.rounds()
    assert host.scene.market.calls[-1] == "withdraw"
    assert host.keeper.busy  # it has until the window's start
    await host.keeper.close()
    host.start()  # the agent is killed meanwhile
    host.now = window.at
    await host.rounds(10)
    assert host.world.market.reports[name][-1] == ("failed", "maintenance")
    assert host.world.left_over() == []
    assert not host.keeper.busy
    posted = host.scene.posted()
    host.now = window.end
    await host.rounds()
    assert host.scene.posted() == posted + 1
    assert host.scene.market.offer.state is OfferState.LISTED
    await host.keeper.close()


async def test_a_window_without_drain_ends_no_lease(host: Host) -> None:
    name = host.world.market.open_lease()
    await host.rounds()
    window = plan(host, drain=False)
    host.now = window.at + 1
    await host.rounds()
    assert host.scene.market.calls[-1] == "withdraw"
    assert host.keeper.busy
    assert host.world.market.reports[name] == [("launched", "launched")]
    await host.keeper.close()


async def test_the_gate_knows_the_offer_the_window_and_the_live_floor(host: Host) -> None:
    gate = host.desk.gate(host.offer)
    lease = lease_view(offer=host.offer.offer, price_microcredits_per_gpu_hour=7)
    early = 1_000  # before the end of the offer
    gate.check_lease(lease, (), early)
    with Book(host.home / BOOK_FILE) as book:
        strategy = Fixed(ask=CREDIT, floor=8)
        book.note_replayed(name_of(strategy), leases=20, now=START)
        choose(host.home, book, strategy)
    with pytest.raises(HostRefusedError, match="below-floor"):
        gate.check_lease(lease, (), early)
    (host.home / "pricing").write_bytes(b"{")  # what cannot be read is no floor of nothing
    with pytest.raises(HostRefusedError, match="does not parse"):
        gate.check_lease(lease, (), early)
    plan(host, drain=True)
    with pytest.raises(HostRefusedError, match="outside-window"):
        gate.check_lease(lease, (), START)


def test_a_start_is_refused_once_and_noted_for_the_next(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)

    def start(**changes: object) -> str | None:
        values = {"key": key, "found": Enrolment.SIMULATED, "uid": 1000, "version": "0.2.0"}
        return check_start(tmp_path, **values | changes)

    assert start() is None
    assert "root" in str(start(uid=0))
    for word, changes in (
        ("root", {"uid": 0, "found": Enrolment.REAL}),
        ("other-enrolment", {"found": Enrolment.REAL}),
        ("older-version", {"version": "0.1.9"}),
    ):
        with pytest.raises(HostRefusedError, match=f"^{word}: "):
            start(**changes)
    assert (tmp_path / VERSION_FILE).read_text() == "0.2.0"
    key.chmod(0o644)
    with pytest.raises(HostRefusedError, match=r"^open-identity: "):
        start()


async def test_the_market_is_met_once_and_a_clock_that_is_off_stops_the_agent(host: Host) -> None:
    host.market.away = 2
    await host.rounds(6)
    assert host.market.met == 1
    assert host.desk.accounts.fee_ppm == 7
    host.market.off = 61_000
    host.start()
    with pytest.raises(HostRefusedError, match=r"^clock: "):
        await host.rounds(1)
