"""A small market: parties with keys, a stored job, an order, an offer. All shipped code."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tempfile
from pathlib import Path

from sqlmodel import Session

from marketplace import claims, jobs, leases, ledger, offers, orders, settlement
from marketplace.ids import IdKind, make_id
from marketplace.models import LeaseState
from marketplace.store import Store
from trust import jobs as documents
from trust.identity import PartyKey, Signed
from trust.messages import End, Purpose, Receipt, Statement

NOW = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
CREDIT = 1_000_000
_COUNTER = itertools.count(1)


def new_id(kind: IdKind, now: int = NOW) -> str:
    return make_id(kind, now=now, random=next(_COUNTER).to_bytes(10, "big"))


def xfer() -> str:
    return new_id(IdKind.TRANSFER)


def key(number: int) -> PartyKey:
    return PartyKey.from_bytes(bytes([number]) * 32)


OPERATOR = "market"
BUYER, OWNER, HOST, HOST_2, MARKET, STRANGER = (key(n) for n in range(1, 7))
LINEAGE = b"s" + bytes(32)
UNDERTAKEN = 400_000


def terms(owner: PartyKey = OWNER, **changes: object) -> Signed[documents.Terms]:
    values = {
        "version": 1,
        "owner": owner.identity,
        "number": 1,
        "lineages": (LINEAGE,),
        "price_microcredits_per_job": 50_000,
        "royalty_microcredits_per_million_tokens": 2_000_000,
        "recipes": (
            documents.RecipeTerms(recipe="lora", rank_max=64, steps_max=10_000),
            documents.RecipeTerms(recipe="generate", rank_max=0, steps_max=0),
        ),
        "reports_max": 2000,
        "report_tokens_min": 256,
        "report_rows_min": 64,
        "output": documents.OutputTerms(adapter_leaves=True, reply_tokens_max=0),
        "screen": None,
        "budgets": documents.Budgets(tokens=1, steps=1, reports=1, period_seconds=1),
        "undertaking": documents.Undertaking(
            until=NOW + DAY, price_microcredits_per_million_tokens=UNDERTAKEN
        ),
        "expires_at": NOW + DAY,
    }
    return owner.sign(documents.Terms(**values | changes))


def manifest(
    agreed: Signed[documents.Terms], buyer: PartyKey = BUYER, **changes: object
) -> Signed[documents.JobManifest]:
    values = {
        "version": 1,
        "kind": documents.JobKind.TRAIN,
        "nonce": next(_COUNTER).to_bytes(32, "big"),
        "buyer": buyer.identity,
        "progress_key": bytes(1216),
        "inputs": (
            documents.Input(role=documents.InputRole.MODEL, artifact=bytes(32)),
            documents.Input(role=documents.InputRole.DATASET, artifact=bytes(32)),
        ),
        "terms": agreed.digest,
        "template": None,
        "recipe": documents.LoraRecipe(
            rank=8,
            alpha=16,
            dropout="0",
            targets=("all-linear",),
            epochs=None,
            steps=100,
            rows_per_step=8,
            accumulation=1,
            learning_rate="0.0002",
            schedule=documents.Schedule.CONSTANT,
            warmup_steps=0,
            weight_decay="0",
            clip_norm="0",
            seed=1,
            precision=documents.Precision.FP32,
            packing=False,
            loss_on=documents.LossOn.ASSISTANT,
            evaluation=None,
        ),
        "enclaves": 1,
        "local_ranks": 2,
        "sharding": documents.Sharding.DATA_PARALLEL,
        "rows": 100,
        "length_max": 128,
        "images": (bytes(48),),
        "compute_class": None,
        "resume_on_other_class": False,
        "checkpoint_steps": 10,
        "uncommitted_checkpoints_max": 4,
        "generations_max": 12,
        "spend_max_microcredits": 10 * CREDIT,
        "ceiling_microcredits_per_step": 20_000,
        "bid": documents.Bid(
            kind=documents.BidKind.ON_DEMAND,
            price_microcredits_per_gpu_hour=2 * CREDIT,
            notice_seconds=0,
        ),
        "client_keys": (),
        "resources": documents.Resources(
            gpu_model="cpu", gpus=1, memory_mib=512, platform="simulated"
        ),
        "expires_at": NOW + DAY,
    }
    return buyer.sign(documents.JobManifest(**values | changes))


def serving(**changes: object) -> dict[str, object]:
    """What makes a manifest a serve job's: 4 credits at most for a million tokens."""
    return {
        "kind": documents.JobKind.SERVE,
        "inputs": (documents.Input(role=documents.InputRole.MODEL, artifact=bytes(32)),),
        "recipe": documents.GenerateRecipe(
            slots=8,
            reply_tokens_max=64,
            precision=documents.Precision.FP32,
            fixed_shapes=False,
            tick_milliseconds=100,
            frame_bytes=256,
        ),
        "local_ranks": 1,
        "rows": 1,
        "client_keys": (documents.ClientKey(identity=STRANGER.identity, tokens=None),),
        "ceiling_microcredits_per_step": 4 * CREDIT,
    } | changes


def offer_terms(**changes: object) -> offers.Terms:
    values = {
        "platform": "simulated",
        "compute_class": "cpu/x86",
        "gpu_model": "cpu",
        "gpus": 1,
        "memory_mib": 1024,
        "ask": CREDIT,
        "floor": None,
        "ends_at": NOW + 20 * HOUR,
    }
    return offers.Terms(**values | changes)


def fund(session: Session, amount: int = 20 * CREDIT, buyer: PartyKey = BUYER) -> None:
    command = ledger.TopUp(id=xfer(), buyer=buyer.identity, provider="test", amount=amount)
    assert ledger.top_up(session, command, NOW) is ledger.LedgerResult.CREATED


def list_offer(session: Session, host: PartyKey = HOST, **changes: object) -> str:
    name = new_id(IdKind.OFFER)
    offers.list_offer(
        session, offers.ListOffer(id=name, host=host.identity, terms=offer_terms(**changes)), NOW
    )
    return name


@dataclasses.dataclass
class World:
    """A job with its order, and what happens to it."""

    store: Store
    job: bytes
    order: str
    hold: str
    receipts: dict[str, Signed[Receipt]] = dataclasses.field(default_factory=dict)
    orders: list[Signed[documents.GenerationOrder]] = dataclasses.field(default_factory=list)

    @classmethod
    def make(
        cls,
        store: Store,
        *,
        amount: int = 5 * CREDIT,
        fee_ppm: int = 100_000,
        terms_changes: dict[str, object] | None = None,
        **changes: object,
    ) -> World:
        agreed = terms(**terms_changes or {})
        signed = manifest(agreed, **changes)
        order, hold = new_id(IdKind.ORDER), new_id(IdKind.HOLD)
        with store.transaction() as session:
            fund(session)
            submit = jobs.SubmitJob(
                manifest=signed, terms=agreed, undertaken=False, fee_ppm=fee_ppm
            )
            jobs.submit_job(session, submit, NOW)
            place = orders.PlaceOrder(
                id=order,
                hold=hold,
                transfer=xfer(),
                buyer=BUYER.identity,
                job=signed.digest,
                amount=amount,
            )
            orders.place_order(session, place, NOW)
        return cls(store=store, job=signed.digest, order=order, hold=hold)

    def claim(self, offer: str, *, rank: int = 0, version: int = 1, now: int = NOW) -> str:
        lease = new_id(IdKind.LEASE)
        with self.store.transaction() as session:
            command = claims.ClaimOffer(
                id=lease,
                order=self.order,
                rank=rank,
                offer=offer,
                offer_version=version,
                actor=OPERATOR,
            )
            assert claims.claim(session, command, now) is claims.ClaimResult.CLAIMED
        return lease

    def generation(
        self, *names: str, number: int | None = None, signer: PartyKey = BUYER, now: int = NOW
    ) -> Signed[documents.GenerationOrder]:
        number = number or len(self.orders) + 1
        return signer.sign(
            documents.GenerationOrder(
                job=self.job,
                number=number,
                leases=tuple(
                    documents.RankLease(rank=rank, lease=name) for rank, name in enumerate(names)
                ),
                expires_at=now + HOUR,
                before=self.orders[-1].digest if self.orders else None,
            )
        )

    def start(self, *names: str, now: int = NOW) -> None:
        """Order the next generation, and bring its leases to READY."""
        order = self.generation(*names, now=now)
        with self.store.transaction() as session:
            jobs.accept_generation(session, order, now)
        self.orders.append(order)
        for rank, name in enumerate(names):
            self.move(name, LeaseState.PROVISIONING, now=now)
            self.move(name, LeaseState.ATTESTING, now=now)
            with self.store.transaction() as session:
                statement = self.statement(name, rank=rank)
                command = leases.AttestLease(statement=statement, market=MARKET.identity)
                leases.attest(session, command, now)

    def statement(self, lease: str, *, rank: int = 0, **changes: object) -> Statement:
        values = {
            "version": 1,
            "purpose": Purpose.METER,
            "verifier": MARKET.identity,
            "nonce": bytes(32),
            "hpke_key": bytes(1216),
            "signing_key": enclave(lease).identity,
            "job": self.job,
            "lease": lease,
            "generation": len(self.orders),
            "rank": rank,
            "ranks": 1,
            "launch": bytes(32),
            "gpu_evidence": None,
        }
        return Statement(**values | changes)

    def run(self, host: PartyKey = HOST, now: int = NOW, **changes: object) -> str:
        """A fresh offer, claimed for rank 0 and ready."""
        with self.store.transaction() as session:
            offer = list_offer(session, host, **changes)
        lease = self.claim(offer, now=now)
        self.start(lease, now=now)
        return lease

    def move(self, lease: str, to: LeaseState, *, now: int = NOW) -> None:
        with self.store.transaction() as session:
            version = leases.find_lease(session, lease).version
            command = leases.MoveLease(
                id=lease, version=version, to=to, actor=OPERATOR, reason="test"
            )
            leases.move_lease(session, command, now)

    def lose(self, lease: str, now: int = NOW) -> None:
        """The host is gone; the job is queued again."""
        self.move(lease, LeaseState.HOST_LOST, now=now)
        with self.store.transaction() as session:
            version = jobs.find_job(session, self.job).version
            command = leases.Requeue(
                job=self.job, version=version, actor=OPERATOR, reason="host lost"
            )
            leases.requeue(session, command, now)

    def receipt(
        self, lease: str, *, signer: PartyKey | None = None, **changes: object
    ) -> Signed[Receipt]:
        """The next receipt of a lease, and what it changes."""
        last = self.receipts.get(lease)
        values = {
            "job": self.job,
            "lease": lease,
            "generation": len(self.orders),
            "rank": 0,
            "number": 1 if last is None else last.document.number + 1,
            "before": None if last is None else last.digest,
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
        return (signer or enclave(lease)).sign(Receipt(**values | changes))

    def settle(
        self,
        lease: str,
        *,
        now: int = NOW,
        committed: int | None = None,
        signed: Signed[Receipt] | None = None,
        **changes: object,
    ) -> settlement.Settled:
        signed = signed or self.receipt(lease, **changes)
        with self.store.transaction() as session:
            command = settlement.SettleReceipt(receipt=signed, committed_step=committed)
            settled = settlement.settle(session, command, now)
        self.receipts[lease] = signed
        return settled

    def check(self) -> None:
        with self.store.reading() as session:
            assert ledger.audit(session) == ()


def enclave(lease: str) -> PartyKey:
    """The signing key of the enclave of a lease."""
    return PartyKey.from_bytes(lease.encode()[-32:].rjust(32, b"e"))


@functools.cache
def _migrated() -> bytes:
    """An empty database at the newest schema: migrated once, copied for every test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "market.db"
        Store.open_file(path).close()
        return path.read_bytes()


def open_store(folder: Path) -> Store:
    path = folder / "market.db"
    path.write_bytes(_migrated())
    return Store.open_file(path)


DONE = End.DONE
