"""Parties, jobs and enclaves against one real market process, over its socket.

The test does what others' processes do: it claims an offer on the market's own database as the
scheduler does, and speaks for enclaves with evidence of a chip that the market's policy accepts.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import Any

import aiohttp

from client.market_api import MarketAddress, MarketApi
from demo.story import Story
from marketplace import claims, jobs, leases, wire
from marketplace.ids import IdKind, make_id
from marketplace.orders import order_of
from marketplace.store import Store
from provider_agent.simulated_chip import CHIP_FILE, GPU_FILE
from tests.marketplace.api.rig import Enclave, input_manifest, key16, lineage_of
from tests.marketplace.world import BUYER, CREDIT, DAY, HOST, OPERATOR, OWNER, manifest, terms
from trust.artifacts import ArtifactKind
from trust.identity import PartyKey, Signed
from trust.jobs import GenerationOrder, Input, InputRole, JobManifest, Terms
from trust.messages import MeterRequest, Statement
from trust.simulated import SimulatedChip, SimulatedGpu


def now_milliseconds() -> int:
    return time.time_ns() // 1_000_000


@dataclasses.dataclass
class Live:
    """One market process and its database."""

    told: Story
    http: aiohttp.ClientSession
    store: Store

    @property
    def identity(self) -> bytes:
        return bytes.fromhex(self.told.market_identity)

    @property
    def image(self) -> bytes:
        return bytes.fromhex(self.told.measurement)

    def api(self, key: PartyKey) -> MarketApi:
        address = MarketAddress(url=self.told.market_url, identity=self.identity)
        return MarketApi(self.http, address=address, key=key, clock=now_milliseconds)

    # --- jobs ------------------------------------------------------------------------------------

    def agreed(self, owner: PartyKey = OWNER, **changes: Any) -> Signed[Terms]:
        values = {"lineages": (lineage_of(owner),), "expires_at": now_milliseconds() + DAY}
        return terms(owner, **(values | changes))

    async def published(self, *, owner: PartyKey = OWNER, **changes: Any) -> Signed[JobManifest]:
        """Terms and manifests registered; the signed job, not yet submitted."""
        agreed = self._terms() if owner is OWNER else self.agreed(owner)
        model = input_manifest(ArtifactKind.WEIGHTS, owner)
        dataset = input_manifest(ArtifactKind.DATASET, BUYER)
        await self.api(owner).put_document(agreed)
        await self.api(owner).put_document(model.encode())
        await self.api(BUYER).put_document(dataset.encode())
        inputs = (
            Input(role=InputRole.MODEL, artifact=model.digest),
            Input(role=InputRole.DATASET, artifact=dataset.digest),
        )
        values = {
            "inputs": inputs,
            "images": (self.image,),
            "nonce": secrets.token_bytes(32),
            "expires_at": now_milliseconds() + DAY,
        }
        return manifest(agreed, **(values | changes))

    async def submitted(self, **changes: Any) -> Signed[JobManifest]:
        job = await self.published(**changes)
        await self.api(BUYER).submit_job(job, key=key16())
        return job

    def _terms(self) -> Signed[Terms]:
        """The owner's one set of terms: another under its number would contradict it."""
        if not hasattr(self.told, "agreed"):
            self.told.agreed = self.agreed()
        return self.told.agreed

    async def claimed(self, job: Signed[JobManifest], host: PartyKey = HOST) -> str:
        """What the scheduler does: an offer of this host becomes a lease of rank 0."""
        now = now_milliseconds()
        draft = wire.OfferDraft(
            offer=make_id(IdKind.OFFER, now=now, random=secrets.token_bytes(10)),
            platform="simulated",
            compute_class="cpu/x86",
            gpu_model="cpu",
            gpus=1,
            memory_mib=1024,
            ask_microcredits_per_gpu_hour=CREDIT,
            floor_microcredits_per_gpu_hour=None,
            ends_at=now + DAY,
        )
        await self.api(host).post_offer(draft, key=key16())
        lease = make_id(IdKind.LEASE, now=now, random=secrets.token_bytes(10))
        with self.store.transaction() as session:
            command = claims.ClaimOffer(
                id=lease,
                order=order_of(session, jobs.find_job(session, job.digest)).id,
                rank=0,
                offer=draft.offer,
                offer_version=1,
                actor=OPERATOR,
            )
            found = claims.claim(session, command, now_milliseconds())
            assert found is claims.ClaimResult.CLAIMED
        return lease

    async def order(
        self, job: Signed[JobManifest], signer: PartyKey = BUYER, **changes: Any
    ) -> Signed[GenerationOrder]:
        """The order that the market asks the buyer for, by whomever it is signed."""
        buyer = signer if job.signer == signer.identity else BUYER
        asks = await self.api(buyer).get_asks()
        (ask,) = [e for e in asks if isinstance(e, wire.GenerationAsk) and e.job == job.digest]
        values: dict[str, Any] = {
            "job": job.digest,
            "number": ask.number,
            "leases": ask.leases,
            "expires_at": ask.expires_at,
            "before": ask.before,
        }
        return signer.sign(GenerationOrder(**(values | changes)))

    async def started(self, job: Signed[JobManifest], host: PartyKey = HOST) -> LiveEnclave:
        """An enclave that was launched, and was not challenged yet."""
        lease = await self.claimed(job, host)
        await self.api(BUYER).order_generation(await self.order(job), key=key16())
        return await LiveEnclave.start(self, job, lease, host)

    async def running(self, host: PartyKey = HOST) -> LiveEnclave:
        """A metered enclave."""
        enclave = await self.started(await self.submitted(), host)
        assert (await enclave.attest()).LABEL == "session/metered"
        return enclave

    async def lose(self, enclave: Enclave) -> None:
        """The host says that it failed, and the scheduler queues the job again."""
        report = wire.LeaseReport(event=wire.LeaseEvent.FAILED, reason="killed")
        await self.api(enclave.host).report_lease(enclave.lease, report, key=key16())
        with self.store.transaction() as session:
            found = jobs.find_job(session, enclave.job.digest)
            command = leases.Requeue(
                job=enclave.job.digest, version=found.version, actor=OPERATOR, reason="host lost"
            )
            leases.requeue(session, command, now_milliseconds())

    def chip(self) -> SimulatedChip:
        """A chip under the root that the market's policy names."""
        path = self.told.stage.home("host-1") / "chip" / CHIP_FILE
        return SimulatedChip.from_bytes(path.read_bytes())

    def gpu(self) -> SimulatedGpu:
        """The GPU beside it."""
        path = self.told.stage.home("host-1") / "chip" / GPU_FILE
        return SimulatedGpu.from_bytes(path.read_bytes())


class LiveEnclave(Enclave):
    """An enclave on the demo's chip, with its GPU, in the measured image."""

    def request(
        self,
        statement: Statement,
        **changes: Any,
    ) -> MeterRequest:
        live: Any = self.rig
        return super().request(
            statement, **({"by": live.chip(), "gpu": live.gpu(), "image": live.image} | changes)
        )
