"""A market over a real socket on loopback, and parties that speak to it as from afar."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import io
import itertools
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from client.market_api import MarketAddress, MarketApi, MarketRefusedError
from marketplace import claims, jobs, leases, wire
from marketplace.home import Home
from marketplace.ids import IdKind
from marketplace.ledger import audit
from marketplace.models import JobState, LeaseState
from marketplace.orders import order_of
from marketplace.server import Listen, open_market, serving
from marketplace.service import Market, MarketSettings
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    HOST,
    HOUR,
    MARKET,
    NOW,
    OPERATOR,
    OWNER,
    STRANGER,
    _migrated,
    fund,
    manifest,
    new_id,
    terms,
)
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest, Origin
from trust.encoding import digest
from trust.http_signature import sign_request
from trust.identity import PartyKey, Signed
from trust.jobs import GenerationOrder, Input, InputRole, JobManifest, LaunchDocument, RankLease
from trust.messages import (
    Challenge,
    CheckpointReport,
    End,
    Endorsement,
    EvidenceBundle,
    GpuEvidence,
    Hello,
    MeterRequest,
    Purpose,
    Receipt,
    SignedMessage,
    Statement,
    lease_address,
    parse_message,
)
from trust.simulated import SimulatedChip, SimulatedGpu, SimulatedRoot
from trust.verifier.policy import simulated_policy

IMAGE = bytes([7]) * 48
FEE_PPM = 100_000
_COUNTER = itertools.count(1)
_MOMENT = dt.datetime.fromtimestamp(NOW / 1000, tz=dt.UTC)


def key16() -> bytes:
    return secrets.token_bytes(16)


def lineage_of(party: PartyKey) -> bytes:
    return b"s" + party.identity


def input_manifest(kind: ArtifactKind, party: PartyKey) -> Signed[Manifest]:
    custodian = Custodian(identity=party.identity, lineage=lineage_of(party), epoch=0)
    core = Core(
        kind=kind,
        seal_id=next(_COUNTER).to_bytes(32, "big"),
        custodians=(custodian,),
        origin=None,
    )
    return party.sign(
        Manifest(
            core=core,
            padded_bytes=70_000,
            segments=1,
            segment_list=bytes(32),
            commitment=bytes(32),
            public_files=(),
        )
    )


@functools.cache
def root() -> SimulatedRoot:
    return SimulatedRoot.create(_MOMENT)


@functools.cache
def chip() -> SimulatedChip:
    return root().issue_chip(b"\x07" * 64, _MOMENT)


@dataclasses.dataclass
class Sent:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def error(self) -> wire.WireError:
        return wire.parse(wire.WireError, self.body)

    def expect(self, code: wire.ErrorCode) -> wire.WireError:
        assert self.status == wire.STATUS[code], (self.status, self.body[:300])
        assert self.error.code is code, self.error
        assert self.error.text
        return self.error


@dataclasses.dataclass
class Rig:
    market: Market
    home: Home
    url: str
    http: aiohttp.ClientSession
    time: list[int]

    def api(self, key: PartyKey) -> MarketApi:
        address = MarketAddress(url=self.url, identity=MARKET.identity)
        return MarketApi(self.http, address=address, key=key, clock=lambda: self.time[0])

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        /,
        *,
        key: PartyKey = STRANGER,
        idempotency: bytes | None = None,
        **changes: object,
    ) -> Sent:
        """Send a request as it stands, signed; `changes` go to the signature alone."""
        values = {
            "market": MARKET.identity,
            "method": method,
            "target": target,
            "body": body,
            "idempotency_key": idempotency,
            "now": self.time[0] // 1000,
        }
        headers = dict(sign_request(key, **(values | changes)).headers)
        return await self.send_raw(method, target, body, headers)

    async def send_raw(
        self, method: str, target: str, body: bytes, headers: dict[str, str]
    ) -> Sent:
        url = URL(self.url + target, encoded=True)
        data = io.BytesIO(body) if len(body) > 1 << 20 else body
        async with self.http.request(method, url, data=data, headers=headers) as response:
            return Sent(response.status, await response.read(), dict(response.headers))

    async def until_waited_at(self, box: bytes) -> None:
        """Let the others run until a reader waits at this box."""
        while not self.market.waiters.is_waited_at(box):  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0)

    async def write(self, work):
        return await self.market.write(work)

    async def read(self, work):
        return await self.market.read(work)

    # --- a job, step by step, as its parties make it ---------------------------------------------

    async def fund(self, amount: int = 20 * CREDIT) -> None:
        await self.write(lambda session: fund(session, amount))

    async def publish(self, **changes: object) -> Signed[JobManifest]:
        """Terms and manifests registered; the signed job manifest, not yet submitted."""
        model = input_manifest(ArtifactKind.WEIGHTS, OWNER)
        dataset = input_manifest(ArtifactKind.DATASET, BUYER)
        agreed = terms(lineages=(lineage_of(OWNER),))
        await self.api(OWNER).put_document(agreed)
        await self.api(OWNER).put_document(model.encode())
        await self.api(BUYER).put_document(dataset.encode())
        inputs = (
            Input(role=InputRole.MODEL, artifact=model.digest),
            Input(role=InputRole.DATASET, artifact=dataset.digest),
        )
        return manifest(agreed, **({"inputs": inputs, "images": (IMAGE,)} | changes))

    async def submitted(self, **changes: object) -> Signed[JobManifest]:
        await self.fund()
        job = await self.publish(**changes)
        await self.api(BUYER).submit_job(job, key=key16())
        return job

    def draft(self, **changes: object) -> wire.OfferDraft:
        values = {
            "offer": new_id(IdKind.OFFER),
            "platform": "simulated",
            "compute_class": "cpu/x86",
            "gpu_model": "cpu",
            "gpus": 1,
            "memory_mib": 1024,
            "ask_microcredits_per_gpu_hour": CREDIT,
            "floor_microcredits_per_gpu_hour": None,
            "ends_at": NOW + 20 * HOUR,
        }
        return wire.OfferDraft(**values | changes)

    async def claimed(self, job: Signed[JobManifest], host: PartyKey = HOST) -> str:
        """What the scheduler does: an offer of this host becomes a lease of rank 0."""
        draft = self.draft()
        await self.api(host).post_offer(draft, key=key16())
        lease = new_id(IdKind.LEASE)

        def claim(session):
            found = jobs.find_job(session, job.digest)
            command = claims.ClaimOffer(
                id=lease,
                order=order_of(session, found).id,
                rank=0,
                offer=draft.offer,
                offer_version=1,
                actor=OPERATOR,
            )
            assert claims.claim(session, command, self.time[0]) is claims.ClaimResult.CLAIMED

        await self.write(claim)
        return lease

    async def ordered(self, job: Signed[JobManifest], lease: str) -> Signed[GenerationOrder]:
        """The buyer's broker answers the market's ask."""
        (ask,) = [
            each
            for each in await self.api(BUYER).get_asks()
            if isinstance(each, wire.GenerationAsk)
        ]
        order = BUYER.sign(
            GenerationOrder(
                job=job.digest,
                number=ask.number,
                leases=ask.leases,
                expires_at=ask.expires_at,
                before=ask.before,
            )
        )
        assert order.document.leases == (RankLease(rank=0, lease=lease),)
        await self.api(BUYER).order_generation(order, key=order.digest[:16])
        return order

    async def running(self, host: PartyKey = HOST) -> Enclave:
        """A metered enclave: everything up to there by the wire."""
        self.home.save_policy(simulated_policy(root().fingerprint, [IMAGE]))
        job = await self.submitted()
        lease = await self.claimed(job, host)
        await self.ordered(job, lease)
        enclave = await Enclave.start(self, job, lease, host)
        assert (await enclave.attest()).LABEL == "session/metered"
        return enclave

    async def requeue(self, job: Signed[JobManifest]) -> None:
        """What the scheduler does after a lost host."""

        def work(session):
            found = jobs.find_job(session, job.digest)
            command = leases.Requeue(
                job=job.digest, version=found.version, actor=OPERATOR, reason="host lost"
            )
            leases.requeue(session, command, self.time[0])

        await self.write(work)

    async def finish(self, job: Signed[JobManifest], lease: str) -> None:
        """What the scheduler does after a last receipt: drain, close, succeed."""

        def work(session):
            for to in (LeaseState.DRAINING, LeaseState.CLOSED):
                version = leases.find_lease(session, lease).version
                command = leases.MoveLease(
                    id=lease, version=version, to=to, actor=OPERATOR, reason="done"
                )
                leases.move_lease(session, command, self.time[0])
            found = jobs.find_job(session, job.digest)
            move = jobs.MoveJob(
                job=job.digest,
                version=found.version,
                to=JobState.SUCCEEDED,
                actor=OPERATOR,
                reason="done",
            )
            jobs.move_job(session, move, self.time[0])

        await self.write(work)

    async def lease_state(self, lease: str, host: PartyKey = HOST) -> wire.LeaseState:
        return (await self.api(host).get_lease(lease)).state

    async def check_books(self) -> None:
        assert await self.read(audit) == ()


@dataclasses.dataclass
class Enclave:
    """What runs under a lease, with the agent that carries its messages."""

    rig: Rig
    host: PartyKey
    job: Signed[JobManifest]
    lease: str
    launch: LaunchDocument
    signing: PartyKey
    last: Signed[Receipt] | None = None
    after: int = 0

    @classmethod
    async def start(cls, rig: Rig, job: Signed[JobManifest], lease: str, host: PartyKey) -> Enclave:
        briefing = await rig.api(host).get_briefing(lease)
        return cls(
            rig=rig,
            host=host,
            job=job,
            lease=lease,
            launch=LaunchDocument.parse(briefing.launch),
            signing=PartyKey.generate(),
        )

    @property
    def address(self) -> bytes:
        return lease_address(self.lease)

    async def post(self, payload: bytes, *, box: bytes = MARKET.identity) -> None:
        await self.rig.api(self.host).post_message(box, payload, message=key16(), lease=self.lease)

    async def answer(self):
        """The next message for this enclave."""
        api = self.rig.api(self.host)
        messages = await api.get_messages(
            self.address, after=self.after, wait_seconds=20, lease=self.lease
        )
        assert messages, "no answer came"
        self.after = messages[0].number
        assert messages[0].sender == MARKET.identity
        return parse_message(messages[0].payload)

    async def challenge(self) -> Challenge:
        await self.post(self.hello().encode())
        challenge = await self.answer()
        assert isinstance(challenge, Challenge), challenge
        assert (challenge.verifier, challenge.purpose) == (MARKET.identity, Purpose.METER)
        return challenge

    def hello(self, **changes: object) -> Hello:
        values = {
            "version": 1,
            "purpose": Purpose.METER,
            "verifier": MARKET.identity,
            "lease": self.lease,
        }
        return Hello(**values | changes)

    def statement(self, nonce: bytes, **changes: object) -> Statement:
        values = {
            "version": 1,
            "purpose": Purpose.METER,
            "verifier": MARKET.identity,
            "nonce": nonce,
            "hpke_key": bytes(1216),
            "signing_key": self.signing.identity,
            "job": self.job.digest,
            "lease": self.lease,
            "generation": self.launch.generation,
            "rank": 0,
            "ranks": 1,
            "launch": self.launch.digest,
            "gpu_evidence": None,
        }
        return Statement(**values | changes)

    def request(
        self,
        statement: Statement,
        *,
        shown: Statement | None = None,
        launch: LaunchDocument | None = None,
        by: SimulatedChip | None = None,
        image: bytes = IMAGE,
        gpu: SimulatedGpu | None = None,
    ) -> MeterRequest:
        """Evidence over `statement`; `shown` is another one, put in its place by a host."""
        launch, by = launch or self.launch, by or chip()
        devices = None
        if gpu is not None:
            devices = GpuEvidence(devices=(gpu.device(statement.gpu_nonce),)).encode()
            stated = {"gpu_evidence": digest(devices)}
            statement = dataclasses.replace(statement, **stated)
            shown = None if shown is None else dataclasses.replace(shown, **stated)
        report = by.report(
            report_data=statement.report_data, host_data=launch.digest, measurement=image
        )
        bundle = EvidenceBundle(
            statement=(shown or statement).encode(),
            launch=launch.encode(),
            platform="sev-snp",
            report=report,
            gpu=devices,
            endorsements=tuple(
                Endorsement(kind=kind, content=content)
                for kind, content in (*by.endorsements(), *(gpu.endorsements() if gpu else ()))
            ),
        )
        return MeterRequest(evidence=bundle.encode())

    async def attest(self):
        """The whole exchange; returns the market's answer."""
        challenge = await self.challenge()
        await self.post(self.request(self.statement(challenge.nonce)).encode())
        return await self.answer()

    def receipt(self, *, signer: PartyKey | None = None, **changes: object) -> Signed[Receipt]:
        values = {
            "job": self.job.digest,
            "lease": self.lease,
            "generation": self.launch.generation,
            "rank": 0,
            "number": 1 if self.last is None else self.last.document.number + 1,
            "before": None if self.last is None else self.last.digest,
            "milliseconds": 0,
            "first_step": 0,
            "step": 0,
            "tokens": 0,
            "committed": None,
            "world_size": 2,
            "compute_class": "cpu/x86",
            "same_class": True,
            "end": None,
            "outputs": (),
        }
        if "end" in changes:
            changes["end"] = End(changes["end"])
        return (signer or self.signing).sign(Receipt(**values | changes))

    async def send_receipt(self, receipt: Signed[Receipt]):
        """Post a receipt; returns the market's answer."""
        await self.post(SignedMessage(signed=receipt.encode()).encode())
        return await self.answer()

    def checkpoint(
        self, step: int, *, signer: PartyKey | None = None, **changes: object
    ) -> Signed[CheckpointReport]:
        signer = signer or self.signing
        core = Core(
            kind=ArtifactKind.CHECKPOINT,
            seal_id=secrets.token_bytes(32),
            custodians=(Custodian(identity=bytes(32), lineage=lineage_of(OWNER), epoch=0),),
            origin=Origin(job=self.job.digest, generation=self.launch.generation),
        )
        sealed = signer.sign(
            Manifest(
                core=core,
                padded_bytes=1000,
                segments=1,
                segment_list=bytes(32),
                commitment=bytes(32),
                public_files=(),
            )
        )
        values = {
            "job": self.job.digest,
            "generation": self.launch.generation,
            "rank": 0,
            "step": step,
            "manifest": sealed.encode(),
            "before": None,
        }
        return signer.sign(CheckpointReport(**values | changes))


@contextlib.asynccontextmanager
async def serve_rig(folder: Path) -> AsyncIterator[Rig]:
    """A served market; the books are audited when it is over."""
    home = Home(folder / "market")
    (home.folder / "key").write_bytes(MARKET.to_bytes())
    (home.folder / "market.db").write_bytes(_migrated())
    time = [NOW]
    market = open_market(home, MarketSettings(fee_ppm=FEE_PPM), lambda: time[0])
    listen = Listen(host="127.0.0.1", port=0, certificate=None, private_key=None)
    try:
        async with (
            serving(market, home, listen) as url,
            aiohttp.ClientSession() as http,
        ):
            rig = Rig(market, home, url, http, time)
            yield rig
            await rig.check_books()
    finally:
        market.close()


async def refused(code: wire.ErrorCode, asking) -> wire.WireError:
    """Await a call that the market refuses, over its signature, with this code."""
    with pytest.raises(MarketRefusedError) as caught:
        await asking
    assert caught.value.error_code is code, caught.value
    return wire.WireError(code=code, text=caught.value.text)
