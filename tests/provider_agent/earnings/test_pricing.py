"""No strategy goes live unreplayed, none undercuts the floor, and a script stays in its box."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from marketplace.wire_hosts import DemandView, PastMatch
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.pricing import PRICING_FILE, ROUND_MS, Pricer, choose, chosen
from provider_agent.earnings.scripts import OUTPUT_BYTES_MAX, run_script
from provider_agent.earnings.strategies import (
    Fixed,
    FloorDemand,
    Situation,
    Strategy,
    ask,
    name_of,
    script_of,
)
from provider_agent.errors import AgentError, UnavailableError
from tests.provider_agent.earnings.made import CREDIT, HOUR, START, match, offer_name
from tests.provider_agent.test_offers import Scene

SITUATION = Situation(now=START, floor=100, idle_ms=0, matches=(match(START - HOUR),))
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_script(body: str) -> Path:
        path = tmp_path / "price"
        path.write_text(f"#!{sys.executable} -I\n{body}\n")
        return path

    return write_script


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / BOOK_FILE)


# --- which goes live -----------------------------------------------------------------------------


def test_a_strategy_that_was_not_replayed_does_not_go_live(tmp_path: Path, book: Book) -> None:
    strategy = FloorDemand(floor=5)
    with pytest.raises(AgentError, match="not replayed"):
        choose(tmp_path, book, strategy)
    book.note_replayed(name_of(strategy), leases=19, now=START)
    with pytest.raises(AgentError, match="not enough data: replayed on 19"):
        choose(tmp_path, book, strategy)
    assert chosen(tmp_path) is None
    book.note_replayed(name_of(strategy), leases=20, now=START)
    assert choose(tmp_path, book, strategy) == 20
    assert chosen(tmp_path) == strategy


def test_another_floor_or_another_script_is_another_strategy(write: Write) -> None:
    path = write("print(1)")
    names = {name_of(FloorDemand(floor=5)), name_of(FloorDemand(floor=6)),
             name_of(Fixed(ask=6, floor=5)), name_of(script_of(path, floor=5))}  # fmt: skip
    write("print(2)")
    assert len(names | {name_of(script_of(path, floor=5))}) == 5


def test_a_pricing_file_that_does_not_parse_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / PRICING_FILE).write_bytes(b'{"strategy":{"name":"free"}}')
    with pytest.raises(AgentError, match="does not parse"):
        chosen(tmp_path)


# --- the floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [0, 1, 99])
def test_the_floor_is_not_undercut_whatever_a_strategy_says(write: Write, said: int) -> None:
    script = script_of(write(f"print({said})"), floor=100)
    assert ask(script, SITUATION, run_script) == 100
    assert ask(Fixed(ask=said, floor=100), SITUATION, run_script) == 100


# --- the script ----------------------------------------------------------------------------------


def test_a_script_reads_the_situation_and_says_an_integer(write: Write) -> None:
    body = """
import json, sys
asked = json.load(sys.stdin)
print(asked["floor"] * 3 + len(asked["matches"]))"""
    assert run_script(script_of(write(body), floor=0), SITUATION) == 301


@pytest.mark.parametrize(
    "said", ["", "1.5", "-1", "ten", "1\\n2", "٣", str(1 << 53), "0x10", "1e3"]
)
def test_what_is_no_integer_is_refused(write: Write, said: str) -> None:
    with pytest.raises(AgentError, match="an integer is wanted"):
        run_script(script_of(write(f"print('{said}')"), floor=0), SITUATION)


def test_a_script_that_fails_says_nothing(write: Write) -> None:
    with pytest.raises(AgentError, match="ended with 3"):
        run_script(script_of(write("print(5); raise SystemExit(3)"), floor=0), SITUATION)


def test_a_script_that_was_changed_after_its_replay_does_not_run(write: Write) -> None:
    path = write("print(5)")
    script = script_of(path, floor=0)
    write("print(6)")
    with pytest.raises(AgentError, match="not the one that was replayed"):
        run_script(script, SITUATION)


def test_a_script_has_two_seconds_though_it_closed_its_output(write: Write) -> None:
    for body in ("import time; time.sleep(60)", "import os, time; os.close(1); time.sleep(60)"):
        with pytest.raises(AgentError, match="took over 2 s"):
            run_script(script_of(write(body), floor=0), SITUATION)


def test_a_script_that_says_too_much_is_stopped(write: Write) -> None:
    body = f"import sys\nwhile True: sys.stdout.write('9' * {OUTPUT_BYTES_MAX})"
    with pytest.raises(AgentError, match="said over 64 bytes"):
        run_script(script_of(write(body), floor=0), SITUATION)


def test_a_script_has_no_network_no_environment_and_no_file_that_grows(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "secret")
    body = f"""
import os, socket
found = 0
if os.environ.get("CANARY"): found += 1
try:
    with socket.create_connection(("127.0.0.1", 9), 0.2): found += 2
except ConnectionRefusedError: found += 2
except OSError: pass
names = [name for _, name in socket.if_nameindex()]
if names != ["lo"]: found += 4
try:
    with open({str(tmp_path / "grown")!r}, "w") as file: file.write("x")
    found += 8
except OSError: pass
try:
    extra = [n for n in range(3, 64) if os.path.exists(f"/proc/self/fd/{{n}}")]
except OSError: extra = []
if len(extra) > 1: found += 16
print(found)"""
    assert run_script(script_of(write(body), floor=0), SITUATION) == 0


# --- live ----------------------------------------------------------------------------------------


class FakeDemand:
    def __init__(self) -> None:
        self.asked = 0
        self.is_away = False
        self.matches: tuple[PastMatch, ...] = ()

    async def demand(self, offer: str, *, hours: int) -> DemandView:
        self.asked += 1
        if self.is_away:
            raise UnavailableError("away")
        return DemandView(
            offer=offer_name(), since=0, until=START, orders=0, fits=0, won=0, lost=(), book="",
            matches=self.matches,
        )  # fmt: skip


def live(tmp_path: Path, book: Book, strategy: Strategy) -> None:
    book.note_replayed(name_of(strategy), leases=20, now=START)
    choose(tmp_path, book, strategy)


async def test_the_live_strategy_reprices_the_offer_each_hour_and_not_more_often(
    tmp_path: Path, book: Book
) -> None:
    scene, demand, now = Scene(tmp_path), FakeDemand(), [START]
    offer = scene.keeper(ask=7)
    pricer = Pricer(tmp_path, book=book, market=demand, clock=lambda: now[0])
    await pricer.round(offer)
    assert (demand.asked, pricer.floor()) == (0, None)  # none is live: the host's own ask stands
    live(tmp_path, book, FloorDemand(floor=50))
    demand.matches = tuple(match(START - n * HOUR, CREDIT) for n in range(20, 0, -1))
    for step in (ROUND_MS, 0, ROUND_MS - 1):
        now[0] += step
        await pricer.round(offer)
    assert demand.asked == 1
    assert offer.draft.ask_microcredits_per_gpu_hour > 50
    assert book.matches() == demand.matches
    assert pricer.floor() == 50
    await offer.round(busy=False)
    assert scene.market.offer.draft == offer.draft


async def test_a_market_that_is_away_or_a_script_that_fails_leaves_the_price(
    tmp_path: Path, book: Book, write: Write
) -> None:
    scene, demand, now = Scene(tmp_path), FakeDemand(), [START]
    offer = scene.keeper(ask=7)
    pricer = Pricer(tmp_path, book=book, market=demand, clock=lambda: now[0])
    live(tmp_path, book, script_of(write("raise SystemExit(1)"), floor=50))
    for away in (True, False):
        demand.is_away = away
        await pricer.round(offer)
        now[0] += ROUND_MS
    assert demand.asked == 2
    assert offer.draft.ask_microcredits_per_gpu_hour == 7
