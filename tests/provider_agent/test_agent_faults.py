"""The agent's faults of reference/host.md §6.6: each has an end and a word for it; nothing leaks.

The others stand where their part is tested: an agent killed at each write (test_lifecycle), a chip
that dies and a reboot under a running enclave (test_simulated_chip), a disk that fails under the
cache (test_cache), a relay whose market is away (test_relay).
"""

import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.wire import OfferState
from provider_agent import cache as cache_module
from provider_agent import journal as journal_module
from provider_agent.__main__ import LOCK_FILE, main
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.receipts import AccountKeeper
from provider_agent.journal import Stage
from provider_agent.lifecycle import BRIEFING_MS_MAX
from provider_agent.offers import HEARTBEAT_MS
from tests.provider_agent.test_lifecycle import World
from tests.provider_agent.test_offers import Scene
from trust.encoding import digest

HOUR = 3_600_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.chip.crash()


# --- the market is gone for an hour ---------------------------------------------------------------


async def test_a_market_that_is_gone_for_an_hour_ends_no_lease_and_lists_the_offer_after(
    world: World, tmp_path: Path
) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    scene = Scene(tmp_path)
    offer = scene.keeper()
    await offer.round(busy=True)
    world.market.away = scene.market.away = 10_000
    for _ in range(60):
        world.now += HOUR // 60
        scene.now += HOUR // 60
        await keeper.round()
        await offer.round(busy=True)
    assert world.stages() == [Stage.SERVING]
    assert world.chip.launched == [name]
    world.market.away = scene.market.away = 0
    scene.now += HEARTBEAT_MS
    await keeper.round()
    await offer.round(busy=True)
    assert world.stages() == [Stage.SERVING]
    assert scene.market.calls[-1] == "heartbeat"
    assert scene.market.offer.state is OfferState.LISTED
    await keeper.close()


# --- the clock jumps ------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-25 * HOUR, 25 * HOUR])
async def test_a_clock_that_jumps_ends_no_lease_that_runs(world: World, jump: int) -> None:
    world.now = 100 * HOUR
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    world.now += jump
    await world.settle(keeper)
    assert world.stages() == [Stage.SERVING]
    world.chip.exit(name, 0)
    await world.settle(keeper, 8)
    assert world.market.reports[name][-1] == ("ended", "exit-0")
    assert world.left_over() == []
    await keeper.close()


async def test_a_clock_that_is_set_back_silences_no_offer(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.now = 100 * HOUR
    keeper = scene.keeper()
    await keeper.round(busy=False)
    scene.now -= HOUR
    await keeper.round(busy=False)
    assert scene.market.calls == ["put_offer", "heartbeat"]


async def test_a_clock_that_jumps_ahead_before_the_order_gives_the_machine_back(
    world: World,
) -> None:
    """What waits longest is given up, as if the hour had passed: the market opens another lease."""
    name = world.market.open_lease(generation=None)
    keeper = world.keeper()
    await keeper.round()
    world.now += BRIEFING_MS_MAX + 1
    await world.settle(keeper, 4)
    assert world.market.reports[name] == [("failed", "no-order")]
    assert world.chip.launched == []
    assert world.left_over() == []


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_disk_that_fills_while_caching_costs_no_lease_and_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "blindhost.storage")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "write_whole", full)
    keeper = world.keeper()
    world.market.open_lease()
    await world.settle(keeper)
    assert not keeper._cache.put(digest(b"x"), b"x")
    assert "storage.refused reason=ENOSPC" in caplog.text
    assert world.stages() == [Stage.SERVING]
    assert [each for each in (world.home / "cache").rglob("*") if each.name.endswith("-0")] == []
    await keeper.close()


async def test_a_disk_that_is_full_under_the_journal_starts_nothing_that_is_not_on_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = world.market.open_lease()
    keeper = world.keeper()
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "replace_file", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                await keeper.round()
    assert world.chip.launched == []
    await world.settle(keeper)  # there is room again
    assert world.chip.launched == [name]
    assert world.stages() == [Stage.SERVING]
    await keeper.close()


async def test_a_disk_that_is_full_under_the_book_costs_its_entry_alone(world: World) -> None:
    book = Book(world.home / BOOK_FILE)
    accounts = AccountKeeper(book, market=bytes(32), clock=lambda: world.now)
    book.close()
    keeper = world.keeper()
    keeper._accounts = accounts
    name = world.market.open_lease()
    await world.settle(keeper)
    assert world.chip.launched == [name]
    await keeper.close()


# --- the host reboots in a lease ------------------------------------------------------------------


async def test_a_host_that_reboots_in_a_lease_reports_it_lost_and_lists_its_machine_again(
    world: World, tmp_path: Path
) -> None:
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    await keeper.close()
    world.chip.crash()  # power is gone: chip and enclave with it
    again = world.keeper()
    await world.settle(again, 8)
    assert world.market.reports[name][-1] == ("failed", "chip-lost")
    assert world.chip.launched == [name]  # a second enclave would hold other keys
    assert world.chip.enclaves == {}
    assert world.chip.sockets == {}
    assert world.left_over() == []
    scene = Scene(tmp_path)
    offer = scene.keeper()
    await offer.round(busy=again.busy)
    scene.becomes(OfferState.SUSPENDED)  # what the market does with an offer whose host failed
    scene.now += HEARTBEAT_MS
    await offer.round(busy=again.busy)
    await offer.round(busy=again.busy)
    assert scene.posted() == 2


# --- two agents -----------------------------------------------------------------------------------


def test_a_second_agent_in_one_home_is_refused_and_touches_nothing(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with (home / LOCK_FILE).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status = main(
            ["serve", "--home", str(home), "--market", "http://127.0.0.1:9",
             "--market-identity", "00" * 32, "--ask", "1"]
        )  # fmt: skip
    assert status == os.EX_TEMPFAIL
    assert [each.name for each in home.iterdir()] == [LOCK_FILE]


def test_the_lock_of_a_killed_agent_is_free(tmp_path: Path) -> None:
    program = (
        "import fcntl, os, sys\n"
        "held = open(sys.argv[1], 'ab'); fcntl.flock(held, fcntl.LOCK_EX)\n"
        "print('held', flush=True); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / LOCK_FILE
    run = subprocess.run(
        [sys.executable, "-I", "-c", program, str(path)],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout) == (-9, b"held\n")
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
