"""A market, a scheduler, two custodians and two hosts, in one process and one order.

- A tick is one turn of each party, in turn. Who dies in its turn is thrown away and built again
  from its disk in the next one; everybody else goes on.
- Time moves by `STEP_MS` in each tick, and by `IDLE_MS` where nobody did anything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlmodel import select

from client import buyer, market_api
from marketplace import jobs, leases, ledger
from marketplace.models import Hold, HoldState, Job, JobState, Lease, Order, Receipt
from marketplace.transitions import JOB, LEASE, ORDER
from scheduler.reconciler import place_orders, supervise_jobs
from tests.faults.inside.custodian import Custodian
from tests.faults.inside.enclave import Enclave, trained
from tests.faults.inside.host import Agent
from tests.faults.inside.office import MARKET, Office, open_store
from tests.faults.inside.points import Crash, Points
from tests.faults.inside.template import (
    CREDIT,
    CUSTODIANS,
    HOUR,
    INTERVAL,
    ROWS,
    STEPS,
    WEIGHTS,
    Clock,
    Template,
    template,
)
from tests.trust import release_world as rw
from trust.artifacts import ArtifactOpener, Manifest
from trust.custody import artifact_key, artifact_share
from trust.messages import Grant, GrantInfo, parse_message

TICKS_MAX: Final = 400  # an undisturbed run takes about thirty
STEP_MS: Final = 1_000
IDLE_MS: Final = 12_000  # a lease whose host asks so often is renewed in time
SCHEDULER: Final = "scheduler"


class Town:
    """All parties on a copy of the template. At the point in `points` one of them dies."""

    def __init__(
        self, folder: Path, made: Template, points: Points, *, offers_end_at: int | None = None
    ) -> None:
        shutil.copytree(made.folder, folder)
        for each in ("market", *CUSTODIANS):
            (folder / each).chmod(0o700)
        self.folder, self.job, self.points, self.clock = folder, made.job, points, Clock()
        self.office = Office(folder / "market", points=points, clock=self.clock)
        self.custodians = {
            name: Custodian(
                name, folder / name, office=self.office, points=points, clock=self.clock
            )
            for name in CUSTODIANS
        }
        self.agents = [
            Agent(
                number,
                folder / f"host-{number}",
                office=self.office,
                points=points,
                clock=self.clock,
                ask=CREDIT + number,
                ends_at=offers_end_at or rw.NOW + 48 * HOUR,
            )
            for number in (1, 2)
        ]
        self._scheduler = open_store(folder / "market" / "market.db", SCHEDULER, points)
        self.deaths: list[str] = []
        self.ticks = 0
        self.before_tick: Callable[[], None] = lambda: None
        self.brokers_run = True

    async def close(self) -> None:
        """Every process ends, and its files are gone."""
        for custodian in self.custodians.values():
            custodian.die()
        for agent in self.agents:
            await agent.die()
        self._scheduler.close()
        self.office.close()
        shutil.rmtree(self.folder)

    # --- time ------------------------------------------------------------------------------------

    async def run(self, until: Callable[[], bool] | None = None, ticks: int = TICKS_MAX) -> None:
        """Tick until the job has ended and everything is given back, or until something else."""
        ready = until or self.at_rest
        for _ in range(ticks):
            await self.tick()
            if ready():
                return
        raise AssertionError(f"not at rest after {ticks} ticks: {self.standing()}")

    async def tick(self) -> None:
        """One turn of everybody."""
        self.ticks += 1
        self.before_tick()
        busy = self._acts()
        await self._turn(self.office.turn)
        await self._turn(self._schedule)
        if self.brokers_run:
            for custodian in self.custodians.values():
                await self._turn(custodian.turn)
        for agent in self.agents:
            await self._turn(agent.turn)
        for enclave in self.running():
            await enclave.turn()
            await self._bury_who_died_aside()
        for agent in self.agents:
            await self._turn(agent.pump)
        self.clock.now += STEP_MS if self._acts() != busy else IDLE_MS

    async def _turn(self, turn: Callable[[], Awaitable[None]]) -> None:
        try:
            await turn()
        except Crash as crash:
            await self._bury(crash.party)
        await self._bury_who_died_aside()

    async def _schedule(self) -> None:
        for do in (place_orders, supervise_jobs):
            do(self._scheduler, shard=0, shards=1, now=self.clock())

    async def _bury(self, party: str) -> None:
        self.deaths.append(party)
        if party == MARKET:
            self.office.die()
        elif party == SCHEDULER:
            self._scheduler.close()
            self._scheduler = open_store(
                self.folder / "market" / "market.db", SCHEDULER, self.points
            )
        for custodian in self.custodians.values():
            if custodian.party == party:
                custodian.die()
        for agent in self.agents:
            if agent.party == party:
                await agent.die()

    async def _bury_who_died_aside(self) -> None:
        for agent in self.agents:
            if agent.died:
                self.deaths.append(agent.party)
                await agent.die()

    def _acts(self) -> int:
        """How much has been done so far, without what only looks."""
        return sum(count for (_, kind), count in self.points.counts.items() if kind != "ask")

    # --- looking ---------------------------------------------------------------------------------

    def running(self) -> list[Enclave]:
        """Enclaves that have not ended."""
        return [e for agent in self.agents for e in agent.chip.enclaves.values() if e.exit is None]

    def enclaves(self) -> list[Enclave]:
        """Every enclave that there ever was."""
        return [e for agent in self.agents for e in agent.chip.all]

    def read(self, look: Callable[[Any], Any]) -> Any:
        """Look at the market's rows, without being its process."""
        with self._scheduler.reading() as session:
            return look(session)

    @property
    def state(self) -> JobState:
        return self.read(lambda session: jobs.find_job(session, self.job).state)

    def leases(self) -> list[Lease]:
        return list(self.read(lambda session: leases.leases_of(session, self.job)))

    def receipts(self) -> list[Receipt]:
        """Receipts that settled."""
        return list(self.read(lambda session: session.exec(select(Receipt)).all()))

    def hold(self) -> Hold:
        return self.read(lambda session: session.exec(select(Hold)).one())

    def order(self) -> Order:
        return self.read(lambda session: session.exec(select(Order)).one())

    def generation(self) -> int:
        return int(self.read(lambda session: session.exec(select(Job)).one()).generation)

    def paid_steps(self) -> int:
        """Steps in receipts that settled, over all leases."""
        by_lease: dict[str, list[int]] = {}
        for each in self.receipts():
            by_lease.setdefault(each.lease_id, []).append(each.step - each.first_step)
        return sum(max(steps) for steps in by_lease.values())

    def ended(self) -> bool:
        """The job has ended, and nothing is leased, held or left on a host's disk."""
        if not JOB.is_terminal(self.state) or not ORDER.is_terminal(self.order().state):
            return False
        if any(not LEASE.is_terminal(each.state) for each in self.leases()) or self.running():
            return False
        return not any(agent.lying_about() for agent in self.agents)

    def at_rest(self) -> bool:
        """The job has ended, and every custodian's log says so too."""
        logs = self.custodians.values()
        return self.ended() and all(self.job in each.memory.closed for each in logs)

    def standing(self) -> str:
        """Where everything stands, in a line."""
        held = [f"{each.state.value} {each.generation}" for each in self.leases()]
        inside = [f"{e.state} {e.exit} {e.text}" for e in self.enclaves()]
        waits = self.read(lambda session: jobs.find_job(session, self.job).waiting_for)
        return (
            f"job {self.state.value}, order {self.order().state.value}, waits for {waits},"
            f" leases {held}, enclaves {inside}, deaths {self.deaths}, at {self.points.at}"
        )

    # --- what was made ---------------------------------------------------------------------------

    def adapter(self) -> bytes:
        """The adapter that the buyer's log names, opened as its custodians can."""
        found = buyer.outputs(self.custodians["buyer"].memory, self.job)
        assert found is not None, self.standing()
        (artifact,) = found
        blob = self._blob
        manifest = Manifest.parse(blob(artifact))
        shares = []
        for entry in manifest.core.custodians:
            (party,) = [e for e in self.custodians.values() if e.identity == entry.identity]
            shares.append(artifact_share(party.keys.lineage_key(entry), manifest.core))
        listed = blob(manifest.segment_list)
        opener = ArtifactOpener(
            manifest=manifest,
            segment_list=listed,
            key=artifact_key(shares, manifest.core),
            first_segment=blob(listed[:32]),
        )
        parts = [opener.open(i, blob(opener.list[i]))[1] for i in range(len(opener))]
        return b"".join(parts)

    def _blob(self, sha256: bytes) -> bytes:
        name = sha256.hex()
        return (self.folder / "market" / "blobs" / name[:2] / name).read_bytes()

    def grants(self) -> dict[tuple[bytes, int, int, int], set[bytes]]:
        """Every different grant that left a broker: by custodian, generation, rank, number."""
        found: dict[tuple[bytes, int, int, int], set[bytes]] = {}
        for _box, payload, _sender in self.office.posted:
            parsed = None
            with contextlib.suppress(Exception):
                parsed = parse_message(payload)
            if isinstance(parsed, Grant):
                info = GrantInfo.parse(parsed.info)
                name = (info.custodian, info.generation, info.rank, info.number)
                found.setdefault(name, set()).add(payload)
        return found


# --- what must hold at the end -------------------------------------------------------------------


def check_released(town: Town) -> None:
    """No share left twice for one seat, and none that its log does not show."""
    by_identity = {each.identity: each for each in town.custodians.values()}
    for (custodian, generation, rank, number), payloads in town.grants().items():
        named = f"{by_identity[custodian].name}, generation {generation}, number {number}"
        assert len(payloads) == 1, f"{len(payloads)} different grants of {named}"
        seat = by_identity[custodian].memory.seats.get((town.job, generation, rank))
        assert seat is not None, f"a grant of {named} that its log does not show"
        if number == 0:
            assert payloads == {seat.grant}, f"another grant of {named} than its log shows"


def check_money(town: Town) -> None:
    """The books balance, and the hold is captured or given back to the last microcredit."""
    assert town.read(ledger.audit) == ()
    hold = town.hold()
    assert hold.state is not HoldState.PLACED, town.standing()
    assert hold.captured + hold.released == hold.reserved


def check(town: Town, *, kills: int) -> None:
    """All that holds however the run went, for a job that must have succeeded."""
    assert town.state is JobState.SUCCEEDED, town.standing()
    assert town.adapter() == trained(WEIGHTS, ROWS, STEPS)
    check_money(town)
    check_released(town)
    paid = town.paid_steps()
    assert paid <= STEPS + INTERVAL * kills, f"{paid} steps paid, {kills} kills"
    assert kills or paid == STEPS
    metered = {each.signing_key for each in town.leases() if each.signing_key}
    assert len(metered) <= town.generation()
    for agent in town.agents:  # a second enclave of one lease would hold other keys
        assert len(set(agent.chip.launched)) == len(agent.chip.launched)


@contextlib.contextmanager
def in_no_time() -> Iterator[None]:
    """Nobody waits between two tries, and no file is synced: a process dies, never the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(market_api, "BACKOFF_SECONDS", (0.0,) * 4)
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


async def lived(folder: Path, points: Points) -> Town:
    """A whole life of a town, checked; it is closed, and its counts are in `points`."""
    with in_no_time():
        town = Town(folder, await template(), points)
        try:
            await town.run()
            check(town, kills=int(points.struck))
        finally:
            await town.close()
    return town
