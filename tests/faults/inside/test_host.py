"""What a dishonest host does to messages: it may cost time, and buys neither shares nor money."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from enclave_runtime.transport import Frame as EnclaveFrame
from marketplace.leases import FIRST_RECEIPT_SECONDS
from marketplace.models import Lease, LeaseState
from provider_agent.frames import Frame
from tests.faults.inside.enclave import Enclave
from tests.faults.inside.host import Agent, Mischief, Seeded
from tests.faults.inside.points import SEED_VARIABLE, Points, seed
from tests.faults.inside.template import scratch, template
from tests.faults.inside.town import (
    Town,
    check,
    in_no_time,
)
from trust.encoding import parse_base64url
from trust.identity import verify_signed
from trust.messages import Receipt, Refused, SignedMessage, parse_message, signed_label

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEEDS = 1
SEEDS_FULL = 60
SEAT_SHARES = 4  # of each custodian two: for its input, and for what the run makes
LEASE_SILENT_MS = 60_000  # a lease that nobody renews ends after 45 s
SILENCE_MS = 1000 * (FIRST_RECEIPT_SECONDS + 45 + 60)  # from the last word to the end of the lease


@asynccontextmanager
async def a_town() -> AsyncIterator[Town]:
    with (
        in_no_time(),
        tempfile.TemporaryDirectory(prefix="blindhost-inside-", dir=scratch()) as folder,
    ):
        town = Town(Path(folder) / "town", await template(), Points())
        try:
            yield town
        finally:
            await town.close()


def noted(run: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        asyncio.run(run())  # type: ignore[arg-type]
    except BaseException as error:
        error.add_note(f"{what}; {SEED_VARIABLE}={seed()}")
        raise


# --- drops, delays, repeats, reorders ------------------------------------------------------------


async def carried_badly(number: int, *, drop: float) -> Seeded:
    async with a_town() as town:
        mischief = Seeded(random.Random(number), drop=drop, delay=0.2, repeat=0.25)
        for agent in town.agents:
            agent.mischief = mischief
        await town.run(ticks=2000)
        check(town, kills=town.generation() - 1)
    return mischief


def test_a_host_that_drops_delays_repeats_and_reorders_changes_nothing() -> None:
    did: dict[str, int] = {}
    for number in range(seed(), seed() + SEEDS):

        async def run(number: int = number) -> None:
            mischief = await carried_badly(number, drop=0.1 if number % 2 else 0.2)
            for what, times in mischief.did.items():
                did[what] = did.get(what, 0) + times

        noted(run, f"random numbers of {number}")
    assert min(did.values()) > 1, did


@pytest.mark.full
@pytest.mark.parametrize("drop", [0.05, 0.2, 0.4])
def test_many_hosts_that_drop_delay_repeat_and_reorder_change_nothing(drop: float) -> None:
    for number in range(seed(), seed() + SEEDS_FULL // 3):

        async def run(number: int = number) -> None:
            await carried_badly(number, drop=drop)

        noted(run, f"random numbers of {number}, {drop} dropped")


class WithoutReceipts(Mischief):
    """Carries no receipt to a custodian; the market, which pays by them, gets every one."""

    def __init__(self, custodians: set[bytes]) -> None:
        self._custodians, self.dropped = custodians, 0

    def outgoing(self, frames: list[Frame]) -> list[Frame]:
        kept = [each for each in frames if not self._is_receipt(each)]
        self.dropped += len(frames) - len(kept)
        return kept

    def _is_receipt(self, frame: Frame) -> bool:
        message = parse_message(frame.payload)
        if frame.peer not in self._custodians or not isinstance(message, SignedMessage):
            return False
        return signed_label(message.signed) == Receipt.LABEL


async def test_a_host_that_carries_no_receipt_to_a_custodian_hides_no_output() -> None:
    async with a_town() as town:
        mischief = WithoutReceipts({each.identity for each in town.custodians.values()})
        town.agents[0].mischief = mischief
        await town.run()
        check(town, kills=0)
        assert mischief.dropped >= 2


# --- starving ------------------------------------------------------------------------------------


class Starving(Mischief):
    """Carries so many frames, counted both ways, and then none any more."""

    def __init__(self, after: int, *, silent: bool) -> None:
        self.left, self._silent = after, silent

    def incoming(self, frames: list[Frame]) -> list[Frame]:
        return self._some(frames)

    def outgoing(self, frames: list[Frame]) -> list[Frame]:
        return self._some(frames)

    def is_silent(self) -> bool:
        return self._silent and self.left == 0

    def _some(self, frames: list[Frame]) -> list[Frame]:
        some = frames[: self.left]
        self.left -= len(some)
        return some


async def frames_of_a_run() -> int:
    async with a_town() as town:
        counting = Starving(1 << 30, silent=False)
        town.agents[0].mischief = counting
        await town.run()
        return (1 << 30) - counting.left


async def starved_to_its_deadline(after: int) -> None:
    """The host falls silent: its lease ends by its deadline, and the job ends at the other host."""
    async with a_town() as town:
        starving = Starving(after, silent=True)
        town.agents[0].mischief = starving
        await town.run(until=lambda: starving.left == 0 or town.at_rest())
        until = town.clock.now + LEASE_SILENT_MS
        if any(each.state is LeaseState.READY for each in town.leases()):
            await town.run(until=lambda: not _first_is_live(town))
            assert town.clock.now <= until
        await town.run(ticks=1500)
        check(town, kills=1)


def _first_is_live(town: Town) -> bool:
    return town.leases()[0].state in {LeaseState.READY, LeaseState.ATTESTING}


async def starved_under_watch(after: int) -> None:
    """The host goes on to ask for messages, and carries none: it keeps the lease for no longer than
    its silence may last, nothing more leaves or is paid meanwhile, and the job ends elsewhere.
    """
    async with a_town() as town:
        starving = Starving(after, silent=False)
        town.agents[0].mischief = starving
        await town.run(until=lambda: starving.left == 0 or town.at_rest())
        if town.at_rest():
            return
        for _ in range(3):  # what lies in boxes already arrives
            await town.tick()
        first, until = town.leases()[0], town.clock.now + SILENCE_MS
        before = town.grants(), town.paid_steps(), town.hold().captured
        while _first_is_live(town):
            assert town.clock.now <= until, town.standing()
            assert (town.grants(), town.paid_steps(), town.hold().captured) == before
            await town.tick()
        await town.run(ticks=1500)
        check(town, kills=1)
        if not _has_ended(town, first):  # not all that mattered had been carried before
            assert [each.host == first.host for each in town.leases()] == [True, False]


def _has_ended(town: Town, lease: Lease) -> bool:
    return any(each.lease_id == lease.id and each.end for each in town.receipts())


def starving_points(total: int, size: int) -> list[int]:
    return sorted(random.Random(seed()).sample(range(1, total), min(size, total - 1)))


def test_a_host_that_starves_its_enclave_is_paid_no_more_and_loses_its_lease() -> None:
    total = asyncio.run(frames_of_a_run())
    for after in starving_points(total, 1):
        noted(lambda after=after: starved_to_its_deadline(after), f"silent after {after} frames")
        noted(lambda after=after: starved_under_watch(after), f"starved after {after} frames")


@pytest.mark.full
def test_a_host_that_starves_its_enclave_at_any_frame_gains_nothing() -> None:
    for after in range(1, asyncio.run(frames_of_a_run())):
        noted(lambda after=after: starved_to_its_deadline(after), f"silent after {after} frames")
        noted(lambda after=after: starved_under_watch(after), f"starved after {after} frames")


# --- two doors -----------------------------------------------------------------------------------


class TwoDoors(Mischief):
    """Launches each lease twice, gives both enclaves all that comes, and posts what both say.

    The chooser says which of both is heard first, each time.
    """

    def __init__(self, agent: Agent, chooser: random.Random, *, alone: float) -> None:
        self._agent, self._chooser, self._alone = agent, chooser, alone
        self.second: Enclave | None = None

    def incoming(self, frames: list[Frame]) -> list[Frame]:
        second = self._second()
        mine = []
        for frame in frames:
            only = self._chooser.random()
            if only >= self._alone / 2:
                mine.append(frame)
            if second is not None and not self._alone / 2 <= only < self._alone:
                second.door.hand(EnclaveFrame(peer=frame.peer, id=frame.id, payload=frame.payload))
        return mine

    def outgoing(self, frames: list[Frame]) -> list[Frame]:
        said = list(frames)
        second = self._second()
        while second is not None and (found := second.door.take()) is not None:
            said.append(Frame(peer=found.peer, id=found.id, payload=found.payload))
        self._chooser.shuffle(said)
        return said

    def _second(self) -> Enclave | None:
        """Another enclave of the same launch document, with the agent at its door too."""
        first = next(iter(self._agent.chip.enclaves.values()), None)
        if first is None:
            return None
        if self.second is None or self.second.launch != first.launch:
            chip = self._agent.chip
            self.second = Enclave(
                first.launch, chip=chip, points=self._agent.points, clock=self._agent.clock
            )
            assert self._agent.keeper is not None
            ((relay, _task),) = self._agent.keeper._relays.values()
            self.second.door.dial(relay)  # type: ignore[arg-type]
            briefing = relay._briefing()
            self.second.door.hand(
                EnclaveFrame(peer=briefing.peer, id=os.urandom(16), payload=briefing.payload)
            )
        return self.second


async def with_two_doors(number: int, *, alone: float) -> tuple[int, int]:
    """One life; returns (shares that both enclaves ever held, at most, the lesser first)."""
    async with a_town() as town:
        doors = TwoDoors(town.agents[0], random.Random(number), alone=alone)
        town.agents[0].mischief = doors

        async def tick() -> None:
            await town.tick()
            if doors.second is not None:
                await doors.second.turn()

        for _ in range(1500):
            await tick()
            if town.at_rest():
                break
        else:
            raise AssertionError(town.standing())
        check(town, kills=town.generation() - 1)  # if each had a share of its own, so elsewhere
        by_lease = {each.id: each.signing_key for each in town.leases()}
        for row in town.receipts():  # of one enclave of each lease alone
            signer = by_lease[row.lease_id]
            assert signer is not None
            verify_signed(Receipt, row.document, signer=parse_base64url(signer))
        first = town.agents[0].chip.all[0]
        assert doors.second is not None
        if not alone:  # both heard every challenge, so both asked
            assert "seat-taken" in refusals(town)
        low, high = sorted((first.keys_seen, doors.second.keys_seen))
        return low, high


def refusals(town: Town) -> list[str]:
    """Every code that anybody was refused with."""
    parsed = [parse_message(payload) for _box, payload, _by in town.office.posted]
    return [each.code for each in parsed if isinstance(each, Refused)]


def test_a_host_that_dials_two_doors_gets_shares_for_one_enclave_alone() -> None:
    for number in range(seed(), seed() + 2):

        async def run(number: int = number) -> None:
            low, high = await with_two_doors(number, alone=0.0 if number % 2 else 0.3)
            assert 0 < low + high <= SEAT_SHARES

        noted(run, f"random numbers of {number}")


@pytest.mark.full
@pytest.mark.parametrize("alone", [0.0, 0.2, 0.6])
def test_many_hosts_that_dial_two_doors_gain_nothing(alone: float) -> None:
    for number in range(seed(), seed() + 15):

        async def run(number: int = number) -> None:
            await with_two_doors(number, alone=alone)

        noted(run, f"random numbers of {number}, {alone} to one alone")
