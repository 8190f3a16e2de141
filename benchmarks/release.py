"""`release.*`: from an enclave's hello to open shares, with all parties on this machine.

Market and both key brokers are the demo's processes, with real homes and logs that are synced to
the disk. Each release is of a job of its own, submitted by the buyer's command and ordered by the
buyer's broker. This process stands for the host: it claims an offer as the scheduler does, gives
the briefing through the real relay and door, and runs the enclave's own session on the other side
of it, with reports of the simulated chip. So a release is a challenge, a report and an appraisal
for each of owner, buyer and market, two grants that are written and synced before they are sent,
and the market's word that it meters. Not in it: the enclave's boot, and the way to the chip's own
process.

The clock starts when the enclave queues its hellos, and stops when its vault holds every share.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks import first_step
from benchmarks.arms import Parties, train_job
from demo.display import Display
from demo.parties import Stage, StepError
from enclave_runtime.actions import Action, GotKeys, NeedEvidence, Send, Stopping
from enclave_runtime.attester import stated
from enclave_runtime.briefing import check_briefing
from enclave_runtime.session import Session
from enclave_runtime.transport import AGENT, Door, MonotonicClock
from enclave_runtime.vault import Vault
from marketplace import wire
from marketplace.claims import ClaimOffer, ClaimResult, claim
from marketplace.ids import IdKind, make_id
from marketplace.jobs import find_job
from marketplace.orders import order_of
from marketplace.store import Store
from provider_agent import unix_sockets
from provider_agent.cache import BlobCache
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT
from provider_agent.market_client import HttpMarket, MarketAddress
from provider_agent.relay import Relay, RelayTask
from provider_agent.simulated_chip import CHIP_FILE, GPU_FILE
from trust.encoding import digest
from trust.evidence.claims import Platform
from trust.identity import PartyKey
from trust.jobs import LaunchDocument
from trust.messages import Briefing, Endorsement, GpuEvidence, parse_message
from trust.sealing import HpkePrivateKey
from trust.simulated import SimulatedChip, SimulatedGpu

RELEASES: Final = 100
WARM_UP: Final = 2  # releases that are not counted: brokers meet, connections open
ORDER_TRIES_MAX: Final = 600  # a minute: the buyer's broker looks each second
ORDER_PAUSE_SECONDS: Final = 0.1
RELEASE_SECONDS: Final = 60.0
DAY_MILLISECONDS: Final = 86_400_000
ACTOR: Final = "benchmark"


def now_milliseconds() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def figures(runs: int, *, releases: int = RELEASES) -> Iterator[dict[str, Any]]:
    """`release.median_ms` and `release.p99_ms` of so many; `first_step.seconds` of `runs` jobs."""
    seen: list[float] = []
    with Stage() as stage:
        told = Parties(stage, Display())
        told.open_market()
        told.make_parties()
        told.start_brokers()
        told.publish_model()
        told.seal_rows()
        told.fund(10_000_000_000)
        with told.store() as store:
            for _ in range(WARM_UP + releases):
                job = told.submit(train_job(1, warmup_steps=0))
                seen.append(asyncio.run(Release(told, store, bytes.fromhex(job)).milliseconds()))
                home = str(stage.home("buyer"))
                stage.command("blindhost", "job", "close", job, "--home", home)
    seen = sorted(seen[WARM_UP:])
    yield _figure("release.median_ms", statistics.median(seen), seen)
    yield _figure("release.p99_ms", percentile(seen, 99), seen)
    yield from first_step.figures(runs)


def percentile(ordered: list[float], percent: int) -> float:
    """The least value that so many per cent of all are not above (nearest rank)."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _figure(name: str, value: float, seen: list[float]) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 1),
        "unit": "ms",
        "better": "lower",
        "runs": len(seen),
        "least": round(seen[0], 1),
        "most": round(seen[-1], 1),
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """One job's release; a host and an enclave of its own."""

    told: Parties
    store: Store
    job: bytes
    host: PartyKey = dataclasses.field(default_factory=PartyKey.generate)

    async def milliseconds(self) -> float:
        """Claim, await the order, brief, and time the session's opening."""
        address = MarketAddress(
            url=self.told.market_url,
            identity=bytes.fromhex(self.told.market_identity),
            certificate_sha256=None,
        )
        async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as http:
            market = HttpMarket(http, address=address, key=self.host, clock=now_milliseconds)
            lease = await self._claim(market)
            stored = await _briefing(market, lease)
            launched = wire.LeaseReport(event=wire.LeaseEvent.LAUNCHED, reason="launched")
            await market.report_lease(lease, launched)
            try:
                return await self._open(market, lease, stored)
            finally:
                ended = wire.LeaseReport(event=wire.LeaseEvent.FAILED, reason=ACTOR)
                await market.report_lease(lease, ended)

    async def _claim(self, market: HttpMarket) -> str:
        """What the scheduler does: an offer of this host becomes a lease of rank 0."""
        now = now_milliseconds()
        draft = wire.OfferDraft(
            offer=make_id(IdKind.OFFER, now=now, random=secrets.token_bytes(10)),
            platform=Platform.SEV_SNP.value,
            compute_class="cpu",
            gpu_model="cpu",
            gpus=1,
            memory_mib=4096,
            ask_microcredits_per_gpu_hour=3_600_000,
            floor_microcredits_per_gpu_hour=None,
            ends_at=now + DAY_MILLISECONDS,
        )
        await market.put_offer(draft, secrets.token_bytes(16))
        lease = make_id(IdKind.LEASE, now=now, random=secrets.token_bytes(10))
        with self.store.transaction() as session:
            command = ClaimOffer(
                id=lease,
                order=order_of(session, find_job(session, self.job)).id,
                rank=0,
                offer=draft.offer,
                offer_version=1,
                actor=ACTOR,
            )
            found = claim(session, command, now_milliseconds())
        if found is not ClaimResult.CLAIMED:
            raise StepError(f"lease {lease}: {found.value}")
        return lease

    async def _open(self, market: HttpMarket, lease: str, stored: wire.LeaseBriefing) -> float:
        """Relay and door in a folder of their own, and the session behind them."""
        folder = self.told.stage.home(lease)
        chip_file = self.told.stage.home("host-1") / "chip" / CHIP_FILE
        chip = SimulatedChip.from_bytes(chip_file.read_bytes())
        self._gpu = SimulatedGpu.from_bytes(chip_file.with_name(GPU_FILE).read_bytes())
        kinds = (*chip.endorsements(), *self._gpu.endorsements())
        briefing = Briefing(
            job=stored.job,
            order=stored.order,
            terms=stored.terms,
            manifests=stored.manifests,
            checkpoints=stored.checkpoints,
            endorsements=tuple(Endorsement(kind=k, content=c) for k, c in kinds),
        )
        task = RelayTask(lease=lease, door=folder, briefing=briefing.encode())
        relay = Relay(task, market=market, cache=BlobCache(folder / "cache", bytes_max=1 << 20))
        clock = MonotonicClock()
        async with Door(
            messages=_listen(folder, MESSAGES_PORT), blobs=_listen(folder, BLOBS_PORT), clock=clock
        ) as door:
            pump = asyncio.create_task(relay.run())
            try:
                async with asyncio.timeout(RELEASE_SECONDS):
                    return await self._session(chip, door, clock, stored.launch)
            finally:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    async def _session(
        self, chip: SimulatedChip, door: Door, clock: MonotonicClock, launch: bytes
    ) -> float:
        """The enclave's side, from the briefing to open shares; milliseconds from the hellos on."""
        frame = await door.inbox.get()
        briefing = parse_message(frame.payload)
        assert frame.peer == AGENT
        assert isinstance(briefing, Briefing)
        vault = Vault()
        session = Session(
            check_briefing(LaunchDocument.parse(launch), briefing),
            hpke_key=HpkePrivateKey.generate(),
            signing_key=PartyKey.generate(),
            vault=vault,
            compute_class="cpu",
            same_class=True,
        )
        started = time.perf_counter()
        actions = session.start(clock.now_ms())
        while not any(isinstance(each, GotKeys) for each in actions):
            actions = self._act(chip, door, clock, session, launch, actions)
            if not actions:
                frame = await door.inbox.get()
                actions = session.receive(frame.peer, frame.payload, clock.now_ms())
        seconds = time.perf_counter() - started
        assert len(vault) > 0
        vault.erase()
        return 1000 * seconds

    def _act(
        self,
        chip: SimulatedChip,
        door: Door,
        clock: MonotonicClock,
        session: Session,
        launch: bytes,
        actions: list[Action],
    ) -> list[Action]:
        """Do what the session wants; what follows from it."""
        after: list[Action] = []
        for action in actions:
            match action:
                case Send(peer=peer, payload=payload):
                    door.send(peer, payload)
                case NeedEvidence(statement=statement):
                    devices = (self._gpu.device(statement.gpu_nonce),)
                    shown = GpuEvidence(devices=devices).encode()
                    report = chip.report(
                        report_data=stated(statement, shown).report_data,
                        host_data=digest(launch),
                        measurement=bytes.fromhex(self.told.measurement),
                    )
                    after += session.evidence_ready(
                        statement,
                        platform=Platform.SEV_SNP.value,
                        report=report,
                        gpu=shown,
                        clock_ms=clock.now_ms(),
                    )
                case Stopping(text=text):
                    raise StepError(f"the session ends: {text}")
                case _:
                    pass
        return after


async def _briefing(market: HttpMarket, lease: str) -> wire.LeaseBriefing:
    """What to launch, once the buyer's broker has ordered it."""
    for _ in range(ORDER_TRIES_MAX):
        if (found := await market.briefing(lease)) is not None:
            return found
        await asyncio.sleep(ORDER_PAUSE_SECONDS)
    raise StepError(f"lease {lease}: no generation order")


def _listen(folder: Path, port: str) -> socket.socket:
    return unix_sockets.listen(folder, port, kind=socket.SOCK_STREAM)
