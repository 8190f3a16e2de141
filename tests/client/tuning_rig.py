"""A buyer's tune port, its home and broker, and a market on a real socket."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

from client.gateway.config import FILLED, GatewayConfig, parse_config
from client.gateway.ports import StoredFile, TuneRequest
from client.home import Home
from client.tuning import MarketTunePort
from client.tuning_store import TuningStore
from marketplace import jobs
from marketplace.models import JobState
from tests.client.stage import Stage
from tests.marketplace.api.rig import Rig, serve_rig
from tests.marketplace.world import CREDIT, OPERATOR, fund
from tests.trust import makers
from tests.trust import release_world as rw
from trust.artifacts import Manifest
from trust.encoding import label_bytes
from trust.identity import Signed, verify_signed
from trust.jobs import JobManifest
from trust.messages import Measure, Progress, ProgressEvent, SealedProgress
from trust.sealing import hpke_seal

BASE = "tiny"
ROW = '{"messages": [{"role": "user", "content": "a%d"}, {"role": "assistant", "content": "b"}]}\n'


def rows(count: int = 64) -> bytes:
    return "".join(ROW % n for n in range(count)).encode()


def config_fields(model: str, **changes: object) -> dict:
    job = makers.job_manifest().to_json()
    model_fields = {
        "model": model,
        "images": [rw.IMAGE.hex()],
        "lineage": None,
        "kind": "simulated",
        "job": {name: value for name, value in job.items() if name not in FILLED},
    }
    return model_fields | changes


@dataclasses.dataclass
class Setting:
    """What a test has."""

    rig: Rig
    stage: Stage
    folder: Path
    config: GatewayConfig
    store: TuningStore
    port: MarketTunePort

    @property
    def home(self) -> Home:
        return self.stage.custody["buyer"].home

    @property
    def keys(self):
        return self.stage.custody["buyer"].keys

    def restart(self, api=None) -> MarketTunePort:
        """The process is gone, and another is there."""
        self.store.close()
        self.store = TuningStore.open(self.home.folder)
        self.port = MarketTunePort(
            home=Home.open(self.home.folder),
            keys=self.keys,
            api=api or self.rig.api(self.keys.party),
            config=self.config,
            store=self.store,
            clock=self.stage.clock,
        )
        return self.port

    async def add(self, content: bytes | None = None, name: str = "rows.jsonl") -> StoredFile:
        path = self.folder / "plain.jsonl"
        path.write_bytes(content or rows())
        return await self.port.add_file(path, name=name, purpose="fine-tune")

    async def request(self, token: str = "a token", **changes: object) -> TuneRequest:
        fields = {
            "model": BASE,
            "training": "",
            "heldout": None,
            "recipe": {},
            "manifest": {},
            "label": "mine",
            "metadata": {"team": "a"},
            "token": token,
        }
        if "training" not in changes:
            fields["training"] = (await self.add()).id
        return TuneRequest(**fields | changes)

    def manifest(self, token: str = "a token") -> Signed[JobManifest]:
        from client.tuning_store import token_digest

        stored = self.store.submissions[token_digest(token)]
        return verify_signed(JobManifest, stored.job, signer=self.keys.party.identity)

    async def move(self, job: str, *states: JobState) -> None:
        """What the scheduler does."""
        for state in states:

            def work(session, state=state):
                found = jobs.find_job(session, bytes.fromhex(job))
                command = jobs.MoveJob(
                    job=bytes.fromhex(job),
                    version=found.version,
                    to=state,
                    actor=OPERATOR,
                    reason="so the test says",
                )
                jobs.move_job(session, command, self.rig.time[0])

            await self.rig.write(work)

    async def jobs_at_the_market(self) -> list[bytes]:
        return [each.job for each in await self.rig.api(self.keys.party).get_jobs()]

    # --- broker and enclave ----------------------------------------------------------------------

    async def run(self, signed: Signed[JobManifest]) -> rw.Enclave:
        """The job's brokers are there, and an enclave has its seat."""
        own = self.home.load(Manifest, self.keys.party.identity)
        inputs = [own[each.artifact] for each in signed.document.inputs[1:]]
        self.stage.rows, self.stage.heldout = inputs
        self.stage.enter(signed)
        enclave = rw.Enclave()
        for name in ("owner", "buyer"):
            await self.stage.start(name)
        for name in ("owner", "buyer"):
            assert isinstance(await self.stage.ask(name, enclave), bytes)
        return enclave

    async def tell(
        self, enclave: rw.Enclave, number: int, event: ProgressEvent, *, loss: str = "", **more
    ) -> None:
        """The enclave seals a record to the buyer, and the buyer's broker keeps it."""
        measures = (
            (Measure(measure="loss", value=loss, over_tokens=500, over_rows=64),) if loss else ()
        )
        fields = {
            "job": self.stage.job.digest,
            "generation": 1,
            "rank": 0,
            "number": number,
            "event": event,
            "step": number,
            "steps": 10,
            "tokens": 10,
            "milliseconds": 10,
            "measures": measures,
            "text": "",
            "tensors": None,
            "resumed_from": None,
        }
        signed = enclave.party.sign(Progress(**fields | more)).encode()
        body = len(signed).to_bytes(4, "big") + signed
        sealed = hpke_seal(
            body + bytes(-len(body) % 256),
            self.keys.progress.public,
            info=label_bytes("progress") + self.stage.job.digest,
        )
        message = SealedProgress(job=self.stage.job.digest, sealed=sealed)
        self.stage.market.post(self.keys.party.identity, message.encode(), bytes(32))
        await self.stage.pump()


@contextlib.asynccontextmanager
async def setting(folder: Path, *, amount: int = 20 * CREDIT) -> AsyncIterator[Setting]:
    """A funded buyer, an owner's model and terms at the market, a port that is open."""
    async with serve_rig(folder) as rig:
        stage = Stage(folder / "stage")
        owner, buyer = stage.custody["owner"].keys, stage.custody["buyer"].keys
        await rig.api(owner.party).put_document(stage.terms)
        await rig.api(owner.party).put_document(stage.model.encode())
        if amount:
            await rig.write(lambda session: fund(session, amount, buyer.party))
        lineage = stage.custody["buyer"].entry.lineage.hex()
        model = config_fields(stage.model.digest.hex(), lineage=lineage)
        config = parse_config(json.dumps({"models": {BASE: model}}).encode())
        store = TuningStore.open(stage.custody["buyer"].home.folder)
        made = Setting(rig=rig, stage=stage, folder=folder, config=config, store=store, port=None)
        made.restart()
        try:
            yield made
        finally:
            made.store.close()
            for name in ("owner", "buyer"):
                stage.stop(name)
