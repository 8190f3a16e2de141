"""A job as its buyer watches it: a real broker and log, sealed records, a market in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from client.progress import append_progress
from marketplace import wire
from tests.client.stage import Stage
from tests.trust import release_world as rw
from trust.encoding import label_bytes
from trust.identity import Signed
from trust.messages import CheckpointAt, Measure, Progress, ProgressEvent, Receipt
from trust.sealing import hpke_seal

HOSTS = (b"\x0a" * 32, b"\x0b" * 32)
PRICE = 3_600_000  # microcredits for a GPU and hour: a thousand a second
OFFER = "offr_" + "0" * 26


def lease(generation: int, state: wire.LeaseState, job: bytes, host: bytes) -> wire.LeaseView:
    """The lease of rank 0 in one generation."""
    return wire.LeaseView(
        lease=rw.lease(100 * generation),
        offer=OFFER,
        job=job,
        rank=0,
        ranks=1,
        generation=generation,
        host=host,
        price_microcredits_per_gpu_hour=PRICE,
        gpus=1,
        state=state,
        version=1,
        ready_at=rw.NOW if state is wire.LeaseState.READY else None,
        deadline=None,
    )


class Watched:
    """What the market shows of one job; a test changes it. Fills `client.watch.WatchPort`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.asked = 0
        self.receipts: list[wire.ReceiptView] = []
        self.view = wire.JobView(
            job=stage.job.digest,
            buyer=stage.custody["buyer"].keys.party.identity,
            owner=stage.custody["owner"].keys.party.identity,
            state=wire.JobState.QUEUED,
            generation=0,
            generation_digest=None,
            waiting_for="key broker of qwen",
            money=wire.MoneyView(reserved=6_000_000, captured=0, released=0),
            leases=(),
            created_at=rw.NOW - 1000,
            deadline=None,
        )

    async def get_job(self, job: bytes) -> wire.JobView:
        assert job == self.view.job
        self.asked += 1
        return self.view

    async def get_jobs(self) -> tuple[wire.JobView, ...]:
        self.asked += 1
        return (self.view,)

    async def get_receipts(self, job: bytes, *, after: int = 0) -> tuple[wire.ReceiptView, ...]:
        assert job == self.view.job
        return tuple(self.receipts[after : after + 2])

    # --- what happens ----------------------------------------------------------------------------

    def is_now(self, state: wire.JobState, **changes: object) -> None:
        """The market says another thing."""
        values = {"state": state, "waiting_for": None}
        self.view = dataclasses.replace(self.view, **values | changes)

    def runs(self, generation: int, state: wire.LeaseState, host: bytes = HOSTS[0]) -> None:
        """A lease of this generation is in this state; older ones were lost."""
        job = self.view.job
        older = [
            lease(n, wire.LeaseState.HOST_LOST, job, HOSTS[(n - 1) % 2])
            for n in range(generation - 1, 0, -1)
        ]
        leases = (lease(generation, state, job, host), *older)
        self.is_now(wire.JobState.RUNNING, generation=generation, leases=leases)

    def settles(self, receipt: Signed[Receipt], amount: int) -> None:
        """A receipt settled."""
        view = wire.ReceiptView(
            signed=receipt.encode(),
            host_amount=amount,
            owner_amount=0,
            fee_amount=0,
            state=wire.SettlementState.PENDING,
            matures_at=rw.NOW,
        )
        self.receipts.append(view)
        money = dataclasses.replace(self.view.money, captured=self.view.money.captured + amount)
        self.view = dataclasses.replace(self.view, money=money)

    def says(
        self, enclave: rw.Enclave, number: int, event: ProgressEvent, **changes: object
    ) -> None:
        """The enclave seals a record, and the buyer's broker keeps it."""
        stage = self.stage
        values: dict[str, object] = {
            "job": stage.job.digest,
            "generation": 1,
            "rank": 0,
            "number": number,
            "event": event,
            "step": 0,
            "steps": 100,
            "tokens": 1000,
            "milliseconds": 0,
            "measures": (),
            "text": "",
            "tensors": None,
            "resumed_from": None,
        }
        record = enclave.party.sign(Progress(**values | changes)).encode()
        padded = len(record).to_bytes(4, "big") + record
        padded += bytes(-len(padded) % 256)
        key = stage.custody["buyer"].keys.progress.public
        sealed = hpke_seal(padded, key, info=label_bytes("progress") + stage.job.digest)
        append_progress(stage.custody["buyer"].home.progress_path(stage.job.digest), sealed)


def loss(value: str) -> tuple[Measure, ...]:
    """A step's mean loss."""
    return (Measure(measure="loss", value=value, over_tokens=512, over_rows=64),)


def at_step(step: int, generation: int = 1) -> CheckpointAt:
    """Where a run began."""
    return CheckpointAt(generation=generation, step=step, artifact=bytes(32))


def make_stage(folder: Path) -> Stage:
    """A stage whose job seals its progress to the buyer's home."""
    stage = Stage(folder)
    keys = stage.custody["buyer"].keys
    stage.enter(stage.submit(progress_key=keys.progress.public))
    return stage
