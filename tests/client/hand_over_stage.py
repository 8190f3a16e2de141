"""Owner and buyer once an adapter is made: real homes, brokers and ciphertext, a fake market."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.hand_over import collect_shares, open_adapter, write_adapter_folder
from client.home import Home
from client.release_log import replay
from marketplace.wire import StoredMessage
from tests.client.stage import Stage
from tests.enclave_runtime.recipes.engines import adapter_bytes
from tests.trust.release_world import Enclave
from trust.artifacts import ENTROPY_BYTES, ArtifactKind, ArtifactSealer, Core, Manifest, Origin
from trust.custody import artifact_key, artifact_share
from trust.encoding import digest
from trust.identity import PartyKey, Signed
from trust.jobs import OutputTerms, Terms, UsePolicy
from trust.messages import FollowUpKind
from trust.release_state import Memory

LEAVES = OutputTerms(adapter_leaves=True, reply_tokens_max=64)
STAYS = OutputTerms(adapter_leaves=False, reply_tokens_max=64)
BOTH = ("owner", "buyer")


class HandOverStage(Stage):
    """A stage whose owner's terms let adapters leave, or not."""

    def __init__(self, folder: Path, output: OutputTerms = LEAVES) -> None:
        self.output = output
        super().__init__(folder)
        self.said: list[list[bytes]] = []

    def publish(self, **changed: Any) -> Signed[Terms]:
        return super().publish(**{"output": self.output, **changed})

    def name_in_policy(self, name: str, *receivers: bytes) -> None:
        """A party's next use policy: `adapter_to` these, and nobody else."""
        each = self.custody[name]
        own = each.home.load(UsePolicy, each.keys.party.identity).values()
        newest = max((signed.document for signed in own), key=lambda policy: policy.number)
        policy = dataclasses.replace(newest, number=newest.number + 1, adapter_to=receivers)
        each.home.keep(each.keys.party.sign(policy))

    async def train(self, number: int = 1) -> Signed[Manifest]:
        """Both brokers run; an enclave has its seats, seals its adapter and reopens it."""
        for name in BOTH:
            if self.custody[name].broker is None:
                await self.start(name)
        self.trainer = Enclave()
        for name in BOTH:
            grant = await self.ask(name, self.trainer)
            assert isinstance(grant, bytes), grant
        self.content = adapter_bytes(number, base_model=self.model.digest.hex())
        made = self.seal(ArtifactKind.ADAPTER, self.content)
        for name in BOTH:
            party = self.owner if name == "owner" else self.buyer
            party.memory = self.memory(name)
            asked = self.follow_up(party, self.trainer, 1, FollowUpKind.SHARE, artifacts=[made])
            await self.say(name, asked.encode())
            assert made.digest in self.memory(name).outputs
        return made

    def seal(self, kind: ArtifactKind, content: bytes) -> Signed[Manifest]:
        """Seal under the trainer's outputs, into the market's blobs."""
        origin = Origin(job=self.job.digest, generation=1)
        core = Core(
            kind=kind, seal_id=secrets.token_bytes(32), custodians=self.entries, origin=origin
        )
        keys = {each.entry: each.keys.lineage_key(each.entry) for each in self.custody.values()}
        sealer = ArtifactSealer(
            core=core,
            key=artifact_key([artifact_share(keys[e], core) for e in core.custodians], core),
            content_bytes=len(content),
            entropy=secrets.token_bytes(ENTROPY_BYTES),
        )
        for segment in sealer.segments([content]):
            self.market.blobs[digest(segment)] = segment
        self.market.blobs[digest(sealer.segment_list())] = sealer.segment_list()
        return self.trainer.party.sign(sealer.manifest())

    def memory(self, name: str) -> Memory:
        """What a party's log says."""
        path = self.custody[name].home.log_path
        return replay(path.read_bytes()).memory if path.exists() else Memory()

    # --- a party fetches -------------------------------------------------------------------------

    async def collect(
        self,
        manifest: Signed[Manifest],
        *,
        name: str = "buyer",
        port: Any = None,
        seconds: float = 60,
    ) -> tuple[bytes, ...]:
        """A party asks everybody for their shares."""
        home: Home = self.custody[name].home
        return await collect_shares(
            home.holdings(self.custody[name].keys),
            self.memory(name),
            manifest,
            port or FetchMarket(self),
            seconds=seconds,
            now=self.clock(),
            waiting=lambda silent: self.said.append(list(silent)),
        )

    async def fetch(self, manifest: Signed[Manifest], folder: Path, **changed: Any) -> None:
        """The whole of `blindhost adapter fetch`, but for its command line."""
        base_name = changed.pop("base_name", None)
        shares = await self.collect(manifest, **changed)
        content = await open_adapter(
            manifest.document, shares, FetchMarket(self), lambda _done, _total: None
        )
        write_adapter_folder(folder, content, base_name=base_name)


class FetchMarket:
    """A fetch's way to the stage's market: it waits while the brokers work."""

    def __init__(self, stage: HandOverStage) -> None:
        self.stage = stage
        self.key = PartyKey.generate()
        self.posted: list[tuple[bytes, bytes]] = []

    async def post_message(self, box: bytes, payload: bytes) -> None:
        self.posted.append((box, payload))
        self.stage.market.post(box, payload, self.key.identity)

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        assert wait_seconds <= 25
        await self.stage.pump()
        found = self.stage.market.boxes[self.key.identity][after:]
        if not found:
            await asyncio.Event().wait()
        return found

    async def get_blob(self, digest: bytes) -> bytes:
        return self.stage.market.blobs[digest]
