"""One host in this process: its chip, and its agent with journal, offer, cache and relay.

- The agent is the shipped `Keeper` and `OfferKeeper` over the shipped HTTP client. Its relay posts,
  reads and answers blobs by the shipped code too; only its sockets are replaced: `turn` moves what
  there is to move, once, so that every run has the same order.
- The chip signs in the real formats under a simulated root. It dies with its enclaves.
- `Mischief` is what a dishonest host does to the frames that pass through its hands.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from enclave_runtime.transport import Frame as EnclaveFrame
from marketplace.wire import OfferDraft, StoredMessage
from provider_agent.cache import BlobCache
from provider_agent.chip_wire import ChipView, EnclaveView, Stopped
from provider_agent.errors import LaunchError, MarketError
from provider_agent.frames import BlobRead, BlobWrite, Frame, blob_answer
from provider_agent.journal import Journal, LeaseRecord
from provider_agent.keeper import Keeper
from provider_agent.launcher import ChipRefusedError
from provider_agent.market_client import HttpMarket, MarketAddress
from provider_agent.market_port import Patience
from provider_agent.offers import OfferKeeper
from provider_agent.relay import Relay, RelayTask
from tests.faults.inside.enclave import CLASS, DoorShutError, Enclave, EnclaveGoneError
from tests.faults.inside.office import URL_OF_MARKET, Line, Office
from tests.faults.inside.points import BEFORE, Crash, Points
from tests.provider_agent.fakes import WALLS
from tests.trust import release_world as rw
from trust.identity import PartyKey
from trust.jobs import LaunchDocument
from trust.messages import Briefing, Endorsement

TRIES: Final = 4  # more than a market that died keeps silent for
CACHE_BYTES: Final = 1 << 22


async def no_pause(_seconds: float) -> None:
    """Time is the town's: nobody waits in it."""


class Chip:
    """A chip and what it started. `party` names it among the points."""

    def __init__(self, party: str, *, points: Points, clock: Callable[[], int]) -> None:
        self.party, self._points, self._clock = party, points, clock
        self.incarnation = 1
        self.enclaves: dict[str, Enclave] = {}
        self.launched: list[str] = []
        self.all: list[Enclave] = []
        """Every enclave that ever ran here."""

    def crash(self) -> None:
        """It dies, and its enclaves with it; another starts."""
        for enclave in self.enclaves.values():
            enclave.kill()
        self.enclaves.clear()
        self.incarnation += 1

    async def status(self) -> ChipView:
        return ChipView(
            incarnation=self.incarnation.to_bytes(16, "big"),
            pid=1,
            root=rw.root().fingerprint,
            endorsements=tuple(
                Endorsement(kind=kind, content=content)
                for kind, content in rw.chip().endorsements()
            ),
            enclaves=tuple(self._view(each) for each in self.enclaves.values()),
        )

    def _view(self, enclave: Enclave) -> EnclaveView:
        return EnclaveView(
            lease=enclave.launch.lease,
            pid=1 + self.all.index(enclave),
            measurement=rw.IMAGE,
            host_data=enclave.launch.digest,
            isolation=WALLS,
            exit=enclave.exit,
        )

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        launch = LaunchDocument.parse(document)
        how = self._points.hit(self.party, "launch")
        if how == BEFORE:
            self.crash()
            raise LaunchError("chip: gone while it was asked to launch")
        if launch.lease in self.enclaves:
            raise ChipRefusedError("exists", launch.lease)
        enclave = self.start(launch)
        if how is not None:
            self.crash()
            raise LaunchError("chip: gone while it was asked to launch")
        return self._view(enclave)

    def start(self, launch: LaunchDocument) -> Enclave:
        """A new enclave of this launch document."""
        enclave = Enclave(launch, chip=self, points=self._points, clock=self._clock)
        self.launched.append(launch.lease)
        self.all.append(enclave)
        self.enclaves[launch.lease] = enclave
        return enclave

    async def stop(self, lease: str) -> Stopped:
        how = self._points.hit(self.party, "stop")
        if how != BEFORE:
            enclave = self.enclaves.pop(lease, None)
            if enclave is not None:
                enclave.kill()
        if how is not None:
            self.crash()
            raise LaunchError("chip: gone while it was asked to stop")
        return Stopped(lease=lease, known=enclave is not None)

    def report(self, lease: str, report_data: bytes) -> bytes:
        """The report for an enclave of its own. Raises EnclaveGoneError if one of both goes."""
        how = self._points.hit(self.party, "report")
        if how is not None:
            self.crash()
            raise EnclaveGoneError
        if lease not in self.enclaves:
            raise EnclaveGoneError
        launch = self.enclaves[lease].launch
        return rw.chip().report(
            report_data=report_data, host_data=launch.digest, measurement=rw.IMAGE
        )


class Mischief:
    """What a host does to frames that it carries. This one is honest."""

    def incoming(self, frames: list[Frame]) -> list[Frame]:
        """What the enclave is handed of what the market's box has."""
        return frames

    def outgoing(self, frames: list[Frame]) -> list[Frame]:
        """What the market is posted of what the enclave said."""
        return frames

    def is_silent(self) -> bool:
        """Whether the host asks the market nothing at all any more about this lease."""
        return False


HONEST: Final = Mischief()


class SteppedRelay(Relay):
    """The shipped relay, one step at a time, for one door."""

    def __init__(
        self,
        task: RelayTask,
        *,
        agent: Agent,
        market: HttpMarket,
        cache: BlobCache,
        patience: Patience,
    ) -> None:
        super().__init__(task, market=market, cache=cache, patience=patience)
        self._agent, self._over = agent, asyncio.Event()
        self._door: Any = None
        self._after = 0

    async def run(self) -> None:
        """Until what an enclave that ended has left is carried."""
        await self._over.wait()

    async def turn(self) -> None:
        """Dial if need be; carry what lies in the market's box, and what the enclave has said."""
        enclave = self._agent.chip.enclaves.get(self._task.lease)
        if enclave is None:
            self._hang_up()
            if self._ended:
                self._over.set()
            return
        door, mischief = enclave.door, self._agent.mischief
        if mischief.is_silent():
            return
        if self._door is not door or door.agent is not self:
            self._door, self._after = door, 0
            door.dial(self)
            self._hand(self._briefing())
        try:
            page: tuple[StoredMessage, ...] = await self._patience.ask(
                lambda: self._market.read_messages(self._task.lease, self._after, 0)
            )
            came = [Frame(peer=m.sender, id=m.message, payload=m.payload) for m in page]
            for frame in mischief.incoming(came):
                self._hand(frame)
            if page:
                self._after = page[-1].number
            said = []
            while (found := door.take()) is not None:
                said.append(Frame(peer=found.peer, id=found.id, payload=found.payload))
            for frame in mischief.outgoing(said):
                await self._outgoing(frame)
        except MarketError:
            self._hang_up()
            return
        if self._ended:  # nobody is behind the door, and what lay in it is carried
            self._over.set()

    def _hand(self, frame: Frame) -> None:
        with self._agent.points.around(self._agent.party, "frame"):
            self._door.hand(EnclaveFrame(peer=frame.peer, id=frame.id, payload=frame.payload))

    def _hang_up(self) -> None:
        if self._door is not None:
            self._door.hang_up(self)
        self._door = None

    async def serve_blob(self, request: BlobRead | BlobWrite) -> bytes:
        """At the blob port. An agent that dies of it leaves the enclave with a shut door."""
        try:
            if isinstance(request, BlobRead):
                return await self._read(request)
            return blob_answer(await self._write(request))
        except Crash as crash:
            self._agent.died = True
            raise DoorShutError from crash


class SteppedKeeper(Keeper):
    """The shipped keeper, whose relays go step by step."""

    def __init__(self, agent: Agent, *, journal: Journal, market: HttpMarket) -> None:
        self._agent = agent
        super().__init__(
            journal=journal,
            market=market,
            chip=agent.chip,
            cache=BlobCache(agent.folder / "cache", bytes_max=CACHE_BYTES),
            clock=agent.clock,
            patience=Patience(tries_max=TRIES, pause=no_pause),
        )

    async def _serve(self, lease: str) -> Relay:
        if (running := self._relays.get(lease)) is not None:
            return running[0]
        stored = self._journal.briefing(lease)
        chip = await self._chip.status()
        briefing = Briefing(
            job=stored.job,
            order=stored.order,
            terms=stored.terms,
            manifests=stored.manifests,
            checkpoints=stored.checkpoints,
            endorsements=chip.endorsements,
        )
        assert isinstance(self._market, HttpMarket)
        relay = SteppedRelay(
            RelayTask(lease=lease, door=self._journal.door(lease), briefing=briefing.encode()),
            agent=self._agent,
            market=self._market,
            cache=self._cache,
            patience=self._patience,
        )
        self._relays[lease] = relay, asyncio.create_task(relay.run())
        return relay

    async def pump(self) -> None:
        """One step of every relay."""
        for relay, _task in tuple(self._relays.values()):
            assert isinstance(relay, SteppedRelay)
            await relay.turn()
            await asyncio.sleep(0)  # a relay that is over ends its task

    async def die(self) -> None:
        """As a process goes: nothing is said to anybody, and every connection breaks."""
        tasks = [task for _relay, task in self._relays.values()]
        for relay, task in self._relays.values():
            assert isinstance(relay, SteppedRelay)
            relay._hang_up()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._relays.clear()


class PointedJournal(Journal):
    """A journal whose agent dies before or after it replaces or removes a file."""

    def __init__(self, folder: Path, party: str, points: Points) -> None:
        super().__init__(folder)
        self._party, self._points = party, points

    def write(self, record: LeaseRecord) -> None:
        with self._points.around(self._party, "journal"):
            super().write(record)

    def write_briefing(self, lease: str, briefing: Any) -> None:
        with self._points.around(self._party, "journal"):
            super().write_briefing(lease, briefing)

    def clear(self, lease: str) -> None:
        with self._points.around(self._party, "journal"):
            super().clear(lease)

    def remove(self, lease: str) -> None:
        with self._points.around(self._party, "journal"):
            super().remove(lease)


class PointedOffer(OfferKeeper):
    """An offer whose agent dies before or after it stores its id."""

    def __init__(self, party: str, points: Points, file: Path, **options: Any) -> None:
        self._party, self._points = party, points
        super().__init__(file, **options)

    def _store(self) -> None:
        with self._points.around(self._party, "offer"):
            super()._store()


class Agent:
    """One host. Its agent may die and is there again; its disk and its chip stay."""

    def __init__(
        self,
        number: int,
        folder: Path,
        *,
        office: Office,
        points: Points,
        clock: Callable[[], int],
        ask: int,
        ends_at: int,
    ) -> None:
        self.party, self.folder = f"agent-{number}", folder
        self.office, self.points, self.clock = office, points, clock
        self._ask, self._ends_at = ask, ends_at
        folder.mkdir(mode=0o700, exist_ok=True)
        self.key = PartyKey.from_bytes(bytes([64 + number]) * 32)
        self.chip = Chip(f"chip-{number}", points=points, clock=clock)
        self.mischief = HONEST
        self.died = False
        """The process died while somebody else had the word."""
        self.keeper: SteppedKeeper | None = None
        self._offer: PointedOffer | None = None
        self._number = number

    def _start(self) -> None:
        market = HttpMarket(
            Line(self.office, self.party, self.points),  # type: ignore[arg-type]
            address=MarketAddress(
                url=URL_OF_MARKET, identity=self.office.identity, certificate_sha256=None
            ),
            key=self.key,
            clock=self.clock,
        )
        self._offer = PointedOffer(
            self.party,
            self.points,
            self.folder / "offer",
            market=market,
            draft=self._draft(),
            clock=self.clock,
        )
        journal = PointedJournal(self.folder / "leases", self.party, self.points)
        self.keeper = SteppedKeeper(self, journal=journal, market=market)

    def _draft(self) -> OfferDraft:
        return OfferDraft(
            offer=f"offr_{self._number:026d}",
            platform="sev-snp",
            compute_class=CLASS,
            gpu_model="cpu",
            gpus=1,
            memory_mib=4096,
            ask_microcredits_per_gpu_hour=self._ask,
            floor_microcredits_per_gpu_hour=None,
            ends_at=self._ends_at,
        )

    async def turn(self) -> None:
        """One round. It dies by `Crash`."""
        if self.keeper is None:
            self._start()
        assert self.keeper is not None
        assert self._offer is not None
        await self._offer.round(busy=self.keeper.busy)
        await self.keeper.round()
        await self.pump()

    async def pump(self) -> None:
        """Carry what there is to carry. It dies by `Crash`."""
        if self.keeper is not None:
            await self.keeper.pump()

    async def die(self) -> None:
        """SIGKILL to the agent's process; chip and enclaves go on."""
        keeper, self.keeper, self._offer, self.died = self.keeper, None, None, False
        if keeper is not None:
            await keeper.die()

    def lying_about(self) -> list[str]:
        """Leases of which something is left on the disk."""
        return [each.name for each in (self.folder / "leases").iterdir()]


class Seeded(Mischief):
    """Drops, delays, repeats and reorders frames, as a generator of random numbers says."""

    def __init__(self, chooser: Any, *, drop: float, delay: float, repeat: float) -> None:
        self._chooser = chooser
        self._drop, self._delay, self._repeat = drop, delay, repeat
        self._late: dict[str, list[tuple[int, Frame]]] = {"in": [], "out": []}
        self._turn = 0
        self.did: dict[str, int] = {"drop": 0, "delay": 0, "repeat": 0, "reorder": 0}

    def incoming(self, frames: list[Frame]) -> list[Frame]:
        self._turn += 1
        return self._mangle("in", frames)

    def outgoing(self, frames: list[Frame]) -> list[Frame]:
        return self._mangle("out", frames)

    def _mangle(self, way: str, frames: list[Frame]) -> list[Frame]:
        kept = [frame for at, frame in self._late[way] if at <= self._turn]
        self._late[way] = [each for each in self._late[way] if each[0] > self._turn]
        for frame in frames:
            if self._chooser.random() < self._drop:
                self.did["drop"] += 1
                continue
            if self._chooser.random() < self._repeat:  # under an id of its own: nobody's memory
                self.did["repeat"] += 1
                again = Frame(peer=frame.peer, id=os.urandom(16), payload=frame.payload)
                self._late[way].append((self._turn + self._chooser.randrange(1, 30), again))
            if self._chooser.random() < self._delay:
                self.did["delay"] += 1
                self._late[way].append((self._turn + self._chooser.randrange(1, 12), frame))
                continue
            kept.append(frame)
        before = list(kept)
        self._chooser.shuffle(kept)
        self.did["reorder"] += kept != before
        return kept
